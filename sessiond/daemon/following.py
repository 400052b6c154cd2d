"""Following the units of one session's agents: what the init system tells is put into the roster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.streams import Streams
from sessiond.errors import SessiondError
from sessiond.model.agent import AgentUnit, has_ended
from sessiond.model.unit import agent_of_unit
from sessiond.ports import AgentGone, AgentsListed, AgentTold, AgentUnits, Lost

log = logging.getLogger(__name__)


class Follower:
    """Reads the watch for ever. ``settle`` is called for an agent that may need an end or a release."""

    def __init__(
        self, units: AgentUnits, roster: Roster, streams: Streams, settle: Callable[[Entry], None]
    ) -> None:
        self._units = units
        self._roster = roster
        self._streams = streams
        self._settle = settle
        self.answered = asyncio.Event()
        # It has answered, or it cannot.
        self.heard = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        async with contextlib.aclosing(self._units.watch()) as events:  # type: ignore[type-var]
            async for event in events:
                match event:
                    case AgentsListed(units):
                        await self._listed(units)
                    case AgentTold(unit):
                        self._told(unit)
                    case AgentGone(agent):
                        self._gone(agent)
                    case Lost(reason):
                        log.warning("the init system does not answer: %s", reason)
                        self._roster.reachable = False
                        self.heard.set()
                self._roster.changed.fire()

    def give_up(self) -> None:
        """Nothing is followed any more: nobody need wait for an answer."""
        self.answered.set()
        self.heard.set()

    async def _listed(self, units: Sequence[AgentUnit]) -> None:
        found = {_agent(unit): unit for unit in units}
        self._roster.reachable = True
        self.answered.set()
        for entry in list(self._roster.entries.values()):
            self._take(entry, found.pop(entry.id, None))
        self.heard.set()
        for agent, unit in found.items():
            await self._stray(agent, unit)

    async def _stray(self, agent: str, unit: AgentUnit) -> None:
        """A unit of which nothing is kept. What runs is left alone: a person can still end it."""
        if not has_ended(unit):
            log.warning("%s runs, and nothing is kept of it", unit.name)
            return
        try:
            await self._units.release(agent)
        except SessiondError as error:
            log.warning("%s stays loaded: %s", unit.name, error.message)

    def _told(self, unit: AgentUnit) -> None:
        entry = self._roster.entries.get(_agent(unit))
        if entry is not None:
            self._take(entry, unit)

    def _gone(self, agent: str) -> None:
        entry = self._roster.entries.get(agent)
        if entry is not None:
            self._take(entry, None)

    def _take(self, entry: Entry, unit: AgentUnit | None) -> None:
        entry.unit = unit
        if unit is not None and entry.end is None:
            if _stopping(unit) and not entry.asked:
                # Not noted on disk: a manager that goes down stops all units, and that is nobody's wish.
                entry.stop_seen = True
            pid = unit.status.main_pid
            if pid and entry.pid and pid != entry.pid:
                self._new_run(entry)
            entry.pid = pid or entry.pid
        if entry.starting:
            return
        if entry.end is not None:
            if unit is not None:
                self._settle(entry)
        elif unit is None or has_ended(unit):
            self._settle(entry)

    def _new_run(self, entry: Entry) -> None:
        """The init system has started it again: what was asked of the last run is past."""
        entry.stop_seen = False
        if entry.asked or entry.sent:
            entry.asked, entry.sent = False, frozenset()
            self._roster.book.clear_asked(entry.id)
        self._streams.rearm(entry.id)


def _agent(unit: AgentUnit) -> str:
    names = agent_of_unit(unit.name)
    return names[1] if names else ""


def _stopping(unit: AgentUnit) -> bool:
    return unit.job == "stop" and unit.status.active_state == "deactivating"
