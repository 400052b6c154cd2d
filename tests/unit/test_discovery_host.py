"""The finder as a whole: its processes, what they find, and what becomes of them when they fail."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sessiond.aio import Pulse
from sessiond.discovery.host import ProcessFinder
from sessiond.discovery.nursery import Nursery
from sessiond.discovery.processes import read_stat
from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError, TimedOut, Unreachable
from sessiond.model.agent_session import MARKER, STOPPED, Found, Life, Problem, Wish
from sessiond.ports.discovery import Checked, FinderEvent, Problems, Rows
from tests.unit.discovery_adapters import FACTORY

ROOT = Path(__file__).parents[2]
# Seconds after which a test that waits in vain is given up.
PATIENCE = 60.0


class Case:
    """A finder, its reader, and what the reader knows."""

    def __init__(self, *adapters: str, deadline: float = 20.0, pause: float = 0.05) -> None:
        self.home = Path(os.environ["HOME"])
        self.finder = ProcessFinder(
            adapters, deadline, os.environ | {"PYTHONPATH": str(ROOT)}, factory=FACTORY, pause=pause
        )
        self.rows: dict[str, dict[str, Found]] = {}
        self.problems: dict[str, list[Problem]] = {}
        self.events: list[FinderEvent] = []
        self.changed = Pulse()

    def write(self, adapter: str, session: str, **said: object) -> Path:
        """Put a conversation, whole from the first moment."""
        path = self.home / adapter / f"{session}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({name: str(value) for name, value in said.items()}))
        return new.replace(path)

    async def read(self) -> None:
        async for event in self.finder.watch():
            self.events.append(event)
            match event:
                case Rows(adapter, found, gone, whole):
                    rows = self.rows.setdefault(adapter, {})
                    if whole:
                        rows.clear()
                    for one in found:
                        rows[one.id] = one
                    for session in gone:
                        rows.pop(session, None)
                case Problems(adapter, problems):
                    self.problems[adapter] = list(problems)
                case Checked():
                    pass
            self.changed.fire()

    async def until(self, test: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE):
            return await self.changed.until(lambda: test() or None)

    def row(self, adapter: str, session: str) -> Found:
        return self.rows[adapter][session]

    def title(self, adapter: str, session: str) -> str | None:
        row = self.rows.get(adapter, {}).get(session)
        return row.title if row else None

    def fault(self, adapter: str) -> str | None:
        """Code of the trouble that makes all of its rows stale."""
        return next((one.code for one in self.problems.get(adapter, ()) if not one.path), None)


@asynccontextmanager
async def finding(*adapters: str, **how: float) -> AsyncIterator[Case]:
    case = Case(*adapters, **how)
    reader = asyncio.create_task(case.read())
    pids: list[int] = []
    try:
        yield case
    finally:
        pids = list(case.finder.processes.values())
        await case.finder.close()
        await reader
    assert [pid for pid in pids if read_stat(pid) is not None] == []


@contextmanager
def sleeping(environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    """One that SIGTERM does not end."""
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True)\nwhile True: signal.pause()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def who(process: subprocess.Popen[bytes]) -> dict[str, int]:
    stat = read_stat(process.pid)
    assert stat is not None
    return {"pid": process.pid, "start_time": stat.start_time}


def life(process: subprocess.Popen[bytes]) -> Life:
    it = who(process)
    return Life(True, pid=it["pid"], start_time=it["start_time"])


@contextmanager
def pidfds(*pids: int) -> Iterator[list[int]]:
    fds = [os.pidfd_open(pid) for pid in pids]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def wait_for_ends(fds: list[int]) -> None:
    left = set(fds)
    while left:
        ended = select.select(list(left), [], [], PATIENCE)[0]
        assert ended, "a process stays"
        left -= set(ended)


# ---- finding and following ------------------------------------------------------------------


async def test_what_is_there_is_told_whole_and_then_what_changes() -> None:
    async with finding("one", "two") as case:
        case.write("one", "a", title="first")
        await case.until(lambda: case.rows.keys() == {"one", "two"})
        assert (case.title("one", "a"), case.rows["two"]) == ("first", {})
        assert case.row("one", "a").life == STOPPED
        case.write("one", "a", title="second")
        await case.until(lambda: case.title("one", "a") == "second")
        case.write("two", "b/c/d", title="deep")
        await case.until(lambda: case.title("two", "d") == "deep")
        (case.home / "one/a.json").unlink()
        await case.until(lambda: not case.rows["one"])
        assert [event for event in case.events if isinstance(event, Rows) and event.whole] != []
        assert sum(isinstance(event, Rows) and event.whole for event in case.events) == 2


async def test_an_unchanged_row_is_told_once() -> None:
    async with finding("one") as case:
        case.write("one", "a", title="x")
        await case.finder.refresh(["one"])
        case.events.clear()
        await case.finder.look("one")
        assert case.events == [Checked("one")]


async def test_a_burst_of_changes_is_looked_at_in_a_few_steps() -> None:
    async with finding("one") as case:
        files = [os.open(case.write("one", f"n{number}", title="00"), os.O_WRONLY) for number in range(100)]
        await case.until(lambda: len(case.rows.get("one", ())) == 100)
        for number in range(10_000):
            os.pwrite(files[number % 100], b'{"title": "%02d"}' % (number // 100), 0)
        for fd in files:
            os.close(fd)
        await case.until(lambda: all(row.title == "99" for row in case.rows["one"].values()))
        assert max(int(row.native["calls"]) for row in case.rows["one"].values()) < 1_000


async def test_trouble_with_a_file_is_told_until_it_is_well() -> None:
    async with finding("one") as case:
        case.write("one", "a", title="x")
        path = case.write("one", "b")
        path.write_text("{")
        await case.until(lambda: case.problems.get("one"))
        assert [(one.code, one.path) for one in case.problems["one"]] == [("file_malformed", str(path))]
        assert case.title("one", "a") == "x"
        case.write("one", "b", title="y")
        await case.until(lambda: not case.problems["one"])
        assert case.row("one", "b").trouble == ""
        path.write_text("{")
        await case.until(lambda: case.problems["one"])
        assert (case.title("one", "b"), case.row("one", "a").trouble) == ("y", "")
        assert case.row("one", "b").trouble == f"{path}: it is no JSON"
        path.unlink()
        await case.until(lambda: not case.problems["one"])


async def test_thousands_arrive_as_one_whole_with_names_that_cannot_be_said() -> None:
    async with finding("many") as case:
        await case.until(lambda: "many" in case.rows)
        assert len(case.rows["many"]) == 5_000
        assert case.row("many", "n4999").title == "?"
        assert case.row("many", "n1").tokens_in == 2**64 - 1


# ---- lives ----------------------------------------------------------------------------------


async def test_among_many_the_first_word_says_who_lives() -> None:
    with sleeping() as process:
        async with finding("one") as case:
            for number in range(450):
                case.write("one", f"n{number:03}", title="t")
            case.write("one", "n005", **who(process))
            await case.until(lambda: "one" in case.rows)
            [told] = [event for event in case.events if isinstance(event, Rows)]
            assert told.whole
            assert sorted(one.id for one in told.found) == [f"n{n:03}" for n in range(450)]
            assert [one.id for one in told.found if one.life.alive] == ["n005"]
            assert all(one.life == STOPPED for one in told.found if one.id != "n005")


async def test_the_end_of_a_process_is_told_without_any_change_of_a_file() -> None:
    with sleeping() as child:
        async with finding("one") as case:
            case.write("one", "a", **who(child))
            await case.until(lambda: case.title("one", "a") is not None and case.row("one", "a").life.alive)
            child.kill()
            await case.until(lambda: case.row("one", "a").life == STOPPED)


async def test_a_recycled_pid_is_stopped() -> None:
    with sleeping() as child:
        async with finding("one") as case:
            case.write("one", "a", pid=child.pid, start_time=who(child)["start_time"] - 1)
            case.write("one", "b", **who(child))
            await case.finder.refresh(["one"])
            assert case.row("one", "a").life == STOPPED
            assert case.row("one", "b").life.alive
            assert await case.finder.is_alive("one", "a") == case.row("one", "a")
            assert await case.finder.is_alive("one", "none") is None


async def test_a_process_with_our_marker_is_seen_when_somebody_looks() -> None:
    async with finding("one") as case:
        case.write("one", "a")
        await case.finder.refresh(["one"])
        with sleeping(os.environ | {MARKER: "one:a"}) as child, sleeping(os.environ | {MARKER: "one:new"}):
            await case.finder.look("one")
            assert case.row("one", "a").life == life(child)
            found = await case.finder.is_alive("one", "a")
            assert found is not None
            assert found.life.alive
            # It has written nothing, and lives.
            assert case.row("one", "new").life.alive
            assert case.row("one", "new").cwd == str(Path.cwd())
        await case.until(lambda: case.row("one", "a").life == STOPPED)
        await case.until(lambda: "new" not in case.rows["one"])


async def test_a_process_that_may_be_any_makes_them_unknown() -> None:
    with sleeping() as child:
        async with finding("one") as case:
            case.write("one", "a", cwd="/x", possible=child.pid)
            case.write("one", "b", cwd="/y")
            await case.finder.refresh(["one"])
            assert case.row("one", "a").life == Life(None, "may be this one")
            assert case.row("one", "b").life == STOPPED
            child.kill()
            await case.until(lambda: case.row("one", "a").life == STOPPED)


async def test_a_process_is_ended_by_a_word_or_by_force() -> None:
    async with finding("one") as case:
        with sleeping() as child:
            found = Found("one", "a", life=life(child))
            recycled = replace(found, life=replace(found.life, start_time=1))
            assert not await case.finder.end("one", recycled, 5.0)
            assert child.poll() is None
            assert await case.finder.end("one", found, 30.0)
            assert child.wait() == -signal.SIGTERM
            assert not await case.finder.end("one", found, 5.0)
        with stubborn() as child:
            assert await case.finder.end("one", Found("one", "a", life=life(child)), 0.01)
            assert child.wait() == -signal.SIGKILL
        with pytest.raises(Conflict) as raised:
            await case.finder.end("one", Found("one", "a", life=Life(None, "who knows")), 1.0)
        assert raised.value.code == "agent_session_unknown"
        assert not await case.finder.end("one", Found("one", "a", life=STOPPED), 1.0)


# ---- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["loop", "block"])
async def test_one_that_hangs_is_ended_delays_nobody_and_comes_back(how: str) -> None:
    async with finding("one", "two", deadline=4.0) as case:
        os.mkfifo(case.home / "fifo")
        case.write("one", "a", title="good")
        await case.until(lambda: case.title("one", "a") == "good")
        pid = case.finder.processes["one"]
        with pidfds(pid) as ends:
            path = case.write("one", "b", do=how, fifo=case.home / "fifo")
            case.write("two", "c", title="meanwhile")
            await case.until(lambda: case.title("two", "c") == "meanwhile")
            await case.until(lambda: case.fault("one") == "adapter_timeout")
            wait_for_ends(ends)
        # The last good answer stays.
        assert case.title("one", "a") == "good"
        assert case.fault("two") is None
        path.unlink()
        await case.finder.refresh(["one"])
        await case.until(lambda: not case.problems["one"])
        assert case.finder.processes["one"] != pid


@pytest.mark.parametrize(
    ("how", "reason"),
    [("exit", "ended with status 3"), ("crash", "was ended by SIGSEGV"), ("raise", "LookupError: something")],
)
async def test_one_that_fails_says_why_and_comes_back(how: str, reason: str) -> None:
    async with finding("one", "two") as case:
        case.write("one", "a", title="good")
        await case.until(lambda: case.title("one", "a") == "good")
        path = case.write("one", "b", do=how)
        await case.until(lambda: case.fault("one") == "adapter_failed")
        assert reason in case.problems["one"][0].reason
        assert case.title("one", "a") == "good"
        path.unlink()
        await case.finder.refresh(["one", "two"])
        await case.until(lambda: not case.problems["one"])
        assert case.title("one", "a") == "good"


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [("missing", "no such module"), ("wrong", "is not understood"), ("flood", "more than 100000")],
)
async def test_one_that_cannot_be_right_is_told(adapter: str, reason: str) -> None:
    async with finding("one", adapter, pause=30.0) as case:
        await case.until(lambda: case.fault(adapter) == "adapter_failed")
        assert reason in case.problems[adapter][0].reason
        await case.until(lambda: "one" in case.rows)
        with pytest.raises(Unreachable, match=reason):
            await case.finder.is_alive(adapter, "x")


async def test_a_question_that_hangs_is_given_up() -> None:
    async with finding("one", "two", deadline=4.0, pause=30.0) as case:
        await case.finder.refresh(["one", "two"])
        asked = asyncio.create_task(case.finder.launch("one", Wish("/", prompt="loop")))
        assert (await case.finder.launch("two", Wish("/", prompt="x"))).input == b"x"
        with pytest.raises(TimedOut) as raised:
            await asked
        assert raised.value.code == "adapter_timeout"
        await case.until(lambda: case.fault("one") == "adapter_timeout")
        # What needs no files is answered by another process.
        assert (await case.finder.launch("one", Wish("/", prompt="x", id="1"))).id == "1"
        assert await case.finder.identify("one", "id 9") == "9"
        with pytest.raises(TimedOut):
            await case.finder.transcript("one", "a", 1)


async def test_questions_are_answered_and_refused_as_the_adapter_does() -> None:
    async with finding("one") as case:
        case.write("one", "a", title="x")
        assert (await case.finder.transcript("one", "a", 3)).messages[0].text == "xxx"
        assert (await case.finder.resume("one", "a", Wish("/"))).argv == ("sleep", "a")
        assert await case.finder.identify("one", "something") is None
        with pytest.raises(InvalidArgument) as refused:
            await case.finder.launch("one", Wish("/"))
        assert (refused.value.code, refused.value.hint, refused.value.fields) == (
            "prompt_missing",
            "give one",
            {"x": "y"},
        )
        with pytest.raises(NotFound, match="no conversation 'b'"):
            await case.finder.transcript("one", "b", 3)
        with pytest.raises(Unreachable, match="LookupError"):
            await case.finder.launch("one", Wish("/", prompt="raise"))
        with pytest.raises(InvalidArgument) as unknown:
            await case.finder.is_alive("none", "a")
        assert unknown.value.code == "adapter_unknown"
        with pytest.raises(InvalidArgument) as disabled:
            await case.finder.is_alive("codex", "a")
        assert disabled.value.code == "adapter_disabled"


async def test_programs_are_searched_where_the_caller_says(tmp_path: Path) -> None:
    async with finding("one", "missing", "hangs-at-version", deadline=4.0, pause=30.0) as case:
        (tmp_path / "sleep").write_text("#!/bin/sh")
        (tmp_path / "sleep").chmod(0o755)
        probes = await case.finder.probe([], str(tmp_path))
        assert [one.adapter for one in probes] == ["one", "missing", "hangs-at-version"]
        assert (probes[0].path, probes[0].version) == (str(tmp_path / "sleep"), "9.4")
        assert probes[0].places == (str(case.home / "one"),)
        assert not probes[1].installed
        (none,) = await case.finder.probe(["one"], str(tmp_path / "nowhere"))
        assert not none.installed


async def test_a_killed_adapter_comes_back_by_itself() -> None:
    async with finding("one", "two") as case:
        case.write("one", "a", title="x")
        await case.until(lambda: case.title("one", "a") == "x" and "two" in case.rows)
        case.events.clear()
        os.kill(case.finder.processes["one"], signal.SIGKILL)
        await case.until(lambda: case.fault("one") == "adapter_failed")
        assert "SIGKILL" in case.problems["one"][0].reason
        await case.until(lambda: not case.problems["one"])
        assert case.title("one", "a") == "x"
        assert all(event.adapter == "one" for event in case.events)


async def test_a_killed_finder_takes_all_with_it_and_all_come_back() -> None:
    async with finding("one", "two") as case:
        case.write("one", "loops", do="no")
        await case.until(lambda: case.rows.keys() == {"one", "two"})
        before = dict(case.finder.processes)
        with pidfds(*before.values()) as ends:
            os.kill(before[""], signal.SIGKILL)
            await case.until(lambda: case.fault("one") and case.fault("two"))
            wait_for_ends(ends)
        case.write("one", "a", title="x")
        await case.until(lambda: not case.problems["one"] and not case.problems["two"])
        await case.until(lambda: case.title("one", "a") == "x")
        assert not set(before.values()) & set(case.finder.processes.values())


@pytest.mark.parametrize("noticed", [False, True], ids=["unnoticed", "noticed"])
@pytest.mark.parametrize("victim", ["", "one"], ids=["finder", "adapter"])
async def test_a_refresh_waits_for_the_first_answer_after_a_kill(victim: str, noticed: bool) -> None:
    async with finding("one", "two", pause=30.0) as case:
        await case.until(lambda: case.rows.keys() == {"one", "two"})
        before = dict(case.finder.processes)
        with pidfds(*{before[victim], before["one"]}) as ends:
            os.kill(before[victim], signal.SIGKILL)
            wait_for_ends(ends)
            if noticed:
                await case.until(lambda: case.fault("one"))
        case.write("one", "a", title="x")
        await case.finder.refresh(["one", "two"])
        # All is told by now, and nothing of it is of before.
        assert (case.fault("one"), case.fault("two")) == (None, None)
        assert case.title("one", "a") == "x"
        assert case.finder.processes["one"] != before["one"]


async def test_a_refresh_that_meets_a_kill_each_time_tells_of_it() -> None:
    async with finding("one", pause=30.0) as case:
        await case.until(lambda: "one" in case.rows)
        case.write("one", "a", do="exit")
        await case.until(lambda: case.fault("one") == "adapter_failed")
        await case.finder.refresh(["one"])
        assert case.fault("one") == "adapter_failed"


async def test_a_finder_that_hangs_is_given_up_when_it_tells_no_end() -> None:
    async with finding("one", "two", deadline=1.0) as case:
        case.write("one", "a", title="x")
        await case.until(lambda: case.title("one", "a") == "x" and "two" in case.rows)
        before = dict(case.finder.processes)
        with pidfds(*before.values()) as ends:
            os.kill(before[""], signal.SIGSTOP)
            os.kill(before["one"], signal.SIGKILL)
            await case.until(lambda: case.fault("one") and case.fault("two"))
            wait_for_ends(ends)
        await case.until(lambda: not case.problems["one"] and not case.problems["two"])
        assert case.title("one", "a") == "x"


_HOST = """
import asyncio, os, sys
from sessiond.discovery.host import ProcessFinder
from sessiond.discovery.nursery import Nursery
async def main():
    finder = ProcessFinder(["one", "two"], 60.0, factory=sys.argv[1])
    async def read():
        async for event in finder.watch():
            pass
    reader = asyncio.create_task(read())
    await finder.refresh(["two"])
    while len(finder.processes) < 3:
        await asyncio.sleep(0)
    print(*finder.processes.values(), flush=True)
    await reader
