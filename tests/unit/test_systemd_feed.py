"""The feed on a connection whose answers and signals come in any order that systemd may choose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import pytest
from dbus_fast import Message, MessageType, Variant

from sessiond.errors import Unreachable
from sessiond.init.systemd.bus import Connection, Listener
from sessiond.init.systemd.feed import Feed
from sessiond.init.systemd.names import (
    MANAGER,
    MANAGER_PATH,
    PROPERTIES,
    SERVICE,
    SYSTEMD,
    UNIT,
    unit_name,
    unit_path,
)
from sessiond.model.unit import agents_slice, daemon_unit, session_slice
from sessiond.ports import (
    Asked,
    Connected,
    EnablementChanged,
    Lost,
    UnitAppeared,
    UnitChanged,
    UnitEvent,
    UnitRemoved,
)

ONE, TWO = "1" * 32, "2" * 32
VALUES: dict[str, Any] = {
    "StateChangeTimestamp": 5_000_000,
    "MainPID": 77,
    "NRestarts": 0,
    "Result": "success",
    "ExecMainCode": 0,
    "ExecMainStatus": 0,
    "FreezerState": "running",
}


class Bus:
    """Stands in for a Connection; a test answers what was posted, when it likes."""

    def __init__(self) -> None:
        self.posted: dict[int, tuple[str, str, list[Any]]] = {}
        self.serial = 100
        self.over = False
        self._listener: Listener | None = None
        self._changed = asyncio.Event()

    # ---- the connection's own

    async def get(self, path: str, interface: str, name: str) -> str:
        assert name == "ControlGroup"
        return "/not/to/be/found"

    async def match(self, rule: str) -> None:
        assert "PropertiesChanged" in rule

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        self._listener = listener
        yield
        self._listener = None

    def post(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> int:
        self.serial += 1
        self.posted[self.serial] = (path, member, body)
        return self.serial

    def ask(self, path: str, interface: str, name: str) -> int:
        return self.post(path, PROPERTIES, "Get", "ss", [interface, name])

    async def until(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        if self.over:
            raise Unreachable("init_unavailable", "the bus hung up")
        await event.wait()
        return True

    # ---- for tests

    def tell(self, message: Message) -> None:
        assert self._listener is not None
        self._listener(message)

    def signal(
        self, member: str, signature: str, *body: Any, path: str = MANAGER_PATH, interface: str = MANAGER
    ) -> None:
        self.tell(
            Message(
                message_type=MessageType.SIGNAL,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=list(body),
                sender=SYSTEMD,
            )
        )

    def changed(self, unit: str, interface: str, **values: Any) -> None:
        types = {int: "u", str: "s", list: "(uo)"}
        variants = {
            name: Variant("t" if name.endswith("Timestamp") else types[type(value)], value)
            for name, value in values.items()
        }
        self.signal(
            "PropertiesChanged",
            "sa{sv}as",
            interface,
            variants,
            [],
            path=unit_path(unit),
            interface=PROPERTIES,
        )

    def take(self, member: str) -> list[tuple[int, str, list[Any]]]:
        """What was posted under that name and is not answered."""
        return [(serial, path, body) for serial, (path, name, body) in self.posted.items() if name == member]

    def answer(self, serial: int, signature: str, *body: Any) -> None:
        del self.posted[serial]
        self.tell(
            Message(
                message_type=MessageType.METHOD_RETURN,
                reply_serial=serial,
                signature=signature,
                body=list(body),
                sender=SYSTEMD,
            )
        )

    def refuse(self, serial: int) -> None:
        del self.posted[serial]
        self.tell(
            Message(
                message_type=MessageType.ERROR,
                error_name="org.freedesktop.DBus.Error.UnknownObject",
                reply_serial=serial,
                signature="s",
                body=["gone"],
                sender=SYSTEMD,
            )
        )

    def listed(self, *units: tuple[str, str, str]) -> None:
        """Answer the one listing that is open; units are name, active state, sub-state."""
        [(serial, _, _)] = self.take("ListUnitsByPatterns")
        rows = [
            [name, "", "loaded", active, sub, "", unit_path(name), 0, "", "/"] for name, active, sub in units
        ]
        self.answer(serial, "a(ssssssouso)", rows)

    def details(self, **changes: Any) -> None:
        """Answer every question that is open."""
        for serial, _, (_, name) in self.take("Get"):
            value = {**VALUES, **changes}[name]
            variant = Variant(
                "t" if name.endswith("Timestamp") else "s" if isinstance(value, str) else "u", value
            )
            self.answer(serial, "v", variant)

    def ponged(self) -> None:
        """Answer every ping."""
        for serial, _, _ in self.take("Ping"):
            self.answer(serial, "")


class Run:
    """A feed that runs, and what it has told."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.told: list[UnitEvent] = []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async for event in Feed(cast(Connection, self.bus)).events():
            self.told.append(event)

    async def settle(self) -> list[UnitEvent]:
        """What was told since the last time."""
        for _ in range(10):
            await asyncio.sleep(0)
        told, self.told = self.told, []
        return told

    async def begin(self, *units: tuple[str, str, str]) -> list[UnitEvent]:
        """Have it connected with those units."""
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if self.bus.take("ListUnitsByPatterns"):
                break
        assert await self.settle() == [Asked()]
        self.bus.listed(*units)
        self.bus.details()
        return await self.settle()


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    made = Run(Bus())
    yield made
    made.task.cancel()
    with suppress(asyncio.CancelledError, Unreachable):
        await made.task


