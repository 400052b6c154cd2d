"""The tables of what is kept beside conversations. Called in the store's thread."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence

from sessiond.model.agent_session import Key, Overlay
from sessiond.store.columns import moment, stamp

_COLUMNS = 'adapter, id, session, agent, prompt, "group", cwd, spec, launched_at, missing_since'


def read_all(database: sqlite3.Connection) -> list[Overlay]:
    """Every overlay; the caller is in a transaction."""
    rows = database.execute(f"SELECT {_COLUMNS} FROM overlay ORDER BY adapter, id").fetchall()  # noqa: S608
    labels = _pairs(database.execute("SELECT adapter, id, key, value FROM overlay_label"))
    annotations = _pairs(database.execute("SELECT adapter, id, key, value FROM overlay_annotation"))
    return [
        Overlay(
            adapter=adapter,
            id=conversation,
            session=session,
            agent=agent,
            prompt=prompt,
            labels=labels.get((adapter, conversation), {}),
            annotations=annotations.get((adapter, conversation), {}),
            group=group,
            cwd=cwd,
            spec=spec,
            launched_at=moment(launched),
            missing_since=moment(missing),
        )
        for adapter, conversation, session, agent, prompt, group, cwd, spec, launched, missing in rows
    ]


def put(database: sqlite3.Connection, overlay: Overlay, instead_of: Key | None) -> None:
    """Replace one whole; the caller is in a transaction."""
    delete(database, [overlay.key] if instead_of is None else [overlay.key, instead_of])
    database.execute(
        f"INSERT INTO overlay ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            overlay.adapter,
            overlay.id,
            overlay.session,
            overlay.agent,
            overlay.prompt,
            overlay.group,
            overlay.cwd,
            overlay.spec,
            stamp(overlay.launched_at),
            stamp(overlay.missing_since),
        ),
    )
    for table, pairs in (("overlay_label", overlay.labels), ("overlay_annotation", overlay.annotations)):
        rows = [(*overlay.key, key, value) for key, value in pairs.items()]
        database.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)  # noqa: S608


def delete(database: sqlite3.Connection, keys: Sequence[Key]) -> None:
    """Forget these; the caller is in a transaction."""
    database.executemany("DELETE FROM overlay WHERE adapter = ? AND id = ?", keys)


def _pairs(rows: sqlite3.Cursor) -> Mapping[Key, dict[str, str]]:
    found: dict[Key, dict[str, str]] = defaultdict(dict)
    for adapter, conversation, key, value in rows:
        found[adapter, conversation][key] = value
    return found
