"""Writes rows of cells down for people: as text, and with their looks as escape sequences."""

from __future__ import annotations

import functools

from sessiond.terminal.snapshot import HEAD, TAIL, Colour, Row, Style, cells

_FLAGS = ((1, "1"), (4, "2"), (2, "3"), (8, "5"), (16, "7"), (32, "8"), (64, "9"), (128, "53"))
_UNDERLINES = {1: "4", 2: "4:2", 3: "4:3", 4: "4:4", 5: "4:5"}

_PLAIN = Style()


@functools.lru_cache(1024)
def sgr(style: Style) -> bytes:
    """The sequence that makes a terminal write so, whatever it wrote like before."""
    if style == _PLAIN:
        return b"\x1b[m"
    words = ["0"]
    words += [word for bit, word in _FLAGS if style.flags & bit]
    if style.underline:
        words.append(_UNDERLINES.get(style.underline, "4"))
    words += _colour(style.foreground, 30)
    words += _colour(style.background, 40)
    # Colons here, as terminals that do not know the colour of an underline take semicolons for other things.
    if isinstance(style.underline_colour, tuple):
        words.append("58:2::" + ":".join(map(str, style.underline_colour)))
    elif style.underline_colour is not None:
        words.append(f"58:5:{style.underline_colour}")
    return b"\x1b[" + ";".join(words).encode() + b"m"


def _colour(colour: Colour, base: int) -> list[str]:
    if colour is None:
        return []
    if isinstance(colour, tuple):
        return [f"{base + 8};2;" + ";".join(map(str, colour))]
    if colour < 8:
        return [str(base + colour)]
    if colour < 16:
        return [str(base + 52 + colour)]
    return [f"{base + 8};5;{colour}"]


def ansi_of(row: Row) -> str:
    """A row with its looks, beginning and ending with none; without blank cells of no colour at its end."""
    parts: list[str] = []
    style = _PLAIN
    waiting = 0
    for cell in cells(row):
        if cell.width in (TAIL, HEAD):
            continue
        if cell.text in ("", " ") and cell.style == _PLAIN:
            waiting += 1
            continue
        if waiting:
            if style != _PLAIN:
                parts.append("\x1b[m")
                style = _PLAIN
            parts.append(" " * waiting)
            waiting = 0
        if cell.style != style:
            parts.append(sgr(cell.style).decode())
            style = cell.style
        parts.append(cell.text or " ")
    if style != _PLAIN:
        parts.append("\x1b[m")
    return "".join(parts)
