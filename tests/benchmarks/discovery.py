"""Finding conversations of agent programs: thousands on disk, all at once, one that changes, and none."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sessiond.adapters.codex import rollouts
from sessiond.adapters.reading import ends
from sessiond.cli.app import App
from sessiond.cli.conversation import conversation_object
from sessiond.cli.discovered import conversation_table
from sessiond.discovery import kernel
from sessiond.rpc._generated.v1 import discovery_pb2, system_pb2
from tests.benchmarks.corpus import EACH, Corpus, lay
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.footprint import SETTLING, memory_of, wakeup_rates
from tests.benchmarks.stage import (
    DEADLINE,
    SUPERVISOR,
    Measure,
    Stage,
    interleave,
    program,
    progress,
    timed,
)

_BARE = Path(__file__).with_name("bare_ends.py")
_WARM = 20
# Seconds between two warm answers: some of them then come with a look for processes behind them.
_APART = 0.25
_CHANGE_MS = 200.0
# Wake-ups a second.
_NOISE = 0.5
_ROUNDS = 3
# So many looks in a row at which the finder sleeps.
_SLEPT = 5
_HIDDEN = ".hidden"
_IMPORT = 'python -c "import grpc"'

# What is told of a conversation, of its first and last prompt and of its last message, in one query.
_QUERY = """
SELECT s.*, l.data, f.time_created,
  (SELECT data FROM part WHERE message_id = f.id AND instr(data, '"type":"text"') ORDER BY id LIMIT 1),
  (SELECT data FROM part WHERE message_id = u.id AND instr(data, '"type":"text"') ORDER BY id LIMIT 1)
FROM session s
LEFT JOIN message l ON l.id = (SELECT id FROM message WHERE session_id = s.id
  ORDER BY time_created DESC, id DESC LIMIT 1)
LEFT JOIN message f ON f.id = (SELECT id FROM message WHERE session_id = s.id
  AND instr(data, '"role":"user"') ORDER BY time_created, id LIMIT 1)
LEFT JOIN message u ON u.id = (SELECT id FROM message WHERE session_id = s.id
  AND instr(data, '"role":"user"') ORDER BY time_created DESC, id DESC LIMIT 1)
