"""Emulators that end their process: the same place of a record does not do it for ever."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.agents.checkpoint import Checkpoint, rebuild, write_checkpoint
from sessiond.agents.deaths import ANY, MOVED_ON, SAME, Dangerous, Verdict, Watch, verdict_on
from sessiond.agents.folder import AgentFolder
from sessiond.ports import Screen
from sessiond.terminal.emulator import make_screen
from sessiond.terminal.fallback import DegradedScreen

POISON = b"POISON"


class _Deadly(DegradedScreen):
    """Ends the process at a word, as a library does that panics; shows otherwise that it is the real one."""

    def feed(self, data: bytes) -> bytes:
        if POISON in data:
            os.abort()
        return super().feed(data)


class Maker:
    """Makes them."""

    release = "1"

    def __call__(self, columns: int, rows: int, scrollback: int) -> Screen:
        return _Deadly(columns, rows, scrollback)

    def plain(self, columns: int, rows: int, scrollback: int) -> Screen:
        return DegradedScreen(columns, rows, scrollback)


@pytest.fixture
def folder(tmp_path: Path) -> AgentFolder:
    path = tmp_path / "agents" / "00112233aabbccdd"
    path.mkdir(parents=True)
    return AgentFolder(path, tmp_path)


_LOOK = """
import sys
from pathlib import Path
from sessiond.agents.checkpoint import rebuild
from sessiond.agents.folder import AgentFolder
from tests.unit.test_agents_deaths import Maker
rebuild(AgentFolder(Path(sys.argv[1]), Path("/")), Maker(), 80, 24, 0)[0].close()
"""


def look(folder: AgentFolder) -> int:
    """Make the screen of a record in a process; returns what became of that."""
    return subprocess.run(
        [sys.executable, "-c", _LOOK, str(folder.path)],
        check=False,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ).returncode


def shown(folder: AgentFolder, maker: Dangerous | None = None) -> Screen:
    screen, _ = rebuild(folder, maker or Maker(), 80, 24, 0)
    return screen


def test_the_emulator_is_dangerous() -> None:
    assert isinstance(make_screen, Dangerous)
    assert make_screen.release
    assert isinstance(make_screen.plain(80, 24, 0), DegradedScreen)


def test_a_record_that_ends_its_reader_is_shown_plain_after_the_second_time(
    folder: AgentFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.record.write_bytes(b"before\r\n" + POISON + b" after\r\n")
    assert [look(folder) for _ in range(SAME)] == [-signal.SIGABRT] * SAME
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            screen = shown(folder)
            assert type(screen) is DegradedScreen
            assert "POISON after" in screen.write_down("text").content
            screen.close()
    assert [record.message for record in caplog.records if "ends its process" in record.message]
    assert len(caplog.records) == 1
    assert sorted(path.name for path in folder.path.iterdir()) == ["emulator", "record"]


def test_one_death_is_nobodys_fault(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"all is well\r\n")
    watch = Watch(folder)
    with watch.at(0, 10):
        assert verdict_on(folder, "1").deaths == 0, "its process lives"
    watch.close()
    _died(folder, 3, 9)
    screen = shown(folder)
    assert type(screen) is not DegradedScreen
    screen.close()
    # Gone through without harm: what comes later begins anew.
    _died(folder, 3, 9)
    assert verdict_on(folder, "1") == Verdict("1", 3, 9, same=1, deaths=1)


def test_a_death_while_the_emulator_did_nothing_does_not_count(folder: AgentFolder) -> None:
    _died(folder, 0, 10, at_work=False)
    assert verdict_on(folder, "1") == Verdict("1")
    assert not list(folder.path.iterdir())


def test_deaths_at_different_places_count_only_in_a_row(folder: AgentFolder) -> None:
    for number in range(ANY - 1):
        _died(folder, number * 100, number * 100 + 50)
        assert verdict_on(folder, "1").allows(0)
    _died(folder, 9000, 9050)
    verdict = verdict_on(folder, "1")
    assert (verdict.barred, verdict.beyond, verdict.deaths) == (1, 9050, 0)


def test_it_is_tried_again_once_the_record_has_moved_on(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"before\r\n" + POISON + b"\r\n")
    for _ in range(SAME):
        look(folder)
    shown(folder).close()
    with folder.record.open("ab") as file:
        file.write((b"x" * 78 + b"\r\n") * (MOVED_ON // 80 + 1) + b"the end")
    screen = shown(folder)
    assert type(screen) is not DegradedScreen
    assert "the end" in screen.write_down("text").content
    screen.close()
    # The second time is once too often: it could go on so for ever.
    with folder.record.open("ab") as file:
        file.write(POISON)
    assert [look(folder) for _ in range(SAME)] == [-signal.SIGABRT] * SAME
    with folder.record.open("ab") as file:
        file.write(b"x" * (2 * MOVED_ON))
    screen = shown(folder)
    assert type(screen) is DegradedScreen
    screen.close()


def test_a_drawing_made_behind_it_is_used(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"before\r\n" + POISON + b"\r\n" + b"more")
    for _ in range(SAME):
        look(folder)
    shown(folder).close()
    write_checkpoint(folder, Checkpoint(folder.record.stat().st_size, 80, 24, b"drawn"))
    screen = shown(folder)
    assert type(screen) is not DegradedScreen
    assert "drawn" in screen.write_down("text").content
    screen.close()


def test_another_release_is_tried_at_once(folder: AgentFolder) -> None:
    for _ in range(SAME):
        _died(folder, 0, 5)
        verdict_on(folder, "1")
    assert not verdict_on(folder, "1").allows(0)
    assert verdict_on(folder, "2") == Verdict("2")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"begin": -1}', b'{"deaths": "x"}', b"[" * 4000]
)
def test_garbage_tells_nothing(folder: AgentFolder, content: bytes) -> None:
    folder.emulator.write_bytes(content)
    (folder.path / "emulator-garbage").write_bytes(content)
    assert verdict_on(folder, "1") == Verdict("1")


def test_what_is_kept_is_small_and_whole(folder: AgentFolder) -> None:
    _died(folder, 7, 9)
    verdict = verdict_on(folder, "1")
    kept = json.loads(folder.emulator.read_bytes())
    assert replace(Verdict(), **kept) == verdict


def test_without_a_folder_there_are_screens_all_the_same(folder: AgentFolder) -> None:
    watch = Watch(AgentFolder(folder.path / "gone", folder.runtime))
    with watch.at(0, 1):
        pass
    watch.close()


def _died(folder: AgentFolder, begin: int, end: int, *, at_work: bool = True) -> None:
    """What a process leaves that a kill ended."""
    words = [sys.executable, "-c", _DIE, str(folder.path), str(begin), str(end), "1" if at_work else ""]
    subprocess.run(words, check=True, cwd=Path(__file__).parents[2])


_DIE = """
import os, sys
from pathlib import Path
from sessiond.agents.deaths import Watch
from sessiond.agents.folder import AgentFolder
watch = Watch(AgentFolder(Path(sys.argv[1]), Path("/")))
with watch.at(int(sys.argv[2]), int(sys.argv[3])):
    if sys.argv[4]:
        os._exit(0)
os._exit(0)
"""