RUNNING = ("active", "running")
DAEMON = daemon_unit(ONE)


async def test_it_is_connected_when_the_last_answer_is_there(run: Run) -> None:
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if run.bus.take("ListUnitsByPatterns"):
            break
    run.bus.listed(
        (DAEMON, *RUNNING), (session_slice(ONE), "active", "active"), ("sessiond.slice", "active", "active")
    )
    assert await run.settle() == [Asked()]
    run.bus.details(MainPID=5, NRestarts=2)
    [event] = await run.settle()
    assert isinstance(event, Connected)
    daemon, slice_ = event.units
    assert (daemon.name, daemon.main_pid, daemon.n_restarts, daemon.result) == (DAEMON, 5, 2, "success")
    assert slice_.name == session_slice(ONE)


async def test_a_running_daemon_costs_few_questions_and_a_slice_none(run: Run) -> None:
    await run.begin()
    run.bus.signal("Reloading", "b", False)
    run.bus.listed(
        (DAEMON, *RUNNING), (session_slice(ONE), "active", "active"), (agents_slice(ONE), "inactive", "dead")
    )
    asked = {(unit_name(path), body[1]) for _, path, body in run.bus.take("Get")}
    names = ("FreezerState", "StateChangeTimestamp", "MainPID", "NRestarts")
    assert asked == {(DAEMON, name) for name in names}


async def test_a_failed_daemon_is_asked_how_it_ended(run: Run) -> None:
    await run.begin()
    run.bus.signal("Reloading", "b", False)
    run.bus.listed((DAEMON, "failed", "failed"))
    assert {"Result", "ExecMainCode", "ExecMainStatus"} <= {body[1] for _, _, body in run.bus.take("Get")}


async def test_what_was_said_before_the_listing_is_in_it(run: Run) -> None:
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if run.bus.take("ListUnitsByPatterns"):
            break
    run.bus.changed(DAEMON, UNIT, ActiveState="activating", SubState="start")
    run.bus.listed((DAEMON, *RUNNING))
    run.bus.details()
    _, event = await run.settle()
    assert isinstance(event, Connected)
    assert event.units[0].active_state == "active"


async def test_what_is_said_between_the_listing_and_its_details_is_kept(run: Run) -> None:
    for _ in range(1000):
        await asyncio.sleep(0.001)
        if run.bus.take("ListUnitsByPatterns"):
            break
    run.bus.listed((DAEMON, *RUNNING), (daemon_unit(TWO), *RUNNING))
    run.bus.changed(DAEMON, UNIT, ActiveState="deactivating", SubState="stop-sigterm")
    run.bus.signal("UnitRemoved", "so", daemon_unit(TWO), unit_path(daemon_unit(TWO)))
    run.bus.details()
    _, event = await run.settle()
    assert isinstance(event, Connected)
    assert [(unit.name, unit.active_state) for unit in event.units] == [(DAEMON, "deactivating")]


