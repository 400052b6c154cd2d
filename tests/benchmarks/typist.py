"""A program in a terminal of its own, typed at and read from as a person would; every call blocks."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

DEADLINE = 120.0


class Typist:
    """Holds the other end of the terminal; ends the program when left."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._master, slave = os.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self.process = subprocess.Popen(
                # In a session of its own, whose controlling terminal it is.
                ["setsid", "--ctty", *argv],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
            )
        finally:
            os.close(slave)
        self._left = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # As a window that is closed: a client that ends in order lets go of what it looks at.
        self.process.send_signal(signal.SIGHUP)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def type(self, data: bytes) -> None:
        """Press keys."""
        os.write(self._master, data)

    def until(self, mark: bytes) -> int:
        """Read until a mark was shown; returns how many bytes that took. What follows it is kept."""
        deadline = time.monotonic() + DEADLINE
        seen, tail = 0, b""
        while True:
            chunk = self._left or self._read(deadline)
            self._left = b""
            window = tail + chunk
            found = window.find(mark)
            if found >= 0:
                end = found + len(mark)
                self._left = window[end:]
                return seen + end - len(tail)
            seen += len(chunk)
            tail = window[-(len(mark) - 1) :] if len(mark) > 1 else b""

    def _read(self, deadline: float) -> bytes:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError("what was waited for was not shown")
        return os.read(self._master, 1 << 16)

    def wait(self) -> int:
        """Read to the end; returns the exit status."""
        try:
            while os.read(self._master, 1 << 16):
                pass
        except OSError:
            # The kernel's end of file for a terminal that nobody holds any more.
            return self.process.wait(DEADLINE)
        return self.process.wait(DEADLINE)
