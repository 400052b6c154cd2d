"""Conversations as the supervisor knows them: a finder in memory, clocks of the test's own, no daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sessiond.agents.book import Book
from sessiond.aio import Pulse
from sessiond.errors import NotFound
from sessiond.model.agent_session import STOPPED, Found, Life, Overlay, Turn
from sessiond.model.conversation import AgentSession, Choice
from sessiond.paths import Paths
from sessiond.supervisor.discovered.known import Discovered, Rules
from sessiond.supervisor.discovered.naming import Names
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.testing.fake_finder import FakeFinder
from sessiond.testing.memory_store import Disk, MemoryStore

SESSION = "5" * 32
AGENT = "a" * 16
MARK = f"{SESSION}-{AGENT}"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
ALL = Choice(stopped=True)
PATIENCE = 60.0


def found(conversation: str, adapter: str = "claude-code", *, minutes: int = 0, **fields: Any) -> Found:
    """A conversation that its program last wrote of so many minutes after the beginning; it is stopped."""
    made: dict[str, Any] = {"cwd": "/home/user/project", "life": STOPPED, **fields}
    return Found(adapter, conversation, updated_at=BEGUN + timedelta(minutes=minutes), **made)


def alive(pid: int = 100, mark: str = "", **fields: Any) -> Life:
    """A process has it open."""
    return Life(alive=True, pid=pid, start_time=1, mark=mark, turn=Turn.WORKING, **fields)


class Knowing:
    """One supervisor's knowledge, and what happens around it."""

    def __init__(self, disk: Disk, finder: FakeFinder, **rules: Any) -> None:
        self.disk = disk
        self.finder = finder
        self.finders: list[FakeFinder] = []
        self.store = MemoryStore(disk)
        self.now = BEGUN + timedelta(days=1)
        self.clock = 1000.0
        self.sessions = {SESSION: "work"}
        self.agents: dict[str, Life] = {}
        self.asked: list[str] = []
        self.ended = Pulse()
        paths = Paths.from_environment()
        self.book = Book(SESSION, paths.session_state(SESSION), paths.runtime)
        self.overlays = Overlays(self.store)
        self.discovered = Discovered(
            self._make,
            Rules(**{"adapters": finder.adapters, "disabled": ("gemini",), **rules}),
            self.overlays,
            Names(paths, self._name),
            self._resolve,
            self._ask,
            self._wait,
            clock=lambda: self.clock,
            now=lambda: self.now,
        )

    def _make(self) -> FakeFinder:
        self.finders.append(self.finder)
        return self.finder

    def _name(self, session: str) -> str:
        if session not in self.sessions:
            raise NotFound("session_not_found", "none")
        return self.sessions[session]

    def _resolve(self, word: str) -> str:
        for session, name in self.sessions.items():
            if word in (session, name):
                return session
        raise NotFound("session_not_found", "none")

    async def _ask(self, mark: str) -> Life:
        self.asked.append(mark)
        return self.agents.get(mark, STOPPED)

    async def _wait(self, mark: str) -> None:
        await self.ended.until(lambda: self.agents.get(mark, STOPPED).alive is False or None)

    def end(self, mark: str) -> None:
        """An agent ends, and only its session's daemon knows."""
        self.agents[mark] = STOPPED
        self.ended.fire()

    async def rows(self, choice: Choice = ALL) -> list[AgentSession]:
        """What a list shows."""
        return list((await self.discovered.listing(choice)).rows)

    async def ids(self, choice: Choice = ALL) -> list[str]:
        """Ids of what a list shows."""
        return [row.found.id for row in await self.rows(choice)]

    async def until(self, test: Any) -> Any:
        """The first answer that is not None or False, looked for at each change."""
        async with asyncio.timeout(PATIENCE):
            return await self.discovered.changed.until(lambda: test() or None)

    def kept(self) -> dict[tuple[str, str], Overlay]:
        """What is on disk."""
        return dict(self.disk.overlays)

    async def launched(self, conversation: str, adapter: str = "claude-code", **fields: Any) -> Overlay:
        """What a launch keeps."""
        made = {"session": SESSION, "agent": AGENT, "launched_at": self.now, "prompt": "do it", **fields}
        overlay = Overlay(adapter, conversation, **made)
        await self.discovered.put_overlay(overlay)
        return overlay


@asynccontextmanager
async def knowing(
    *rows: Found, disk: Disk | None = None, held: bool = False, **rules: Any
) -> AsyncIterator[Knowing]:
    """A supervisor that knows of conversations; ``held``: adapters tell nothing until they are released."""
    finder = FakeFinder(rows={one.key: one for one in rows})
    if held:
        finder.held.update(finder.adapters)
    made = Knowing(disk or Disk(), finder, **rules)
    await made.discovered.load()
    try:
        yield made
    finally:
        await made.discovered.close()


__all__ = ["AGENT", "ALL", "BEGUN", "MARK", "SESSION", "Knowing", "alive", "found", "knowing", "replace"]
