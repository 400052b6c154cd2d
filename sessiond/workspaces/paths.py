"""Paths of workspaces as people give them: checked, and in the one form that a folder has."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from sessiond.errors import InvalidArgument, NotFound
from sessiond.workspaces.faults import denied, from_os
from sessiond.workspaces.identity_file import FOLDER

# The kernel takes 4095 bytes; the identity's own path must fit behind.
PATH_MAX = 4000


def check_workspace_path(text: str, *, create: bool = False) -> Path:
    """The real path of a folder that can hold a session; ``create`` makes its last part if missing.

    Two paths of one folder come out the same. Raises InvalidArgument `path_invalid` (relative, too long, a
    file), NotFound `path_missing`, PermissionDenied `path_denied`, Exhausted `disk_full`.
    """
    given = check_form(text)
    try:
        path = given.resolve(strict=True)
    except FileNotFoundError:
        path = _make(given) if create else _missing(given)
    except RuntimeError as error:
        # What pathlib makes of symbolic links that lead to each other.
        raise _invalid(text, "its symbolic links go round in circles") from error
    except OSError as error:
        raise from_os(error, given) from error
    check_form(str(path))
    if FOLDER in path.parts:
        raise _invalid(str(path), f"it lies in a {FOLDER} folder")
    _check_folder(path)
    return path


def check_form(text: str) -> Path:
    """The path if its form is right, whatever is there; raises InvalidArgument `path_invalid`."""
    if not text:
        raise _invalid(text, "it is empty")
    if "\0" in text:
        raise _invalid(text, "it holds a NUL")
    if not text.startswith("/"):
        raise _invalid(text, "it is relative")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise _invalid(text, "it is not UTF-8") from error
    if size > PATH_MAX:
        raise _invalid(text, f"it has {size} bytes, and {PATH_MAX} fit")
    return Path(text)


def _make(given: Path) -> Path:
    """Make the last part of a path whose other parts exist; its real path."""
    try:
        parent = given.parent.resolve(strict=True)
    except FileNotFoundError:
        _missing(given.parent)
    except (OSError, RuntimeError) as error:
        raise _invalid(str(given), "its parent cannot be reached") from error
    path = parent / given.name
    if not given.name or given.name == ".." or path.is_symlink():
        raise _invalid(str(given), "it leads to nothing")
    if FOLDER in path.parts:
        raise _invalid(str(path), f"it lies in a {FOLDER} folder")
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise from_os(error, path) from error
    return path


def _check_folder(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise from_os(error, path) from error
    if not stat.S_ISDIR(mode):
        raise _invalid(str(path), "it is not a folder")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise denied(path, "it cannot be written to")


def _missing(path: Path) -> NoReturn:
    raise NotFound(
        "path_missing",
        f"{path} does not exist",
        hint="of a new workspace only the last part is made",
        fields={"path": str(path)},
    )


def _invalid(text: str, reason: str) -> InvalidArgument:
    shown = repr(text if len(text) <= 200 else text[:200] + "…")
    return InvalidArgument(
        "path_invalid",
        f"{shown} cannot be a workspace: {reason}",
        hint="give the absolute path of a folder",
        fields={"path": shown},
    )