asyncio.run(main())
"""


def test_nothing_outlives_a_killed_host_not_even_what_hangs() -> None:
    home = Path(os.environ["HOME"])
    (home / "one").mkdir()
    (home / "one/a.json").write_text('{"do": "loop"}')
    host = subprocess.Popen(
        [sys.executable, "-c", _HOST, FACTORY],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with host:
        assert host.stdout is not None
        pids = [int(one) for one in host.stdout.readline().split()]
        assert len(pids) == 3
        with pidfds(*pids) as ends:
            host.kill()
            host.wait()
            wait_for_ends(ends)


async def test_closing_leaves_nothing_whatever_the_adapters_do_and_may_be_repeated() -> None:
    case = Case("one", "two", deadline=60.0)
    case.write("one", "a", do="loop")
    reader = asyncio.create_task(case.read())
    await case.until(lambda: "two" in case.rows)
    asked = asyncio.create_task(case.finder.is_alive("one", "a"))
    await asyncio.sleep(0)
    assert psutil.Process().children(recursive=True) != []
    await asyncio.gather(case.finder.close(), case.finder.close())
    await case.finder.close()
    await reader
    with pytest.raises(SessiondError):
        await asked
    assert psutil.Process().children(recursive=True) == []
    with pytest.raises(Unreachable) as raised:
        await case.finder.look("one")
    assert raised.value.code == "finder_closed"


async def test_one_that_was_never_asked_has_no_process() -> None:
    finder = ProcessFinder(["one"], 1.0, factory=FACTORY)
    assert finder.processes == {}
    await finder.close()


async def test_only_one_reads() -> None:
    async with finding("one") as case:
        await case.until(lambda: "one" in case.rows)
        with pytest.raises(RuntimeError, match="one reader"):
            await anext(aiter(case.finder.watch()))


async def test_it_is_at_hand_before_the_first_question_where_a_program_has_files() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    (Path(os.environ["HOME"]) / ".codex" / "sessions").mkdir(parents=True)
    finder = ProcessFinder(["codex", "pi"], 20.0, environment)
    try:
        await finder.prepare()
        [(name, pid)] = finder.processes.items()
        assert name == ""
        assert await finder.is_alive("codex", "none") is None
        assert finder.processes[""] == pid
        await finder.prepare()
        assert finder.processes[""] == pid
    finally:
        await finder.close()
    await finder.prepare()
    assert read_stat(pid) is None
    assert not finder.processes


async def test_it_is_not_at_hand_where_no_program_has_files() -> None:
    finder = ProcessFinder(["codex", "pi"], 20.0, os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        await finder.prepare()
        assert not finder.processes
        assert await finder.is_alive("codex", "none") is None
        assert finder.processes.keys() == {"", "codex", "pi"}
    finally:
        await finder.close()


async def test_what_cannot_be_loaded_before_keeps_the_finder_from_nothing() -> None:
    nursery = Nursery(os.environ | {"PYTHONPATH": str(ROOT)}, 20.0, factory=FACTORY)
    try:
        await nursery.prepare(["tests.unit.no_such_module", "json"])
        child = await nursery.fork("one")
        assert read_stat(child.pid) is not None
        await child.end()
    finally:
        await nursery.close()
