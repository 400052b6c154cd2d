"""From SQLite's errors to errors that a person can act on."""

from __future__ import annotations

import os
import shlex
import sqlite3
from pathlib import Path

from sessiond.errors import Exhausted, PermissionDenied, SessiondError, Unreachable

# Fewer free bytes than this is a full disk, whatever SQLite calls it.
_FULL_BELOW = 64 * 1024


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault: no database, or a broken one."""
    return _primary(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def from_sqlite(error: sqlite3.Error, path: Path) -> SessiondError:
    """The error to raise for what SQLite said: Unreachable `database_locked`, Exhausted `disk_full`,
    PermissionDenied `database_denied`, or the root error `database_damaged` or `database_failed`."""
    fields = {"path": str(path)}
    code = _primary(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return locked(path)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _full(path)):
        return Exhausted(
            "disk_full",
            f"no room to write {path}; nothing was changed",
            hint=f"make room: df -h {shlex.quote(str(path.parent))}",
            fields=fields,
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return denied(path, str(error))
    if is_damage(error):
        return SessiondError(
            "database_damaged",
            f"{path} is damaged: {error}",
            hint="systemctl --user restart sessiond sets it aside and makes a new one",
            fields=fields,
        )
    return SessiondError("database_failed", f"{path}: {error}", fields=fields)


def locked(path: Path) -> Unreachable:
    """The error where another process holds the database."""
    return Unreachable(
        "database_locked",
        f"another process holds {path}",
        hint=f"see which one: fuser -v {shlex.quote(str(path))}",
        fields={"path": str(path)},
    )


def denied(path: Path, reason: str) -> PermissionDenied:
    """The error where the file or its folder may not be written."""
    return PermissionDenied(
        "database_denied",
        f"{path} cannot be opened for writing: {reason}",
        hint=f"look at owners and modes: ls -la {shlex.quote(str(path.parent))}",
        fields={"path": str(path)},
    )


def _primary(error: sqlite3.Error) -> int:
    """SQLite's own code without its details; 0 where the error is the driver's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _full(path: Path) -> bool:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _FULL_BELOW
