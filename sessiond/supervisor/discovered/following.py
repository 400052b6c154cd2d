"""The finder while it runs: started at the first question, told which agents are ours, heard, asked again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from sessiond.aio import Pulse
from sessiond.errors import SessiondError, Unreachable
from sessiond.model.agent_session import Problem
from sessiond.ports.discovery import Finder, FinderEvent, Problems
from sessiond.supervisor.discovered.background import Background
from sessiond.supervisor.discovered.overlays import Overlays, owners
from sessiond.supervisor.discovered.rows import Told

log = logging.getLogger(__name__)

# An answer from rows that were last held against processes longer ago has them looked at behind it.
FRESH = 1.0


class Following:
    """One finder after another: each begins at a question, and its end is told as the trouble of all."""

    def __init__(
        self,
        make: Callable[[], Finder],
        adapters: Sequence[str],
        told: Told,
        overlays: Overlays,
        background: Background,
        take: Callable[[FinderEvent], None],
        changed: Pulse,
    ) -> None:
        """``take`` takes in what is found; ``changed`` is fired when the finder was told something."""
        self._make = make
        self._adapters = adapters
        self._told = told
        self._overlays = overlays
        self._background = background
        self._take = take
        self._changed = changed
        self._finder: Finder | None = None
        # Made before anybody asked, for the first who does.
        self._prepared: Finder | None = None
        self._owned: dict[str, dict[str, str]] = {}
        self._looking: set[str] = set()
        self._closed = False
        self._began: list[Callable[[], None]] = []
        self._ended: list[Callable[[], None]] = []

    @property
    def finder(self) -> Finder:
        """Who runs the adapters; started where it does not run yet. Raises Unreachable `finder_closed`."""
        if self._closed:
            raise Unreachable("finder_closed", "the supervisor ends", hint="try again in a moment")
        if self._finder is None:
            self._finder, self._prepared = self._prepared or self._make(), None
            self._owned = {}
            self._background.start(self._follow(self._finder), "conversations found")
            for begun in self._began:
                begun()
        return self._finder

    @property
    def running(self) -> bool:
        """Whether it was started."""
        return self._finder is not None

    def when_started(self, begun: Callable[[], None], ended: Callable[[], None] | None = None) -> None:
        """Have these called each time one starts, and is lost."""
        self._began.append(begun)
        if ended is not None:
            self._ended.append(ended)

    async def prepare(self) -> None:
        """Have at hand what makes the first question wait. Raises as the finder does."""
        if not self._closed and self._finder is None and self._prepared is None:
            self._prepared = self._make()
            await self._prepared.prepare()

    def begin(self) -> None:
        """Start it for the next question, unless all ends."""
        if not self._closed:
            _ = self.finder

    def end(self) -> Finder | None:
        """Start none any more; the one there is, for the caller to close. Idempotent."""
        self._closed = True
        finder, self._finder, self._prepared = self._finder or self._prepared, None, None
        return finder

    async def _follow(self, finder: Finder) -> None:
        """Take in what is found, for as long as it is."""
        reason = "the finder ended"
        try:
            # Known before the first look, so that it tells who lives.
            await self.tell_owners()
            async for event in finder.watch():
                self._take(event)
        except Exception as error:
            reason = f"the finder failed: {error}"
            raise
        finally:
            if self._finder is finder:
                self._lost(reason)
                await finder.close()

    def _lost(self, reason: str) -> None:
        """Nobody tells anything any more: the last answers stay, and the next question starts anew."""
        self._finder = None
        for adapter in self._adapters:
            self._take(Problems(adapter, [Problem(adapter, "adapter_failed", reason)]))
        for ended in self._ended:
            ended()

    # ---- what it is told

    async def tell_owners(self) -> None:
        """Tell it which of our agents have which conversation open, where that is news to it."""
        finder = self._finder
        if finder is None:
            return
        wanted = owners(self._overlays.all.values())
        fresh = {
            adapter: agents
            for adapter in self._adapters
            if (agents := wanted.get(adapter, {})) != self._owned.get(adapter, {})
        }
        # Side by side: one that hangs is waited for by nobody else.
        await asyncio.gather(*(self._tell_owner(finder, *one) for one in fresh.items()))
        if fresh:
            self._changed.fire()

    async def _tell_owner(self, finder: Finder, adapter: str, agents: dict[str, str]) -> None:
        try:
            await finder.own(adapter, agents)
        except SessiondError as error:
            log.warning("%s was not told which agents are ours: %s", adapter, error.message)
        else:
            if self._finder is finder:
                self._owned[adapter] = agents

    def revalidate(self, adapters: Collection[str]) -> None:
        """Have processes looked at behind an answer that was not of this moment."""
        for adapter in adapters:
            if adapter not in self._looking and self._told.age(adapter) > FRESH:
                self._looking.add(adapter)
                self._background.start(self._look(adapter), f"look for processes of {adapter}")

    async def _look(self, adapter: str) -> None:
        try:
            await self.finder.look(adapter)
        finally:
            self._looking.discard(adapter)
