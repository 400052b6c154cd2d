"""Keeps overlays in step with what is found: ids that were learnt, conversations that changed under their
process, what is missing, what has been missing for long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from sessiond.model.agent_session import Found, Key, Overlay
from sessiond.model.conversation import pending_mark, split_mark
from sessiond.supervisor.discovered.overlays import Overlays, owner
from sessiond.supervisor.discovered.rows import News, Told

# With such trouble nobody can say that a conversation is missing.
_BLINDING = frozenset({"file_unreadable", "format_newer"})


def merged(new: Overlay, old: Overlay) -> Overlay:
    """Of two overlays that turn out to be of one conversation: what was put on either of them."""
    return replace(
        new,
        labels={**old.labels, **new.labels},
        annotations={**old.annotations, **new.annotations},
        group=new.group or old.group,
    )


class Tender:
    """Works from what is known now, so that a step that failed is done the next time."""

    def __init__(
        self, told: Told, overlays: Overlays, *, keep: timedelta, now: Callable[[], datetime]
    ) -> None:
        self._told = told
        self._overlays = overlays
        self._keep = keep
        self._now = now
        self._succession: dict[Key, str] = {}

    def note(self, news: News) -> bool:
        """Look at what was just told; whether there may be something to do."""
        for one in news.changed:
            before = news.before.get(one.id)
            if one.life.mark and (before is None or before.life.mark != one.life.mark):
                self._note_gain(one, news)
        kept = self._overlays.all
        return (
            news.whole
            or bool(self._succession)
            or any(key in kept for key in news.gone)
            or any(self._concerns(one) for one in news.changed)
        )

    def _concerns(self, one: Found) -> bool:
        kept = self._overlays.get(one.key)
        if kept is not None and (kept.missing_since is not None or _half_launched(kept, one)):
            return True
        return bool(one.life.mark) and self._overlays.pending_of(one.adapter, one.life.mark) is not None

    def _note_gain(self, one: Found, news: News) -> None:
        """One came to be open in an agent of ours: after another in the same process, it follows that; also
        where nobody saw it happen."""
        if self._told.spawned(one):
            return
        others = [
            other
            for other in self._overlays.of(one.adapter)
            if other.mark == one.life.mark and other.id != one.id and not pending_mark(other.id)
        ]
        for other in others:
            told = self._told.get(other.key)
            lives = [found.life for found in (news.before.get(other.id), told) if found is not None]
            seen = one.life.pid is not None and any(life.pid == one.life.pid for life in lives)
            unseen = (
                (told is None or told.life.alive is False)
                and self._told.opened(one.adapter, one.life.mark) is one
                and owner(others) is other
                and self._overlays.get(one.key) is None
            )
            if seen or unseen:
                self._succession[other.key] = one.id

    async def tend(self, adapters: set[str], missing: set[Key]) -> None:
        """Bring the overlays of these up to date, and note and forget what is missing of any; ``missing`` is
        what was launched here and whose agent is known to have ended. Raises as the store does; what was done
        until then stays."""
        async with self._overlays.lock:
            for adapter in adapters:
                await self._learn(adapter)
                await self._find(adapter)
            await self._succeed()
            for adapter in self._told.adapters:
                if self._told.answered(adapter):
                    await self._collect(adapter, missing)

    async def _learn(self, adapter: str) -> None:
        """Give those that wait for their id the one that their agent was found to have open."""
        for one in self._overlays.pending:
            found = self._told.opened(adapter, one.mark) if one.adapter == adapter else None
            if found is None:
                continue
            fresh = replace(one, id=found.id, missing_since=None)
            held = self._overlays.get(fresh.key)
            await self._overlays.put(merged(fresh, held) if held else fresh, instead_of=one.key)

    async def _succeed(self) -> None:
        """Have conversations that took the place of others in a process be known as their agent's."""
        while self._succession:
            (key, heir) = next(iter(self._succession.items()))
            before, held = self._overlays.get(key), self._overlays.get((key[0], heir))
            if before is not None and before.agent:
                fresh = replace(
                    held or Overlay(key[0], heir, cwd=before.cwd, spec=before.spec),
                    session=before.session,
                    agent=before.agent,
                    launched_at=self._now(),
                )
                await self._overlays.put(fresh)
            if self._succession.get(key) == heir:
                del self._succession[key]

    async def _find(self, adapter: str) -> None:
        """Clear what was missing and is there, and enter agents that nobody could enter."""
        rows = self._told.of(adapter)
        for one in self._overlays.of(adapter):
            found = rows.get(one.id)
            if found is None:
                continue
            fresh = replace(one, missing_since=None)
            if _half_launched(one, found):
                fresh = replace(fresh, agent=split_mark(found.life.mark)[1])
            if fresh != one:
                await self._overlays.put(fresh)

    async def _collect(self, adapter: str, missing: set[Key]) -> None:
        """Note what is missing since when, and forget what has been for long."""
        troubles = self._told.troubles_of(adapter)
        if any(not one.problem.path or one.problem.code in _BLINDING for one in troubles):
            return
        rows, now = self._told.of(adapter), self._now()
        forgotten = []
        for one in self._overlays.of(adapter):
            if one.id in rows:
                continue
            since = one.missing_since
            left = not one.agent or one.key in missing or self._overlays.followed(one)
            if since is None and left:
                since = now
                if self._keep:
                    await self._overlays.put(replace(one, missing_since=now))
            if since is not None and now - since >= self._keep:
                forgotten.append(one.key)
        await self._overlays.drop(forgotten)


def _half_launched(kept: Overlay, found: Found) -> bool:
    """Whether its launch was kept but not as which agent: a supervisor died in between."""
    return bool(kept.session) and not kept.agent and split_mark(found.life.mark)[0] == kept.session
