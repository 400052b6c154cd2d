"""What of a long run of plain text a screen need not be shown: lines that have scrolled off by its end.

A program that prints without end prints text. An emulator takes each line in turn, and ten million lines
take it a minute; of those only the last are on the screen, or can be scrolled back to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Shorter ones are not worth looking for.
LEAST = 1 << 16

# A run that is worth it fills one of the windows of this size that the data is cut into.
_WINDOW = LEAST // 2
_PLAIN = re.compile(rb"[\x20-\x7e\t\r\n]*")
_UP_TO_OTHER = re.compile(rb".*[^\x20-\x7e\t\r\n]", re.DOTALL)
# Margins: outside of them a line is written over the one before, and what that one left stays. A sequence
# with more in it than any has that is meant is taken for one.
_MARGINS = re.compile(rb"\x1b\[[0-9;:]{1,32}[rs]|\x1b\[[0-9;:]{33}")
_STRING = re.compile(rb"\x1b[\]P_^X]")
_SEQUENCE = 40
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
        for start, end in _runs(data):
            if _STRING.match(data, max(0, start - 1)):
                # It is what a sequence says, and not on the screen.
                continue
            first = data.find(_LINE, start, end)
            last = _nth_from_end(data, first, end, lines + 1)
            if last > first >= 0:
                parts.append(data[begin : first + len(_LINE)])
                begin = last + len(_LINE)
        return b"".join([*parts, data[begin:]]) if parts else data


def _runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where runs of plain text begin and end; no byte is looked at more than twice."""
    place = after = 0
    while place + _WINDOW <= len(data):
        if not _PLAIN.fullmatch(data, place, place + _WINDOW):
            place += _WINDOW
            continue
        low = max(after, place - _WINDOW)
        other = _UP_TO_OTHER.match(data, low, place)
        start = low if other is None else other.end()
        run = _PLAIN.match(data, place)
        after = place if run is None else run.end()
        if after - start >= LEAST:
            yield start, after
        place += (after - place) // _WINDOW * _WINDOW


def _nth_from_end(data: bytes, start: int, end: int, count: int) -> int:
    """Where the last line end but so many begins, between two places; -1 where there are not so many."""
    if start < 0:
        return -1
    for _ in range(count):
        end = data.rfind(_LINE, start, end)
        if end < 0:
            return -1
    return end
