"""What one connection holds of agents' units: the rules that let their signals in, and references."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from sessiond.errors import Conflict, NotFound
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD, unit_path

Heard = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]

_MANAGER = f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}'"


def _rules(unit: str) -> tuple[str, ...]:
    path = unit_path(unit)
    return (
        f"type='signal',sender='{SYSTEMD}',path='{path}',interface='{PROPERTIES}',member='PropertiesChanged'",
        # The first word of UnitNew and UnitRemoved is the unit; other units' signals wake nobody here.
        f"{_MANAGER},arg0='{unit}'",
    )


class Held:
    """Units that are kept loaded, and heard of, for as long as the connection lives.

    systemd takes a reference off with the connection that made it; without one a stopped unit is
    forgotten with its exit status.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._heard: set[str] = set()

    async def hold(self, units: Iterable[str]) -> None:
        """Hear of the units, and keep those that are loaded; again is fine."""
        await asyncio.gather(*(self._hold(unit) for unit in units))

    async def _hold(self, unit: str) -> None:
        rules = () if unit in self._heard else _rules(unit)
        self._heard.add(unit)
        # The bus takes them in this order: what changes once the unit is referenced is heard.
        await asyncio.gather(*(self.connection.match(rule) for rule in rules), self._reference(unit))

    async def _reference(self, unit: str) -> None:
        with contextlib.suppress(NotFound):
            await self.connection.manager("RefUnit", "s", unit)

    async def let_go(self, unit: str) -> None:
        """Keep it no longer."""
        with contextlib.suppress(NotFound, Conflict):
            # As often as it was referenced: it is refused at last.
            while True:
                await self.connection.manager("UnrefUnit", "s", unit)

    async def forget(self, unit: str) -> None:
        """Hear no more of it."""
        if unit in self._heard:
            self._heard.discard(unit)
            await asyncio.gather(*(self.connection.unmatch(rule) for rule in _rules(unit)))


@contextlib.contextmanager
def jobs_heard(connection: Connection, unit: str) -> Iterator[Heard]:
    """Have the ends of a unit's jobs come in. What is given makes a question that asks for a job, and answers
    with its answer: both leave together, since the bus takes the rule before it comes to the question."""
    rule = f"{_MANAGER},member='JobRemoved',arg2='{unit}'"

    async def heard(question: Callable[[], Awaitable[Any]]) -> Any:
        # A task each, begun in this order.
        matching = asyncio.ensure_future(connection.match(rule))
        _, answer = await asyncio.gather(matching, question())
        return answer

    try:
        yield heard
    finally:
        connection.drop_match(rule)
