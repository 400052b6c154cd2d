"""Device queries are found and taken out, however the stream is cut; all else passes byte for byte."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.terminal.queries import HELD, QueryFilter, QueryScanner

QUERIES = [
    b"\x1b[5n",
    b"\x1b[6n",
    b"\x1b[?6n",
    b"\x1b[?996n",
    b"\x1b[c",
    b"\x1b[0c",
    b"\x1b[>c",
    b"\x1b[>0c",
    b"\x1b[=c",
    b"\x1bZ",
    b"\x1b[?2004$p",
    b"\x1b[4$p",
    b"\x1b[>q",
    b"\x1b[>0q",
    b"\x1b[?u",
    b"\x1b[?4m",
    b"\x1b[?1;1;0S",
    b"\x1b[14t",
    b"\x1b[14;2t",
    b"\x1b[16t",
    b"\x1b[18t",
    b"\x1b[21t",
    b"\x1b[x",
    b"\x1b[1$w",
    b"\x1b]10;?\x07",
    b"\x1b]11;?\x1b\\",
    b"\x1b]4;1;?\x07",
    b"\x1b]12;?;?\x07",
    b"\x1b]52;c;?\x07",
    b"\x1b]21;foreground=?\x1b\\",
    b"\x1b]1337;ReportCellSize\x07",
    b"\x1bP$qm\x1b\\",
    b"\x1bP+q544e\x1b\\",
    b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\",
    b"\x05",
]

OTHERS = [
    b"plain text\r\n",
    "好 é 😀".encode(),
    b"\xff\xfe\x80",
    b"\x1b[31m",
    b"\x1b[H\x1b[2J",
    b"\x1b[>4;2m",
    b"\x1b[>4n",
    b"\x1b[2 q",
    b"\x1b[8;24;80t",
    b"\x1b[22;0t",
    b"\x1b[>1u",
    b"\x1b[=5u",
    b"\x1b[u",
    b"\x1b[3S",
    b"\x1b[?25h",
    b"\x1b[!p",
    b'\x1b[1"q',
    b"\x1b]0;what?\x07",
    b"\x1b]2;title\x1b\\",
    b"\x1b]10;#fff\x07",
    b"\x1b]8;;http://a/?q\x1b\\",
    b"\x1b]52;c;aGk=\x07",
    b"\x1bPq#0;2;0;0;0\x1b\\",
    b"\x1b_Ga=T,f=24;AAAA\x1b\\",
    b"\x1b7\x1b8",
    b"\x1b(0",
    b"\x1b[" + b"1;" * 60 + b"m",
    b"\x1b]0;" + b"long" * 40 + b"\x07",
]

BROKEN = [
    b"\x1b",
    b"\x1b[",
    b"\x1b[?2004",
    b"\x1b]11;",
    b"\x1b]11;?",
    b"\x1bP$q",
    b"\x18",
    b"\x07",
    b"\\",
    b"n",
    b"c",
]


def filtered(stream: bytes, cuts: list[int]) -> bytes:
    """What the filter lets pass of a stream that is cut in places."""
    one = QueryFilter()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = []
    for start, end in pairwise(places):
        pieces.append(one.feed(stream[start:end]))
        assert len(one._held) <= HELD
    return b"".join([*pieces, one.flush()])


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_is_found_and_taken_out(query: bytes) -> None:
    assert QueryScanner().feed(b"before" + query + b"after")
    assert filtered(b"before" + query + b"after", []) == b"beforeafter"
    scanner = QueryScanner()
    assert [scanner.feed(bytes([byte])) for byte in query + b"\x1b[m"].count(True) == 1


@pytest.mark.parametrize("other", OTHERS)
def test_what_asks_nothing_passes(other: bytes) -> None:
    assert not QueryScanner().feed(b"before" + other + b"after")
    assert filtered(b"before" + other + b"after", []) == b"before" + other + b"after"


def test_colours_that_are_set_besides_are_kept() -> None:
    assert filtered(b"\x1b]4;1;?;2;#fff\x07", []) == b"\x1b]4;2;#fff\x07"
    assert filtered(b"\x1b]10;?;#000\x1b\\", []) == b"\x1b]11;#000\x1b\\"


def test_a_string_that_the_next_sequence_ends_is_a_query_too() -> None:
    assert filtered(b"a\x1b]11;?\x1b[31mb", [9, 10]) == b"a\x1b[31mb"


def test_a_long_sequence_is_passed_on_before_its_end() -> None:
    one = QueryFilter()
    assert one.feed(b"\x1b]52;c;" + b"A" * 1000) == b"\x1b]52;c;" + b"A" * 1000


def test_a_query_longer_than_what_is_held_back_is_found() -> None:
    asked = b"\x1bP+q" + b";".join([b"544e"] * 40) + b"\x1b\\"
    scanner = QueryScanner()
    assert not scanner.feed(asked[:100])
    assert scanner.feed(asked[100:])


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.one_of(st.sampled_from(QUERIES + OTHERS + BROKEN), st.binary(max_size=6)), max_size=12),
    cuts=st.lists(st.integers(0, 2000), max_size=30),
)
def test_chunks_make_no_difference(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    whole = filtered(stream, [])
    assert filtered(stream, cuts) == whole
    assert filtered(stream, list(range(len(stream)))) == whole
    scanner = QueryScanner()
    if not any(scanner.feed(bytes([byte])) for byte in stream):
        assert whole == stream
