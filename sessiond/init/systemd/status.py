"""From systemd's properties to UnitStatus, and which of them are worth asking for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sessiond.init.systemd.names import SERVICE, UNIT
from sessiond.model.unit import UnitStatus, session_of_daemon, session_of_slice

PATTERNS = ("sessiond-session@*.service", "sessiond-*.slice")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(usec: int) -> datetime | None:
    """A timestamp of systemd's, microseconds since 1970; 0 is none."""
    return _EPOCH + timedelta(microseconds=usec) if usec else None


@dataclass(frozen=True, slots=True)
class Field:
    """Where on the bus one field of UnitStatus is found."""

    name: str
    interface: str
    property: str
    convert: Callable[[Any], Any]


_FIELDS = (
    Field("load_state", UNIT, "LoadState", str),
    Field("active_state", UNIT, "ActiveState", str),
    Field("sub_state", UNIT, "SubState", str),
    Field("freezer_state", UNIT, "FreezerState", str),
    Field("state_changed_at", UNIT, "StateChangeTimestamp", moment),
    Field("main_pid", SERVICE, "MainPID", int),
    Field("result", SERVICE, "Result", str),
    Field("exec_main_code", SERVICE, "ExecMainCode", int),
    Field("exec_main_status", SERVICE, "ExecMainStatus", int),
    Field("n_restarts", SERVICE, "NRestarts", int),
)
_BY_PROPERTY = {(field.interface, field.property): field for field in _FIELDS}
_BY_NAME = {field.name: field for field in _FIELDS}

_ALWAYS = ("state_changed_at", "main_pid", "n_restarts")
_ENDED = ("result", "exec_main_code", "exec_main_status")


def fields(names: Sequence[str]) -> list[Field]:
    """The fields of those names."""
    return [_BY_NAME[name] for name in names]


def is_ours(unit: str) -> bool:
    """Whether the unit is one that watchers are told of."""
    return session_of_daemon(unit) is not None or session_of_slice(unit) is not None


def is_daemon(unit: str) -> bool:
    """Whether it is a session daemon's."""
    return session_of_daemon(unit) is not None


def from_listing(row: Sequence[Any]) -> UnitStatus:
    """One row of ListUnitsByPatterns; a service that runs has not failed, so it is a success so far."""
    name, _, load, active, sub = row[:5]
    return UnitStatus(name, load, active, sub, result="success" if is_daemon(name) else "")


def can_freeze(unit: str) -> bool:
    """Whether it is told of the unit if it is frozen: a session's slice is only frozen with all in it."""
    return is_daemon(unit) or unit.endswith("-agents.slice")


def missing_after_listing(unit: UnitStatus, *, frozen: bool | None) -> list[Field]:
    """What must be asked besides the listing, as little as possible: it is asked for a thousand units.

    ``frozen`` is what the kernel says of its processes, None where it said nothing.
    """
    if unit.load_state == "not-found":
        return []
    asked = [] if frozen is False else fields(["freezer_state"])
    if not is_daemon(unit.name):
        return asked
    # Starting a service clears what its last end left, so a running one has nothing to tell of it.
    running = unit.active_state == "active" and unit.sub_state == "running"
    return asked + fields(_ALWAYS if running else (*_ALWAYS, *_ENDED))


def passing(unit: str, new: Mapping[str, Any]) -> bool:
    """Whether the change may be one that only passes: an end that an automatic restart follows at once."""
    return is_daemon(unit) and new.get("active_state") in ("failed", "inactive")


def changes(interface: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field of UnitStatus, of what a PropertiesChanged carries (as variants)."""
    found = {}
    for name, variant in properties.items():
        field = _BY_PROPERTY.get((interface, name))
        if field is not None:
            found[field.name] = field.convert(variant.value)
    return found


def invalidated(interface: str, names: Sequence[str]) -> bool:
    """Whether one of the names, of which PropertiesChanged gave no value, is a field's."""
    return any((interface, name) in _BY_PROPERTY for name in names)
