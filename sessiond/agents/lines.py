"""What a person would read of a line that a program printed: escape sequences out, overwriting done.

A line stands for itself: a sequence that is not complete at its end is dropped with it, so that text reads
the same from wherever reading began, and no hostile sequence hides the lines behind it.
"""

from __future__ import annotations

import re
from unicodedata import east_asian_width

# Where a line begins to be cut.
LINE_MAX = 64 << 10

_COLUMN_MAX = 1000
_TAB = 8
_TABS = re.compile("(\t)")
# CSI; the strings (OSC, DCS, SOS, PM, APC) up to what ends them, where their ST is the next sequence; escapes
# with intermediate bytes; escapes of two bytes. What is missing at its end is missing at the line's end, or a
# byte came that belongs to no sequence and stands for itself.
_SEQUENCE_TEXT = (
    rb"\x1b(?:\[[\x20-\x3f]*[\x40-\x7e\x18\x1a]?"
    rb"|[\]PX^_][^\x07\x18\x1a\x1b\n]*[\x07\x18\x1a]?"
    rb"|[\x20-\x2f]+[\x30-\x7e\x18\x1a]?"
    rb"|[\x30-\x7e\x18\x1a])?"
)
_SEQUENCE = re.compile(_SEQUENCE_TEXT)
_TOKEN = re.compile(rb"(" + _SEQUENCE_TEXT + rb")|([\x00-\x08\x0a-\x1f\x7f])|([^\x00-\x08\x0a-\x1f\x7f]+)")
_CURSOR = re.compile(rb"\x1b\[(\d{0,5})[\d;]*([CDGKPX@])")
_MOVES = re.compile(rb"[\r\x08]|\x1b\[\d*[CDGKPX@]")
_SPECIAL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\xc2[\x80-\x9f]")
_CONTROLS = dict.fromkeys([*range(9), *range(10, 32), *range(127, 160)])


def strip(data: bytes) -> bytes:
    """The bytes without escape sequences; other control characters stay."""
    return _SEQUENCE.sub(b"", data)


def plain(line: bytes) -> str:
    """A line without its newline as it reads in the end: what a carriage return, a backspace or a move within
    the line brought over other text stands in its place. Bytes that are no UTF-8 are replaced."""
    line = line.rstrip(b"\r\n")
    if _SPECIAL.search(line) is None:
        return line.decode("utf-8", "replace")
    if _MOVES.search(line) is None:
        return strip(line).decode("utf-8", "replace").translate(_CONTROLS)
    return _drawn(line)


def _drawn(line: bytes) -> str:
    cells: list[str] = []
    column = 0
    for token in _TOKEN.finditer(line):
        sequence, control, text = token.groups()
        if text is not None:
            for part in _TABS.split(text.decode("utf-8", "replace").translate(_CONTROLS)):
                column = _tabbed(cells, column) if part == "\t" else _written(cells, column, part)
        elif control == b"\r":
            column = 0
        elif control == b"\x08":
            column = max(0, column - 1)
        elif sequence is not None and (move := _CURSOR.fullmatch(sequence)) is not None:
            column = _moved(cells, column, int(move[1] or 0), move[2])
    return "".join(cells).rstrip(" ") if cells and cells[-1] == " " else "".join(cells)


def _written(cells: list[str], column: int, run: str) -> int:
    """Write over what is there; returns the column after it. A wide character has an empty cell behind it."""
    if not run:
        return column
    if column > len(cells):
        cells.extend(" " * (column - len(cells)))
    wide = run if run.isascii() else [cell for one in run for cell in _cells_of(one)]
    end = column + len(wide)
    _cut(cells, column)
    _cut(cells, end)
    cells[column:end] = wide
    return end


def _cells_of(character: str) -> tuple[str, ...]:
    return (character, "") if east_asian_width(character) in "WF" else (character,)


