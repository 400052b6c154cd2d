"""Knocking on a Unix socket: connecting, and nothing more."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_SECONDS = 2.0


def connect(path: Path) -> str:
    """Why nobody serves at a socket; empty where somebody of this user's (or root) does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(_SECONDS)
        try:
            one.connect(os.fspath(path))
        except ConnectionRefusedError:
            return "nobody listens on it"
        except TimeoutError:
            return f"not accepted within {_SECONDS:g} s: its queue is full"
        except OSError as error:
            return error.strerror or str(error)
        uid = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return "" if uid in (os.getuid(), 0) else f"uid {uid} listens on it"
