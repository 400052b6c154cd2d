"""Between messages and model: nothing else knows both."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.errors import InvalidArgument
from sessiond.model.event import Cursor, Event
from sessiond.model.identity import SessionType
from sessiond.model.session import Session
from sessiond.model.state import SessionState
from sessiond.rpc._generated.v1 import types_pb2 as pb

_TYPE_TO_WIRE = {
    one: cast("pb.SessionType", pb.SessionType.Value(f"SESSION_TYPE_{one.name}")) for one in SessionType
}
_TYPE_FROM_WIRE: dict[int, SessionType] = {number: one for one, number in _TYPE_TO_WIRE.items()}
_STATE_TO_WIRE = {
    one: cast("pb.SessionState", pb.SessionState.Value(f"SESSION_STATE_{one.name}")) for one in SessionState
}
_STATE_FROM_WIRE: dict[int, SessionState] = {number: one for one, number in _STATE_TO_WIRE.items()}


def session_to_wire(session: Session) -> pb.Session:
    """One row."""
    identity, metadata, unit = session.identity, session.metadata, session.unit_status
    message = pb.Session(
        id=identity.id,
        name=identity.name,
        path=_text(str(session.path)),
        type=_TYPE_TO_WIRE[identity.type],
        owner=identity.owner,
        labels=metadata.labels,
        annotations=metadata.annotations,
        state=_STATE_TO_WIRE[session.state],
        frozen=session.frozen,
        archived=metadata.archived,
        active=session.active,
        conflict=_text(session.conflict),
        unit=session.unit,
        slice=session.slice,
        created_at=timestamp(identity.created),
        problem=_text(session.problem),
        endpoint=_text(str(session.endpoint)),
    )
    if session.enabled is not None:
        message.enabled = session.enabled
    if metadata.last_accessed is not None:
        message.last_accessed.CopyFrom(timestamp(metadata.last_accessed))
    if unit is not None:
        message.restarts = unit.n_restarts
        message.result = unit.result
        message.signal = unit.exit_signal
        if unit.main_pid:
            message.pid = unit.main_pid
        if unit.state_changed_at is not None:
            message.since.CopyFrom(timestamp(unit.state_changed_at))
        if unit.exit_status is not None:
            message.exit_status = unit.exit_status
    return message


def event_to_wire(event: Event) -> pb.Event:
    """One event."""
    return pb.Event(
        cursor=cursor_to_wire(event.cursor),
        time=timestamp(event.time),
        kind=event.kind.value,
        session=event.session,
        session_name=event.session_name,
        fields={key: _text(value) for key, value in event.fields.items()},
    )


def cursor_to_wire(cursor: Cursor) -> pb.Cursor:
    """A position."""
    return pb.Cursor(epoch=cursor.epoch, seq=cursor.seq)


def cursor_from_wire(cursor: pb.Cursor) -> Cursor:
    """A position; raises InvalidArgument without an epoch."""
    if not cursor.epoch:
        raise InvalidArgument(
            "cursor_invalid", "a cursor without an epoch", hint="use one that this supervisor returned"
        )
    return Cursor(cursor.epoch, cursor.seq)


def type_from_wire(number: int) -> SessionType | None:
    """None where unspecified; raises InvalidArgument for a number that has no name."""
    if number == pb.SESSION_TYPE_UNSPECIFIED:
        return None
    try:
        return _TYPE_FROM_WIRE[number]
    except KeyError as error:
        raise InvalidArgument(
            "type_invalid",
            f"no session type has the number {number}",
            hint="types: " + ", ".join(SessionType),
        ) from error


def states_from_wire(numbers: Iterable[int]) -> frozenset[SessionState]:
    """The states named; raises InvalidArgument for one that has no name."""
    try:
        return frozenset(_STATE_FROM_WIRE[number] for number in numbers)
    except KeyError as error:
        raise InvalidArgument(
            "state_invalid",
            f"no session state has the number {error.args[0]}",
            hint="states: " + ", ".join(SessionState),
        ) from error


def timestamp(when: datetime) -> Timestamp:
    """A point in time; ``when`` knows its zone."""
    message = Timestamp()
    message.FromDatetime(when)
    return message


def _text(value: str) -> str:
    """Text that the wire can carry: bytes of file names that are no UTF-8 become escapes."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
