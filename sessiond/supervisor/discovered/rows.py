"""What adapters told last: conversations by key, how old that is, and what trouble there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf

from sessiond.model.agent_session import INNER, Found, Key, Problem
from sessiond.model.conversation import Trouble
from sessiond.ports.discovery import Checked, FinderEvent, Problems, Rows

_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class News:
    """What one event changed. ``whole``: all files of the adapter were just looked at."""

    adapter: str
    changed: Sequence[Found] = ()
    before: Mapping[str, Found] = field(default_factory=dict)
    """What was known of these until now, by id."""
    gone: Sequence[Key] = ()
    joined: Collection[Key] = ()
    """What is shown with one of these, or in its place."""
    whole: bool = False
    troubles: Sequence[Trouble] = ()
    """New trouble."""
    mended: Sequence[Problem] = ()


class Told:
    """The last word of each adapter. ``clock`` is monotonic, in seconds."""

    def __init__(
        self,
        adapters: Iterable[str],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._clock = clock
        self.now = now
        self._rows: dict[str, dict[str, Found]] = {adapter: {} for adapter in adapters}
        self._troubles: dict[str, dict[tuple[str, str], Trouble]] = {adapter: {} for adapter in adapters}
        self._live: dict[str, set[str]] = {adapter: set() for adapter in self._rows}
        self._outer: dict[Key, Key] = {}
        self._heard: dict[str, float] = {}
        # When what cannot be read any more was last known to be well.
        self._well: dict[Key, float] = {}
        self._answered: set[str] = set()
        self._stale: set[str] = set()
        # Never changed in place: other threads read it.
        self.troubles: tuple[Trouble, ...] = ()

    @property
    def adapters(self) -> Collection[str]:
        """All whose word is heard."""
        return self._rows.keys()

    def answered(self, adapter: str) -> bool:
        """Whether it has told all it finds, or that it cannot."""
        return adapter in self._answered

    def get(self, key: Key) -> Found | None:
        """One conversation."""
        return self._rows.get(key[0], {}).get(key[1])

    def of(self, adapter: str) -> Mapping[str, Found]:
        """All of one adapter by id."""
        return self._rows.get(adapter, {})

    def marked(self, adapter: str) -> Mapping[str, Found]:
        """Conversations of one adapter that agents of ours have open, by `SESSION-AGENT`; of several that no
        other of these spawned the one of the process that began first, what others started within it being
        its tools, and of those of one process the latest."""
        marked: dict[str, Found] = {}
        rows = self.of(adapter)
        for key in self._live.get(adapter, ()):
            one = rows[key]
            if not one.life.mark or self.spawned(one):
                continue
            other = marked.get(one.life.mark)
            if other is None or _foremost(one) > _foremost(other):
                marked[one.life.mark] = one
        return marked

    def opened(self, adapter: str, mark: str) -> Found | None:
        """What an agent was launched to have open, as far as it can be told: one whose parent is not known
        yet may have been spawned by that."""
        one = self.marked(adapter).get(mark)
        return None if one is None or (one.parent and one.parent not in self.of(adapter)) else one

    def spawned(self, one: Found) -> bool:
        """Whether it was spawned by a conversation that the same agent has open, be it through others."""
        rows, seen = self.of(one.adapter), {one.id}
        parent = rows.get(one.parent) if one.parent and one.life.mark else None
        while parent is not None and parent.id not in seen:
            if parent.life.mark == one.life.mark:
                return True
            seen.add(parent.id)
            parent = rows.get(parent.parent)
        return False

    @property
    def linked(self) -> bool:
        """Whether any conversation is held through one of another program."""
        return bool(self._outer)

    def inner(self, one: Found) -> Found | None:
        """The conversation of another program through which this one is held: the same as it is told by that
        program's adapter."""
        key = _inner_key(one) if self._outer else None
        return self.get(key) if key is not None and self._outer.get(key) == one.key else None

    def outer(self, key: Key) -> Found | None:
        """The conversation that is held through this one, and is shown in its place."""
        outer = self._outer.get(key) if self._outer else None
        return self.get(outer) if outer is not None else None

    def live(self) -> Iterator[Found]:
        """All conversations that a process is known to have open."""
        for adapter, ids in self._live.items():
            rows = self._rows[adapter]
            yield from (rows[one] for one in ids)

    def age(self, adapter: str) -> float:
        """Seconds since its conversations were last held against the machine; 0 before it was heard."""
        heard = self._heard.get(adapter)
        return 0.0 if heard is None else max(0.0, self._clock() - heard)

    def age_of(self, one: Found) -> float:
        """The same of one conversation; where its file cannot be read any more, since it last could."""
        well = self._well.get(one.key) if one.trouble else None
        return self.age(one.adapter) if well is None else max(0.0, self._clock() - well)

    def stale(self, adapter: str) -> bool:
        """Whether the adapter as a whole is in trouble: its rows are its last good answer."""
        return adapter in self._stale

    def troubles_of(self, adapter: str) -> Sequence[Trouble]:
        """What trouble one adapter has."""
        return list(self._troubles.get(adapter, {}).values())

    def take(self, event: FinderEvent) -> News:
        """Put one event in; what it tells that was not known."""
        if event.adapter not in self._rows:
            return News(event.adapter)
        match event:
            case Rows():
                now = self._clock()
                well = self._heard.get(event.adapter, now)
                self._heard[event.adapter] = now
                return self._take_rows(event, well)
            case Problems():
                return self._take_problems(event)
            case Checked():
                self._heard[event.adapter] = self._clock()
        return News(event.adapter)

    def _take_rows(self, event: Rows, well: float) -> News:
        """``well`` is when all of these were held against the machine before."""
        rows = self._rows[event.adapter]
        changed = [one for one in event.found if rows.get(one.id) != one]
        before = {one.id: rows[one.id] for one in changed if one.id in rows}
        told = {one.id for one in event.found}
        missing = (rows.keys() if event.whole else set(event.gone) & rows.keys()) - told
        if event.whole:
            self._answered.add(event.adapter)
        live = self._live[event.adapter]
        keys = [(event.adapter, one) for one in (*before, *missing)]
        joined = self._joined(keys)
        for gone in missing:
            self._part(rows[gone])
        for one in changed:
            if one.id in before:
                self._part(before[one.id])
            if (inner := _inner_key(one)) is not None:
                self._outer[inner] = one.key
            rows[one.id] = one
            if one.trouble:
                self._well.setdefault(one.key, well)
            else:
                self._well.pop(one.key, None)
            (live.add if one.status.live else live.discard)(one.id)
        for gone in missing:
            del rows[gone]
            self._well.pop((event.adapter, gone), None)
        live -= missing
        joined |= self._joined([one.key for one in changed])
        return News(
            event.adapter,
            changed=changed,
            joined=joined,
            before=before,
            gone=[(event.adapter, gone) for gone in sorted(missing)],
            whole=event.whole,
        )

    def _part(self, one: Found) -> None:
        """It is no longer known what this one is held through."""
        inner = _inner_key(one)
        if inner is not None and self._outer.get(inner) == one.key:
            del self._outer[inner]

    def _joined(self, keys: Iterable[Key]) -> set[Key]:
        """Keys of what is shown with these, or in their place."""
        joined = set()
        for key in keys:
            if (outer := self._outer.get(key)) is not None:
                joined.add(outer)
            if (one := self.get(key)) is not None and (inner := _inner_key(one)) is not None:
                joined.add(inner)
        return joined

    def _take_problems(self, event: Problems) -> News:
        before = self._troubles[event.adapter]
        now = self.now()
        after: dict[tuple[str, str], Trouble] = {}
        for problem in event.problems:
            place = problem.path, problem.code
            known = before.get(place)
            after[place] = Trouble(problem, now if known is None else known.since)
        self._stale.discard(event.adapter)
        if any(not problem.path for problem in event.problems):
            self._stale.add(event.adapter)
            self._answered.add(event.adapter)
        self._troubles[event.adapter] = after
        self.troubles = tuple(one for told in self._troubles.values() for one in told.values())
        return News(
            event.adapter,
            troubles=[one for place, one in after.items() if before.get(place) != one],
            mended=[one.problem for place, one in before.items() if place not in after],
        )


def _foremost(one: Found) -> tuple[float, datetime, datetime, str]:
    began = inf if one.life.start_time is None else one.life.start_time
    return -began, one.updated_at or _NEVER, one.started_at or _NEVER, one.id


def _inner_key(one: Found) -> Key | None:
    adapter, colon, conversation = one.native.get(INNER, "").partition(":")
    return (adapter, conversation) if colon and conversation and adapter != one.adapter else None
