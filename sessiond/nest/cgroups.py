"""The nest's cgroup: where one can be made, and how everything in it is ended and removed."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from sessiond.errors import TimedOut, Unsupported


def cgroup2_mount() -> Path:
    """Where cgroup v2 is mounted as this process sees it; Unsupported when it is nowhere."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            return Path(_unescape(before.split(" ")[4]))
    raise Unsupported(
        "nest_needs_cgroup2",
        "cgroup v2 is not mounted here",
        hint="mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup), or start the container with "
        "--cgroupns=private and a writable /sys/fs/cgroup",
    )


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes."""
    return field.encode().decode("unicode_escape") if "\\" in field else field


def own_cgroup() -> Path:
    """The cgroup v2 folder this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return cgroup2_mount() / line[3:].lstrip("/")
    raise Unsupported("nest_needs_cgroup2", "this process is in no cgroup of version 2")


def delegated_parent() -> Path | None:
    """The topmost cgroup above this process that it may write, or None (without privilege)."""
    top = cgroup2_mount()
    found: Path | None = None
    here = own_cgroup()
    while here != top and os.access(here, os.W_OK) and os.access(here / "cgroup.procs", os.W_OK):
        found, here = here, here.parent
    return found


def pass_on_controllers(cgroup: Path) -> None:
    """Give the groups below every controller that this one has; limits work inside then."""
    for name in (cgroup / "cgroup.controllers").read_text().split():
        # One at a time: a controller that cannot be passed on must not keep the others back.
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.subtree_control").write_text(f"+{name}")


def pids(cgroup: Path) -> Iterator[int]:
    """Every process in the tree, as this process's /proc numbers them (invisible ones left out)."""
    for folder, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            for word in Path(folder, "cgroup.procs").read_text().split():
                if word != "0":
                    yield int(word)


def populated(cgroup: Path) -> bool:
    """Whether any process is in the tree."""
    try:
        text = (cgroup / "cgroup.events").read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return False
        raise
    return "populated 1" in text


def kill(cgroup: Path, deadline: float) -> None:
    """SIGKILL every process of the tree and wait until it is empty; TimedOut at the deadline."""
    try:
        events = os.open(cgroup / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # The kernel raises POLLPRI on cgroup.events when "populated" changes.
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while True:
            text = os.pread(events, 256, 0).decode()
            if "populated 0" in text:
                return
            _kill_now(cgroup)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(
                    "nest_processes_left",
                    f"processes in {cgroup} could not be killed in time",
                    hint="a process in uninterruptible sleep: see the state column of ps",
                    fields={"cgroup": str(cgroup)},
                )
            poll.poll(left * 1000)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
    finally:
        os.close(events)


def _kill_now(cgroup: Path) -> None:
    try:
        # "r+" never creates: before Linux 5.14 there is no such file.
        with open(cgroup / "cgroup.kill", "r+") as file:
            file.write("1")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EACCES):
            raise
        for pid in pids(cgroup):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def remove(cgroup: Path) -> None:
    """Remove an empty tree, deepest first; nothing when it is gone already, OSError when in use."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)
