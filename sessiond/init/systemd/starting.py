"""Starting a session's daemon: the unit's name is the singleton, whoever comes second joins or waits."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from sessiond.errors import AlreadyExists, Conflict, NotFound, SessiondError, TimedOut
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.jobs import Look, look, looks, run_job
from sessiond.init.systemd.names import SERVICE, unit_path
from sessiond.init.systemd.units import daemon_properties
from sessiond.model.unit import UnitStatus, agents_slice, daemon_unit, session_slice
from sessiond.ports import DaemonSpec

# What is waited beyond the unit's own time limits, at which systemd itself ends the job.
MARGIN = 10.0
_ATTEMPTS = 10
_RUNS = ("active", "reloading", "refreshing")

# Exit statuses for what systemd could not set up for the process, systemd.exec(5).
_SETUP_FAILURES = {
    200: "its folder cannot be entered",
    203: "its command cannot be executed",
    216: "its group cannot be set",
    217: "its user cannot be set",
    219: "its cgroup cannot be set up",
    226: "its name spaces cannot be set up",
    228: "its system call filter cannot be set up",
}

_RESULTS = {
    "protocol": "it ended before it was ready",
    "timeout": "it was not ready in time",
    "watchdog": "its watchdog ran out",
    "start-limit-hit": "it was started too often in a short time",
    "oom-kill": "it was killed for memory",
    "resources": "systemd could not get what it needs to start it",
    "exec-condition": "its condition did not hold",
}


async def start_daemon(connection: Connection, spec: DaemonSpec, *, wait: bool) -> None:
    """Register and start it, or see it run. Raises Conflict `start_failed`, TimedOut `start_timeout`."""
    unit = daemon_unit(spec.session)
    properties = [list(pair) for pair in daemon_properties(spec, await connection.major_version())]
    call: tuple[Any, ...] = ("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, [])
    for _ in range(_ATTEMPTS):
        try:
            await _started(connection, spec, call, wait=wait)
        except AlreadyExists:
            if await _join(connection, spec, wait=wait):
                return
        except Conflict as error:
            if error.code != "job_in_the_way":
                raise
            await _stopped(connection, spec)
        else:
            return
    raise _failed(unit, "it is stopped again and again while it is started")


async def _started(connection: Connection, spec: DaemonSpec, call: tuple[Any, ...], *, wait: bool) -> None:
    """Make the call that asks for a start job, and see it through."""
    unit = daemon_unit(spec.session)

    async def ask() -> str:
        (job,) = await connection.manager(*call)
        return str(job)

    if not wait:
        await ask()
        return
    try:
        result = await run_job(connection, unit, ask, deadline=spec.start_timeout + MARGIN)
    except TimedOut as error:
        raise _late(unit, error.message) from error
    if result != "done":
        await raise_start_failure(connection, unit, result)


async def _stopped(connection: Connection, spec: DaemonSpec) -> None:
    """Wait until the session's slice is not being stopped: nothing can be started in it before."""
    deadline = spec.stop_timeout + MARGIN
    try:
        async with asyncio.timeout(deadline), looks(connection, session_slice(spec.session)) as states:
            async for now in states:
                if now is None or now.job != "stop":
                    return
    except TimeoutError as error:
        why = f"its session has not stopped within {deadline:g} s"
        raise _failed(daemon_unit(spec.session), why) from error


async def _join(connection: Connection, spec: DaemonSpec, *, wait: bool) -> bool:
    """A unit of the name is there: return True when it runs, False when the name is free again."""
    unit = daemon_unit(spec.session)
    deadline = spec.stop_timeout + MARGIN
    try:
        async with asyncio.timeout(deadline), looks(connection, unit) as states:
            async for now in states:
                if now is None:
                    return False
                if now.job == "stop" or now.active == "deactivating":
                    continue
                if now.active in _RUNS:
                    return True
                if now.active == "activating" or now.job:
                    return not wait or await _join_start(connection, spec, wait=True)
                if now.active == "failed":
                    await reset_failed(connection, unit)
                    return False
                if await _held(connection, spec):
                    return await _join_start(connection, spec, wait=wait)
    except TimeoutError as error:
        raise _failed(unit, f"the one before it has not gone away within {deadline:g} s") from error
    return False


