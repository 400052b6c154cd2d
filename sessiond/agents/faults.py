"""From the operating system's errors to ours, for files of agents."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from sessiond.errors import Exhausted, PermissionDenied, SessiondError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def open_file(path: Path, flags: int) -> int:
    """Open a file of an agent, or make it where the flags say so; never waits for a pipe.

    Raises OSError also where something else than a file stands in its place.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return fd


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
    return SessiondError(
        "state_failed", f"{path} cannot be {deed}: {reason}", hint="sessionctl doctor", fields=fields
    )
