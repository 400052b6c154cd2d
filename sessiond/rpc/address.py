"""gRPC's address of a Unix socket."""

from __future__ import annotations


def unix_address(socket: str) -> str:
    """The address of an absolute path: gRPC reads it as a URI, so what means something there is escaped."""
    if socket.isascii() and socket.translate(_PLAIN).isalnum():
        return f"unix:{socket}"
    from urllib.parse import quote

    return f"unix:{quote(socket)}"


_PLAIN = dict.fromkeys(map(ord, "/-_."))
