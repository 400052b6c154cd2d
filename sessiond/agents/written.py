"""How specs and ends of agents are written down, and read back with every field checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from sessiond.model.agent import AgentEnd, AgentSpec, Cause, RestartPolicy
from sessiond.model.identity import is_agent_id, is_id

FORMAT = 1

T = TypeVar("T")


def spec_to_json(spec: AgentSpec) -> dict[str, object]:
    """A spec as JSON holds it."""
    return {
        "format": FORMAT,
        "id": spec.id,
        "session": spec.session,
        "name": spec.name,
        "argv": list(spec.argv),
        "program": str(spec.program),
        "cwd": str(spec.cwd),
        "created": spec.created.isoformat(),
        "tty": spec.tty,
        "columns": spec.columns,
        "rows": spec.rows,
        "term": spec.term,
        "restart": spec.restart.value,
        "stop_signal": spec.stop_signal,
        "stop_timeout": spec.stop_timeout,
        "timeout": spec.timeout,
        "umask": spec.umask,
        "group": spec.group,
        "labels": dict(spec.labels),
        "properties": dict(spec.properties),
        "resurrect": spec.resurrect,
        "boot": spec.boot,
        "manager": spec.manager,
        "workspace": spec.workspace,
    }


def spec_from_json(value: object) -> AgentSpec:
    """The spec that a file holds. Raises ValueError saying which field is wrong."""
    read = _Fields(value)
    read.check_format()
    session, agent = read.text("session"), read.text("id")
    if not is_id(session) or not is_agent_id(agent):
        raise ValueError("id: not an agent's")
    return AgentSpec(
        id=agent,
        session=session,
        name=read.text("name"),
        argv=tuple(read.texts("argv")),
        program=Path(read.text("program")),
        cwd=Path(read.text("cwd")),
        created=read.moment("created"),
        tty=read.flag("tty"),
        columns=read.whole("columns"),
        rows=read.whole("rows"),
        term=read.text("term"),
        restart=read.one("restart", RestartPolicy),
        stop_signal=read.whole("stop_signal"),
        stop_timeout=read.number("stop_timeout"),
        timeout=read.number("timeout"),
        umask=read.whole("umask"),
        group=read.text("group"),
        labels=read.pairs("labels"),
        properties=read.pairs("properties"),
        resurrect=read.flag("resurrect"),
        boot=read.text("boot"),
        manager=read.text("manager"),
        workspace=read.maybe("workspace", read.text) or "",
    )


def end_to_json(end: AgentEnd) -> dict[str, object]:
    """An end as JSON holds it."""
    return {
        "format": FORMAT,
        "exit_status": end.exit_status,
        "signal": end.signal,
        "result": end.result,
        "asked": end.asked,
        "started_at": end.started_at.isoformat() if end.started_at else None,
        "ended_at": end.ended_at.isoformat() if end.ended_at else None,
        "restarts": end.restarts,
        "cpu_seconds": end.cpu_seconds,
        "memory_bytes": end.memory_bytes,
        "cause": end.cause.value if end.cause else None,
    }


def end_from_json(value: object) -> AgentEnd:
    """The end that a file holds. Raises ValueError saying which field is wrong."""
    read = _Fields(value)
    read.check_format()
    return AgentEnd(
        exit_status=read.maybe("exit_status", read.whole),
        signal=read.text("signal"),
        result=read.text("result"),
        asked=read.flag("asked"),
        started_at=read.maybe("started_at", read.moment),
        ended_at=read.maybe("ended_at", read.moment),
        restarts=read.whole("restarts"),
        cpu_seconds=read.maybe("cpu_seconds", read.number),
        memory_bytes=read.maybe("memory_bytes", read.whole),
        cause=read.maybe("cause", lambda name: read.one(name, Cause)),
    )


class _Fields:
    """The fields of a JSON object, each asked for as what it must be."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - one error for all that a file can hold
        self._value = cast("dict[str, Any]", value)

    def check_format(self) -> None:
        """Raise ValueError for a file of a later release."""
        if self._value.get("format") != FORMAT:
            raise ValueError(f"format: {FORMAT} is known here, not {self._value.get('format')!r}")

    def _get(self, name: str, kind: type[T], what: str) -> T:
        value = self._value.get(name)
        # A truth value is a number to Python, and none to JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name}: {what} is wanted")
        return value

    def text(self, name: str) -> str:
        """A text without NUL."""
        value = self._get(name, str, "a text")
        if "\0" in value:
            raise ValueError(f"{name}: it holds a NUL")
        return value

    def texts(self, name: str) -> list[str]:
        """At least one text."""
        value = self._get(name, list, "a list of texts")
        if not value or not all(isinstance(one, str) for one in value):
            raise ValueError(f"{name}: a list of texts is wanted")
        return value

    def flag(self, name: str) -> bool:
        """A truth value."""
        return self._get(name, bool, "true or false")

    def whole(self, name: str) -> int:
        """A whole number."""
        return self._get(name, int, "a whole number")

    def number(self, name: str) -> float:
        """A number."""
        value = self._value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: a number is wanted")  # noqa: TRY004 - as above
        return float(value)

    def moment(self, name: str) -> datetime:
        """A point in time that knows its zone."""
        when = datetime.fromisoformat(self.text(name))
        if when.tzinfo is None:
            raise ValueError(f"{name}: a time with its zone is wanted")
        return when

    def pairs(self, name: str) -> Mapping[str, str]:
        """Texts by text."""
        value = self._get(name, dict, "an object of texts")
        if not all(isinstance(one, str) for one in value.values()):
            raise ValueError(f"{name}: an object of texts is wanted")
        return value

    def one(self, name: str, kind: Callable[[str], T]) -> T:
        """One of the words of an enumeration."""
        return kind(self.text(name))

    def maybe(self, name: str, read: Callable[[str], T]) -> T | None:
        """None where the field is null."""
        return None if self._value.get(name) is None else read(name)
