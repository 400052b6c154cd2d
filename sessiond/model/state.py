"""The one state table: from the init system's words to a session's state."""

from __future__ import annotations

from enum import StrEnum

from sessiond.model.unit import UnitStatus


class SessionState(StrEnum):
    """The state of a session, derived and never stored."""

    UNKNOWN = "unknown"
    INACTIVE = "inactive"
    STARTING = "starting"
    ACTIVE = "active"
    STOPPING = "stopping"
    ERROR = "error"
    ARCHIVED = "archived"

    @property
    def runs(self) -> bool:
        """Whether the init system holds processes, or is about to."""
        return self in (SessionState.STARTING, SessionState.ACTIVE, SessionState.STOPPING)

    @property
    def settled(self) -> bool:
        """Whether it stays so until somebody acts."""
        return self in (SessionState.INACTIVE, SessionState.ERROR, SessionState.ARCHIVED)


# Waiting for an automatic restart passes through `failed` and `inactive`; only the sub-state tells.
RESTARTING = frozenset(
    {
        "auto-restart",
        "auto-restart-queued",
        "failed-before-auto-restart",
        "dead-before-auto-restart",
    }
)

_TABLE = {
    "inactive": SessionState.INACTIVE,
    "activating": SessionState.STARTING,
    "active": SessionState.ACTIVE,
    "reloading": SessionState.ACTIVE,
    "refreshing": SessionState.ACTIVE,
    "deactivating": SessionState.STOPPING,
    "failed": SessionState.ERROR,
    "maintenance": SessionState.ERROR,
}


def derive(unit: UnitStatus | None, *, reachable: bool, archived: bool) -> SessionState:
    """The state of a session: ``unit`` is None where none is loaded; an unheard-of word is UNKNOWN."""
    if not reachable:
        return SessionState.UNKNOWN
    if unit is None:
        state = SessionState.INACTIVE
    elif unit.sub_state in RESTARTING:
        state = SessionState.STARTING
    else:
        state = _TABLE.get(unit.active_state, SessionState.UNKNOWN)
    if state is SessionState.INACTIVE and archived:
        return SessionState.ARCHIVED
    return state
