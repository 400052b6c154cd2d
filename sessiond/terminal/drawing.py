"""Draws a terminal anew: the escape sequences that bring a cleared terminal to a given state."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from sessiond.terminal.modes import ALTERNATE_SCREEN, MODES, MOUSE_EVENTS, MOUSE_FORMATS, Mode, mode
from sessiond.terminal.rows import sgr
from sessiond.terminal.snapshot import (
    BLANK,
    HEAD,
    TAIL,
    WIDE,
    Cell,
    Charset,
    Place,
    Row,
    Run,
    ScreenState,
    Style,
    TerminalState,
    cells,
    runs,
)

_MOUSE_SHAPES = (
    "default",
    "context-menu",
    "help",
    "pointer",
    "progress",
    "wait",
    "cell",
    "crosshair",
    "text",
    "vertical-text",
    "alias",
    "copy",
    "move",
    "no-drop",
    "not-allowed",
    "grab",
    "grabbing",
    "all-scroll",
    "col-resize",
    "row-resize",
    "n-resize",
    "e-resize",
    "s-resize",
    "w-resize",
    "ne-resize",
    "nw-resize",
    "se-resize",
    "sw-resize",
    "ew-resize",
    "ns-resize",
    "nesw-resize",
    "nwse-resize",
    "zoom-in",
    "zoom-out",
)

_SHAPE_AT_FIRST = 8

_DESIGNATE = b"()*+"
_FINAL = {0: b"B", 1: b"B", 2: b"A", 3: b"0"}
_INVOKE_LEFT = (b"\x0f", b"\x0e", b"\x1bn", b"\x1bo")
_INVOKE_RIGHT = (b"", b"\x1b~", b"\x1b}", b"\x1b|")
_SINGLE = {3: b"\x1bN", 4: b"\x1bO"}

_PLAIN = Style()

_PARTS = re.compile("(\0+)")
_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f]")


def draw(state: TerminalState, scrollback: int = 0) -> bytes:
    """What to write on a cleared terminal of the same size to have it as ``state`` says; before the screen so
    many lines of scrollback. What the program had begun to send and not finished comes last."""
    return bytes(_Drawing(state).whole(scrollback))


class _Drawing:
    """One drawing while it is made; keeps how the viewer's terminal writes at each point of it."""

    def __init__(self, state: TerminalState) -> None:
        self.state = state
        self.out = bytearray()
        self.style = _PLAIN
        self.protected = False
        self.charset = Charset()
        self.origin = False

    def whole(self, scrollback: int) -> bytearray:
        state = self.state
        self._globals()
        alternate = state.other if state.alternate else None
        history = state.primary.history[-scrollback:] if scrollback > 0 else []
        self.out += b"\x1b[H"
        # A row that goes on in the next one needs that one before it: the first begins afresh.
        self._rows([*history, *state.primary.rows], state.primary)
        self._margins()
        if alternate is None:
            self._settle(state.primary, shown=True)
        else:
            self._behind(state.primary)
            self._rows(alternate.rows, alternate)
            self._margins()
            self._settle(alternate, shown=True)
        self._last()
        return self.out

    # ---- what both screens share ----

    def _globals(self) -> None:
        state = self.state
        for number, colour in zip((10, 11, 12), state.colours, strict=True):
            if colour is not None:
                self.out += b"\x1b]%d;%s\x1b\\" % (number, _rgb(colour))
        for index, colour in state.palette.items():
            self.out += b"\x1b]4;%d;%s\x1b\\" % (index, _rgb(colour))
        if state.title:
            self.out += b"\x1b]2;" + _text(state.title) + b"\x1b\\"
        if state.directory:
            self.out += b"\x1b]7;" + _text(state.directory) + b"\x1b\\"
        if state.tab_stops != frozenset(range(8, state.columns, 8)):
            self.out += b"\x1b[3g"
            for column in sorted(state.tab_stops):
                self.out += b"\x1b[%dG\x1bH" % (column + 1)
        if state.mouse_shape != _SHAPE_AT_FIRST:
            self.out += b"\x1b]22;" + _MOUSE_SHAPES[state.mouse_shape].encode() + b"\x1b\\"
        if state.shift_capture:
            self.out += b"\x1b[>%ds" % (state.shift_capture - 1)
        for one in MODES:
            if one.simple and one.on(state.saved_modes) != one.default:
                self.out += one.sequence(not one.default) + one.save() + one.sequence(one.default)
        self._screen_modes()

    def _screen_modes(self) -> None:
        """Modes of an alternate screen that was entered by one of them and left by another."""
        state = self.state
        if mode(1048).on(state.modes):
            self.out += mode(1048).sequence(True)
        if state.alternate:
            return
        entered = [one for one in ALTERNATE_SCREEN if one.on(state.modes)]
        left = [one for one in ALTERNATE_SCREEN if not one.on(state.modes)]
        if entered and left:
            # Only the first one enters it; 1049 would save the primary screen's cursor then.
            way = min(left, key=lambda one: one.number == 1049)
            ways = entered if way.number == 1049 else [way, *entered]
            self.out += b"".join(one.sequence(True) for one in ways) + way.sequence(False)

    def _behind(self, primary: ScreenState) -> None:
        """Leave the primary screen as the program has to find it again, and go to the alternate one."""
        entered = [one for one in ALTERNATE_SCREEN if one.on(self.state.modes)] or [mode(47)]
        # Only the first one entered it, and 1049 saves the cursor wherever that is.
        entered.sort(key=lambda one: (one.number == 1049) == (primary.saved is None))
        if entered[0].number == 1049:
            # Entering saves the cursor, leaving restores it: what was saved then has to be it now.
            self._settle(primary, shown=False, cursor=primary.saved or primary.cursor)
        else:
            self._settle(primary, shown=False)
        for one in entered:
            self.out += one.sequence(True)
        # Not before: entering may save the cursor, with the origin that it is counted from.
        self._be_origin(False)
        self._write(_PLAIN, False)
        self._be_charset(Charset())
        self.out += b"\x1b[r"
        if mode(69).on(self.state.modes):
            self.out += b"\x1b[s"
        self.out += b"\x1b[H\x1b[2J"

    def _margins(self) -> None:
        state = self.state
        top, bottom, left, right = state.margins
        if mode(69).on(state.modes):
            self.out += b"\x1b[?69h"
            if (left, right) != (0, state.columns - 1):
                self.out += b"\x1b[%d;%ds" % (left + 1, right + 1)
        if (top, bottom) != (0, state.row_count - 1):
            self.out += b"\x1b[%d;%dr" % (top + 1, bottom + 1)

    def _last(self) -> None:
        """What would disturb the drawing were it said before its end."""
        state = self.state
        if state.modify_other_keys:
            self.out += b"\x1b[>4;2m"
        if state.status_line:
            self.out += b"\x1b[1$}"
        self.out += state.continuation

    def _modes(self) -> None:
        state = self.state
        for one in MODES:
            if one.simple and one.on(state.modes) != one.default:
                self.out += one.sequence(not one.default)
        self._exclusive(MOUSE_EVENTS, state.mouse_event)
        self._exclusive(MOUSE_FORMATS, state.mouse_format)

    def _exclusive(self, group: Sequence[Mode], chosen: int) -> None:
        """Modes of which the last one set counts, and none once any of them was reset."""
        said = [one for one in group if one.on(self.state.modes)]
        said.sort(key=lambda one: group.index(one) + 1 == chosen)
        self.out += b"".join(one.sequence(True) for one in said)
        if said and not chosen:
            self.out += next((one.sequence(False) for one in group if one not in said), b"")

    # ---- one screen's cells ----

    def _rows(self, rows: Sequence[Row], screen: ScreenState) -> None:
        """Write rows from the top left corner on; those that are too many scroll off."""
        joined = False
        for number, row in enumerate(rows):
            follows = row.wrapped and number + 1 < len(rows)
            if not follows and not joined:
                self._row(row, screen)
            else:
                found = cells(row)
                if follows and not self._wraps(found, rows[number + 1]):
                    # The last cell was emptied after the line had wrapped: only a written one wraps again.
                    found = [*found, *[BLANK] * (self.state.columns - len(found))]
                    found[-1] = Cell(" ", found[-1].style, protected=found[-1].protected)
                self._cells(found, screen, joined=joined, scrolled=number >= self.state.row_count)
            joined = follows
            if number + 1 < len(rows) and not joined:
                self._write(_PLAIN, False)
                self.out += b"\r\n"
        self._write(_PLAIN, False)

    def _wraps(self, found: Sequence[Cell], following: Row) -> bool:
        """Whether writing a row's cells, and the first of the row that goes on, wraps in between."""
        if len(found) < self.state.columns:
            return False
        if found[-1].width != HEAD:
            return bool(found[-1].text or found[-1].width)
        # Left free by a wide character that had no room; something else may stand in its place by now.
        first = cells(following)[:1]
        return bool(first) and first[0].width == WIDE

    def _row(self, row: Row, screen: ScreenState) -> None:
        """Write a row that stands for itself."""
        if row.plain is not None:
            self._plain(row.plain)
            return
        for run in runs(row):
            if isinstance(run, Run):
                look = run.look
                if run.text.strip("\0"):
                    self._write(look.style, look.protected, screen.protected_mode)
                self._plain(run.text)
            else:
                self._cells(run, screen, joined=False, scrolled=False)

    def _plain(self, text: str) -> None:
        for number, part in enumerate(_PARTS.split(text)):
            if not number % 2:
                self.out += _CONTROLS.sub("\ufffd", part).encode()
            elif len(part):
                self.out += b"\x1b[%dC" % len(part)

    def _cells(self, found: Sequence[Cell], screen: ScreenState, *, joined: bool, scrolled: bool) -> None:
        column = 0
        if joined:
            column = self._continue(found, screen, scrolled=scrolled)
        while column < len(found):
            cell = found[column]
            if cell.width in (TAIL, HEAD):
                column += 1
                continue
            if not cell.text:
                column += self._gap(found, column)
                continue
            self._put(cell, screen)
            column += 2 if cell.width == WIDE else 1

    def _continue(self, found: Sequence[Cell], screen: ScreenState, *, scrolled: bool) -> int:
        """Write the first cell of a row that the one above goes on in: that makes the terminal wrap."""
        filled = self.style.background is not None
        first = found[0] if found else BLANK
        if first.text:
            self._put(first, screen)
            column = 2 if first.width == WIDE else 1
        else:
            self._write(_PLAIN, False)
            self.out += b" \r\x1b[X"
            column = 0
        if scrolled and filled and column < self.state.columns:
            # The new line was filled with the colour of what wrapped.
            self._write(_PLAIN, False)
            self.out += b"\x1b[K"
        return column

    def _gap(self, found: Sequence[Cell], column: int) -> int:
        """Leave cells empty that were never written to, in the colour that they were cleared with."""
        first = found[column]
        end = column + 1
        while end < len(found) and not found[end].text and not found[end].width and found[end] == first:
            end += 1
        count = end - column
        if first.style != _PLAIN:
            self._write(Style(background=first.style.background), False)
            self.out += b"\x1b[%dX" % count
        self.out += b"\x1b[%dC" % count
        return count

    def _put(self, cell: Cell, screen: ScreenState) -> None:
        self._write(cell.style, cell.protected, screen.protected_mode)
        if _is_cluster(cell):
            # A cluster that makes one cell only where the terminal was told to look for clusters.
            self.out += (
                cell.text[0].encode()
                + mode(2027).save()
                + mode(2027).sequence(True)
                + cell.text[1:].encode()
                + mode(2027).restore()
            )
        else:
            self.out += cell.text.encode()

    def _write(self, style: Style, protected: bool, protected_mode: int = 0) -> None:
        """Write from now on so."""
        if style != self.style:
            self.out += sgr(style)
            self.style = style
        if protected != self.protected:
            self.out += _protection(protected, protected_mode)
            self.protected = protected

    # ---- one screen's cursor ----

    def _settle(self, screen: ScreenState, *, shown: bool, cursor: Place | None = None) -> None:
        """Saved cursor, cursor, and what else belongs to a screen."""
        if screen.protected_mode:
            self.out += _protection(True, screen.protected_mode)
            self.protected = True
        if screen.saved is not None and cursor is None:
            self._place(screen.saved, screen)
            self.out += b"\x1b7"
        # Blinking is a mode of its own, that a style sets too: style first.
        if not self.state.cursor_default or screen.cursor_style != 1:
            self.out += b"\x1b[%d q" % {0: 6, 1: 2, 2: 4}.get(screen.cursor_style, 2)
        if screen.keyboard[0]:
            self.out += b"\x1b[=%d;1u" % screen.keyboard[0]
        for flags in screen.keyboard[1:]:
            self.out += b"\x1b[>%du" % flags
        there = cursor or screen.cursor
        if shown:
            there = Place(
                there.column,
                there.row,
                there.style,
                there.pending_wrap,
                there.protected,
                there.charset,
                mode(6).on(self.state.modes),
            )
        self._place(there, screen)
        if shown:
            self._modes()

    def _place(self, place: Place, screen: ScreenState) -> None:
        self._be_origin(place.origin)
        self._be_charset(Charset())
        column, row = place.column, place.row
        there = cells(screen.rows[row]) if row < len(screen.rows) else []
        start, again = self._arrival(there, place)
        self._move(start, row, origin=place.origin)
        if again is not None and not mode(7).on(self.state.modes):
            # Where nothing wraps, other terminals leave the cursor in the last column.
            self.out += mode(7).sequence(False)
            self._put(again, screen)
            self.out += mode(7).sequence(True)
        elif again is not None:
            self._put(again, screen)
        elif start != column:
            self._move(column, row, origin=place.origin)
        self._write(place.style, place.protected, screen.protected_mode)
        self._be_charset(place.charset)

    def _arrival(self, there: Sequence[Cell], place: Place) -> tuple[int, Cell | None]:
        """The cell to write once more on the way to the cursor, and where it is.

        Writing in the last column leaves the wrap pending; and what was written last can be asked for again.
        """
        if place.pending_wrap:
            cell = there[place.column] if place.column < len(there) else BLANK
            if cell.width == TAIL and place.column:
                return place.column - 1, there[place.column - 1]
            return place.column, cell if cell.text else Cell(" ", cell.style, protected=cell.protected)
        previous = self.state.previous
        if previous is not None and 0 < place.column <= len(there):
            start = place.column - 1
            cell = there[start]
            if cell.width == TAIL and start:
                start, cell = start - 1, there[start - 1]
            beside = place.column == start + (2 if cell.width == WIDE else 1)
            if cell.text == chr(previous) and beside and place.column < self.state.columns:
                return start, cell
        return place.column, None

    def _move(self, column: int, row: int, *, origin: bool) -> None:
        top, _, left, _ = self.state.margins
        if origin:
            column, row = column - left, row - top
        self.out += b"\x1b[%d;%dH" % (max(row, 0) + 1, max(column, 0) + 1)

    def _be_origin(self, origin: bool) -> None:
        if origin != self.origin:
            self.out += mode(6).sequence(origin)
            self.origin = origin

    def _be_charset(self, charset: Charset) -> None:
        if charset == self.charset:
            return
        for slot, (old, new) in enumerate(zip(self.charset.sets, charset.sets, strict=True)):
            if _FINAL[old] != _FINAL[new]:
                self.out += b"\x1b" + _DESIGNATE[slot : slot + 1] + _FINAL[new]
        if charset.left != self.charset.left:
            self.out += _INVOKE_LEFT[charset.left]
        if charset.right != self.charset.right:
            self.out += _INVOKE_RIGHT[charset.right]
        self.out += _SINGLE.get(charset.single, b"")
        self.charset = charset


def _is_cluster(cell: Cell) -> bool:
    """Whether its characters make one cell, or one of that width, only where clusters are looked for."""
    base, suffix = cell.text[:1], cell.text[1:]
    if not suffix:
        return False
    if any(unicodedata.category(character) not in ("Mn", "Me", "Cf") for character in suffix):
        return True
    chosen = "\ufe0e" in suffix or "\ufe0f" in suffix
    return chosen and (unicodedata.east_asian_width(base) in "WF") != (cell.width == WIDE)


def _rgb(colour: tuple[int, int, int]) -> bytes:
    return b"rgb:%02x/%02x/%02x" % colour


def _text(data: bytes) -> bytes:
    """Data without what would end the string that it stands in."""
    return "".join(filter(str.isprintable, data.decode(errors="ignore"))).encode()


def _protection(protected: bool, protected_mode: int) -> bytes:
    if protected_mode == 1:
        return b"\x1bV" if protected else b"\x1bW"
    return b'\x1b[1"q' if protected else b'\x1b[0"q'
