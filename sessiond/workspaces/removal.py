"""Removing a folder with all it holds: links themselves and never what they lead to, one file system only."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sessiond.errors import PermissionDenied, SessiondError
from sessiond.workspaces.faults import from_os

_ENTER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REACH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _Level:
    """One folder on the way down: its name in the one above, who it is, what is left to remove in it."""

    name: str
    device: int
    inode: int
    left: list[str]


def remove_tree(parent: int, name: str, shown: Path, *, last: Sequence[str] = ()) -> None:
    """Remove the folder ``name`` of the open folder ``parent``; what ``last`` names in it goes last.

    Absent is fine; a link or a file of that name is removed itself. Two descriptors at a time, whatever the
    depth. Raises PermissionDenied `path_denied`, or `purge_refused` at a mount point, and stops there.
    """
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _Removal(shown, last).run(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os(error, shown) from error


class _Removal:
    """One removal as it goes on: down into each folder, and up again once it is empty."""

    def __init__(self, shown: Path, last: Sequence[str]) -> None:
        self._shown = shown
        self._last = last
        self._mount = ""
        self._levels: list[_Level] = []
        self._current = -1

    def run(self, parent: int, name: str) -> None:
        """Remove it all."""
        self._current = _entered(parent, name)
        try:
            self._mount = _mount_of(self._current)
            self._push(name)
            self._levels[0].left.sort(key=lambda one: one not in self._last)
            while self._levels[-1].left or len(self._levels) > 1:
                if self._levels[-1].left:
                    self._take(self._levels[-1].left.pop())
                else:
                    self._up()
        finally:
            os.close(self._current)
        os.rmdir(name, dir_fd=parent)

    def _take(self, name: str) -> None:
        """Remove one entry, or go down into it."""
        if _unlinked(self._current, name):
            return
        try:
            child = _entered(self._current, name)
        except FileNotFoundError:
            # Somebody else removes it too.
            return
        above = self._current
        self._current = child
        os.close(above)
        if _mount_of(child) != self._mount:
            path = self._path(name)
            raise PermissionDenied(
                "purge_refused",
                f"{path} is a mount point; it and what is left around it were not removed",
                hint=f"umount {path}",
                fields={"path": str(path)},
            )
        self._push(name)

    def _up(self) -> None:
        """Leave a folder that is empty, and remove it. A folder that was moved meanwhile ends it all."""
        done = self._levels.pop()
        above = self._levels[-1]
        parent = os.open("..", _ENTER, dir_fd=self._current)
        os.close(self._current)
        self._current = parent
        info = os.fstat(parent)
        if (info.st_dev, info.st_ino) != (above.device, above.inode):
            raise SessiondError("path_failed", f"{self._path(done.name)} was moved while it was removed")
        _rmdir(parent, done.name)

    def _push(self, name: str) -> None:
        info = os.fstat(self._current)
        self._levels.append(_Level(name, info.st_dev, info.st_ino, os.listdir(self._current)))

    def _path(self, name: str) -> Path:
        return self._shown.joinpath(*(level.name for level in self._levels[1:]), name)


def _unlinked(folder: int, name: str) -> bool:
    """Remove an entry unless it is a folder; whether that was all there was to do."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        try:
            os.unlink(name, dir_fd=folder)
        except PermissionError:
            _open_up(folder)
            os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    return True


def _rmdir(folder: int, name: str) -> None:
    """Remove an empty folder."""
    try:
        os.rmdir(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except PermissionError:
        _open_up(folder)
        os.rmdir(name, dir_fd=folder)


def _entered(folder: int, name: str) -> int:
    """Open a folder for listing; its owner is let in where its mode keeps even them out."""
    try:
        return os.open(name, _ENTER, dir_fd=folder)
    except PermissionError:
        reached = os.open(name, _REACH, dir_fd=folder)
        try:
            _open_up(reached)
        finally:
            os.close(reached)
        return os.open(name, _ENTER, dir_fd=folder)


def _open_up(folder: int) -> None:
    """Let the owner change a folder: caches of some tools are read-only down to the folders."""
    os.chmod(f"/proc/self/fd/{folder}", 0o700)


def _mount_of(folder: int) -> str:
    """Which mount an open folder lies on: also tells a bind mount of the same file system."""
    with suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{folder}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return line
    return str(os.fstat(folder).st_dev)
