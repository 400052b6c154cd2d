"""The one shared connection: opened when it is needed, watched, and opened again when the bus is back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from asyncinotify import Inotify, Mask

from sessiond.errors import Unreachable
from sessiond.init.systemd.bus import ALL, Connection, bus_address, socket_path
from sessiond.init.systemd.feed import Feed
from sessiond.init.systemd.waking import Waking
from sessiond.ports import Asked, Lost, UnitEvent

Event = TypeVar("Event")

_FIRST_DELAY, _LAST_DELAY = 0.1, 2.0


class Link:
    """Hands out the connection; ``calls`` counts all requests made over all of its lives.

    ``matches`` are the rules for the manager's signals that it is to hear.
    """

    def __init__(self, address: str | None = None, matches: Sequence[str] = ALL) -> None:
        self._address = address
        self._matches = matches
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._past_calls = 0
        self._closed = False

    @property
    def calls(self) -> int:
        """Requests made so far."""
        return self._past_calls + (self._connection.calls if self._connection else 0)

    def _where(self) -> str:
        return self._address or bus_address()

    async def connection(self) -> Connection:
        """The connection, opened where there is none. Raises Unreachable `init_unavailable`, soon."""
        async with self._opening:
            if self._closed:
                raise Unreachable("init_unavailable", "the connection to systemd was closed")
            if self._connection is None or not self._connection.alive:
                await self._drop()
                self._connection = await Connection.open(self._where(), matches=self._matches)
            return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._past_calls += connection.calls
            await connection.close()

    async def close(self) -> None:
        """Let go of it for good; safe to repeat."""
        self._closed = True
        async with self._opening:
            await self._drop()

    def watch(self) -> AsyncGenerator[UnitEvent, None]:
        """Unit events for ever, over as many connections as it takes; ends when closed."""
        return self.follow(_units)

    async def follow(
        self, events_of: Callable[[Connection], AsyncGenerator[Event, None]]
    ) -> AsyncGenerator[Event | Lost, None]:
        """The events that a connection gives, again and again, with Lost between; ends when closed."""
        delay, lost = _FIRST_DELAY, False
        while not self._closed:
            try:
                connection = await self.connection()
                async with contextlib.aclosing(events_of(connection)) as events:
                    async for event in events:
                        # A question is no sign of life.
                        if not isinstance(event, Asked):
                            lost = isinstance(event, Lost)
                            delay = delay if lost else _FIRST_DELAY
                        yield event
            except Unreachable as error:
                if self._closed:
                    return
                if not lost:
                    lost = True
                    yield Lost(error.message)
            await bus_returned(socket_path(self._where()), delay)
            delay = min(delay * 2, _LAST_DELAY)


async def _units(connection: Connection) -> AsyncGenerator[UnitEvent, None]:
    with Waking(connection):
        async with contextlib.aclosing(Feed(connection).events()) as events:
            async for event in events:
                yield event


async def bus_returned(path: Path | None, longest: float) -> None:
    """Return when a socket appears at path, or after ``longest`` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest):
            await _appearance(path)


async def _appearance(path: Path | None) -> None:
    if path is None or not path.parent.is_dir():
        await asyncio.Event().wait()
        return
    with Inotify() as inotify:
        inotify.add_watch(path.parent, Mask.CREATE | Mask.MOVED_TO)
        async for event in inotify:
            if event.name is not None and event.name.name == path.name:
                return
