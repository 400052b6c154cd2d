"""Who follows conversations: each watcher has a queue of its own, and is let go when it does not keep up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sessiond.errors import Exhausted
from sessiond.model.agent_session import Key
from sessiond.model.conversation import AgentSession, Choice, Trouble

# Changes that wait for one watcher; all conversations may change at once.
BOUND = 10_000
# Who may follow at a time: each is told every change, and may let that many wait.
WATCHERS_MAX = 100


@dataclass(frozen=True, slots=True)
class Removed:
    """A conversation that is gone, or is no longer meant."""

    key: Key


@dataclass(frozen=True, slots=True)
class Current:
    """All that was known when the watch began has been told."""


Change = AgentSession | Removed | Current | Trouble


class _Watcher:
    """One stream; ``told`` is what it was last told of each, as far as that was queued."""

    def __init__(self, choice: Choice, bound: int) -> None:
        self.choice = choice
        self.bound = bound
        self.queue: deque[Change] = deque()
        self.told: dict[Key, AgentSession] = {}
        self.lost = False
        self.wake = asyncio.Event()

    def show(self, key: Key, row: AgentSession | None) -> None:
        """What one is now."""
        before = self.told.get(key)
        if row is not None and self.choice.takes(row):
            if row != before:
                self.told[key] = row
                self._put(row)
        elif before is not None:
            del self.told[key]
            self._put(Removed(key))

    def tell(self, trouble: Trouble) -> None:
        """What an adapter suffers from, or no longer does."""
        if not self.choice.adapters or trouble.problem.adapter in self.choice.adapters:
            self._put(trouble)

    def _put(self, change: Change) -> None:
        if self.lost:
            return
        if len(self.queue) >= self.bound:
            self.queue.clear()
            self.lost = True
        else:
            self.queue.append(change)
        self.wake.set()


class Watchers:
    """All who follow. ``get`` tells what one is now. Telling never waits for a watcher."""

    def __init__(
        self, get: Callable[[Key], AgentSession | None], bound: int = BOUND, most: int = WATCHERS_MAX
    ) -> None:
        self._get = get
        self._bound = bound
        self._most = most
        self._watchers: set[_Watcher] = set()

    def changed(self, keys: Iterable[Key]) -> None:
        """These may be other than they were."""
        if not self._watchers:
            return
        for key in keys:
            row = self._get(key)
            for watcher in self._watchers:
                watcher.show(key, row)

    def tell(self, troubles: Iterable[Trouble]) -> None:
        """New trouble, and with an empty code old trouble that is over."""
        for trouble in troubles:
            for watcher in self._watchers:
                watcher.tell(trouble)

    async def follow(
        self, choice: Choice, now: Callable[[], tuple[Sequence[AgentSession], Sequence[Trouble]]]
    ) -> AsyncGenerator[Change, None]:
        """What ``now`` tells, then ``Current``, then every change. Raises Exhausted `watcher_too_slow`,
        `too_many_watchers`."""
        with self._watching(choice) as watcher:
            # In one step, so that nothing changes in between.
            rows, troubles = now()
            watcher.told = {row.key: row for row in rows}
            for row in rows:
                yield row
            for trouble in troubles:
                yield trouble
            yield Current()
            while True:
                while watcher.queue:
                    yield watcher.queue.popleft()
                if watcher.lost:
                    raise Exhausted(
                        "watcher_too_slow",
                        f"more than {watcher.bound} changes waited to be read",
                        hint="watch again: the first part is all that is known",
                    )
                watcher.wake.clear()
                await watcher.wake.wait()

    @contextmanager
    def _watching(self, choice: Choice) -> Iterator[_Watcher]:
        if len(self._watchers) >= self._most:
            raise Exhausted(
                "too_many_watchers",
                f"{len(self._watchers)} watches of agent sessions are open, as many as may be",
                hint="end some of the programs that follow them, such as sessionctl discovered -f",
            )
        watcher = _Watcher(choice, self._bound)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