ORDER BY s.time_created
"""


async def discovery(stage: Stage, runs: int) -> list[Figure]:
    """All figures of it, on one corpus."""
    progress(f"laying {3 * EACH:,} conversations of three programs")
    corpus = await asyncio.to_thread(lay, stage.home)
    cold = await _cold(stage, corpus, runs)
    figures = [
        cold,
        *await _warm(stage, corpus, cold.ours),
        *await _changes(stage, corpus, runs),
        *await _commands(runs),
        *await _idle(stage, corpus),
    ]
    _hide(corpus)
    return figures


# ---- all at once


async def _all(stage: Stage, **more: Any) -> Any:
    """The answer that lists everything there is."""
    wanted = discovery_pb2.AgentSessionFilter(include_stopped=True)
    request = discovery_pb2.ListAgentSessionsRequest(filter=wanted, **more)
    return await stage.discovery.ListAgentSessions(request, timeout=DEADLINE)


async def _restart(stage: Stage) -> None:
    """A supervisor that was asked for no conversation yet, and a connection to it."""
    await stage.bus.call("ResetFailedUnit", "s", SUPERVISOR)
    process = await asyncio.create_subprocess_exec("systemctl", "--user", "restart", SUPERVISOR)
    assert await process.wait() == 0
    await stage.reconnect()
    await stage.system.GetInfo(system_pb2.GetInfoRequest(), timeout=DEADLINE)


async def _cold(stage: Stage, corpus: Corpus, runs: int) -> Figure:
    """The first answer of all, beside a process that only reads the same ends and rows."""
    spec = stage.home / "ends.json"
    files = [(path, ends.HEAD, ends.TAIL) for path in corpus.claude]
    files += [(path, rollouts.HEAD, rollouts.TAIL) for path in corpus.codex]
    spec.write_text(json.dumps({"files": files, "database": corpus.opencode, "query": _QUERY}))

    async def ours(*, rest: bool = True) -> float:
        await _restart(stage)
        if rest:
            await _at_hand(stage)
        began = time.perf_counter()
        answer = await _all(stage)
        took = (time.perf_counter() - began) * 1000
        assert answer.total == 3 * EACH, f"{answer.total} found: {answer.problems[:3]}"
        return took

    async def start() -> float:
        return await _process([sys.executable, "-c", "pass"])

    mine, early, bare, python = await interleave(
        runs,
        ours,
        lambda: ours(rest=False),
        lambda: _process([sys.executable, str(_BARE), str(spec)], str(3 * EACH)),
        start,
    )
    return Figure(
        "cold",
        f"the first answer of a supervisor: {EACH:,} conversations each of three programs",
        "a bare Python process that reads the same ends and rows",
        "ms",
        mine,
        bare,
        Goal.TIMES,
        2.0,
        parts={
            "ours, asked the moment that the supervisor serves": median(early),
            "of the limit: python -c pass": median(python),
        },
        note="ours: from the call of a connected client to its answer of all rows, once the supervisor has"
        " come to rest: with the start of a process for each adapter, their listings of folders, their"
        " watches and looks for processes; the limit: a whole process that is told the paths, opens the same"
        " files, reads as many bytes of them and the same rows, and makes nothing of it; all is in the cache"
        " of the kernel for both",
    )


async def _at_hand(stage: Stage) -> None:
    """The supervisor has come to rest: what the first question needs is loaded, and sleeps."""
    pid = int(await stage.bus.property(SUPERVISOR, "Service", "MainPID"))
    slept = 0
    while slept < _SLEPT:
        await asyncio.sleep(0.02)
        finders = [one for one in _below(pid) if _stat(one)[0] == "sessiond-finder"]
        slept = slept + 1 if finders and all(_stat(one)[1] == "S" for one in finders) else 0


def _stat(pid: int) -> tuple[str, str]:
    """Name and state of a process."""
    begin, _, end = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return begin.partition("(")[2], end.split()[0]


async def _process(argv: Sequence[str], printed: str | None = None) -> float:
    """Milliseconds of a process from start to end; ``printed`` is what it must print."""

    def once() -> float:
        began = time.perf_counter()
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        took = (time.perf_counter() - began) * 1000
        assert printed is None or done.stdout.strip() == printed, done.stdout[:200]
        return took

    return await asyncio.to_thread(once)


# ---- again


async def _warm(stage: Stage, corpus: Corpus, first: Sequence[float]) -> list[Figure]:
    """The same answer from what is known: what is opened meanwhile, and how long it takes."""
    await _all(stage)
    await asyncio.sleep(2.0)
    files = folders = 0
    took = []
    with closing(kernel.Inotify()) as inotify:
        for folder in corpus.folders:
            inotify.add(folder, kernel.OPEN)
        for _ in range(_WARM):
            took.append(await timed(_all(stage)))
            await asyncio.sleep(_APART)
        while events := inotify.read():
            assert not any(event.mask & kernel.Q_OVERFLOW for event in events)
            inner = sum(bool(event.mask & kernel.ISDIR) for event in events)
            files, folders = files + len(events) - inner, folders + inner
    return [
        Figure(
            "warm-opened",
            f"files opened by {_WARM} more such answers, and the looks behind them",
            "none",
            "files",
            [float(files)],
            [0.0],
            Goal.PLUS,
            0.0,
            note=f"by inotify on all folders of the corpus; folders opened: {folders}",
        ),
        Figure(
            "warm",
            f"such an answer, all {3 * EACH:,} rows",
            "the first answer",
            "ms",
            took,
            first,
            Goal.NONE,
        ),
    ]


# ---- one that changes


async def _changes(stage: Stage, corpus: Corpus, runs: int) -> list[Figure]:
    """From a write to the message of it at a client that watches."""
    async with _watching(stage) as shown:
        with closing(sqlite3.connect(corpus.opencode, isolation_level=None)) as database:
            writes: list[tuple[str, str, Callable[[int], str]]] = [
                ("append", "a line appended to a transcript", lambda count: _append(corpus, count)),
                ("create", "a new rollout", lambda count: _create(corpus, count)),
                ("update", "a row changed in the database", lambda count: _update(database, count)),
            ]
            return [
                Figure(
                    f"watch-{name}",
                    f"{what} to the message of it at a watching client",
                    "200 ms",
                    "ms",
                    [await _shown_after(shown, write, count) for count in range(runs)],
                    [_CHANGE_MS],
                    Goal.TIMES,
                )
                for name, what, write in writes
            ]


Shown = Callable[[str], Awaitable[None]]


async def _shown_after(shown: Shown, write: Callable[[int], str], count: int) -> float:
    # As people write: not at once after another.
    await asyncio.sleep(0.5)
    began = time.perf_counter()
    await shown(write(count))
    return (time.perf_counter() - began) * 1000


@asynccontextmanager
async def _watching(stage: Stage) -> AsyncIterator[Shown]:
    """A client that follows all changes; waits for the next message of an id."""
    wanted = discovery_pb2.AgentSessionFilter(include_stopped=True)
    stream = stage.discovery.WatchAgentSessions(discovery_pb2.WatchAgentSessionsRequest(filter=wanted))

    async def shown(id: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while (await stream.read()).agent_session.id != id:
                pass

    async with asyncio.timeout(DEADLINE):
        while not (await stream.read()).HasField("current"):
            pass
    try:
        yield shown
    finally:
        stream.cancel()


def _append(corpus: Corpus, count: int) -> str:
    path = Path(corpus.claude[count])
    line = {"type": "last-prompt", "lastPrompt": f"prompt {count}", "leafUuid": "", "sessionId": path.stem}
    prompt = {
        "type": "user",
        "message": {"role": "user", "content": f"prompt {count}"},
        "uuid": f"{count:08x}-0000-4000-8000-000000000000",
        "timestamp": "2026-12-01T12:00:00.000Z",
    }
    lines = (json.dumps(one, separators=(",", ":")) + "\n" for one in (prompt, line))
    with path.open("a") as file:
        file.write("".join(lines))
    return path.stem


def _create(corpus: Corpus, count: int) -> str:
    """Written as the program does: under its name from the beginning."""
    source = Path(corpus.codex[count])
    id = source.stem[-36:]
    own = f"{EACH + count:08x}{id[8:]}"
    source.with_name(source.name.replace(id, own)).write_bytes(
        source.read_bytes().replace(id.encode(), own.encode())
    )
    return own


def _update(database: sqlite3.Connection, count: int) -> str:
    [id] = database.execute("SELECT id FROM session ORDER BY id LIMIT 1 OFFSET ?", (count,)).fetchone()
    query = "UPDATE session SET title = ?, time_updated = time_updated + 1 WHERE id = ?"
    database.execute(query, (f"title {count}", id))
    return str(id)


# ---- as a command


async def _commands(runs: int) -> list[Figure]:
    """`sessionctl discovered`, beside the import that it cannot do without and what it is to answer."""
    found = []
    for name, words, everything in (
        ("discovered-all", ["discovered", "-a"], True),
        ("discovered", ["discovered"], False),
    ):
        with closing(App()) as app:
            mine, imported, answers = await interleave(
                runs,
                _command([program("sessionctl"), *words]),
                _command([sys.executable, "-c", "import grpc"]),
                _answering(app, everything),
            )
        rows = f"{3 * EACH:,} rows" if everything else "no row"
        found.append(
            Figure(
                name,
                f"`sessionctl {' '.join(words)}`, a process ({rows})",
                f"{_IMPORT} and the answer to a client that runs",
                "ms",
                mine,
                [sum(pair) for pair in zip(imported, answers, strict=True)],
                Goal.TIMES,
                1.5,
                parts={_IMPORT: median(imported), "the call and printing, in process": median(answers)},
            )
        )
    return found


def _command(argv: Sequence[str]) -> Measure:
    async def measure() -> float:
        return await _process(argv)

    return measure


def _answering(app: App, everything: bool) -> Measure:
    """The same call and the same text, by a process that has all loaded and is connected."""
    wanted = discovery_pb2.AgentSessionFilter(include_stopped=everything)
    request = discovery_pb2.ListAgentSessionsRequest(filter=wanted)

    def once() -> float:
        began = time.perf_counter()
        answer = app.supervisor.call(app.supervisor.discovery.ListAgentSessions, request)
        found = [conversation_object(app, one) for one in answer.agent_sessions]
        printed = io.StringIO()
        for line in conversation_table(found):
            app.print(line, file=printed)
        return (time.perf_counter() - began) * 1000

    async def measure() -> float:
        return await asyncio.to_thread(once)

    return measure


# ---- while nothing happens


async def _idle(stage: Stage, corpus: Corpus) -> list[Figure]:
    """Wake-ups and memory of the supervisor and of all that finds, with all of it on disk and with none."""
    full = await _resting(stage, f"with {3 * EACH:,} conversations")
    _hide(corpus)
    empty = await _resting(stage, "with none")
    _show(corpus)
    return [
        Figure(
            "discovery-wakeups",
            f"wake-ups of supervisor, finder and adapters, idle beside {3 * EACH:,} conversations",
            "the same beside none",
            "/s",
            full.own,
            empty.own,
            Goal.PLUS,
            _NOISE,
            parts={
                "of finder and adapters alone": median(full.finder),
                "of finder and adapters beside none": median(empty.finder),
                "of gRPC's threads in the supervisor": median(full.threads),
                "of these threads beside none": median(empty.threads),
            },
            note="of event loops: the main thread of each process; the goal is as many, give or take noise",
        ),
        Figure(
            "discovery-memory",
            f"memory of finder and adapters beside {3 * EACH:,} conversations (PSS)",
            "the same beside none",
            "MB",
            [full.memory],
            [empty.memory],
            Goal.NONE,
            note=f"{full.processes} processes beside them, {empty.processes} beside none",
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Rest:
    """Wake-ups a second in each round, and memory in MB."""

    own: Sequence[float]
    finder: Sequence[float]
    threads: Sequence[float]
    memory: float
    processes: int


async def _resting(stage: Stage, what: str) -> _Rest:
    await _restart(stage)
    await _all(stage)
    await stage.reconnect()
    pid = int(await stage.bus.property(SUPERVISOR, "Service", "MainPID"))
    finder = _below(pid)
    progress(f"letting a supervisor and {len(finder)} processes of its finder idle {what}")
    await asyncio.sleep(SETTLING)
    rounds = [await wakeup_rates([pid, *finder]) for _ in range(_ROUNDS)]
    return _Rest(
        [sum(own) for _, own in rounds],
        [sum(own[1:]) for _, own in rounds],
        [sum(rates) - sum(own) for rates, own in rounds],
        sum(map(memory_of, finder)),
        len(finder),
    )


def _below(pid: int) -> list[int]:
    """All processes that a process started, and those that these did."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [child, *_below(child)]
    return found


def _hide(corpus: Corpus) -> None:
    for top in corpus.tops:
        os.rename(top, f"{top}{_HIDDEN}")


def _show(corpus: Corpus) -> None:
    for top in corpus.tops:
        os.rename(f"{top}{_HIDDEN}", top)
