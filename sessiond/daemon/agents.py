"""One session's agents: started, followed, ended, released; every verb on one of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from sessiond.agents.book import Book
from sessiond.aio import Pulse, unbroken
from sessiond.config import Settings
from sessiond.daemon.ending import Endings, is_unreleased
from sessiond.daemon.following import Follower
from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.spawning import Place, Spawn, Spawning
from sessiond.daemon.streams import Streams
from sessiond.errors import Conflict, SessiondError, TimedOut, Unreachable
from sessiond.model.agent import Agent, AgentState, AgentUnit
from sessiond.model.agent_selection import Selection, select
from sessiond.model.signals import parse_signal
from sessiond.model.unit import agent_of_unit
from sessiond.ports import AgentUnits

log = logging.getLogger(__name__)

# Long enough for a busy machine's bus.
_FIRST_ANSWER = 10.0
# So long whoever asks what runs waits for it, right after a restart; it is `unknown` then.
_FIRST_LOOK = 2.0
_FREEZER_DEADLINE = 5.0
# What is being written down when the daemon ends is given so long.
_STOP_GRACE = 3.0
_REVIVED_AT_ONCE = 8
ENDED = frozenset(state for state in AgentState if state.ended)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What agents stand on; ``going_down`` asks whether the init system itself is about to end."""

    place: Place
    settings: Settings
    units: AgentUnits
    streams: Streams
    going_down: Callable[[], Awaitable[bool]]


