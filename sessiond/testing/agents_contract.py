"""What every implementation of the port for agents' units must do; run on the fake and on real systemd."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

import pytest

from sessiond.errors import Conflict, InvalidArgument, NotFound, Unreachable
from sessiond.model.agent import AgentUnit, has_ended, new_agent_id
from sessiond.model.state import RESTARTING
from sessiond.model.unit import agent_of_unit, agent_unit
from sessiond.ports import AgentEvent, AgentGone, AgentsListed, AgentTold, AgentUnits, AgentUnitSpec, Lost

DEADLINE = 60.0


class AgentsHarness(Protocol):
    """Agents' units to be tried, and what is done to them besides the port."""

    session: str

    @property
    def units(self) -> AgentUnits:
        """The port."""
        ...

    def spec(self, agent: str, behaviour: str = "runs") -> AgentUnitSpec:
        """An agent that `runs` until it is told to end, besides that is deaf to SIGTERM (`stubborn`), ends
        at once (`exit 3`), or whose command is `missing`."""
        ...

    async def ready(self, agent: str) -> None:
        """Return when one that runs is deaf if it is to be, and listens to ``end``."""
        ...

    async def end(self, agent: str, how: str) -> None:
        """Have one that runs end itself: `exit 3`, or `signal 11`."""
        ...

    def another(self) -> AgentUnits:
        """The same units as another process has them."""
        ...


