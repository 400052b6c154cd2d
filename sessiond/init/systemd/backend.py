"""Sessions as units of the user's systemd: the init-system port over D-Bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

from sessiond.errors import Conflict, NotFound, TimedOut
from sessiond.init.systemd import enablement, limits
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.jobs import look, run_job
from sessiond.init.systemd.journal import last_log
from sessiond.init.systemd.machine import controllers
from sessiond.init.systemd.starting import MARGIN, raise_start_failure, reset_failed, start_daemon
from sessiond.init.systemd.watch import Link
from sessiond.model.unit import SUPERVISOR_UNIT, agents_slice, daemon_unit, session_slice
from sessiond.ports import DaemonSpec, InitInfo, UnitEvent

# Units of a session may take as long as each of them was given to stop.
STOP_DEADLINE = 180.0
RESTART_DEADLINE = 180.0


class SystemdInit:
    """The user's systemd, over one connection shared by calls and the watch."""

    def __init__(self, address: str | None = None) -> None:
        self._link = Link(address)
        self._reloads = enablement.Reloads()

    @property
    def calls(self) -> int:
        """Requests made so far."""
        return self._link.calls

    def watch(self) -> AsyncGenerator[UnitEvent, None]:
        """See the port."""
        return self._link.watch()

    async def close(self) -> None:
        """See the port."""
        await self._link.close()

    # ---- running

    async def start(self, spec: DaemonSpec, *, wait: bool = True) -> None:
        """See the port."""
        await start_daemon(await self._link.connection(), spec, wait=wait)

    async def stop(self, session: str, *, wait: bool = True) -> None:
        """See the port. Raises TimedOut `stop_timeout`."""
        connection = await self._link.connection()
        # The daemon's unit is in the slice, unless somebody made one of that name by hand.
        for unit in (session_slice(session), daemon_unit(session)):
            # Asking for a slice that is not loaded would load it.
            if await look(connection, unit) is not None:
                await self._stop_unit(connection, unit, wait=wait)
        if wait:
            await self._free(connection, session)

    async def stop_agents(self, session: str) -> None:
        """See the port."""
        connection = await self._link.connection()
        now = await look(connection, daemon_unit(session))
        if now is not None and (now.job or now.active not in ("inactive", "failed")):
            return
        agents = await look(connection, agents_slice(session))
        if agents is not None and agents.active != "inactive":
            await self._stop_unit(connection, agents_slice(session), wait=True)

    async def _stop_unit(self, connection: Connection, unit: str, *, wait: bool) -> None:
        async def ask() -> str:
            (job,) = await connection.manager("StopUnit", "ss", unit, "replace")
            return str(job)

        try:
            if wait:
                await run_job(connection, unit, ask, deadline=STOP_DEADLINE)
            else:
                await ask()
        except NotFound:
            return
        except TimedOut as error:
            raise TimedOut(
                "stop_timeout",
                f"{unit} has not stopped within {STOP_DEADLINE:g} s",
                hint=f"`systemctl --user status {unit}` shows what is left",
                fields={"unit": unit},
            ) from error

    async def _free(self, connection: Connection, session: str) -> None:
        """Reset the failed units of a session; their names are in use until then."""
        patterns = [
            daemon_unit(session),
            f"sessiond-agent@{session}-*",
            session_slice(session),
            agents_slice(session),
        ]
        (rows,) = await connection.manager("ListUnitsByPatterns", "asas", ["failed"], patterns)
        await asyncio.gather(*(reset_failed(connection, row[0]) for row in rows))

    async def restart(self, session: str, *, wait: bool = True) -> None:
        """See the port. Raises Conflict `start_failed`, TimedOut `start_timeout`."""
        connection = await self._link.connection()
        unit = daemon_unit(session)
        now = await look(connection, unit)
        if now is None or now.load == "not-found":
            raise _not_loaded(unit)

        async def ask() -> str:
            (job,) = await connection.manager("RestartUnit", "ss", unit, "replace")
            return str(job)

        async with _pinned(connection, unit):
            # systemd counts what is asked for with the starts in a row that end in `failed`, where terminals
            # are dropped: have it begin to count anew.
            await reset_failed(connection, unit)
            if not wait:
                await ask()
                return
            result = await run_job(connection, unit, ask, deadline=RESTART_DEADLINE + MARGIN)
        if result != "done":
            await raise_start_failure(connection, unit, result)

    async def kill(self, session: str, signal: int) -> None:
        """See the port."""
        connection = await self._link.connection()
        unit = daemon_unit(session)
        try:
            await connection.manager("KillUnit", "ssi", unit, "main", signal)
        except (NotFound, Conflict) as error:
            raise Conflict(
                "session_not_running",
                f"{unit} has no main process",
                hint="start the session first",
                fields={"unit": unit},
            ) from error

    # ---- what stays

    async def enable(self, session: str) -> None:
        """See the port. Raises Conflict `starter_not_installed`."""
        connection = await self._link.connection()
        if await enablement.enable(connection, session):
            await self._reloads.reload(connection)

    async def disable(self, session: str) -> None:
        """See the port."""
        connection = await self._link.connection()
        if await enablement.disable(connection, session):
            await self._reloads.reload(connection)

    async def enabled(self, sessions: Sequence[str]) -> frozenset[str]:
        """See the port."""
        return await enablement.enabled(await self._link.connection(), sessions)

    async def set_limits(self, session: str, properties: Mapping[str, str]) -> None:
        """See the port."""
        await limits.set_limits(await self._link.connection(), session, properties)

    async def limits(self, session: str) -> dict[str, str]:
        """See the port."""
        return await limits.limits(await self._link.connection(), session)

    async def unenforced(self, properties: Sequence[str]) -> list[str]:
        """See the port. Raises InvalidArgument `property_unknown`."""
        return await limits.unenforced(await self._link.connection(), properties)

    async def forget(self, session: str) -> None:
        """See the port."""
        connection = await self._link.connection()
        await self._free(connection, session)
        (reverted,) = await connection.manager("RevertUnitFiles", "as", [agents_slice(session)])
        if await enablement.disable(connection, session) or reverted:
            await self._reloads.reload(connection)

    # ---- the rest

    async def last_log(self, session: str, lines: int) -> list[str]:
        """See the port."""
        return await last_log(session, lines)

    async def info(self) -> InitInfo:
        """See the port."""
        connection = await self._link.connection()
        version, usable = await asyncio.gather(connection.version(), controllers(connection))
        return InitInfo("systemd", version, usable)

    async def stop_supervisor(self) -> None:
        """See the port."""
        connection = await self._link.connection()
        await connection.manager("StopUnit", "ss", SUPERVISOR_UNIT, "replace")


@contextlib.asynccontextmanager
async def _pinned(connection: Connection, unit: str) -> AsyncIterator[None]:
    """Keep a transient unit loaded: one that is reset or stopped would be forgotten at once."""
    try:
        await connection.manager("RefUnit", "s", unit)
    except NotFound as error:
        raise _not_loaded(unit) from error
    try:
        yield
    finally:
        with contextlib.suppress(NotFound, Conflict):
            await connection.manager("UnrefUnit", "s", unit)


def _not_loaded(unit: str) -> NotFound:
    return NotFound(
        "unit_not_loaded", f"{unit} is not loaded", hint="start the session first", fields={"unit": unit}
    )
