"""Why systemd is stopping a unit: asked by a daemon of itself when SIGTERM comes."""

from __future__ import annotations

from typing import Literal

from sessiond.init.systemd.direct import systemctl

StopReason = Literal["stop", "restart"]

_REASONS: dict[str, StopReason] = {"stop": "stop", "restart": "restart", "try-restart": "restart"}
_DEADLINE = 5.0


async def stop_reason(unit: str) -> StopReason | None:
    """``stop`` or ``restart`` by the unit's job; None where it has none (a kill).

    Raises Unreachable `init_unavailable` where the manager does not answer.
    """
    _, output = await systemctl("list-jobs", "--plain", "--no-legend", "--", unit, deadline=_DEADLINE)
    for line in output.splitlines():
        # Number, unit, type, state.
        words = line.split()
        if len(words) >= 3 and words[1] == unit:
            return _REASONS.get(words[2])
    return None
