"""Starting a session, and what a SIGKILL of its daemon costs: until a client hears, until it serves again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median

import grpc.aio
from dbus_fast import Variant

from sessiond.model.unit import daemon_unit
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.stage import DEADLINE, Stage, interleave, timed

_RESTART_MS = 100.0
# systemd gives up on a daemon that starts more than 30 times in 60 s.
_KILLS_EACH = 20
_BARE = "a bare grpc.aio unit to READY"


async def start(stage: Stage, runs: int) -> list[Figure]:
    """StartSession from call to answer, beside the start of a bare daemon."""
    session = await stage.create()
    steps: list[tuple[float, float]] = []

    async def ours() -> float:
        began = time.monotonic_ns()
        took = await timed(stage.start(session))
        steps.append(await _steps(stage, session, began))
        await stage.stop(session)
        return took

    mine, limit = await interleave(runs, ours, stage.bare_start)
    await stage.delete(session)
    what = "start a session, call to READY"
    return [Figure("start", what, _BARE, "ms", mine, limit, Goal.TIMES, 1.5, parts=_parts(steps))]


async def _steps(stage: Stage, session: str, began: int) -> tuple[float, float]:
    """Milliseconds from a moment (CLOCK_MONOTONIC in ns) to the daemon's process, and to its READY."""
    unit = daemon_unit(session)
    executed = await stage.bus.property(unit, "Service", "ExecMainStartTimestampMonotonic")
    ready = await stage.bus.property(unit, "Unit", "ActiveEnterTimestampMonotonic")
    return executed / 1e3 - began / 1e6, ready / 1e3 - began / 1e6


def _parts(steps: Sequence[tuple[float, float]]) -> dict[str, float]:
    # The first round is not counted.
    return {
        "until systemd starts the process": median(step[0] for step in steps[1:]),
        "until that is READY": median(step[1] for step in steps[1:]),
    }


# ---- until a client hears


class Listener:
    """A listening process and what it printed: (CLOCK_MONOTONIC in ns, word)."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._heard: list[tuple[int, str]] = []

    async def ready(self) -> None:
        """Return when it listens."""
        assert await self._line() == ""

    async def first(self, after: int, word: str = "") -> int:
        """When the first event after a moment was heard, only those of a word; in ns."""
        while True:
            for stamp, what in self._heard:
                if stamp > after and word in ("", what):
                    return stamp
            stamp_text, what = (await self._line()).split()
            self._heard.append((int(stamp_text), what))

    async def _line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = await self._process.stdout.readline()
        assert line, "the listener ended"
        return line.decode().strip()


@asynccontextmanager
async def _listener(*words: str) -> AsyncIterator[Listener]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.listener", *words, stdout=PIPE
    )
    try:
        listener = Listener(process)
        await listener.ready()
        yield listener
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def event(stage: Stage, runs: int) -> list[Figure]:
    """SIGKILL to the event at a client, beside the signal at a bare listener, each in its own process."""
    samples: list[tuple[float, float]] = []
    while len(samples) < runs:
        session = await stage.create()
        await stage.start(session)
        async with (
            _listener("bus", daemon_unit(session)) as bus,
            _listener("client", str(stage.paths.socket), session) as client,
        ):
            # The first one is not counted.
            taken = [await _kill(stage, session, bus, client) for _ in range(_KILLS_EACH)]
        samples += taken[1:]
        await stage.delete(session)
    mine, limit = ([pair[side] for pair in samples[:runs]] for side in (0, 1))
    later = median(ours - theirs for ours, theirs in zip(mine, limit, strict=True))
    return [
        Figure(
            "event",
            "SIGKILL of a session daemon to the event at a client",
            "the D-Bus signal at a bare listener",
            "ms",
            mine,
            limit,
            Goal.PLUS,
            5.0,
            parts={"later than the signal, in the same kill": later},
        )
    ]


async def _kill(stage: Stage, session: str, bus: Listener, client: Listener) -> tuple[float, float]:
    """Milliseconds to the event and to the signal; returns when the session is active again."""
    pid = await stage.bus.property(daemon_unit(session), "Service", "MainPID")
    killed = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    heard = await client.first(killed)
    signalled = await bus.first(killed)
    await client.first(killed, "active")
    return (heard - killed) / 1e6, (signalled - killed) / 1e6


# ---- until it serves again


async def crash(stage: Stage, runs: int) -> list[Figure]:
    """SIGKILL to an answer on the daemon's own socket, beside RestartSec and the start of a bare daemon."""
    sessions = [await stage.create() for _ in range(-(-(runs + 1) // _KILLS_EACH))]
    for session in sessions:
        await stage.start(session)
    bare = stage.bare_name()
    await stage.start_bare(
        bare,
        Restart=Variant("s", "on-failure"),
        RestartUSec=Variant("t", int(_RESTART_MS * 1000)),
        StartLimitBurst=Variant("u", 0),
    )
    count = 0
    steps: list[tuple[float, float]] = []

    async def ours() -> float:
        nonlocal count
        session = sessions[count // _KILLS_EACH]
        count += 1
        took, taken = await _serving_again(stage, session)
        steps.append(taken)
        return took

    async def limit() -> float:
        return _RESTART_MS + await stage.bare_start()

    async def bare_again() -> float:
        pid = await stage.bus.property(bare, "Service", "MainPID")
        again = stage.bus.restarted(bare)
        os.kill(pid, signal.SIGKILL)
        return await timed(again)

    mine, theirs, again = await interleave(runs, ours, limit, bare_again)
    await stage.bus.stop(bare)
    for session in sessions:
        await stage.delete(session)
    return [
        Figure(
            "crash",
            "SIGKILL of a session daemon to serving again",
            f"RestartSec and {_BARE}",
            "ms",
            mine,
            theirs,
            Goal.TIMES,
            1.3,
            parts={
                **_parts(steps),
                "for comparison: a bare unit with the same RestartSec, SIGKILL to READY": median(again),
            },
        )
    ]


async def _serving_again(stage: Stage, session: str) -> tuple[float, tuple[float, float]]:
    """Milliseconds from SIGKILL to an answer, and those to a new process and to its READY."""
    path = stage.paths.session_socket(session)
    before = await stage.daemon_pid(session)
    began, killed = time.perf_counter(), time.monotonic_ns()
    os.kill(before, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE):
        await _listening(path)
        while not await _answers_anew(stage, session, before):
            await _listening(path)
    took = (time.perf_counter() - began) * 1000
    await stage.active(session)
    return took, await _steps(stage, session, killed)


async def _answers_anew(stage: Stage, session: str, before: int) -> bool:
    """Whether another process than before answers; one that is being killed may still take connections."""
    try:
        return await stage.daemon_pid(session) != before
    except grpc.aio.AioRpcError:
        return False


async def _listening(path: Path) -> None:
    """Return when somebody listens; nobody tells, so it is tried each millisecond."""
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                await asyncio.sleep(0.001)
            else:
                return