def _cut(cells: list[str], column: int) -> None:
    """Make blanks of a tab or a wide character that lies on both sides of where a column begins."""
    if column >= len(cells) or cells[column]:
        return
    start = end = column
    while not cells[start]:
        start -= 1
    while end < len(cells) and not cells[end]:
        end += 1
    cells[start:end] = " " * (end - start)


def _tabbed(cells: list[str], column: int) -> int:
    """The column of the next tab stop. Over what is there it only moves; behind that it is a tab as well."""
    stop = column - column % _TAB + _TAB
    if column >= len(cells):
        cells.extend(" " * (column - len(cells)))
        cells.extend(["\t", *[""] * (stop - column - 1)])
    return stop


def _moved(cells: list[str], column: int, count: int, how: bytes) -> int:
    """Do one move or erasure; returns the column after it."""
    if how == b"K":
        if count == 0:
            _cut(cells, column)
            del cells[column:]
        elif count == 1:
            _written(cells, 0, " " * min(column + 1, len(cells)))
        elif count == 2:
            cells.clear()
            return min(column, _COLUMN_MAX)
        return column
    if how in b"PX@":
        _shifted(cells, column, min(max(count, 1), _COLUMN_MAX), how)
        return column
    if how == b"G":
        return min(max(count, 1), _COLUMN_MAX) - 1
    if how == b"D":
        return max(0, column - max(count, 1))
    return min(column + max(count, 1), max(len(cells), _COLUMN_MAX))


def _shifted(cells: list[str], column: int, count: int, how: bytes) -> None:
    """Take characters out, put blanks in or over them, as programs do that edit within a line."""
    if column >= len(cells):
        return
    if how == b"X":
        _written(cells, column, " " * min(count, len(cells) - column))
        return
    _cut(cells, column)
    # A tab that is moved would end at another column.
    for place in range(column, len(cells)):
        if cells[place] == "\t":
            cells[place] = " "
            _cut(cells, place + 1)
    if how == b"P":
        _cut(cells, column + count)
        del cells[column : column + count]
    else:
        cells[column:column] = " " * count


_GROUND, _ESCAPE, _CSI, _INTERMEDIATE, _STRING = range(5)
# How long each state lasts; the byte behind decides.
_LASTS = {
    _GROUND: re.compile(rb"[^\x1b]*"),
    _ESCAPE: re.compile(rb""),
    _CSI: re.compile(rb"[\x20-\x3f]*"),
    _INTERMEDIATE: re.compile(rb"[\x20-\x2f]*"),
    _STRING: re.compile(rb"[^\x07\x18\x1a\x1b\n]*"),
}
_ESC, _CAN, _SUB = 0x1B, 0x18, 0x1A
_OPENS = {ord("["): _CSI} | dict.fromkeys(b"]PX^_", _STRING)


class Stripper:
    """As ``strip``, for output that comes in pieces cut anywhere."""

    def __init__(self) -> None:
        self._state = _GROUND

    def feed(self, data: bytes) -> bytes:
        """The next piece, without what of it belongs to escape sequences."""
        kept: list[bytes] = []
        place, stop = 0, len(data)
        while place < stop:
            match = _LASTS[self._state].match(data, place)
            end = place if match is None else match.end()
            if self._state == _GROUND:
                kept.append(data[place:end])
            place = end
            if place < stop:
                place += self._turn(data[place])
        return b"".join(kept)

    def _turn(self, byte: int) -> int:
        """Take the byte that ends a state; 1 where it belongs to the sequence, 0 where to the text."""
        state, self._state = self._state, _GROUND
        if byte == _ESC:
            self._state = _ESCAPE
            return 1
        if byte in (_CAN, _SUB):
            return 1
        if state == _STRING:
            return int(byte == 0x07)
        if state == _CSI:
            return int(0x40 <= byte <= 0x7E)
        if state == _ESCAPE:
            if 0x20 <= byte <= 0x2F:
                self._state = _INTERMEDIATE
                return 1
            self._state = _OPENS.get(byte, _GROUND)
        return int(0x30 <= byte <= 0x7E)
