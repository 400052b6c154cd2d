"""What of a long run of plain text a screen need not be shown: lines that have scrolled off by its end.

A program that prints without end prints text. An emulator takes each line in turn, and ten million lines
take it a minute; of those only the last are on the screen, or can be scrolled back to.
"""

from __future__ import annotations

import re

# Shorter ones are not worth looking for.
LEAST = 1 << 16

_RUN = re.compile(rb"[\x20-\x7e\t\r\n]{%d,}" % LEAST)
# Margins: outside of them a line is written over the one before, and what that one left stays.
_MARGINS = re.compile(rb"\x1b\[[0-9;]*[0-9][0-9;]*[rs]|\x1b\[\?[0-9;]*69[0-9;]*h|\x9b")
_STRING = re.compile(rb"\x1b[\]P_^X]")
_SEQUENCE = 32
_LINE = b"\r\n"


class PlainText:
    """Shortens what a screen is fed, of which it keeps so many lines, until the program sets margins."""

    def __init__(self) -> None:
        self._margins = False
        # A sequence may come in two pieces.
        self._tail = b""

    def shortened(self, data: bytes, lines: int, *, inside: bool = False) -> bytes:
        """The data without lines that cannot be seen afterwards, by one that keeps so many lines.

        ``inside``: it goes on with a sequence that has begun, and is passed as it is.
        Each run keeps its first line, which may belong to what came before, and its last ones.
        """
        if self._margins:
            return data
        if _MARGINS.search(data) or _MARGINS.search(self._tail + data[:_SEQUENCE]):
            self._margins = True
            return data
        self._tail = (self._tail + data)[-_SEQUENCE:] if len(data) < _SEQUENCE else data[-_SEQUENCE:]
        if inside or len(data) < LEAST:
            return data
        parts = []
        begin = 0
        for run in _RUN.finditer(data):
            if _STRING.match(data, max(0, run.start() - 1)):
                # It is what a sequence says, and not on the screen.
                continue
            first = data.find(_LINE, *run.span())
            last = _nth_from_end(data, first, run.end(), lines + 1)
            if last > first >= 0:
                parts.append(data[begin : first + len(_LINE)])
                begin = last + len(_LINE)
        return b"".join([*parts, data[begin:]]) if parts else data


def _nth_from_end(data: bytes, start: int, end: int, count: int) -> int:
    """Where the last line end but so many begins, between two places; -1 where there are not so many."""
    if start < 0:
        return -1
    for _ in range(count):
        end = data.rfind(_LINE, start, end)
        if end < 0:
            return -1
    return end
