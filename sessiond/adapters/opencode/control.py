"""The control port of a running OpenCode: what it tells of itself, where the port is proved to be its own."""

from __future__ import annotations

import base64
import io
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from sessiond.adapters.opencode.rows import is_id
from sessiond.ports.discovery import Process

# What we launch answers to this alone; with another's password nobody is asked.
PASSWORD: Final = "OPENCODE_SERVER_PASSWORD"  # noqa: S105
OURS: Final = "sessiond-"
_USER: Final = "opencode"
# Seconds for all that is asked of one process.
_DEADLINE: Final = 0.6
_MOST: Final = 4 * 1024 * 1024
_LISTENS: Final = "0A"
_PORTS: Final = 3


@dataclass(frozen=True, slots=True)
class Told:
    """What a process says: ``busy`` conversations with what they do; of these, which wait and for what."""

    busy: Mapping[str, str]
    waiting: Mapping[str, str]


def ask(process: Process) -> Told | None:
    """What a process says on a port of its own; None where it has none, or does not answer in time."""
    if not _same_network(process.pid):
        return None
    headers = {}
    password = process.environment.get(PASSWORD, "")
    if password:
        if not password.startswith(OURS):
            return None
        word = base64.b64encode(f"{_USER}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {word}"
    until = time.monotonic() + _DEADLINE
    for number, (host, port, inode) in enumerate(_listening(process.pid)):
        if number >= _PORTS:
            break
        told = _told(host, port, headers, until)
        # It could have ended meanwhile, and its port be another's.
        if told is not None and inode in _sockets(process.pid):
            return told
    return None


def _told(host: str, port: int, headers: Mapping[str, str], until: float) -> Told | None:
    status = _get(host, port, "/session/status", headers, until)
    if not isinstance(status, dict):
        return None
    busy = {
        id: doing
        for id, value in status.items()
        if is_id(id) and isinstance(value, dict) and (doing := _doing(value.get("type")))
    }
    waiting: dict[str, str] = {}
    if busy:
        for path, what in (
            ("/question", "waiting for an answer"),
            ("/permission", "waiting for permission"),
        ):
            asked = _get(host, port, path, headers, until)
            for each in asked if isinstance(asked, list) else ():
                if isinstance(each, dict) and is_id(each.get("sessionID")):
                    waiting[each["sessionID"]] = what
    return Told(busy, waiting)


def _doing(kind: object) -> str:
    return {"busy": "thinking", "retry": "retrying"}.get(kind, "") if isinstance(kind, str) else ""


def _get(host: str, port: int, path: str, headers: Mapping[str, str], until: float) -> Any:
    """What a path answers; None for everything that is no answer in time."""
    # Takes memory and 20 ms, and most of the time nobody is there to be asked.
    import http.client

    left = until - time.monotonic()
    if left <= 0:
        return None
    connection = http.client.HTTPConnection(host, port, timeout=left)
    opened: socket.socket | None = None
    try:
        connection.connect()
        opened = connection.sock
        # Its own limit is for each piece: who sends a byte now and then would be waited for without end.
        connection.sock = cast(socket.socket, _Clocked(opened, until))
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        if response.status != http.client.OK:
            return None
        data = b""
        while part := response.read1(65536):
            data += part
            if len(data) > _MOST or time.monotonic() > until:
                return None
        return msgspec.json.decode(data)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    finally:
        connection.close()
        if opened is not None:
            opened.close()


class _Clocked:
    """A socket that is read from until a moment, whatever trickles in."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._socket = connection
        self._until = until

    def sendall(self, data: bytes) -> None:
        """As the socket's own."""
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What comes."""
        return io.BufferedReader(_Clock(self._socket, self._until))

    def close(self) -> None:
        """Nothing: what was announced is still to be read from it."""


class _Clock(io.RawIOBase):
    def __init__(self, connection: socket.socket, until: float) -> None:
        self._socket = connection
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it takes too long")
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


def _same_network(pid: int) -> bool:
    """Whether a process has our network: the ports of another are not ours to reach."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return False


def _sockets(pid: int) -> set[int]:
    """Inodes of the sockets that a process has open."""
    folder = f"/proc/{pid}/fd"
    inodes: set[int] = set()
    try:
        names = os.listdir(folder)
    except OSError:
        return inodes
    for name in names:
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(int(target[8:-1]))
    return inodes


def _listening(pid: int) -> Iterator[tuple[str, int, int]]:
    """Address, port and inode of each socket on which a process can be reached by the loopback."""
    mine: set[int] | None = None
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            with open(f"/proc/{pid}/net/{name}") as table:
                lines = table.read().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) < 10 or words[3] != _LISTENS:
                continue
            address, _, port = words[1].partition(":")
            host = _host(address, family)
            if not host:
                continue
            mine = _sockets(pid) if mine is None else mine
            if int(words[9]) in mine:
                yield host, int(port, 16), int(words[9])


def _host(address: str, family: socket.AddressFamily) -> str:
    """Where to connect for what listens on an address; empty where the loopback does not lead there."""
    words = [address[start : start + 8] for start in range(0, len(address), 8)]
    text = socket.inet_ntop(family, b"".join(struct.pack("=I", int(word, 16)) for word in words))
    if family == socket.AF_INET:
        if text.startswith("127."):
            return text
        return "127.0.0.1" if text == "0.0.0.0" else ""  # noqa: S104
    return "::1" if text in ("::", "::1") else ""
