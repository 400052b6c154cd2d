"""A drawing brings a cleared terminal to the state of another, and both go on alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessiond.terminal.ghostty import GhosttyScreen
from sessiond.terminal.modes import mode
from sessiond.terminal.snapshot import TAIL, Cell, Charset, Place, Row, ScreenState, TerminalState, cells

COLUMNS, ROWS, SCROLLBACK = 20, 6, 200

WORDS = st.sampled_from(
    ["abc", "hello world", "x", "好", "😀", "é", "word " * 6, "=", "qqxx", " ", "🏳️‍🌈", "\t", "\b"]
).map(str.encode)
LINES = st.sampled_from([b"\r\n", b"\n", b"\r", b"\x1bD", b"\x1bM", b"\x1bE"])
NUMBERS = st.integers(0, 9)


def csi(finals: str, *values: st.SearchStrategy[int], before: str = "") -> st.SearchStrategy[bytes]:
    """Control sequences of some final characters."""
    return st.tuples(st.tuples(*values), st.sampled_from(finals)).map(
        lambda drawn: f"\x1b[{before}{';'.join(map(str, drawn[0]))}{drawn[1]}".encode()
    )


LOOKS = st.one_of(
    csi(
        "m", st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 9, 21, 22, 23, 24, 27, 31, 42, 93, 104, 39, 49, 53, 55])
    ),
    st.sampled_from(
        [b"\x1b[38;5;200m", b"\x1b[48;2;1;2;3m", b"\x1b[4:3m", b"\x1b[58:2::1:2:3m", b"\x1b[48;5;9m"]
    ),
)
PLACES = st.one_of(csi("H", NUMBERS, st.integers(0, 22)), csi("ABCDEFGde", NUMBERS))
EDITS = st.one_of(csi("XPLM@STIZ", NUMBERS), csi("JK", st.integers(0, 2)), st.just(b"\x1b#8"))
MARGINS = st.one_of(
    csi("r", st.integers(1, 4), st.integers(3, 7)), csi("s", st.integers(1, 5), st.integers(12, 20))
)
DEC_MODES = csi(
    "hl",
    st.sampled_from(
        [
            1,
            5,
            6,
            7,
            9,
            12,
            25,
            45,
            66,
            67,
            69,
            1000,
            1002,
            1003,
            1004,
            1005,
            1006,
            1007,
            1015,
            1016,
            2004,
            2027,
        ]
    ),
    before="?",
)
MODES = st.one_of(DEC_MODES, csi("hl", st.sampled_from([4, 20])), st.sampled_from([b"\x1b=", b"\x1b>"]))
CURSORS = st.one_of(st.sampled_from([b"\x1b7", b"\x1b8"]), NUMBERS.map(lambda number: b"\x1b[%d q" % number))
TABS = st.sampled_from([b"\x1bH", b"\x1b[g", b"\x1b[3g"])
CHARSETS = st.sampled_from([b"\x1b(0", b"\x1b(B", b"\x1b)0", b"\x0e", b"\x0f", b"\x1bn", b"\x1b(A"])
STRINGS = st.sampled_from(
    [
        b"\x1b]0;title\x07",
        b"\x1b]8;;http://a/b\x1b\\",
        b"\x1b]8;id=q;http://c\x1b\\",
        b"\x1b]8;;\x07",
        b"\x1b]4;3;#102030\x07",
        b"\x1b]11;#010203\x07",
        b"\x1b]7;file:///tmp\x07",
        b"\x1b]22;pointer\x07",
    ]
)
KEYBOARDS = st.sampled_from([b"\x1b[>1u", b"\x1b[>31u", b"\x1b[<u", b"\x1b[=5u", b"\x1b[>4;2m", b"\x1b[>4m"])
PROTECTION = st.sampled_from([b'\x1b[1"q', b'\x1b[0"q', b"\x1b[?2J"])
SAVED_MODES = st.sampled_from([b"\x1b[?1s", b"\x1b[?7s", b"\x1b[?2004r", b"\x1b[?1r"])
SCREENS = st.sampled_from([b"\x1b[?1049h", b"\x1b[?1049l"])
OLD_SCREENS = st.sampled_from([b"\x1b[?1047h", b"\x1b[?1047l", b"\x1b[?47h", b"\x1b[?47l"])
UNFINISHED = st.sampled_from([b"", b"\x1b", b"\x1b[1;3", b"\xe5\xa5", b"\x1b]0;half", b"\x1bP$q", b"\x1b_x"])

# Ghostty keeps of an alternate screen that is not shown what it is cleared with next time and the cursor that
# was saved on it, and nobody can see them: both are said anew, as programs do.
SCREENS_LATER = st.sampled_from([b"\x1b[?1049h\x1b[2J\x1b7", b"\x1b[?1049l"])

LATER = st.lists(
    st.one_of(
        WORDS,
        WORDS,
        LINES,
        LOOKS,
        PLACES,
        EDITS,
        MARGINS,
        MODES,
        CURSORS,
        TABS,
        CHARSETS,
        STRINGS,
        KEYBOARDS,
        SCREENS_LATER,
    ),
    max_size=12,
)
STREAMS = st.lists(
    st.one_of(
        *(WORDS, WORDS, WORDS, LINES, LOOKS, PLACES, EDITS, MARGINS, MODES, CURSORS, TABS, CHARSETS, STRINGS),
        *(KEYBOARDS, PROTECTION, SAVED_MODES, SCREENS, OLD_SCREENS),
    ),
    max_size=40,
)


def place_of(place: Place | None) -> Place | None:
    """A cursor, with UTF-8 and ASCII for the same charset, which they are for what it writes."""
    if place is None:
        return None
    g0, g1, g2, g3 = (number or 1 for number in place.charset.sets)
    charset = Charset((g0, g1, g2, g3), place.charset.left, place.charset.right, place.charset.single)
    return replace(place, charset=charset)


def seen(cell: Cell) -> Any:
    """What is seen of a cell: empty ones look like spaces."""
    if cell.text in ("", " ") and not cell.width and not cell.style.flags:
        return cell.style.background
    return (cell.text, cell.style, cell.width, cell.protected) if cell.width != TAIL else ""


def row_of(row: Row, *, last: bool = False) -> Any:
    """What is seen of a row, and whether it goes on in the next one."""
    found = [seen(cell) for cell in cells(row)]
    while found and found[-1] is None:
        found.pop()
    return found, row.wrapped and not last


def screen_of(screen: ScreenState, *, behind: bool = False) -> Any:
    """What is to agree of a screen. The cursor of the one behind is that of the other, or the saved one."""
    facts: dict[str, Any] = {
        "rows": [row_of(row, last=number == len(screen.rows) - 1) for number, row in enumerate(screen.rows)],
        "saved": place_of(screen.saved),
        "keyboard": screen.keyboard,
    }
    if not behind:
        facts |= {"cursor": place_of(screen.cursor), "style": screen.cursor_style}
    return facts


def facts_of(state: TerminalState) -> dict[str, Any]:
    """What is to agree: not the width, which is the viewer's; and no drawing holds output back."""
    left_out = 1 << mode(3).bit | 1 << mode(2026).bit
    return {
        "margins": state.margins,
        "alternate": state.alternate,
        "cursor": state.cursor_default,
        "keys": state.modify_other_keys,
        "mouse": (state.mouse_event, state.mouse_format, state.mouse_shape, state.shift_capture),
        "modes": state.modes & ~left_out,
        "saved modes": state.saved_modes,
        "colours": (state.colours, dict(state.palette)),
        "tabs": state.tab_stops,
        "strings": (state.title, state.directory, state.continuation),
        "primary": screen_of(state.primary, behind=state.alternate),
        "other": screen_of(state.other) if state.alternate and state.other is not None else None,
    }


