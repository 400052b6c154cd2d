"""Runs one adapter's process for as long as the host wants, and starts it anew when it failed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sessiond.aio import Pulse
from sessiond.discovery import wire
from sessiond.discovery.conversation import FAILED, TIMEOUT, Conversation, Fault, read_answer
from sessiond.discovery.nursery import Nursery
from sessiond.discovery.outbox import Outbox
from sessiond.errors import SessiondError, Unreachable
from sessiond.model.agent_session import Found, Problem

log = logging.getLogger(__name__)

# Seconds before a new start at first, and at most; one that was well for so long begins again at the first.
PAUSE = 1.0
_PAUSE_MOST, _WELL = 60.0, 60.0


class Runner:
    """One adapter."""

    def __init__(
        self, adapter: str, nursery: Nursery, outbox: Outbox, deadline: float, pause: float = PAUSE
    ) -> None:
        self.adapter = adapter
        self._nursery = nursery
        self._outbox = outbox
        self._deadline = deadline
        self._pause = pause
        self._own: dict[str, str] = {}
        self._talk: Conversation | None = None
        self._fault: Fault | None = None
        self._well_since: float | None = None
        self._problems: list[Problem] = []
        self._batch: list[Found] = []
        self._pausing = False
        self._retry = asyncio.Event()
        # Fired when a process is there, has told all, or is gone; the latter two are counted.
        self._changed = Pulse()
        self._outcomes = 0
        self._over = False

    @property
    def pid(self) -> int | None:
        """Of its process now."""
        return self._talk.pid if self._talk else None

    async def run(self) -> None:
        """Keep it running, for ever."""
        try:
            await self._run()
        finally:
            self._over = True
            self._changed.fire()

    async def _run(self) -> None:
        failures = 0
        while True:
            await self._live()
            since, self._well_since = self._well_since, None
            if since is not None and asyncio.get_running_loop().time() - since >= _WELL:
                failures = 0
            pause = min(self._pause * 2**failures, _PAUSE_MOST)
            failures = min(failures + 1, 16)
            self._pausing = True
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._retry.wait()
            self._pausing = False
            self._retry.clear()

    async def _live(self) -> None:
        """One life of it."""
        try:
            child = await self._nursery.fork(self.adapter)
        except SessiondError as error:
            self._failed(Fault(TIMEOUT if error.code == TIMEOUT else FAILED, error.message))
            return
        self._talk = Conversation(self.adapter, child, self._deadline)
        self._batch = []
        self._changed.fire()
        try:
            await self._talk.listen(wire.Own(dict(self._own)), self._told, self._failed)
        finally:
            self._talk = None

    def _told(self, news: wire.Told) -> None:
        self._batch += news.found
        if news.more:
            return
        found, self._batch = self._batch, []
        if found or news.gone or news.whole:
            self._outbox.rows(self.adapter, found, news.gone, whole=news.whole)
        if news.problems is not None or news.whole:
            self._problems = list(news.problems or ())
            self._outbox.problems(self.adapter, self._problems)
        if news.checked:
            self._outbox.checked(self.adapter)
        if news.whole:
            self._fault = None
            self._well_since = asyncio.get_running_loop().time()
            self._outcomes += 1
            self._changed.fire()

    def _failed(self, fault: Fault) -> None:
        log.warning("adapter %s: %s (%s)", self.adapter, fault.reason, fault.code)
        self._fault = fault
        self._talk = None
        self._outcomes += 1
        told = [Problem(self.adapter, fault.code, fault.reason), *self._problems]
        self._outbox.problems(self.adapter, told)
        self._changed.fire()

    # ---- questions

    async def ask(self, question: wire.Question, kind: Any) -> Any:
        """Its answer, in this type. Raises what the adapter raises, Unreachable `adapter_failed`, TimedOut
        `adapter_timeout`."""
        talk: Conversation | Fault = await self._changed.until(lambda: self._talk or self._fault)
        if isinstance(talk, Fault):
            raise talk.error(self.adapter)
        return read_answer(self.adapter, await talk.ask(question), kind)

    @property
    def well(self) -> bool:
        """Whether it has told all there is, and follows what changes."""
        return self._talk is not None and self._well_since is not None

    async def refresh(self) -> None:
        """See the port."""
        outcomes = self._outcomes + 1
        if self.well:
            try:
                await self.ask(wire.Refresh(), None)
            except Unreachable:
                # Its process ended, be it before it was asked: that end is an outcome, and the look that was
                # asked for is the first one of the next process.
                await self._until(outcomes + 1)
            except SessiondError:
                # It was given its time.
                pass
        else:
            await self._until(outcomes)
        await self._outbox.taken(self.adapter)

    async def _until(self, outcomes: int) -> None:
        """Return when there were so many outcomes, without any pause before the next start."""
        await self._changed.until(lambda: self._outcomes >= outcomes or self._pausing or self._over or None)
        if self._pausing and self._outcomes < outcomes:
            self._retry.set()
        await self._changed.until(lambda: self._outcomes >= outcomes or self._over or None)

    async def look(self) -> None:
        """See the port. One that failed is left alone: it comes back by itself."""
        if self._talk is not None or self._fault is None:
            with suppress(SessiondError):
                await self.ask(wire.Look(), None)
        await self._outbox.taken(self.adapter)

    async def own(self, agents: Mapping[str, str]) -> None:
        """See the port. One that failed is told when it is back."""
        self._own = dict(agents)
        if self._talk is not None:
            with suppress(SessiondError):
                await self.ask(wire.Own(self._own), None)
