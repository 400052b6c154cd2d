"""A screen that is fed the last of a long run of text shows what one shows that was fed all of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.terminal.ghostty import GhosttyScreen
from sessiond.terminal.plain import LEAST, PlainText, _runs

COLUMNS, ROWS, SCROLLBACK = 20, 6, 40

TEXT = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.encode),
    # Wide ones, those that join the one before, controls of eight bits, and what is no UTF-8.
    st.text(st.sampled_from("aé奥\u0301\u200d👩🏽🇩\ufe0f\u009b31m\x85"), max_size=20).map(str.encode),
    st.lists(
        st.sampled_from([b"\xe5\xa5", b"\x9b2;2r", b"\x9d0;", b"\x9c", b"\xff", b"\x90", b"b"]), max_size=5
    ).map(b"".join),
)
COLOUR = st.sampled_from(
    [
        b"\x1b[m",
        b"\x1b[0m",
        b"\x1b[1;31m",
        b"\x1b[22m",
        b"\x1b[48;5;17m",
        b"\x1b[38:2::1:2:3m",
        b"\x1b[4:3m",
        b"\x1b[0;7m",
        b"\x1b[27;39m",
        b"\x1b[99m",
        b"\x1b[;m",
    ]
)
LINE = st.one_of(TEXT, st.lists(st.one_of(TEXT, COLOUR), max_size=5).map(b"".join))
SEQUENCE = st.sampled_from(
    [
        b"\x1b[31;42m",
        b"\x1b]2;\xc3\xa9",
        b"\x1b[?25m",
        b"\x1b[2;4H",
        b"\x1b[?1049h",
        b"\x1b[?7l",
        b"\x1b[4h",
        b"\x1b[20h",
        b"\x1b[2;4r",
        b"\x1b[?69h\x1b[3;9s",
        b"\x1b]2;no end",
        b"\x1b[",
        b"\xe5\xa5",
        b"\x9b",
        b"\x1b[?2027h",
        b"\x07\x00",
        b"left behind",
        b"\n\n",
    ]
)
END = st.sampled_from([b"\r\n", b"\n", b"\r\n"])


def fed(*pieces: bytes) -> GhosttyScreen:
    screen = GhosttyScreen(COLUMNS, ROWS, SCROLLBACK)
    for piece in pieces:
        screen.feed(piece)
    return screen


def in_small_pieces(data: bytes) -> list[bytes]:
    return [data[at : at + LEAST // 2] for at in range(0, len(data), LEAST // 2)]


# Lines behind the screen go by whole pages, at other times with other pieces: the screen is compared.
@settings(max_examples=100, deadline=None)
@given(
    st.lists(SEQUENCE, max_size=4),
    st.lists(LINE, max_size=5),
    st.one_of(st.lists(LINE, min_size=3, max_size=20), st.lists(TEXT, min_size=3, max_size=20)),
    END,
    LINE,
    SEQUENCE,
)
def test_what_is_left_out_is_not_missed(
    before: list[bytes], once: list[bytes], lines: list[bytes], end: bytes, last: bytes, after: bytes
) -> None:
    run = b"".join(line + end for line in lines)
    begun = b"".join([*before, *(line + b"\r\n" for line in once)])
    data = begun + run * (LEAST // max(1, len(run)) + 2) + last + after
    with_it, without = fed(*in_small_pieces(data)), fed(data)
    assert without.drawing() == with_it.drawing()
    more = b"\x1b\\\r\ngoes on\r\n"
    for screen in (with_it, without):
        screen.feed(more)
    assert without.drawing() == with_it.drawing()
    with_it.close()
    without.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(COLOUR, min_size=1, max_size=8))
def test_what_is_written_next_has_the_colours_that_were_set_last(colours: list[bytes]) -> None:
    set_once = b"".join(b"\r\n" + colour for colour in colours)
    data = set_once + b"\r\ny" * LEAST + b"\r\nlast"
    with_it, without = fed(*in_small_pieces(data)), fed(data)
    assert without.drawing() == with_it.drawing()
    with_it.close()
    without.close()


def test_ten_million_lines_are_not_fed() -> None:
    flood = b"y\r\n" * 1_000_000
    assert len(PlainText().shortened(flood, 100)) < 1000
    assert len(PlainText().shortened(b"a\x1b[m" + flood + b"\x1b[1m" + flood, 100)) < 2000


def test_coloured_lines_are_not_fed_either() -> None:
    line = b"\x1b[32m%08d\x1b[0m \x1b[1mok\x1b[22m\r\n"
    flood = b"".join(line % number for number in range(100_000))
    for begun in (b"", b"\x1b", b"\x1b[3"):
        assert len(PlainText().shortened(flood + begun, 100)) < 110 * len(line % 0)


def test_of_lines_that_are_left_out_the_colours_stay_that_were_not_changed_again() -> None:
    flood = b"y\r\n" * LEAST
    data = b"\r\n\x1b[31m\x1b[m\x1b[1m\x1b[35m\x1b[1m\r\n" + flood
    assert PlainText().shortened(data, 1) == b"\r\n\x1b[m\x1b[35m\x1b[1m" + b"y\r\n"


def test_a_sequence_without_end_is_looked_at_once() -> None:
    for endless in (b"\x1b[" + b"1" * (4 << 20), b"\x1b[1;" * (1 << 19), b"\x1b[?1" * (1 << 19)):
        assert PlainText().shortened(endless, 10) == endless


def test_lines_that_only_go_down_are_fed() -> None:
    flood = b"y\n" * LEAST
    assert PlainText().shortened(flood, 10) == flood


@pytest.mark.parametrize("cut", range(1, 7))
def test_margins_are_seen_also_in_two_pieces(cut: int) -> None:
    sequence = b"\x1b[2;10r"
    plain = PlainText()
    flood = b"y\r\n" * LEAST
    plain.shortened(sequence[:cut], 10)
    assert plain.shortened(sequence[cut:] + flood, 10) == sequence[cut:] + flood
    assert plain.shortened(flood, 10) == flood


RUN = re.compile(rb"(?:[\x20-\x7e\x80-\xff\t\r\n]|\x1b\[[0-9;:]{0,32}m)+")
PART = st.tuples(
    st.integers(0, 2 * LEAST),
    st.sampled_from(
        [b"\x1b", b"\xc3\xa9", b"", b"\x1b[1;31m", b"\x1b[%sm" % (b"1" * 33), b"\x1b[3", b"\x1b[3H"]
    ),
)


@settings(deadline=None)
@given(st.lists(PART, max_size=8))
def test_every_run_that_is_long_enough_is_found(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(b"x" * length + other for length, other in parts)
    spans = [run.span() for run in RUN.finditer(data)]
    strange = re.search(rb"\x1b(?!\[[0-9;:]{0,32}m)", data)
    calm = len(data) if strange is None else strange.start()
    assert list(_runs(data, calm)) == [(start, end) for start, end in spans if end - start >= LEAST]
