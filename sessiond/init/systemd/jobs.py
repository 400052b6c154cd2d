"""Jobs and states of one unit: asking for a job and waiting for its result, without missing a quick one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from dbus_fast import Message

from sessiond.errors import NotFound, TimedOut
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import JOB, PROPERTIES, SYSTEMD, unit_path

Ask = Callable[[], Awaitable[str]]

# The job was over when a manager that was exec'd anew was back: nobody told its result.
UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class Look:
    """A unit as one row of a listing has it; ``job`` is the type of its waiting job, or empty."""

    load: str
    active: str
    sub: str
    job: str


async def look(connection: Connection, unit: str) -> Look | None:
    """The unit as it is now, None where it is not loaded; unlike asking for a property this loads nothing."""
    (rows,) = await connection.manager("ListUnitsByPatterns", "asas", [], [unit])
    return next((Look(row[2], row[3], row[4], row[8]) for row in rows if row[0] == unit), None)


async def run_job(connection: Connection, unit: str, ask: Ask, *, deadline: float) -> str:
    """Ask for a job of the unit (``ask`` returns its object path) and return its result.

    The result is systemd's word (done, failed, timeout, canceled, dependency, skipped) or UNTOLD. Raises
    TimedOut `job_timeout` when there is none after ``deadline`` seconds, Unreachable when the bus is lost.
    """
    ended: dict[str, str] = {}
    pulse = asyncio.Event()
    renewed = False

    def told(path: str, result: str) -> None:
        ended[path] = result
        pulse.set()

    def heard(message: Message) -> None:
        nonlocal renewed
        if message.member == "NameOwnerChanged" and message.body[2]:
            renewed = True
            pulse.set()

    with connection.jobs_of(unit, told), connection.listening(heard):
        job = await ask()
        try:
            async with asyncio.timeout(deadline):
                while job not in ended:
                    await _pulse(connection, pulse)
                    if renewed:
                        renewed = False
                        if not await _exists(connection, job):
                            return ended.get(job, UNTOLD)
        except TimeoutError as error:
            raise TimedOut(
                "job_timeout",
                f"systemd has not finished its job for {unit} within {deadline:g} s",
                hint="`systemctl --user list-jobs` shows what it waits for",
                fields={"unit": unit},
            ) from error
        return ended[job]


async def _exists(connection: Connection, job: str) -> bool:
    await connection.subscribe()
    try:
        await connection.get(job, JOB, "JobType")
    except NotFound:
        return False
    return True


async def _pulse(connection: Connection, pulse: asyncio.Event) -> None:
    """Return when it was set since the last time; raise Unreachable when the connection ends first."""
    await connection.until(pulse)
    pulse.clear()


@contextlib.asynccontextmanager
async def looks(connection: Connection, unit: str) -> AsyncIterator[AsyncIterator[Look | None]]:
    """The unit as it is now, and again after each signal about it, without end."""
    pulse = asyncio.Event()
    path = unit_path(unit)

    def heard(message: Message) -> None:
        if message.path == path or message.member in ("UnitRemoved", "NameOwnerChanged"):
            pulse.set()

    async def each() -> AsyncIterator[Look | None]:
        while True:
            yield await look(connection, unit)
            await _pulse(connection, pulse)

    rule = (
        f"type='signal',sender='{SYSTEMD}',path='{path}',interface='{PROPERTIES}',member='PropertiesChanged'"
    )
    with connection.listening(heard):
        await connection.match(rule)
        try:
            yield each()
        finally:
            await connection.unmatch(rule)
