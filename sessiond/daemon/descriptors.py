"""Descriptors that the init system keeps over a restart: LISTEN_FDS in, FDSTORE out."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Mapping
from typing import Self

from sessiond.errors import TimedOut

_FIRST_FD = 3
_BARRIER_TIMEOUT = 10.0


class Descriptors:
    """What was kept, by name; pushes more into the store of this process's own unit.

    Messages go out in order and never block the loop; those that change the store need a running loop.
    """

    def __init__(self, kept: Mapping[str, int], notify_socket: str) -> None:
        self._kept = dict(kept)
        self._notify_socket = notify_socket
        self._socket: socket.socket | None = None
        self._queue: deque[tuple[bytes, list[int]]] = deque()

    @classmethod
    def from_environment(cls) -> Self:
        """Take what LISTEN_FDS passes to this process, and keep children from inheriting it."""
        kept: dict[str, int] = {}
        if os.environ.pop("LISTEN_PID", "") == str(os.getpid()):
            names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
            for index in range(int(os.environ.pop("LISTEN_FDS", "0"))):
                fd = _FIRST_FD + index
                os.set_inheritable(fd, False)
                name = names[index] if index < len(names) else f"unnamed-{index}"
                if name in kept:
                    # Two of a name are two copies of one description: the store drops them together.
                    os.close(fd)
                else:
                    kept[name] = fd
        return cls(kept, os.environ.get("NOTIFY_SOCKET", ""))

    @property
    def names(self) -> list[str]:
        """Names of what was kept, in order."""
        return sorted(self._kept)

    def take(self, name: str) -> int | None:
        """The descriptor of that name, handed over to the caller; None where none was kept."""
        return self._kept.pop(name, None)

    def store(self, name: str, fd: int) -> None:
        """Have the init system keep a copy, also when its other end hangs up."""
        self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd])

    def drop(self, name: str) -> None:
        """Have the init system close the copies of that name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", [])

    async def settled(self) -> None:
        """Return when the init system has done all that it was told so far.

        Raises TimedOut `descriptor_store_timeout`.
        """
        if not self._notify_socket:
            return
        reading, writing = os.pipe()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            # It closes its copy when it comes to this message, and nobody else holds one then.
            self._send("BARRIER=1", [writing])
            os.close(writing)
            loop.add_reader(reading, done.set)
            await asyncio.wait_for(done.wait(), _BARRIER_TIMEOUT)
        except TimeoutError as error:
            raise TimedOut(
                "descriptor_store_timeout",
                f"the init system did not take a terminal into its store within {_BARRIER_TIMEOUT:g} s",
                hint="sessionctl doctor",
            ) from error
        finally:
            loop.remove_reader(reading)
            os.close(reading)

    def close(self) -> None:
        """Send no more; what was not sent is forgotten. Idempotent."""
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)
            self._socket.close()
            self._socket = None

    def _send(self, message: str, fds: list[int]) -> None:
        if not self._notify_socket:
            return
        # Copies, since the caller may close its own before the message is out.
        self._queue.append((message.encode(), [os.dup(fd) for fd in fds]))
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        out = self._connected()
        loop = asyncio.get_running_loop()
        while self._queue:
            message, fds = self._queue[0]
            try:
                socket.send_fds(out, [message], fds)
            except BlockingIOError:
                loop.add_writer(out, self._flush)
                return
            self._queue.popleft()
            _close_all(fds)
        loop.remove_writer(out)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            address = self._notify_socket
            if address.startswith("@"):
                address = "\0" + address[1:]
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._socket.connect(address)
        return self._socket


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
