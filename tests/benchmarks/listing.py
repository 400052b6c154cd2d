"""Listing sessions: a process that asks, a thousand in the supervisor, and the supervisor back among them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from sessiond.model.unit import daemon_unit
from sessiond.workspaces import identity_file
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.stage import (
    SUPERVISOR,
    Measure,
    Stage,
    interleave,
    program,
    progress,
    sessionctl,
    timed,
)

MANY = 1000
REAL = 50
_FEW = 10
_DAEMONS = daemon_unit("*")
_LISTED = f"ListUnitsByPatterns of the same {MANY:,} units"
_IMPORT = 'python -c "import grpc"'


def _process(argv: Sequence[str], rows: int | None = None) -> Measure:
    """Milliseconds of a whole process; ``rows`` is how many sessions it must print."""

    async def measure() -> float:
        began = time.perf_counter()
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)  # noqa: ASYNC221 - nothing else runs
        took = (time.perf_counter() - began) * 1000
        if rows is not None:
            shown = json.loads(done.stdout) if "--json" in argv else done.stdout.splitlines()[1:]
            assert len(shown) == rows, f"{argv} shows {len(shown)} of {rows} sessions"
        return took

    return measure


async def _commands(runs: int, rows: int) -> list[list[float]]:
    """Samples of `sessionctl list`, of the same with --json, and of the import of grpc."""
    listing = [program("sessionctl"), "list"]
    return await interleave(
        runs,
        _process(listing, rows),
        _process([*listing, "--json"], rows),
        _process([sys.executable, "-c", "import grpc"]),
    )


async def command(stage: Stage, runs: int) -> list[Figure]:
    """`sessionctl list` as a process, beside the import that it cannot do without."""
    made = [await stage.create() for _ in range(_FEW)]
    text, as_json, limit = await _commands(runs, _FEW)
    for session in made:
        await stage.delete(session)
    return [
        Figure("command", "`sessionctl list`, a process", _IMPORT, "ms", text, limit, Goal.TIMES, 1.5),
        Figure(
            "command-json",
            "`sessionctl list --json`, a process",
            _IMPORT,
            "ms",
            as_json,
            limit,
            Goal.TIMES,
            1.5,
        ),
    ]


# ---- a thousand sessions


async def gather(stage: Stage) -> list[str]:
    """Ids of a thousand sessions whose units run, found by a supervisor that started after them."""
    progress(f"starting {MANY:,} units that stand in for session daemons")
    sessionctl("down")
    made = stage.write_identities(MANY)
    for session in made:
        await stage.start_stand_in(session)
    sessionctl("up")
    await stage.reconnect()
    await stage.all_active(MANY)
    return made


async def listing(stage: Stage, runs: int) -> list[Figure]:
    """ListSessions of a thousand, beside one listing of their units; no bus call may be made for it."""
    await gather(stage)

    async def ours() -> float:
        return await timed(stage.rows())

    async def limit() -> float:
        return await timed(stage.bus.count_units(_DAEMONS))

    assert await stage.bus.count_units(_DAEMONS) == MANY
    # GetInfo itself may ask systemd something: what two in a row differ by is not the listings'.
    own = -await stage.init_calls() + await stage.init_calls()
    before = await stage.init_calls()
    mine, theirs = await interleave(runs * 3, ours, limit)
    calls = await stage.init_calls() - before - own
    assert calls == 0, f"{calls} calls to systemd were made by {runs * 3 + 1} listings"
    text, _, imported = await _commands(max(runs // 2, 3), MANY)
    return [
        Figure(
            "list",
            f"list {MANY:,} sessions, ListSessions of a connected client",
            _LISTED,
            "ms",
            mine,
            theirs,
            Goal.BELOW,
            note=f"{calls} calls to systemd in {runs * 3 + 1} listings, by init_calls of GetInfo",
        ),
        Figure(
            "command-many",
            f"`sessionctl list` of {MANY:,}, a process",
            _IMPORT,
            "ms",
            text,
            imported,
            Goal.NONE,
        ),
    ]


async def restart(stage: Stage, runs: int) -> list[Figure]:
    """`systemctl --user restart sessiond` to the first right listing of all."""
    if await stage.bus.count_units(_DAEMONS) < MANY:
        await gather(stage)
    progress(f"starting {REAL} sessions beside them")
    made = [await stage.create() for _ in range(REAL)]
    await asyncio.gather(*(stage.start(session) for session in made))
    await stage.all_active(MANY + REAL)
    parts: dict[str, list[float]] = {}

    async def ours() -> float:
        return await _restarted(stage, parts)

    async def limit() -> float:
        return await timed(stage.bus.count_units(_DAEMONS))

    mine, theirs = await interleave(max(runs // 2, 3), ours, limit)
    imports = [await _process([sys.executable, "-c", "import sessiond.supervisor.parts"])() for _ in range(5)]
    folders = [row.path for row in await stage.rows()]
    return [
        Figure(
            "restart",
            f"supervisor restart with {MANY + REAL:,} live sessions to serving",
            "one ListUnitsByPatterns of them",
            "ms",
            mine,
            theirs,
            Goal.PLUS,
            500.0,
            parts={
                **{name: median(values[1:]) for name, values in parts.items()},
                "for comparison: a Python process that imports all of it": median(imports),
                "for comparison: reading the identities, one after another": _reading(folders),
            },
        )
    ]


async def _restarted(stage: Stage, parts: dict[str, list[float]]) -> float:
    await stage.bus.call("ResetFailedUnit", "s", SUPERVISOR)
    began = time.monotonic_ns() // 1000
    process = await asyncio.create_subprocess_exec("systemctl", "--user", "restart", SUPERVISOR)
    assert await process.wait() == 0
    await stage.reconnect()
    await stage.all_active(MANY + REAL)
    ended = time.monotonic_ns() // 1000
    started = await stage.bus.property(SUPERVISOR, "Unit", "InactiveExitTimestampMonotonic")
    ready = await stage.bus.property(SUPERVISOR, "Unit", "ActiveEnterTimestampMonotonic")
    for name, took in (
        ("until the old process is gone", started - began),
        ("from its start to READY", ready - started),
        ("from READY to the first right listing", ended - ready),
    ):
        parts.setdefault(name, []).append(took / 1000)
    return (ended - began) / 1000


def _reading(folders: Sequence[str]) -> float:
    """Milliseconds to read the identities in all folders."""
    began = time.perf_counter()
    for folder in folders:
        identity_file.read(Path(folder))
    return (time.perf_counter() - began) * 1000
