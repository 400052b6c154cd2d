"""Giving back the front of a file to the disk while every byte behind it keeps its offset."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

PAGE = 4096

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02


class NoPunching(Exception):
    """The file system cannot make holes."""


@cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc


def punch(fd: int, start: int, stop: int) -> None:
    """Free what lies from start to stop, which reads as zeros then. Raises NoPunching, OSError."""
    if stop <= start:
        return
    while _libc().fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, stop - start) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise NoPunching
        raise OSError(code, os.strerror(code))
