"""Notices workspaces that are made, moved, deleted or rewritten, by inotify and without any timer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from asyncinotify import Event, Inotify, Mask

from sessiond.workspaces.identity_file import FILE, FOLDER
from sessiond.workspaces.watches import ENTRIES, GONE, Watches

log = logging.getLogger(__name__)

# Seconds: a burst ends when nothing came for the first, and is told at the latest after the second.
QUIET = 0.05
LONGEST = 0.5

_CAME = Mask.CREATE | Mask.MOVED_TO
_LEFT = Mask.DELETE | Mask.MOVED_FROM


@dataclass(frozen=True, slots=True)
class Rescan:
    """All may have changed: scan again. ``reason`` is for the log."""

    reason: str


@dataclass(slots=True)
class _News:
    """What came since it was last told."""

    changed: set[str] = field(default_factory=set)
    entered: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    rescan: str = ""
    placing: bool = False

    def __bool__(self) -> bool:
        return bool(self.changed or self.entered or self.left or self.rescan or self.placing)


class WorkspaceWatch:
    """Yields sets of folders to look at again, or Rescan; the first is a Rescan, once all is watched.

    Folders below the ``roots`` are watched to the depth of a scan, and so are the workspaces that
    ``set_workspaces`` names, wherever they lie. What cannot be watched is said in ``problems``.
    """

    def __init__(self, roots: Iterable[Path], *, depth: int) -> None:
        self._roots = tuple(map(str, roots))
        self._depth = depth
        self._workspaces: frozenset[str] = frozenset()
        self._news = _News(rescan="watching from now on")
        self._wake = asyncio.Event()
        self._wake.set()
        self._inotify: Inotify | None = None
        self._watches: Watches | None = None
        self.problems: list[str] = []

    async def __aenter__(self) -> WorkspaceWatch:
        try:
            self._inotify = Inotify(sync_timeout=0)
        except OSError as error:
            self._tell(
                f"folders cannot be watched ({error.strerror}): raise fs.inotify.max_user_instances; "
                "until then `sessionctl discover` finds what changed"
            )
            return self
        self._watches = Watches(self._inotify, self._roots, self._depth)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listen(on=False)
        if self._inotify is not None:
            self._inotify.close()
        self._inotify = self._watches = None

    def set_workspaces(self, workspaces: Iterable[Path]) -> None:
        """Watch these besides the roots, whether they exist or not; replaces the last call's."""
        wanted = frozenset(map(str, workspaces))
        if wanted != self._workspaces:
            self._workspaces = wanted
            self._news.placing = True
            self._wake.set()

    def __aiter__(self) -> WorkspaceWatch:
        return self

    async def __anext__(self) -> frozenset[Path] | Rescan:
        while True:
            self._listen(on=True)
            await self._burst()
            if self._watches is None:
                # Nothing can be watched; nothing will ever be told.
                continue
            news, self._news = self._news, _News()
            changed = await self._apply(self._watches, news)
            for problem in self._watches.take_problems():
                self._tell(problem)
            if news.rescan:
                return Rescan(news.rescan)
            if changed:
                return frozenset(map(Path, changed))

    async def _burst(self) -> None:
        """Return some moments after something came."""
        await self._wake.wait()
        loop = asyncio.get_running_loop()
        latest = loop.time() + LONGEST
        while loop.time() < latest:
            self._wake.clear()
            try:
                async with asyncio.timeout(QUIET):
                    await self._wake.wait()
            except TimeoutError:
                break
        self._wake.clear()

    async def _apply(self, watches: Watches, news: _News) -> set[str]:
        """Watch what came and leave what went, in a thread; the kernel keeps events meanwhile."""
        self._listen(on=False)
        work = asyncio.ensure_future(
            asyncio.to_thread(
                watches.apply,
                self._workspaces,
                entered=news.entered,
                left=news.left,
                rebuild=bool(news.rescan),
            )
        )
        try:
            found = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread works on the descriptor that is closed next.
            watches.stop()
            await asyncio.wait([work])
            raise
        return news.changed | found

    # ---- hearing

    def _listen(self, *, on: bool) -> None:
        if self._inotify is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inotify.fd)
        if on:
            loop.add_reader(self._inotify.fd, self._drain)

    def _drain(self) -> None:
        """Sort what the kernel holds; most of it is files that mean nothing here."""
        if self._inotify is None or self._watches is None:
            return
        while (event := self._inotify.sync_get()) is not None:
            self._sort(event, self._watches)
        if self._news:
            self._wake.set()

    def _sort(self, event: Event, watches: Watches) -> None:
        mask = event.mask
        if Mask.Q_OVERFLOW & mask:
            self._news.rescan = "more happened than the kernel could hold"
            return
        watch = event.watch
        path = None if watch is None else watches.path_of(watch)
        if watch is None or path is None:
            return
        if mask & Mask.IGNORED:
            watches.forget(watch)
        elif mask & GONE:
            self._sort_gone(path, watches)
        elif event.name is not None and mask & (ENTRIES | Mask.CLOSE_WRITE):
            self._sort_entry(path, str(event.name), mask, watches)

    def _sort_gone(self, path: str, watches: Watches) -> None:
        """A folder that is watched for its own sake was moved, deleted or unmounted."""
        self._news.left.add(path)
        if watches.leads(path):
            self._news.rescan = f"{path} was moved or deleted"
        else:
            self._news.changed.add(path.removesuffix("/" + FOLDER))

    def _sort_entry(self, folder: str, name: str, mask: Mask, watches: Watches) -> None:
        """Something in a folder came or went."""
        path = f"{folder.rstrip('/')}/{name}"
        if folder.endswith("/" + FOLDER):
            if name == FILE:
                self._news.changed.add(folder.removesuffix("/" + FOLDER))
        elif name == FOLDER:
            self._news.changed.add(folder)
            self._news.entered.add(folder)
            if mask & _LEFT:
                self._news.left.add(path)
        elif mask & _CAME and watches.awaits(folder, name):
            self._news.rescan = f"{path} came to be"
        elif mask & Mask.ISDIR and watches.enters(folder, name):
            (self._news.entered if mask & _CAME else self._news.left).add(path)

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
            log.warning("%s", problem)
