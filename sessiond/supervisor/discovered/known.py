"""All conversations of the machine, as the supervisor knows them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import attrgetter

from sessiond.aio import Pulse
from sessiond.errors import InvalidArgument, NotFound, SessiondError, TimedOut, Unreachable
from sessiond.model.agent_session import (
    AgentSessionStatus,
    Found,
    Key,
    Life,
    Overlay,
    Probe,
    Transcript,
)
from sessiond.model.conversation import AgentSession, Choice, Trouble, pending_mark
from sessiond.ports.discovery import Checked, Finder, FinderEvent
from sessiond.supervisor.discovered.asking import AgentLives, Ask, Wait
from sessiond.supervisor.discovered.background import Background
from sessiond.supervisor.discovered.choosing import Chooser, foremost
from sessiond.supervisor.discovered.following import Following
from sessiond.supervisor.discovered.keeping import Keeping
from sessiond.supervisor.discovered.merging import Views
from sessiond.supervisor.discovered.naming import Names
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.supervisor.discovered.paging import Page, Pages
from sessiond.supervisor.discovered.rows import Told
from sessiond.supervisor.discovered.tending import Tender
from sessiond.supervisor.discovered.watching import BOUND, WATCHERS_MAX, Change, Watchers

log = logging.getLogger(__name__)

# Rows that are looked at in one turn of the event loop: a few milliseconds.
_SLICE = 500
_ORDER = attrgetter("order")
# What a program writes last, and the end of its unit, are dated by different clocks.
_SLACK = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Rules:
    """``adapters`` are those that are used, ``disabled`` those that a setting switched off; ``keep`` is how
    long an overlay outlives its conversation, ``bound`` how many changes may wait for one of ``watchers``."""

    adapters: Sequence[str]
    disabled: Sequence[str] = ()
    keep: timedelta = timedelta(days=30)
    bound: int = BOUND
    watchers: int = WATCHERS_MAX


class Discovered:
    """The facade: lists, gets, follows and keeps. The finder starts at the first question; before it no
    adapter runs."""

    def __init__(
        self,
        make_finder: Callable[[], Finder],
        rules: Rules,
        overlays: Overlays,
        names: Names,
        resolve: Callable[[str], str],
        ask: Ask,
        wait: Wait,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``resolve`` tells the id of the session that a word means; ``ask`` whether an agent lives, and
        ``wait`` returns when it does no more."""
        self._rules = rules
        self._overlays = overlays
        self._told = Told(rules.adapters, clock=clock, now=now)
        self.background = Background()
        untended = asyncio.Event()
        self._lives = AgentLives(ask, wait, self.background, untended.set)
        self._views = Views(self._told, overlays, names, self._lives.known)
        self._pages = Pages(self._views.get)
        self._watchers = Watchers(self._views.get, rules.bound, rules.watchers)
        self._chooser = Chooser(self._views, names, rules.adapters, resolve)
        self.names = names
        # Fired whenever something that is known became another.
        self.changed = Pulse()
        self._following = Following(
            make_finder, rules.adapters, self._told, overlays, self.background, self.take, self.changed
        )
        tender = Tender(self._told, overlays, keep=rules.keep, now=now)
        self._keeping = Keeping(
            self._told, overlays, tender, self._views, self._lives, untended, self._shown_anew, clock=clock
        )
        self._following.when_started(self._tend, untended.set)

    async def load(self) -> None:
        """Read what is kept."""
        await self._overlays.load()

    async def close(self) -> None:
        """End the finder and all that runs beside it; idempotent."""
        finder = self._following.end()
        await self.background.close()
        if finder is not None:
            await finder.close()

    # ---- the finder

    @property
    def finder(self) -> Finder:
        """Who runs the adapters; started where it does not run yet. Raises Unreachable `finder_closed`."""
        return self._following.finder

    async def prepare(self) -> None:
        """Have done what makes the first question wait, where somebody may ask. Raises Unreachable
        `adapter_failed`."""
        await self._following.prepare()

    @property
    def running(self) -> bool:
        """Whether the finder was started."""
        return self._following.running

    def when_started(self, begun: Callable[[], None]) -> None:
        """Have this called each time the finder starts."""
        self._following.when_started(begun)

    async def ready(self, adapters: Collection[str] = ()) -> None:
        """Return once each of these adapters (none: all) has told what it finds, or that it cannot."""
        _ = self.finder
        wanted = self._used(adapters)
        await self.changed.until(lambda: all(map(self._told.answered, wanted)) or None)
        await self._keeping.look_at_unknown(wanted)

    def take(self, event: FinderEvent) -> None:
        """Put in what was found. Never waits."""
        news = self._told.take(event)
        self._keeping.note(news)
        self._watchers.changed([*(one.key for one in news.changed), *news.gone, *news.joined])
        for one in news.changed:
            # What was shown as waiting for its id is shown as this from now on.
            if one.life.mark and (kept := self._overlays.pending_of(one.adapter, one.life.mark)):
                self._watchers.changed([kept.key])
        mended = [Trouble(replace(one, code="", reason=""), self._told.now()) for one in news.mended]
        self._watchers.tell([*news.troubles, *mended])
        if not isinstance(event, Checked):
            self.changed.fire()

    def _tend(self) -> None:
        """Have kept in step what is kept, for as long as the finder that was just started runs."""
        finder = self.finder
        work = self._keeping.tend(lambda: self.running and self.finder is finder, self._following.tell_owners)
        self.background.start(work, "what is kept beside conversations")

    def _shown_anew(self, keys: Iterable[Key]) -> None:
        self._watchers.changed(keys)
        self.changed.fire()

    async def look_at_agents(self) -> None:
        """Ask whether the agents live whose conversation no adapter tells of."""
        await self._keeping.look_at_agents()

    def _revalidate(self, adapters: Collection[str]) -> None:
        """Have processes and agents looked at behind an answer that was not of this moment."""
        self._following.revalidate(self._used(adapters))
        self._keeping.revalidate()

    # ---- answers

    def check(self, adapters: Iterable[str]) -> None:
        """Raise InvalidArgument `adapter_unknown` for a name that is no adapter's."""
        known = [*self._rules.adapters, *self._rules.disabled]
        for adapter in adapters:
            if adapter not in known:
                raise InvalidArgument(
                    "adapter_unknown",
                    f"there is no adapter {adapter[:80]!r}",
                    hint=f"there are {', '.join(known)}",
                    fields={"adapter": adapter[:80]},
                )

    def _used(self, adapters: Collection[str]) -> list[str]:
        """Those of these adapters (none: of all) that are used, in the order of their list."""
        return [one for one in self._rules.adapters if not adapters or one in adapters]

    def check_used(self, adapter: str) -> None:
        """As ``check``, and raise InvalidArgument `adapter_disabled` for one that a setting switched off."""
        self.check([adapter])
        if adapter in self._rules.disabled:
            raise InvalidArgument(
                "adapter_disabled",
                f"the adapter {adapter} is switched off",
                hint="the setting adapters.disabled names it",
                fields={"adapter": adapter},
            )

    async def listing(self, choice: Choice, size: int = 0, token: str = "", *, refresh: bool = False) -> Page:
        """Those that are meant, the latest first. Raises InvalidArgument `adapter_unknown`,
        `page_token_invalid`."""
        self.check(choice.adapters)
        await self.ready(choice.adapters)
        if refresh:
            await self.refresh(choice.adapters)
        rows = await self._gathered(choice)
        page = self._pages.next(choice, rows, size, token) if token else self._pages.first(choice, rows, size)
        named = await self.named(page.rows)
        self._revalidate(choice.adapters)
        return replace(page, rows=named)

    async def early(self, choice: Choice) -> AsyncGenerator[Sequence[AgentSession], None]:
        """Those that are meant of each adapter that told what it finds before others, while these are waited
        for; nothing where all have told. Raises InvalidArgument `adapter_unknown`."""
        self.check(choice.adapters)
        _ = self.finder
        left = self._used(choice.adapters)
        while True:
            changed = self.changed.next
            told = [one for one in left if self._told.answered(one)]
            left = [one for one in left if one not in told]
            if not left:
                return
            if told:
                yield await self._gathered(replace(choice, adapters=frozenset(told)))
            else:
                await changed.wait()

    async def named(self, rows: Iterable[AgentSession]) -> list[AgentSession]:
        """The rows with what is written down of their agents: names, and ends that their programs do not
        tell."""
        named = await self.names.named(rows)
        ends = await self.names.ends(row.mark for row in named if row.agent and self._ended_with_agent(row))
        if not ends:
            return named
        return [_ended(row, ends[row.mark]) if row.mark in ends else row for row in named]

    def _ended_with_agent(self, row: AgentSession) -> bool:
        return (
            row.status is AgentSessionStatus.STOPPED
            and row.found.ended_at is None
            and row.mark == row.overlay.mark != ""
            and not self._overlays.followed(row.overlay)
        )

    async def refresh(self, adapters: Collection[str] = ()) -> None:
        """Look at all files and processes of these (none: of all) anew."""
        wanted = self._used(adapters)
        await self.finder.refresh(wanted)
        await self.look_at_agents()

    def _sorted(self, choice: Choice) -> list[AgentSession]:
        rows = [row for row in self._all(choice) if choice.takes(row)]
        rows.sort(key=_ORDER, reverse=True)
        return rows

    async def _gathered(self, choice: Choice) -> list[AgentSession]:
        """The same, and others get their turn in between: each row is as it is when it is looked at."""
        rows: list[AgentSession] = []
        left, unfiltered = self._all(choice), choice.anything
        while some := list(islice(left, _SLICE)):
            rows += some if unfiltered else filter(choice.takes, some)
            await asyncio.sleep(0)
        rows.sort(key=_ORDER, reverse=True)
        return rows

    def _all(self, choice: Choice) -> Iterator[AgentSession]:
        """Those that may be meant."""
        stopped = choice.stopped or AgentSessionStatus.STOPPED in choice.statuses
        return self._views.all(choice.adapters, stopped=stopped)

    async def find(self, word: str) -> AgentSession:
        """The one that a word means, as it is known. Raises NotFound `agent_session_not_found`,
        InvalidArgument `agent_session_ambiguous`, `agent_session_missing`, `adapter_disabled`."""
        if (named := word.partition(":")[0]) in self._rules.disabled:
            self.check_used(named)
        await self.ready(self._chooser.split(word)[0])
        try:
            return await self._chooser.find(word)
        except NotFound:
            # Its files may be there already, and not be heard of yet: asking has them heard.
            adapters, rest = self._chooser.split(word)
            if not rest or "/" in rest or pending_mark(rest):
                raise
            keys = [(one, rest) for one in self._used(adapters)]
            asked = await asyncio.gather(*map(self._alive, keys))
            found = [one for one in asked if isinstance(one, Found)]
            if len(found) == 1:
                return self._views.join(found[0], age=0.0)
            try:
                return await self._chooser.find(word)
            except NotFound:
                fault = next((one for one in asked if isinstance(one, SessiondError)), None)
                if adapters and fault is not None:
                    # Whether there is one is not known while its own adapter gives no answer.
                    raise fault from None
                raise

    async def get(self, word: str) -> AgentSession:
        """The one that a word means, looked at anew; where its adapter fails, its last good answer. Raises as
        ``find``."""
        row = await self.find(word)
        known = self._views.get(row.key) is not None
        [named] = await self.named([await self.anew(row) if known else row])
        return named

    async def anew(self, row: AgentSession) -> AgentSession:
        """One looked at anew. Raises NotFound `agent_session_not_found`."""
        if self._told.get(row.key) is None:
            await self.look_at_agents()
            if (now := self._views.get(row.key)) is not None:
                return now
        if not row.pending:
            try:
                found = await self.finder.is_alive(*row.key)
            except (Unreachable, TimedOut) as error:
                log.info("%s could not be asked: %s", row.found.adapter, error.message)
                return replace(row, stale=True)
            if found is not None and (inner := self._told.inner(found)) is not None:
                await self.finder.look(inner.adapter)
            if found is not None:
                return self._views.join(found, age=0.0)
        raise NotFound(
            "agent_session_not_found",
            f"there is no agent session {row.found.id} any more",
            hint="sessionctl discovered -a",
            fields={"agent_session": row.found.id},
        )

    async def _alive(self, key: Key) -> Found | SessiondError | None:
        try:
            return await self.finder.is_alive(*key)
        except SessiondError as error:
            log.info("%s could not be asked: %s", key[0], error.message)
            return error

    async def transcript(self, row: AgentSession, tail: int) -> Transcript:
        """The end of a conversation. Raises NotFound `transcript_missing`, Unreachable `adapter_failed`."""
        if row.pending:
            raise NotFound(
                "transcript_missing",
                "its program has not told its id yet",
                hint="sessionctl logs shows what its agent printed",
                fields={"agent_session": row.found.id},
            )
        return await self.finder.transcript(*row.key, tail)

    async def follow(self, choice: Choice) -> AsyncGenerator[Change, None]:
        """What is known of those that are meant, and every change. Raises InvalidArgument `adapter_unknown`,
        Exhausted `watcher_too_slow`, `too_many_watchers`."""
        self.check(choice.adapters)
        await self.ready(choice.adapters)
        stream = self._watchers.follow(choice, lambda: (self._sorted(choice), self.troubles(choice.adapters)))
        try:
            async for change in stream:
                if isinstance(change, AgentSession):
                    [named] = await self.named([change])
                    yield named
                else:
                    yield change
        finally:
            await stream.aclose()

    async def probe(self, adapters: Collection[str], search_path: str) -> list[tuple[Probe, bool]]:
        """What is installed, in the adapters' order, and whether each is switched off."""
        self.check(adapters)
        used = self._used(adapters)
        probes: Sequence[Probe] = ()
        if used:
            await self.ready(used)
            probes = await self.finder.probe(used, search_path)
        off = [one for one in self._rules.disabled if not adapters or one in adapters]
        return [(one, False) for one in probes] + [(Probe(one, one, installed=False), True) for one in off]

    def count(self, adapter: str) -> tuple[int, int]:
        """How many are known of an adapter, and how many of these live."""
        rows = list(self._views.all([adapter]))
        return len(rows), sum(row.status.live for row in rows)

    def folders(self) -> Mapping[str, Mapping[str, int]]:
        """Folders that conversations are in, and how many of each adapter."""
        found: dict[str, dict[str, int]] = {}
        for row in self._views.all():
            if row.cwd:
                counts = found.setdefault(row.cwd, {})
                counts[row.found.adapter] = counts.get(row.found.adapter, 0) + 1
        return found

    def troubles(self, adapters: Collection[str] = ()) -> list[Trouble]:
        """What is wrong with these adapters (none: with any). May be called from another thread."""
        return [one for one in self._told.troubles if not adapters or one.problem.adapter in adapters]

    def activities(self, session: str) -> Mapping[str, str]:
        """What agents of a session do, by their id, as far as is known; starts the finder for the next
        question where agents of it have conversations."""
        if not self.running:
            if any(one.session == session and one.agent for one in self._overlays.all.values()):
                self._following.begin()
            return {}
        rows = [row for found in self._told.live() if (row := self._views.join(found)).session == session]
        # Of several the last one counts: of the process that began first, and there the latest.
        rows.sort(
            key=lambda row: (
                not self._told.spawned(row.found),
                self._told.outer(row.key) is None,
                -(row.found.life.start_time or 0),
                row.order,
            )
        )
        return {row.agent: row.activity for row in rows if row.activity}

    # ---- what is kept

    @property
    def pending(self) -> Sequence[Overlay]:
        """Overlays of what was launched here and has not told its id."""
        return self._overlays.pending

    def overlay(self, key: Key) -> Overlay | None:
        """What is kept of one."""
        return self._overlays.get(key)

    @property
    def half_launched(self) -> Sequence[Overlay]:
        """Overlays of launches of which it is not known which agent they became, if they became any."""
        return [one for one in self._overlays.all.values() if one.session and not one.agent]

    def agents_of(self, session: str) -> set[str]:
        """Agents of a session that conversations are known to have been launched as."""
        return {one.agent for one in self._overlays.all.values() if one.session == session and one.agent}

    def view(self, key: Key) -> AgentSession | None:
        """One as it is known, by its key."""
        return self._views.get(key)

    def view_agent(self, adapter: str, mark: str) -> AgentSession | None:
        """What an agent has open, or last had."""
        rows = [row for row in self._views.all([adapter]) if row.mark == mark]
        return foremost(rows) if rows else None

    def front(self, row: AgentSession) -> bool:
        """Whether the agent that has it open was started for it, as against for what it is a tool of."""
        mark = row.found.life.mark
        adapters = {one.adapter for one in self._overlays.all.values() if one.mark == mark}
        one = self._told.marked(row.found.adapter).get(mark)
        return (one is None or one.id == row.found.id) and (not adapters or row.found.adapter in adapters)

    def launched_as(self, row: AgentSession) -> str:
        """`SESSION-AGENT` of the agent that was last started for it and has not gone on to another; or
        empty."""
        overlay = self._overlays.get(row.key)
        return "" if overlay is None or self._overlays.followed(overlay) else overlay.mark

    def note_agent(self, mark: str, life: Life) -> None:
        """What was just heard of an agent."""
        self._lives.known[mark] = life

    async def put_overlay(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Keep this of a conversation; ``instead_of`` is the key that it had until now. What was put on the
        new key by others meanwhile stays."""
        await self._keeping.put(overlay, instead_of=instead_of)

    async def change(self, key: Key, change: Callable[[Overlay], Overlay]) -> Overlay:
        """Change what is kept under a key, or under the one that its conversation has by now; what is kept
        then."""
        return await self._keeping.change(key, change)

    async def edit(self, row: AgentSession, change: Callable[[Overlay], Overlay]) -> AgentSession:
        """Change what is kept of one, whoever started it; the row as it is then."""
        after = await self.change(row.key, change)
        shown = self._views.get(after.key) or replace(row, overlay=after)
        [named] = await self.named([shown])
        return named


def _ended(row: AgentSession, ended_at: datetime) -> AgentSession:
    """A row with the end of its agent, unless its program wrote of it since."""
    updated_at = row.found.updated_at
    if updated_at is not None and updated_at > ended_at + _SLACK:
        return row
    return replace(row, found=replace(row.found, ended_at=ended_at))
