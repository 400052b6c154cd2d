"""From the operating system's errors to ours, for files of agents."""

from __future__ import annotations

import errno
from pathlib import Path

from sessiond.errors import Exhausted, PermissionDenied, SessiondError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def fault(error: OSError, path: Path, deed: str) -> SessiondError:
    """The error of a deed (`written`, `read`) on a file of an agent."""
    reason = error.strerror or str(error)
    fields = {"path": str(path)}
    if error.errno in FULL:
        return Exhausted(
            "disk_full", f"{path} cannot be {deed}: {reason}", hint="free some disk space", fields=fields
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDenied(
            "state_denied",
            f"{path} cannot be {deed}: {reason}",
            hint="the state folder must be yours and writable: sessionctl doctor",
            fields=fields,
        )
    return SessiondError("state_failed", f"{path} cannot be {deed}: {reason}", fields=fields)
