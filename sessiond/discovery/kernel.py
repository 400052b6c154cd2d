"""What the standard library has not of the kernel: inotify, a process's name, and its end with its parent.

asyncinotify would load asyncio, which takes longer than all else that a finder's process loads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import Final, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
CLOSE_NOWRITE: Final = 0x10
OPEN: Final = 0x20
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
Q_OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x0100_0000
EXCL_UNLINK: Final = 0x0400_0000
MASK_ADD: Final = 0x2000_0000
ISDIR: Final = 0x4000_0000

_HEAD = struct.Struct("iIII")
_BUFFER = 65536


class Event(NamedTuple):
    """One event; ``name`` is empty where it is of the watched folder itself."""

    wd: int
    mask: int
    name: str


class Inotify:
    """One inotify instance. Raises OSError: EMFILE where the user has too many."""

    def __init__(self) -> None:
        self._fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise _error("inotify")

    def fileno(self) -> int:
        """What to poll; -1 once closed."""
        return self._fd

    def add(self, path: str, mask: int) -> int:
        """Watch a path; its watch descriptor. Raises OSError: ENOSPC at the limit of watches."""
        wd: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(mask))
        if wd < 0:
            raise _error(path)
        return wd

    def remove(self, wd: int) -> None:
        """Watch it no longer; the kernel may have dropped it already."""
        if _libc.inotify_rm_watch(self._fd, wd) < 0 and ctypes.get_errno() != errno.EINVAL:
            raise _error(str(wd))

    def read(self) -> list[Event]:
        """Some of the events that are there, none where there are none. Does not block."""
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return []
        events = []
        at = 0
        while at < len(data):
            wd, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            events.append(Event(wd, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
            at += length
        return events

    def close(self) -> None:
        """Watch nothing any more; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def name_process(name: str) -> None:
    """What `ps` shows this process as; 15 bytes are kept."""
    _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(os.fsencode(name)[:15]), 0, 0, 0)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, whatever it does then. A parent that ended
    before is for the caller to notice."""
    if _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) < 0:
        raise _error("prctl")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
