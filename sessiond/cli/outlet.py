"""Standard output and error written to from an event loop: a slow reader holds up its own bytes alone."""

from __future__ import annotations

import asyncio
import os
import select
import stat
import time
from contextlib import suppress

# A descriptor that could block is written to in pieces that fit once it says that there is room.
_SMALL = 512
_LARGE = 64 * 1024


class Outlet:
    """One descriptor. Where it can be opened a second time it is, since O_NONBLOCK holds for all who share
    an open file: setting it on standard output would set it for the shell too."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._direct = stat.S_ISREG(mode) or os.path.samestat(os.fstat(fd), os.stat(os.devnull))
        self._pipe = stat.S_ISFIFO(mode)
        self._own = -1
        if stat.S_ISCHR(mode) or self._pipe:
            with suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{fd}", flags)
        self._to = fd if self._own < 0 else self._own
        self._piece = _SMALL if self._own < 0 and not self._direct else _LARGE

    async def write(self, data: bytes) -> None:
        """Return once the descriptor took all of it. Raises BrokenPipeError where nobody reads any more."""
        rest = memoryview(data)
        while rest:
            if self._own < 0 and not self._direct:
                await self._room()
            try:
                rest = rest[os.write(self._to, rest[: self._piece]) :]
            except BlockingIOError:
                await self._room()

    def write_now(self, data: bytes, patience: float = 2.0) -> None:
        """Write without a loop, for at most so many seconds: for what must be said at the end."""
        rest = memoryview(data)
        deadline = time.monotonic() + patience
        waiting = select.poll()
        waiting.register(self._to, select.POLLOUT)
        while rest and (left := deadline - time.monotonic()) > 0:
            if not self._direct and not waiting.poll(left * 1000):
                return
            try:
                rest = rest[os.write(self._to, rest[: self._piece]) :]
            except BlockingIOError:
                continue
            except OSError:  # A terminal that hung up has nothing to be put right.
                return

    async def broken(self) -> None:
        """Return when the reader of a pipe went away; never for anything else."""
        if not self._pipe or self._own < 0:
            await asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        # Nothing can be read here: what wakes us is the error that the kernel reports in any case.
        loop.add_reader(self._to, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._to)

    def close(self) -> None:
        """Close the second descriptor; idempotent."""
        if self._own >= 0:
            os.close(self._own)
            self._own, self._to = -1, self.fd

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._to, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._to)
