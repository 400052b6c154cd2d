"""Descriptors that the init system keeps over a restart: LISTEN_FDS in, FDSTORE out."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Self

_FIRST_FD = 3


class Descriptors:
    """What was kept, by name; pushes more into the store of this process's own unit."""

    def __init__(self, kept: Mapping[str, int], notify_socket: str) -> None:
        self._kept = dict(kept)
        self._notify_socket = notify_socket

    @classmethod
    def from_environment(cls) -> Self:
        """Take what LISTEN_FDS passes to this process, and keep children from inheriting it."""
        kept: dict[str, int] = {}
        if os.environ.pop("LISTEN_PID", "") == str(os.getpid()):
            names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
            for index in range(int(os.environ.pop("LISTEN_FDS", "0"))):
                fd = _FIRST_FD + index
                os.set_inheritable(fd, False)
                kept[names[index] if index < len(names) else f"unnamed-{index}"] = fd
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

    def _send(self, message: str, fds: list[int]) -> None:
        if not self._notify_socket:
            return
        address = self._notify_socket
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.connect(address)
            socket.send_fds(out, [message.encode()], fds)