class AgentWatcher:
    """Folds the events of one watch, and keeps them."""

    def __init__(self) -> None:
        self.units: dict[str, AgentUnit] = {}
        self.reachable: bool | None = None
        self.events: list[AgentEvent] = []
        self.ended = False
        self._changed = asyncio.Event()

    async def run(self, units: AgentUnits) -> None:
        """Follow until the watch ends."""
        async for event in units.watch():
            self._take(event)
            self._changed.set()
        self.ended = True
        self._changed.set()

    def _take(self, event: AgentEvent) -> None:
        self.events.append(event)
        match event:
            case AgentsListed(units):
                self.units = {_agent(unit): unit for unit in units}
                self.reachable = True
            case Lost():
                self.reachable = False
            case AgentTold(unit):
                self.units[_agent(unit)] = unit
            case AgentGone(agent):
                del self.units[agent]

    def told(self, agent: str) -> list[AgentUnit]:
        """All that was told of one agent's unit."""
        return [
            event.unit
            for event in self.events
            if isinstance(event, AgentTold) and _agent(event.unit) == agent
        ]

    async def until(self, what: str, test: Callable[[], bool]) -> None:
        """Return when the test holds; fails with ``what`` after a while."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not test():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            last = "\n".join(str(event)[:900] for event in self.events[-12:])
            pytest.fail(f"never so: {what}; the last events:\n{last}")

    async def until_running(self, agent: str) -> AgentUnit:
        """Return when it is told to run."""
        await self.until(f"{agent} runs", lambda: self._is(agent, "active", "running"))
        return self.units[agent]

    async def until_ended(self, agent: str) -> AgentUnit:
        """Return when it is told to have ended."""
        await self.until(f"{agent} has ended", lambda: agent in self.units and has_ended(self.units[agent]))
        return self.units[agent]

    async def until_gone(self, agent: str) -> None:
        """Return when its unit is told to be gone."""
        await self.until(f"{agent} is gone", lambda: agent not in self.units)

    def _is(self, agent: str, active: str, sub: str) -> bool:
        unit = self.units.get(agent)
        return unit is not None and (unit.status.active_state, unit.status.sub_state) == (active, sub)


def _agent(unit: AgentUnit) -> str:
    found = agent_of_unit(unit.name)
    assert found is not None
    return found[1]


@asynccontextmanager
async def watching_agents(units: AgentUnits) -> AsyncIterator[AgentWatcher]:
    """A watcher that is connected."""
    watcher = AgentWatcher()
    task = asyncio.create_task(watcher.run(units))
    try:
        await watcher.until("it is connected", lambda: watcher.reachable is True)
        yield watcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class AgentsContract:
    """Tests; a subclass gives the fixture ``harness``, whose agents are all ended afterwards."""

    async def test_a_start_is_done_when_it_returns_and_told(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            assert watcher.units == {}
            await harness.units.start(harness.spec(agent))
            unit = await watcher.until_running(agent)
            assert unit.name == agent_unit(harness.session, agent)
            assert unit.status.main_pid > 0
            assert (unit.status.load_state, unit.status.result, unit.job) == ("loaded", "success", "")
            assert (unit.status.n_restarts, unit.status.exit_status, unit.status.exit_signal) == (0, None, "")
            assert unit.started_at is not None
            assert unit.ended_at is None
            assert [one.status for one in await harness.units.list()] == [unit.status]

    @pytest.mark.parametrize("status", [0, 1, 255])
    async def test_an_exit_status_is_kept_until_it_is_released(
        self, harness: AgentsHarness, status: int
    ) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await harness.end(agent, f"exit {status}")
            unit = await watcher.until_ended(agent)
            assert (unit.status.exit_status, unit.status.exit_signal) == (status, "")
            assert unit.status.active_state == ("failed" if status else "active")
            assert unit.status.result == ("exit-code" if status else "success")
            assert unit.started_at is not None
            assert unit.ended_at is not None
            assert unit.ended_at >= unit.started_at
            assert not any(told.job == "stop" for told in watcher.told(agent))
            await harness.units.release(agent)
            await watcher.until_gone(agent)
            assert list(await harness.units.list()) == []

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    async def test_a_death_by_a_signal(self, harness: AgentsHarness, number: int) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await harness.end(agent, f"signal {int(number)}")
            unit = await watcher.until_ended(agent)
            assert unit.status.exit_status is None
            assert unit.status.exit_signal == signal.Signals(number).name

    async def test_one_that_ends_at_once(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent, "exit 3"))
            assert (await watcher.until_ended(agent)).status.exit_status == 3

    async def test_a_command_that_is_missing_leaves_nothing(self, harness: AgentsHarness) -> None:
        for restart in ("no", "on-failure", "always"):
            with pytest.raises(Conflict) as caught:
                await harness.units.start(replace(harness.spec(new_agent_id(), "missing"), restart=restart))
            assert caught.value.code == "start_failed"
            assert caught.value.hint
        assert list(await harness.units.list()) == []

    async def test_a_name_in_use_and_a_name_left_over(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            with pytest.raises(Conflict) as caught:
                await harness.units.start(harness.spec(agent))
            assert caught.value.code == "start_failed"
            await harness.end(agent, "exit 4")
            await watcher.until_ended(agent)
            await harness.units.start(harness.spec(agent))
            await watcher.until_running(agent)

    async def test_a_status_is_kept_while_nobody_watches(self, harness: AgentsHarness) -> None:
        agents = {new_agent_id(): f"exit {status}" for status in (0, 9)}
        first = harness.another()
        async with watching_agents(first) as watcher:
            for agent in agents:
                await first.start(harness.spec(agent))
                await watcher.until_running(agent)
        await first.close()
        for agent, how in agents.items():
            await harness.end(agent, how)
        async with watching_agents(harness.units) as watcher:
            for agent, how in agents.items():
                unit = await watcher.until_ended(agent)
                assert f"exit {unit.status.exit_status}" == how

    # ---- ending

    async def test_a_stop_is_told_as_asked_for_and_kept(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await watcher.until_running(agent)
            await harness.units.stop(agent)
            unit = await watcher.until_ended(agent)
            assert unit.status.exit_signal == "SIGTERM"
            assert any(
                told.job == "stop" and told.status.active_state == "deactivating"
                for told in watcher.told(agent)
            )
            assert [one.status for one in await harness.units.list()] == [unit.status]
            await harness.units.release(agent)
            await watcher.until_gone(agent)

    async def test_one_deaf_to_its_stop_signal_is_killed(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(replace(harness.spec(agent, "stubborn"), stop_timeout=0.3))
            await watcher.until_running(agent)
            await harness.ready(agent)
            await harness.units.stop(agent)
            assert (await watcher.until_ended(agent)).status.exit_signal == "SIGKILL"

    async def test_a_stop_that_is_not_waited_for(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await harness.units.stop(agent, wait=False)
            await watcher.until_ended(agent)

    async def test_a_kill(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent, "stubborn"))
            await watcher.until_running(agent)
            await harness.ready(agent)
            await harness.units.kill(agent)
            assert (await watcher.until_ended(agent)).status.exit_signal == "SIGKILL"

    async def test_a_signal_and_its_own_stop_signal(self, harness: AgentsHarness) -> None:
        agent, other = new_agent_id(), new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await watcher.until_running(agent)
            await harness.units.signal(agent, signal.SIGUSR1, whole=False)
            assert (await watcher.until_ended(agent)).status.exit_signal == "SIGUSR1"
            await harness.units.start(replace(harness.spec(other), stop_signal=int(signal.SIGUSR2)))
            await watcher.until_running(other)
            await harness.units.stop(other)
            assert (await watcher.until_ended(other)).status.exit_signal == "SIGUSR2"

    async def test_what_is_not_there(self, harness: AgentsHarness) -> None:
        units, agent = harness.units, new_agent_id()
        await units.stop(agent)
        await units.kill(agent)
        await units.release(agent)
        for call in (units.freeze, units.thaw):
            with pytest.raises(Conflict) as caught:
                await call(agent)
            assert caught.value.code == "agent_not_running"
        for whole in (True, False):
            with pytest.raises(Conflict) as caught:
                await units.signal(agent, signal.SIGINT, whole=whole)
            assert caught.value.code == "agent_not_running"
        with pytest.raises(NotFound) as missing:
            await units.restart(agent)
        assert missing.value.code == "unit_not_loaded"
        assert list(await units.list()) == []

    async def test_what_has_ended_takes_no_signal_and_no_freeze(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent, "exit 0"))
            await watcher.until_ended(agent)
            for call in (harness.units.freeze, harness.units.thaw):
                with pytest.raises(Conflict) as caught:
                    await call(agent)
                assert caught.value.code == "agent_not_running"
            with pytest.raises(Conflict) as caught:
                await harness.units.signal(agent, signal.SIGINT, whole=True)
            assert caught.value.code == "agent_not_running"

    async def test_numbers_that_are_no_signals(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        await harness.units.start(harness.spec(agent))
        for number in (0, -1, 99):
            with pytest.raises(InvalidArgument) as caught:
                await harness.units.signal(agent, number, whole=True)
            assert caught.value.code == "signal_invalid"

    # ---- restarts

    async def test_an_automatic_restart_is_never_told_as_an_end(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            # The wait for it is told by whoever reads while it lasts, however late they come to that.
            await harness.units.start(replace(harness.spec(agent), restart="on-failure", restart_delay=0.9))
            before = await watcher.until_running(agent)
            await harness.end(agent, "exit 7")
            await watcher.until(
                "it runs again",
                lambda: (
                    watcher.units[agent].status.n_restarts == 1
                    and watcher.units[agent].status.sub_state == "running"
                ),
            )
            assert watcher.units[agent].status.main_pid != before.status.main_pid
            assert not any(has_ended(unit) for unit in watcher.told(agent))
            assert any(unit.status.sub_state in RESTARTING for unit in watcher.told(agent))
            # What it is restarted for is a failure.
            await harness.end(agent, "exit 0")
            unit = await watcher.until_ended(agent)
            assert (unit.status.exit_status, unit.status.n_restarts) == (0, 1)

    async def test_always_is_also_after_success(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(replace(harness.spec(agent), restart="always"))
            await watcher.until_running(agent)
            await harness.end(agent, "exit 0")
            await watcher.until("it runs again", lambda: watcher.units[agent].status.n_restarts == 1)
            await watcher.until_running(agent)
            assert not any(has_ended(unit) for unit in watcher.told(agent))
            await harness.units.stop(agent)
            unit = await watcher.until_ended(agent)
            assert unit.status.exit_signal == "SIGTERM"

    @pytest.mark.parametrize("how", ["stop", "kill"])
    async def test_an_end_asked_for_beats_the_waiting_for_a_restart(
        self, harness: AgentsHarness, how: str
    ) -> None:
        agent = new_agent_id()
        spec = replace(harness.spec(agent), restart="always", restart_delay=100.0)
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(spec)
            await watcher.until_running(agent)
            await harness.end(agent, "exit 5")
            await watcher.until("it waits", lambda: watcher.units[agent].status.sub_state in RESTARTING)
            await (harness.units.stop(agent) if how == "stop" else harness.units.kill(agent))
            unit = await watcher.until_ended(agent)
            assert (unit.status.exit_status, unit.status.n_restarts) == (5, 0)
            assert any(told.job == "stop" for told in watcher.told(agent))
            await harness.units.release(agent)
            await watcher.until_gone(agent)

    async def test_a_kill_beats_a_restart_without_delay(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        spec = replace(harness.spec(agent, "stubborn"), restart="always", restart_delay=0.0, restart_limit=0)
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(spec)
            await watcher.until_running(agent)
            await harness.ready(agent)
            await harness.units.kill(agent)
            unit = await watcher.until_ended(agent)
            assert unit.status.exit_signal == "SIGKILL"

    async def test_a_limit_of_restarts(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        spec = replace(
            harness.spec(agent, "exit 6"),
            restart="on-failure",
            restart_delay=0.01,
            restart_limit=3,
            restart_window=600.0,
        )
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(spec)
            unit = await watcher.until_ended(agent)
            assert (unit.status.active_state, unit.status.exit_status) == ("failed", 6)
            assert not any(told.job == "stop" for told in watcher.told(agent))
            assert unit.status.n_restarts in (2, 3)
            # One by hand does not run into it.
            await harness.units.restart(agent)

    async def test_a_restart_by_hand(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            before = await watcher.until_running(agent)
            await harness.units.restart(agent)
            await watcher.until(
                "another process runs",
                lambda: watcher.units[agent].status.main_pid not in (0, before.status.main_pid),
            )
            await watcher.until_running(agent)
            assert not any(has_ended(unit) for unit in watcher.told(agent))
            await harness.end(agent, "exit 2")
            await watcher.until_ended(agent)
            await harness.units.restart(agent)
            await watcher.until_running(agent)
            await harness.units.stop(agent)
            await watcher.until_ended(agent)
            await harness.units.restart(agent)
            await watcher.until_running(agent)

    # ---- freezing

    async def test_freezing_and_thawing_are_told(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as watcher:
            await harness.units.start(harness.spec(agent))
            await watcher.until_running(agent)
            for _ in range(2):
                await harness.units.freeze(agent)
            await watcher.until("it is frozen", lambda: watcher.units[agent].status.frozen)
            assert [unit.status.frozen for unit in await harness.units.list()] == [True]
            for _ in range(2):
                await harness.units.thaw(agent)
            await watcher.until("it is thawed", lambda: not watcher.units[agent].status.frozen)
            await harness.units.freeze(agent)
            await harness.units.stop(agent)
            assert (await watcher.until_ended(agent)).status.exit_signal in ("SIGTERM", "SIGKILL")

    # ---- properties

    async def test_properties_that_are_refused(self, harness: AgentsHarness) -> None:
        for properties, code in (
            ({"MemoryMaximum": "1G"}, "property_unknown"),
            ({"ExecStart": "/bin/true"}, "property_unknown"),
            ({"MemoryMax": "much"}, "property_invalid"),
            ({"TasksMax": "5", "CPUQuota": "0%"}, "property_invalid"),
        ):
            with pytest.raises(InvalidArgument) as caught:
                await harness.units.check(properties)
            assert caught.value.code == code
            with pytest.raises(InvalidArgument) as caught:
                await harness.units.start(replace(harness.spec(new_agent_id()), properties=properties))
            assert caught.value.code == code
        assert list(await harness.units.list()) == []
        good = {"MemoryMax": "1G", "TasksMax": "50%", "CPUWeight": ""}
        await harness.units.check(good)
        await harness.units.start(replace(harness.spec(new_agent_id()), properties=good))

    # ---- the rest

    async def test_two_processes_see_one_manager_and_the_same_units(self, harness: AgentsHarness) -> None:
        other, agent = harness.another(), new_agent_id()
        word = await harness.units.manager()
        assert word
        assert await other.manager() == word
        await harness.units.start(harness.spec(agent))
        assert [unit.status for unit in await other.list()] == [
            unit.status for unit in await harness.units.list()
        ]
        await other.close()

    async def test_two_watches_are_told_the_same(self, harness: AgentsHarness) -> None:
        agent = new_agent_id()
        async with watching_agents(harness.units) as one, watching_agents(harness.units) as two:
            await harness.units.start(harness.spec(agent))
            await one.until_running(agent)
            await two.until_running(agent)
            await harness.end(agent, "exit 1")
            assert (await one.until_ended(agent)).status == (await two.until_ended(agent)).status
            await harness.units.release(agent)
            await one.until_gone(agent)
            await two.until_gone(agent)

    async def test_many_at_once(self, harness: AgentsHarness) -> None:
        agents = [new_agent_id() for _ in range(20)]
        async with watching_agents(harness.units) as watcher:
            await asyncio.gather(*(harness.units.start(harness.spec(agent)) for agent in agents))
            for agent in agents:
                await watcher.until_running(agent)
            await asyncio.gather(*(harness.units.stop(agent) for agent in agents))
            for agent in agents:
                await watcher.until_ended(agent)
            await asyncio.gather(*(harness.units.release(agent) for agent in agents))
            for agent in agents:
                await watcher.until_gone(agent)

    async def test_closing_ends_the_watch_and_all_else(self, harness: AgentsHarness) -> None:
        units = harness.another()
        async with watching_agents(units) as watcher:
            await units.close()
            await watcher.until("it ends", lambda: watcher.ended)
            with pytest.raises(Unreachable) as caught:
                await units.list()
            assert caught.value.code == "init_unavailable"
            await units.close()
