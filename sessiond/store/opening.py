"""Opening the database: made where missing, brought up to date, set aside where damaged."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sessiond.errors import Exhausted, SessiondError, Unsupported
from sessiond.paths import private_folder
from sessiond.store.faults import denied, from_sqlite, is_damage, locked
from sessiond.store.schema import APPLICATION_ID, FORMAT, MIGRATIONS, TABLES

_BESIDE = ("", "-wal", "-shm", "-journal")


class _Damaged(Exception):
    """The file is no database of ours, or a broken one."""


def open_database(path: Path, busy_timeout: float) -> tuple[sqlite3.Connection, str]:
    """A connection ready for use, and why the former file was set aside, or nothing.

    Raises Unreachable `database_locked`, Exhausted `disk_full`, PermissionDenied `database_denied`,
    Unsupported `database_newer`: a newer release's file is refused and left alone, since nothing in it may
    be lost, and who made it can read it.
    """
    try:
        private_folder(path.parent)
        with _alone(path, busy_timeout):
            note = _check(path, busy_timeout)
            return _connect(path, busy_timeout), note
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
    except OSError as error:
        raise _from_os(error, path) from error


@contextmanager
def _alone(path: Path, busy_timeout: float) -> Iterator[None]:
    """Have no other process of ours open the database at the same time."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + busy_timeout
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise locked(path) from None
                time.sleep(0.02)
            else:
                break
        yield
    finally:
        os.close(folder)


def _check(path: Path, busy_timeout: float) -> str:
    """Set a damaged file aside; returns the note that says so."""
    try:
        info = path.stat()
    except FileNotFoundError:
        # A log without its database holds nothing that could be read.
        return _set_aside(path, "it is missing, but its log is not") if _has_log(path) else ""
    if not stat.S_ISREG(info.st_mode):
        return _set_aside(path, "it is not a regular file")
    if info.st_size == 0 and not _has_log(path):
        return ""
    try:
        # Read-only, so that closing it changes nothing in what may have to be set aside; and where there is
        # no log, nobody has it open, so that it can be read without making one.
        alone = not path.with_name(path.name + "-wal").exists()
        with closing(_raw(path, busy_timeout, "ro&immutable=1" if alone else "ro")) as connection:
            _inspect(connection, path)
    except _Damaged as damage:
        return _set_aside(path, str(damage))
    except sqlite3.Error as error:
        if is_damage(error):
            return _set_aside(path, str(error))
        raise
    return ""


def _has_log(path: Path) -> bool:
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _inspect(connection: sqlite3.Connection, path: Path) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and version == 0:
        return
    if application != APPLICATION_ID:
        raise _Damaged("it is another program's database")
    if version > FORMAT:
        raise Unsupported(
            "database_newer",
            f"{path} has format {version}, and this release reads up to {FORMAT}",
            hint="upgrade sessiond, or move the file away to begin without labels and annotations",
            fields={"path": str(path), "format": str(version)},
        )
    said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    if said != "ok":
        raise _Damaged(said)
    if version == FORMAT and not tables >= set(TABLES):
        raise _Damaged("a table is missing")


def _set_aside(path: Path, reason: str) -> str:
    """Rename the database with what belongs to it, so that SQLite's own tools still read it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside, number = path.with_name(f"{path.name}.corrupt-{stamp}"), 1
    while any(os.path.lexists(f"{aside}{tail}") for tail in _BESIDE):
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    for tail in _BESIDE:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{tail}", f"{aside}{tail}")
    _sync(path.parent)
    return f"{path} could not be used ({reason}); it is kept as {aside}, and a new one was begun"


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Open for writing, ours alone to read, in the present format."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    connection = _raw(path, busy_timeout, "rw")
    try:
        # Where there can be no write-ahead log (some network file systems) the old journal serves.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection)
        _sync(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the present format, whole or not at all."""
    if int(connection.execute("PRAGMA user_version").fetchone()[0]) == FORMAT:
        # Another process may hold it for writing; that is no reason not to open it.
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version < FORMAT:
            for statement in (one for step in MIGRATIONS[version:] for one in step):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _raw(path: Path, busy_timeout: float, mode: str) -> sqlite3.Connection:
    # One thread at a time uses it, but not always the same: the one that opens need not be the writer.
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _from_os(error: OSError, path: Path) -> SessiondError:
    fields = {"path": str(path)}
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted("disk_full", f"no room to write {path}", hint="make room", fields=fields)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return denied(path, os.strerror(error.errno))
    return SessiondError("database_failed", f"{path}: {error.strerror or error}", fields=fields)
