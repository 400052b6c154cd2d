"""What an agent costs besides its own program: to start one, and while it is idle."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from sessiond.daemon.screens import IDLE
from sessiond.model.unit import daemon_unit
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.footprint import SETTLING, memory_of, wakeup_rates
from tests.benchmarks.stage import Stage, interleave, program, progress, sessionctl
from tests.benchmarks.terminal import until_shown
from tests.benchmarks.typist import Typist

_AGENTS = 10
_LINES = 10_000
# Of each kind, where wake-ups are counted.
_DAEMONS = 8
_NOISE = 1.15
# gRPC's threads wake by turns that drift over minutes: with less, two groups of equal daemons differ by more.
_SECONDS = 120.0


async def run(stage: Stage, runs: int) -> list[Figure]:
    """`sessionctl run --detach`, a process, beside systemd-run and the start of a gRPC client."""
    session = await stage.create()
    await stage.start(session)
    detach = [program("sessionctl"), "run", "-s", session, "--detach", "--", "sleep", "600"]
    bare = ["systemd-run", "--user", "--quiet", "--", "sleep", "600"]
    client = [sys.executable, "-c", "import grpc"]
    parts: list[tuple[float, float]] = []

    async def ours() -> float:
        return await _process(detach)

    async def limit() -> float:
        taken = (await _process(bare), await _process(client))
        parts.append(taken)
        return sum(taken)

    mine, theirs = await interleave(runs, ours, limit)
    await stage.delete(session)
    return [
        Figure(
            "run",
            "`sessionctl run --detach`, a process",
            'systemd-run --user and python -c "import grpc"',
            "ms",
            mine,
            theirs,
            Goal.TIMES,
            1.5,
            parts={
                "systemd-run --user": median(pair[0] for pair in parts[1:]),
                'python -c "import grpc"': median(pair[1] for pair in parts[1:]),
            },
        )
    ]


async def _process(argv: Sequence[str]) -> float:
    """Milliseconds of a process from start to end."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return (time.perf_counter() - began) * 1000

    return await asyncio.to_thread(once)


async def idle(stage: Stage, runs: int) -> list[Figure]:
    """Daemons' memory and wake-ups with idle agents."""
    return [await _memory(stage), await _wakeups(stage)]


async def _memory(stage: Stage) -> Figure:
    """For an agent behind a full scrollback that was looked at.

    Two daemons that differ by ten agents are measured at the same time: what every daemon needs once that
    has an agent is in both. A third has none.
    """
    few, many, none = [await stage.create() for _ in range(3)]
    for session in (few, many, none):
        await stage.start(session)
    text = f"import time; print(*range({_LINES}), sep='\\n', flush=True); time.sleep(9999)"
    agents = [(few, "idle-0"), *((many, f"idle-{number}") for number in range(_AGENTS + 1))]
    for session, name in agents:
        words = ("--detach", "--tty", "--name", name, "--", sys.executable, "-c", text)
        sessionctl("run", "-s", session, *words)
    for session, name in agents:
        await asyncio.to_thread(until_shown, session, name, str(_LINES - 1))
    pids = [await _pid(stage, session) for session in (few, many, none)]
    progress(f"letting three daemons idle for {IDLE + SETTLING:g} s")
    await asyncio.sleep(IDLE + SETTLING)
    memory = [memory_of(pid) for pid in pids]
    with ExitStack() as stack:
        for session, name in agents:
            client = stack.enter_context(Typist([program("sessionctl"), "attach", f"{session}/{name}"]))
            await asyncio.to_thread(client.until, str(_LINES - 1).encode())
        await asyncio.sleep(SETTLING)
        attached = [memory_of(pid) for pid in pids]
    for session in (few, many, none):
        await stage.delete(session)
    return Figure(
        "agent-memory",
        "a session daemon's memory for an idle agent with full scrollback (PSS)",
        "2 MB",
        "MB",
        [(memory[1] - memory[0]) / _AGENTS],
        [2.0],
        Goal.TIMES,
        1.0,
        parts={
            "while a client is attached to each": (attached[1] - attached[0]) / _AGENTS,
            "the daemon with one agent": memory[0],
            f"with {_AGENTS + 1}": memory[1],
            "with none": memory[2],
        },
    )


async def _wakeups(stage: Stage) -> Figure:
    """Of several daemons each: the threads of gRPC, which are in all of them, differ from one to the next."""
    busy = [await stage.create() for _ in range(_DAEMONS)]
    quiet = [await stage.create() for _ in range(_DAEMONS)]
    for session in busy + quiet:
        await stage.start(session)
    for session in busy:
        for number in range(_AGENTS):
            words = ("--detach", "--tty", "--name", f"idle-{number}", "--", "sleep", "9999")
            sessionctl("run", "-s", session, *words)
    for session in quiet:
        # gRPC's threads wake more often in a process that has ever answered a call, whichever it was.
        sessionctl("ps", session)
    pids = [await _pid(stage, session) for session in busy + quiet]
    progress(f"letting {2 * _DAEMONS} daemons idle for {SETTLING + _SECONDS:g} s")
    await asyncio.sleep(SETTLING)
    rates, own = await wakeup_rates(pids, _SECONDS)
    for session in busy + quiet:
        await stage.delete(session)
    return Figure(
        "agent-wakeups",
        f"wake-ups of a session daemon with {_AGENTS} idle agents",
        "one with none that was asked for them",
        "/s",
        rates[:_DAEMONS],
        rates[_DAEMONS:],
        Goal.TIMES,
        _NOISE,
        parts={"from its own event loop": median(own[:_DAEMONS])},
        note="the others are those of gRPC's threads, in both; the goal is as many, give or take noise",
    )


async def _pid(stage: Stage, session: str) -> int:
    return int(await stage.bus.property(daemon_unit(session), "Service", "MainPID"))