class Agents:
    """One session's agents. ``load`` comes before serving, ``begin`` after; ``stop`` leaves all that runs."""

    def __init__(self, wiring: Wiring, book: Book) -> None:
        self._units = wiring.units
        self._streams = wiring.streams
        self._going_down = wiring.going_down
        self._roster = Roster(book, wiring.streams)
        self._spawning = Spawning(
            wiring.place, wiring.settings, wiring.units, self._roster, wiring.streams, self._settle_soon
        )
        self._endings = Endings(
            wiring.units,
            self._roster,
            wiring.streams,
            keep=wiring.settings.agents.keep_ended,
            going_down=wiring.going_down,
            revive=self._revive,
            again=self._settle_later,
        )
        self._follower = Follower(wiring.units, self._roster, wiring.streams, self._settle_soon)
        self._reviving = asyncio.Semaphore(_REVIVED_AT_ONCE)
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    @property
    def changed(self) -> Pulse:
        """Fired at each change of an agent."""
        return self._roster.changed

    @property
    def roster(self) -> Roster:
        """All of them."""
        return self._roster

    # ---- the daemon's own life

    def load(self) -> None:
        """Read the book, and take up again what the agents of before print into."""
        self._roster.load()
        for entry in self._roster.entries.values():
            if entry.end is not None and not is_unreleased(entry):
                continue
            try:
                if not self._streams.restore(entry.spec, entry.folder):
                    log.warning("the terminal of %s is gone", entry.spec.name)
            except SessiondError as error:
                log.warning("what %s prints is not recorded: %s", entry.spec.name, error.message)
        self._streams.sweep()

    @property
    def unfinished(self) -> bool:
        """Whether there is one whose end is not written down, or not followed by its release."""
        return any(one.end is None or is_unreleased(one) for one in self._roster.entries.values())

    def begin(self) -> None:
        """Follow the units, where any agent may have one; the daemon serves already."""
        if self.unfinished:
            self._follow()

    def _follow(self) -> None:
        if self._following is None and not self._stopped:
            self._following = asyncio.create_task(self._watch(), name="agents' units")
            self._following.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        """Following never ends by itself: whatever ended it, nothing is known any more."""
        self._roster.reachable = False
        self._done(task)
        self._roster.changed.fire()

    async def _watch(self) -> None:
        finish = {one.id for one in self._roster.entries.values() if is_unreleased(one)}
        tidy = asyncio.create_task(self._tidy(finish), name="agents half released") if finish else None
        try:
            await self._follower.run()
        finally:
            if tidy is not None:
                tidy.cancel()

    async def _tidy(self, agents: set[str]) -> None:
        """Release what an earlier process wrote an end of and did not come to release."""
        await self._follower.answered.wait()
        for agent in agents:
            entry = self._roster.entries.get(agent)
            if entry is None:
                continue
            async with entry.lock:
                if entry.end is not None and not entry.removed:
                    await self._endings.release(entry)

    async def _answered(self) -> None:
        """Return once the init system tells of all units. Raises Unreachable `init_unavailable`."""
        self._follow()
        try:
            async with asyncio.timeout(_FIRST_ANSWER):
                await self._follower.answered.wait()
            self._roster.stay()
        except TimeoutError as error:
            raise Unreachable(
                "init_unavailable",
                f"systemd has not answered for {_FIRST_ANSWER:g} s",
                hint="systemctl --user status; then try again",
            ) from error

    async def looked(self) -> None:
        """Return once it is known what runs, or that nobody can tell; soon in any case."""
        if self.unfinished and not self._stopped:
            with contextlib.suppress(TimeoutError):
                # Suppressed: what is not known is told as that.
                async with asyncio.timeout(_FIRST_LOOK):
                    await self._follower.heard.wait()
        self._roster.stay()

    async def stop(self) -> None:
        """Let go of everything and leave all that runs; idempotent."""
        self._stopped = True
        tasks = [*self._tasks, *([self._following] if self._following else [])]
        await _ended_all(tasks, _STOP_GRACE)
        self._following = None
        self._roster.leave()
        self._follower.give_up()
        await self._streams.stop()
        await self._units.close()

    async def end_all(self, stop_all: Callable[[], Awaitable[None]]) -> None:
        """The session is stopped: have all end by ``stop_all``, and return when their ends are written."""
        alive = list(self._roster.unfinished())
        try:
            wished = not await self._going_down()
        except SessiondError as error:
            log.warning("cannot ask whether the manager goes down: %s", error.message)
            wished = True
        if wished:
            await asyncio.gather(*(self._note_asked(entry) for entry in alive if not entry.over))
        await stop_all()
        if wished:
            for entry in alive:
                await self._until_settled(entry)

    # ---- tasks

    def _settle_soon(self, entry: Entry) -> None:
        self._task(self._endings.settle(entry), f"settle {entry.id}")

    def _settle_later(self, seconds: float, entry: Entry) -> None:
        asyncio.get_running_loop().call_later(seconds, self._settle_soon, entry)

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> None:
        if self._stopped:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    # ---- starting

    async def spawn(self, wish: Spawn) -> Agent:
        """Start a program; answers when the init system has executed it."""
        return self._roster.row(await self._spawn(wish))

    @unbroken
    async def _spawn(self, wish: Spawn) -> Entry:
        await self._answered()
        return await self._spawning.spawn(wish)

    async def _revive(self, entry: Entry) -> bool:
        """Start one again that went down with its machine; the caller holds its lock."""
        async with self._reviving:
            try:
                await self._spawning.start_again(entry)
            except SessiondError as error:
                log.warning("%s does not come back: %s", entry.spec.name, error.message)
                return False
        log.info("%s is back", entry.spec.name)
        return True

    async def restart(self, word: str) -> Agent:
        """Stop one that runs, and start it with what it was started with; an ended one is started."""
        entry = self._roster.find(word)
        await self._restart(entry)
        return self._roster.row(entry)

    @unbroken
    async def _restart(self, entry: Entry) -> None:
        await self._answered()
        async with entry.lock:
            self._roster.present(entry)
            self._spawning.check_again(entry)
            if entry.end is None:
                await self._end_now(entry, lambda: self._units.stop(entry.id))
            await self._spawning.start_again(entry)

    async def _end_now(self, entry: Entry, how: Callable[[], Awaitable[None]]) -> None:
        """Have it end, and write that down; the caller holds its lock."""
        if not entry.over:
            await self._ask(entry, how)
            await self._roster.until(lambda: entry.over or entry.unit is None or None)
        await self._endings.conclude(entry)
        if entry.end is None:
            raise Conflict(
                "agent_running",
                f"the end of {entry.spec.name} is not known yet",
                hint=f"systemctl --user status {entry.spec.unit}",
                fields={"agent": entry.id},
            )

    # ---- reading

    def find(self, word: str) -> str:
        """Id of the agent that a word means."""
        return self._roster.find(word).id

    def get(self, word: str) -> Agent:
        """The agent that a word means, as it is now."""
        return self._roster.row(self._roster.find(word))

    async def measured(self, word: str) -> Agent:
        """The same with CPU time and memory, where the init system answers."""
        entry = self._roster.find(word)
        await self.looked()
        units = await self._measure() if entry.end is None else {}
        return self._roster.row(self._roster.present(entry), units.get(entry.id))

    async def list(self, selection: Selection, *, usage: bool = False) -> list[Agent]:
        """Those asked for, oldest first."""
        await self.looked()
        chosen = select(selection, self._roster.all_bare())
        running = any(one.unit is not None for one in chosen)
        units = await self._measure() if usage and running else {}
        entries = (self._roster.entries.get(one.id) for one in chosen)
        return [self._roster.row(one, units.get(one.id)) for one in entries if one is not None]

    async def _measure(self) -> dict[str, AgentUnit]:
        try:
            units = await self._units.list()
        except SessiondError as error:
            log.warning("CPU time and memory are not known: %s", error.message)
            return {}
        return {names[1]: unit for unit in units if (names := agent_of_unit(unit.name))}

    # ---- ending

    async def stop_agent(self, word: str, *, wait: bool = True) -> Agent:
        """Its stop signal, SIGKILL after its timeout; ended is fine."""
        entry = self._roster.find(word)
        await self._stop(entry)
        return await self._ended(entry) if wait else self._roster.row(entry)

    @unbroken
    async def _stop(self, entry: Entry) -> None:
        async with entry.lock:
            if not self._roster.present(entry).over:
                await self._ask(entry, lambda: self._units.stop(entry.id, wait=False))

    async def kill(self, word: str) -> Agent:
        """SIGKILL to all of it, and no restart; ended is fine."""
        entry = self._roster.find(word)
        await self._kill(entry)
        return await self._ended(entry)

    @unbroken
    async def _kill(self, entry: Entry) -> None:
        async with entry.lock:
            if not self._roster.present(entry).over:
                await self._ask(entry, lambda: self._units.kill(entry.id))

    async def signal(self, word: str, signal: str, *, whole: bool = False) -> Agent:
        """Send a signal by name or number to its main process, or to all."""
        number = parse_signal(signal, "")
        entry = self._roster.find(word)
        await self._signal(entry, number, whole=whole)
        return self._roster.row(entry)

    @unbroken
    async def _signal(self, entry: Entry, number: int, *, whole: bool) -> None:
        async with entry.lock:
            self._check_running(entry)
            before = entry.sent
            await self._note_sent(entry, before | {number})
            try:
                await self._units.signal(entry.id, number, whole=whole)
            except SessiondError:
                await self._note_sent(entry, before)
                raise

    async def _note_sent(self, entry: Entry, sent: frozenset[int]) -> None:
        if entry.asked or sent == entry.sent:
            return
        entry.sent = sent
        book = self._roster.book
        try:
            if sent:
                await asyncio.to_thread(book.note_sent, entry.id, sent)
            else:
                await asyncio.to_thread(book.clear_asked, entry.id)
        except SessiondError as error:
            log.warning("that %s was sent a signal is not noted: %s", entry.spec.name, error.message)

    async def _ask(self, entry: Entry, how: Callable[[], Awaitable[None]]) -> None:
        """Note that its end is asked for, and ask; the note is taken back where that could not be done."""
        noted = entry.asked
        await self._note_asked(entry)
        try:
            await how()
        except SessiondError:
            if not noted:
                entry.asked = False
                await asyncio.to_thread(self._roster.book.clear_asked, entry.id)
            raise

    async def _note_asked(self, entry: Entry) -> None:
        if entry.asked:
            return
        try:
            await asyncio.to_thread(self._roster.book.note_asked, entry.id)
        except SessiondError as error:
            # A full disk must not keep anybody from ending what fills it.
            log.warning("that %s was asked to end is not noted: %s", entry.spec.name, error.message)
        entry.asked = True

    async def _ended(self, entry: Entry) -> Agent:
        await self._until_settled(entry)
        return self._roster.row(entry)

    async def _until_settled(self, entry: Entry) -> None:
        await self._roster.until(lambda: entry.settled or entry.removed or None)

    # ---- pausing

    async def pause(self, word: str) -> Agent:
        """Freeze all of it."""
        return await self._freezer(self._roster.find(word), frozen=True)

    async def resume(self, word: str) -> Agent:
        """Thaw it."""
        return await self._freezer(self._roster.find(word), frozen=False)

    async def _freezer(self, entry: Entry, *, frozen: bool) -> Agent:
        await self._turn(entry, frozen=frozen)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FREEZER_DEADLINE):
                await self._roster.until(
                    lambda: entry.over or entry.unit is None or entry.unit.status.frozen == frozen or None
                )
        return self._roster.row(self._roster.present(entry))

    @unbroken
    async def _turn(self, entry: Entry, *, frozen: bool) -> None:
        async with entry.lock:
            self._check_running(entry)
            await (self._units.freeze if frozen else self._units.thaw)(entry.id)

    def _check_running(self, entry: Entry) -> None:
        if self._roster.present(entry).over:
            raise Conflict(
                "agent_not_running",
                f"{entry.spec.name} has ended: {self._roster.state(entry)}",
                hint="sessionctl restart starts it again",
                fields={"agent": entry.id, "state": self._roster.state(entry)},
            )

    # ---- waiting, removing

    async def wait(
        self, word: str, states: frozenset[AgentState] = frozenset(), timeout: float | None = None
    ) -> Agent:
        """Return once it is in one of the states, by default those of an agent that has ended.

        Raises TimedOut `wait_timeout`, Conflict `agent_ended` when it can no longer come to be, NotFound.
        """
        entry = self._roster.find(word)
        wanted = states or ENDED
        try:
            async with asyncio.timeout(timeout):
                await self._roster.until(lambda: self._is_in(entry, wanted) or None)
        except TimeoutError as error:
            raise TimedOut(
                "wait_timeout",
                f"{entry.spec.name} is {self._roster.state(entry)} after {timeout:g} s",
                hint="give it more --timeout, or end it: sessionctl stop",
                fields={"agent": entry.id, "state": self._roster.state(entry)},
            ) from error
        return self._roster.row(entry)

    def _is_in(self, entry: Entry, wanted: frozenset[AgentState]) -> bool:
        state = self._roster.state(self._roster.present(entry))
        if state.ended and not entry.settled:
            return False
        if state in wanted:
            return True
        if state.ended:
            raise Conflict(
                "agent_ended",
                f"{entry.spec.name} has ended: {state}",
                hint="sessionctl restart starts it again",
                fields={"agent": entry.id, "state": state},
            )
        return False

    async def remove(self, word: str, *, force: bool = False) -> Agent:
        """Remove one that has ended with its record; with ``force`` one that runs is killed first.

        Raises Conflict `agent_running`.
        """
        return await self._remove(self._roster.find(word), force=force)

    @unbroken
    async def _remove(self, entry: Entry, *, force: bool) -> Agent:
        async with entry.lock:
            self._roster.present(entry)
            if not entry.over and not force:
                raise Conflict(
                    "agent_running",
                    f"{entry.spec.name} runs",
                    hint="stop it first, or give --force",
                    fields={"agent": entry.id},
                )
            if entry.end is None:
                await self._answered()
                await self._end_for_good(entry)
            row = self._roster.row(entry)
            self._streams.close(entry.id)
            await asyncio.to_thread(self._roster.book.remove, entry.id)
            self._roster.drop(entry)
        return row

    async def _end_for_good(self, entry: Entry) -> None:
        try:
            await self._end_now(entry, lambda: self._units.kill(entry.id))
        except SessiondError as error:
            if error.code != "disk_full":
                raise
            # Its end need not be written down to remove it, and removing it makes room.
            await self._units.release(entry.id)


async def _ended_all(tasks: list[asyncio.Task[None]], grace: float) -> None:
    """Cancel tasks, and see them end: who must finish first has ``grace`` seconds for it."""
    for timeout in (grace, None):
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=timeout)
        tasks = list(left)
