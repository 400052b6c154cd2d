"""Reading what agents printed: lines, searches, pieces, and what is stripped from them."""

from __future__ import annotations

import os
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessiond.agents.folder import AgentFolder
from sessiond.agents.index import Entry, IndexWriter, Kind, Slot, Stream, pack_size
from sessiond.agents.lines import LINE_MAX, Stripper, plain, strip
from sessiond.agents.reading import TEXT_MAX, Query, RecordReader, tail
from sessiond.errors import InvalidArgument, NotFound, TimedOut
from sessiond.terminal.emulator import make_screen


@pytest.fixture
def folder(tmp_path: Path) -> AgentFolder:
    return AgentFolder(tmp_path, tmp_path)


def texts(folder: AgentFolder, query: Query, *, tty: bool = True) -> list[str]:
    return [line.text for line in RecordReader(folder, tty).lines(query).lines]


# ---- what a person reads --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"plain \xc3\xa9", "plain \u00e9"),
        (b"with cr\r", "with cr"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bP1$r0m\x1b\\dcs", "dcs"),
        (b"\x1b_Gf=24;AAAA\x1b\\apc", "apc"),
        (b"\x1b(Bset\x1b=", "set"),
        (b"cut \x1b[12", "cut "),
        (b"cut \x1b]0;never ends", "cut "),
        (b"a\x1b[31\x18b", "ab"),
        (b"\x1b[3\xc3\xa9", "\u00e9"),
        (b"\x1b\x1b[1mtwice", "twice"),
        (b"10%\r20%\r100%", "100%"),
        (b"longer text\rshort", "shortr text"),
        (b"longer text\r\x1b[Kshort", "short"),
        (b"longer\x1b[2K\rshort", "short"),
        (b"typo\x08\x08\x08ap", "tapo"),
        (b"a\x1b[5Cb", "a     b"),
        (b"abc\x1b[1Gx", "xbc"),
        (b"abc\x1b[2Dx", "axc"),
        (b"bell\x07 and \x00nul", "bell and nul"),
        (b"tab\tstays", "tab\tstays"),
        (b"\x1b[31m\x1b[Ktab\tstays\x1b[m\x1b[K", "tab\tstays"),
        (b"tab\tb\rxyz\r\tB", "xyz\tB"),
        (b"tab\x08\x08\x08\t<", "tab     <"),
        (b"0123456\t\x08\x08x", "012345x"),
        ("\u597d\u597d\x08!".encode(), "\u597d !"),
        ("x\u597d\x08\x08\x08abc".encode(), "abc"),
        (b"done\x1b[1K", ""),
        (b"word\x1b[2D\x1b[P", "wod"),
        (b"wrd\x1b[2D\x1b[@o", "word"),
        (b"word\x1b[4D\x1b[2X", "  rd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"c1 \xc2\x9bgone", "c1 gone"),
        (b"\x1b[99999999999999999999Cx", " " * 1000 + "x"),
    ],
)
def test_a_line_reads_as_a_person_would(line: bytes, read: str) -> None:
    assert plain(line).rstrip() == read.rstrip()


