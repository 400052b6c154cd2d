"""Follows the units over one connection: a listing, then the manager's signals, in the order it sent them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from typing import Any

from dbus_fast import Message, MessageType

from sessiond.errors import Unreachable
from sessiond.init.systemd import status
from sessiond.init.systemd.bus import DEADLINE, Connection
from sessiond.init.systemd.faults import late, unanswered
from sessiond.init.systemd.freezer import Freezer
from sessiond.init.systemd.machine import manager_cgroup
from sessiond.init.systemd.names import (
    MANAGER,
    MANAGER_PATH,
    PEER,
    PROPERTIES,
    SERVICE,
    SYSTEMD,
    UNIT,
    UNITS_PATH,
    unit_name,
    unit_path,
)
from sessiond.model.unit import UnitStatus
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

_MATCHES = tuple(
    f"type='signal',sender='{SYSTEMD}',path_namespace='{UNITS_PATH}',"
    f"interface='{PROPERTIES}',member='PropertiesChanged',arg0='{interface}'"
    for interface in (UNIT, SERVICE)
)
_OURS = f"{UNITS_PATH}/sessiond_2d"
_OF_UNITS = frozenset({"UnitNew", "UnitRemoved", "PropertiesChanged"})


class Feed:
    """A mirror of what the manager has said, kept only to tell what is new.

    Answers and signals are worked through as they arrive, which is the order in which the manager
    sent them: what came before a listing is in it, and what comes after it is newer. Units are never
    asked for by their object path unless they live: asking loads a unit, which is told as a new one.

    A daemon that is to be restarted passes through `failed`, and then through `inactive`, in one turn
    of the manager's loop. Such a change is held back until the manager has answered a ping sent on
    hearing of it: then all of that turn is known, and one change is told. One that is restarted by hand
    may be `inactive` for some turns: it is held back for as long as a job is there to start it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._events: deque[UnitEvent] = deque()
        self._news = asyncio.Event()
        self._units: dict[str, UnitStatus] = {}
        self._listing = 0
        self._building = False
        self._deaf = False
        self._relisting = 0
        self._relisted: frozenset[str] = frozenset()
        self._wanted: set[str] = set()
        self._questions: dict[int, tuple[str, status.Field]] = {}
        self._open: dict[str, int] = {}
        # Answers not yet put into their unit: a thousand units are made anew once, not for each field.
        self._answers: dict[str, dict[str, Any]] = {}
        self._held: dict[str, dict[str, Any]] = {}
        self._barriers: dict[int, str] = {}
        # Units with a job that is not done.
        self._queued: set[str] = set()
        self._due: float | None = None
        self._refused = ""

    async def events(self) -> AsyncGenerator[UnitEvent, None]:
        """Asked, Connected, then all changes, for ever. Raises Unreachable when the connection ends."""
        root = await manager_cgroup(self._connection)
        with Freezer(root, self._frozen) as self._freezer, self._connection.listening(self._receive):
            await asyncio.gather(*(self._connection.match(rule) for rule in _MATCHES))
            self._build()
            yield Asked()
            while True:
                while self._events:
                    yield self._events.popleft()
                await self._arrival()

    async def _arrival(self) -> None:
        self._news.clear()
        if self._events:
            return
        if self._refused:
            raise unanswered(self._refused)
        left = None if self._due is None else max(0.0, self._due - asyncio.get_running_loop().time())
        if not await self._connection.until(self._news, left):
            raise late("the listing of units", DEADLINE)

    def _emit(self, event: UnitEvent) -> None:
        self._events.append(event)
        self._news.set()

    # ---- asking

    def _forget(self) -> None:
        self._units.clear()
        self._wanted.clear()
        self._questions.clear()
        self._open.clear()
        self._answers.clear()
        self._held.clear()
        self._barriers.clear()
        self._queued.clear()
        self._listing = self._relisting = 0
        self._building = self._deaf = False
        self._expect(None)

    def _expect(self, due: float | None) -> None:
        self._due = due
        self._news.set()

    def _build(self) -> None:
        """List all units anew; ends in a Connected."""
        self._forget()
        self._building = True
        self._expect(asyncio.get_running_loop().time() + DEADLINE)
        # A manager that was started or exec'd anew may have forgotten us; else this is refused.
        self._connection.post(MANAGER_PATH, MANAGER, "Subscribe", "", [])
        self._listing = self._list(status.PATTERNS)

    def _list(self, patterns: Iterable[str]) -> int:
        body = [[], list(patterns)]
        return self._connection.post(MANAGER_PATH, MANAGER, "ListUnitsByPatterns", "asas", body)

    def _want(self, unit: str) -> None:
        """Have one unit told whole; those that come at once are listed together."""
        # A listing that is under way was asked for before, and is answered after, what was heard now.
        if self._relisting and unit in self._relisted:
            return
        self._wanted.add(unit)
        self._relist()

    def _relist(self) -> None:
        if self._wanted and not self._relisting and not self._listing:
            self._relisted = frozenset(self._wanted)
            self._wanted.clear()
            self._relisting = self._list(self._relisted)

    def _ask(self, unit: str, fields: Iterable[status.Field]) -> None:
        path = unit_path(unit)
        for field in fields:
            serial = self._connection.ask(path, field.interface, field.property)
            self._questions[serial] = (unit, field)
            self._open[unit] = self._open.get(unit, 0) + 1

    # ---- hearing

    def _receive(self, message: Message) -> None:
        # A connection that can no longer be written to is about to end, which is told by itself.
        with contextlib.suppress(Unreachable):
            match message.message_type:
                case MessageType.SIGNAL:
                    self._signal(message)
                case MessageType.METHOD_RETURN | MessageType.ERROR:
                    self._answer(message)

    def _answer(self, message: Message) -> None:
        serial, refused = message.reply_serial, message.message_type is MessageType.ERROR
        if serial in (self._listing, self._relisting):
            if refused:
                self._refused = str(message.body[0]) if message.body else str(message.error_name)
                self._news.set()
                return
            if serial == self._listing:
                self._listing = 0
            else:
                self._relisting = 0
            self._listed(message.body[0])
        elif (name := self._barriers.pop(serial, None)) is not None:
            if not self._comes_back(name):
                self._release(name)
        elif (question := self._questions.pop(serial, None)) is not None:
            self._answered(*question, None if refused else message.body[0].value)

    def _listed(self, rows: list[list[Any]]) -> None:
        for row in rows:
            if not status.is_ours(row[0]):
                continue
            unit = status.from_listing(row)
            self._units[unit.name] = unit
            self._answers.pop(unit.name, None)
            missing = status.missing_after_listing(unit, frozen=self._follow(unit))
            self._ask(unit.name, missing)
            if not missing and not self._building:
                self._emit(UnitAppeared(unit))
        self._relist()
        self._finish_building()

    def _follow(self, unit: UnitStatus) -> bool | None:
        """Whether a unit is frozen, told from here on; None where that must be asked."""
        if unit.active_state in ("inactive", "failed") or not status.can_freeze(unit.name):
            return False
        return self._freezer.follow(unit.name)

    def _frozen(self, name: str, frozen: bool) -> None:
        unit = self._known(name)
        if unit is not None and unit.frozen != frozen and not self._listing:
            self._ask(name, status.fields(["freezer_state"]))

    def _answered(self, name: str, field: status.Field, value: Any) -> None:
        # Refused means that the unit went away in between, which is told by itself.
        if value is not None:
            self._answers.setdefault(name, {})[field.name] = field.convert(value)
        left = self._open[name] = self._open[name] - 1
        if left == 0:
            del self._open[name]
            unit = self._known(name)
            if unit is not None and not self._building:
                self._emit(UnitAppeared(unit))
        self._finish_building()

    def _known(self, name: str) -> UnitStatus | None:
        """The unit with all that was answered of it so far."""
        unit, told = self._units.get(name), self._answers.pop(name, None)
        if unit is not None and told:
            self._units[name] = unit = replace(unit, **told)
        return unit

    def _finish_building(self) -> None:
        if self._building and not self._open and not self._listing:
            self._building = False
            self._expect(None)
            self._emit(Connected(tuple(self._units.values())))

    def _signal(self, message: Message) -> None:
        if self._deaf and message.member in _OF_UNITS:
            return
        match message.member:
            case "PropertiesChanged" if (path := message.path or "").startswith(_OURS):
                self._changed(unit_name(path), *message.body)
            case "UnitNew" if status.is_ours(message.body[0]):
                self._want(message.body[0])
            case "UnitRemoved" if status.is_ours(message.body[0]):
                self._removed(message.body[0])
            case "Reloading":
                self._reload(begins=message.body[0])
            case "UnitFilesChanged":
                self._emit(EnablementChanged())
            case "NameOwnerChanged" if message.body[0] == SYSTEMD:
                self._owner_changed(message.body[2])

    def _changed(self, name: str, interface: str, properties: dict[str, Any], without: list[str]) -> None:
        if self._listing or not status.is_ours(name):
            return
        # What was answered before this was heard is older than it.
        unit = self._known(name)
        if unit is None or status.invalidated(interface, without):
            self._want(name)
            return
        if interface == UNIT and "Job" in properties:
            (self._queued.add if properties["Job"].value[0] else self._queued.discard)(name)
        new = {
            field: value
            for field, value in status.changes(interface, properties).items()
            if getattr(unit, field) != value
        }
        if not new:
            if name in self._held:
                self._ping(name)
            return
        self._units[name] = unit = replace(unit, **new)
        if "main_pid" in new or "active_state" in new:
            # It may have a new cgroup.
            self._follow(unit)
        if self._building or name in self._open:
            return
        if name in self._held:
            self._held[name].update(new)
            self._ping(name)
        elif status.passing(name, new):
            self._held[name] = new
            self._ping(name)
        else:
            self._emit(UnitChanged(name, new))

    def _ping(self, name: str) -> None:
        """Have what is held back of a unit told once the turn that it was heard of is over."""
        if name not in self._barriers.values():
            self._barriers[self._connection.post(MANAGER_PATH, PEER, "Ping", "", [])] = name

    def _comes_back(self, name: str) -> bool:
        """Whether a unit that has ended is to be started by a job of the manager's."""
        unit = self._units.get(name)
        return unit is not None and name in self._queued and unit.active_state in ("inactive", "failed")

    def _release(self, name: str) -> None:
        """Tell what was held back of a unit."""
        held = self._held.pop(name, None)
        if held:
            self._emit(UnitChanged(name, held))

    def _removed(self, name: str) -> None:
        self._wanted.discard(name)
        self._queued.discard(name)
        self._release(name)
        self._answers.pop(name, None)
        if self._units.pop(name, None) is not None and not self._building:
            self._emit(UnitRemoved(name))

    def _reload(self, *, begins: bool) -> None:
        """While it reloads, the manager tells every unit as removed and as new; none of it is so."""
        if not begins:
            self._build()
            return
        self._forget()
        self._deaf = True
        self._expect(asyncio.get_running_loop().time() + DEADLINE)

    def _owner_changed(self, owner: str) -> None:
        if owner:
            self._build()
        else:
            self._forget()
            self._deaf = True
            self._emit(Lost("systemd does not answer: the manager left the bus"))
