"""Reads the emulator's snapshot: all that it knows of a terminal, as plain values.

The format is Ghostty's own, versioned ("GHOSTSNP", version 1). Integers are little-endian.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

MAGIC = b"GHOSTSNP"
VERSION = 1

_TERMINAL, _SCREEN, _PAGE, _HISTORY, _READY, _FINISH, _CONTINUATION = range(1, 8)

_CELL_TYPES = ("B", "H", "I", "Q")

NARROW, WIDE, TAIL, HEAD = range(4)
"""What a cell is of a character: all, its left half, its right half, the gap before one that wrapped."""


class SnapshotError(Exception):
    """A snapshot that is not of the known version, or cut short."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a cell looks: colours as None, a palette index or (red, green, blue); flags in SGR's order."""

    foreground: Colour = None
    background: Colour = None
    underline_colour: Colour = None
    flags: int = 0

    @property
    def underline(self) -> int:
        """0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed."""
        return self.flags >> 8 & 7


Colour = int | tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of cells, without the default cells at its end; each is a word of 64 bits (see ``cell``).

    ``plain`` is its text where no cell is styled, with NUL for cells never written to.
    """

    words: Sequence[int]
    plain: str | None
    wrapped: bool
    styles: Mapping[int, Style]
    suffixes: Mapping[int, str]
    """What follows the first code point of a cell, by column."""


@dataclass(frozen=True, slots=True)
class Charset:
    """Sets G0 to G3 (0 UTF-8, 1 ASCII, 2 British, 3 line drawing), what is invoked, and a single shift."""

    sets: tuple[int, int, int, int] = (0, 0, 0, 0)
    left: int = 0
    right: int = 2
    single: int = 0

    @classmethod
    def of(cls, raw: int) -> Charset:
        """From its packed form."""
        g0, g1, g2, g3 = (raw >> shift & 3 for shift in (0, 2, 4, 6))
        return cls((g0, g1, g2, g3), raw >> 8 & 3, raw >> 10 & 3, raw >> 12 & 7)


@dataclass(frozen=True, slots=True)
class Place:
    """A cursor: where it is, how it writes."""

    column: int
    row: int
    style: Style
    pending_wrap: bool
    protected: bool
    charset: Charset
    origin: bool = False


@dataclass(frozen=True, slots=True)
class ScreenState:
    """One of the two screens. ``history`` and ``rows`` are from the top down."""

    alternate: bool
    cursor: Place
    saved: Place | None
    cursor_style: int
    protected_mode: int
    keyboard: tuple[int, ...]
    """Kitty's keyboard flags: the stack up to its top."""
    rows: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TerminalState:
    """All of a terminal."""

    columns: int
    row_count: int
    margins: tuple[int, int, int, int]
    """Top, bottom, left, right, from 0, all inclusive."""
    status_line: bool
    alternate: bool
    previous: int | None
    """The code point printed last."""
    cursor_default: bool
    modify_other_keys: bool
    mouse_event: int
    mouse_format: int
    shift_capture: int
    mouse_shape: int
    modes: int
    saved_modes: int
    default_modes: int
    colours: tuple[tuple[int, int, int] | None, ...]
    """Foreground, background and cursor, where the program set them."""
    palette: Mapping[int, tuple[int, int, int]]
    """What the program changed of it."""
    tab_stops: frozenset[int]
    directory: bytes
    title: bytes
    primary: ScreenState
    other: ScreenState | None
    continuation: bytes

    @property
    def screen(self) -> ScreenState:
        """The screen that is shown."""
        return self.other if self.alternate and self.other is not None else self.primary


def read(data: bytes, history: int) -> TerminalState:
    """Parse a whole snapshot, of what has scrolled off at least so many lines. Raises SnapshotError."""
    try:
        return _read(memoryview(data), history)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, ValueError) as error:
        raise SnapshotError(f"the snapshot cannot be read: {error}") from error


