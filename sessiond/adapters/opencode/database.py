"""OpenCode's database: all conversations of one file, read again only as far as they changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sessiond.adapters.opencode.rows import (
    ADAPTER,
    Row,
    is_id,
    message_of,
    model_of,
    origin_of,
    prompt_of,
    sent,
    turn_of,
)
from sessiond.adapters.reading import databases, texts
from sessiond.adapters.reading.databases import columns_of
from sessiond.adapters.reading.objects import decode_object, inner
from sessiond.adapters.reading.sqlite import TRANSCRIPT_MAX, read_database, within
from sessiond.model.agent_session import Found, Message, Turn

# So many conversations are read at once: each reading has a deadline of its own, and each is progress.
_BATCH: Final = 250
# Columns of `session`; older and newer releases have some of them.
_COLUMNS: Final = (
    "parent_id",
    "project_id",
    "slug",
    "directory",
    "title",
    "version",
    "agent",
    "model",
    "cost",
    "tokens_input",
    "tokens_output",
    "tokens_reasoning",
    "tokens_cache_read",
    "tokens_cache_write",
    "time_created",
    "time_updated",
    "time_archived",
)
_NEEDED: Final = {
    "session": {"id", "directory", "time_created", "time_updated"},
    "message": {"id", "session_id", "time_created", "data"},
    "part": {"id", "message_id", "data"},
}
# A message or a part may hold whole files; which one is wanted is told without decoding it.
_ROWS: Final = """
SELECT s.id, {columns}, l.id AS last_id, {last} AS last_data, f.time_created AS first_time,
  (SELECT {data} FROM part WHERE message_id = f.id AND {prompt} ORDER BY id LIMIT 1) AS first_prompt,
  (SELECT {data} FROM part WHERE message_id = u.id AND {prompt} ORDER BY id LIMIT 1) AS last_prompt
FROM session s
LEFT JOIN message l ON l.id = (SELECT id FROM message WHERE session_id = s.id
  ORDER BY time_created DESC, id DESC LIMIT 1)
LEFT JOIN message f ON f.id = (SELECT id FROM message WHERE session_id = s.id AND {user}
  ORDER BY time_created, id LIMIT 1)
LEFT JOIN message u ON u.id = (SELECT id FROM message WHERE session_id = s.id AND {user}
  ORDER BY time_created DESC, id DESC LIMIT 1)
