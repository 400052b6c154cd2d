"""Agents' units in memory: does at once what systemd does, and fails as it is told to."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError, Unreachable
from sessiond.init.systemd import properties as table
from sessiond.model.agent import AgentUnit
from sessiond.model.unit import CLD_EXITED, CLD_KILLED, UnitStatus, agent_unit
from sessiond.ports import AgentEvent, AgentGone, AgentsListed, AgentTold, AgentUnitSpec, Lost

_CLEAN = (signals.SIGHUP, signals.SIGINT, signals.SIGPIPE, signals.SIGTERM)


@dataclass(slots=True)
class World:
    """What there is of one session, whoever looks. Times between restarts pass at once if they are short."""

    session: str
    units: dict[str, AgentUnit] = field(default_factory=dict)
    specs: dict[str, AgentUnitSpec] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    away: str = ""
    run: str = "1"
    room: tuple[int, int] = (0, 2048)
    faults: list[SessiondError] = field(default_factory=list)
    watchers: list[tuple[FakeAgents, asyncio.Queue[AgentEvent | None]]] = field(default_factory=list)
    pids: int = 2000


class FakeAgents:
    """One process's view of a World; ``world`` and ``calls`` are for tests to read and to set.

    ``calls`` are the names of the port's methods with the agents they were called for. A command named
    by the words `missing`, `exit N` or `stubborn` at the end of ``argv`` is so; any other runs until it is
    told to end. Methods below the port's are what happens by itself or by hand.
    """

    def __init__(self, session: str, world: World | None = None) -> None:
        self.world = world or World(session)
        self.calls: list[tuple[str, str]] = []
        self.closed = False

    def another(self) -> FakeAgents:
        """The view of another process."""
        return FakeAgents(self.world.session, self.world)

    # ---- the port

    async def watch(self) -> AsyncGenerator[AgentEvent, None]:
        """See the port."""
        queue: asyncio.Queue[AgentEvent | None] = asyncio.Queue()
        queue.put_nowait(Lost(self.world.away) if self.world.away else self._whole())
        entry = (self, queue)
        self.world.watchers.append(entry)
        try:
            while not self.closed and (event := await queue.get()) is not None:
                yield event
        finally:
            self.world.watchers.remove(entry)

    async def list(self) -> Sequence[AgentUnit]:
        """See the port."""
        await self._call("list")
        return tuple(self.world.units.values())

    async def start(self, spec: AgentUnitSpec) -> None:
        """See the port."""
        table.check(spec.properties)
        await self._call("start", spec.agent)
        found = self.world.units.get(spec.agent)
        if found is not None and found.status.active_state not in ("failed", "inactive"):
            raise _start_failed(found.name, "a unit of that name is there already")
        if self.world.faults:
            raise self.world.faults.pop(0)
        if spec.argv[-1] == "missing":
            raise _start_failed(agent_unit(spec.session, spec.agent), "its command cannot be executed")
        self.world.specs[spec.agent] = spec
        self.world.starts[spec.agent] = 0
        self._run(spec.agent, 0)

    async def check(self, properties: Mapping[str, str]) -> None:
        """See the port."""
        await self._call("check")
        table.check(properties)

    async def stop(self, agent: str, *, wait: bool = True) -> None:
        """See the port."""
        await self._call("stop", agent)
        self.hand_stop(agent)

    async def kill(self, agent: str) -> None:
        """See the port."""
        await self._call("kill", agent)
        self.hand_stop(agent, signals.SIGKILL)

    async def signal(self, agent: str, number: int, *, whole: bool) -> None:
        """See the port."""
        await self._call("signal", agent)
        if not 0 < number < signals.NSIG:
            raise InvalidArgument("signal_invalid", f"{number} is not the number of a signal")
        self._running(agent)
        deaf = self.world.specs[agent].argv[-1] == "stubborn" and number == signals.SIGTERM
        if not deaf and number not in (signals.SIGWINCH, signals.SIGCHLD, signals.SIGCONT):
            self.die(agent, number)

    async def freeze(self, agent: str) -> None:
        """See the port."""
        await self._call("freeze", agent)
        self._running(agent)
        self.hand_freeze(agent, True)

    async def thaw(self, agent: str) -> None:
        """See the port."""
        await self._call("thaw", agent)
        self._running(agent)
        self.hand_freeze(agent, False)

    async def restart(self, agent: str) -> None:
        """See the port."""
        await self._call("restart", agent)
        unit = self.world.units.get(agent)
        if unit is None:
            raise NotFound("unit_not_loaded", f"{agent_unit(self.world.session, agent)} is not loaded")
        if unit.status.main_pid:
            self._change(agent, job="restart", active_state="deactivating", sub_state="stop-sigterm")
        if self.world.faults:
            fault = self.world.faults.pop(0)
            self._ended(agent, CLD_EXITED, 1, "exit-code", final=True)
            raise fault
        self.world.starts[agent] = 0
        self._run(agent, 0)

    async def release(self, agent: str) -> None:
        """See the port."""
        await self._call("release", agent)
        self.vanish(agent)

    async def manager(self) -> str:
        """See the port."""
        await self._call("manager")
        return self.world.run

    async def store_room(self) -> tuple[int, int]:
        """See the port."""
        await self._call("store_room")
        return self.world.room

    async def close(self) -> None:
        """See the port."""
        self.closed = True
        for view, queue in self.world.watchers:
            if view is self:
                queue.put_nowait(None)

    # ---- what happens by itself, by hand or by accident

    def exit(self, agent: str, status: int) -> None:
        """Its main process exits."""
        self._ended(agent, CLD_EXITED, status, "exit-code" if status else "success")

    def die(self, agent: str, number: int) -> None:
        """Its main process is killed by a signal."""
        self._ended(agent, CLD_KILLED, int(number), "success" if number in _CLEAN else "signal")

    def time_out(self, agent: str) -> None:
        """Its time is up."""
        self._ended(agent, CLD_KILLED, int(signals.SIGTERM), "timeout")

    def hand_stop(self, agent: str, number: int = 0) -> None:
        """Somebody has it stopped."""
        unit = self.world.units.get(agent)
        if unit is None or unit.status.active_state in ("failed", "inactive"):
            return
        spec = self.world.specs[agent]
        self._change(agent, job="stop", active_state="deactivating", sub_state="stop-sigterm", frozen=False)
        if not unit.status.main_pid:
            self._change(agent, job="", active_state="inactive", sub_state="dead")
            return
        number = number or (int(signals.SIGKILL) if spec.argv[-1] == "stubborn" else spec.stop_signal)
        result = "success" if number in _CLEAN else "signal"
        self._ended(agent, CLD_KILLED, number, result, final=True)

    def hand_freeze(self, agent: str, frozen: bool) -> None:
        """It is frozen or thawed."""
        if self.world.units[agent].status.frozen != frozen:
            self._change(agent, frozen=frozen)

    def vanish(self, agent: str) -> None:
        """Its unit is no longer loaded."""
        self.world.specs.pop(agent, None)
        if self.world.units.pop(agent, None) is not None:
            self._tell(AgentGone(agent))

    def use(self, agent: str, cpu_seconds: float, memory_bytes: int) -> None:
        """It has used so much; nobody is told of that."""
        unit = self.world.units[agent]
        self.world.units[agent] = replace(unit, cpu_seconds=cpu_seconds, memory_bytes=memory_bytes)

    def lose(self, reason: str) -> None:
        """The init system no longer answers."""
        self.world.away = reason
        self._tell(Lost(reason))

    def recover(self, *, run: str = "") -> None:
        """It answers again; with ``run`` it is another manager's, and all units are gone."""
        self.world.away = ""
        if run:
            self.world.run = run
            self.world.units.clear()
            self.world.specs.clear()
        self._tell(self._whole())

    # ---- inside

    async def _call(self, name: str, agent: str = "") -> None:
        if self.closed or self.world.away:
            raise Unreachable("init_unavailable", self.world.away or "the connection was closed")
        self.calls.append((name, agent))
        await asyncio.sleep(0)

    def _running(self, agent: str) -> None:
        unit = self.world.units.get(agent)
        if unit is None or not unit.status.main_pid:
            name = agent_unit(self.world.session, agent)
            raise Conflict("agent_not_running", f"{name} has no processes", hint="it has ended")

    def _run(self, agent: str, restarts: int) -> None:
        """A process is started: what its last end left is cleared."""
        self.world.pids += 1
        self.world.starts[agent] += 1
        now = datetime.now(UTC)
        status = UnitStatus(
            agent_unit(self.world.session, agent),
            active_state="active",
            sub_state="running",
            main_pid=self.world.pids,
            result="success",
            n_restarts=restarts,
            state_changed_at=now,
        )
        self.world.units[agent] = unit = AgentUnit(status, started_at=now)
        self._tell(AgentTold(unit))
        word, _, number = self.world.specs[agent].argv[-1].partition(" ")
        if word == "exit":
            self.exit(agent, int(number))

    def _ended(self, agent: str, code: int, number: int, result: str, *, final: bool = False) -> None:
        spec, restarts = self.world.specs[agent], self.world.units[agent].status.n_restarts
        failed = result != "success"
        ended: dict[str, Any] = {
            "main_pid": 0,
            "exec_main_code": code,
            "exec_main_status": number,
            "result": result,
        }
        again = spec.restart == "always" or (spec.restart == "on-failure" and failed)
        if again and not final:
            if spec.restart_limit and self.world.starts[agent] >= spec.restart_limit:
                self._change(agent, active_state="failed", sub_state="failed", **ended)
                return
            self._change(agent, active_state="activating", sub_state="auto-restart", **ended)
            if spec.restart_delay < 1:
                self._run(agent, restarts + 1)
            return
        remains = not failed and code == CLD_EXITED and not final
        calm = ("active", "exited") if remains else ("inactive", "dead")
        active, sub = ("failed", "failed") if failed else calm
        self._change(agent, active_state=active, sub_state=sub, **ended)

    def _change(self, agent: str, *, job: str = "", frozen: bool | None = None, **status: Any) -> None:
        unit = self.world.units[agent]
        now = datetime.now(UTC)
        if frozen is not None:
            status["freezer_state"] = "frozen" if frozen else "running"
        if "active_state" in status:
            status["state_changed_at"] = now
        ended = now if status.get("main_pid") == 0 else unit.ended_at
        self.world.units[agent] = unit = replace(
            unit, status=replace(unit.status, **status), job=job, ended_at=ended
        )
        self._tell(AgentTold(unit))

    def _whole(self) -> AgentsListed:
        return AgentsListed(tuple(self.world.units.values()))

    def _tell(self, event: AgentEvent) -> None:
        for _, queue in self.world.watchers:
            # Who hears nothing while it is away learns all from the next listing.
            if not self.world.away or isinstance(event, Lost):
                queue.put_nowait(event)


def _start_failed(unit: str, why: str) -> Conflict:
    return Conflict(
        "start_failed", f"{unit} did not start: {why}", hint="see the journal", fields={"unit": unit}
    )
