"""How agents end: the end is written down, the unit released, the record finished, in this order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from sessiond.agents.book import boot_id, lost_end
from sessiond.aio import unbroken
from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.streams import Streams
from sessiond.errors import SessiondError
from sessiond.model.agent import AgentEnd, Cause, has_ended
from sessiond.model.unit import agent_of_unit
from sessiond.ports import AgentUnits

log = logging.getLogger(__name__)

# A full disk gives no signal when it has room again.
_TRY_AGAIN = 5.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Endings:
    """Writes ends. ``going_down`` asks whether the init system itself ends; ``revive`` starts an agent again
    that went down with its machine, and says whether it could; ``again`` has an agent settled so many seconds
    later."""

    def __init__(
        self,
        units: AgentUnits,
        roster: Roster,
        streams: Streams,
        *,
        keep: int,
        going_down: Callable[[], Awaitable[bool]],
        revive: Callable[[Entry], Awaitable[bool]],
        again: Callable[[float, Entry], object],
    ) -> None:
        self._units = units
        self._roster = roster
        self._streams = streams
        self._keep = keep
        self._going_down = going_down
        self._revive = revive
        self._again = again

    @unbroken
    async def settle(self, entry: Entry) -> None:
        """Make good what is missing of an agent's end; one that runs is left alone."""
        async with entry.lock:
            if entry.removed or entry.starting:
                return
            if entry.end is not None:
                await self._settle_ended(entry)
                return
            if entry.unit is None and not await self._is_gone(entry):
                return
            if entry.unit is not None and not has_ended(entry.unit):
                return
            try:
                await self.conclude(entry)
            except SessiondError as error:
                log.warning("the end of %s is not written down yet: %s", entry.spec.name, error.message)
                self._again(_TRY_AGAIN, entry)

    async def _settle_ended(self, entry: Entry) -> None:
        """Its end is written down and its unit is loaded: release it, unless it is a new run of it."""
        unit = entry.unit
        if unit is None:
            return
        if unit.status.main_pid and unit.status.active_state in ("active", "activating"):
            log.warning("%s runs again, started by somebody else", unit.name)
            await asyncio.to_thread(self._roster.book.clear_end, entry.id)
            entry.end, entry.asked, entry.settled = None, False, False
            entry.sent = frozenset()
            self._roster.changed.fire()
            return
        if has_ended(unit):
            await self.release(entry)

    async def _is_gone(self, entry: Entry) -> bool:
        """Whether its unit is not loaded, asked of the init system itself: what was told may be of before."""
        try:
            units = await self._units.list()
        except SessiondError as error:
            log.warning("what became of %s is not known: %s", entry.spec.name, error.message)
            return False
        for unit in units:
            if (agent_of_unit(unit.name) or ("", ""))[1] == entry.id:
                entry.unit = unit
                self._roster.changed.fire()
                return False
        return entry.unit is None

    async def conclude(self, entry: Entry) -> None:
        """Its unit has ended, or is gone: write that down, and let go of it. The caller holds the lock.

        Raises what the disk says, and Unreachable; nothing is released then.
        """
        unit = entry.unit
        if unit is None:
            await self._lost(entry)
        elif await self._is_nobodys_wish(entry):
            # Who starts next sees that machine or manager are others, and that it went down with them.
            log.info("agent %s ends with its manager", entry.spec.name)
        else:
            await self._write(entry, AgentEnd.of(unit, asked=entry.wished))

    async def _lost(self, entry: Entry) -> None:
        end = lost_end(entry.spec, boot=boot_id(), manager=await self._units.manager())
        end = replace(end, asked=entry.asked)
        # What somebody was just ending when the machine went down does not come back with it.
        wanted = entry.spec.resurrect and not entry.asked
        if wanted and end.cause in (Cause.REBOOT, Cause.MANAGER) and await self._revive(entry):
            return
        log.info("agent %s is gone: %s", entry.spec.name, end.reason)
        entry.lost = end
        await self._write(entry, end)

    async def _is_nobodys_wish(self, entry: Entry) -> bool:
        if entry.asked or not (entry.spec.resurrect or entry.stop_seen):
            return False
        try:
            return await self._going_down()
        except SessiondError as error:
            log.warning("cannot ask whether the manager goes down: %s", error.message)
            return False

    async def _write(self, entry: Entry, end: AgentEnd) -> None:
        try:
            await asyncio.to_thread(self._write_down, entry, end)
        except SessiondError:
            # Its unit is kept, and tells how it ended; who waits for that need not wait for a disk.
            entry.settled = True
            self._roster.changed.fire()
            raise
        entry.end = end
        self._roster.changed.fire()
        await self.release(entry)

    def _write_down(self, entry: Entry, end: AgentEnd) -> None:
        # What a crash leaves half done from here on is found by this file.
        _try_touch(_unreleased(entry))
        self._roster.book.write_end(entry.id, end)

    async def release(self, entry: Entry) -> None:
        """Its end is on disk: end what is left of its processes, and finish its record."""
        released = True
        try:
            await self._units.release(entry.id)
        except SessiondError as error:
            # The next answer of the init system brings it up again.
            released = False
            log.warning("%s stays loaded: %s", entry.spec.unit, error.message)
        try:
            await self._streams.finish(entry.id)
        except SessiondError as error:
            log.warning("the record of %s may lack its end: %s", entry.spec.name, error.message)
        if released:
            _try_unlink(_unreleased(entry))
        entry.settled = True
        self._roster.changed.fire()
        self._streams.tell_ended(self._roster.row(entry))
        await self.prune()

    async def prune(self) -> None:
        """Forget the oldest of those that ended, beyond the number that is kept."""
        ended = [one for one in self._roster.entries.values() if one.end and one.settled]
        ended.sort(key=lambda one: (one.end and one.end.ended_at) or one.spec.created or _LONG_AGO)
        for one in ended[: max(0, len(ended) - self._keep)]:
            # One that is being started again, or removed, is not ours to forget.
            if one.lock.locked():
                continue
            self._roster.drop(one)
            try:
                await asyncio.to_thread(self._roster.book.remove, one.id)
            except SessiondError as error:
                log.warning("agent %s is not removed: %s", one.spec.name, error.message)


def is_unreleased(entry: Entry) -> bool:
    """Whether a daemon went down between an end that was written and what follows it."""
    return entry.end is not None and _unreleased(entry).exists()


def _unreleased(entry: Entry) -> Path:
    return entry.folder.path / "unreleased"


def _try_touch(path: Path) -> None:
    try:
        path.touch(mode=0o600)
    except OSError as error:
        log.debug("%s: %s", path, error)


def _try_unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        # It is released once more when a daemon starts, which does no harm.
        log.warning("%s is not removed: %s", path, error.strerror)