WHERE s.id IN ({ids}) ORDER BY s.time_created
"""
_USER: Final = 'instr(data, \'"role":"user"\')'
_PROMPT: Final = 'instr(data, \'"type":"text"\') AND NOT instr(data, \'"synthetic":true\')'
_PARTS: Final = f"SELECT {within('data')} FROM part WHERE message_id = ? ORDER BY id DESC LIMIT ?"  # noqa: S608
# Parts that tell what a message is at, and those of one that are read.
_PARTS_NOW, _PARTS_MAX = 20, 200


class Database(databases.Database[Row]):
    """One file."""

    def __init__(self, path: str) -> None:
        super().__init__(ADAPTER, path)
        self._messages = 0
        self._firsts: dict[int, set[str]] = {}

    def messages(self, session: str, tail: int) -> tuple[list[Message], bool]:
        """The last messages of one conversation, and whether there are more. Raises OSError,
        sqlite3.Error."""
        return read_database(self.path, lambda connection: _messages(connection, session, tail))

    def _read(self) -> Iterator[tuple[list[Row], list[str]]]:
        outline, added, newest, odd, columns = read_database(
            self.path, lambda connection: _outline(connection, self._messages)
        )
        gone = [id for id in self.rows if id not in outline]
        for id in gone:
            self._forget(id)
        if gone:
            yield [], gone
        # What works may have ended without a word in its session's row.
        changed = [
            id
            for id, updated in outline.items()
            if (row := self.rows.get(id)) is None
            or row.updated != updated
            or id in added
            or row.found.turn in (Turn.WORKING, Turn.WAITING)
        ]
        for start in range(0, len(changed), _BATCH):
            batch = changed[start : start + _BATCH]
            read = read_database(self.path, partial(_rows, path=self.path, ids=batch, there=columns))
            yield [self._take(row) for row in read], []
        self._messages = newest
        self._well(odd)

    def _take(self, row: Row) -> Row:
        self._forget(row.found.id)
        if row.first_message:
            same = self._firsts.setdefault(row.first_message, set())
            if not row.found.parent and same:
                origin = origin_of(row, (self.rows[id] for id in same))
                row = replace(row, found=replace(row.found, parent=origin))
            same.add(row.found.id)
        self.rows[row.found.id] = row
        return row

    def _forget(self, id: str) -> None:
        row = self.rows.pop(id, None)
        if row is not None and row.first_message:
            same = self._firsts[row.first_message]
            same.discard(id)
            if not same:
                del self._firsts[row.first_message]


def _outline(
    connection: sqlite3.Connection, newest: int
) -> tuple[dict[str, int], set[str], int, int, Collection[str]]:
    """Each conversation with the time of its last change, those with messages that were added since one,
    the newest message, how many have no usable id, and the columns."""
    columns = columns_of(connection, _NEEDED)["session"]
    outline: dict[str, int] = {}
    odd = 0
    for row in connection.execute("SELECT id, time_updated FROM session ORDER BY time_created"):
        if is_id(row["id"]):
            outline[row["id"]] = _number(row["time_updated"])
        else:
            odd += 1
    latest = _number(connection.execute("SELECT max(rowid) FROM message").fetchone()[0])
    added: set[str] = set()
    if newest and latest > newest:
        rows = connection.execute("SELECT DISTINCT session_id FROM message WHERE rowid > ?", (newest,))
        added = {row[0] for row in rows}
    return outline, added, latest, odd, columns


def _rows(connection: sqlite3.Connection, path: str, ids: Sequence[str], there: Collection[str]) -> list[Row]:
    columns = ", ".join(f"s.{name}" if name in there else f"NULL AS {name}" for name in _COLUMNS)
    # Columns are from the tuple above, ids are bound.
    query = _ROWS.format(
        columns=columns,
        prompt=_PROMPT,
        user=_USER,
        last=within("l.data"),
        data=within("data"),
        ids=", ".join("?" * len(ids)),
    )
    cursor = connection.execute(query, ids)
    # A row of SQLite's own compares its columns' names at each look.
    cursor.row_factory = None
    names = [one[0] for one in cursor.description]
    return [_row(connection, path, dict(zip(names, row, strict=True))) for row in cursor]


def _row(connection: sqlite3.Connection, path: str, row: Mapping[str, Any]) -> Row:
    last = decode_object(row["last_data"])
    parts: list[Mapping[str, Any]] = []
    if last.get("role") == "assistant" and turn_of(last, ())[0] is Turn.WORKING:
        parts = [decode_object(each[0]) for each in connection.execute(_PARTS, (row["last_id"], _PARTS_NOW))]
    turn, activity = turn_of(last, parts)
    cached = (row["tokens_cache_read"], row["tokens_cache_write"])
    native = {
        name: texts.shorten(str(row[column]))
        for name, column in (
            ("slug", "slug"),
            ("version", "version"),
            ("agent", "agent"),
            ("project", "project_id"),
        )
        if row[column]
    }
    archived = texts.from_milliseconds(row["time_archived"])
    if archived is not None:
        native["archived"] = archived.isoformat()
    title = texts.as_text(row["title"])
    found = Found(
        adapter=ADAPTER,
        id=row["id"],
        cwd=texts.absolute(row["directory"]) or texts.absolute(inner(last, "path").get("cwd")),
        model=model_of(decode_object(row["model"]), last),
        title=texts.shorten(title),
        first_prompt=prompt_of(decode_object(row["first_prompt"])),
        last_prompt=prompt_of(decode_object(row["last_prompt"])),
        started_at=texts.from_milliseconds(row["time_created"]),
        updated_at=texts.from_milliseconds(row["time_updated"]),
        tokens_in=sent(row["tokens_input"], *cached),
        tokens_out=sent(row["tokens_output"], row["tokens_reasoning"]),
        cost_usd=texts.as_amount(row["cost"]),
        parent=row["parent_id"] if is_id(row["parent_id"]) else "",
        turn=turn,
        activity=activity,
        native=native,
        source=path,
    )
    return Row(
        found, title, _number(row["time_created"]), _number(row["time_updated"]), _number(row["first_time"])
    )


def _messages(connection: sqlite3.Connection, session: str, tail: int) -> tuple[list[Message], bool]:
    columns_of(connection, _NEEDED)
    rows = connection.execute(
        f"SELECT id, {within('data')} AS data FROM message WHERE session_id = ? "  # noqa: S608
        "ORDER BY time_created DESC, id DESC LIMIT ?",
        (session, tail + 1),
    )
    messages: list[Message] = []
    read = 0
    for number, row in enumerate(rows):
        if number == tail or read > TRANSCRIPT_MAX:
            return messages[::-1], True
        read += len(row["data"] or "")
        parts = []
        for (part,) in connection.execute(_PARTS, (row["id"], _PARTS_MAX)):
            read += len(part or "")
            if read > TRANSCRIPT_MAX:
                break
            parts.append(decode_object(part))
        message = message_of(decode_object(row["data"]), parts[::-1])
        if message is not None:
            messages.append(message)
    return messages[::-1], False


def _number(value: object) -> int:
    return texts.as_count(value) or 0
