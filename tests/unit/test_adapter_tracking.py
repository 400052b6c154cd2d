"""Files that are a conversation each, whichever program's they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sessiond.adapters.reading.ends import Stamp, read_ends
from sessiond.adapters.reading.tracking import Tracked
from sessiond.model.agent_session import Problem
from sessiond.ports.discovery import Clear


@dataclass(frozen=True)
class Talk:
    id: str


class Reader:
    """A file holds an id; an empty one is malformed."""

    def __init__(self) -> None:
        self.tracked: Tracked[Talk] = Tracked("any")
        self.touched: set[str] = set()
        self.reads = 0

    def how(self, path: str) -> tuple[Talk, Stamp] | str:
        self.reads += 1
        ends = read_ends(path)
        return (Talk(ends.head.decode()), ends.stamp) if ends.size else "it is empty"

    def read(self, path: Path) -> list[object]:
        return list(self.tracked.read(str(path), self.how, self.touched))

    def take(self) -> set[str]:
        touched, self.touched = self.touched, set()
        return touched


@pytest.fixture
def reader() -> Reader:
    return Reader()


def test_a_conversation_may_have_several_files(reader: Reader, tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    for path in (one, two):
        path.write_text("a")
        assert reader.read(path) == []
    assert reader.take() == {"a"}
    assert reader.tracked.ids == {"a": {str(one), str(two)}}
    one.unlink()
    assert reader.read(one) == []
    assert (reader.take(), reader.tracked.ids) == ({"a"}, {"a": {str(two)}})
    two.write_text("b")
    assert reader.read(two) == []
    assert (reader.take(), reader.tracked.ids) == ({"a", "b"}, {"b": {str(two)}})


def test_trouble_is_told_until_it_is_well_or_gone(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_text("a")
    reader.read(path)
    reader.take()
    path.write_text("")
    assert reader.read(path) == [Problem("any", "file_malformed", "it is empty", str(path))]
    assert (reader.take(), reader.tracked.paths) == (set(), {str(path): Talk("a")}), "what was known stays"
    path.write_text("a")
    assert reader.read(path) == [Clear(str(path))]
    path.unlink()
    path.mkdir()
    [problem] = reader.read(path)
    assert isinstance(problem, Problem)
    assert problem.code == "file_unreadable"
    path.rmdir()
    assert reader.read(path) == [Clear(str(path))]
    assert not reader.tracked.paths
    path.symlink_to("nowhere")
    [problem] = reader.read(path)
    assert isinstance(problem, Problem), "a link that leads nowhere is no file that was deleted"


def test_what_is_in_a_closed_folder_stays(reader: Reader, tmp_path: Path) -> None:
    for name in ("open", "closed", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_text(name)
        reader.read(tmp_path / name / "1")
    reader.take()
    closed = {str(tmp_path / "closed"): PermissionError(13, "Permission denied")}
    told = list(reader.tracked.sweep(str(tmp_path), [str(tmp_path / "other/1")], closed, reader.touched))
    assert told == [Problem("any", "file_unreadable", "Permission denied", str(tmp_path / "closed"))]
    assert (reader.take(), set(reader.tracked.ids)) == ({"open"}, {"closed", "other"})
    there = [str(tmp_path / "closed/1")]
    assert list(reader.tracked.sweep(str(tmp_path / "closed"), there, {}, reader.touched)) == [
        Clear(str(tmp_path / "closed"))
    ]
    assert (reader.take(), set(reader.tracked.ids)) == (set(), {"closed", "other"})
    assert list(reader.tracked.sweep("/", [], {}, reader.touched)) == []
    assert reader.take() == {"closed", "other"}


def test_what_is_forgotten_is_read_anew(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_text("a")
    reader.read(path)
    reader.tracked.forget(str(tmp_path))
    reads = reader.reads
    reader.read(path)
    assert reader.reads == reads + 1
