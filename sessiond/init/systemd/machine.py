"""The cgroup of the user's manager: where it lies, and which controllers it was given."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import MANAGER, MANAGER_PATH


async def manager_cgroup(connection: Connection) -> Path | None:
    """Its folder in the unified hierarchy; None where that is not mounted here, or seen otherwise."""
    group = str(await connection.get(MANAGER_PATH, MANAGER, "ControlGroup"))
    return await asyncio.to_thread(_folder, group)


def _folder(group: str) -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            found = Path(fields.split()[4]) / group.lstrip("/")
            return found if (found / "cgroup.events").exists() else None
    return None


async def controllers(connection: Connection) -> frozenset[str]:
    """Cgroup controllers that it can use; empty where that cannot be read."""
    folder = await manager_cgroup(connection)
    if folder is None:
        return frozenset()
    try:
        text = await asyncio.to_thread((folder / "cgroup.controllers").read_text)
    except OSError:
        return frozenset()
    return frozenset(text.split())
