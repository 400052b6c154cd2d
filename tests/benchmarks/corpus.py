"""Many conversations on disk, made of what the real programs wrote (tests/fixtures), made long and many."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EACH = 1000
PROJECTS = 50
CLAUDE_BYTES = 40 * 1024
# The model's instructions alone are 22 KB; a few turns with calls of tools come to this.
CODEX_BYTES = 100 * 1024
# Messages of an OpenCode conversation, and bytes of what a tool printed in one.
_MESSAGES = 8
_PRINTED = 2048

_FIXTURES = Path(__file__).parents[1] / "fixtures"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_WORK = "-rw-r--r-- 1 user user 4096 Nov 21 16:23 src/module.py: 200 lines, 17 functions, \\u00fc\\n"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where it lies: files of the two programs that write files, and the third one's database."""

    claude: Sequence[str]
    codex: Sequence[str]
    opencode: str

    @property
    def tops(self) -> list[Path]:
        """The folder of each program."""
        return [Path(self.claude[0]).parents[2], Path(self.codex[0]).parents[4], Path(self.opencode).parent]

    @property
    def folders(self) -> list[str]:
        """All folders of it."""
        return [folder for top in self.tops for folder, _, _ in os.walk(top)]


def lay(home: Path, each: int = EACH) -> Corpus:
    """Write it below a home that holds none of these programs' files yet."""
    return Corpus(
        [str(path) for path in _claude(home / ".claude" / "projects", each)],
        [str(path) for path in _codex(home / ".codex" / "sessions", each)],
        str(_opencode(home / ".local" / "share" / "opencode", each)),
    )


def _project(number: int) -> str:
    return f"/home/user/project-{number % PROJECTS:02}"


def _own(text: str, number: int) -> str:
    """A conversation's text as that of another one: ids, folder and day are its own."""
    text = _UUID.sub(lambda found: f"{number:08x}{found[1]}", text)
    text = text.replace("/home/user/project", _project(number))
    return text.replace("2026-11-21T", f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T")


def _claude(folder: Path, each: int) -> Iterator[Path]:
    source = _FIXTURES / "claude_code" / "projects" / "-home-user-project"
    lines = (source / "e49b8ab1-6145-42ec-bedb-1457e1680b68.jsonl").read_text().splitlines()
    # What was asked for first, and its answer; then calls of tools with long results; then how it ended.
    result = next(line for line in lines if '"tool_result"' in line)
    call = next(line for line in lines if '"tool_use"' in line and '"assistant"' in line)
    turn = [call, _prolonged(result, _WORK * 40)]
    begin, end = lines[:14], lines[14:]
    text = _filled(begin, turn, end, CLAUDE_BYTES)
    for number in range(each):
        place = folder / f"-home-user-project-{number % PROJECTS:02}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{number:08x}-6145-42ec-bedb-1457e1680b68.jsonl"
        path.write_text(_own(text, number))
        yield path


def _codex(folder: Path, each: int) -> Iterator[Path]:
    done = (_FIXTURES / "codex" / "done.jsonl").read_text().splitlines()
    called = (_FIXTURES / "codex" / "answered.jsonl").read_text().splitlines()
    thread = json.loads(done[0])["payload"]["id"]
    other = json.loads(called[0])["payload"]["id"]
    called = [line.replace(other, thread) for line in called]
    output = next(line for line in called if '"function_call_output"' in line)
    turn = [
        _prolonged(line, _WORK * 30) if line == output else line
        for line in (called[1], called[5], *called[7:])
    ]
    text = _filled(done[:9], turn, done[1:2] + done[9:], CODEX_BYTES)
    for number in range(each):
        day = number % 28 + 1
        place = folder / "2026" / f"{number % 12 + 1:02}" / f"{day:02}"
        place.mkdir(parents=True, exist_ok=True)
        id = f"{number:08x}{thread[8:]}"
        path = place / f"rollout-2026-{number % 12 + 1:02}-{day:02}T16-18-26-{id}.jsonl"
        path.write_text(_own(text, number))
        yield path


def _prolonged(line: str, text: str) -> str:
    """A tool's result with more in it: the texts of both programs that may be long."""
    value = json.loads(line)
    longer = json.loads(f'"{text}"')

    def grow(part: Any) -> Any:
        if isinstance(part, dict):
            return {
                key: longer if key in ("output", "content", "stdout") and isinstance(one, str) else grow(one)
                for key, one in part.items()
            }
        return [grow(one) for one in part] if isinstance(part, list) else part

    return json.dumps(grow(value), separators=(",", ":"))


def _filled(begin: Sequence[str], turn: Sequence[str], end: Sequence[str], size: int) -> str:
    """Lines with as many turns between their beginning and end as there is room for."""
    fixed = sum(len(line) + 1 for line in (*begin, *end))
    count = max(1, (size - fixed) // sum(len(line) + 1 for line in turn))
    lines = [*begin, *(line for _ in range(count) for line in turn), *end]
    missing = size - sum(len(line) + 1 for line in lines)
    if missing > 0:
        # The last result is longer by what is missing.
        at = len(begin) + len(turn) * count - 1
        while _WORK[:40] not in lines[at]:
            at -= 1
        lines[at] = lines[at].replace(_WORK[:40], "x" * missing + _WORK[:40], 1)
    return "\n".join(lines) + "\n"


def _opencode(folder: Path, each: int) -> Path:
    """The real schema, filled with the real rows of one conversation."""
    source = _FIXTURES / "opencode"
    rows = json.loads((source / "rows.json").read_text())
    session = rows["session"][3]
    messages = [one for one in rows["message"] if one["session_id"] == session["id"]]
    parts = {
        one["id"]: [part for part in rows["part"] if part["message_id"] == one["id"]] for one in messages
    }
    folder.mkdir(parents=True)
    path = folder / "opencode.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript((source / "schema.sql").read_text())
        for one in rows["project"]:
            _insert(database, "project", one)
        for number in range(each):
            _converse(database, number, session, messages, parts)
    return path


def _converse(
    database: sqlite3.Connection,
    number: int,
    session: dict[str, Any],
    messages: Sequence[dict[str, Any]],
    parts: dict[str, list[dict[str, Any]]],
) -> None:
    """One conversation of some turns."""
    id = f"ses_{number:08x}{session['id'][12:]}"
    later = number * 60_000
    when = {key: session[key] + later for key in ("time_created", "time_updated")}
    _insert(database, "session", {**session, **when, "id": id, "directory": _project(number)})
    for count in range(_MESSAGES):
        message = messages[count % len(messages)]
        own = f"msg_{number:08x}{count:02x}{message['id'][14:]}"
        when = {key: message[key] + later + count for key in ("time_created", "time_updated")}
        _insert(database, "message", {**message, **when, "id": own, "session_id": id})
        for part in parts[message["id"]]:
            data = part["data"]
            if '"tool"' in data:
                data = _prolonged(data, _WORK * (_PRINTED // len(_WORK)))
            place = f"prt_{number:08x}{count:02x}{part['id'][14:]}"
            more = {"id": place, "session_id": id, "message_id": own, "data": data}
            _insert(database, "part", {**part, **when, **more})


def _insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    columns = ", ".join(row)
    # Names of columns are those of the fixture.
    query = f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(row))})"
    database.execute(query, list(row.values()))
