"""systemd's own names on the bus: interfaces, paths, and the object path of a unit."""

from __future__ import annotations

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


def unit_path(name: str) -> str:
    """Object path of a unit, as systemd escapes it; asking it for a property loads the unit."""
    return _PREFIX + "".join(_letter(byte, first=not index) for index, byte in enumerate(name.encode()))


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


def _letter(byte: int, *, first: bool) -> str:
    letter = chr(byte)
    plain = letter.isascii() and (letter.isalpha() or (letter.isdigit() and not first))
    return letter if plain else f"_{byte:02x}"
