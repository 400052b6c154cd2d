"""Files that are a conversation each: which are known, in trouble or gone, whichever program's they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from sessiond.adapters.reading.ends import Stamp, malformed, unreadable
from sessiond.adapters.reading.stamps import Stamps
from sessiond.ports.discovery import Clear, Told


class HasId(Protocol):
    """What was read of a file."""

    @property
    def id(self) -> str:
        """The conversation's."""
        ...


T = TypeVar("T", bound=HasId)


class Tracked(Generic[T]):
    """``paths`` is what was read of each file, ``ids`` the files of each conversation: there may be several.
    ``touched`` takes the ids of which something else is to be told."""

    def __init__(self, adapter: str) -> None:
        self.paths: dict[str, T] = {}
        self.ids: dict[str, set[str]] = {}
        self._adapter = adapter
        self._stamps: Stamps[T] = Stamps()
        self._troubled: set[str] = set()

    def read(
        self, path: str, how: Callable[[str], tuple[T, Stamp] | str | None], touched: set[str]
    ) -> Iterator[Told]:
        """Read a file where it changed. ``how`` tells what it holds, or what is wrong with it, None where it
        is only about to be written, and raises OSError."""
        try:
            known = path in self.paths and path not in self._troubled
            if known and self._stamps.get(path) is not None:
                return
            read = how(path)
        except OSError as error:
            # A link that leads nowhere is no file that was deleted.
            if isinstance(error, FileNotFoundError) and not os.path.islink(path):
                yield from self._drop(path, touched)
                return
            # What was known of it stays: that it cannot be read now does not end it.
            self._troubled.add(path)
            yield unreadable(self._adapter, path, error)
            return
        if read is None and path not in self.paths:
            yield from self._clear(path)
            return
        if not isinstance(read, tuple):
            self._troubled.add(path)
            yield malformed(self._adapter, path, read or "nothing is left of what was in it")
            return
        value, stamp = read
        before = self.paths.get(path)
        if before is not None and before.id != value.id:
            yield from self._drop(path, touched)
        yield from self._clear(path)
        self._stamps.put(path, stamp, value)
        self.paths[path] = value
        self.ids.setdefault(value.id, set()).add(path)
        touched.add(value.id)

    def sweep(
        self, folder: str, there: Collection[str], closed: Mapping[str, OSError], touched: set[str]
    ) -> Iterator[Told]:
        """Tell which folders cannot be listed, and drop what was known in a folder and is not ``there``; what
        was known in those stays."""
        for path, error in closed.items():
            self._troubled.add(path)
            yield unreadable(self._adapter, path, error)
        below = folder.rstrip("/") + "/"
        known = {each for each in {*self.paths, *self._troubled} if f"{each}/".startswith(below)}
        for path in known - set(there) - closed.keys():
            if not any(path.startswith(f"{each}/") for each in closed):
                yield from self._drop(path, touched)

    def forget(self, folder: str) -> None:
        """Read all in a folder anew the next time."""
        for each in self.paths:
            if each.startswith(f"{folder}/"):
                self._stamps.forget(each)

    def _drop(self, path: str, touched: set[str]) -> Iterator[Told]:
        """A file is gone."""
        self._stamps.forget(path)
        yield from self._clear(path)
        value = self.paths.pop(path, None)
        if value is not None:
            touched.add(value.id)
            paths = self.ids[value.id]
            paths.discard(path)
            if not paths:
                del self.ids[value.id]

    def _clear(self, path: str) -> Iterator[Told]:
        if path in self._troubled:
            self._troubled.discard(path)
            yield Clear(path)
