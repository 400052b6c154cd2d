"""What is typed into a terminal, in a bounded buffer where the program does not read."""

from __future__ import annotations

import asyncio
import os

from sessiond.aio import Pulse
from sessiond.errors import Conflict, Exhausted

ROOM = 64 * 1024


class Keyboard:
    """Writes to a terminal's master without blocking; what does not fit waits in ``ROOM`` bytes."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._buffer = bytearray()
        self._turn = asyncio.Lock()
        self._emptied = Pulse()
        self._closed = False

    def put(self, data: bytes) -> int:
        """Type at once; returns how many of the bytes were written or will be, the others are not."""
        if self._closed:
            return 0
        written = 0
        if not self._buffer:
            written = self._write(data)
        rest = data[written : written + ROOM - len(self._buffer)]
        if rest and not self._closed:
            if not self._buffer:
                asyncio.get_running_loop().add_writer(self._master, self._on_room)
            self._buffer += rest
        return written + len(rest)

    async def type(self, data: bytes, *, patience: float | None = None) -> None:
        """Type all of it, in one piece, and return when the terminal took it.

        With ``patience``, raises Exhausted `input_full` once the program has read nothing for so many
        seconds; raises Conflict `agent_ended` when the terminal is closed meanwhile.
        """
        async with self._turn:
            done = self.put(data)
            while done < len(data) or self._buffer:
                await self._room(patience, len(data) - done)
                done += self.put(data[done:])
            self._check()

    async def _room(self, patience: float | None, left: int) -> None:
        self._check()
        before = len(self._buffer)
        try:
            async with asyncio.timeout(patience):
                await self._emptied.until(lambda: self._closed or len(self._buffer) < before or None)
        except TimeoutError as error:
            raise Exhausted(
                "input_full",
                f"the program does not read: {left + len(self._buffer)} bytes of input wait or were refused",
                hint="see what it does with `sessionctl screen`, or interrupt it with `sessionctl signal`",
                fields={"waiting": str(len(self._buffer)), "refused": str(left)},
            ) from error

    def _check(self) -> None:
        if self._closed:
            raise Conflict("agent_ended", "the program has closed its terminal", hint="sessionctl ps -a")

    def _on_room(self) -> None:
        written = self._write(self._buffer)
        del self._buffer[:written]
        if not self._buffer:
            asyncio.get_running_loop().remove_writer(self._master)
        if written:
            self._emptied.fire()

    def _write(self, data: bytes | bytearray) -> int:
        """How much the terminal takes at once; all of it where nobody will ever read it."""
        done = 0
        view = memoryview(data)
        try:
            while done < len(data):
                try:
                    done += os.write(self._master, view[done:])
                except BlockingIOError:
                    break
                except OSError:
                    # EIO: nobody has the terminal open, so that what is typed reaches nobody.
                    done = len(data)
        finally:
            view.release()
        return done

    def close(self) -> None:
        """Forget what waits; idempotent. The master is the caller's to close, afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._buffer:
            asyncio.get_running_loop().remove_writer(self._master)
            self._buffer.clear()
        self._emptied.fire()