def _read(data: memoryview, history: int) -> TerminalState:
    if bytes(data[:8]) != MAGIC or data[8] | data[9] << 8 != VERSION:
        raise SnapshotError("the emulator writes snapshots of another version")
    terminal: memoryview | None = None
    screens: dict[bool, ScreenState] = {}
    continuation = b""
    filling: list[Row] = []
    pages: list[list[Row]] | None = None
    histories: dict[bool, list[list[Row]]] = {}
    place = 10
    while True:
        tag, size = struct.unpack_from("<HI", data, place)
        payload = data[place + 10 : place + 10 + size]
        place += 10 + size
        if tag == _TERMINAL:
            terminal = payload
        elif tag == _SCREEN:
            screen = _screen(payload)
            screens[screen.alternate] = screen
            filling, pages = screen.rows, None
        elif tag == _HISTORY:
            pages = histories.setdefault(payload[0] == 1, [])
        elif tag == _PAGE:
            if pages is None:
                filling.extend(_page(payload))
            elif sum(map(len, pages)) < history:
                pages.append(_page(payload))
        elif tag == _CONTINUATION:
            continuation = bytes(payload)
        elif tag == _FINISH:
            break
    if terminal is None or False not in screens:
        raise SnapshotError("the snapshot lacks the terminal or its screen")
    # The pages of history come newest first.
    for alternate, found in histories.items():
        for rows in reversed(found):
            screens[alternate].history.extend(rows)
    # Pages are told whole: the first of a screen may begin with lines that have scrolled off it.
    [count] = struct.unpack_from("<H", terminal, 2)
    for screen in screens.values():
        screen.history.extend(screen.rows[:-count])
        del screen.rows[:-count]
    return _terminal(terminal, screens[False], screens.get(True), continuation)


