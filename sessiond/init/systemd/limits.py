"""Limits on a session's agents: systemd's own resource-control properties on their slice."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sessiond.errors import InvalidArgument
from sessiond.init.systemd import properties
from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.machine import controllers
from sessiond.init.systemd.names import SLICE, unit_path
from sessiond.model.unit import agents_slice

# A slice that nobody has a reason to touch: what it has are the manager's defaults.
_UNTOUCHED = "sessionddefaults.slice"


async def set_limits(connection: Connection, session: str, wanted: Mapping[str, str]) -> None:
    """Set properties of the agents' slice, for good and all or none. See the port."""
    for name in wanted:
        properties.find(name)
    settings = properties.settings(wanted, await _values(connection, _UNTOUCHED))
    if not settings:
        return
    body = [agents_slice(session), False, [list(setting) for setting in settings]]
    try:
        await connection.manager("SetUnitProperties", "sba(sv)", *body)
    except InvalidArgument as error:
        if error.code == "property_unknown":
            raise
        raise InvalidArgument(
            "property_invalid", error.message, hint="nothing was changed", fields=error.fields
        ) from error


async def limits(connection: Connection, session: str) -> dict[str, str]:
    """Properties of the agents' slice that differ from the defaults."""
    values, defaults = await asyncio.gather(
        _values(connection, agents_slice(session)), _values(connection, _UNTOUCHED)
    )
    return properties.differing(values, defaults)


async def known_properties(connection: Connection) -> dict[str, Any]:
    """The properties that this systemd has, by the bus's names, with their defaults."""
    return await _values(connection, _UNTOUCHED)


async def _values(connection: Connection, unit: str) -> dict[str, Any]:
    return await connection.get_all(unit_path(unit), SLICE)


async def unenforced(connection: Connection, names: Sequence[str]) -> list[str]:
    """Those of the properties whose controller the user's manager has not got."""
    available = await controllers(connection)
    return [name for name in names if properties.find(name).controller not in available]
