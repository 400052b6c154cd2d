"""What the manager says of agents' units, read whole: a listing, then the fields that it has not got."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from sessiond.errors import NotFound
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import SERVICE, UNIT, unit_path
from sessiond.init.systemd.notation import INFINITY
from sessiond.init.systemd.status import moment
from sessiond.model.agent import AgentUnit
from sessiond.model.unit import UnitStatus, agent_of_unit

# The load state last: a unit that went away in between is loaded by the asking, as one that is not found.
_ASKED = (
    (SERVICE, "MainPID"),
    (SERVICE, "Result"),
    (SERVICE, "ExecMainCode"),
    (SERVICE, "ExecMainStatus"),
    (SERVICE, "NRestarts"),
    (SERVICE, "ExecMainStartTimestamp"),
    (SERVICE, "ExecMainExitTimestamp"),
    (SERVICE, "CPUUsageNSec"),
    (SERVICE, "MemoryCurrent"),
    (UNIT, "FreezerState"),
    (UNIT, "StateChangeTimestamp"),
    (UNIT, "LoadState"),
)


async def listed(connection: Connection, session: str, patterns: Iterable[str]) -> list[list[Any]]:
    """Rows of the units of a session's agents that are loaded; asking for them loads none."""
    (rows,) = await connection.manager("ListUnitsByPatterns", "asas", [], list(patterns))
    return [row for row in rows if row[2] != "not-found" and _session(row[0]) == session]


def _session(unit: str) -> str:
    found = agent_of_unit(unit)
    return found[0] if found else ""


async def read_units(connection: Connection, session: str, patterns: Iterable[str]) -> dict[str, AgentUnit]:
    """Units of the session's agents by name, as they are now; those that are not loaded are left out."""
    rows = await listed(connection, session, patterns)
    units = await asyncio.gather(*(_read(connection, row) for row in rows))
    return {unit.name: unit for unit in units if unit is not None}


async def _read(connection: Connection, row: list[Any]) -> AgentUnit | None:
    name, _, load, active, sub, _, _, _, job = row[:9]
    path = unit_path(name)
    try:
        values = await asyncio.gather(*(connection.get(path, *asked) for asked in _ASKED))
    except NotFound:
        return None
    pid, result, code, status, restarts, began, ended, cpu, memory, frozen, changed, still = values
    if still == "not-found":
        return None
    return AgentUnit(
        status=UnitStatus(
            name,
            load_state=load,
            active_state=active,
            sub_state=sub,
            freezer_state=frozen,
            main_pid=pid,
            result=result,
            exec_main_code=code,
            exec_main_status=status,
            n_restarts=restarts,
            state_changed_at=moment(changed),
        ),
        started_at=moment(began),
        ended_at=moment(ended),
        job=job,
        cpu_seconds=None if cpu == INFINITY else cpu / 1e9,
        memory_bytes=None if memory == INFINITY else memory,
    )
