"""The objects that --json shows: always the same keys, null where one does not apply, times in UTC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sessiond.rpc._generated.v1 import types_pb2 as pb

_STATES = {number: name.removeprefix("SESSION_STATE_").lower() for name, number in pb.SessionState.items()}
_TYPES = {number: name.removeprefix("SESSION_TYPE_").lower() for name, number in pb.SessionType.items()}
STATE_NUMBERS: dict[str, Any] = {word: number for number, word in _STATES.items() if number}
TYPE_NUMBERS: dict[str, Any] = {word: number for number, word in _TYPES.items() if number}


def session_object(message: Any, pid: Callable[[int], int | None]) -> dict[str, Any]:
    """A session; ``pid`` translates process ids to the caller's view."""
    return {
        "id": message.id,
        "name": message.name,
        "path": message.path,
        # A release that knows more words than this one is shown by number, not hidden.
        "type": _TYPES.get(message.type, str(message.type)),
        "owner": message.owner,
        "labels": dict(sorted(message.labels.items())),
        "annotations": dict(sorted(message.annotations.items())),
        "state": _STATES.get(message.state, str(message.state)),
        "frozen": message.frozen,
        "archived": message.archived,
        "enabled": message.enabled if message.HasField("enabled") else None,
        "active": message.active,
        "conflict": message.conflict or None,
        "problem": message.problem or None,
        "unit": message.unit or None,
        "slice": message.slice or None,
        "pid": pid(message.pid) if message.HasField("pid") else None,
        "since": time_text(message, "since"),
        "restarts": message.restarts if message.HasField("restarts") else None,
        "created_at": time_text(message, "created_at"),
        "last_accessed": time_text(message, "last_accessed"),
    }


def session_details(response: Any, pid: Callable[[int], int | None]) -> dict[str, Any]:
    """What GetSession answered: a session, and what listings leave out."""
    message = response.session
    return {
        **session_object(message, pid),
        "result": message.result or None,
        "exit_status": message.exit_status if message.HasField("exit_status") else None,
        "signal": message.signal or None,
        "endpoint": message.endpoint or None,
        "limits": None if response.limits_unknown else limits_object(response.limits),
        "limits_unenforced": list(response.limits_unenforced),
        "limits_unknown": response.limits_unknown or None,
        "last_log": None if response.last_log_unknown else list(response.last_log),
        "last_log_unknown": response.last_log_unknown or None,
    }


def agent_object(message: Any, pid: Callable[[int], int | None]) -> dict[str, Any]:
    """An agent; ``pid`` translates process ids to the caller's view."""
    return {
        "id": message.id,
        "name": message.name,
        "session": message.session,
        "session_name": message.session_name,
        "state": _word(_agents().AgentState, "AGENT_STATE_", message.state),
        "activity": message.activity or None,
        "command": list(message.command),
        "cwd": message.cwd,
        "pid": pid(message.pid) if message.HasField("pid") else None,
        "unit": message.unit,
        "tty": message.tty,
        "started_at": time_text(message, "started_at"),
        "ended_at": time_text(message, "ended_at"),
        "exit_status": message.exit_status if message.HasField("exit_status") else None,
        "signal": message.signal or None,
        "restarts": message.restarts,
        "group": message.group or None,
        "labels": dict(sorted(message.labels.items())),
        "cpu_seconds": message.cpu_seconds if message.HasField("cpu_seconds") else None,
        "memory_bytes": message.memory_bytes if message.HasField("memory_bytes") else None,
        "reason": message.reason or None,
        "result": message.result or None,
        "record_bytes": message.record_bytes,
        "record_start": message.record_start,
        "recording_problem": message.recording_problem or None,
        "clients": message.clients,
        "columns": message.columns or None,
        "rows": message.rows or None,
        "restart": _word(_agents().RestartPolicy, "RESTART_POLICY_", message.restart).replace("_", "-"),
        "resurrect": message.resurrect,
        "created_at": time_text(message, "created_at"),
    }


def agent_state_number(word: str) -> Any:
    """The number on the wire of an agent's state."""
    return _agents().AgentState.Value(f"AGENT_STATE_{word.upper()}")


def restart_number(word: str) -> Any:
    """The number on the wire of a restart policy."""
    return _agents().RestartPolicy.Value(f"RESTART_POLICY_{word.upper().replace('-', '_')}")


def _agents() -> Any:
    # Late: verbs that show sessions alone need not load it.
    from sessiond.rpc._generated.v1 import agents_pb2

    return agents_pb2


def _word(enum: Any, prefix: str, number: int) -> str:
    # A release that knows more words than this one is shown by number, not hidden.
    if number not in enum.values():
        return str(number)
    name: str = enum.Name(number)
    return name.removeprefix(prefix).lower()


def limits_object(limits: Any) -> dict[str, str]:
    """Limits in force by property."""
    return {one.property: one.value for one in limits}


def event_object(event: Any) -> dict[str, Any]:
    """One event."""
    return {
        "cursor": {"epoch": event.cursor.epoch, "seq": event.cursor.seq},
        "time": time_text(event, "time"),
        "kind": event.kind,
        "session": event.session,
        "session_name": event.session_name,
        "fields": dict(sorted(event.fields.items())),
    }


def time_text(message: Any, field: str) -> str | None:
    """A timestamp field as RFC 3339 in UTC, or None where it is absent."""
    if not message.HasField(field):
        return None
    text: str = getattr(message, field).ToJsonString()
    return text
