"""A mirror of the init system: built by one listing, kept by its signals, asked without a call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from sessiond.model.unit import UnitStatus, agents_slice, daemon_unit, session_of_daemon, session_of_slice
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

log = logging.getLogger(__name__)

Listener = Callable[[frozenset[str] | None], None]


class Mirror:
    """What the init system last said. ``listener`` hears which sessions changed (None: all may have)."""

    def __init__(self, init: InitSystem) -> None:
        self._init = init
        self._units: dict[str, UnitStatus] = {}
        self._listener: Listener = lambda sessions: None
        self.reachable = False
        self.lost_reason = "the init system has not answered yet"
        self.builds = 0
        # Set once the init system was asked for the first time: what it answers is on its way.
        self.asked = asyncio.Event()
        # Set once the init system answered, or was found away, for the first time.
        self.answered = asyncio.Event()
        # Set whenever what starts at boot must be asked anew; cleared by who asks.
        self.enablement_changed = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Have every change told to ``listener``, after it is in."""
        self._listener = listener

    def daemon(self, session: str) -> UnitStatus | None:
        """The unit of a session's daemon; None where none is loaded."""
        return self._units.get(daemon_unit(session))

    def agents(self, session: str) -> UnitStatus | None:
        """The slice of a session's agents; None where none is loaded."""
        return self._units.get(agents_slice(session))

    def sessions(self) -> frozenset[str]:
        """Ids of all sessions whose daemon has a unit."""
        return frozenset(found for name in self._units if (found := session_of_daemon(name)))

    async def run(self) -> None:
        """Follow the init system for ever."""
        async for event in self._init.watch():
            changed = self._take(event)
            if changed is None or changed:
                self._listener(changed)
            self.asked.set()
            if isinstance(event, Connected | Lost):
                self.answered.set()
            if isinstance(event, Connected | EnablementChanged):
                self.enablement_changed.set()

    def _take(self, event: UnitEvent) -> frozenset[str] | None:
        """Put one event in; returns the sessions concerned, or None for all."""
        match event:
            case Connected(units):
                self._units = {unit.name: unit for unit in units}
                self.reachable = True
                self.builds += 1
                return None
            case Lost(reason):
                if self.reachable:
                    log.warning("the init system is away: %s", reason)
                self.reachable = False
                self.lost_reason = reason
                return None
            case UnitAppeared(unit):
                self._units[unit.name] = unit
                return _owners([unit.name])
            case UnitChanged(name, changes):
                if name not in self._units:
                    return frozenset()
                self._units[name] = replace(self._units[name], **changes)
                return _owners([name])
            case UnitRemoved(name):
                self._units.pop(name, None)
                return _owners([name])
            case EnablementChanged() | Asked():
                return frozenset()


def _owners(names: Iterable[str]) -> frozenset[str]:
    found = (session_of_daemon(name) or session_of_slice(name) for name in names)
    return frozenset(session for session in found if session)
