"""One view of a conversation, of what adapters told, what is kept beside it, and which agent runs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from sessiond.model.agent_session import AgentSessionStatus, Found, Key, Life, Overlay
from sessiond.model.conversation import AgentSession, pending_mark, split_mark
from sessiond.supervisor.discovered.naming import Names
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.supervisor.discovered.rows import Told

UNTOLD = "its program has not told of it yet"


class Views:
    """Joins on demand. ``lives`` is what is known of agents (`SESSION-AGENT`) whose conversation no adapter
    tells of."""

    def __init__(self, told: Told, overlays: Overlays, names: Names, lives: Mapping[str, Life]) -> None:
        self._told = told
        self._overlays = overlays
        self._names = names
        self._lives = lives

    def get(self, key: Key) -> AgentSession | None:
        """One; None where there is none."""
        found = self._told.get(key)
        if found is not None:
            return self.join(found)
        overlay = self._overlays.get(key)
        if overlay is None or key[0] not in self._told.adapters:
            return None
        return self._unfound(overlay)

    def all(self, adapters: Collection[str] = (), *, stopped: bool = True) -> Iterator[AgentSession]:
        """All of some adapters (none: of all), in no order."""
        for adapter in self._told.adapters:
            if adapters and adapter not in adapters:
                continue
            for found in self._told.of(adapter).values():
                if stopped or found.status is not AgentSessionStatus.STOPPED:
                    yield self.join(found)
            yield from self._unfound_of(adapter)

    def join(self, found: Found, *, age: float | None = None) -> AgentSession:
        """A row as its adapter tells it, with what is kept beside it; ``age`` where it was just looked at."""
        overlay = self._overlays.get(found.key)
        mark = found.life.mark or (overlay.mark if overlay is not None else "")
        waiting = self._overlays.pending_of(found.adapter, mark) if mark and overlay is None else None
        if waiting is not None and self._told.opened(found.adapter, mark) is found:
            # It is the one that this was launched as; so it will be stored in a moment.
            overlay = replace(waiting, id=found.id)
        session, agent = split_mark(mark)
        return AgentSession(
            found,
            overlay if overlay is not None else Overlay(*found.key),
            session=session,
            session_name=self._names.of_session(session),
            agent=agent,
            agent_name=self._names.of_agent(mark),
            age=self._told.age(found.adapter) if age is None else age,
            stale=self._told.stale(found.adapter),
        )

    def unfound(self, adapter: str) -> list[Overlay]:
        """What was launched here and is told by no adapter, nor was found missing before."""
        rows = self._told.of(adapter)
        return [
            one
            for one in self._overlays.of(adapter)
            if one.agent and one.id not in rows and one.missing_since is None and not self._shown(one)
        ]

    def _unfound_of(self, adapter: str) -> Iterator[AgentSession]:
        for overlay in self.unfound(adapter):
            if (row := self._unfound(overlay)) is not None:
                yield row

    def _unfound(self, overlay: Overlay) -> AgentSession | None:
        """A row of what was launched here and is told by no adapter; None once its agent has ended."""
        if not overlay.agent or overlay.missing_since is not None or self._shown(overlay):
            return None
        life = self._lives.get(overlay.mark, Life(alive=None, reason=UNTOLD, mark=overlay.mark))
        if life.alive is False:
            return None
        found = Found(overlay.adapter, overlay.id, cwd=overlay.cwd, life=life)
        return replace(self.join(found), overlay=overlay)

    def _shown(self, overlay: Overlay) -> bool:
        """Whether a row of another id shows what this one waits for."""
        waits = bool(pending_mark(overlay.id))
        return waits and self._told.opened(overlay.adapter, overlay.mark) is not None
