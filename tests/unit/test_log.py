"""Log lines: the journal's priorities, and no message that passes for two."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond import log


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logging.captureWarnings(capture=False)
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.setLevel(level)
    for handler in handlers:
        root.addHandler(handler)


class Journal:
    """Sets logging up for a stderr that JOURNAL_STREAM names, and reads what came."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream = path.open("w")
        self._path, self._monkeypatch = path, monkeypatch

    def setup(self, level: str) -> None:
        info = os.fstat(self.stream.fileno())
        self._monkeypatch.setattr(sys, "stderr", self.stream)
        self._monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        log.setup(level)

    def text(self) -> str:
        return self._path.read_text()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    journal = Journal(tmp_path / "stream", monkeypatch)
    yield journal
    journal.stream.close()


def test_priorities_in_the_journal(journal: Journal) -> None:
    journal.setup("debug")
    logger = logging.getLogger("sessiond.x")
    for say in (logger.critical, logger.error, logger.warning, logger.info, logger.debug):
        say("hello")
    assert [line[:3] for line in journal.text().splitlines()] == ["<3>", "<3>", "<4>", "<6>", "<7>"]
    assert journal.text().splitlines()[3] == "<6>sessiond.x: hello"


def test_plain_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    log.setup("info")
    logging.getLogger("x").info("hello")
    logging.getLogger("x").debug("nothing")
    assert stream.getvalue().endswith(" info x: hello\n")
    assert "<" not in stream.getvalue()


def test_the_level_bounds_what_is_written(journal: Journal) -> None:
    journal.setup("warning")
    logging.getLogger("x").info("no")
    logging.getLogger("x").warning("yes")
    assert journal.text() == "<4>x: yes\n"


def test_a_message_cannot_forge_a_line_or_steer_a_terminal(journal: Journal) -> None:
    journal.setup("info")
    logging.getLogger("x").info("name %s", "a\n<0>root: gone\x1b[2J\u2028é")
    assert journal.text() == "<6>x: name a\\n<0>root: gone\\x1b[2J\\u2028é\n"


def test_tracebacks_are_indented_line_by_line(journal: Journal) -> None:
    journal.setup("info")
    error = ValueError("one\n<0>two")
    logging.getLogger("x").error("failed", exc_info=error)
    lines = journal.text().splitlines()
    assert lines[0] == "<3>x: failed"
    assert all(line.startswith("<3>    ") for line in lines[1:])
    assert "<3>    <0>two" in lines


def test_an_unheard_of_level_is_info(journal: Journal) -> None:
    journal.setup("loud")
    logging.getLogger("x").info("yes")
    logging.getLogger("x").debug("no")
    assert journal.text() == "<6>x: yes\n"


def test_setting_up_twice_writes_once(journal: Journal) -> None:
    journal.setup("info")
    journal.setup("info")
    logging.getLogger("x").info("hello")
    assert journal.text() == "<6>x: hello\n"


def test_fields() -> None:
    assert log.fields(session="ab12", path="/a b", empty="", n=3) == 'session=ab12 path="/a b" empty="" n=3'
    assert log.fields(text='a "b"\nc') == 'text="a \\"b\\"\\nc"'
