"""What every implementation of the init-system port must do; run on the fake and on real systemd."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

import pytest

from sessiond.errors import Conflict, InvalidArgument, NotFound, Unreachable
from sessiond.model.identity import new_id
from sessiond.model.state import SessionState, derive
from sessiond.model.unit import UnitStatus, agents_slice, daemon_unit, session_slice
from sessiond.ports import (
    Connected,
    DaemonSpec,
    EnablementChanged,
    InitSystem,
    Lost,
    UnitAppeared,
    UnitChanged,
    UnitEvent,
    UnitRemoved,
)

DEADLINE = 60.0


class Harness(Protocol):
    """An init system to be tried, and what is done to it besides the port."""

    @property
    def init(self) -> InitSystem:
        """It."""
        ...

    def spec(self, session: str, behaviour: str = "ready") -> DaemonSpec:
        """A daemon that is ready at once (`ready`), never by itself (`held`), or fails (`exit 3`)."""
        ...

    async def release(self, session: str) -> None:
        """Have a held daemon be ready."""
        ...

    async def leave_failed(self, session: str) -> None:
        """Have the daemon's unit be `failed`, for good."""
        ...

    async def install_starter(self, installed: bool) -> None:
        """Put the starter's template in place, or take it away."""
        ...


class Watcher:
    """Folds the events of one watch, and keeps them."""

    def __init__(self) -> None:
        self.units: dict[str, UnitStatus] = {}
        self.reachable: bool | None = None
        self.events: list[UnitEvent] = []
        self.states: dict[str, list[SessionState]] = {}
        self._changed = asyncio.Event()

    async def run(self, init: InitSystem) -> None:
        """Follow until the watch ends."""
        async for event in init.watch():
            self._take(event)
            self._changed.set()

    def _take(self, event: UnitEvent) -> None:
        self.events.append(event)
        match event:
            case Connected(units):
                self.units = {unit.name: unit for unit in units}
                self.reachable = True
            case Lost():
                self.reachable = False
            case UnitAppeared(unit):
                self.units[unit.name] = unit
            case UnitChanged(name, changes):
                self.units[name] = replace(self.units[name], **changes)
            case UnitRemoved(name):
                self.units.pop(name, None)
            case EnablementChanged():
                pass
        for name in set(self.units) | set(self.states):
            self._note(name)

    def _note(self, name: str) -> None:
        state = derive(self.units.get(name), reachable=bool(self.reachable), archived=False)
        seen = self.states.setdefault(name, [])
        if not seen or seen[-1] is not state:
            seen.append(state)

    def daemon(self, session: str) -> UnitStatus | None:
        """The daemon's unit as told."""
        return self.units.get(daemon_unit(session))

    def state(self, session: str) -> SessionState:
        """The session's state as told."""
        return derive(self.daemon(session), reachable=bool(self.reachable), archived=False)

    async def until(self, what: str, test: Callable[[], bool]) -> None:
        """Return when the test holds; fails with ``what`` after a while."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not test():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            last = "\n".join(str(event)[:300] for event in self.events[-12:])
            pytest.fail(f"never so: {what}; the last events:\n{last}")

    async def until_state(self, session: str, state: SessionState) -> None:
        """Return when the session is told to be in the state."""
        await self.until(f"{session} is {state}", lambda: self.state(session) is state)


@asynccontextmanager
async def watching(init: InitSystem) -> AsyncIterator[Watcher]:
    """A watcher that is connected."""
    watcher = Watcher()
    task = asyncio.create_task(watcher.run(init))
    try:
        await watcher.until("it is connected", lambda: watcher.reachable is True)
        yield watcher
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class InitContract:
    """Tests; a subclass gives the fixture ``harness``, whose sessions are all stopped afterwards."""

    async def test_a_start_is_told_and_done_when_it_returns(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            assert watcher.state(session) is SessionState.INACTIVE
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            unit = watcher.daemon(session)
            assert unit is not None
            assert unit.main_pid > 0
            assert (unit.load_state, unit.sub_state, unit.result) == ("loaded", "running", "success")
            assert unit.n_restarts == 0
            assert unit.state_changed_at is not None
            await watcher.until("its slice is told", lambda: session_slice(session) in watcher.units)

    async def test_a_watch_begun_later_is_told_the_same(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as early:
            await harness.init.start(harness.spec(session))
            await early.until_state(session, SessionState.ACTIVE)
            async with watching(harness.init) as late:
                assert late.daemon(session) == early.daemon(session)

    async def test_starting_twice_leaves_the_daemon_alone(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            before = watcher.daemon(session)
            await harness.init.start(harness.spec(session))
            await self._settle(harness, watcher)
            assert watcher.daemon(session) == before

    async def test_many_starts_at_once_make_one_daemon(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await asyncio.gather(*(harness.init.start(harness.spec(session)) for _ in range(10)))
            await watcher.until_state(session, SessionState.ACTIVE)
            pids = {
                event.unit.main_pid if isinstance(event, UnitAppeared) else event.changes.get("main_pid", 0)
                for event in watcher.events
                if (isinstance(event, UnitAppeared) and event.unit.name == daemon_unit(session))
                or (isinstance(event, UnitChanged) and event.name == daemon_unit(session))
            }
            assert len(pids - {0}) == 1

    async def test_a_start_without_waiting_goes_on_by_itself(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session, "held"), wait=False)
            await watcher.until_state(session, SessionState.STARTING)
            await harness.release(session)
            await watcher.until_state(session, SessionState.ACTIVE)

    async def test_a_second_start_waits_for_the_first(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher, asyncio.TaskGroup() as tasks:
            await harness.init.start(harness.spec(session, "held"), wait=False)
            await watcher.until_state(session, SessionState.STARTING)
            second = tasks.create_task(harness.init.start(harness.spec(session, "held")))
            await self._settle(harness, watcher)
            assert not second.done()
            await harness.release(session)
            async with asyncio.timeout(DEADLINE):
                await second
            await watcher.until_state(session, SessionState.ACTIVE)

    async def test_a_failing_daemon_is_a_failed_start_that_says_why(self, harness: Harness) -> None:
        session = new_id()
        with pytest.raises(Conflict) as caught:
            await harness.init.start(harness.spec(session, "exit 3"))
        assert caught.value.code == "start_failed"
        assert "status 3" in caught.value.message

    async def test_a_failed_unit_left_over_is_no_obstacle(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.leave_failed(session)
            await watcher.until_state(session, SessionState.ERROR)
            unit = watcher.daemon(session)
            assert unit is not None
            assert unit.result
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)

    async def test_a_stop_during_the_start_ends_both(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            start = asyncio.create_task(harness.init.start(harness.spec(session, "held")))
            await watcher.until_state(session, SessionState.STARTING)
            await harness.init.stop(session)
            with pytest.raises(Conflict) as caught:
                async with asyncio.timeout(DEADLINE):
                    await start
            assert caught.value.code == "start_failed"
            await watcher.until_state(session, SessionState.INACTIVE)

    async def test_a_start_can_be_cancelled(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            start = asyncio.create_task(harness.init.start(harness.spec(session, "held")))
            await watcher.until_state(session, SessionState.STARTING)
            start.cancel()
            with pytest.raises(asyncio.CancelledError):
                await start
            await harness.release(session)
            await watcher.until_state(session, SessionState.ACTIVE)

    async def test_a_stop_takes_all_units_away(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            await harness.init.stop(session)
            ours = (daemon_unit(session), session_slice(session), agents_slice(session))
            await watcher.until("its units are gone", lambda: not watcher.units.keys() & set(ours))
            states = watcher.states[daemon_unit(session)]
            assert states[-2:] == [SessionState.STOPPING, SessionState.INACTIVE]
            assert SessionState.ERROR not in states

    async def test_stopping_what_is_absent_is_fine(self, harness: Harness) -> None:
        session = new_id()
        await harness.init.stop(session)
        await harness.init.start(harness.spec(session))
        await asyncio.gather(*(harness.init.stop(session) for _ in range(3)))
        await harness.init.stop(session)

    async def test_stopping_the_agents_of_a_daemon_that_runs_is_not_done(self, harness: Harness) -> None:
        session = new_id()
        await harness.init.stop_agents(session)
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            await harness.init.stop_agents(session)
            await harness.init.start(harness.spec(session))
            assert watcher.states[daemon_unit(session)][-1] is SessionState.ACTIVE

    async def test_a_stop_frees_a_failed_unit(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.leave_failed(session)
            await watcher.until_state(session, SessionState.ERROR)
            await harness.init.stop(session)
            await watcher.until_state(session, SessionState.INACTIVE)

    async def test_start_and_stop_in_turn(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            for _ in range(3):
                await harness.init.start(harness.spec(session))
                await watcher.until_state(session, SessionState.ACTIVE)
                await harness.init.stop(session, wait=False)
            await harness.init.stop(session)
            await watcher.until_state(session, SessionState.INACTIVE)

    async def test_a_restart_is_another_process(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            before = watcher.daemon(session)
            assert before is not None
            await harness.init.restart(session)
            await watcher.until(
                "another process runs",
                lambda: (
                    (now := watcher.daemon(session)) is not None
                    and now.active_state == "active"
                    and now.main_pid not in (0, before.main_pid)
                ),
            )
            assert SessionState.ERROR not in watcher.states[daemon_unit(session)]

    async def test_restarting_what_is_absent_is_refused(self, harness: Harness) -> None:
        with pytest.raises(NotFound) as caught:
            await harness.init.restart(new_id())
        assert caught.value.code == "unit_not_loaded"

    async def test_a_killed_daemon_is_back_and_never_told_to_have_ended(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            for restarts in (1, 2, 3):
                await harness.init.kill(session, signal.SIGKILL)
                await watcher.until(
                    f"it is back for the {restarts}. time",
                    lambda restarts=restarts: (
                        (now := watcher.daemon(session)) is not None  # type: ignore[misc]
                        and now.n_restarts == restarts
                        and now.active_state == "active"
                    ),
                )
            states = watcher.states[daemon_unit(session)]
            assert set(states[states.index(SessionState.ACTIVE) :]) == {
                SessionState.ACTIVE,
                SessionState.STARTING,
            }

    async def test_a_start_during_an_automatic_restart_waits_for_it(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            for restarts in (1, 2, 3):
                await harness.init.kill(session, signal.SIGKILL)
                await asyncio.gather(*(harness.init.start(harness.spec(session)) for _ in range(5)))
                await watcher.until(
                    f"it is back for the {restarts}. time",
                    lambda restarts=restarts: (
                        (now := watcher.daemon(session)) is not None  # type: ignore[misc]
                        and now.n_restarts == restarts
                        and now.active_state == "active"
                    ),
                )
            assert SessionState.ERROR not in watcher.states[daemon_unit(session)]

    async def test_how_the_process_ended_is_told(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            await harness.init.kill(session, signal.SIGKILL)
            await watcher.until(
                "the signal is told",
                lambda: any(
                    isinstance(event, UnitChanged) and event.changes.get("exec_main_status") == signal.SIGKILL
                    for event in watcher.events
                ),
            )

    async def test_killing_what_does_not_run_is_refused(self, harness: Harness) -> None:
        with pytest.raises(Conflict) as caught:
            await harness.init.kill(new_id(), signal.SIGTERM)
        assert caught.value.code == "session_not_running"

    async def test_enabling(self, harness: Harness) -> None:
        await harness.install_starter(True)
        first, second = new_id(), new_id()
        async with watching(harness.init) as watcher:
            assert await harness.init.enabled([first, second]) == frozenset()
            await asyncio.gather(harness.init.enable(first), harness.init.enable(second))
            await harness.init.enable(first)
            assert await harness.init.enabled([first, second]) == {first, second}
            await watcher.until(
                "the change is told", lambda: any(isinstance(e, EnablementChanged) for e in watcher.events)
            )
            await harness.init.disable(first)
            await harness.init.disable(first)
            assert await harness.init.enabled([first, second]) == {second}
            assert await harness.init.enabled([]) == frozenset()
            assert watcher.state(first) is SessionState.INACTIVE
            await harness.init.disable(second)

    async def test_enabling_without_the_starter_says_what_is_missing(self, harness: Harness) -> None:
        await harness.install_starter(False)
        session = new_id()
        with pytest.raises(Conflict) as caught:
            await harness.init.enable(session)
        assert caught.value.code == "starter_not_installed"
        assert await harness.init.enabled([session]) == frozenset()
        await harness.init.disable(session)

    async def test_limits_are_kept_shown_and_reset(self, harness: Harness) -> None:
        session = new_id()
        assert await harness.init.limits(session) == {}
        await harness.init.set_limits(session, {"MemoryMax": "2G", "CPUQuota": "150%"})
        await harness.init.set_limits(session, {"TasksMax": "500", "CPUWeight": "50"})
        wanted = {"MemoryMax": "2G", "CPUQuota": "150%", "TasksMax": "500", "CPUWeight": "50"}
        assert await harness.init.limits(session) == wanted
        await harness.init.set_limits(session, {"MemoryMax": "", "CPUWeight": ""})
        assert await harness.init.limits(session) == {"CPUQuota": "150%", "TasksMax": "500"}
        await harness.init.start(harness.spec(session))
        await harness.init.stop(session)
        assert await harness.init.limits(session) == {"CPUQuota": "150%", "TasksMax": "500"}
        await harness.init.forget(session)
        assert await harness.init.limits(session) == {}

    @pytest.mark.parametrize(
        ("name", "value", "code"),
        [
            ("MemoryMaximum", "2G", "property_unknown"),
            ("ExecStart", "/bin/true", "property_unknown"),
            ("MemoryMax", "many", "property_invalid"),
            ("CPUWeight", "0", "property_invalid"),
        ],
    )
    async def test_of_bad_limits_none_is_set(
        self, harness: Harness, name: str, value: str, code: str
    ) -> None:
        session = new_id()
        with pytest.raises(InvalidArgument) as caught:
            await harness.init.set_limits(session, {"TasksMax": "500", name: value})
        assert caught.value.code == code
        assert caught.value.fields["property"] == name
        assert await harness.init.limits(session) == {}

    async def test_unenforced_limits_are_among_those_asked_for(self, harness: Harness) -> None:
        asked = ["MemoryMax", "CPUQuota", "TasksMax"]
        found = await harness.init.unenforced(asked)
        assert set(found) <= set(asked)
        usable = (await harness.init.info()).controllers
        assert ("MemoryMax" in found) is ("memory" not in usable)

    async def test_forgetting_takes_all_away_and_may_be_repeated(self, harness: Harness) -> None:
        await harness.install_starter(True)
        session = new_id()
        await harness.init.enable(session)
        await harness.init.set_limits(session, {"TasksMax": "500"})
        for _ in range(2):
            await harness.init.forget(session)
            assert await harness.init.limits(session) == {}
            assert await harness.init.enabled([session]) == frozenset()

    async def test_requests_are_counted_and_a_watch_makes_none_of_its_own(self, harness: Harness) -> None:
        session = new_id()
        async with watching(harness.init) as watcher:
            await harness.init.start(harness.spec(session))
            await watcher.until_state(session, SessionState.ACTIVE)
            await self._settle(harness, watcher)
            before = harness.init.calls
            await harness.init.info()
            between = harness.init.calls
            assert between > before
            await asyncio.sleep(0.05)
            assert harness.init.calls == between

    async def test_the_log_of_a_session_that_never_was_is_empty(self, harness: Harness) -> None:
        assert await harness.init.last_log(new_id(), 10) == []
        assert await harness.init.last_log(new_id(), 0) == []

    async def test_closing_ends_the_watch_and_may_be_repeated(self, harness: Harness) -> None:
        watcher = Watcher()
        task = asyncio.create_task(watcher.run(harness.init))
        await watcher.until("it is connected", lambda: watcher.reachable is True)
        await asyncio.gather(harness.init.close(), harness.init.close())
        await harness.init.close()
        async with asyncio.timeout(DEADLINE):
            await task
        with pytest.raises(Unreachable) as caught:
            await harness.init.info()
        assert caught.value.code == "init_unavailable"

    async def _settle(self, harness: Harness, watcher: Watcher) -> None:
        """Return when all that happened before is told: a change made now is told after it."""
        marker = new_id()
        await harness.init.start(harness.spec(marker))
        await watcher.until_state(marker, SessionState.ACTIVE)
        await harness.init.stop(marker)
        await watcher.until_state(marker, SessionState.INACTIVE)
        gone = (daemon_unit(marker), session_slice(marker))
        await watcher.until("the marker is gone", lambda: not watcher.units.keys() & set(gone))
