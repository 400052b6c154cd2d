"""What those are told who ask a session's daemon that is ending."""

from __future__ import annotations

from sessiond.errors import Unreachable


def leaving(hint: str = "try again") -> Unreachable:
    """The error of a daemon that knows nothing new any more: whatever runs, its successor tells of it."""
    return Unreachable(
        "daemon_restarting",
        "the session's daemon ends; what it started goes on, unless the session is stopped",
        hint=hint,
    )
