"""Conversations in a program's database: read again only where it changed, its trouble told."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from sessiond.adapters.reading.sqlite import database_stamp
from sessiond.model.agent_session import Found, Problem
from sessiond.ports.discovery import Clear, Told


class HasFound(Protocol):
    """A row of a database as it was read."""

    @property
    def found(self) -> Found:
        """The conversation that it tells of."""
        ...


R = TypeVar("R", bound=HasFound)


class OtherFormat(sqlite3.DatabaseError):
    """The tables are not those that are known."""


class Database(ABC, Generic[R]):
    """One file. ``rows`` is the last good answer, ``problem`` what keeps it from being the present one."""

    def __init__(self, adapter: str, path: str) -> None:
        self.adapter = adapter
        self.path = path
        self.rows: dict[str, R] = {}
        self.problem: Problem | None = None
        self._seen: tuple[object, ...] | None = None

    @abstractmethod
    def _read(self) -> Iterator[tuple[list[R], list[str]]]:
        """What changed, and ids of what is gone, in batches, which ``rows`` has already. Raises OSError,
        sqlite3.Error."""

    def refresh(self) -> Iterator[tuple[list[R], list[str]]]:
        """What changed since the last time, and ids of what is gone, in batches. Opens nothing where file and
        log are as they were."""
        seen = database_stamp(self.path)
        if seen is not None and seen == self._seen:
            return
        self._seen = None
        try:
            yield from self._read()
        except OtherFormat as error:
            self._trouble("format_newer", str(error))
        except sqlite3.OperationalError as error:
            why = str(error)
            self._trouble("file_unreadable", "reading it takes too long" if "interrupted" in why else why)
        except sqlite3.Error as error:
            self._trouble("file_malformed", str(error))
        except OSError as error:
            self._trouble("file_unreadable", error.strerror or str(error))
        else:
            self._seen = seen

    def discover(
        self,
        whole: bool,
        tell: Callable[[Found, str], Iterable[Told]],
        lose: Callable[[str, str], Iterable[Told]],
    ) -> Iterator[Told]:
        """Refresh it; ``tell`` what changed, or all, and ``lose`` what is gone. Both are given the path."""
        before = self.problem
        told: set[str] = set()
        for rows, gone in self.refresh():
            for row in rows:
                told.add(row.found.id)
                yield from tell(row.found, self.path)
            for id in gone:
                yield from lose(id, self.path)
        if whole:
            for id, row in self.rows.items():
                if id not in told:
                    yield from tell(row.found, self.path)
        if self.problem is not None:
            yield self.problem
        elif before is not None:
            yield Clear(self.path)

    def _trouble(self, code: str, reason: str, *, current: bool = False) -> None:
        self.problem = Problem(self.adapter, code, reason, self.path, current)

    def _well(self, odd: int) -> None:
        """All of it was read, but for so many without an id."""
        self.problem = None
        if odd:
            reason = f"{odd} sessions in it have no usable id and are left out"
            self._trouble("file_malformed", reason, current=True)


def columns_of(
    connection: sqlite3.Connection, needed: Mapping[str, Collection[str]]
) -> Mapping[str, Collection[str]]:
    """The columns that these tables have. Raises OtherFormat where one that is needed is not among them."""
    got: dict[str, set[str]] = {}
    for table, names in needed.items():
        got[table] = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
        missing = set(names) - got[table]
        if missing:
            raise OtherFormat(f"its table {table} has no {', '.join(sorted(missing))}")
    return got
