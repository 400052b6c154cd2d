"""The agents of one session as units of the user's systemd."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from sessiond.aio import unbroken
from sessiond.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, TimedOut
from sessiond.init.systemd import properties as table
from sessiond.init.systemd.agents.feed import Feed
from sessiond.init.systemd.agents.held import Held, jobs_heard
from sessiond.init.systemd.agents.properties import START_TIMEOUT, agent_properties, limits, signal_invalid
from sessiond.init.systemd.agents.reading import read_units
from sessiond.init.systemd.bus import LIFE, Connection
from sessiond.init.systemd.jobs import look, run_job
from sessiond.init.systemd.limits import known_properties
from sessiond.init.systemd.names import SERVICE, UNIT, unit_path
from sessiond.init.systemd.starting import MARGIN, raise_start_failure, reset_failed
from sessiond.init.systemd.units import Property
from sessiond.init.systemd.watch import Link
from sessiond.model.agent import AgentUnit
from sessiond.model.identity import is_agent_id
from sessiond.model.unit import agent_unit, agents_pattern, agents_slice, daemon_unit, session_slice
from sessiond.ports import AgentEvent, AgentUnitSpec

_ENDED = ("inactive", "failed")
# A stop is a signal, a time, SIGKILL and that time again, for what runs and for what that leaves.
_STOP_PHASES = 4
_ATTEMPTS = 3
_ALL = "all-fail"


class SystemdAgents:
    """Units of one session's agents, over a connection of its own that hears of these units alone.

    Nothing is connected before the first call. Units that another process starts are told with the next
    listing only: an agent's unit is started by its session's daemon.
    """

    def __init__(self, session: str, address: str | None = None) -> None:
        self._session = session
        self._link = Link(address, LIFE)
        self._held: Held | None = None
        self._feeds: list[Feed] = []
        self._releasing: set[str] = set()

    # ---- the watch

    async def watch(self) -> AsyncGenerator[AgentEvent, None]:
        """See the port."""
        async with contextlib.aclosing(self._link.follow(self._events)) as events:
            async for event in events:
                yield event

    async def _events(self, connection: Connection) -> AsyncGenerator[AgentEvent, None]:
        feed = Feed(self._holding(connection), self._session, self._releasing)
        self._feeds.append(feed)
        try:
            async with contextlib.aclosing(feed.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._feeds.remove(feed)

    def _holding(self, connection: Connection) -> Held:
        if self._held is None or self._held.connection is not connection:
            self._held = Held(connection)
        return self._held

    async def list(self) -> Sequence[AgentUnit]:
        """See the port."""
        connection = await self._link.connection()
        units = await read_units(connection, self._session, [agents_pattern(self._session)])
        return tuple(units.values())

    # ---- starting

    async def check(self, properties: Mapping[str, str]) -> None:
        """See the port."""
        await self._limits(properties)

    async def _limits(self, wanted: Mapping[str, str]) -> Sequence[Property]:
        for name in wanted:
            table.find(name)
        if not wanted:
            return []
        return limits(wanted, await known_properties(await self._link.connection()))

    @unbroken
    async def start(self, spec: AgentUnitSpec) -> None:
        """See the port. Raises InvalidArgument also for what a unit cannot hold."""
        unit = self._unit(spec.agent)
        properties = [list(one) for one in agent_properties(spec, await self._limits(spec.properties))]
        connection = await self._link.connection()
        call: tuple[Any, ...] = ("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, [])
        for _ in range(_ATTEMPTS):
            try:
                result = await self._job(connection, unit, *call, deadline=START_TIMEOUT + MARGIN)
            except AlreadyExists as error:
                if not await self._freed(connection, unit):
                    raise _start_failed(unit, "a unit of that name is there already") from error
                continue
            except Conflict as error:
                if error.code != "job_in_the_way":
                    raise _start_failed(unit, error.message) from error
                raise _start_failed(unit, f"{agents_slice(self._session)} is being stopped") from error
            except InvalidArgument as error:
                raise _refused(error, spec.properties) from error
            except TimedOut as error:
                await self._discard(connection, unit)
                raise _start_failed(unit, error.message) from error
            break
        else:
            raise _start_failed(unit, "a unit of that name comes again and again")
        if result != "done":
            try:
                await raise_start_failure(connection, unit, result)
            except TimedOut as error:
                raise _start_failed(unit, error.message) from error
            finally:
                now = await look(connection, unit)
                if now is None or now.active not in ("active", "reloading"):
                    await self._discard(connection, unit)
        await self._follow(connection, unit)

    async def _follow(self, connection: Connection, unit: str) -> None:
        if self._feeds:
            await self._holding(connection).hold([unit])
            self._touch(unit)

    def _touch(self, unit: str) -> None:
        for feed in self._feeds:
            feed.touch(unit)

    async def _freed(self, connection: Connection, unit: str) -> bool:
        """Have a name that is in use by a unit that has ended be free; whether it may be."""
        now = await look(connection, unit)
        if now is None:
            return True
        if now.job or now.active not in _ENDED:
            return False
        await self._discard(connection, unit)
        return True

    async def _discard(self, connection: Connection, unit: str) -> None:
        """End what there is of a unit, and have it forgotten."""
        now = await look(connection, unit)
        if now is not None and (now.job or now.active not in _ENDED):
            await self._stop(connection, unit)
        await reset_failed(connection, unit)
        await self._holding(connection).let_go(unit)

    # ---- ending

    async def stop(self, agent: str, *, wait: bool = True) -> None:
        """See the port. Raises TimedOut `stop_timeout`."""
        unit = self._unit(agent)
        connection = await self._link.connection()
        if await look(connection, unit) is None:
            return
        if wait:
            await self._stop(connection, unit)
        else:
            with contextlib.suppress(NotFound):
                await connection.manager("StopUnit", "ss", unit, "replace")

    async def _stop(self, connection: Connection, unit: str, *, force: bool = False) -> None:
        async def ask() -> str:
            # These leave together. The first signal is what it ends by; the second is for what an automatic
            # restart began between that end and the stop, after which there is none.
            around = [self._sigkill(connection, unit)] if force else []
            after = [self._sigkill(connection, unit)] if force else []
            stop = connection.manager("StopUnit", "ss", unit, "replace")
            answers = await heard(lambda: asyncio.gather(*around, stop, *after))
            return str(answers[len(around)][0])

        try:
            usec = await connection.get(unit_path(unit), SERVICE, "TimeoutStopUSec")
            deadline = _STOP_PHASES * usec / 1e6 + MARGIN
            with jobs_heard(connection, unit) as heard:
                await run_job(connection, unit, ask, deadline=deadline)
        except NotFound:
            return
        except TimedOut as error:
            raise TimedOut(
                "stop_timeout",
                f"{unit} has not stopped: {error.message}",
                hint=f"`systemctl --user status {unit}` shows what is left",
                fields={"unit": unit},
            ) from error

    async def kill(self, agent: str) -> None:
        """See the port. Raises TimedOut `stop_timeout`."""
        unit = self._unit(agent)
        connection = await self._link.connection()
        if await look(connection, unit) is None:
            return
        await self._stop(connection, unit, force=True)

    async def _sigkill(self, connection: Connection, unit: str) -> Any:
        with contextlib.suppress(NotFound, Conflict):
            return await connection.manager("KillUnit", "ssi", unit, _ALL, signal.SIGKILL)
        return []

    @unbroken
    async def release(self, agent: str) -> None:
        """See the port. Raises TimedOut `stop_timeout`."""
        unit = self._unit(agent)
        connection = await self._link.connection()
        self._releasing.add(unit)
        try:
            if await look(connection, unit) is not None:
                await self._discard(connection, unit)
        finally:
            self._releasing.discard(unit)
            if self._feeds:
                self._touch(unit)

    # ---- the rest

    async def signal(self, agent: str, number: int, *, whole: bool) -> None:
        """See the port. Raises InvalidArgument `signal_invalid`."""
        unit = self._unit(agent)
        connection = await self._link.connection()
        try:
            await connection.manager("KillUnit", "ssi", unit, _ALL if whole else "main-fail", number)
        except (NotFound, Conflict) as error:
            raise _not_running(unit) from error
        except InvalidArgument as error:
            raise signal_invalid(number) from error

    async def freeze(self, agent: str) -> None:
        """See the port."""
        connection, unit = await self._running(agent)
        try:
            await connection.manager("FreezeUnit", "s", unit)
        except (NotFound, Conflict) as error:
            raise _not_running(unit) from error

    async def thaw(self, agent: str) -> None:
        """See the port. Raises Conflict `agents_frozen` where it is frozen with all others."""
        connection, unit = await self._running(agent)
        for slice_ in (agents_slice(self._session), session_slice(self._session)):
            if await connection.get(unit_path(slice_), UNIT, "FreezerState") != "running":
                raise _agents_frozen(unit, slice_)
        try:
            await connection.manager("ThawUnit", "s", unit)
        except (NotFound, Conflict) as error:
            raise _not_running(unit) from error

    async def _running(self, agent: str) -> tuple[Connection, str]:
        unit = self._unit(agent)
        connection = await self._link.connection()
        now = await look(connection, unit)
        if now is None or now.active in _ENDED or now.sub in ("exited", "auto-restart"):
            raise _not_running(unit)
        return connection, unit

    @unbroken
    async def restart(self, agent: str) -> None:
        """See the port."""
        unit = self._unit(agent)
        connection = await self._link.connection()
        now = await look(connection, unit)
        if now is None:
            raise _not_loaded(unit)
        held = self._holding(connection)
        await held.hold([unit])
        # Also its start limit, which restarts by hand are not to run into.
        await reset_failed(connection, unit)
        deadline = 2 * START_TIMEOUT + MARGIN
        try:
            result = await self._job(
                connection, unit, "RestartUnit", "ss", unit, "replace", deadline=deadline
            )
            if result != "done":
                await raise_start_failure(connection, unit, result)
        except NotFound as error:
            raise _not_loaded(unit) from error
        except TimedOut as error:
            raise _start_failed(unit, error.message) from error
        finally:
            self._touch(unit)

    async def manager(self) -> str:
        """See the port."""
        return await (await self._link.connection()).began()

    async def store_room(self) -> tuple[int, int]:
        """See the port. Raises NotFound `unit_not_loaded`."""
        connection = await self._link.connection()
        unit = daemon_unit(self._session)
        if await look(connection, unit) is None:
            raise _not_loaded(unit)
        path = unit_path(unit)
        kept, most = await asyncio.gather(
            *(
                connection.get(path, SERVICE, name)
                for name in ("NFileDescriptorStore", "FileDescriptorStoreMax")
            )
        )
        return kept, most

    async def close(self) -> None:
        """See the port."""
        await self._link.close()

    def _unit(self, agent: str) -> str:
        if not is_agent_id(agent):
            raise InvalidArgument("agent_id_invalid", f"{agent!r} is not the id of an agent")
        return agent_unit(self._session, agent)

    async def _job(
        self, connection: Connection, unit: str, member: str, signature: str, *body: Any, deadline: float
    ) -> str:
        async def ask() -> str:
            return str((await heard(lambda: connection.manager(member, signature, *body)))[0])

        with jobs_heard(connection, unit) as heard:
            return await run_job(connection, unit, ask, deadline=deadline)


def _not_running(unit: str) -> Conflict:
    return Conflict(
        "agent_not_running", f"{unit} has no processes", hint="it has ended", fields={"unit": unit}
    )


def _agents_frozen(unit: str, slice_: str) -> Conflict:
    return Conflict(
        "agents_frozen",
        f"{unit} cannot be thawed alone: all of {slice_} is frozen",
        hint=f"`systemctl --user thaw {slice_}`",
        fields={"unit": unit, "slice": slice_},
    )


def _not_loaded(unit: str) -> NotFound:
    return NotFound("unit_not_loaded", f"{unit} is not loaded", fields={"unit": unit})


def _start_failed(unit: str, why: str) -> Conflict:
    return Conflict(
        "start_failed",
        f"{unit} did not start: {why}",
        hint=f"`journalctl --user-unit {unit}` has what it said",
        fields={"unit": unit},
    )


def _refused(error: InvalidArgument, properties: Mapping[str, str]) -> InvalidArgument:
    if error.code != "init_refused_argument" or not properties:
        return error
    return InvalidArgument(
        "property_invalid",
        error.message,
        hint="nothing was started",
        fields={**error.fields, "properties": " ".join(properties)},
    )
