"""What the database looks like: one explicit list of migrations, none ever changed once released.

It holds what the owner of a session or a conversation chose, and when it was used or launched. It holds no
state, no pid and no unit: those are asked of the init system and of adapters, and a test reads this schema to
make sure.
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
    (
        """CREATE TABLE overlay (
            adapter TEXT NOT NULL,
            id TEXT NOT NULL,
            session TEXT NOT NULL,
            agent TEXT NOT NULL,
            prompt TEXT NOT NULL,
            "group" TEXT NOT NULL,
            cwd TEXT NOT NULL,
            spec TEXT NOT NULL,
            launched_at INTEGER CHECK (typeof(launched_at) IN ('integer', 'null')),
            missing_since INTEGER CHECK (typeof(missing_since) IN ('integer', 'null')),
            PRIMARY KEY (adapter, id)
        )""",
        """CREATE TABLE overlay_label (
            adapter TEXT NOT NULL,
            id TEXT NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (adapter, id, key),
            FOREIGN KEY (adapter, id) REFERENCES overlay (adapter, id) ON DELETE CASCADE
        ) WITHOUT ROWID""",
        """CREATE TABLE overlay_annotation (
            adapter TEXT NOT NULL,
            id TEXT NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY (adapter, id, key),
            FOREIGN KEY (adapter, id) REFERENCES overlay (adapter, id) ON DELETE CASCADE
        ) WITHOUT ROWID""",
    ),
)

FORMAT = len(MIGRATIONS)
TABLES = (
    "session",
    "label",
    "annotation",
    "active_session",
    "overlay",
    "overlay_label",
    "overlay_annotation",
)
