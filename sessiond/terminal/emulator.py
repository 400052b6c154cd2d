"""Makes screens: on Ghostty's core where that can be loaded, degraded ones where it cannot."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from sessiond.ports import Screen
from sessiond.terminal.fallback import DegradedScreen
from sessiond.terminal.queries import QueryFilter, QueryScanner

__all__ = ["QueryFilter", "QueryScanner", "make_screen"]

log = logging.getLogger(__name__)


def make_screen(columns: int, rows: int, scrollback: int) -> Screen:
    """A blank screen that keeps about so many lines that scroll off it. The first call loads the emulator.

    Raises Exhausted `screen_too_large`.
    """
    return _maker()(columns, rows, scrollback)


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
