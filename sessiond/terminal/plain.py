"""What of a long run of text a screen need not be shown: lines that have scrolled off by its end.

A program that prints without end prints text, with colours at most. An emulator takes each line in turn, and
ten million lines take it a minute; of those only the last are on the screen, or can be scrolled back to. Of
the others only the colours count that were set and not changed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Shorter ones are not worth looking for.
LEAST = 1 << 16

# A run that is worth it fills one of the windows of this size that the data is cut into.
_WINDOW = LEAST // 2
_ESCAPE = b"\x1b"
# Of any encoding: the emulator knows no controls of eight bits.
_TEXT_AND_ESCAPE = bytes([*range(0x20, 0x7F), *range(0x80, 0x100)]) + b"\t\r\n" + _ESCAPE
_COLOUR = re.compile(rb"\x1b\[[0-9;:]{0,32}+m")
# An escape that begins anything else; and with it all that is no text.
_STRANGE = re.compile(rb"\x1b(?!\[[0-9;:]{0,32}+m)")
_OTHER = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|" + _STRANGE.pattern)
_UP_TO_OTHER = re.compile(rb".*(?:" + _OTHER.pattern + rb")", re.DOTALL)
# Margins: outside of them a line is written over the one before, and what that one left stays. A sequence
# with more in it than any has that is meant is taken for one.
_MARGINS = re.compile(rb"\x1b\[[0-9;:]{1,32}[rs]|\x1b\[[0-9;:]{33}")
_STRING = re.compile(rb"\x1b(?:\][^\x07\x18\x1a\x1b]*+|[P_^X][^\x18\x1a\x1b]*+)")
_WHOLE = re.compile(rb"\x1b(?:\[[\x00-\x1a\x1c-?]*+[@-~]|[\x00-\x1a\x1c-/]*+[0-OQ-WYZ\\`-~])")
_SEQUENCE = 40
_LINE = b"\r\n"
_RESETS = (b"\x1b[m", b"\x1b[0m")


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
        strange = _STRANGE.search(data)
        calm = len(data) if strange is None else strange.start()
        if _MARGINS.search(data, calm) or _MARGINS.search(self._tail + data[:_SEQUENCE]):
            self._margins = True
            return data
        self._tail = (self._tail + data)[-_SEQUENCE:] if len(data) < _SEQUENCE else data[-_SEQUENCE:]
        if inside or len(data) < LEAST:
            return data
        parts = []
        begin = 0
        for start, end in _runs(data, calm):
            first = data.find(_LINE, _seen_from(data, start), end)
            last = _nth_from_end(data, first, end, lines + 1)
            if last > first >= 0:
                parts.append(data[begin : first + len(_LINE)])
                parts.append(_colours(data, first, last))
                begin = last + len(_LINE)
        return b"".join([*parts, data[begin:]]) if parts else data


def _runs(data: bytes, calm: int) -> Iterator[tuple[int, int]]:
    """Where runs of text and colours begin and end; no byte is looked at more than a few times.

    There is no strange escape before ``calm``.
    """
    place = after = 0
    while place + _WINDOW <= len(data):
        if not _is_run(data, place, calm):
            place += _WINDOW
            continue
        start = _start(data, max(after, place - _WINDOW), place)
        while place + _WINDOW <= len(data) and _is_run(data, place, calm):
            place += _WINDOW
        other = _OTHER.search(data, place)
        after = len(data) if other is None else other.start()
        if after - start >= LEAST:
            yield start, after
        place += (after - place) // _WINDOW * _WINDOW


def _is_run(data: bytes, place: int, calm: int) -> bool:
    """Whether a whole window belongs to one run."""
    end = place + _WINDOW
    if data[place:end].translate(None, _TEXT_AND_ESCAPE):
        return False
    if end <= calm:
        return True
    # A colour may go on behind the window.
    strange = _STRANGE.search(data, place, end + _SEQUENCE)
    return strange is None or strange.start() >= end


def _start(data: bytes, low: int, place: int) -> int:
    """Where the run begins, from ``low`` on, that holds the window at a place."""
    other = _UP_TO_OTHER.match(data, low, place)
    if other is not None and _COLOUR.match(data, other.end() - 1):
        # Cut off by the window.
        other = _UP_TO_OTHER.match(data, low, other.end() - 1)
    return low if other is None else other.end()


def _seen_from(data: bytes, start: int) -> int:
    """Where a run is on the screen from: behind the sequence that its beginning may belong to, or nowhere."""
    begun = data.rfind(_ESCAPE, 0, start)
    if begun < 0:
        return start
    string = _STRING.match(data, begun, start + 1)
    if string is not None:
        return start if string.end() <= start else len(data)
    whole = _WHOLE.match(data, begun)
    return len(data) if whole is None else max(start, whole.end())


def _colours(data: bytes, start: int, end: int) -> bytes:
    """What sets the same colours as all of that part of a run does: each sequence sets some to given values,
    whatever they were, so that the last of those that are alike is enough."""
    start = max(start, *(data.rfind(reset, start, end) for reset in _RESETS))
    latest = dict.fromkeys(reversed(_COLOUR.findall(data, start, end)))
    return b"".join(reversed(latest))


def _nth_from_end(data: bytes, start: int, end: int, count: int) -> int:
    """Where the last line end but so many begins, between two places; -1 where there are not so many."""
    if start < 0:
        return -1
    for _ in range(count):
        end = data.rfind(_LINE, start, end)
        if end < 0:
            return -1
    return end
