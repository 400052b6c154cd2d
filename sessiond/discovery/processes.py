"""The user's processes, read from /proc when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from sessiond.model.unit import agent_of_unit

_GONE = "ZXx"
_KERNEL_THREADS = 2
# File systems that tell files another device than /proc/locks has.
_OWN_DEVICES = ("btrfs", "bcachefs")


class Stat(NamedTuple):
    """What /proc/PID/stat tells."""

    comm: str
    state: str
    parent: int
    start_time: int


def read_stat(pid: int) -> Stat | None:
    """Of a process that lives; None where there is none, and of a zombie."""
    data = _read(f"/proc/{pid}/stat")
    # The name may hold anything, closing brackets too.
    begin, end = data.find(b"("), data.rfind(b")")
    fields = data[end + 2 :].split()
    if begin < 0 or len(fields) < 20:
        return None
    # Its first thread may be gone before the others, which hold its files and locks until they end.
    if fields[0].decode() in _GONE and int(fields[17]) <= 1:
        return None
    return Stat(os.fsdecode(data[begin + 1 : end]), fields[0].decode(), int(fields[1]), int(fields[19]))


class LiveProcess:
    """One process. What is read of it counts only if it is still the same one after the reading."""

    def __init__(self, pid: int, stat: Stat) -> None:
        self.pid = pid
        self.comm = stat.comm
        self.start_time = stat.start_time
        self._parent = stat.parent

    @property
    def parent(self) -> int:
        """See the port."""
        return self._parent

    @cached_property
    def exe(self) -> str:
        """See the port."""
        path = _link(f"/proc/{self.pid}/exe")
        # A program that was upgraded while it runs.
        return path.removesuffix(" (deleted)") if self._same() else ""

    @cached_property
    def argv(self) -> Sequence[str]:
        """See the port."""
        return self._texts("cmdline")

    @cached_property
    def cwd(self) -> str:
        """See the port."""
        path = _link(f"/proc/{self.pid}/cwd")
        return path if self._same() else ""

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """See the port."""
        pairs = (text.partition("=") for text in self._texts("environ"))
        return {name: value for name, equals, value in pairs if equals}

    @cached_property
    def open_files(self) -> frozenset[str]:
        """See the port."""
        folder = f"/proc/{self.pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            return frozenset()
        paths = frozenset(path for one in numbers if (path := _link(f"{folder}/{one}")).startswith("/"))
        return paths if self._same() else frozenset()

    @cached_property
    def mark(self) -> str:
        """See the port."""
        mark = mark_of(os.fsdecode(_read(f"/proc/{self.pid}/cgroup")))
        return mark if mark and self._same() else ""

    def _texts(self, what: str) -> tuple[str, ...]:
        data = _read(f"/proc/{self.pid}/{what}")
        if not data or not self._same():
            return ()
        return tuple(os.fsdecode(data).removesuffix("\0").split("\0"))

    def _same(self) -> bool:
        stat = read_stat(self.pid)
        return stat is not None and stat.start_time == self.start_time


class LiveProcesses:
    """See the port. Each process is read once: make a new one for each look."""

    def __init__(self) -> None:
        self._known: dict[int, LiveProcess | None] = {}
        self._whole = False

    def get(self, pid: int) -> LiveProcess | None:
        """See the port."""
        if pid not in self._known:
            stat = read_stat(pid) if pid > 0 else None
            self._known[pid] = None if stat is None else LiveProcess(pid, stat)
        return self._known[pid]

    def all(self) -> Iterator[LiveProcess]:
        """See the port. Those of other users are left out: nothing of theirs could be read."""
        if not self._whole:
            mine = os.geteuid()
            with os.scandir("/proc") as entries:
                for entry in entries:
                    with suppress(OSError):
                        if entry.name.isdecimal() and entry.stat().st_uid == mine:
                            self.get(int(entry.name))
            self._whole = True
        for process in list(self._known.values()):
            if process is not None and _KERNEL_THREADS not in (process.pid, process.parent):
                yield process

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        """See the port. Who holds a lock from outside what /proc shows is left out."""
        return self._holders

    @cached_property
    def _holders(self) -> Mapping[tuple[int, int], int]:
        holders = parse_locks(_read("/proc/locks").decode(errors="replace"))
        if any(os.major(device) == 0 for device, _ in holders):
            aliases = _aliases(_read("/proc/self/mountinfo"))
            for (device, inode), pid in list(holders.items()):
                for alias in aliases.get(device, ()):
                    holders.setdefault((alias, inode), pid)
        return holders


def parse_locks(text: str) -> dict[tuple[int, int], int]:
    """Holders of flocks by device and inode, from the text of /proc/locks."""
    holders = {}
    for line in text.splitlines():
        # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF; who waits has an arrow after the number.
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK":
            continue
        with suppress(ValueError, OverflowError):
            major, minor, inode = words[5].split(":")
            pid = int(words[4])
            if pid > 0:
                holders[os.makedev(int(major, 16), int(minor, 16)), int(inode)] = pid
    return holders


def mark_of(cgroups: str) -> str:
    """`SESSION-AGENT` of our agent's unit in the text of /proc/PID/cgroup, or empty."""
    for line in cgroups.splitlines():
        for name in reversed(line.rpartition(":")[2].split("/")):
            agent = agent_of_unit(name) if name.endswith(".service") else None
            if agent is not None:
                return "-".join(agent)
    return ""


def _aliases(mounts: bytes) -> dict[int, set[int]]:
    """Devices that files below a mount have, by the device of its file system, where these differ."""
    aliases: dict[int, set[int]] = {}
    for line in mounts.splitlines():
        words = line.split()
        if b"-" not in words or words[words.index(b"-") + 1].decode() not in _OWN_DEVICES:
            continue
        with suppress(OSError, ValueError):
            major, minor = words[2].split(b":")
            place = words[4].decode("unicode_escape").encode("latin-1")
            device, own = os.makedev(int(major), int(minor)), os.stat(place).st_dev
            if own != device:
                aliases.setdefault(device, set()).add(own)
    return aliases


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
        return b"".join(parts)
    except OSError:
        # It ended meanwhile.
        return b""
    finally:
        os.close(fd)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
