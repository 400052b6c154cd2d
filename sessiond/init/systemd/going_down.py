"""Whether the user's manager is going down: then what it stops was nobody's wish."""

from __future__ import annotations

from sessiond.init.systemd.direct import systemctl

_DEADLINE = 5.0


async def going_down() -> bool:
    """Whether all units are being stopped because their manager ends.

    Raises Unreachable `init_unavailable` where the manager does not answer.
    """
    _, output = await systemctl("is-system-running", deadline=_DEADLINE)
    return output.strip() in ("stopping", "offline")
