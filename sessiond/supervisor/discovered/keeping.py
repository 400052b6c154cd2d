"""What is kept beside conversations: put there by people and launches, kept in step with what is found."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime

from sessiond.aio import unbroken
from sessiond.errors import SessiondError
from sessiond.model.agent_session import Key, Overlay
from sessiond.model.conversation import pending_mark
from sessiond.supervisor.discovered.asking import AgentLives
from sessiond.supervisor.discovered.following import FRESH
from sessiond.supervisor.discovered.merging import Views
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.supervisor.discovered.rows import News, Told
from sessiond.supervisor.discovered.tending import Tender, merged

log = logging.getLogger(__name__)


class Keeping:
    """Overlays and their tending, and the agents whose conversation no adapter tells of."""

    def __init__(
        self,
        told: Told,
        overlays: Overlays,
        tender: Tender,
        views: Views,
        lives: AgentLives,
        untended: asyncio.Event,
        changed: Callable[[Iterable[Key]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``untended`` is set when there may be something to do; ``changed`` takes the keys of what may be
        shown otherwise than before."""
        self._told = told
        self._overlays = overlays
        self._tender = tender
        self._views = views
        self._lives = lives
        self._changed = changed
        self._clock = clock
        self._looked: float | None = None
        self._dirty: set[str] = set()
        self._untended = untended

    # ---- in step with what is found

    def note(self, news: News) -> None:
        """What was just told may be something to do for ``tend``."""
        if self._tender.note(news):
            self._dirty.add(news.adapter)
            self._untended.set()

    async def tend(self, running: Callable[[], bool], tell_owners: Callable[[], Awaitable[None]]) -> None:
        """Keep overlays in step for as long as the finder runs, and the finder with them."""
        while running():
            self._untended.clear()
            adapters, self._dirty = self._dirty, set()
            try:
                await self._tend_once(adapters)
            except Exception as error:
                # Nothing is lost: what is shown is joined in memory, and this is done the next time.
                self._dirty |= adapters
                if isinstance(error, SessiondError):
                    log.warning("what is kept beside conversations was not written: %s", error.message)
                else:
                    log.exception("what is kept beside conversations was not written")
            await tell_owners()
            await self._untended.wait()

    async def _tend_once(self, adapters: set[str]) -> None:
        await self.look_at_agents()
        missing = {
            one.key
            for one in self._overlays.all.values()
            if (life := self._lives.known.get(one.mark)) is not None and life.alive is False
        }
        before = set(self._overlays.all)
        try:
            await self._tender.tend(adapters, missing)
        finally:
            self._changed(before | set(self._overlays.all))

    async def look_at_agents(self) -> None:
        """Ask whether the agents live whose conversation no adapter tells of."""
        self._looked = self._clock()
        unfound = [
            one
            for adapter in self._told.adapters
            if self._told.answered(adapter)
            for one in self._views.unfound(adapter)
        ]
        before = dict(self._lives.known)
        await self._lives.look(one.mark for one in unfound)
        if self._lives.known != before:
            self._changed([one.key for one in unfound])

    async def look_at_unknown(self, adapters: Iterable[str]) -> None:
        """The same, where there are such of these adapters that were never asked for."""
        unfound = (one for adapter in adapters for one in self._views.unfound(adapter))
        if any(one.mark not in self._lives.known for one in unfound):
            await self.look_at_agents()

    def revalidate(self) -> None:
        """Have agents asked behind an answer that was not of this moment."""
        if self._looked is not None and self._clock() - self._looked > FRESH:
            self._untended.set()

    # ---- changed by people and launches

    @unbroken
    async def put(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Keep this of a conversation; ``instead_of`` is the key that it had until now. What was put on the
        new key by others meanwhile stays."""
        async with self._overlays.lock:
            held = self._overlays.get(overlay.key)
            if instead_of is not None and instead_of != overlay.key and held is not None:
                overlay = merged(overlay, held)
            await self._overlays.put(overlay, instead_of=instead_of)
            self._touched({overlay.key} | ({instead_of} if instead_of else set()))

    @unbroken
    async def change(self, key: Key, change: Callable[[Overlay], Overlay]) -> Overlay:
        """Change what is kept under a key, or under the one that its conversation has by now; what is kept
        then. Where that is nothing, nothing stays."""
        async with self._overlays.lock:
            key = self._where(key)
            after = change(self._overlays.get(key) or Overlay(*key))
            if after == Overlay(*key):
                await self._overlays.drop([key])
            else:
                await self._overlays.put(after)
            self._touched({key})
        return after

    def _where(self, key: Key) -> Key:
        """The key that one has now, where its id was learnt meanwhile."""
        mark = pending_mark(key[1])
        if not mark or self._overlays.get(key) is not None:
            return key
        known = [one for one in self._overlays.of(key[0]) if one.mark == mark and one.launched_at]
        return min(known, key=lambda one: one.launched_at or datetime.max).key if known else key

    def _touched(self, keys: set[Key]) -> None:
        self._dirty.update(key[0] for key in keys)
        self._untended.set()
        self._changed(keys)
