"""One view of a conversation, of what adapters told, what is kept beside it, and which agent runs it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from sessiond.model.agent_session import AgentSessionStatus, Found, Key, Life, Overlay
from sessiond.model.conversation import AgentSession, pending_mark, split_mark
from sessiond.supervisor.discovered.naming import Names
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.supervisor.discovered.rows import Told

_STOPPED = AgentSessionStatus.STOPPED
# What is kept of most.
_NOTHING = Overlay("", "")
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
        """One; None where there is none, or it is shown as another."""
        if self._told.outer(key) is not None:
            return None
        found = self._told.get(key)
        if found is not None:
            return self.join(found)
        overlay = self._overlays.get(key)
        if overlay is None or key[0] not in self._told.adapters:
            return None
        return self._unfound(overlay)

    def in_place_of(self, key: Key) -> AgentSession | None:
        """The one that is shown in place of this."""
        outer = self._told.outer(key)
        return None if outer is None else self.join(outer)

    def all(self, adapters: Collection[str] = (), *, stopped: bool = True) -> Iterator[AgentSession]:
        """All of some adapters (none: of all), in no order."""
        for adapter in self._told.adapters:
            if adapters and adapter not in adapters:
                continue
            age = self._told.age(adapter)
            # Who takes them one by one may do something else in between.
            for found in list(self._told.of(adapter).values()):
                if self._told.linked and self._told.outer(found.key) is not None:
                    continue
                if not stopped and found.status is _STOPPED and self._told.inner(found) is None:
                    continue
                row = self.join(found, age=age)
                if stopped or row.status is not _STOPPED:
                    yield row
            yield from self._unfound_of(adapter)

    def join(self, found: Found, *, age: float | None = None) -> AgentSession:
        """A row as its adapter tells it, with what is kept beside it; ``age`` where it was just looked at."""
        if self._told.linked and (inner := self._told.inner(found)) is not None:
            return replace(self._join(found, age), found=_with(found, inner))
        return self._join(found, age)

    def _join(self, found: Found, age: float | None) -> AgentSession:
        overlay = self._overlays.get(found.key)
        age = self._told.age_of(found) if age is None or found.trouble else age
        stale = bool(found.trouble) or self._told.stale(found.adapter)
        if overlay is None and not found.life.mark:
            # Nearly all are so.
            return AgentSession(found, _NOTHING, age=age, stale=stale)
        mark = found.life.mark or (overlay.mark if overlay is not None else "")
        waiting = self._overlays.pending_of(found.adapter, mark) if mark and overlay is None else None
        if waiting is not None and self._told.opened(found.adapter, mark) is found:
            # It is the one that this was launched as; so it will be stored in a moment.
            overlay = replace(waiting, id=found.id)
        session, agent = split_mark(mark)
        return AgentSession(
            found,
            overlay if overlay is not None else _NOTHING,
            session=session,
            session_name=self._names.of_session(session),
            agent=agent,
            agent_name=self._names.of_agent(mark),
            age=age,
            stale=stale,
        )

    def unfound(self, adapter: str) -> list[Overlay]:
        """What was launched here and is told by no adapter, nor was found missing before."""
        rows = self._told.of(adapter)
        return [one for one in self._overlays.of(adapter) if one.id not in rows and self._stands_alone(one)]

    def _unfound_of(self, adapter: str) -> Iterator[AgentSession]:
        for overlay in self.unfound(adapter):
            if (row := self._unfound(overlay)) is not None:
                yield row

    def _unfound(self, overlay: Overlay) -> AgentSession | None:
        """A row of what was launched here and is told by no adapter; None once its agent has ended."""
        if not self._stands_alone(overlay):
            return None
        life = self._lives.get(overlay.mark, Life(alive=None, reason=UNTOLD, mark=overlay.mark))
        if life.alive is False:
            return None
        found = Found(overlay.adapter, overlay.id, cwd=overlay.cwd, life=life)
        return replace(self.join(found), overlay=overlay)

    def _stands_alone(self, one: Overlay) -> bool:
        """Whether it is all that is known of what an agent was launched as and may have open."""
        if not one.agent or one.missing_since is not None or self._overlays.followed(one):
            return False
        # A row of another id shows what this one waits for.
        return not (pending_mark(one.id) and self._told.opened(one.adapter, one.mark) is not None)


def _with(found: Found, inner: Found) -> Found:
    """A conversation with what the program through which it is held tells of it besides. That program may go
    on with it by itself."""
    elsewhere = found.life.alive is False and inner.life.alive is not False
    return replace(
        found,
        model=found.model or inner.model,
        title=found.title or inner.title,
        first_prompt=found.first_prompt or inner.first_prompt,
        last_prompt=(inner.last_prompt if elsewhere else "") or found.last_prompt or inner.last_prompt,
        updated_at=max(filter(None, (found.updated_at, inner.updated_at)), default=None),
        ended_at=None if elsewhere else found.ended_at,
        tokens_in=inner.tokens_in if found.tokens_in is None else found.tokens_in,
        tokens_out=inner.tokens_out if found.tokens_out is None else found.tokens_out,
        cost_usd=inner.cost_usd if found.cost_usd is None else found.cost_usd,
        turn=inner.turn if elsewhere else found.turn,
        activity=inner.activity if elsewhere else found.activity,
        native={**inner.native, **found.native},
        life=inner.life if elsewhere else found.life,
    )
