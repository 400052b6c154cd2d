"""What was read of files, kept for as long as they stay the same: unchanged ones are not opened again."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Final, Generic, TypeVar

from sessiond.adapters.reading.ends import Stamp, stamp

T = TypeVar("T")

# Times of files advance in steps of the kernel's clock (10 ms at most): what was changed within such a step
# before it was read may change once more without showing it.
_STEP_NS: Final = 20_000_000


class Stamps(Generic[T]):
    """By path: a file's stamp and what was read of it."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Stamp, T]] = {}

    def get(self, path: str) -> T | None:
        """What was read of it, where it is still the same file; costs one stat. Raises OSError."""
        kept = self._kept.get(path)
        if kept is None:
            return None
        try:
            same = stamp(os.stat(path)) == kept[0]
        except OSError:
            del self._kept[path]
            raise
        return kept[1] if same else None

    def put(self, path: str, seen: Stamp, value: T) -> None:
        """Keep what was read of a file as it was then; not if it was changed that very moment."""
        if time.time_ns() - seen[4] < _STEP_NS:
            self._kept.pop(path, None)
        else:
            self._kept[path] = seen, value

    def forget(self, path: str) -> None:
        """Keep nothing of it."""
        self._kept.pop(path, None)

    def only(self, paths: Collection[str]) -> None:
        """Forget all others: they are gone."""
        for path in self._kept.keys() - set(paths):
            del self._kept[path]

    def __len__(self) -> int:
        return len(self._kept)