async def test_changes_are_told_by_field_and_only_what_is_new(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, SERVICE, MainPID=77, NRestarts=1, Unheard="of")
    run.bus.changed(DAEMON, SERVICE, NRestarts=1)
    run.bus.changed(DAEMON, UNIT, MainPID=3)
    assert await run.settle() == [UnitChanged(DAEMON, {"n_restarts": 1})]


async def test_units_of_others_are_not_told(run: Run) -> None:
    await run.begin()
    for name in (
        "other.service",
        "sessiond.service",
        "sessiond-session@x.service",
        "sessiond-agent@1-2.service",
    ):
        run.bus.signal("UnitNew", "so", name, unit_path(name))
        run.bus.changed(name, UNIT, ActiveState="active")
        run.bus.signal("UnitRemoved", "so", name, unit_path(name))
    assert await run.settle() == []
    assert not run.bus.take("ListUnitsByPatterns")


async def test_a_failure_that_only_passes_is_not_told(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, SERVICE, MainPID=0, Result="signal", ExecMainCode=2, ExecMainStatus=9)
    run.bus.changed(DAEMON, UNIT, ActiveState="failed", SubState="failed")
    run.bus.changed(DAEMON, UNIT, ActiveState="activating", SubState="auto-restart")
    run.bus.ponged()
    first, second = await run.settle()
    assert isinstance(first, UnitChanged)
    assert first.changes["result"] == "signal"
    assert second == UnitChanged(DAEMON, {"active_state": "activating", "sub_state": "auto-restart"})


async def test_a_failure_that_stays_is_told_when_the_manager_has_answered(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, UNIT, ActiveState="failed", SubState="failed")
    assert await run.settle() == []
    run.bus.ponged()
    assert await run.settle() == [UnitChanged(DAEMON, {"active_state": "failed", "sub_state": "failed"})]


async def test_an_end_that_a_job_makes_good_is_not_told(run: Run) -> None:
    job, none = [7, "/org/freedesktop/systemd1/job/7"], [0, "/"]
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive", SubState="dead", Job=job)
    # The manager answers before it comes to its jobs.
    run.bus.ponged()
    assert await run.settle() == []
    run.bus.changed(DAEMON, UNIT, ActiveState="activating", SubState="start", Job=job)
    run.bus.ponged()
    assert await run.settle() == [
        UnitChanged(DAEMON, {"active_state": "activating", "sub_state": "start"}),
    ]
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive", SubState="dead", Job=none)
    run.bus.ponged()
    assert await run.settle() == [UnitChanged(DAEMON, {"active_state": "inactive", "sub_state": "dead"})]


