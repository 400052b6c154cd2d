"""Adapters of programs that have no files here: their processes load nothing until files come."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessiond.adapters.homes import processes_of
from sessiond.discovery.host import ProcessFinder
from sessiond.discovery.processes import LiveProcesses
from sessiond.errors import NotFound
from sessiond.model.agent_session import PROCESS, Wish
from sessiond.ports.discovery import Checked, FinderEvent, Rows

ROOT = Path(__file__).parents[2]
TRANSCRIPTS = ROOT / "tests/fixtures/claude_code/projects"
ID = "242e3a83-63fe-450d-b2c5-c1604649c428"
ADAPTER = "claude-code"
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _alone() -> None:
    """Where a person runs the program, its conversations are found as they should be."""
    if next(processes_of(ADAPTER, LiveProcesses()), None) is not None:
        pytest.skip("Claude Code runs on this machine, and would be found")


@asynccontextmanager
async def finding() -> AsyncIterator[tuple[ProcessFinder, AsyncIterator[FinderEvent]]]:
    finder = ProcessFinder([ADAPTER], 20.0, os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        async with asyncio.timeout(PATIENCE):
            yield finder, finder.watch()
    finally:
        await finder.close()


async def rows(events: AsyncIterator[FinderEvent]) -> Rows:
    async for event in events:
        if isinstance(event, Rows):
            return event
    raise AssertionError("it ended")


def come() -> None:
    shutil.copytree(TRANSCRIPTS, Path(os.environ["HOME"]) / ".claude" / "projects")


async def test_nothing_is_found_and_then_what_comes() -> None:
    async with finding() as (_, events):
        assert await rows(events) == Rows(ADAPTER, [], [], whole=True)
        come()
        while not any(one.id == ID for one in (await rows(events)).found):
            pass


async def test_looks_are_answered_without_anything_being_there() -> None:
    async with finding() as (finder, events):
        await rows(events)
        told: list[FinderEvent] = []

        async def read() -> None:
            told.extend([event async for event in events])

        reader = asyncio.create_task(read())
        await finder.look(ADAPTER)
        await finder.refresh([ADAPTER])
        await finder.own(ADAPTER, {})
        assert await finder.is_alive(ADAPTER, ID) is None
        await finder.close()
        await reader
    assert told.count(Checked(ADAPTER)) >= 2
    assert not [event for event in told if isinstance(event, Rows)]


async def test_what_needs_the_adapter_loads_it() -> None:
    async with finding() as (finder, events):
        await rows(events)
        with pytest.raises(NotFound, match=ID):
            await finder.transcript(ADAPTER, ID, 1)
    async with finding() as (finder, events):
        await rows(events)
        assert (await finder.launch(ADAPTER, Wish("/", "hi", print=True))).argv[0] == "claude"
    async with finding() as (finder, events):
        await rows(events)
        await finder.own(ADAPTER, {f"{'a' * 32}-{'b' * 16}": ID})
        assert (await rows(events)).whole


def led(folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """What is called as the program is, with these variables."""
    program = folder / "claude"
    shutil.copy("/bin/sleep", program)
    return subprocess.Popen([program, "60"], env={"HOME": os.environ["HOME"], **variables})


async def test_a_process_that_was_led_elsewhere_is_found_there(tmp_path: Path) -> None:
    place = tmp_path.resolve() / "work"
    shutil.copytree(TRANSCRIPTS, place / "projects")
    process = led(tmp_path, CLAUDE_CONFIG_DIR=str(place))
    try:
        async with finding() as (finder, events):
            # Nothing is where it is looked for by itself, and yet the process is.
            found = (await rows(events)).found
            while not any(one.id == ID for one in found):
                found = (await rows(events)).found
            homes = {one.native["home"] for one in found if not one.id.startswith(PROCESS)}
            assert homes == {str(place)}
            assert await finder.transcript(ADAPTER, ID, 1)
            # The process itself is told, and is nothing to be read or gone on with.
            [stranger] = [one for one in found if one.id.startswith(PROCESS)]
            assert (stranger.status, stranger.life.pid) == ("unknown", process.pid)
            for asked in (
                finder.transcript(ADAPTER, stranger.id, 1),
                finder.resume(ADAPTER, stranger.id, Wish("/", "go on")),
            ):
                with pytest.raises(NotFound, match=f"^{PROCESS}.* is a process"):
                    await asked
            process.kill()
            while stranger.id not in (await rows(events)).gone:
                pass
    finally:
        process.kill()
        process.wait()
    async with finding() as (_, events):
        assert any(one.id == ID for one in (await rows(events)).found), "nobody runs there any more"


@pytest.mark.parametrize("usual", [False, True], ids=["nothing usual", "usual too"])
async def test_the_first_answer_has_what_a_process_leads_to(tmp_path: Path, usual: bool) -> None:
    place = tmp_path.resolve() / "work"
    shutil.copytree(TRANSCRIPTS, place / "projects")
    if usual:
        (Path(os.environ["HOME"]) / ".claude/projects").mkdir(parents=True)
    process = led(tmp_path, CLAUDE_CONFIG_DIR=str(place))
    try:
        async with finding() as (_, events):
            first = await rows(events)
            assert first.whole
            assert {one.native.get("home") for one in first.found if one.id == ID} == {str(place)}
    finally:
        process.kill()
        process.wait()


async def test_a_process_that_is_led_elsewhere_later_is_found_by_the_next_look(tmp_path: Path) -> None:
    place = tmp_path.resolve() / "work"
    shutil.copytree(TRANSCRIPTS, place / "projects")
    for usual in (False, True):
        if usual:
            shutil.rmtree(Path(os.environ["HOME"]) / ".local", ignore_errors=True)
            (Path(os.environ["HOME"]) / ".claude/projects").mkdir(parents=True)
        async with finding() as (finder, events):
            assert not (await rows(events)).found
            process = led(tmp_path, CLAUDE_CONFIG_DIR=str(place))
            try:
                look = asyncio.create_task(finder.look(ADAPTER))
                while not any(one.id == ID for one in (await rows(events)).found):
                    pass
                look.cancel()
            finally:
                process.kill()
                process.wait()


async def test_a_home_that_is_named_is_read_and_watched(tmp_path: Path) -> None:
    place = tmp_path.resolve() / "work"
    finder = ProcessFinder(
        [ADAPTER], 20.0, os.environ | {"PYTHONPATH": str(ROOT)}, homes={ADAPTER: [str(place)]}
    )
    try:
        async with asyncio.timeout(PATIENCE):
            events = finder.watch()
            assert await rows(events) == Rows(ADAPTER, [], [], whole=True)
            shutil.copytree(TRANSCRIPTS, place / "projects")
            while not any(one.id == ID for one in (await rows(events)).found):
                pass
            [probe] = await finder.probe([ADAPTER], "")
            assert str(place / "projects") in probe.places
    finally:
        await finder.close()


async def test_a_program_that_goes_and_comes_back() -> None:
    come()
    async with finding() as (_, events):
        assert any(one.id == ID for one in (await rows(events)).found)
        shutil.rmtree(Path(os.environ["HOME"]) / ".claude")
        while ID not in (await rows(events)).gone:
            pass
        come()
        while not any(one.id == ID for one in (await rows(events)).found):
            pass
