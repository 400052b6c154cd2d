"""Between messages and the model of conversations: nothing else knows both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, cast

from google.protobuf.timestamp_pb2 import Timestamp

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import AgentSessionStatus, Found, Key, Message, Probe, Problem, ToolUse
from sessiond.model.conversation import AgentSession, Choice, Trouble
from sessiond.model.identity import check_key
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc.agent_codec import text
from sessiond.rpc.codec import timestamp

_STATUS_TO_WIRE = {
    one: cast("pb.AgentSessionStatus", pb.AgentSessionStatus.Value(f"AGENT_SESSION_STATUS_{one.name}"))
    for one in AgentSessionStatus
}
_STATUS_FROM_WIRE: dict[int, AgentSessionStatus] = {number: one for one, number in _STATUS_TO_WIRE.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_U32, _U64 = 2**32, 2**64
_PROMPT_MAX = 200


def agent_session_to_wire(one: AgentSession) -> pb.AgentSession:
    """One row. Thousands are told at a time: what is empty is left out."""
    found, overlay = one.found, one.overlay
    status = one.status
    message = pb.AgentSession(
        id=text(found.id),
        adapter=found.adapter,
        status=_STATUS_TO_WIRE[status],
        cwd=text(one.cwd),
        model=text(found.model),
        first_prompt=text(found.first_prompt or _shortened(overlay.prompt)),
        age_ms=max(0, int(one.age * 1000)),
    )
    if found.title:
        message.title = text(found.title)
    if found.last_prompt:
        message.last_prompt = text(found.last_prompt)
    if found.parent:
        message.parent = text(found.parent)
    if found.life.reason:
        message.reason = text(found.life.reason)
    if status.live and (activity := one.activity):
        message.activity = text(activity)
    if one.stale:
        message.stale = True
    if found.native:
        native = message.native
        for key, value in found.native.items():
            native[text(key)] = text(value)
    if one.session:
        message.session, message.session_name = one.session, one.session_name
        message.agent, message.agent_name = one.agent, one.agent_name
    if overlay.labels:
        message.labels.update(overlay.labels)
    if overlay.annotations:
        message.annotations.update(overlay.annotations)
    if overlay.group:
        message.group = overlay.group
    if found.started_at is not None:
        _set_time(message.started_at, found.started_at)
    elif one.pending:
        _set_time(message.started_at, overlay.launched_at)
    if found.updated_at is not None:
        _set_time(message.updated_at, found.updated_at)
    if overlay.launched_at is not None:
        _set_time(message.launched_at, overlay.launched_at)
    if found.ended_at is not None and not status.live:
        _set_time(message.ended_at, found.ended_at)
    # What a program wrote may be no number of that size.
    if (pid := found.life.pid) is not None and 0 < pid < _U32:
        message.pid = pid
    if found.tokens_in is not None and 0 <= found.tokens_in < _U64:
        message.tokens_in = found.tokens_in
    if found.tokens_out is not None and 0 <= found.tokens_out < _U64:
        message.tokens_out = found.tokens_out
    if found.cost_usd is not None:
        message.cost_usd = found.cost_usd
    return message


class Rows:
    """Rows of answers as bytes. Where nothing is told of a row but what was found, they are kept for the next
    answer: ``most`` of them, the rest is encoded anew."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._kept: dict[Key, tuple[Found, bytes]] = {}

    def encode(self, one: AgentSession) -> bytes:
        """One, as an element of `ListAgentSessionsResponse.agent_sessions`."""
        body = self._body(one)
        # A message goes on with whatever is put behind it.
        body += _AGE + _varint(max(0, int(one.age * 1000)))
        return _ELEMENT + _varint(len(body)) + body

    def _body(self, one: AgentSession) -> bytes:
        """All but its age, which is another in each answer."""
        found, plain = one.found, _plain(one)
        kept = self._kept.get(found.key) if plain else None
        if kept is not None and kept[0] is found:
            return kept[1]
        message = agent_session_to_wire(one)
        message.ClearField("age_ms")
        body = message.SerializeToString()
        if plain:
            self._kept.pop(found.key, None)
            while len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            self._kept[found.key] = found, body
        return body


def _plain(one: AgentSession) -> bool:
    """Whether nothing is told of it but what was found."""
    kept = one.overlay
    return not (
        one.session
        or one.stale != bool(one.found.trouble)
        or kept.labels
        or kept.annotations
        or kept.group
        or kept.prompt
        or kept.cwd
        or kept.launched_at
    )