_EDITS = st.lists(
    st.sampled_from(
        ["abc", "x", "two words", "\t", "\b", "\b\b\b", "\r", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[3C",
         "\x1b[2D", "\x1b[5G", "\x1b[20G", "\u597d", "\u00e9", "\x1b[31m", "\x1b[P", "\x1b[2P", "\x1b[3@",
         "\x1b[2X"]
    ),
    max_size=10,
)  # fmt: skip


@settings(deadline=None)
@given(_EDITS)
def test_an_edited_line_reads_as_a_terminal_shows_it(parts: list[str]) -> None:
    line = "".join(parts).encode()
    screen = make_screen(400, 2, 0)
    try:
        screen.feed(line)
        shown = screen.write_down("text").content.split("\n")[0]
    finally:
        screen.close()
    # A wide character is told once there, and takes two columns of a tab's.
    read = plain(line).replace("\u597d", "\u597d\0").expandtabs(8).replace("\0", "")
    assert read.rstrip() == shown.rstrip()


_PARTS = st.lists(
    st.sampled_from(
        [b"\x1b", b"[", b"]", b"P", b"_", b"\\", b"\x07", b"\x18", b"\n", b"\r", b"m", b"1;2", b" ", b"(",
         b"text", b"\xff", b"\x08", b"\x7f", b"?25l", b"\x1b[31m", b"\x1b]0;t\x07", b"K", b"\x80"]
    )
    | st.binary(max_size=3),
    max_size=30,
)  # fmt: skip


@given(_PARTS, st.data())
@example([b"\x1b", b"\x1b", b"]", b"\n"], None)
def test_stripping_is_the_same_however_it_is_split(parts: list[bytes], data: st.DataObject | None) -> None:
    whole = b"".join(parts)
    pieces = parts
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
        pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    stripper = Stripper()
    assert b"".join(map(stripper.feed, pieces)) == strip(whole)


@given(_PARTS)
def test_nothing_that_steers_a_terminal_is_left(parts: list[bytes]) -> None:
    line = b"".join(parts).replace(b"\n", b"")
    text = plain(line)
    assert all(ord(one) >= 32 or one == "\t" for one in text)
    assert not any(127 <= ord(one) < 160 for one in text)


@given(st.lists(st.binary(max_size=20).map(lambda one: one.replace(b"\x1b", b"")), max_size=8))
def test_what_has_no_escapes_is_kept(parts: list[bytes]) -> None:
    stripper = Stripper()
    assert b"".join(map(stripper.feed, parts)) == b"".join(parts)


# ---- lines ----------------------------------------------------------------------------------


@given(
    data=st.binary(max_size=300).map(lambda one: one.replace(b"\x01", b"\n").replace(b"\x02", b"\n")),
    offset=st.integers(0, 320),
    count=st.integers(1, 12),
)
@example(data=b"", offset=0, count=1)
@example(data=b"\n\n", offset=1, count=5)
@example(data=b"a\nb", offset=2, count=5)
def test_lines_at_any_offset(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, count: int
) -> None:
    place = tmp_path_factory.mktemp("agent")
    folder = AgentFolder(place, place)
    folder.record.write_bytes(data)
    reader = RecordReader(folder, tty=True)

    def expected(part: bytes, base: int) -> list[tuple[int, str]]:
        found, at = [], base
        for line in part.split(b"\n"):
            found.append((at, line.decode("utf-8", "replace")))
            at += len(line) + 1
        return found[:-1] if not part or part.endswith(b"\n") else found

    at = min(offset, len(data))
    first = reader.lines(Query(offset=offset, limit=count, raw=True))
    wanted = expected(data[at:], at)
    assert [(line.offset, line.text) for line in first.lines] == wanted[:count]
    assert first.has_more == (len(wanted) > count)
    assert (first.total, first.start) == (len(data), 0)
    assert first.next_offset == (wanted[count][0] if len(wanted) > count else len(data))

    last = reader.lines(Query(last=count, raw=True))
    wanted = expected(data, 0)
    assert [(line.offset, line.text) for line in last.lines] == wanted[-count:]
    assert last.has_more == (len(wanted) > count)

    before = reader.lines(Query(last=count, offset=offset, raw=True))
    wanted = expected(data[:at], 0)
    assert [(line.offset, line.text) for line in before.lines] == wanted[-count:]


def test_a_line_of_10_mb_is_one_line(folder: AgentFolder) -> None:
    with folder.record.open("wb") as file:
        file.write(b"before\n" + b"x" * (10 << 20) + b"\nafter\n")
    for query in (Query(), Query(last=3)):
        found = RecordReader(folder, tty=True).lines(query)
        assert [line.text[:6] for line in found.lines] == ["before", "xxxxxx", "after"]
        assert [line.cut for line in found.lines] == [False, True, False]
        assert len(found.lines[1].text) == LINE_MAX
        assert found.lines[2].offset == 7 + (10 << 20) + 1


def test_a_long_progress_bar_reads_as_its_last_state(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"".join(b"\r%07d of 20000" % n for n in range(20_001)) + b"\r\nnext\r\n")
    for query in (Query(), Query(last=2)):
        assert texts(folder, query) == ["0020000 of 20000", "next"]


def test_the_end_of_a_large_record_is_read_from_its_end(folder: AgentFolder) -> None:
    with folder.record.open("wb") as file:
        for start in range(0, 4_000_000, 100_000):
            file.write(b"".join(b"line %09d\n" % n for n in range(start, start + 100_000)))
    tracemalloc.start()
    try:
        found = RecordReader(folder, tty=True).lines(Query(last=10))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [line.text for line in found.lines] == [f"line {n:09}" for n in range(3_999_990, 4_000_000)]
    assert peak < 2 << 20


def test_an_answer_holds_no_more_than_a_message_may(folder: AgentFolder) -> None:
    folder.record.write_bytes((b"y" * 60_000 + b"\n") * 100)
    first = RecordReader(folder, tty=True).lines(Query(limit=1000))
    assert 0 < sum(len(line.text) for line in first.lines) <= TEXT_MAX
    assert first.has_more
    assert first.next_offset == len(first.lines) * 60_001
    last = RecordReader(folder, tty=True).lines(Query(last=1000))
    assert last.has_more
    assert last.lines[-1].offset == 99 * 60_001


def test_what_is_dropped_is_not_read(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"\0" * 4096 + b"held\nalso\n")
    index = IndexWriter(folder.index)
    index.put(Slot.STDOUT_START, 4096)
    index.close()
    reader = RecordReader(folder, tty=True)
    for query in (Query(), Query(offset=5), Query(last=9)):
        found = reader.lines(query)
        assert [line.text for line in found.lines] == ["held", "also"]
        assert (found.start, found.total, found.has_more) == (4096, 4106, False)
    assert [(one.gap, one.data) for one in reader.pieces(Stream.TERMINAL, 96, 100)] == [
        (4000, b""),
        (0, b"held\nalso\n"),
    ]


def test_no_record_is_told(folder: AgentFolder) -> None:
    for tty in (True, False):
        with pytest.raises(NotFound) as caught:
            RecordReader(folder, tty).lines(Query())
        assert caught.value.code == "record_gone"
        assert caught.value.hint


def test_a_link_or_a_folder_is_no_record(folder: AgentFolder) -> None:
    folder.record.mkdir()
    with pytest.raises(NotFound):
        RecordReader(folder, tty=True).facts()


# ---- searching ------------------------------------------------------------------------------


def test_lines_are_found(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"".join(b"\x1b[1m%d\x1b[0m\r\n" % n for n in range(1000)))
    assert texts(folder, Query(grep=r"^9.9$")) == [str(n) for n in range(909, 1000, 10)]
    assert texts(folder, Query(grep="99", last=2)) == ["998", "999"]
    found = RecordReader(folder, tty=True).lines(Query(grep="5$", limit=2))
    assert [line.text for line in found.lines] == ["5", "15"]
    assert found.has_more
    going_on = RecordReader(folder, tty=True).lines(Query(grep="5$", limit=1, offset=found.next_offset))
    assert [line.text for line in going_on.lines] == ["25"]


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|a)*b", r"(?:a|aa)+$", r"(.*)*(.*)*(.*)*(.*)*x\1\2\3"])
def test_a_search_ends(folder: AgentFolder, pattern: str) -> None:
    folder.record.write_bytes(b"a" * 5000 + b"!\n")
    with suppress(TimedOut):
        # Some are found hopeless at once, by an engine that is clever enough.
        assert RecordReader(folder, tty=True).lines(Query(grep=pattern), deadline=0.2).lines == ()


