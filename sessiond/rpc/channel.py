"""What every channel of ours is opened with; the address of a Unix socket."""

from __future__ import annotations

from typing import Final

CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    # Nothing is tried twice behind our back: who calls decides what may be repeated. Besides, gRPC's own
    # retries of a call on a connection that has just said goodbye can go on for ever without a pause, in
    # one thread's single turn, each with memory of its own (seen with 1.85: 250 MB a second).
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # Without it a new channel to the same socket inherits the wait after a failed attempt.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


def unix_address(socket: str) -> str:
    """The address of an absolute path: gRPC reads it as a URI, so what means something there is escaped."""
    if socket.isascii() and socket.translate(_PLAIN).isalnum():
        return f"unix:{socket}"
    from urllib.parse import quote

    return f"unix:{quote(socket)}"


_PLAIN = dict.fromkeys(map(ord, "/-_."))
