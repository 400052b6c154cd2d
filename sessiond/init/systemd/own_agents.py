"""Ending what runs in a session beside its daemon: asked by a daemon that is told to stop."""

from __future__ import annotations

from sessiond.init.systemd.direct import systemctl
from sessiond.model.unit import agents_slice


async def end_agents(session: str, *, deadline: float) -> None:
    """Stop the agents' slice and return when it is stopped; absent is fine, and so is one that goes anyway.

    Raises Unreachable `init_unavailable` where there is no answer after ``deadline`` seconds.
    """
    await systemctl("stop", "--", agents_slice(session), deadline=deadline)
