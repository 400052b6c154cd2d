"""What happened: events and positions in their log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class EventKind(StrEnum):
    """The words of the wire."""

    SESSION_CREATED = "session_created"
    SESSION_STARTED = "session_started"
    SESSION_STATE_CHANGED = "session_state_changed"
    SESSION_UPDATED = "session_updated"
    SESSION_MOVED = "session_moved"
    SESSION_CONFLICT = "session_conflict"
    SESSION_ENDED = "session_ended"
    SESSION_DELETED = "session_deleted"


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position: ``seq`` counts from 1 inside the ``epoch``, the identity of the log."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; ``time`` is in UTC."""

    cursor: Cursor
    time: datetime
    kind: EventKind
    session: str
    session_name: str
    fields: Mapping[str, str] = field(default_factory=dict)
