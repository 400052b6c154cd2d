"""A program's own database, read without writing to it and without leaving anything beside it."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

from sessiond.adapters.reading.ends import irregular, stamp

T = TypeVar("T")

# Seconds: for a writer that holds the database, and for one reading of it in all, tries and all.
_BUSY: Final = 0.25
_MOST: Final = 2.0
# Steps of SQLite's machine between two looks at the clock: each may look through a text of that length.
_STEPS: Final = 1_000
# No text of a program's own is longer; what is, would be all our memory.
_LENGTH_MAX: Final = 64 * 1024 * 1024
# Characters of a value that is decoded, and of all that are read for one transcript.
VALUE_MAX: Final = 4 * 1024 * 1024
TRANSCRIPT_MAX: Final = 32 * 1024 * 1024
_TRIES: Final = 3
# Times of files advance in steps of the kernel's clock: what changed within one may do so once more unseen.
_STEP_NS: Final = 20_000_000


def read_database(path: str, work: Callable[[sqlite3.Connection], T]) -> T:
    """What ``work`` returns of a connection that can only read; it is called once more where a writer came in
    between. Raises OSError, sqlite3.Error.

    Without a write-ahead log all is in the file itself, which is then read as one that does not change:
    otherwise SQLite would make a log and its index in the program's folder.
    """
    until = time.monotonic() + _MOST
    for left in reversed(range(_TRIES)):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise irregular(path)
        logged = _logged(path)
        how = "mode=ro" if logged else "mode=ro&immutable=1"
        try:
            with closing(_connect(path, how, until)) as connection:
                answer = work(connection)
        except UnicodeDecodeError as error:
            # Not of values, of which any can be read: of what its tables and columns are called.
            raise sqlite3.DatabaseError("names in it are no UTF-8") from error
        except sqlite3.DatabaseError:
            if logged or left == 0 or not _changed(path, status):
                raise
            continue
        if logged or left == 0 or not _changed(path, status):
            return answer
    raise AssertionError("the last try returns or raises")


def within(column: str) -> str:
    """A column of text in a query, NULL where it is longer than what anybody says: whole files, images."""
    return f"CASE WHEN length({column}) <= {VALUE_MAX} THEN {column} END"


def database_stamp(path: str) -> tuple[object, ...] | None:
    """What tells a database with its log from what they were before; None where that cannot be told, or where
    they changed this very moment and may change once more without showing it."""
    told: list[object] = []
    for each in (path, path + "-wal"):
        try:
            status = os.stat(each)
        except FileNotFoundError:
            told.append(None)
        except OSError:
            return None
        else:
            if time.time_ns() - status.st_ctime_ns < _STEP_NS:
                return None
            told.append(stamp(status))
    return tuple(told)


def _escaped(path: str) -> str:
    """A path in a URI of SQLite's, in which these three mean something."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _logged(path: str) -> bool:
    """Whether there is a log with something in it, or a journal of what was not finished."""
    for ending in ("-wal", "-journal"):
        try:
            if os.stat(path + ending).st_size:
                return True
        except FileNotFoundError:
            continue
    return False


def _changed(path: str, before: os.stat_result) -> bool:
    now = os.stat(path)
    return (now.st_ino, now.st_size, now.st_mtime_ns) != (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    ) or _logged(path)


def _connect(path: str, how: str, until: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_escaped(os.path.abspath(path))}?{how}", uri=True, timeout=_BUSY, isolation_level=None
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LENGTH_MAX)
        connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        # What a hostile schema computes (views, triggers, defaults) may call nothing of ours.
        connection.execute("PRAGMA trusted_schema=0")
        connection.execute("PRAGMA query_only=1")
    except BaseException:
        connection.close()
        raise
    return connection
