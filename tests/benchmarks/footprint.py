"""What a session daemon costs while nothing happens: memory of its own, and how often it wakes up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sessiond.model.unit import daemon_unit
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.stage import Stage, progress

_EACH = 8
# gRPC's threads wake by turns that drift: two equal processes may differ by half over a part of a minute.
_SECONDS = 60.0
# What the rates of equal processes differ by from run to run.
_NOISE = 1.15
# gRPC keeps threads of its start for some seconds, in which they wake up without work.
SETTLING = 15.0
_BARE = f"a bare grpc.aio process, {_EACH} of each at once"


async def footprint(stage: Stage, runs: int) -> list[Figure]:
    """PSS and voluntary context switches of idle session daemons, beside as many bare daemons."""
    sessions = [await stage.create() for _ in range(_EACH)]
    units = [stage.bare_name() for _ in sessions]
    for session, unit in zip(sessions, units, strict=True):
        await stage.start(session)
        await stage.start_bare(unit)
    mine = [await _pid(stage, daemon_unit(session)) for session in sessions]
    bare = [await _pid(stage, unit) for unit in units]
    progress(f"letting {2 * _EACH} daemons idle for {SETTLING + _SECONDS:g} s")
    await asyncio.sleep(SETTLING)
    rates, own = await wakeup_rates(mine + bare)
    memory = [memory_of(pid) for pid in mine + bare]
    for unit in units:
        await stage.bus.stop(unit)
    for session in sessions:
        await stage.delete(session)
    return [
        Figure(
            "memory", "a session daemon's own memory (PSS)", _BARE, "MB", *_halves(memory), Goal.TIMES, 1.4
        ),
        Figure(
            "wakeups",
            "its wake-ups while idle",
            _BARE,
            "/s",
            *_halves(rates),
            Goal.TIMES,
            _NOISE,
            parts={"from its own event loop": median(own[:_EACH])},
            note="the others are those of gRPC's threads, in both; the goal is as many, give or take noise",
        ),
    ]


async def wakeup_rates(pids: Sequence[int], seconds: float = _SECONDS) -> tuple[list[float], list[float]]:
    """Voluntary context switches a second of each process, and of its main thread alone."""
    before = [(_switches(pid), _switches(pid, str(pid))) for pid in pids]
    await asyncio.sleep(seconds)
    after = [(_switches(pid), _switches(pid, str(pid))) for pid in pids]

    def rates(side: int) -> list[float]:
        return [(new[side] - old[side]) / seconds for old, new in zip(before, after, strict=True)]

    return rates(0), rates(1)


def _halves(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    return values[:_EACH], values[_EACH:]


async def _pid(stage: Stage, unit: str) -> int:
    return int(await stage.bus.property(unit, "Service", "MainPID"))


def memory_of(pid: int) -> float:
    """Proportional set size in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _switches(pid: int, thread: str = "*") -> int:
    """Voluntary context switches so far, of all threads or one."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob(f"{thread}/status"):
        lines = status.read_text().splitlines()
        count += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return count
