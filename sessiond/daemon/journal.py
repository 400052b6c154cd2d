"""Writes lines to the journal on behalf of agents' units, in its native protocol and without ever waiting."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from pathlib import Path

from sessiond.agents.lines import plain

log = logging.getLogger(__name__)

SOCKET = Path("/run/systemd/journal/socket")
# syslog's priorities (sd-daemon(3)).
INFO, WARNING = 6, 4

_LENGTH = struct.Struct("<Q")
# A datagram may wait for the journal as long as no more than this does.
_BUFFER = 8 << 20
_AWAY = (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE)
_BUSY = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
_TOO_LONG = (errno.EMSGSIZE, errno.E2BIG)


class JournalForwarder:
    """Sends lines as entries with `USER_UNIT=`, so that `journalctl --user -u UNIT` shows them.

    What nobody takes is counted in ``dropped`` and told in the log once.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._told = False
        self.dropped = 0

    def __call__(
        self, unit: str, identifier: str, priority: int, line: bytes, *, session: str = "", agent: str = ""
    ) -> bool:
        """Send one line, which is told as it reads; False where the journal has no room for it just now.
        Never blocks, never raises."""
        fields = {
            "MESSAGE": plain(line),
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": identifier,
            "USER_UNIT": unit,
            "SESSIOND_SESSION": session,
            "SESSIOND_AGENT": agent,
        }
        entry = b"".join(_field(name, value) for name, value in fields.items() if value or name == "MESSAGE")
        try:
            self._send(entry)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            self._drop(error)
        return True

    def _send(self, entry: bytes) -> None:
        try:
            self._connected().send(entry)
        except OSError as error:
            if error.errno in _TOO_LONG:
                self._send_file(entry)
            elif error.errno in _AWAY:
                # The journal was restarted; its socket is another one now.
                self.close()
                self._connected().send(entry)
            else:
                raise

    def _send_file(self, entry: bytes) -> None:
        """What is too long for a datagram goes in a sealed file, as the protocol has it."""
        import fcntl

        fd = os.memfd_create("entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(entry)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            socket.send_fds(self._connected(), [b""], [fd])
        finally:
            os.close(fd)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                out.setblocking(False)
                out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                out.connect(str(self._path))
            except OSError:
                out.close()
                raise
            self._socket = out
        return self._socket

    def _drop(self, error: OSError) -> None:
        self.dropped += 1
        self.close()
        if not self._told:
            self._told = True
            log.warning(
                "lines of agents do not reach the journal: %s; they are in the agents' output",
                error.strerror,
            )

    def close(self) -> None:
        """Let go of the socket; the next line opens it again. Idempotent."""
        out, self._socket = self._socket, None
        if out is not None:
            out.close()


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return name.encode() + b"\n" + _LENGTH.pack(len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
