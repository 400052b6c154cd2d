"""Which conversation a word means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.conversation import AgentSession, pending_mark
from sessiond.model.identity import ID_PREFIX_MIN
from sessiond.supervisor.discovered.merging import Views
from sessiond.supervisor.discovered.naming import Names

_SHOWN = 5
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Chooser:
    """Words to conversations: `ADAPTER:ID`, an id, the beginning of one, or `SESSION/AGENT`."""

    def __init__(
        self, views: Views, names: Names, adapters: Collection[str], resolve: Callable[[str], str]
    ) -> None:
        """``resolve`` tells the id of the session that a word means, or raises NotFound."""
        self._views = views
        self._names = names
        self._adapters = adapters
        self._resolve = resolve

    async def find(self, word: str) -> AgentSession:
        """The one that is meant. Raises NotFound `agent_session_not_found`, InvalidArgument
        `agent_session_ambiguous`, `agent_session_missing`."""
        if not word:
            raise InvalidArgument(
                "agent_session_missing",
                "no agent session is named",
                hint="give ADAPTER:ID, an id, the beginning of one, or SESSION/AGENT",
            )
        # What is named whole needs no look at all the others.
        adapters, rest = self.split(word)
        keys = [(adapter, rest) for adapter in adapters or self._adapters]
        exact = [row for key in keys if (row := self._views.get(key)) is not None]
        exact = exact or [row for key in keys if (row := self._views.in_place_of(key)) is not None]
        if exact:
            return _only(word, exact)
        rows = list(self._views.all(adapters))
        if mark := pending_mark(rest):
            return _current(word, [row for row in rows if row.mark == mark])
        if "/" in word and (found := await self._by_agent(word)):
            return _current(word, found)
        if len(rest) >= ID_PREFIX_MIN:
            found = [row for row in rows if row.found.id.startswith(rest)]
            if found:
                return _only(word, found)
        raise _not_found(word)

    def split(self, word: str) -> tuple[Collection[str], str]:
        """The adapter that a word names, or none, and the rest of it."""
        adapter, colon, rest = word.partition(":")
        return ((adapter,), rest) if colon and adapter in self._adapters else ((), word)

    async def _by_agent(self, word: str) -> list[AgentSession]:
        """Conversations of the agent that `SESSION/AGENT` means; none where it means no session."""
        name, _, agent = word.rpartition("/")
        try:
            session = self._resolve(name)
        except NotFound:
            return []
        rows = [row for row in self._views.all() if row.session == session and row.agent]
        await self._names.learn(row.mark for row in rows)
        found = [row for row in rows if agent in (self._names.of_agent(row.mark), row.agent)]
        if not found and len(agent) >= ID_PREFIX_MIN:
            found = [row for row in rows if row.agent.startswith(agent.lower())]
            if len({row.agent for row in found}) > 1:
                raise _ambiguous(word, (f"{row.agent}" for row in found))
        return found


def _only(word: str, rows: list[AgentSession]) -> AgentSession:
    if len(rows) > 1:
        raise _ambiguous(word, (f"{row.found.adapter}:{row.found.id}" for row in rows))
    return rows[0]


def _current(word: str, rows: list[AgentSession]) -> AgentSession:
    if not rows:
        raise _not_found(word)
    return foremost(rows)


def foremost(rows: Sequence[AgentSession]) -> AgentSession:
    """Of the conversations of one agent, or of agents of one name: one that lives, the one launched last."""
    marks = {(row.mark, row.found.id) for row in rows}

    def rank(row: AgentSession) -> tuple[Any, ...]:
        own = (row.mark, row.found.parent) not in marks
        return row.status.live, own, row.overlay.launched_at or _NEVER, row.order

    return max(rows, key=rank)


def _ambiguous(word: str, found: Iterable[str]) -> InvalidArgument:
    shown = ", ".join(sorted(set(found))[:_SHOWN])
    return InvalidArgument(
        "agent_session_ambiguous",
        f"{word[:80]} means more than one agent session: {shown}",
        hint="give more of the id, or ADAPTER:ID",
        fields={"agent_session": word[:80]},
    )


def _not_found(word: str) -> NotFound:
    return NotFound(
        "agent_session_not_found",
        f"no agent session {word[:80]!r}",
        hint="sessionctl discovered -a",
        fields={"agent_session": word[:80]},
    )