def _terminal(
    data: memoryview, primary: ScreenState, other: ScreenState | None, continuation: bytes
) -> TerminalState:
    columns, rows, _, _, top, bottom, left, right = struct.unpack_from("<HHIIHHHH", data, 0)
    status, active, _, previous, is_default = struct.unpack_from("<BHHIB", data, 20)
    other_keys, event, form, shift, shape = struct.unpack_from("<BBBBB", data, 33)
    modes, saved, default = struct.unpack_from("<QQQ", data, 39)
    colours = []
    for place in (71, 63, 79):
        present, red, green, blue = struct.unpack_from("<BBBB", data, place + 4)
        colours.append((red, green, blue) if present == 1 else None)
    place = 103
    width = (columns + 7) // 8
    stops = frozenset(column for column in range(columns) if data[place + column // 8] >> column % 8 & 1)
    place += width + 768
    mask = data[place : place + 32]
    place += 32
    palette = {}
    for index in range(256):
        if mask[index // 8] >> index % 8 & 1:
            palette[index] = (data[place], data[place + 1], data[place + 2])
            place += 3
    directory, place = _string(data, place)
    title, place = _string(data, place)
    return TerminalState(
        columns=columns,
        row_count=rows,
        margins=(top, bottom, left, right),
        status_line=status == 1,
        alternate=active == 1,
        previous=None if previous == 0xFFFFFFFF else previous,
        cursor_default=is_default == 1,
        modify_other_keys=other_keys == 1,
        mouse_event=event,
        mouse_format=form,
        shift_capture=shift,
        mouse_shape=shape,
        modes=modes,
        saved_modes=saved,
        default_modes=default,
        colours=tuple(colours),
        palette=palette,
        tab_stops=stops,
        directory=directory,
        title=title,
        primary=primary,
        other=other,
        continuation=continuation,
    )


def _string(data: memoryview, place: int) -> tuple[bytes, int]:
    [size] = struct.unpack_from("<I", data, place)
    end = place + 4 + size
    return bytes(data[place + 4 : end]), end


def _screen(data: memoryview) -> ScreenState:
    key, _, _, column, row, cursor_style, flags = struct.unpack_from("<HHQHHBB", data, 0)
    style = _style(data, 18)
    _, charset, protected_mode, top = struct.unpack_from("<IHBB", data, 34)
    keyboard = tuple(data[42 : 43 + top])
    place = 53
    saved = None
    if data[52] == 1:
        saved_column, saved_row = struct.unpack_from("<HH", data, place)
        saved_flags, saved_charset = struct.unpack_from("<BH", data, place + 20)
        saved = Place(
            column=saved_column,
            row=saved_row,
            style=_style(data, place + 4),
            protected=bool(saved_flags & 1),
            pending_wrap=bool(saved_flags & 2),
            origin=bool(saved_flags & 4),
            charset=Charset.of(saved_charset),
        )
    return ScreenState(
        alternate=key == 1,
        cursor=Place(
            column=column,
            row=row,
            style=style,
            pending_wrap=bool(flags & 1),
            protected=bool(flags & 2),
            charset=Charset.of(charset),
        ),
        saved=saved,
        cursor_style=cursor_style,
        protected_mode=protected_mode,
        keyboard=keyboard,
    )


def _style(data: memoryview, place: int) -> Style:
    colours: list[Colour] = []
    for start in (place, place + 4, place + 8):
        kind, first, second, third = data[start : start + 4]
        colours.append(None if kind == 0 else first if kind == 1 else (first, second, third))
    [flags] = struct.unpack_from("<H", data, place + 12)
    return Style(colours[0], colours[1], colours[2], flags)


def _past_link(data: memoryview, place: int) -> int:
    """Where a hyperlink of a page's table ends: no screen of ours has any, but the table may."""
    if data[place] == 1:
        place += 5
    else:
        _, place = _string(data, place + 1)
    return _string(data, place)[1]


def _page(data: memoryview) -> list[Row]:
    _, count, style_count, link_count = struct.unpack_from("<HHHH", data, 0)
    place = 20
    styles: dict[int, Style] = {}
    for _ in range(style_count):
        [number] = struct.unpack_from("<H", data, place)
        styles[number] = _style(data, place + 2)
        place += 18
    for _ in range(link_count):
        place = _past_link(data, place + 2)
    raw: list[tuple[Sequence[int], str | None, bool]] = []
    for _ in range(count):
        flags, cells = struct.unpack_from("<BH", data, place)
        width = flags >> 4 & 3
        place += 3
        end = place + (cells << width)
        raw.append((*_cells(data[place:end], width), bool(flags & 1)))
        place = end
    suffixes: dict[int, dict[int, str]] = {}
    [entries] = struct.unpack_from("<I", data, place)
    place += 4
    for _ in range(entries):
        row, column, points = struct.unpack_from("<HHH", data, place)
        place += 6
        suffix = bytes(data[place : place + 4 * points]).decode("utf-32-le")
        suffixes.setdefault(row, {})[column] = suffix
        place += 4 * points
    return [
        Row(words, plain, wrapped, styles, suffixes.get(number, {}))
        for number, (words, plain, wrapped) in enumerate(raw)
    ]


def _cells(data: memoryview, width: int) -> tuple[Sequence[int], str | None]:
    if width == 0:
        return b"", str(data, "latin-1")
    if width == 1:
        return b"", str(data, "utf-16-le")
    words = array(_CELL_TYPES[width])
    words.frombytes(data)
    return words, None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its text (empty: never written to), its look, and what of a character it is."""

    text: str
    style: Style
    width: int = NARROW
    protected: bool = False


BLANK = Cell("", Style())


def cells(row: Row) -> list[Cell]:
    """The cells of a row, without the default ones at its end."""
    if row.plain is not None:
        return [
            Cell(_printable(character), BLANK.style) if character != "\0" else BLANK
            for character in row.plain
        ]
    return [_cell(row, column, word) for column, word in enumerate(row.words)]


def _cell(row: Row, column: int, word: int) -> Cell:
    kind = word & 3
    content = word >> 2 & 0xFFFFFF
    style = row.styles.get(word >> 26 & 0xFFFF, BLANK.style)
    width = word >> 42 & 3
    text = ""
    if kind == 2:
        style = Style(background=content & 0xFF)
    elif kind == 3:
        style = Style(background=(content & 0xFF, content >> 8 & 0xFF, content >> 16 & 0xFF))
    elif content:
        text = _printable(chr(content)) + row.suffixes.get(column, "")
        if width == WIDE and text == " ":
            # What a wide character became that the charset lacked; there is a wide space to say so.
            text = "\u3000"
    return Cell(text, style, width, bool(word >> 44 & 1))


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells that look the same: narrow ones, as text with NUL for those never written to."""

    text: str
    look: Cell


def runs(row: Row) -> list[Run | list[Cell]]:
    """The cells of a row as runs; as single cells where they are more than a narrow character."""
    found: list[Run | list[Cell]] = []
    start = 0
    for look, group in groupby(row.words, _look):
        words = list(group)
        text = "".join([chr(word >> 2 & 0xFFFFFF) for word in words])
        if look & _WIDTH or any(word & 3 for word in words) or (look and "\0" in text):
            found.append([_cell(row, start + place, word) for place, word in enumerate(words)])
        else:
            style = row.styles.get(look & 0xFFFF, BLANK.style)
            found.append(Run(_CONTROLS.sub("\ufffd", text), Cell("", style, NARROW, bool(look >> 18 & 1))))
        start += len(words)
    return found


def _look(word: int) -> int:
    """Of a cell's word all but its content."""
    return word >> 26


# In that, what the cell is of a wide character.
_WIDTH = 3 << 16

_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")


def _printable(character: str) -> str:
    # A control character in a cell would be obeyed where the cell is drawn.
    return "\ufffd" if character < " " or "\x7f" <= character <= "\x9f" else character


def text_of(row: Row) -> str:
    """What a row says, with spaces for cells never written to, without those at its end."""
    if row.plain is not None:
        return _CONTROLS.sub("\ufffd", row.plain).replace("\0", " ").rstrip(" ")
    parts: list[str] = []
    for run in runs(row):
        if isinstance(run, Run):
            parts.append(run.text.replace("\0", " "))
        else:
            parts += [cell.text or " " for cell in run if cell.width not in (TAIL, HEAD)]
    return "".join(parts).rstrip(" ")
