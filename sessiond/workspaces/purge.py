"""`delete --purge`: what must never be removed, and the removal of what may."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from sessiond.errors import PermissionDenied, SessiondError
from sessiond.paths import Paths
from sessiond.workspaces import identity_file
from sessiond.workspaces.faults import from_os
from sessiond.workspaces.removal import remove_tree

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOUNTS = Path("/proc/self/mountinfo")


def check_purge(
    workspace: Path, session: str, roots: Iterable[Path] = (), others: Iterable[Path] = ()
) -> None:
    """Raise PermissionDenied `purge_refused` where the folder must not be removed with all it holds.

    That is `/`, a home folder, one of ``roots``, a folder of sessiond's own, one of ``others`` (workspaces of
    other sessions), anything that holds one of these, a mount point or what holds one, and whatever is not
    the workspace of ``session``.
    """
    if not workspace.is_absolute() or workspace != workspace.parent.resolve() / workspace.name:
        _refuse(workspace, "it is not the real path of a folder")
    for place, what in _protected(roots, others):
        if place.is_relative_to(workspace):
            _refuse(workspace, f"it is {what}" if place == workspace else f"{place} lies in it: {what}")
    for mount in _mounts():
        if mount.is_relative_to(workspace):
            _refuse(workspace, "it is a mount point" if mount == workspace else f"{mount} is mounted in it")
    _check_identity(workspace, session)


def purge(workspace: Path, session: str, roots: Iterable[Path] = (), others: Iterable[Path] = ()) -> None:
    """Remove a session's workspace with all it holds, the identity last. Blocks: call it in a thread.

    Checks as ``check_purge`` does; never follows a link, never leaves the file system. What it could not
    remove stays, and with it the identity, so that it can be tried again. Raises also PermissionDenied
    `path_denied`.
    """
    check_purge(workspace, session, roots, others)
    try:
        parent = os.open(workspace.parent, _OPEN)
    except OSError as error:
        raise from_os(error, workspace.parent) from error
    try:
        _check_same(parent, workspace, session)
        remove_tree(parent, workspace.name, workspace, last=(identity_file.FOLDER,))
        os.fsync(parent)
    finally:
        os.close(parent)


def _check_same(parent: int, workspace: Path, session: str) -> None:
    """Whether the folder that will be entered from here is the session's, whatever happened to its path."""
    try:
        folder = os.open(workspace.name, _OPEN, dir_fd=parent)
    except OSError as error:
        raise from_os(error, workspace) from error
    try:
        held = identity_file.read_at(folder, workspace).id
    finally:
        os.close(folder)
    if held != session:
        _refuse(workspace, f"it is the workspace of session {held}")


def _check_identity(workspace: Path, session: str) -> None:
    try:
        held = identity_file.read(workspace).id
    except SessiondError as error:
        raise PermissionDenied(
            "purge_refused",
            f"{workspace} is not removed: it is not known to be this session's workspace ({error.message})",
            hint="delete the session without --purge, and remove the folder by hand",
            fields={"path": str(workspace), "session": session},
        ) from error
    if held != session:
        _refuse(workspace, f"it is the workspace of session {held}")


def _protected(roots: Iterable[Path], others: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Paths that must stay, and what each is; as written and as real paths."""
    named = [(Path("/"), "the root of the file system")]
    named += [(home, "a home folder") for home in _homes()]
    named += [(Path(root), "a root of discovery") for root in roots]
    named += [(Path(other), "the workspace of another session") for other in others]
    paths = Paths.from_environment()
    named += [
        (own, "a folder of sessiond's own") for own in (paths.runtime, paths.state, paths.data, paths.config)
    ]
    for path, what in named:
        yield path, what
        with suppress(OSError, RuntimeError):
            yield path.resolve(), what


def _homes() -> set[Path]:
    """Every user's home folder, and the one that this process was told."""
    homes = {Path(entry.pw_dir) for entry in pwd.getpwall()} | {Path(os.environ.get("HOME") or "/")}
    return {home for home in homes if home.is_absolute()}


def _mounts() -> list[Path]:
    """Where something is mounted; raises PermissionDenied `purge_refused` where that cannot be told."""
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError as error:
        raise PermissionDenied(
            "purge_refused",
            f"what is mounted where cannot be told: {_MOUNTS}: {error.strerror}",
            hint="delete the session without --purge; its files then stay",
        ) from error
    return [Path(_unescaped(os.fsdecode(line.split(b" ")[4]))) for line in lines]


def _unescaped(text: str) -> str:
    r"""A path as the kernel writes it there: space, tab, newline and backslash as `\040` and the like."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _refuse(workspace: Path, reason: str) -> NoReturn:
    raise PermissionDenied(
        "purge_refused",
        f"{workspace} is not removed: {reason}",
        hint="delete the session without --purge; its files then stay",
        fields={"path": str(workspace)},
    )
