"""What starts at boot: the starter's instances, enabled as systemd's own unit files."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from sessiond.errors import Conflict, NotFound
from sessiond.init.systemd.bus import RELOAD_DEADLINE, Connection
from sessiond.init.systemd.names import MANAGER, MANAGER_PATH
from sessiond.model.unit import starter_unit


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
    """Those of the sessions whose starter is enabled.

    Read from the links that enabling is, where the manager says that it looks for them. Asking it is the
    same, at 4 ms an instance in which it answers nobody else: seconds for a thousand sessions.
    """
    folders = await connection.get(MANAGER_PATH, MANAGER, "UnitPath")
    starters = await asyncio.to_thread(_linked, [Path(folder) for folder in folders])
    return frozenset(session for session in sessions if starter_unit(session) in starters)


def _linked(folders: Sequence[Path]) -> set[str]:
    """Names of the starters that another unit pulls in and that could start."""
    template = starter_unit("")
    names = {folder: _names(folder) for folder in folders}
    if not any(template in found for found in names.values()):
        return set()
    pulling = [
        folder / name
        for folder, found in names.items()
        for name in found
        if name.endswith((".wants", ".requires", ".upholds"))
    ]
    linked = {name for folder in pulling for name in _names(folder) if _instance_of(template, name)}
    return {name for name in linked if not any(_masks(folder / name) for folder in folders)}


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        # Most of the places where units may lie do not exist.
        return []


def _instance_of(template: str, name: str) -> bool:
    head, _, tail = template.partition("@")
    return name.startswith(f"{head}@") and name.endswith(tail) and name != template


def _masks(path: Path) -> bool:
    """Whether it is a link to nothing, which keeps a unit from being started at all."""
    with contextlib.suppress(OSError):
        return os.readlink(path) == os.devnull
    return False
