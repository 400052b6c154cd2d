"""From the operating system's errors about a path to errors that a person can act on."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

from sessiond.errors import Exhausted, InvalidArgument, NotFound, PermissionDenied, SessiondError

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_INVALID = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def from_os(error: OSError, path: Path) -> SessiondError:
    """The error to raise for what the operating system said about a path.

    NotFound `path_missing`, PermissionDenied `path_denied`, Exhausted `disk_full`, InvalidArgument
    `path_invalid`, or the root error `path_failed` (a disk that fails, a network that is gone).
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    fields = {"path": str(path)}
    if error.errno == errno.ENOENT:
        return NotFound("path_missing", f"{path} does not exist", fields=fields)
    if error.errno in _DENIED:
        return denied(path, reason)
    if error.errno in _FULL:
        hint = "make room, then try again"
        return Exhausted("disk_full", f"no room to write {path}", hint=hint, fields=fields)
    if error.errno in _INVALID:
        return InvalidArgument("path_invalid", f"{path}: {reason}", fields=fields)
    return SessiondError("path_failed", f"{path}: {reason}", fields=fields)


def denied(path: Path, reason: str) -> PermissionDenied:
    """The error where the operating system lets us not do what must be done with a path."""
    return PermissionDenied(
        "path_denied",
        f"{path}: {reason}",
        hint=f"look at its owner and mode: ls -ld {shlex.quote(str(path))}",
        fields={"path": str(path)},
    )
