"""The metadata store on SQLite: one connection, used by one thread of its own, in order."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sessiond.errors import InvalidArgument, Unreachable
from sessiond.model.agent_session import Key, Overlay
from sessiond.model.session import Metadata
from sessiond.store import overlays
from sessiond.store.columns import moment, stamp
from sessiond.store.faults import from_sqlite
from sessiond.store.opening import open_database

log = logging.getLogger(__name__)

# Seconds that a write waits for another process to let go of the database.
BUSY_TIMEOUT = 5.0

_T = TypeVar("_T")


class SqliteStore:
    """Implements ``MetadataStore`` and ``OverlayStore``. A call that is cancelled may still be carried out,
    whole."""

    def __init__(self, path: Path, connection: sqlite3.Connection, note: str) -> None:
        self._path = path
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._closed = False
        self.note = note

    @classmethod
    async def open(cls, path: Path, *, busy_timeout: float = BUSY_TIMEOUT) -> SqliteStore:
        """Open the database, made where missing; a damaged one is set aside, and ``note`` says so.

        Raises Unreachable `database_locked`, Exhausted `disk_full`, PermissionDenied `database_denied`,
        Unsupported `database_newer`.
        """
        connection, note = await asyncio.to_thread(open_database, path, busy_timeout)
        if note:
            log.error("%s", note)
        return cls(path, connection, note)

    # ---- sessions

    async def all(self) -> dict[str, Metadata]:
        """Every session's metadata."""
        return await self._run(self._all)

    async def put(self, session: str, metadata: Metadata) -> None:
        """Replace one session's metadata whole."""
        await self._run(lambda: self._put(session, metadata))

    async def touch(self, session: str, when: datetime) -> None:
        """Set the last access."""
        await self._write(
            "INSERT INTO session (id, last_accessed) VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET last_accessed = excluded.last_accessed",
            (session, stamp(when)),
        )

    async def delete(self, session: str) -> None:
        """Forget a session."""
        await self._run(lambda: self._delete(session))

    async def active(self) -> str | None:
        """Id of the user's active session."""
        return await self._run(self._active)

    async def set_active(self, session: str | None) -> None:
        """Set or clear the user's active session."""
        if session is None:
            await self._write("DELETE FROM active_session", ())
        else:
            await self._write(
                "INSERT INTO active_session (one, session) VALUES (1, ?)"
                " ON CONFLICT (one) DO UPDATE SET session = excluded.session",
                (session,),
            )

    # ---- conversations

    async def overlays(self) -> Sequence[Overlay]:
        """All that is kept beside conversations."""
        return await self._run(self._overlays)

    async def put_overlay(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Replace one whole, and forget the key that it had."""
        await self._run(lambda: self._put_overlay(overlay, instead_of))

    async def delete_overlays(self, keys: Sequence[Key]) -> None:
        """Forget these."""
        await self._run(lambda: self._delete_overlays(list(keys)))

    # ---- the end

    async def close(self) -> None:
        """Write what is pending and close; idempotent."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._connection.close)
        await asyncio.to_thread(self._thread.shutdown)

    # ---- in the thread

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._closed:
            raise Unreachable("database_closed", f"{self._path} is closed already")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    async def _write(self, statement: str, values: tuple[object, ...]) -> None:
        def work() -> None:
            with self._transaction() as database:
                database.execute(statement, values)

        await self._run(work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except sqlite3.Error as error:
            raise from_sqlite(error, self._path) from error
        except UnicodeEncodeError as error:
            raise InvalidArgument("text_invalid", f"not a text that can be stored: {error.reason}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; on disk when it is left."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            # SQLite ends the transaction by itself for some errors.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """All tables as they were at one moment."""
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("ROLLBACK")

    def _all(self) -> dict[str, Metadata]:
        with self._snapshot() as database:
            sessions = database.execute("SELECT id, archived, last_accessed FROM session").fetchall()
            labels = _pairs(database.execute("SELECT session, key, value FROM label"))
            annotations = _pairs(database.execute("SELECT session, key, value FROM annotation"))
        return {
            session: Metadata(
                labels=labels.get(session, {}),
                annotations=annotations.get(session, {}),
                archived=bool(archived),
                last_accessed=moment(used),
            )
            for session, archived, used in sessions
        }

    def _put(self, session: str, metadata: Metadata) -> None:
        row = (session, int(metadata.archived), stamp(metadata.last_accessed))
        with self._transaction() as database:
            database.execute("DELETE FROM session WHERE id = ?", (session,))
            database.execute("INSERT INTO session (id, archived, last_accessed) VALUES (?, ?, ?)", row)
            database.executemany("INSERT INTO label VALUES (?, ?, ?)", _rows(session, metadata.labels))
            database.executemany(
                "INSERT INTO annotation VALUES (?, ?, ?)", _rows(session, metadata.annotations)
            )

    def _delete(self, session: str) -> None:
        with self._transaction() as database:
            database.execute("DELETE FROM session WHERE id = ?", (session,))
            database.execute("DELETE FROM active_session WHERE session = ?", (session,))

    def _overlays(self) -> list[Overlay]:
        with self._snapshot() as database:
            return overlays.read_all(database)

    def _put_overlay(self, overlay: Overlay, instead_of: Key | None) -> None:
        with self._transaction() as database:
            overlays.put(database, overlay, instead_of)

    def _delete_overlays(self, keys: Sequence[Key]) -> None:
        with self._transaction() as database:
            overlays.delete(database, keys)

    def _active(self) -> str | None:
        row = self._connection.execute("SELECT session FROM active_session").fetchone()
        return None if row is None else str(row[0])


def _pairs(rows: sqlite3.Cursor) -> Mapping[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for session, key, value in rows:
        found[session][key] = value
    return found


def _rows(session: str, pairs: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(session, key, value) for key, value in pairs.items()]