def test_a_search_without_an_end_is_stopped(folder: AgentFolder) -> None:
    folder.record.write_bytes(b"a" * 5000 + b"!\n")
    with pytest.raises(TimedOut) as caught:
        RecordReader(folder, tty=True).lines(Query(grep=r"(?:a|aa|aaa)+(?:a|aa)+\d"), deadline=0.2)
    assert caught.value.code == "grep_timeout"
    assert caught.value.hint


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?P<x", "*", "a{2,1}", "(" * 5000])
def test_what_is_no_expression_is_refused(folder: AgentFolder, pattern: str) -> None:
    folder.record.write_bytes(b"text\n")
    with pytest.raises(InvalidArgument) as caught:
        RecordReader(folder, tty=True).lines(Query(grep=pattern))
    assert caught.value.code == "grep_invalid"
    assert caught.value.hint


# ---- two files ------------------------------------------------------------------------------


def two_files(folder: AgentFolder, steps: list[tuple[bytes, bytes]]) -> None:
    """Write both files step by step, each step noted."""
    index = IndexWriter(folder.index)
    out = err = b""
    for number, (more_out, more_err) in enumerate(steps):
        out, err = out + more_out, err + more_err
        index.add(Entry(Kind.DATA, 1_700_000_000_000_000 + number, len(out), len(err)))
    index.close()
    folder.stdout.write_bytes(out)
    folder.stderr.write_bytes(err)


def test_both_files_are_told_in_the_order_of_time(folder: AgentFolder) -> None:
    two_files(folder, [(b"one\n", b""), (b"", b"two\n"), (b"three\nfour\n", b""), (b"", b"five\n")])
    with folder.stderr.open("ab") as file:
        file.write(b"unnoted\n")
    assert texts(folder, Query(), tty=False) == ["one", "two", "three", "four", "five", "unnoted"]
    assert texts(folder, Query(last=3), tty=False) == ["four", "five", "unnoted"]
    assert texts(folder, Query(limit=3), tty=False) == ["one", "two", "three"]
    assert texts(folder, Query(stream=Stream.STDERR, last=2), tty=False) == ["five", "unnoted"]
    found = RecordReader(folder, tty=False).lines(Query())
    assert (found.total, found.next_offset) == (32, None)
    assert found.lines[-1].time is None
    assert found.lines[1].stream is Stream.STDERR
    told = RecordReader(folder, tty=False).pieces(Stream.BOTH, 0, 1000)
    assert b"".join(piece.data for piece in told) == b"one\ntwo\nthree\nfour\nfive\nunnoted\n"


@given(
    st.lists(
        st.tuples(*[st.lists(st.sampled_from([b"x\n", b"long line\n", b"\n"]), max_size=3)] * 2), max_size=20
    ),
    st.integers(1, 15),
)
def test_lines_of_one_file_are_never_out_of_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[bytes], list[bytes]]], count: int
) -> None:
    place = tmp_path_factory.mktemp("agent")
    folder = AgentFolder(place, place)
    two_files(folder, [(b"".join(out), b"".join(err)) for out, err in steps])
    reader = RecordReader(folder, tty=False)
    every = reader.lines(Query()).lines
    assert len(every) == sum(len(out) + len(err) for out, err in steps)
    for stream in (Stream.STDOUT, Stream.STDERR):
        offsets = [line.offset for line in every if line.stream is stream]
        assert offsets == sorted(offsets)
    assert [line.time for line in every] == sorted(line.time for line in every if line.time)
    assert reader.lines(Query(limit=count)).lines == every[:count]
    assert reader.lines(Query(last=count)).lines == every[-count:]


