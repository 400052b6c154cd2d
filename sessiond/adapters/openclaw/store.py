"""OpenClaw's databases: one for each of its agents, with sessions and the events of their transcripts."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from sessiond.adapters.reading import texts
from sessiond.adapters.reading.databases import Database, columns_of
from sessiond.adapters.reading.objects import Json, decode_object, encoded, inner
from sessiond.adapters.reading.sqlite import TRANSCRIPT_MAX, read_database, within
from sessiond.model.agent_session import Found, Message, Problem, ToolUse, Transcript, Turn

ADAPTER: Final = "openclaw"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_BATCH: Final = 250
_NEEDED: Final = {
    "session_windows": {"session_id", "session_key", "created_at", "updated_at"},
    "session_nodes": {"session_key", "current_session_id"},
    "transcript_events": {"session_id", "seq", "event_json"},
}
_WINDOW: Final = (
    "status",
    "started_at",
    "ended_at",
    "model_provider",
    "model",
    "channel",
    "previous_session_id",
)
_NODE: Final = (
    "display_name",
    "label",
    "spawned_by",
    "parent_session_key",
    "fork_source_session_id",
    "archived_at",
)
# An event may be compressed, and is NULL here then: it is as if it were not there.
_EVENT: Final = (
    f"(SELECT {within('event_json')} "  # noqa: S608
    "FROM transcript_events WHERE session_id = w.session_id AND {test} ORDER BY seq {way} LIMIT 1)"
)
_USER: Final = 'instr(event_json, \'"role":"user"\')'
_MESSAGE: Final = 'instr(event_json, \'"type":"message"\')'
_HEADER: Final = "seq = 0"


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation, and when the program last wrote of it in milliseconds since 1970."""

    found: Found
    updated: int


def is_id(value: object) -> bool:
    """Whether it can be the id of a session: it becomes a word of command lines."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


class Store(Database[Row]):
    """One agent's database."""

    def __init__(self, path: str) -> None:
        super().__init__(ADAPTER, path)
        self.written: set[str] = set()
        """Ids of what was seen to change since it was read first; for the reader to clear."""
        self._known = False

    def transcript(self, session: str, tail: int) -> Transcript:
        """The last messages of one conversation. Raises OSError, sqlite3.Error."""
        return read_database(self.path, lambda connection: _transcript(connection, self.path, session, tail))

    def _read(self) -> Iterator[tuple[list[Row], list[str]]]:
        outline, odd = read_database(self.path, _outline)
        gone = [id for id in self.rows if id not in outline]
        for id in gone:
            del self.rows[id]
        if gone:
            yield [], gone
        # What runs is read each time: its events may come without a word in its session's row.
        changed = [
            id
            for id, updated in outline.items()
            if (row := self.rows.get(id)) is None or row.updated != updated or row.found.turn is not Turn.DONE
        ]
        for start in range(0, len(changed), _BATCH):
            batch = changed[start : start + _BATCH]
            read = read_database(self.path, partial(_rows, path=self.path, ids=tuple(batch)))
            if self._known:
                self.written |= {row.found.id for row in read if self.rows.get(row.found.id) != row}
            self.rows.update((row.found.id, row) for row in read)
            yield read, []
        self._known = True
        self._well(odd)


def _outline(connection: sqlite3.Connection) -> tuple[dict[str, int], int]:
    columns_of(connection, _NEEDED)
    outline: dict[str, int] = {}
    odd = 0
    for row in connection.execute("SELECT session_id, updated_at FROM session_windows ORDER BY created_at"):
        if is_id(row["session_id"]):
            outline[row["session_id"]] = _number(row["updated_at"])
        else:
            odd += 1
    return outline, odd


def _rows(connection: sqlite3.Connection, path: str, ids: tuple[str, ...]) -> list[Row]:
    there = columns_of(connection, _NEEDED)
    columns = [f"w.{name}" if name in there["session_windows"] else f"NULL AS {name}" for name in _WINDOW]
    columns += [f"n.{name}" if name in there["session_nodes"] else f"NULL AS {name}" for name in _NODE]
    columns += [
        _EVENT.format(test=test, way=way) + f" AS {name}"
        for name, test, way in (
            ("header", _HEADER, ""),
            ("first_prompt", _USER, ""),
            ("last_prompt", _USER, "DESC"),
            ("last_message", _MESSAGE, "DESC"),
        )
    ]
    # Columns are from the tuples above, ids are bound.
    query = (
        f"SELECT w.session_id, w.session_key, w.created_at, w.updated_at, {', '.join(columns)} "  # noqa: S608
        "FROM session_windows w LEFT JOIN session_nodes n ON n.session_key = w.session_key "
        f"WHERE w.session_id IN ({', '.join('?' * len(ids))}) ORDER BY w.created_at"
    )
    rows = connection.execute(query, ids).fetchall()
    keys = {row[key] for row in rows for key in ("spawned_by", "parent_session_key") if row[key]}
    current = dict(
        connection.execute(
            f"SELECT session_key, current_session_id FROM session_nodes "  # noqa: S608
            f"WHERE session_key IN ({', '.join('?' * len(keys))})",
            tuple(keys),
        ).fetchall()
    )
    return [_row(row, path, current) for row in rows]


