"""Why systemd is stopping a unit: asked by a daemon of itself when SIGTERM comes."""

from __future__ import annotations

import asyncio
from typing import Literal

from sessiond.errors import SessiondError

StopReason = Literal["stop", "restart"]

_DEADLINE = 2.0


async def stop_reason(unit: str) -> StopReason | None:
    """``stop`` or ``restart`` by the unit's job; None where it has none (a kill), or nobody answers."""
    # Only needed once in a daemon's life, and a good part of its memory.
    from sessiond.init.systemd.bus import Connection, bus_address
    from sessiond.init.systemd.jobs import look

    try:
        async with asyncio.timeout(_DEADLINE):
            connection = await Connection.open(bus_address(), subscribe=False)
            try:
                now = await look(connection, unit)
            finally:
                await connection.close()
    except (SessiondError, TimeoutError):
        return None
    if now is None:
        return None
    if now.job in ("restart", "try-restart"):
        return "restart"
    return "stop" if now.job == "stop" else None
