"""The user's processes, read from /proc when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from sessiond.model.unit import agent_of_unit
from sessiond.paths import OUTSIDE

_GONE = "ZXx"
_KERNEL_THREADS = 2
_KERNEL_THREAD = 0x0020_0000
# File systems that tell files another device than /proc/locks has.
_OWN_DEVICES = ("btrfs", "bcachefs")


class Stat(NamedTuple):
    """What /proc/PID/stat tells."""

    comm: str
    state: str
    parent: int
    start_time: int
    flags: int


def read_stat(pid: int, proc: str = "/proc") -> Stat | None:
    """Of a process that lives; None where there is none, and of a zombie."""
    data = read_bytes(f"{proc}/{pid}/stat")
    # The name may hold anything, closing brackets too.
    begin, end = data.find(b"("), data.rfind(b")")
    fields = data[end + 2 :].split()
    if begin < 0 or len(fields) < 20:
        return None
    # Its first thread may be gone before the others, which hold its files and locks until they end.
    if fields[0].decode() in _GONE and int(fields[17]) <= 1:
        return None
    return Stat(
        os.fsdecode(data[begin + 1 : end]),
        fields[0].decode(),
        int(fields[1]),
        int(fields[19]),
        int(fields[6]),
    )


class LiveProcess:
    """One process. What is read of it counts only if it is still the same one after the reading."""

    def __init__(self, pid: int, stat: Stat, proc: str = "/proc") -> None:
        self._proc = proc
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
        path = read_link(f"{self._proc}/{self.pid}/exe")
        # A program that was upgraded while it runs.
        return path.removesuffix(" (deleted)") if self._same() else ""

    @cached_property
    def argv(self) -> Sequence[str]:
        """See the port."""
        return self._texts("cmdline")

    @cached_property
    def cwd(self) -> str:
        """See the port."""
        path = read_link(f"{self._proc}/{self.pid}/cwd")
        return path if self._same() else ""

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """See the port."""
        pairs = (text.partition("=") for text in self._texts("environ"))
        return {name: value for name, equals, value in pairs if equals}

    @cached_property
    def open_files(self) -> frozenset[str]:
        """See the port."""
        folder = f"{self._proc}/{self.pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            return frozenset()
        paths = frozenset(path for one in numbers if (path := read_link(f"{folder}/{one}")).startswith("/"))
        return paths if self._same() else frozenset()

    @cached_property
    def mark(self) -> str:
        """See the port."""
        mark = mark_of(os.fsdecode(read_bytes(f"{self._proc}/{self.pid}/cgroup")))
        return mark if mark and self._same() else ""

    def _texts(self, what: str) -> tuple[str, ...]:
        data = read_bytes(f"{self._proc}/{self.pid}/{what}")
        if not data or not self._same():
            return ()
        return tuple(os.fsdecode(data).removesuffix("\0").split("\0"))

    def _same(self) -> bool:
        stat = read_stat(self.pid, self._proc)
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
        return holders_in("/proc")

    def outside(self) -> Sequence[LiveProcess]:
        """See the port."""
        return self._outside

    @cached_property
    def _outside(self) -> Sequence[LiveProcess]:
        return outsiders(OUTSIDE) if self._in_nest else ()

    def lock_holders_outside(self) -> Mapping[tuple[int, int], int]:
        """See the port."""
        return self._holders_outside

    @cached_property
    def _holders_outside(self) -> Mapping[tuple[int, int], int]:
        return holders_in(OUTSIDE) if self._in_nest else {}

    def abroad(self, space: str, pid: int, start_time: int | None) -> int | None:
        """See the port."""
        return self._namespaces.find(space, pid, start_time)

    @cached_property
    def _namespaces(self) -> Namespaces:
        return Namespaces(OUTSIDE if self._in_nest else "/proc")

    @cached_property
    def _in_nest(self) -> bool:
        # It shows us too, unless it is something else.
        return os.path.exists(f"{OUTSIDE}/self/stat")


def holders_in(proc: str) -> Mapping[tuple[int, int], int]:
    """Who holds which flock, by pids as they are there."""
    holders = parse_locks(read_bytes(f"{proc}/locks").decode(errors="replace"))
    if any(os.major(device) == 0 for device, _ in holders):
        aliases = _aliases(read_bytes("/proc/self/mountinfo"))
        for (device, inode), pid in list(holders.items()):
            for alias in aliases.get(device, ()):
                holders.setdefault((alias, inode), pid)
    return holders


def outsiders(proc: str) -> Sequence[LiveProcess]:
    """The user's processes that this shows and our own /proc does not."""
    depth, mine = len(_pids_of(proc, "self")), os.geteuid()
    found = []
    for pid in _pids_in(proc, mine):
        stat, pids = read_stat(pid, proc), _pids_of(proc, str(pid))
        if stat is None or not pids or _KERNEL_THREADS in (pid, stat.parent):
            continue
        # In a namespace beside ours it may have a pid that another has here.
        inside = read_stat(pids[depth - 1]) if len(pids) >= depth else None
        if inside is None or inside.start_time != stat.start_time:
            found.append(LiveProcess(pid, stat, proc))
    return found


class Namespaces:
    """Which PID namespaces the processes are in that this shows, read once. Of other users' processes that
    cannot be read: each may be in any."""

    def __init__(self, proc: str) -> None:
        self._all: list[tuple[int, str, Sequence[int], int]] = []
        for pid in _pids_in(proc):
            stat, pids = read_stat(pid, proc), _pids_of(proc, str(pid))
            if stat is not None and pids:
                self._all.append((pid, read_link(f"{proc}/{pid}/ns/pid"), pids, stat.start_time))
        # With the first one others' are hidden; all namespaces are seen where the kernel's own threads are.
        self._complete = read_stat(1, proc) is not None
        kernel = read_stat(_KERNEL_THREADS, proc)
        self._outermost = kernel is not None and bool(kernel.flags & _KERNEL_THREAD)

    def find(self, space: str, pid: int, start_time: int | None) -> int | None:
        """See ``abroad`` of the port."""
        for seen, there, pids, began in self._all:
            if there in ("", space) and pids[-1] == pid and start_time in (None, began):
                return seen
        if not self._complete:
            return None
        if any(there == space for _, there, _, _ in self._all):
            # All that are in it are seen then.
            return 0
        return 0 if self._outermost else None


def _pids_in(proc: str, uid: int | None = None) -> Iterator[int]:
    with os.scandir(proc) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.isdecimal() and uid in (None, entry.stat().st_uid):
                    yield int(entry.name)


def _pids_of(proc: str, pid: str) -> Sequence[int]:
    """What a process is called in each namespace, from that of ``proc`` inwards; none where it is gone."""
    for line in read_bytes(f"{proc}/{pid}/status").splitlines():
        if line.startswith(b"NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return []


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


def read_bytes(path: str) -> bytes:
    """All of a file of /proc; empty where that cannot be."""
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


def read_link(path: str) -> str:
    """Where a link of /proc leads; empty where that cannot be told."""
    try:
        return os.readlink(path)
    except OSError:
        return ""
