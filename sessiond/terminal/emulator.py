"""Makes screens: on Ghostty's core where that can be loaded, degraded ones where it cannot."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from sessiond.ports import Screen
from sessiond.terminal.fallback import DegradedScreen
from sessiond.terminal.queries import QueryFilter, QueryScanner

__all__ = ["Emulator", "QueryFilter", "QueryScanner", "make_screen"]

log = logging.getLogger(__name__)


class Emulator:
    """Makes blank screens that keep about so many lines that scroll off; the first loads the emulator."""

    def __call__(self, columns: int, rows: int, scrollback: int) -> Screen:
        """Raises Exhausted `screen_too_large`."""
        return _maker()(columns, rows, scrollback)

    def plain(self, columns: int, rows: int, scrollback: int) -> Screen:
        """One that asks no library for anything."""
        return DegradedScreen(columns, rows, scrollback)

    @property
    def release(self) -> str:
        """Of the library, or a word for none."""
        return _release()


make_screen = Emulator()


@functools.cache
def _release() -> str:
    from importlib import metadata

    try:
        return metadata.version("pyghostty")
    except metadata.PackageNotFoundError:
        return "none"


@functools.cache
def _maker() -> Callable[[int, int, int], Screen]:
    # The library is loaded with its module, and tells in its own ways that it does not fit the machine (no
    # module, no library, a symbol that is missing): each of them means that there is no emulator here.
    try:
        from sessiond.terminal.ghostty import GhosttyScreen

        trial = GhosttyScreen(2, 2, 0)
        try:
            trial.feed(b"x")
            trial.drawing()
        finally:
            trial.close()
    except Exception as error:  # noqa: BLE001
        log.warning("no terminal emulator: screens are the plain end of the record: %s", error)
        return DegradedScreen
    return GhosttyScreen