class Pair:
    """A screen, and one beside it that is drawn from it."""

    def __init__(self) -> None:
        self.first = GhosttyScreen(COLUMNS, ROWS, SCROLLBACK)
        self.second = GhosttyScreen(COLUMNS, ROWS, SCROLLBACK)

    def close(self) -> None:
        """Free both."""
        self.first.close()
        self.second.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two screens of one size."""
    made = Pair()
    yield made
    made.close()


@settings(max_examples=150, deadline=None)
@given(stream=STREAMS, unfinished=UNFINISHED, later=LATER)
@example(stream=[b"prim", b"\x1b[?1049h", b"alt"], unfinished=b"", later=[b"\x1b[?1049l", b"after"])
@example(stream=["🏳️‍🌈👍🏽❤️".encode(), b"\x1b[?2027h", "🏳️‍🌈👍🏽❤️".encode()], unfinished=b"", later=[])
@example(stream=[b"x" * 20], unfinished=b"", later=[b"y"])
@example(stream=["好".encode(), b"\x1b[0;2H"], unfinished=b"", later=[])
@example(stream=[b"\x1b[?6h", b"\x1b[?1049h"], unfinished=b"", later=[])
@example(stream=[b"\x1b[?47h", b"\x1b[?1049h", b"\x1b[?47l"], unfinished=b"", later=[])
@example(stream=[b"\x1b[48;5;9m", b"y" * 50], unfinished=b"\xe5\xa5", later=[b"\xbd"])
def test_a_drawing_brings_a_terminal_to_the_same_state(
    stream: list[bytes], unfinished: bytes, later: list[bytes]
) -> None:
    pair = Pair()
    try:
        pair.first.feed(b"".join(stream) + unfinished)
        drawing = pair.first.drawing()
        pair.second.feed(drawing)
        assert facts_of(pair.second.state()) == facts_of(pair.first.state()), drawing
        for piece in [*later, b"\x18"]:
            assert pair.first.feed(piece) == pair.second.feed(piece)
        assert facts_of(pair.second.state()) == facts_of(pair.first.state()), drawing
    finally:
        pair.close()


def test_what_was_said_last_can_be_repeated(pair: Pair) -> None:
    pair.first.feed(b"ab\x1b[31m")
    pair.second.feed(pair.first.drawing())
    for screen in (pair.first, pair.second):
        screen.feed(b"\x1b[3b")
    assert pair.second.write_down("ansi") == pair.first.write_down("ansi")
    assert pair.second.write_down("text").content.startswith("abbbb\n")


def test_scrollback_goes_before_the_screen(pair: Pair) -> None:
    lines = [b"\x1b[3%dmline %d" % (number % 8, number) for number in range(30)]
    pair.first.feed(b"\r\n".join([*lines, b"long " * 9]))
    history = pair.first.state().primary.history
    assert len(history) > 12
    pair.second.feed(pair.first.drawing(12))
    drawn = pair.second.state().primary
    assert [row_of(row) for row in drawn.history] == [row_of(row) for row in history[-12:]]
    assert pair.second.write_down("text") == pair.first.write_down("text")
    assert pair.second.write_down("ansi", 5) == pair.first.write_down("ansi", 5)


def test_scrollback_is_the_primary_screens_while_the_other_is_shown(pair: Pair) -> None:
    pair.first.feed(
        b"".join(b"line %d\r\n" % number for number in range(20)) + b"\x1b[?1049h\x1b[Hfull screen"
    )
    pair.second.feed(pair.first.drawing(10))
    assert pair.second.write_down("text").content.startswith("full screen")
    for screen in (pair.first, pair.second):
        screen.feed(b"\x1b[?1049l")
    assert pair.second.write_down("text", 10) == pair.first.write_down("text", 10)


def test_wrapped_lines_are_broken_anew_when_the_viewer_is_resized(pair: Pair) -> None:
    pair.first.feed(b"one two three four five six seven\r\nend")
    pair.second.feed(pair.first.drawing())
    for screen in (pair.first, pair.second):
        screen.resize(40, ROWS)
    assert pair.second.write_down("text") == pair.first.write_down("text")
    assert pair.second.write_down("text").content.startswith("one two three four five six seven\nend\n")


def test_a_string_without_end_is_broken_off_for_all(pair: Pair) -> None:
    for beginning in (b"\x1b]0;", b"\x1bP", b"\x1b_G", b"\x1b[1", b"\x1b^", b"\x1bX"):
        pair.first.feed(b"\x1bc" + b"before" + beginning + b"1" * 200_000)
        drawing = pair.first.drawing()
        assert len(drawing) < 1000
        pair.second.feed(b"\x1bc" + drawing)
        for screen in (pair.first, pair.second):
            screen.feed(b"2" * 1000)
            screen.feed(b"m" if beginning == b"\x1b[1" else b"\x1b\\")
            screen.feed(b" after")
            assert screen.write_down("text").content.startswith("before after\n"), beginning


def test_no_control_character_gets_into_a_drawing(pair: Pair) -> None:
    pair.first.feed("a\x9b31mb\x85c".encode() + b"\x1b]0;t\xc2\x9bx\x07")
    drawing = pair.first.drawing()
    assert not any(0x80 <= ord(character) < 0xA0 for character in drawing.decode(errors="replace"))
