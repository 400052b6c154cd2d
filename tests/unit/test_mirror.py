"""The mirror: whole answers replace, signals alter, silence is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

from sessiond.model.unit import UnitStatus, agents_slice, daemon_unit
from sessiond.ports import (
    Asked,
    Connected,
    EnablementChanged,
    InitSystem,
    Lost,
    UnitAppeared,
    UnitChanged,
    UnitEvent,
    UnitRemoved,
)
from sessiond.supervisor.mirror import Mirror

A, B = "a" * 32, "b" * 32


class Script:
    """An init system that says what it is told to, and then nothing more."""

    def __init__(self, *events: UnitEvent) -> None:
        self._events = events

    async def watch(self) -> AsyncIterator[UnitEvent]:
        for event in self._events:
            yield event


async def told(*events: UnitEvent) -> tuple[Mirror, list[frozenset[str] | None]]:
    mirror = Mirror(cast(InitSystem, Script(*events)))
    heard: list[frozenset[str] | None] = []
    mirror.listen(heard.append)
    await mirror.run()
    return mirror, heard


def running(session: str) -> UnitStatus:
    return UnitStatus(daemon_unit(session), active_state="active", sub_state="running", main_pid=7)


async def test_before_the_first_answer_nothing_is_known() -> None:
    mirror, heard = await told()
    assert not mirror.reachable
    assert not mirror.asked.is_set()
    assert not mirror.answered.is_set()
    assert heard == []


async def test_a_question_is_no_answer_and_an_answer_was_asked_for() -> None:
    mirror, heard = await told(Asked())
    assert (mirror.asked.is_set(), mirror.answered.is_set(), mirror.reachable) == (True, False, False)
    assert heard == []
    for event in (Connected([]), Lost("the bus hung up")):
        mirror, _ = await told(event)
        assert mirror.asked.is_set()
        assert mirror.answered.is_set()


async def test_a_whole_answer_replaces_what_was_known() -> None:
    mirror, heard = await told(Connected([running(A)]), Connected([running(B)]))
    assert mirror.daemon(A) is None
    assert mirror.daemon(B) == running(B)
    assert mirror.builds == 2
    assert heard == [None, None]


async def test_changes_alter_only_the_fields_they_name() -> None:
    mirror, heard = await told(
        Connected([running(A)]),
        UnitChanged(
            daemon_unit(A), {"active_state": "activating", "sub_state": "auto-restart", "main_pid": 0}
        ),
        UnitChanged(daemon_unit(A), {"n_restarts": 3}),
    )
    unit = mirror.daemon(A)
    assert unit is not None
    assert (unit.active_state, unit.sub_state, unit.main_pid, unit.n_restarts) == (
        "activating",
        "auto-restart",
        0,
        3,
    )
    assert heard[1:] == [frozenset({A}), frozenset({A})]


async def test_units_come_and_go() -> None:
    mirror, heard = await told(
        Connected([]), UnitAppeared(running(A)), UnitAppeared(running(B)), UnitRemoved(daemon_unit(A))
    )
    assert mirror.sessions() == {B}
    assert heard[1:] == [frozenset({A}), frozenset({B}), frozenset({A})]


async def test_a_change_of_a_unit_never_heard_of_is_no_unit() -> None:
    mirror, heard = await told(Connected([]), UnitChanged(daemon_unit(A), {"main_pid": 9}))
    assert mirror.daemon(A) is None
    assert heard == [None]


async def test_a_frozen_slice_concerns_its_session() -> None:
    frozen = UnitStatus(agents_slice(A), active_state="active", freezer_state="frozen")
    mirror, heard = await told(Connected([running(A)]), UnitAppeared(frozen))
    agents = mirror.agents(A)
    assert agents is not None
    assert agents.frozen
    assert heard[-1] == frozenset({A})


async def test_silence_is_told_with_its_reason_and_ends_with_the_next_answer() -> None:
    mirror, _ = await told(Connected([running(A)]), Lost("the bus is gone"))
    assert not mirror.reachable
    assert mirror.lost_reason == "the bus is gone"
    mirror, _ = await told(Lost("no bus yet"), Connected([running(A)]))
    assert mirror.reachable


async def test_each_change_of_enablement_asks_again_and_concerns_no_state() -> None:
    mirror, heard = await told(Connected([]), EnablementChanged())
    assert mirror.enablement_changed.is_set()
    assert heard == [None]


async def test_the_first_silence_also_counts_as_an_answer() -> None:
    mirror, _ = await told(Lost("no bus"))
    async with asyncio.timeout(60):
        await mirror.answered.wait()
