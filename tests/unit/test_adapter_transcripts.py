"""The last messages of a file of lines, whichever program's it is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from sessiond.adapters.reading import transcripts
from sessiond.adapters.reading.ends import read_back
from sessiond.adapters.reading.transcripts import FIRST, MOST, last_messages
from sessiond.errors import NotFound
from sessiond.model.agent_session import Found, Message, Problem

FOUND = Found("any", "one")


def read(line: bytes) -> Iterable[Message] | None:
    """`-` says nothing, `!` is broken, all else is said."""
    if line.startswith(b"!"):
        return None
    return () if line.startswith(b"-") else [Message("user", line[:20].decode())]


def said(path: Path, tail: int) -> tuple[list[str], bool, int]:
    transcript = last_messages(FOUND, str(path), tail, read)
    return [each.text for each in transcript.messages], transcript.has_more, len(transcript.problems)


@pytest.mark.parametrize(
    ("text", "tail", "expected"),
    [
        (b"", 5, ([], False, 0)),
        (b"one\n-\n\ntwo\n", 5, (["one", "two"], False, 0)),
        (b"one\ntwo", 1, (["two"], True, 0)),
        (b"one\ntwo\n", 0, ([], True, 0)),
        (b"one\n!\ntwo\n", 5, (["one", "two"], False, 1)),
        (b"one\n!half", 5, (["one"], False, 0)),
    ],
)
def test_a_small_file_is_read_whole(
    tmp_path: Path, text: bytes, tail: int, expected: tuple[list[str], bool, int]
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(text)
    assert said(path, tail) == expected


def test_as_much_is_read_as_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lines"
    with path.open("wb") as file:
        for number in range(40):
            file.write(b"%d " % number + b"x" * (FIRST // 4) + b"\n")
    lengths: list[int] = []

    def counted(path: str, end: int, length: int) -> bytes:
        lengths.append(length)
        return read_back(path, end, length)

    monkeypatch.setattr(transcripts, "read_back", counted)
    texts, more, problems = said(path, 2)
    assert ([text.split()[0] for text in texts], more, problems) == (["38", "39"], True, 0)
    assert lengths == [FIRST]
    texts, more, problems = said(path, 10)
    assert ([text.split()[0] for text in texts], more) == ([str(each) for each in range(30, 40)], True)
    assert lengths[1:] == [FIRST, FIRST * 4]


def test_a_file_without_end_has_more(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with path.open("wb") as file:
        file.write(b"first\n")
        os.posix_fallocate(file.fileno(), 0, MOST + 100)
        file.seek(0, os.SEEK_END)
        file.write(b"\nlast\n")
    assert said(path, 5)[0][-1] == "last"
    assert said(path, 5)[1]


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for _ in range(2):
        with pytest.raises(NotFound) as caught:
            last_messages(FOUND, str(path), 5, read)
        assert caught.value.code == "transcript_missing"
        assert caught.value.fields == {"id": "one", "path": str(path)}
        if not path.exists():
            os.mkfifo(path)


def test_broken_lines_are_told(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"!\n!\none\n")
    problem = Problem("any", "file_malformed", "2 lines of it cannot be read", str(path))
    assert last_messages(FOUND, str(path), 5, read).problems == (problem,)
