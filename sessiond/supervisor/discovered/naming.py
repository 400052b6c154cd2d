"""What is written down of agents: their names by their ids, and when they ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from sessiond.agents.book import Book, Kept
from sessiond.errors import NotFound
from sessiond.model.conversation import AgentSession, split_mark
from sessiond.paths import Paths


class Names:
    """Names of agents are read from their folders once: they never change."""

    def __init__(self, paths: Paths, session_name: Callable[[str], str]) -> None:
        """``session_name`` raises NotFound for a session that is no more."""
        self._paths = paths
        self._session_name = session_name
        self._agents: dict[str, str] = {}
        # By the time at which the file was written: one that is started again ends again.
        self._ends: dict[str, tuple[int, datetime | None]] = {}

    def of_session(self, session: str) -> str:
        """Name of a session; empty where it is no more."""
        try:
            return self._session_name(session) if session else ""
        except NotFound:
            return ""

    def of_agent(self, mark: str) -> str:
        """Name of an agent (`SESSION-AGENT`), where it was read already."""
        return self._agents.get(mark, "")

    async def learn(self, marks: Iterable[str]) -> None:
        """Read the names of agents that are not known."""
        unknown = {mark for mark in marks if mark and mark not in self._agents}
        if unknown:
            self._agents.update(await asyncio.to_thread(self._read, unknown))

    async def named(self, rows: Iterable[AgentSession]) -> list[AgentSession]:
        """The rows with the names of their agents."""
        held = list(rows)
        if not any(row.agent and not row.agent_name for row in held):
            return held
        await self.learn(row.mark for row in held if not row.agent_name)
        return [
            replace(row, agent_name=self.of_agent(row.mark)) if row.agent and not row.agent_name else row
            for row in held
        ]

    async def ends(self, marks: Iterable[str]) -> dict[str, datetime]:
        """When agents ended, of those whose end is written down."""
        wanted = set(marks)
        return await asyncio.to_thread(self._read_ends, wanted) if wanted else {}

    async def book(self, session: str) -> Mapping[str, Kept]:
        """All agents of a session by id, oldest first."""
        book = Book(session, self._paths.session_state(session), self._paths.runtime)
        return (await asyncio.to_thread(book.load))[0]

    def _read_ends(self, marks: Iterable[str]) -> dict[str, datetime]:
        found = {}
        for mark in marks:
            session, agent = split_mark(mark)
            book = Book(session, self._paths.session_state(session), self._paths.runtime)
            try:
                stamp = book.folder(agent).end.stat().st_mtime_ns
                if self._ends.get(mark, (0, None))[0] != stamp:
                    end = book.read(agent).end
                    self._ends[mark] = stamp, None if end is None else end.ended_at
            except (OSError, NotFound):
                # It runs, or was removed.
                continue
            if (ended := self._ends[mark][1]) is not None:
                found[mark] = ended
        return found

    def _read(self, marks: Iterable[str]) -> dict[str, str]:
        found = {}
        for mark in marks:
            session, agent = split_mark(mark)
            book = Book(session, self._paths.session_state(session), self._paths.runtime)
            try:
                found[mark] = book.read(agent).spec.name
            except NotFound:
                # It was removed, or has not been entered yet: asked again the next time.
                continue
        return found