async def test_an_end_is_told_once_the_job_is_gone_that_would_have_made_it_good(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive", SubState="dead", Job=[7, "/job/7"])
    run.bus.ponged()
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive", SubState="dead", Job=[0, "/"])
    assert await run.settle() == []
    run.bus.ponged()
    assert await run.settle() == [UnitChanged(DAEMON, {"active_state": "inactive", "sub_state": "dead"})]


async def test_an_end_is_told_before_the_removal(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive", SubState="dead")
    run.bus.signal("UnitRemoved", "so", DAEMON, unit_path(DAEMON))
    assert await run.settle() == [
        UnitChanged(DAEMON, {"active_state": "inactive", "sub_state": "dead"}),
        UnitRemoved(DAEMON),
    ]
    run.bus.ponged()
    assert await run.settle() == []


async def test_new_units_are_listed_together_and_told_whole(run: Run) -> None:
    await run.begin()
    for name in (DAEMON, session_slice(ONE), daemon_unit(TWO)):
        run.bus.signal("UnitNew", "so", name, unit_path(name))
        run.bus.changed(name, UNIT, ActiveState="activating")
    run.bus.listed((DAEMON, "activating", "start"))
    run.bus.listed((session_slice(ONE), "active", "active"), (daemon_unit(TWO), "activating", "start"))
    run.bus.changed(daemon_unit(TWO), UNIT, ActiveState="active", SubState="running")
    run.bus.details()
    told = await run.settle()
    assert all(isinstance(event, UnitAppeared) for event in told)
    states = {event.unit.name: event.unit.active_state for event in told if isinstance(event, UnitAppeared)}
    assert states == {DAEMON: "activating", session_slice(ONE): "active", daemon_unit(TWO): "active"}


async def test_a_unit_that_was_gone_before_it_could_be_listed_is_never_told(run: Run) -> None:
    await run.begin()
    run.bus.signal("UnitNew", "so", DAEMON, unit_path(DAEMON))
    run.bus.signal("UnitRemoved", "so", DAEMON, unit_path(DAEMON))
    run.bus.listed()
    assert await run.settle() == []
    assert not run.bus.posted.keys() - {serial for serial, _, _ in run.bus.take("Subscribe")}


async def test_a_unit_that_goes_while_it_is_asked_is_told_as_gone(run: Run) -> None:
    await run.begin()
    run.bus.signal("UnitNew", "so", DAEMON, unit_path(DAEMON))
    run.bus.listed((DAEMON, "activating", "start"))
    run.bus.signal("UnitRemoved", "so", DAEMON, unit_path(DAEMON))
    for serial, _, _ in run.bus.take("Get"):
        run.bus.refuse(serial)
    assert await run.settle() == [UnitRemoved(DAEMON)]


async def test_what_is_said_while_the_manager_reloads_is_left_aside(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.signal("Reloading", "b", True)
    run.bus.signal("UnitRemoved", "so", DAEMON, unit_path(DAEMON))
    run.bus.signal("UnitNew", "so", DAEMON, unit_path(DAEMON))
    assert await run.settle() == []
    run.bus.signal("Reloading", "b", False)
    run.bus.listed((DAEMON, *RUNNING))
    run.bus.details()
    [event] = await run.settle()
    assert isinstance(event, Connected)


async def test_a_second_reload_during_the_listing_begins_it_anew(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    run.bus.signal("Reloading", "b", False)
    [(first, _, _)] = run.bus.take("ListUnitsByPatterns")
    run.bus.signal("Reloading", "b", True)
    run.bus.signal("Reloading", "b", False)
    run.bus.answer(first, "a(ssssssouso)", [])
    assert await run.settle() == []
    run.bus.listed((DAEMON, *RUNNING))
    run.bus.details()
    [event] = await run.settle()
    assert isinstance(event, Connected)
    assert len(event.units) == 1


async def test_a_manager_that_leaves_and_comes_back_is_lost_and_connected(run: Run) -> None:
    await run.begin((DAEMON, *RUNNING))
    bus = "org.freedesktop.DBus"
    owner = {"path": "/org/freedesktop/DBus", "interface": bus}
    run.bus.signal("NameOwnerChanged", "sss", SYSTEMD, ":1.1", "", **owner)
    [lost] = await run.settle()
    assert isinstance(lost, Lost)
    run.bus.posted.clear()
    run.bus.changed(DAEMON, UNIT, ActiveState="inactive")
    assert not run.bus.posted
    assert await run.settle() == []
    run.bus.signal("NameOwnerChanged", "sss", SYSTEMD, "", ":1.2", **owner)
    assert run.bus.take("Subscribe")
    run.bus.listed((DAEMON, *RUNNING))
    run.bus.details()
    [event] = await run.settle()
    assert isinstance(event, Connected)


async def test_a_listing_that_is_refused_ends_it(run: Run) -> None:
    await run.begin()
    run.bus.signal("Reloading", "b", False)
    [(listing, _, _)] = run.bus.take("ListUnitsByPatterns")
    run.bus.refuse(listing)
    with pytest.raises(Unreachable) as caught:
        await run.task
    assert "gone" in caught.value.message


async def test_changed_unit_files_are_told(run: Run) -> None:
    await run.begin()
    run.bus.signal("UnitFilesChanged", "")
    assert await run.settle() == [EnablementChanged()]


async def test_the_end_of_the_connection_ends_it(run: Run) -> None:
    await run.begin()
    run.bus.over = True
    run.bus.signal("UnitFilesChanged", "")
    with pytest.raises(Unreachable):
        await run.task