async def _held(connection: Connection, spec: DaemonSpec) -> bool:
    """Whether agents that a dead daemon left keep its unit loaded: theirs are ordered after it."""
    agents = await look(connection, agents_slice(spec.session))
    return agents is not None and agents.active == "active"


async def _join_start(connection: Connection, spec: DaemonSpec, *, wait: bool) -> bool:
    """Have a unit that is there start, or wait where it is doing so, also by an automatic restart; False when
    a stop came first."""
    try:
        await _started(connection, spec, ("StartUnit", "ss", daemon_unit(spec.session), "fail"), wait=wait)
    except (NotFound, Conflict) as error:
        if error.code == "start_failed":
            raise
        return False
    return True


async def reset_failed(connection: Connection, unit: str) -> None:
    """Free a failed unit; one that is not loaded is fine."""
    with contextlib.suppress(NotFound):
        await connection.manager("ResetFailedUnit", "s", unit)


async def raise_start_failure(connection: Connection, unit: str, job_result: str) -> None:
    """Raise what the end of a start job means, with what systemd knows of the process. UNTOLD may be fine."""
    now = await look(connection, unit)
    if job_result == "untold" and now is not None and now.active in _RUNS:
        return
    if job_result == "canceled":
        raise _failed(unit, "another request, such as a stop, cancelled it", job=job_result)
    if now is None:
        raise _failed(unit, f"its start job ended as {job_result} and left nothing", job=job_result)
    status = await _ended(connection, unit, now)
    if job_result == "timeout" or status.result == "timeout":
        raise _late(unit, _RESULTS["timeout"])
    raise _failed(unit, _why(status), job=job_result, status=status)


async def _ended(connection: Connection, unit: str, now: Look) -> UnitStatus:
    path = unit_path(unit)
    names = ("Result", "ExecMainCode", "ExecMainStatus", "NRestarts")
    values = await asyncio.gather(*(connection.get(path, SERVICE, name) for name in names))
    result, code, status, restarts = values
    return UnitStatus(
        unit,
        active_state=now.active,
        sub_state=now.sub,
        result=result,
        exec_main_code=code,
        exec_main_status=status,
        n_restarts=restarts,
    )


def _why(status: UnitStatus) -> str:
    if status.exit_signal:
        why = f"its process was killed by {status.exit_signal}"
    elif status.exit_status and status.exit_status in _SETUP_FAILURES:
        why = f"{_SETUP_FAILURES[status.exit_status]} (exit status {status.exit_status})"
    elif status.exit_status:
        why = f"its process exited with status {status.exit_status}"
    else:
        why = _RESULTS.get(status.result, "it ended before it was ready")
    if status.active_state == "activating":
        why += "; systemd goes on trying"
    return why


def _failed(unit: str, why: str, *, job: str = "", status: UnitStatus | None = None) -> SessiondError:
    fields = {"unit": unit}
    if job:
        fields["job_result"] = job
    if status is not None:
        fields |= {"result": status.result, "state": f"{status.active_state}/{status.sub_state}"}
        if status.exit_status is not None:
            fields["exit_status"] = str(status.exit_status)
        if status.exit_signal:
            fields["signal"] = status.exit_signal
    return Conflict(
        "start_failed",
        f"{unit} did not start: {why}",
        hint=f"`journalctl --user-unit {unit}` has what it said",
        fields=fields,
    )


def _late(unit: str, why: str) -> TimedOut:
    return TimedOut(
        "start_timeout",
        f"{unit} did not start in time: {why}",
        hint=f"`journalctl --user-unit {unit}` has what it said; it may still start",
        fields={"unit": unit},
    )
