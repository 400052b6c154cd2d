"""systemd's own names on the bus: interfaces, paths, and the object path of a unit."""

from __future__ import annotations

import re

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = f"{SYSTEMD}.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
UNIT = f"{SYSTEMD}.Unit"
SERVICE = f"{SYSTEMD}.Service"
SLICE = f"{SYSTEMD}.Slice"
JOB = f"{SYSTEMD}.Job"
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"

UNITS_PATH = f"{MANAGER_PATH}/unit"

_PREFIX = f"{UNITS_PATH}/"
_ESCAPED = re.compile(r"\A[0-9]|[^A-Za-z0-9]")


def unit_path(name: str) -> str:
    """Object path of a unit, as systemd escapes it; asking it for a property loads the unit."""
    # One letter a byte, as systemd escapes bytes.
    return _PREFIX + _ESCAPED.sub(lambda found: f"_{ord(found[0]):02x}", name.encode().decode("latin-1"))


def unit_name(path: str) -> str:
    """Name of the unit that an object path stands for, or empty for any other path."""
    if not path.startswith(_PREFIX):
        return ""
    head, *rest = path[len(_PREFIX) :].split("_")
    try:
        raw = b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
        return (head.encode() + raw).decode()
    except ValueError:
        return ""
