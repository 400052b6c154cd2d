"""How much of what agents print is held: for each by its own writer, for all by whoever sees it grow.

Bytes are dropped at the front of a file, never moved. Ended agents pay first, the one that ended longest ago
before the others; then the one that grows.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sessiond.agents.folder import AGENTS
from sessiond.agents.holes import PAGE, NoPunching, punch
from sessiond.agents.index import IndexWriter, Slot

log = logging.getLogger(__name__)

# Growth after which the sum over all agents is taken.
COUNT_EVERY = 16 << 20
# What an agent that runs keeps, whatever the others hold.
LEAST = 64 << 10

_FILES = ("record", "stdout", "stderr", "index")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SLOTS = {"record": Slot.STDOUT_START, "stdout": Slot.STDOUT_START, "stderr": Slot.STDERR_START}


@dataclass(frozen=True, slots=True)
class RecordLimits:
    """Bytes: held of one agent, held of all agents, and the free disk below which nothing is recorded."""

    limit: int
    total: int
    low_disk: int


def slack(limit: int) -> int:
    """How much is dropped at once: few holes, and not much less held than was asked for."""
    return max(PAGE, min(limit // 8, 4 << 20))


class FreeDisk:
    """Whether there is room on the disk of an open file; asked of the kernel only now and then."""

    EVERY = 1.0
    GROWTH = 16 << 20

    def __init__(self, low: int) -> None:
        self._low = low
        self._asked = -self.EVERY
        self._grown = 0
        self._is_low = False

    def is_low(self, fd: int, grown: int) -> bool:
        """Whether less is free than there should be; ``grown`` is what was written since the last call."""
        clock = time.monotonic()
        self._grown += grown
        if clock - self._asked >= self.EVERY or self._grown >= min(self.GROWTH, max(self._low // 4, PAGE)):
            self._asked, self._grown = clock, 0
            state = os.fstatvfs(fd)
            self._is_low = state.f_bavail * state.f_frsize < self._low
        return self._is_low


class Growth:
    """Counts what is held more, over all writers of this process, until it is time to take the sum."""

    def __init__(self) -> None:
        self._grown = 0

    def add(self, count: int) -> bool:
        """Count growth (negative for what was dropped); whether the sum should be taken now."""
        self._grown = max(0, self._grown + count)
        if self._grown < COUNT_EVERY:
            return False
        self._grown = 0
        return True


GROWTH = Growth()


def sessions_of(folder: Path) -> Path | None:
    """The folder of all sessions that an agent's folder lies in; None for one that lies elsewhere."""
    return folder.parents[2] if len(folder.parents) > 2 and folder.parent.name == AGENTS else None


@dataclass(slots=True)
class _Held:
    """What one agent's folder holds on the disk."""

    path: Path
    ended: float | None
    size: int = 0
    files: list[str] = field(default_factory=list)


def over_total(folder: Path, total: int) -> int:
    """Bytes that all agents hold more than the total, once the ended ones have paid what they can."""
    sessions = sessions_of(folder)
    if sessions is None:
        return 0
    held = list(_held(sessions))
    over = sum(one.size for one in held) - total
    ended = [one for one in held if one.ended is not None and one.path != folder]
    for one in sorted(ended, key=lambda one: one.ended or 0.0):
        if over <= 0:
            break
        over -= _empty(one)
    return max(0, over)


def _held(sessions: Path) -> Iterator[_Held]:
    """What each agent of each session holds. Links are not followed, on no level."""
    with ExitStack() as outer:
        try:
            top = os.open(sessions, _FOLDER)
        except OSError:
            return
        outer.callback(os.close, top)
        for session in _folders(top):
            with ExitStack() as inner:
                with suppress(OSError):
                    base = os.open(session, _FOLDER, dir_fd=top)
                    inner.callback(os.close, base)
                    agents = os.open(AGENTS, _FOLDER, dir_fd=base)
                    inner.callback(os.close, agents)
                    for agent in _folders(agents):
                        held = _look(agents, agent, sessions / session / AGENTS / agent)
                        if held is not None:
                            yield held


def _folders(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _look(parent: int, name: str, path: Path) -> _Held | None:
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except OSError:
        return None
    try:
        held = _Held(path, None)
        for file in (*_FILES, "end.json"):
            try:
                found = os.stat(file, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue
            if not stat.S_ISREG(found.st_mode):
                continue
            if file == "end.json":
                held.ended = found.st_mtime
            else:
                held.size += found.st_blocks * 512
                held.files.append(file)
        return held
    finally:
        os.close(fd)


def _empty(held: _Held) -> int:
    """Drop all that an ended agent printed, unless somebody writes it after all; returns the bytes freed."""
    try:
        index = IndexWriter(held.path / "index")
    except OSError as error:
        log.warning("the record of %s cannot be cut: %s", held.path, error.strerror)
        return 0
    freed = 0
    try:
        if not index.locked:
            return 0
        for name in held.files:
            if name in _SLOTS:
                freed += _empty_file(held.path / name, index, _SLOTS[name])
        index.trim(index.reader.stop)
    except NoPunching:
        log.info("%s lies on a file system that cannot drop the front of a file", held.path)
    except OSError as error:
        log.warning("the record of %s cannot be cut: %s", held.path, error.strerror)
    finally:
        index.close()
    return freed


def _empty_file(path: Path, index: IndexWriter, slot: Slot) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return 0
        raise
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return 0
        if index.put(slot, before.st_size):
            punch(fd, 0, -(-before.st_size // PAGE) * PAGE)
        return (before.st_blocks - os.fstat(fd).st_blocks) * 512
    finally:
        os.close(fd)


def cut_front(fd: int, index: IndexWriter, slot: Slot, start: int, stop: int) -> int:
    """Drop what lies before ``stop``, in whole pages; returns the new first offset. Raises NoPunching."""
    stop = stop // PAGE * PAGE
    if stop <= start:
        return start
    # Told first: nobody reads the zeros of a hole for output.
    if not index.put(slot, stop):
        return start
    punch(fd, start // PAGE * PAGE, stop)
    return stop