def _row(row: sqlite3.Row, path: str, current: Mapping[object, object]) -> Row:
    last = inner(decode_object(row["last_message"]), "message")
    status = texts.as_text(row["status"])
    parent = row["fork_source_session_id"] or current.get(row["spawned_by"] or row["parent_session_key"])
    provider, model = texts.as_text(row["model_provider"]), texts.as_text(row["model"])
    turn, activity = _turn(status, last)
    native = {"key": texts.shorten(texts.as_text(row["session_key"]))}
    if row["channel"]:
        native["channel"] = texts.shorten(str(row["channel"]))
    if status:
        native["status"] = texts.shorten(status)
    archived = texts.from_milliseconds(row["archived_at"])
    if archived is not None:
        native["archived"] = archived.isoformat()
    title = texts.as_text(row["label"]) or texts.as_text(row["display_name"])
    id = row["session_id"]
    found = Found(
        adapter=ADAPTER,
        id=id,
        cwd=texts.absolute(decode_object(row["header"]).get("cwd")),
        model=texts.shorten(f"{provider}/{model}" if provider and model else model),
        title=texts.shorten(title) if not title.endswith(id) else "",
        first_prompt=texts.shorten(_said(inner(decode_object(row["first_prompt"]), "message"))),
        last_prompt=texts.shorten(_said(inner(decode_object(row["last_prompt"]), "message"))),
        started_at=texts.from_milliseconds(row["created_at"]),
        updated_at=texts.from_milliseconds(row["updated_at"]),
        ended_at=texts.from_milliseconds(row["ended_at"]) if turn is Turn.DONE else None,
        parent=parent if isinstance(parent, str) and is_id(parent) and parent != id else "",
        turn=turn,
        activity=activity,
        native=native,
        source=path,
    )
    return Row(found, _number(row["updated_at"]))


def _turn(status: str, last: Json) -> tuple[Turn, str]:
    """By the status that a gateway writes; by the last message where an embedded agent writes none."""
    if status and status != "running":
        return Turn.DONE, ""
    role = last.get("role")
    if role == "assistant" and not status:
        if last.get("stopReason") != "toolUse":
            return Turn.DONE, ""
        calls = [item for item in _items(last) if item.get("type") == "toolCall"]
        name = texts.shorten(texts.as_text(calls[-1].get("name")), 80) if calls else ""
        return Turn.WORKING, f"using {name}" if name else "using a tool"
    return (Turn.WORKING, "thinking") if role or status else (Turn.UNKNOWN, "")


def _transcript(connection: sqlite3.Connection, path: str, session: str, tail: int) -> Transcript:
    columns_of(connection, _NEEDED)
    # Compressed events may be messages too.
    rows = connection.execute(
        f"SELECT {within('event_json')} AS event, event_json IS NULL AS compressed "  # noqa: S608
        f"FROM transcript_events WHERE session_id = ? AND (event_json IS NULL OR {_MESSAGE}) "
        "ORDER BY seq DESC LIMIT ?",
        (session, tail + 1),
    )
    messages: list[Message] = []
    compressed = read = 0
    more = False
    for number, row in enumerate(rows):
        if number == tail or read > TRANSCRIPT_MAX:
            more = True
            break
        compressed += row["compressed"]
        read += len(row["event"] or "")
        message = _message(decode_object(row["event"]))
        if message is not None:
            messages.append(message)
    problems: tuple[Problem, ...] = ()
    if compressed:
        reason = f"{compressed} events of session {session} are compressed and left out"
        problems = (Problem(ADAPTER, "format_newer", reason, path),)
    return Transcript(tuple(messages[::-1]), more, problems)


def _message(event: Json) -> Message | None:
    data = inner(event, "message")
    role = {"user": "user", "assistant": "assistant", "toolResult": "tool", "system": "system"}.get(
        texts.as_text(data.get("role"))
    )
    if role is None:
        return None
    said, was_cut = texts.cut(_said(data))
    thought, cut = texts.cut(
        "\n".join(texts.as_text(i.get("thinking")) for i in _items(data) if i.get("type") == "thinking")
    )
    was_cut |= cut
    tools: list[ToolUse] = []
    if role == "tool":
        content, cut = texts.cut(said, texts.TOOL_MAX)
        call = texts.cut(texts.as_text(data.get("toolCallId")), texts.SHORT)[0]
        tools.append(ToolUse(id=call, content=content, result=True, failed=data.get("isError") is True))
        said, was_cut = "", was_cut | cut
    for item in _items(data):
        if item.get("type") == "toolCall":
            content, cut = texts.cut(encoded(item.get("arguments")), texts.TOOL_MAX)
            call = texts.cut(texts.as_text(item.get("id")), texts.SHORT)[0]
            tools.append(
                ToolUse(id=call, name=texts.shorten(texts.as_text(item.get("name"))), content=content)
            )
            was_cut |= cut
    usage = inner(data, "usage")
    return Message(
        role=role,
        text=said,
        thinking=thought,
        tools=tuple(tools),
        time=texts.from_iso(event.get("timestamp")),
        model=texts.shorten(texts.as_text(data.get("model"))),
        tokens_in=texts.as_count(usage.get("input")),
        tokens_out=texts.as_count(usage.get("output")),
        cut=was_cut,
    )


def _said(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    said = (texts.as_text(item.get("text")) for item in _items(message) if item.get("type") == "text")
    return "\n".join(text for text in said if text)


def _items(message: Json) -> list[Json]:
    content = message.get("content")
    return [item for item in content if isinstance(item, dict)] if isinstance(content, list) else []


def _number(value: object) -> int:
    return texts.as_count(value) or 0
