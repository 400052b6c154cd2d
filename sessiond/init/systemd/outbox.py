"""What goes to the bus: gathered over one turn of the event loop, and sent at once."""

from __future__ import annotations

import asyncio
import socket

from dbus_fast import Message

# Where a message of D-Bus has its number.
_SERIAL = slice(8, 12)


class Outbox:
    """Stands in the bus library's writer for its socket.

    The library makes a system call for each message, and takes a full socket buffer for a lost
    connection. A listing of a thousand sessions asks some thousand questions: they leave together, and
    what the buffer does not hold waits until it does. Memory is all that bounds what waits.
    """

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self._fd = real.fileno()
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()
        self._blocked = False
        self._broken: OSError | None = None

    def send(self, data: memoryview | bytearray) -> int:
        """Take all of it; raises what broke the connection before."""
        if self._broken is not None:
            raise self._broken
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting += data
        return len(data)

    def close(self) -> None:
        """Send no more."""
        self._broken = self._broken or BrokenPipeError("the connection was closed")
        self._waiting.clear()
        self._block(blocked=False)

    def _flush(self) -> None:
        if not self._waiting:
            return
        try:
            sent = self._real.send(self._waiting)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            # Its reader sees the end too, and tells it.
            self._broken = error
            self.close()
            return
        del self._waiting[:sent]
        self._block(blocked=bool(self._waiting))

    def _block(self, *, blocked: bool) -> None:
        if blocked and not self._blocked:
            self._loop.add_writer(self._fd, self._flush)
        elif self._blocked and not blocked:
            self._loop.remove_writer(self._fd)
        self._blocked = blocked


class Form:
    """A question that is put to many objects whose paths are of one length: made once, filled in for each.

    Making a message anew takes ten times as long, and a listing of a thousand sessions asks thousands.
    """

    def __init__(self, message: Message) -> None:
        """``message`` is the question to the first object."""
        message.serial = 1
        self._path = str(message.path).encode()
        self._bytes = bytes(message._marshall(False))
        self._start = self._bytes.index(self._path)
        assert self._bytes[:1] == b"l", "the bus library writes another byte order"

    def filled(self, serial: int, path: str) -> bytearray:
        """What is sent to ask the object at ``path``."""
        data = bytearray(self._bytes)
        data[_SERIAL] = serial.to_bytes(4, "little")
        data[self._start : self._start + len(self._path)] = path.encode()
        return data
