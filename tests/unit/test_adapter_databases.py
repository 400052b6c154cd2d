"""Conversations in a program's database, whichever program's it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sessiond.adapters.reading.databases import Database, columns_of
from sessiond.adapters.reading.sqlite import read_database
from sessiond.model.agent_session import Found, Problem
from sessiond.ports.discovery import Clear, Gone, Told

NEEDED = {"talk": {"id", "title"}}


@dataclass(frozen=True)
class Row:
    found: Found


class Talks(Database[Row]):
    """One table; an empty id is none."""

    def _read(self) -> Iterator[tuple[list[Row], list[str]]]:
        rows = [Row(Found("any", id, title=title)) for id, title in read_database(self.path, _talks) if id]
        gone = self.rows.keys() - {row.found.id for row in rows}
        changed = [row for row in rows if self.rows.get(row.found.id) != row]
        self.rows = {row.found.id: row for row in rows}
        yield changed, sorted(gone)
        self._well(sum(1 for id, _ in read_database(self.path, _talks) if not id))


def _talks(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    columns_of(connection, NEEDED)
    return [tuple(row) for row in connection.execute("SELECT id, title FROM talk ORDER BY id")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "talks.db"
    write(path, "CREATE TABLE talk (id, title, more)", "INSERT INTO talk VALUES ('a', 'A', 0), ('b', 'B', 0)")
    return path


def write(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def told(talks: Talks, whole: bool = False) -> list[Told]:
    def tell(found: Found, path: str) -> list[Told]:
        assert path == talks.path
        return [found]

    def lose(id: str, path: str) -> list[Told]:
        assert path == talks.path
        return [Gone(id)]

    return list(talks.discover(whole, tell, lose))


def test_what_changed_is_told_and_all_where_all_is_wanted(path: Path) -> None:
    talks = Talks("any", str(path))
    a, b = Found("any", "a", title="A"), Found("any", "b", title="B")
    assert told(talks) == [a, b]
    assert told(talks, whole=True) == [a, b]
    write(path, "UPDATE talk SET title = 'C' WHERE id = 'b'", "DELETE FROM talk WHERE id = 'a'")
    assert told(talks) == [Found("any", "b", title="C"), Gone("a")]


@pytest.mark.parametrize(
    ("statement", "code", "reason"),
    [
        ("ALTER TABLE talk RENAME COLUMN title TO name", "format_newer", "its table talk has no title"),
        ("ALTER TABLE talk RENAME TO other", "format_newer", "its table talk has no id, title"),
        (
            "INSERT INTO talk VALUES ('', 'odd', 0)",
            "file_malformed",
            "1 sessions in it have no usable id and are left out",
        ),
    ],
)
def test_what_is_wrong_is_told_until_it_is_well(path: Path, statement: str, code: str, reason: str) -> None:
    talks = Talks("any", str(path))
    told(talks)
    before = path.read_bytes()
    write(path, statement)
    # Beside what is left out all was read.
    current = code == "file_malformed"
    assert told(talks) == [Problem("any", code, reason, str(path), current)]
    assert set(talks.rows) == {"a", "b"}, "the last good answer stays"
    path.write_bytes(before)
    assert told(talks) == [Clear(str(path))]
    assert told(talks) == []


def test_files_that_are_none_are_told_by_what_they_are(path: Path) -> None:
    talks = Talks("any", str(path))
    path.write_bytes(b"no database at all" * 100)
    (broken,) = told(talks)
    assert isinstance(broken, Problem)
    assert broken.code == "file_malformed"
    path.unlink()
    path.mkdir()
    (folder,) = told(talks)
    assert isinstance(folder, Problem)
    assert folder.code == "file_unreadable"
