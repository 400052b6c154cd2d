"""SqliteStore: metadata in one SQLite file in WAL mode, with one writer thread of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeVar

from sessiond.errors import Exhausted, SessiondError, Unreachable, Unsupported
from sessiond.model.session import Metadata
from sessiond.paths import private_folder
from sessiond.store.migrations import MIGRATIONS

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds that a write waits for another process's transaction before it fails.
BUSY_TIMEOUT = 5.0
_COMPANIONS = ("", "-wal", "-shm")


class SqliteStore:
    """ports.MetadataStore on a file. A file that is no database is kept aside, and ``note`` says so."""

    def __init__(
        self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor, note: str
    ) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._closed = False
        self.note = note

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or make the database. Raises Unsupported `database_newer`, Unreachable `database_locked`,
        Exhausted `disk_full`."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            run = asyncio.get_running_loop().run_in_executor
            connection, note = await run(thread, _told(path, lambda: _open(path)))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, connection, thread, note)

    async def all(self) -> dict[str, Metadata]:
        """Every session's metadata."""
        return await self._run(self._all)

    async def put(self, session: str, metadata: Metadata) -> None:
        """Replace one session's metadata whole."""
        await self._run(lambda: self._put(session, metadata))

    async def touch(self, session: str, when: datetime) -> None:
        """Set the last access."""
        await self._run(lambda: self._touch(session, when))

    async def delete(self, session: str) -> None:
        """Forget a session."""
        await self._run(lambda: self._delete(session))

    async def active(self) -> str | None:
        """Id of the user's active session."""
        return await self._run(self._active)

    async def set_active(self, session: str | None) -> None:
        """Set or clear the user's active session."""
        await self._run(lambda: self._set_active(session))

    async def close(self) -> None:
        """Close; idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, _told(self._path, work))

    # ---- on the writer's thread

    def _all(self) -> dict[str, Metadata]:
        labels = self._pairs("labels")
        annotations = self._pairs("annotations")
        rows = self._connection.execute("SELECT session, archived, last_accessed FROM session_marks")
        marks = {session: (bool(archived), when) for session, archived, when in rows}
        return {
            session: Metadata(
                labels.get(session, {}),
                annotations.get(session, {}),
                *_marks(marks.get(session, (False, None))),
            )
            for session in marks.keys() | labels.keys() | annotations.keys()
        }

    def _pairs(self, table: str) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for session, key, value in self._connection.execute(f"SELECT session, key, value FROM {table}"):  # noqa: S608
            found.setdefault(session, {})[key] = value
        return found

    def _put(self, session: str, metadata: Metadata) -> None:
        with self._connection as transaction:
            transaction.execute(
                "INSERT INTO session_marks VALUES (?1, ?2, ?3) ON CONFLICT (session)"
                " DO UPDATE SET archived = ?2, last_accessed = ?3",
                (session, int(metadata.archived), _text(metadata.last_accessed)),
            )
            for table, pairs in (("labels", metadata.labels), ("annotations", metadata.annotations)):
                transaction.execute(f"DELETE FROM {table} WHERE session = ?", (session,))  # noqa: S608
                rows = [(session, key, value) for key, value in pairs.items()]
                transaction.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)  # noqa: S608

    def _touch(self, session: str, when: datetime) -> None:
        with self._connection as transaction:
            transaction.execute(
                "INSERT INTO session_marks (session, last_accessed) VALUES (?1, ?2)"
                " ON CONFLICT (session) DO UPDATE SET last_accessed = ?2",
                (session, _text(when)),
            )

    def _delete(self, session: str) -> None:
        with self._connection as transaction:
            for table in ("session_marks", "labels", "annotations", "active_session"):
                transaction.execute(f"DELETE FROM {table} WHERE session = ?", (session,))  # noqa: S608

    def _active(self) -> str | None:
        row = self._connection.execute("SELECT session FROM active_session").fetchone()
        return None if row is None else str(row[0])

    def _set_active(self, session: str | None) -> None:
        with self._connection as transaction:
            transaction.execute("DELETE FROM active_session")
            if session is not None:
                transaction.execute("INSERT INTO active_session VALUES (1, ?)", (session,))


def _open(path: Path) -> tuple[sqlite3.Connection, str]:
    """The database, migrated; where the file is none, it is kept aside and a new one made."""
    private_folder(path.parent)
    try:
        return _connect(path), ""
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        aside = _keep_aside(path)
        note = f"{path.name} could not be read ({error}); it is kept as {aside.name}, and a new one was made"
        log.error("%s", note)  # noqa: TRY400 - the trace tells nothing that the note does not
        return _connect(path), note


def _connect(path: Path) -> sqlite3.Connection:
    # Made by us first, so that it is never readable by others, not even for a moment.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _check(connection)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if fault != "ok":
        raise sqlite3.DatabaseError(f"damaged: {fault}")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise Unsupported(
            "database_newer",
            f"{path} was written by a newer release (format {version}, this one knows {len(MIGRATIONS)})",
            hint="run that release, or move the file aside: labels and marks are in it, sessions are not",
            fields={"path": str(path)},
        )
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        # One script, one transaction: a kill in the middle leaves the step before.
        connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return type(error) is sqlite3.DatabaseError
    return (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _keep_aside(path: Path) -> Path:
    """Move the database with its companions to a name that is free; returns it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    for tail in _COMPANIONS:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{tail}", f"{aside}{tail}")
    return aside


def _told(path: Path, work: Callable[[], T]) -> Callable[[], T]:
    """The work with SQLite's errors turned into ours."""

    def told() -> T:
        try:
            return work()
        except sqlite3.Error as error:
            raise _error(path, error) from error
        except OSError as error:
            raise SessiondError(
                "database_unusable", f"{path}: {error.strerror}", fields={"path": str(path)}
            ) from error

    return told


def _error(path: Path, error: sqlite3.Error) -> SessiondError:
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    fields = {"path": str(path)}
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unreachable(
            "database_locked",
            f"another process holds {path} locked",
            hint=f"see who has it open: fuser {path}",
            fields=fields,
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return Exhausted(
            "disk_full",
            f"{path} could not be written: {error}",
            hint=f"make room: df -h {path.parent}",
            fields=fields,
        )
    return SessiondError("database_failed", f"{path}: {error}", fields=fields)


def _marks(row: tuple[bool, str | None]) -> tuple[bool, datetime | None]:
    archived, when = row
    return archived, None if when is None else datetime.fromisoformat(when)


def _text(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).isoformat()