def _tag(kind: type[Any], name: str, wire: int) -> bytes:
    return _varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | wire)


@lru_cache(4096)
def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_ELEMENT = _tag(pb.ListAgentSessionsResponse, "agent_sessions", 2)
_AGE = _tag(pb.AgentSession, "age_ms", 0)


def choice_from_wire(message: pb.AgentSessionFilter, session: str) -> Choice:
    """Which are meant; ``session`` is the id of the session that it names, or empty.

    Raises InvalidArgument `status_invalid`, `path_invalid`, `label_invalid`, `time_invalid`.
    """
    for key in (*message.labels, *message.label_keys):
        check_key(key)
    return Choice(
        adapters=frozenset(message.adapters),
        statuses=_statuses(message.statuses),
        cwd=_folder(message.cwd),
        labels=dict(message.labels),
        label_keys=frozenset(message.label_keys),
        group=message.group,
        since=_moment(message.since) if message.HasField("since") else None,
        session=session,
        stopped=message.include_stopped,
    )


def trouble_to_wire(trouble: Trouble) -> pb.AdapterProblem:
    """A problem, and since when it is there."""
    message = problem_to_wire(trouble.problem)
    message.since.CopyFrom(timestamp(trouble.since))
    return message


def problem_to_wire(problem: Problem) -> pb.AdapterProblem:
    """A problem of this moment."""
    return pb.AdapterProblem(
        adapter=problem.adapter, path=text(problem.path), code=problem.code, reason=text(problem.reason)
    )


def message_to_wire(one: Message) -> pb.TranscriptMessage:
    """One message of a conversation."""
    message = pb.TranscriptMessage(
        role=one.role,
        text=text(one.text),
        thinking=text(one.thinking),
        tools=map(_tool_to_wire, one.tools),
        model=text(one.model),
        cut=one.cut,
    )
    _set_time(message.time, one.time)
    if one.tokens_in is not None and 0 <= one.tokens_in < _U64:
        message.tokens_in = one.tokens_in
    if one.tokens_out is not None and 0 <= one.tokens_out < _U64:
        message.tokens_out = one.tokens_out
    return message


def adapter_to_wire(
    probe: Probe, *, known: int, live: int, disabled: bool, troubles: Sequence[Trouble]
) -> pb.Adapter:
    """An adapter: what was found of its program, and how many conversations are known."""
    return pb.Adapter(
        name=probe.adapter,
        title=probe.title,
        installed=probe.installed,
        path=text(probe.path),
        version=text(probe.version),
        verified=probe.verified,
        abilities=probe.abilities,
        places=map(text, probe.places),
        agent_sessions=known,
        live=live,
        disabled=disabled,
        problems=map(trouble_to_wire, troubles),
    )


def _tool_to_wire(one: ToolUse) -> pb.ToolUse:
    return pb.ToolUse(
        id=text(one.id), name=text(one.name), content=text(one.content), result=one.result, failed=one.failed
    )


def _statuses(numbers: Iterable[int]) -> frozenset[AgentSessionStatus]:
    named = [number for number in numbers if number != pb.AGENT_SESSION_STATUS_UNSPECIFIED]
    try:
        return frozenset(_STATUS_FROM_WIRE[number] for number in named)
    except KeyError as error:
        raise InvalidArgument(
            "status_invalid",
            f"no status of agent sessions has the number {error.args[0]}",
            hint="statuses: " + ", ".join(AgentSessionStatus),
        ) from error


def _folder(path: str) -> str:
    if not path:
        return ""
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument(
            "path_invalid",
            f"not an absolute path: {path[:200]!r}",
            hint="give the absolute path of a folder",
            fields={"path": path[:200]},
        )
    # Two leading slashes mean something of their own to POSIX, and nothing to people.
    return "/" + os.path.normpath(path).lstrip("/")


def _moment(when: Timestamp) -> datetime:
    try:
        return when.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            "time_invalid", f"no moment that can be: {error}", hint="from the year 1 to the year 9999"
        ) from error


def _set_time(target: Timestamp, when: datetime | None) -> None:
    """As ``timestamp``, without a message in between."""
    if when is not None:
        since = when - _EPOCH
        target.seconds = since.days * 86_400 + since.seconds
        target.nanos = since.microseconds * 1_000
        target.SetInParent()


def _shortened(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= _PROMPT_MAX else line[: _PROMPT_MAX - 1] + "…"
