"""The schema, as one explicit list of steps; a database's user_version says how many it has taken.

Nothing that the init system knows has a column here: no state, no pid, no unit.
"""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE session_marks (
        session TEXT PRIMARY KEY,
        archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1)),
        last_accessed TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE labels (
        session TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (session, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE annotations (
        session TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (session, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE active_session (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        session TEXT NOT NULL
    ) STRICT;
    """,
)
