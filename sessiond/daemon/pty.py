"""The system calls behind a terminal: a pair, its size, and the pipe that its output passes through."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass

from sessiond.errors import Exhausted

# A turn puts no more into the pipe than this; a user's unprivileged pipes are 64 MiB in all, so that a
# megabyte for each terminal would leave other programs of the user with pipes of two pages.
PIPE_SIZE = 256 * 1024
# The kernel hands out what lies in its buffer for one read, 4 KiB, and allocates as much as is asked for.
_PIECE = 16 * 1024
_SIZE = struct.Struct("HHHH")
_COUNT = struct.Struct("i")
# <asm-generic/termbits.h>: erasing knows about UTF-8. The module has no name for it before Python 3.14.
_IUTF8 = 0o40000


@dataclass(frozen=True, slots=True)
class Pair:
    """A new terminal: the master, which does not block, the slave, and the slave's path."""

    master: int
    slave: int
    path: str


def open_pair(columns: int, rows: int) -> Pair:
    """A pair of that size. Raises Exhausted `no_terminals`, with nothing left open."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise Exhausted(
            "no_terminals",
            f"no terminal can be opened: {error.strerror}",
            hint="end agents that are not needed, or raise kernel.pty.max or the limit of open files",
        ) from error
    try:
        os.set_blocking(master, False)
        set_size(master, columns, rows)
        modes = termios.tcgetattr(slave)
        modes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        return Pair(master, slave, os.ttyname(slave))
    except BaseException:
        os.close(master)
        os.close(slave)
        raise


def set_size(master: int, columns: int, rows: int) -> None:
    """Change the size; who runs in the terminal gets SIGWINCH where that is a change."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))


def get_size(master: int) -> tuple[int, int]:
    """Columns and rows."""
    rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(_SIZE.size)))
    return columns, rows


def open_pipe() -> int:
    """A pipe as one descriptor for both ends, which never ends and does not block.

    It is as large as a turn needs, or as large as the kernel allows. Raises Exhausted `no_terminals`.
    """
    try:
        reading, writing = os.pipe()
    except OSError as error:
        raise Exhausted(
            "no_terminals",
            f"no pipe can be opened: {error.strerror}",
            hint="end agents that are not needed, or raise the limit of open files",
        ) from error
    try:
        pipe = os.open(f"/proc/self/fd/{reading}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(reading)
        os.close(writing)
    # Refused where the user's pipes are over their bound: a smaller one is slower and as safe.
    with suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return pipe


def waiting(pipe: int) -> int:
    """Bytes that lie in a pipe."""
    count: int = _COUNT.unpack(fcntl.ioctl(pipe, termios.FIONREAD, bytes(_COUNT.size)))[0]
    return count


def move(master: int, pipe: int, pieces: int) -> tuple[int, bool, bool]:
    """Move output from a terminal into a pipe, in at most so many pieces, by the kernel alone.

    Returns the bytes moved, whether it stopped for want of output or of room in the pipe, and whether the
    slave is closed by all and everything was read.
    """
    moved = 0
    for _ in range(pieces):
        try:
            count = os.splice(master, pipe, _PIECE)
        except BlockingIOError:
            return moved, True, False
        except OSError:
            # EIO, the terminal's way to say that nobody has it open any more.
            return moved, True, True
        if not count:
            return moved, True, True
        moved += count
    return moved, False, False