def test_streams_that_an_agent_has_not_are_refused(folder: AgentFolder) -> None:
    two_files(folder, [(b"a\n", b"b\n")])
    folder.record.write_bytes(b"c\n")
    for tty, stream in ((True, Stream.STDERR), (False, Stream.TERMINAL)):
        with pytest.raises(InvalidArgument) as caught:
            RecordReader(folder, tty).lines(Query(stream=stream))
        assert caught.value.code == "stream_invalid"
    with pytest.raises(InvalidArgument) as caught:
        RecordReader(folder, tty=False).lines(Query(offset=1))
    assert caught.value.code == "offset_invalid"


# ---- pieces ---------------------------------------------------------------------------------


def test_a_cursor_goes_on_where_it_stopped(folder: AgentFolder) -> None:
    index = IndexWriter(folder.index)
    index.add(Entry(Kind.RESIZED, 1_000_000, 0, pack_size(80, 24)))
    folder.record.write_bytes(b"hello")
    index.add(Entry(Kind.DATA, 2_000_000, 5, pack_size(80, 24)))
    cursor = RecordReader(folder, tty=True).cursor()
    first = cursor.read(3)
    assert [(piece.size, piece.data) for piece in first] == [((80, 24), b""), (None, b"hel")]
    assert [piece.data for piece in cursor.read(100)] == [b"lo"]
    assert cursor.read(100) == []
    with folder.record.open("ab") as file:
        file.write(b" world")
    index.add(Entry(Kind.DATA, 3_000_000, 11, pack_size(80, 24)))
    index.add(Entry(Kind.RESIZED, 4_000_000, 11, pack_size(90, 30)))
    index.close()
    assert [(piece.data, piece.size) for piece in cursor.read(100)] == [(b" world", None), (b"", (90, 30))]
    assert cursor.read(100) == []
    assert cursor.offset == 11
    middle = RecordReader(folder, tty=True).pieces(Stream.TERMINAL, 7, 100)
    assert [(piece.data, piece.size) for piece in middle] == [
        (b"", (80, 24)),
        (b"orld", None),
        (b"", (90, 30)),
    ]
    at_end = RecordReader(folder, tty=True).cursor(from_end=True)
    assert not any(piece.data for piece in at_end.read(100))


