"""Follows the units of a session's agents over one connection, and tells each whole when it has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import Any

from dbus_fast import Message, MessageType

from sessiond.init.systemd.agents.held import Held
from sessiond.init.systemd.agents.reading import listed, read_units
from sessiond.init.systemd.bus import RELOAD_DEADLINE
from sessiond.init.systemd.faults import late
from sessiond.init.systemd.freezer import Freezer
from sessiond.init.systemd.machine import manager_cgroup
from sessiond.init.systemd.names import SYSTEMD, UNIT, unit_name
from sessiond.model.agent import AgentUnit
from sessiond.model.state import RESTARTING
from sessiond.model.unit import agent_of_unit, agents_pattern
from sessiond.ports import AgentEvent, AgentGone, AgentsListed, AgentTold, Lost

_ENDED = ("inactive", "failed")


class Feed:
    """Signals only say which units to read again; what is told was read after all signals about it.

    The manager sends the signals of a turn of its loop before it answers a question in the next. So a unit
    read after a signal is read as that whole turn left it, and if none comes while it is read, the parts of
    the reading belong together. ``busy`` are units that are being released: they are not told meanwhile.
    """

    def __init__(self, held: Held, session: str, busy: Collection[str]) -> None:
        self._held = held
        self._connection = held.connection
        self._session = session
        self._busy = busy
        self._known: dict[str, AgentUnit] = {}
        self._dirty: set[str] = set()
        # Sub-states of units told as being stopped by a job that may be over before they are read.
        self._stopping: dict[str, str] = {}
        self._listing = True
        self._reloading = False
        self._away = False
        self._lost = False
        self._news = asyncio.Event()

    async def events(self) -> AsyncGenerator[AgentEvent, None]:
        """AgentsListed, then all changes, for ever. Raises Unreachable when the connection ends."""
        root = await manager_cgroup(self._connection)
        with Freezer(root, self._frozen) as self._freezer, self._connection.listening(self._receive):
            while True:
                self._news.clear()
                if self._lost:
                    self._lost = False
                    yield Lost("systemd does not answer: the manager left the bus")
                elif self._away or self._reloading:
                    await self._wait()
                elif self._listing:
                    for event in await self._listed():
                        yield event
                elif names := self._dirty.difference(self._busy):
                    for event in await self._changes(names):
                        yield event
                else:
                    await self._connection.until(self._news)

    async def _wait(self) -> None:
        # A manager that went away may be long in coming back; one that reloads may not.
        if not await self._connection.until(self._news, None if self._away else RELOAD_DEADLINE):
            raise late("the reading of its files", RELOAD_DEADLINE)

    def touch(self, unit: str) -> None:
        """Have a unit read again."""
        self._dirty.add(unit)
        self._news.set()

    # ---- reading

    async def _listed(self) -> list[AgentEvent]:
        self._listing = False
        # A manager that was started or exec'd anew may have forgotten us.
        await self._connection.subscribe()
        rows = await listed(self._connection, self._session, [agents_pattern(self._session)])
        names = {str(row[0]) for row in rows}
        await self._held.hold(names)
        units: dict[str, AgentUnit] = {}
        unread = names
        while unread:
            self._dirty -= unread
            for name in unread:
                units.pop(name, None)
            units.update(await self._read(unread))
            if self._interrupted:
                return []
            unread = names & self._dirty
        steps = [self._steps(unit) for unit in units.values()]
        # The rules of those that are no longer there are taken back.
        self._dirty |= self._known.keys() - units.keys()
        self._known = units
        return [AgentsListed(tuple(first for first, *_ in steps)), *_each(steps)]

    @property
    def _interrupted(self) -> bool:
        """Whether what was read meanwhile says nothing: the manager was not itself."""
        return self._listing or self._reloading or self._away

    async def _read(self, names: Collection[str]) -> dict[str, AgentUnit]:
        units = await read_units(self._connection, self._session, names)
        for unit in units.values():
            if unit.status.active_state not in _ENDED and unit.status.main_pid:
                # Its processes may have a new cgroup.
                self._freezer.follow(unit.name)
        return units

    async def _changes(self, names: set[str]) -> list[AgentEvent]:
        self._dirty -= names
        units = await self._read(names)
        if self._interrupted:
            self._dirty |= names
            return []
        told: list[AgentEvent] = []
        # What was heard of again while it was read comes with the next reading.
        for name in names - self._dirty:
            unit = units.get(name)
            told += await self._gone(name) if unit is None else self._told(unit)
        return told

    async def _gone(self, name: str) -> list[AgentEvent]:
        self._stopping.pop(name, None)
        await self._held.forget(name)
        found = agent_of_unit(name)
        return [AgentGone(found[1])] if found and self._known.pop(name, None) is not None else []

    def _told(self, unit: AgentUnit) -> list[AgentEvent]:
        old, steps = self._known.get(unit.name), self._steps(unit)
        self._known[unit.name] = unit
        if old is not None and _said(old) == _said(unit):
            return []
        return [AgentTold(step) for step in steps]

    def _steps(self, unit: AgentUnit) -> list[AgentUnit]:
        """The unit, and before it how it was on its way there if a stop was over before it could be read."""
        old, stopping = self._known.get(unit.name), self._stopping.pop(unit.name, "")
        if unit.status.active_state not in _ENDED or unit.job:
            return [unit]
        if not stopping and old is not None and _given_up(old, unit):
            stopping = "stop"
        if not stopping or (old is not None and old.job in ("stop", "restart")):
            return [unit]
        status = replace(unit.status, active_state="deactivating", sub_state=stopping)
        return [replace(unit, status=status, job="stop"), unit]

    # ---- hearing

    def _receive(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        match message.member:
            case "PropertiesChanged" if self._ours(name := unit_name(message.path or "")):
                self._changed(name, *message.body[:2])
            case "UnitNew" | "UnitRemoved" if self._ours(name := message.body[0]):
                # While it reloads, the manager tells every unit as removed and as new; none of it is so.
                self.touch(name)
            case "Reloading":
                self._reloading = message.body[0]
                self._listing = True
                self._news.set()
            case "NameOwnerChanged" if message.body[0] == SYSTEMD:
                self._away = not message.body[2]
                self._lost = self._lost or self._away
                self._listing = True
                self._reloading = False
                self._news.set()

    def _changed(self, name: str, interface: str, properties: dict[str, Any]) -> None:
        if interface == UNIT and (state := properties.get("ActiveState")) is not None:
            job = properties.get("Job")
            if state.value == "deactivating" and job is not None and job.value[0]:
                sub = properties.get("SubState")
                self._stopping[name] = sub.value if sub is not None else "stop"
            elif state.value not in (*_ENDED, "deactivating"):
                self._stopping.pop(name, None)
        self.touch(name)

    def _ours(self, unit: str) -> bool:
        found = agent_of_unit(unit)
        return found is not None and found[0] == self._session

    def _frozen(self, unit: str, _: bool) -> None:
        self.touch(unit)


def _each(steps: list[list[AgentUnit]]) -> list[AgentEvent]:
    return [AgentTold(step) for _, *later in steps for step in later]


def _given_up(old: AgentUnit, new: AgentUnit) -> bool:
    """Whether a stop, which takes no time there, ended the waiting for a restart: no restart was tried."""
    waited = old.status.sub_state in RESTARTING and not old.job
    return waited and new.status.n_restarts == old.status.n_restarts


def _said(unit: AgentUnit) -> AgentUnit:
    """The unit without what changes all the time."""
    return replace(unit, cpu_seconds=None, memory_bytes=None)
