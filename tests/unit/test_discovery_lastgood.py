"""Files that cannot be read any more: their rows are the last good answer until they can be read again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sessiond.adapters import make_adapter
from sessiond.discovery.host import ProcessFinder
from sessiond.discovery.lastgood import LastGood
from sessiond.model.agent_session import Problem
from tests.unit.adapter_case import found_by
from tests.unit.test_adapter_mutations import CASES
from tests.unit.test_adapter_mutations import Case as Program
from tests.unit.test_discovery_host import Case

SHUT = "/home/user/.pi/agent/sessions/shut"
# Endings of what holds conversations, besides sessions of OpenCode's older releases.
ENDINGS = (".jsonl", ".db", ".sqlite")
# No line of anything, no object, no database.
GARBAGE = b"\0\xff nothing that anybody wrote\n" * 200


def in_place_of(path: Path, content: bytes) -> None:
    """Another file in its place, in one step."""
    new = path.with_name("content.new")
    new.write_bytes(content)
    new.replace(path)


@asynccontextmanager
async def following(finder: ProcessFinder) -> AsyncIterator[Case]:
    """What a finder tells; it leaves nothing."""
    case = Case()
    case.finder = finder
    reader = asyncio.create_task(case.read())
    try:
        yield case
    finally:
        await finder.close()
        await reader


@pytest.mark.parametrize("program", CASES, ids=lambda one: one.adapter)
async def test_whose_file_cannot_be_read_is_an_old_answer_until_it_can(program: Program) -> None:
    home = Path(os.environ["HOME"])
    environment = {**os.environ, **program.lay(home)}
    # What runs on this machine besides may be told too.
    mine = found_by(make_adapter(program.adapter, environment))
    finder = ProcessFinder([program.adapter], 20.0, environment, pause=0.05)
    async with following(finder) as case:
        await case.until(lambda: case.rows.get(program.adapter))
        before = {id: one for id, one in case.rows[program.adapter].items() if id in mine}
        assert before.keys() == mine.keys()
        assert not any(one.trouble or one.source for one in before.values())
        files = [one for one in home.rglob("*") if one.suffix in ENDINGS or one.match("session/*/*.json")]
        content = {one: one.read_bytes() for one in files}

        def rows() -> dict[str, str]:
            return {id: one.trouble for id, one in case.rows[program.adapter].items() if id in mine}

        for path in files:
            in_place_of(path, GARBAGE)
        await case.until(lambda: all(rows().values()))
        assert rows().keys() == before.keys()
        assert {one.partition(": ")[0] for one in rows().values()} <= {str(one) for one in files}
        [known, *_] = before
        assert (await finder.is_alive(program.adapter, known)) == case.rows[program.adapter][known]
        for path in files:
            in_place_of(path, content[path])
        await case.until(lambda: not any(rows().values()))
        assert rows().keys() == before.keys()
        assert not case.problems[program.adapter]


def test_trouble_of_a_folder_is_that_of_all_in_it() -> None:
    told = LastGood(
        [
            Problem("pi", "file_unreadable", "Permission denied", SHUT),
            Problem("pi", "file_malformed", "no header", "/w/one.jsonl"),
        ]
    )
    assert (
        told.trouble(f"{SHUT}/a.jsonl") == told.trouble(f"{SHUT}/b/c.jsonl") == f"{SHUT}: Permission denied"
    )
    assert told.trouble("/w/one.jsonl") == "/w/one.jsonl: no header"
    for path in ("", f"{SHUT}-not/a.jsonl", "/w/two.jsonl", "/w/one.json", "relative"):
        assert told.trouble(path) == ""


@pytest.mark.parametrize(
    "problem",
    [
        Problem("pi", "file_malformed", "3 lines of it cannot be read", "/w/one.jsonl", current=True),
        Problem("pi", "format_newer", "its format is 9", "/w/one.jsonl", current=True),
        Problem("pi", "watch_limited", "no more watches", "/w"),
        Problem("pi", "place_refused", "it is no folder", "/w"),
        Problem("pi", "adapter_failed", "it fell over"),
    ],
)
def test_what_was_read_all_the_same_is_no_old_answer(problem: Problem) -> None:
    assert LastGood([problem]).trouble("/w/one.jsonl") == ""