@given(
    data=st.binary(max_size=200),
    notes=st.lists(st.integers(0, 200)),
    most=st.integers(1, 50),
    offset=st.integers(0, 220),
)
def test_pieces_are_the_record(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, notes: list[int], most: int, offset: int
) -> None:
    place = tmp_path_factory.mktemp("agent")
    folder = AgentFolder(place, place)
    folder.record.write_bytes(data)
    index = IndexWriter(folder.index)
    for number, note in enumerate(sorted(notes)):
        index.add(Entry(Kind.DATA, number, note, 0))
    index.close()
    cursor = RecordReader(folder, tty=True).cursor(offset=offset)
    told = b""
    while pieces := cursor.read(most):
        assert sum(len(piece.data) for piece in pieces) <= most
        for piece in pieces:
            assert piece.offset == offset + len(told)
            told += piece.data
    assert told == data[offset:]


def test_the_tail_is_what_a_screen_is_made_from(folder: AgentFolder) -> None:
    index = IndexWriter(folder.index)
    lines = b"".join(b"%06d\r\n" % n for n in range(10_000))
    folder.record.write_bytes(lines)
    for place in range(0, len(lines), 1000):
        size = pack_size(80, 24) if place < 50_000 else pack_size(100, 40)
        if place == 50_000:
            index.add(Entry(Kind.RESIZED, place, place, size))
        index.add(Entry(Kind.DATA, place, place + 1000, size))
    index.close()
    found = tail(folder, 40_000)
    assert found[0].size == (80, 24)
    assert [piece.size for piece in found if piece.size] == [(80, 24), (100, 40)]
    told = b"".join(piece.data for piece in found)
    assert lines.endswith(told)
    assert 39_000 < len(told) <= 40_000
    assert len(found) <= 4
    assert b"".join(piece.data for piece in tail(folder, 1 << 20)) == lines


def test_a_record_that_is_a_pipe_does_not_block(folder: AgentFolder) -> None:
    os.mkfifo(folder.record)
    with pytest.raises(NotFound):
        RecordReader(folder, tty=True).facts()
