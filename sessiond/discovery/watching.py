"""The inotify watches of one adapter: which folders, what changed in them, and what is not there yet.

Paths are texts here: there may be tens of thousands, and most work on them is cutting.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sessiond.discovery import kernel
from sessiond.discovery.kernel import Inotify
from sessiond.ports.discovery import Watched

# Folders that are watched. Each pins about 1 KiB in the kernel.
FOLDERS_MAX = 20_000
# What is read of a flood at a time.
_READS = 64
# What is missing may come to be while the folder that it will be in begins to be watched.
_TRIES = 5

_LOCK = ".lock"
_SELF = kernel.DELETE_SELF | kernel.MOVE_SELF
_GONE = _SELF | kernel.UNMOUNT
_CAME = kernel.CREATE | kernel.MOVED_TO
_LEFT = kernel.DELETE | kernel.MOVED_FROM
_ENTRIES = _CAME | _LEFT
_FILES = _ENTRIES | kernel.MODIFY | kernel.CLOSE_WRITE | kernel.ATTRIB
# Nothing tells that a lock is taken or left but the opening and closing of its file.
_LOCKING = kernel.OPEN | kernel.CLOSE_NOWRITE
_HOW = kernel.ONLYDIR | kernel.EXCL_UNLINK | kernel.MASK_ADD


@dataclass(slots=True)
class _Folder:
    """Why a folder is watched: which of what was asked for it belongs to, with the levels left below it;
    names that are awaited in it; ATTRIB where one of them is closed to us; and whether its moving moves what
    was asked for."""

    wd: int
    mask: int = 0
    levels: dict[int, int] = field(default_factory=dict)
    awaited: set[str] = field(default_factory=set)
    closed: int = 0
    leads: bool = False


class Watching:
    """What an adapter wants to be watched. ``problems`` are paths and reasons of what cannot be."""

    def __init__(self) -> None:
        self._watched: tuple[Watched, ...] = ()
        self._inotify: Inotify | None = None
        self._folders: dict[str, _Folder] = {}
        self._paths: dict[int, list[str]] = {}
        self._full = False
        self.problems: dict[str, str] = {}

    def fileno(self) -> int:
        """What to poll; it changes with ``watch`` and with ``read``; -1 where nothing can be watched."""
        return self._inotify.fileno() if self._inotify else -1

    @property
    def watched(self) -> tuple[Watched, ...]:
        """What is watched."""
        return self._watched

    def watch(self, watched: Sequence[Watched]) -> None:
        """Watch this from now on, in place of what was."""
        self._watched = tuple(watched)
        self._build()

    def read(self) -> set[str] | None:
        """What changed: files, and folders that came or went, with the files in those that came. None where
        all may have. Does not block, and stops reading a flood now and then."""
        changed: set[str] = set()
        for _ in range(_READS):
            events = self._inotify.read() if self._inotify else []
            if not events:
                break
            for event in events:
                if event.mask & kernel.Q_OVERFLOW or not self._take(event, changed):
                    self._build()
                    return None
        return changed

    def close(self) -> None:
        """Watch nothing; idempotent."""
        if self._inotify:
            self._inotify.close()
            self._inotify = None

    # ---- keeping the set

    def _build(self) -> None:
        """Begin anew. Who calls it takes all for changed, so that nothing is missed in between."""
        self.close()
        self._folders, self._paths, self.problems, self._full = {}, {}, {}, False
        try:
            self._inotify = Inotify()
        except OSError as error:
            for one in self._watched:
                self.problems[one.folder] = (
                    f"it is not watched ({error.strerror}): raise fs.inotify.max_user_instances; "
                    "changes there show when asked for"
                )
            return
        for index, one in enumerate(self._watched):
            self._place(index, one)

    def _place(self, index: int, one: Watched) -> None:
        """Watch a folder that was asked for, and what leads to it."""
        folder = os.path.abspath(one.folder)
        for _ in range(_TRIES):
            self._lead(folder)
            real = os.path.realpath(folder)
            if real != folder:
                self._lead(real)
            if os.path.isdir(folder):
                self._enter(folder, {index: one.depth}, None)
                if folder in self.problems:
                    self._await_opening(folder)
                return
            if self._await(folder):
                return

    def _lead(self, target: str) -> None:
        """Hear of it when a folder above is moved, and when a link on the way is made anew."""
        for folder, name in _steps(target):
            link = os.path.islink(os.path.join(folder, name))
            if (folder != "/" or link) and self._add(folder, _SELF | (_ENTRIES if link else 0)):
                self._folders[folder].leads = True
                if link:
                    self._folders[folder].awaited.add(name)

    def _await(self, target: str) -> bool:
        """Hear of it when what is not there comes to be; False where it just did."""
        for folder, name in _steps(target):
            if self._add(folder, _ENTRIES | _SELF):
                self._folders[folder].awaited.add(name)
                return not os.path.isdir(os.path.join(folder, name))
        return True

    def _await_opening(self, target: str) -> None:
        """Hear of it when what is closed to us is opened."""
        folder, _, name = target.rpartition("/")
        if name and self._add(folder or "/", _SELF | kernel.ATTRIB):
            self._folders[folder or "/"].awaited.add(name)
            self._folders[folder or "/"].closed = kernel.ATTRIB

    def _enter(self, top: str, levels: dict[int, int], found: set[str] | None) -> None:
        """Watch a folder and those below it; ``found`` takes what is in them."""
        waiting = [(top, levels)]
        while waiting:
            path, levels = waiting.pop()
            known = self._folders.get(path)
            # A link may lead back to where it is; the same place with no more levels left is no news then.
            if found is None and known and all(known.levels.get(i, -1) >= left for i, left in levels.items()):
                continue
            # The watch comes before the listing: what is made between the two is then heard of.
            if not self._add(path, self._mask(levels)):
                continue
            folder = self._folders[path]
            for index, left in levels.items():
                folder.levels[index] = max(left, folder.levels.get(index, 0))
            below = {index: left - 1 for index, left in levels.items() if left > 0}
            if found is not None:
                found.add(path)
            elif not below:
                continue
            for name, is_folder in self._list(path):
                place = os.path.join(path, name)
                if is_folder and below:
                    waiting.append((place, below))
                elif found is not None and not is_folder and self._matters(levels, name):
                    found.add(place)

    def _leave(self, top: str) -> None:
        """A folder went, with all below it."""
        for path in [one for one in self._folders if one == top or one.startswith(top + "/")]:
            self._forget(path)
        for path in [one for one in self.problems if one == top or one.startswith(top + "/")]:
            del self.problems[path]

    def _forget(self, path: str) -> None:
        folder = self._folders.pop(path)
        others = self._paths[folder.wd]
        others.remove(path)
        if not others:
            del self._paths[folder.wd]
            if self._inotify:
                self._inotify.remove(folder.wd)

    def _add(self, path: str, mask: int) -> bool:
        """Watch a folder for this besides what it is watched for; whether it is there."""
        known = self._folders.get(path)
        if known and known.mask & mask == mask:
            return True
        if self._inotify is None or (known is None and self._full):
            return False
        if known is None and len(self._folders) >= FOLDERS_MAX:
            self._say_full(path, f"more than {FOLDERS_MAX} folders")
            return False
        try:
            wd = self._inotify.add(path, mask | _HOW)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._say_full(path, "fs.inotify.max_user_watches is reached, raise it")
            elif error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.problems[path] = f"it cannot be watched: {os.strerror(error.errno or 0)}"
            return False
        if known and known.wd != wd:
            # Another folder is in its place, which is still to be told.
            self._forget(path)
            known = None
        if known is None:
            known = self._folders[path] = _Folder(wd)
            self._paths.setdefault(wd, []).append(path)
        known.mask |= mask
        return True

    def _say_full(self, path: str, reason: str) -> None:
        self._full = True
        self.problems[path] = f"it and others are not watched: {reason}; changes there show when asked for"

    def _mask(self, levels: dict[int, int]) -> int:
        locks = any(name.endswith(_LOCK) for index in levels for name in self._watched[index].suffixes)
        return _FILES | _SELF | (_LOCKING if locks else 0)

    def _list(self, path: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(path) as entries:
                return [(entry.name, _is_folder(entry)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            # Gone by now, which is told on its own.
            return []
        except OSError as error:
            self.problems[path] = f"it cannot be listed: {error.strerror}"
            return []

    # ---- events

    def _take(self, event: kernel.Event, changed: set[str]) -> bool:
        """Add to what changed; False where all is to be watched anew."""
        wd, mask, name = event
        for path in list(self._paths.get(wd, ())):
            folder = self._folders.get(path)
            if folder is None:
                continue
            if mask & kernel.IGNORED:
                self._forget_ignored(path)
            elif mask & _GONE:
                if folder.leads or folder.awaited or self._is_root(path):
                    return False
                self._leave(path)
                changed.add(path)
            elif name in folder.awaited and mask & (_ENTRIES | folder.closed):
                return False
            elif not name and mask & kernel.ATTRIB and self._is_root(path):
                # It may be closed now, or opened again.
                return False
            elif name:
                self._take_entry(folder, os.path.join(path, name), name, mask, changed)
        return True

    def _forget_ignored(self, path: str) -> None:
        """The kernel dropped a watch, and its number with it."""
        folder = self._folders.pop(path)
        self._paths.pop(folder.wd, None)

    def _take_entry(self, folder: _Folder, path: str, name: str, mask: int, changed: set[str]) -> None:
        below = {index: left - 1 for index, left in folder.levels.items() if left > 0}
        if mask & _LEFT and path in self._folders:
            self._leave(path)
            changed.add(path)
        elif mask & kernel.ISDIR or (below and mask & _CAME and os.path.isdir(path) and not _leads_up(path)):
            self._take_folder(below, path, mask, changed)
            if not below and self._in_place_of_file(folder.levels, name):
                changed.add(path)
        elif self._matters(folder.levels, name) and (mask & _FILES or name.endswith(_LOCK)):
            changed.add(path)

    def _take_folder(self, below: dict[int, int], path: str, mask: int, changed: set[str]) -> None:
        """A folder in one of ours came, or may be entered now."""
        if below and (mask & _CAME or (mask & kernel.ATTRIB and path in self.problems)):
            self.problems.pop(path, None)
            changed.add(path)
            self._enter(path, below, changed)
        elif below and mask & (_LEFT | kernel.ATTRIB):
            # Also one that was closed, or opened again.
            changed.add(path)

    def _in_place_of_file(self, levels: dict[int, int], name: str) -> bool:
        """Whether a folder has the name that a file is looked for by."""
        return any(name.endswith(each) for index in levels for each in self._watched[index].suffixes)

    def _is_root(self, path: str) -> bool:
        return any(path == os.path.abspath(one.folder) for one in self._watched)

    def _matters(self, levels: dict[int, int], name: str) -> bool:
        for index in levels:
            suffixes = self._watched[index].suffixes
            if not suffixes or any(name.endswith(one) or name.startswith(one) for one in suffixes):
                return True
        return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads round in a circle is none, nor one up: below it
    is the whole of a home, or of the machine."""
    try:
        return entry.is_dir() and not (entry.is_symlink() and _leads_up(entry.path))
    except OSError:
        return False


def _leads_up(path: str) -> bool:
    """Whether it leads to the folder that it is in, or to one above that."""
    return f"{os.path.realpath(os.path.dirname(path))}/".startswith(os.path.realpath(path).rstrip("/") + "/")


def _steps(target: str) -> Iterator[tuple[str, str]]:
    """From a path upwards: each folder, and the name in it that leads towards the path."""
    while target != "/":
        folder, _, name = target.rpartition("/")
        yield folder or "/", name
        target = folder or "/"
