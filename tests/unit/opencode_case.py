"""Databases of OpenCode and OpenClaw with what real runs wrote, for tests of their adapters."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent.parent / "fixtures"

# One that was asked, one forked from it, one that started a subagent, that one, and one that used a tool.
ASKED = "ses_e0119111fffeHD7cgZ3R0H2e4l"
FORKED = "ses_e01125b81ffeGiq1Ht6xoMOMU5"
STARTED = "ses_e01124066ffeqJ11zCTu84TQUW"
SUBAGENT = "ses_e01123785ffew2suENIH4921r8"
TOOL = "ses_e01149002ffeaAQrGtX7VODmZj"
SESSIONS = {ASKED, FORKED, STARTED, SUBAGENT, TOOL}

EMBEDDED = "11111111-2222-4333-8444-555555555555"
BY_GATEWAY = "42111111-2222-4333-8444-555555555555"


def lay_opencode(home: Path, name: str = "opencode.db") -> Path:
    """OpenCode's database below a home."""
    return _lay("opencode", home / ".local/share/opencode" / name)


def lay_openclaw(home: Path, agent: str = "main") -> Path:
    """The database of one of OpenClaw's agents below a home."""
    return _lay("openclaw", home / f".openclaw/agents/{agent}/agent/openclaw-agent.sqlite")


def lay_lock(home: Path, **changes: object) -> Path:
    """OpenClaw's lock, as an embedded agent with pid 4242 holds it, but for the changes."""
    path = home / f".openclaw/tmp/openclaw-{_uid()}/gateway.state.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = json.loads((FIXTURES / "openclaw/gateway.state.lock").read_text())
    lock |= {"stateDir": str(home / ".openclaw"), **changes}
    path.write_text(json.dumps({name: value for name, value in lock.items() if value is not None}))
    return path


def change(path: Path, *statements: str, values: tuple[object, ...] = ()) -> None:
    """Write to a database, as its program does."""
    with closing(_writer(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement, values)


def insert(path: Path, table: str, row: Mapping[str, Any]) -> None:
    """Add a row."""
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    change(path, f"INSERT INTO {table} ({names}) VALUES ({marks})", values=tuple(row.values()))


def _writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    # In the schema's checks, and not in every SQLite.
    connection.create_function("octet_length", 1, lambda value: len(str(value)), deterministic=True)
    return connection


def _lay(program: str, path: Path) -> Path:
    path.parent.mkdir(parents=True)
    tables = json.loads((FIXTURES / program / "rows.json").read_text())
    with closing(_writer(path)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.executescript("BEGIN;" + (FIXTURES / program / "schema.sql").read_text())
        for table, rows in tables.items():
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" * len(row))
                connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
    return path


def _uid() -> int:
    return Path.home().stat().st_uid
