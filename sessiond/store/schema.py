"""What the database looks like: one explicit list of migrations, none ever changed once released.

It holds what the owner of a session chose and when it was used. It holds no state, no pid and no unit: those
are asked of the init system, and a test reads this schema to make sure.
"""

from __future__ import annotations

# Marks a file as ours ("sess"), as against any other SQLite database.
APPLICATION_ID = 0x73657373

# The n-th entry brings a database from format n to n + 1; the format is SQLite's user_version.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE session (
            id TEXT NOT NULL PRIMARY KEY,
            archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1)),
            last_accessed INTEGER CHECK (typeof(last_accessed) IN ('integer', 'null'))
        ) WITHOUT ROWID""",
        """CREATE TABLE label (
            session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (session, key)
        ) WITHOUT ROWID""",
        """CREATE TABLE annotation (
            session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (session, key)
        ) WITHOUT ROWID""",
        """CREATE TABLE active_session (
            one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
            session TEXT NOT NULL
        )""",
    ),
)

FORMAT = len(MIGRATIONS)
TABLES = ("session", "label", "annotation", "active_session")
