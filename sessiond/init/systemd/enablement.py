"""What starts at boot: the starter's instances, enabled as systemd's own unit files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sessiond.errors import Conflict, NotFound, SessiondError, Unreachable
from sessiond.init.systemd.bus import RELOAD_DEADLINE, Connection
from sessiond.model.unit import starter_unit

_ENABLED = ("enabled", "enabled-runtime")


class Reloads:
    """Has the manager read its files again; those who ask while one is under way share the next."""

    def __init__(self) -> None:
        self._asked = 0
        self._covered = 0
        self._running = asyncio.Lock()

    async def reload(self, connection: Connection) -> None:
        """Return when all that was written before the call is in force."""
        self._asked += 1
        mine = self._asked
        async with self._running:
            if self._covered >= mine:
                return
            covering = self._asked
            await connection.manager("Reload", deadline=RELOAD_DEADLINE)
            self._covered = covering


async def enable(connection: Connection, session: str) -> bool:
    """Enable the starter; whether anything changed. Raises Conflict `starter_not_installed`."""
    unit = starter_unit(session)
    try:
        _, changes = await connection.manager("EnableUnitFiles", "asbb", [unit], False, False)
    except NotFound as error:
        raise Conflict(
            "starter_not_installed",
            f"{unit} cannot be enabled: its template sessiond@.service is not installed",
            hint="install it with `sessionctl install`",
            fields={"unit": unit},
        ) from error
    return bool(changes)


async def disable(connection: Connection, session: str) -> bool:
    """Disable the starter; whether anything changed."""
    try:
        (changes,) = await connection.manager("DisableUnitFiles", "asb", [starter_unit(session)], False)
    except NotFound:
        return False
    return bool(changes)


async def enabled(connection: Connection, sessions: Sequence[str]) -> frozenset[str]:
    """Those of the sessions whose starter is enabled."""
    states = await asyncio.gather(*(_state(connection, session) for session in sessions))
    return frozenset(session for session, state in zip(sessions, states, strict=True) if state in _ENABLED)


async def _state(connection: Connection, session: str) -> str:
    try:
        (state,) = await connection.manager("GetUnitFileState", "s", starter_unit(session))
    except Unreachable:
        raise
    except SessiondError:
        # Without its template, or with a broken link, nothing of it can start at boot.
        return ""
    return str(state)
