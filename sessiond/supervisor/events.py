"""The event log of one supervisor's life: bounded, in order, followed by readers that may be slow."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from sessiond.errors import Exhausted
from sessiond.model.event import Cursor, Event, EventKind

Test = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class Page:
    """Part of the log; ``cursor`` is where to go on from."""

    events: list[Event]
    cursor: Cursor
    reset: bool
    gap: bool
    has_more: bool


class _Reader:
    """One stream's own queue; ``lost`` once it held more than its bound."""

    def __init__(self, bound: int) -> None:
        self.queue: deque[Event] = deque()
        self.bound = bound
        self.lost = False
        self.wake = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self.queue) >= self.bound:
            self.queue.clear()
            self.lost = True
        elif not self.lost:
            self.queue.append(event)
        self.wake.set()


class EventLog:
    """Appends, fetches, and follows. All from one event loop; appending never waits for a reader."""

    def __init__(self, history: int, reader_bound: int) -> None:
        self.epoch = os.urandom(16).hex()
        self._events: deque[Event] = deque(maxlen=history)
        self._last = 0
        self._reader_bound = reader_bound
        self._readers: set[_Reader] = set()

    @property
    def head(self) -> Cursor:
        """Position of the last event."""
        return Cursor(self.epoch, self._last)

    def append(
        self, kind: EventKind, session: str, name: str, fields: Mapping[str, str] | None = None
    ) -> Event:
        """Note that something happened, now."""
        self._last += 1
        event = Event(
            Cursor(self.epoch, self._last), datetime.now(UTC), kind, session, name, dict(fields or {})
        )
        self._events.append(event)
        for reader in self._readers:
            reader.put(event)
        return event

    def fetch(self, after: Cursor | None, limit: int, test: Test) -> Page:
        """The events after a position that pass the test, or the last ones; at most ``limit``."""
        if after is None:
            # Only the last ones: read from the end, so that a long log costs nothing.
            tail = list(islice((event for event in reversed(self._events) if test(event)), limit))
            return Page(tail[::-1], self.head, reset=False, gap=False, has_more=False)
        reset, start = self._start(after)
        first = self._events[0].cursor.seq if self._events else self._last + 1
        found: list[Event] = []
        for event in islice(self._events, max(0, start - first + 1), None):
            if not test(event):
                continue
            if len(found) == limit:
                return Page(found, found[-1].cursor, reset, start + 1 < first, has_more=True)
            found.append(event)
        return Page(found, self.head, reset, start + 1 < first, has_more=False)

    def _start(self, after: Cursor) -> tuple[bool, int]:
        """Whether the position belongs to another log, and the sequence number to begin after."""
        if after.epoch != self.epoch:
            return True, 0
        return False, min(after.seq, self._last)

    async def follow(self, after: Cursor | None, test: Test) -> AsyncGenerator[Page | Event, None]:
        """First a Page (empty without ``after``), then each event as it comes, none twice or skipped.

        Raises Exhausted `slow_reader` when more events wait than the bound allows.
        """
        with self._reading() as reader:
            if after is None:
                yield Page([], self.head, reset=False, gap=False, has_more=False)
            else:
                yield self.fetch(after, len(self._events) + 1, test)
            while True:
                await reader.wake.wait()
                reader.wake.clear()
                while reader.queue:
                    event = reader.queue.popleft()
                    if test(event):
                        yield event
                if reader.lost:
                    raise Exhausted(
                        "slow_reader",
                        f"more than {reader.bound} events waited to be read",
                        hint="fetch from the last cursor, then watch again",
                    )

    @contextmanager
    def _reading(self) -> Iterator[_Reader]:
        reader = _Reader(self._reader_bound)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
