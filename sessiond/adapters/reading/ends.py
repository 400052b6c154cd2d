"""The two ends of a file, in as few calls of the system as can be: nothing here reads a large file whole."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from sessiond.model.agent_session import Problem

HEAD: Final = 16 * 1024
TAIL: Final = 64 * 1024
# A last line longer than this is read by nobody.
LINE_MAX: Final = 4 * 1024 * 1024
# Nor are more lines of a transcript, from its end: programs write longer ones.
LINES_MAX: Final = 40_000

# A FIFO that nobody writes to must not hold us up. Links are followed: people keep such folders elsewhere.
_OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

# Device, inode, size, and the times of the last change of contents and of anything: a file as it was read.
Stamp = tuple[int, int, int, int, int]


class Ends(NamedTuple):
    """A file's ends as of one moment. Where ``whole``, ``head`` and ``tail`` are the same: all of it."""

    path: str
    head: bytes
    tail: bytes
    size: int
    mtime_ns: int
    inode: int
    whole: bool
    stamp: Stamp


def stamp(status: os.stat_result) -> Stamp:
    """What tells a file from what it was before."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def read_ends(path: str, head: int = HEAD, tail: int = TAIL) -> Ends:
    """The first ``head`` and the last ``tail`` bytes, or all where that is no more. Raises OSError, also for
    what is no regular file."""
    descriptor = open_regular(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise irregular(path)
        size = status.st_size
        if size <= head + tail:
            first = last = os.pread(descriptor, size, 0)
        else:
            first = os.pread(descriptor, head, 0)
            last = os.pread(descriptor, tail, size - tail)
    finally:
        os.close(descriptor)
    return Ends(
        path, first, last, size, status.st_mtime_ns, status.st_ino, size <= head + tail, stamp(status)
    )


def read_back(path: str, end: int, length: int) -> bytes:
    """The ``length`` bytes before the offset ``end``. Raises OSError."""
    descriptor = open_regular(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise irregular(path)
        start = max(0, end - length)
        return os.pread(descriptor, end - start, start)
    finally:
        os.close(descriptor)


def read_small(path: str, most: int = 1024 * 1024) -> bytes:
    """All of a file that is small by nature; the first ``most`` bytes of one that is not. Raises OSError."""
    return read_ends(path, head=most, tail=0).head


def open_regular(path: str) -> int:
    """Descriptor of a file that is to be read; whether it is regular is still to be asked. Raises OSError."""
    try:
        return os.open(path, _OPEN)
    except ValueError as error:
        # A NUL in it, or half a character: no such name can be on disk.
        raise OSError(errno.EINVAL, "no name of a file", path) from error


def irregular(path: str) -> OSError:
    """What is raised for a folder, a pipe, a device in place of a file."""
    return OSError(errno.EINVAL, "not a regular file", path)


def head_lines(ends: Ends) -> list[bytes]:
    """Lines of the head, without one that is cut at its end. The last line of a whole file is among them
    though nothing ends it: it may still be being written."""
    lines = ends.head.split(b"\n")
    if not ends.whole:
        lines.pop()
    return lines


def each_head_line(ends: Ends) -> Iterator[bytes]:
    """The same one by one, for who needs the first few: nothing else is copied."""
    head, begin = ends.head, 0
    while (end := head.find(b"\n", begin)) >= 0:
        yield head[begin:end]
        begin = end + 1
    if ends.whole and begin < len(head):
        yield head[begin:]


def tail_lines(ends: Ends) -> list[bytes]:
    """Lines of the tail, without one that is cut at its beginning."""
    lines = ends.tail.split(b"\n")
    if not ends.whole:
        del lines[0]
    return lines


def lines(ends: Ends) -> list[bytes]:
    """Whole lines of head and tail, each once, in their order; between the two there may be others."""
    return head_lines(ends) if ends.whole else head_lines(ends) + tail_lines(ends)


def begun(ends: Ends) -> bool:
    """Whether its program may only be about to write it: nothing is in it yet, or the beginning of a line."""
    return ends.whole and ends.head[:1] in (b"", b"{") and b"\n" not in ends.head


def unreadable(adapter: str, path: str, error: OSError) -> Problem:
    """What is told of a file that the system does not let us read."""
    return Problem(adapter, "file_unreadable", error.strerror or str(error), path)


def malformed(adapter: str, path: str, reason: str, *, current: bool = False) -> Problem:
    """What is told of a file in which nothing could be read; ``current`` where only some of it could not."""
    return Problem(adapter, "file_malformed", reason, path, current)
