"""What one connection holds of agents' units: the rules that let their signals in, and references."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

from sessiond.errors import Conflict, NotFound, Unreachable
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD, unit_path

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
        if unit not in self._heard:
            self._heard.add(unit)
            await asyncio.gather(*(self.connection.match(rule) for rule in _rules(unit)))
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


@contextlib.asynccontextmanager
async def jobs_heard(connection: Connection, unit: str) -> AsyncIterator[None]:
    """Have the ends of a unit's jobs come in."""
    rule = f"{_MANAGER},member='JobRemoved',arg2='{unit}'"
    await connection.match(rule)
    try:
        yield
    finally:
        with contextlib.suppress(Unreachable):
            await connection.unmatch(rule)
