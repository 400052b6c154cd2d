"""The set of inotify watches: below the roots, on workspaces elsewhere, and on what leads to both.

Paths are texts here: there may be tens of thousands, and most work on them is cutting.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress

from asyncinotify import Inotify, Mask, Watch

from sessiond.workspaces.identity_file import FOLDER

# Folders below the roots that are watched, those near a root first. Each pins about 1 KiB in the kernel.
FOLDERS_MAX = 20_000

ENTRIES = Mask.CREATE | Mask.DELETE | Mask.MOVED_FROM | Mask.MOVED_TO
SELF = Mask.DELETE_SELF | Mask.MOVE_SELF
GONE = SELF | Mask.UNMOUNT

_OWN = ENTRIES | SELF | Mask.CLOSE_WRITE
_HOW = Mask.ONLYDIR | Mask.DONT_FOLLOW | Mask.EXCL_UNLINK
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
# What is missing may come to be while the folder that it will be in begins to be watched.
_TRIES = 5


class Watches:
    """Which folders are watched, and for what. ``apply`` blocks: call it in a thread, one at a time."""

    def __init__(self, inotify: Inotify, roots: Iterable[str], depth: int) -> None:
        self._inotify = inotify
        self._given = tuple(roots)
        self._depth = depth
        # Real paths of the roots that are there, with their devices; and those that are not there.
        self._roots: dict[str, int] = {}
        self._missing: list[str] = []
        # Folders below the roots, with the levels that are left below each; workspaces among them.
        self._tree: dict[str, int] = {}
        self._found: set[str] = set()
        # What is wanted of folders for the sake of workspaces and roots.
        self._placed: dict[str, Mask] = {}
        self._above: set[str] = set()
        self._awaited: dict[str, set[str]] = {}
        # What is watched.
        self._masks: dict[str, Mask] = {}
        self._watches: dict[str, Watch] = {}
        self._paths: dict[int, str] = {}
        self._problems: list[str] = []
        self._full = False
        self._stopped = False

    # ---- asked by who hears the events

    def path_of(self, watch: Watch) -> str | None:
        """The folder that a watch is on, or None where it is no longer wanted."""
        return self._paths.get(watch.wd)

    def forget(self, watch: Watch) -> None:
        """The kernel dropped a watch."""
        path = self._paths.pop(watch.wd, None)
        if path is not None and self._watches.get(path) is watch:
            del self._watches[path], self._masks[path]

    def leads(self, path: str) -> bool:
        """Whether a folder leads to what is watched: when it is moved, all below it is elsewhere."""
        return path in self._above or path in self._roots

    def awaits(self, folder: str, name: str) -> bool:
        """Whether this name was missing in that folder, and it matters that it comes."""
        return name in self._awaited.get(folder, ())

    def enters(self, folder: str, name: str) -> bool:
        """Whether a folder of this name in that one is part of what is scanned."""
        return self._tree.get(folder, 0) > 0 and not name.startswith(".") and self._goes_on(folder)

    def take_problems(self) -> list[str]:
        """What could not be watched since the last call."""
        problems, self._problems = self._problems, []
        return problems

    def stop(self) -> None:
        """Have ``apply`` return soon."""
        self._stopped = True

    # ---- keeping the set

    def apply(
        self, workspaces: frozenset[str], *, entered: set[str], left: set[str], rebuild: bool
    ) -> set[str]:
        """Bring the set up to date; returns the workspaces that came, went, or are watched from now on."""
        before = set(self._watches)
        self._full = False
        if rebuild:
            # Workspaces that are known come before folders that may hold some, should there be a limit.
            self._clear()
            self._place(workspaces)
            for root in self._roots:
                self._walk(root, self._depth, root)
            changed: set[str] = set()
        else:
            changed = self._leave(left) if left else set()
            for path in sorted(entered):
                changed |= self._enter(path)
        self._place(workspaces)
        return changed | (workspaces & (self._watches.keys() - before))

    def _clear(self) -> None:
        """Begin anew: watch nothing, and look which roots there are."""
        for path in list(self._watches):
            self._drop(path)
        self._tree, self._found, self._placed, self._awaited = {}, set(), {}, {}
        self._roots, self._missing = {}, []
        for given in self._given:
            try:
                real = os.path.realpath(given, strict=True)
                info = os.stat(real)
            except OSError:
                self._missing.append(given)
                continue
            if stat.S_ISDIR(info.st_mode):
                self._roots[real] = info.st_dev
            else:
                self._missing.append(given)

    def _enter(self, path: str) -> set[str]:
        """A folder came, or became or ceased to be a workspace; returns the workspaces in it."""
        levels = [
            (self._depth - path.count("/", len(root.rstrip("/"))), root)
            for root in self._roots
            if path == root or path.startswith(root.rstrip("/") + "/")
        ]
        left, root = max(levels, default=(-1, ""))
        return self._walk(path, left, root) if left >= 0 else set()

    def _walk(self, top: str, left: int, root: str) -> set[str]:
        """Watch a folder and those below it, level by level; returns the workspaces among them."""
        found: set[str] = set()
        ended: set[str] = set()
        waiting = deque([(top, left)])
        while waiting and not self._stopped:
            path, left = waiting.popleft()
            if path != top and self._tree.get(path, -1) >= left:
                continue
            if len(self._tree) >= FOLDERS_MAX:
                self._say_partly(f"there are more than {FOLDERS_MAX} of them")
                break
            known = path in self._tree
            self._tree[path] = left
            # The watch comes before the listing: what is made between the two is then heard of.
            if not self._settle(path):
                self._tree.pop(path, None)
                continue
            below = _folders(path, self._roots[root])
            if FOLDER in below:
                found.add(path)
                self._found.add(path)
            else:
                self._found.discard(path)
            if self._goes_on(path):
                waiting.extend(
                    (f"{path.rstrip('/')}/{name}", left - 1)
                    for name in below
                    if left > 0 and not name.startswith(".")
                )
            elif known:
                ended.add(path)
        if ended:
            self._leave_below(ended)
        return found

    def _goes_on(self, path: str) -> bool:
        """Whether what lies in a folder is looked at: a workspace ends its branch, a root does not."""
        return path not in self._found or path in self._roots

    def _leave(self, paths: set[str]) -> set[str]:
        """Folders went: drop what is watched of them; returns the workspaces that lay there."""
        lost = {one for one in self._found if _within(one, paths)}
        self._found -= lost
        for path in [one for one in self._tree if _within(one, paths)]:
            del self._tree[path]
        for path in [one for one in self._watches if _within(one, paths)]:
            self._drop(path)
        return lost

    def _leave_below(self, paths: set[str]) -> None:
        """What lies in these folders is no longer scanned."""
        for path in [one for one in self._tree if one not in paths and _within(one, paths)]:
            del self._tree[path]
            self._found.discard(path)
            self._settle(path)

    def _place(self, workspaces: frozenset[str]) -> None:
        """Watch workspaces wherever they lie, and what leads to them and to the roots."""
        targets = [*self._roots, *self._missing, *workspaces]
        for _ in range(_TRIES):
            self._want(targets, workspaces)
            gone = [one for one in targets if not self._settle(one)]
            if self._await(gone):
                return

    def _want(self, targets: Iterable[str], workspaces: frozenset[str]) -> None:
        """Work out what is wanted of which folders, and have it so."""
        self._above = {
            folder
            for target in targets
            for folder, _ in _steps(target)
            if folder not in self._tree or folder in self._roots
        }
        placed: dict[str, Mask] = defaultdict(lambda: Mask.ZERO)
        for path in self._above | self._roots.keys():
            placed[path] |= SELF
        for path in workspaces:
            placed[path] |= ENTRIES if path in self._tree else ENTRIES | SELF
        for path in workspaces | self._found:
            placed[f"{path.rstrip('/')}/{FOLDER}"] |= _OWN
        stale = self._placed.keys() - placed.keys()
        self._placed = dict(placed)
        for path in [*self._placed, *stale]:
            self._settle(path)

    def _await(self, missing: Iterable[str]) -> bool:
        """Have it noticed when what is not there comes to be; False where it just did."""
        before, self._awaited = self._awaited, {}
        whole = True
        for target in missing:
            for folder, name in _steps(target):
                names = self._awaited.setdefault(folder, set())
                if self._settle(folder):
                    names.add(name)
                    whole = whole and not _is_folder(f"{folder.rstrip('/')}/{name}")
                    break
                del self._awaited[folder]
        for folder in before.keys() - self._awaited.keys():
            self._settle(folder)
        return whole

    # ---- single watches

    def _settle(self, path: str) -> bool:
        """Watch a folder for all that is wanted of it; whether it is there and wanted."""
        wanted = self._placed.get(path, Mask.ZERO)
        if path in self._tree or path in self._awaited:
            wanted |= ENTRIES
        if not wanted:
            self._drop(path)
            return False
        return wanted == self._masks.get(path) or self._add(path, wanted)

    def _add(self, path: str, wanted: Mask) -> bool:
        if self._full and path not in self._watches:
            return False
        try:
            watch = self._inotify.add_watch(path, wanted | _HOW)
        except OSError as error:
            self._drop(path)
            if error.errno == errno.ENOSPC:
                self._full = True
                self._say_partly("fs.inotify.max_user_watches is reached")
            elif error.errno not in _NOT_THERE and path in self._placed:
                self._problems.append(f"{path} cannot be watched: {os.strerror(error.errno or 0)}")
            return False
        other = self._paths.get(watch.wd)
        if other is not None and other != path:
            # One folder under two paths (a bind mount, or a move not yet heard of): the later one counts.
            self._watches.pop(other, None)
            self._masks.pop(other, None)
        self._paths[watch.wd] = path
        self._watches[path] = watch
        self._masks[path] = wanted
        return True

    def _drop(self, path: str) -> None:
        watch = self._watches.pop(path, None)
        self._masks.pop(path, None)
        if watch is not None:
            self._paths.pop(watch.wd, None)
            # The kernel may have dropped it first, with the folder.
            with suppress(OSError):
                self._inotify.rm_watch(watch)

    def _say_partly(self, reason: str) -> None:
        self._problems.append(
            f"not all folders below the roots are watched, {reason}; "
            "`sessionctl discover` finds what changed in the others"
        )


def _steps(target: str) -> Iterator[tuple[str, str]]:
    """From a path upwards: each folder, and the name in it that leads towards the path."""
    while target != "/":
        folder, _, name = target.rpartition("/")
        yield folder or "/", name
        target = folder or "/"


def _within(path: str, tops: set[str]) -> bool:
    return path in tops or any(folder in tops for folder, _ in _steps(path))


def _is_folder(path: str) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.lstat(path).st_mode)
    return False


def _folders(path: str, device: int) -> list[str]:
    """Names of the real folders in a folder; none where it is on another file system."""
    try:
        if os.lstat(path).st_dev != device:
            return []
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        # Gone by now, which is told on its own, or not ours to list, which the scan tells.
        return []
