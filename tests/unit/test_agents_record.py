"""Records of terminals: what is in them after kills, full disks, bounds and garbage."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.agents import bounds, record
from sessiond.agents.bounds import RecordLimits
from sessiond.agents.folder import AgentFolder
from sessiond.agents.holes import NoPunching
from sessiond.agents.index import (
    ENTRY,
    HEADER,
    Entry,
    IndexReader,
    IndexWriter,
    Kind,
    Reason,
    Stream,
    decode,
    encode,
    pack_size,
)
from sessiond.agents.reading import Piece, RecordReader
from sessiond.agents.record import Record

WIDE = RecordLimits(limit=64 << 20, total=4 << 30, low_disk=0)


def agent_folder(home: Path, agent: str = "a" * 16) -> AgentFolder:
    path = home / "sessions" / ("5" * 32) / "agents" / agent
    path.mkdir(parents=True, exist_ok=True)
    return AgentFolder(path, home / "run")


@pytest.fixture
def folder(isolated_home: Path) -> AgentFolder:
    return agent_folder(isolated_home)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe as it is stored: neither end blocks."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield ends
    for end in ends:
        os.close(end)


def fill(pipe: tuple[int, int], one: Record, data: bytes) -> None:
    """Write data through the pipe into the record."""
    for at in range(0, len(data), 60_000):
        part = data[at : at + 60_000]
        assert os.write(pipe[1], part) == len(part)
        taken = one.take(pipe[0])
        assert (taken.count, taken.data, taken.more) == (len(part), None, False)


def pieces(folder: AgentFolder) -> list[Piece]:
    cursor = RecordReader(folder, tty=True).cursor()
    found: list[Piece] = []
    while more := cursor.read(1 << 20):
        found += more
    return found


def marks(folder: AgentFolder) -> list[Entry]:
    with folder.index.open("rb") as file:
        reader = IndexReader(file.fileno())
        return [entry for _, entry in reader.entries(0) if entry.kind is not Kind.DATA]


def test_an_empty_pipe_gives_nothing(folder: AgentFolder, pipe: tuple[int, int]) -> None:
    with closing(Record.open(folder, WIDE)) as one:
        taken = one.take(pipe[0])
        assert (taken.count, taken.data, taken.more) == (0, None, False)
        assert (one.start, one.end, one.problem) == (0, 0, "")


def test_one_descriptor_may_be_both_ends(folder: AgentFolder) -> None:
    fifo = folder.path / "fifo"
    os.mkfifo(fifo)
    both = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        with closing(Record.open(folder, WIDE)) as one:
            assert one.take(both).count == 0
            os.write(both, b"hello")
            assert one.take(both, 3).more
            assert one.take(both).count == 2
            assert one.read(0, 100) == b"hello"
            assert one.read(3, 1) == b"l"
    finally:
        os.close(both)


def test_it_goes_on_at_the_size_of_its_file(folder: AgentFolder, pipe: tuple[int, int]) -> None:
    with closing(Record.open(folder, WIDE)) as one:
        one.resized(100, 30)
        fill(pipe, one, b"first ")
    # What a kill leaves between the two steps: bytes that nobody noted.
    with folder.record.open("ab") as file:
        file.write(b"unnoted ")
    with closing(Record.open(folder, WIDE)) as one:
        assert one.end == 14
        fill(pipe, one, b"second")
        one.restarted()
    found = pieces(folder)
    assert b"".join(piece.data for piece in found) == b"first unnoted second"
    assert all(piece.time is not None for piece in found)
    assert found[0].size == (100, 30)
    assert found[-1].restarted
    assert found[-1].offset == 20


_WRITER = """
import os, sys
from pathlib import Path
from sessiond.agents.bounds import RecordLimits
from sessiond.agents.folder import AgentFolder
from sessiond.agents.record import Record
one = Record.open(AgentFolder(Path(sys.argv[1]), Path(sys.argv[1])), RecordLimits(64 << 20, 1 << 40, 0))
print("ready", flush=True)
while True:
    one.take(0, 4096)
"""


def test_a_kill_loses_and_doubles_nothing(folder: AgentFolder) -> None:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    count = 0
    try:
        for _ in range(5):
            with subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(folder.path)], stdin=reading, stdout=subprocess.PIPE
            ) as writer:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"ready\n"
                for _ in range(20_000):
                    os.write(writing, b"%08d\n" % count)
                    count += 1
                # In the middle of its work: the pipe is not empty yet, or has just become so.
                writer.send_signal(signal.SIGKILL)
        os.set_blocking(reading, False)
        with closing(Record.open(folder, WIDE)) as one:
            while one.take(reading).count:
                pass
    finally:
        os.close(reading)
        os.close(writing)
    assert folder.record.read_bytes() == b"".join(b"%08d\n" % number for number in range(count))
    assert b"".join(piece.data for piece in pieces(folder)) == folder.record.read_bytes()


# ---- bounds ---------------------------------------------------------------------------------


def test_the_front_is_dropped_and_offsets_stay(folder: AgentFolder, pipe: tuple[int, int]) -> None:
    limits = RecordLimits(limit=256 << 10, total=1 << 40, low_disk=0)
    data = b"".join(b"%09d\n" % number for number in range(100_000))
    with closing(Record.open(folder, limits)) as one:
        fill(pipe, one, data)
        assert one.end == len(data)
        assert 0 < one.end - one.start <= limits.limit
        assert one.read(one.start, 1 << 20) == data[one.start :]
        assert one.read(one.start - 1, 10) == b""
        start = one.start
    assert folder.record.stat().st_size == len(data)
    assert folder.record.stat().st_blocks * 512 <= limits.limit + 4096
    with closing(Record.open(folder, limits)) as one:
        assert (one.start, one.end) == (start, len(data))
    found = pieces(folder)
    assert (found[0].gap, found[0].offset) == (start, 0)
    assert b"".join(piece.data for piece in found) == data[start:]


def test_without_punching_it_stops_at_twice_the_limit(
    folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise NoPunching

    monkeypatch.setattr(bounds, "punch", refuse)
    limits = RecordLimits(limit=64 << 10, total=1 << 40, low_disk=0)
    with closing(Record.open(folder, limits)) as one:
        fill(pipe, one, b"x" * (128 << 10))
        assert (one.start, one.end) == (0, 128 << 10)
        os.write(pipe[1], b"more")
        taken = one.take(pipe[0])
        assert (taken.count, taken.data) == (4, b"more")
        assert one.problem == "limit_reached"
        one.ended()
    assert next((entry.kind, entry.value) for entry in marks(folder)) == (Kind.GAP, 4)


def test_ended_agents_pay_first_and_links_are_not_followed(
    isolated_home: Path, folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "COUNT_EVERY", 1 << 20)
    monkeypatch.setattr("sessiond.agents.record.GROWTH", bounds.Growth())
    older, newer, running = (agent_folder(isolated_home, name * 16) for name in "bcd")
    for place, other in enumerate((older, newer, running)):
        other.record.write_bytes(b"y" * (1 << 20))
        if other is not running:
            other.end.write_text("{}")
            os.utime(other.end, (1000 + place, 1000 + place))
    outside = isolated_home / "precious"
    outside.write_bytes(b"z" * (1 << 20))
    (older.path / "stdout").symlink_to(outside)
    (older.path.parent / ("e" * 16)).symlink_to(isolated_home)
    with closing(Record.open(folder, RecordLimits(limit=8 << 20, total=7 << 19, low_disk=0))) as one:
        fill(pipe, one, b"x" * (1 << 20))
        assert one.start == 0
    assert older.record.stat().st_blocks == 0
    assert RecordReader(older, tty=True).facts().start == 1 << 20
    assert newer.record.stat().st_blocks * 512 == 1 << 20
    assert running.record.read_bytes() == b"y" * (1 << 20)
    assert outside.read_bytes() == b"z" * (1 << 20)


def test_who_grows_pays_when_nobody_has_ended(
    isolated_home: Path, folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "COUNT_EVERY", 1 << 20)
    monkeypatch.setattr("sessiond.agents.record.GROWTH", bounds.Growth())
    running = agent_folder(isolated_home, "d" * 16)
    running.record.write_bytes(b"y" * (1 << 20))
    with closing(Record.open(folder, RecordLimits(limit=8 << 20, total=1 << 20, low_disk=0))) as one:
        fill(pipe, one, b"x" * (5 << 18))
        assert one.end - one.start < 1 << 20
    assert running.record.stat().st_blocks * 512 == 1 << 20


# ---- disks ----------------------------------------------------------------------------------


def test_a_low_disk_stops_recording_and_tells_the_gap(
    folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    low = False
    monkeypatch.setattr(bounds.FreeDisk, "is_low", lambda *arguments: low)
    with closing(Record.open(folder, WIDE)) as one:
        fill(pipe, one, b"before ")
        low = True
        os.write(pipe[1], b"unheld")
        taken = one.take(pipe[0], 4)
        assert (taken.count, taken.data, taken.more) == (4, b"unhe", True)
        assert one.take(pipe[0]).data == b"ld"
        assert one.problem == "disk_low"
        assert RecordReader(folder, tty=True).facts().problem == "disk_low"
        low = False
        assert one.problem == ""
        fill(pipe, one, b"after")
    assert RecordReader(folder, tty=True).facts().problem == ""
    found = [(piece.data, piece.gap, piece.offset) for piece in pieces(folder)]
    assert found == [(b"before ", 0, 0), (b"", 6, 7), (b"after", 0, 7)]


def test_a_gap_survives_a_kill_of_its_writer(
    folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bounds.FreeDisk, "is_low", lambda *arguments: True)
        with closing(Record.open(folder, WIDE)) as one:
            os.write(pipe[1], b"lost")
            one.take(pipe[0])
    for _ in range(2):
        Record.open(folder, WIDE).close()
    found = marks(folder)
    assert [(entry.kind, entry.value, entry.reason) for entry in found] == [(Kind.GAP, 4, Reason.DISK_LOW)]


def test_a_write_that_fails_loses_no_byte(
    folder: AgentFolder, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_AGAIN", 0.0)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with closing(Record.open(folder, WIDE)) as one:
            fill(pipe, one, b"x" * 10_000)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
            os.write(pipe[1], b"y" * 100)
            taken = one.take(pipe[0])
            assert taken.data == b"y" * 100
            assert one.problem == "write_failed"
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            fill(pipe, one, b"z" * 10)
            assert one.problem == ""
            assert one.end == 10_010
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [entry.value for entry in marks(folder)] == [100]


# ---- the index ------------------------------------------------------------------------------

entries = st.builds(
    Entry,
    st.sampled_from([Kind.DATA, Kind.RESIZED, Kind.GAP, Kind.RESTARTED, Kind.ENDED]),
    st.integers(0, 1 << 62),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from(list(Reason)),
)


@given(entries)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    data = encode(entry)
    assert len(data) == ENTRY
    assert decode(data) == entry
    assert decode(data[:-1]) is None


@given(entries, st.integers(0, ENTRY - 1), st.integers(1, 255))
def test_a_damaged_entry_is_none(entry: Entry, place: int, flip: int) -> None:
    data = bytearray(encode(entry))
    data[place] ^= flip
    assert decode(bytes(data)) is None


@given(
    steps=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=40),
    damage=st.sets(st.integers(0, 39)),
    torn=st.binary(max_size=ENTRY - 1),
)
def test_an_index_is_searched_whatever_is_damaged(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int]],
    damage: set[int],
    torn: bytes,
) -> None:
    path = tmp_path_factory.mktemp("index") / "index"
    written: list[Entry | None] = []
    with closing(IndexWriter(path)) as index:
        out = err = 0
        for number, (more_out, more_err) in enumerate(steps):
            out, err = out + more_out, err + more_err
            entry = Entry(Kind.DATA, number, out, err)
            index.add(entry)
            written.append(entry)
    with path.open("r+b") as file:
        for number in damage & set(range(len(steps))):
            file.seek(HEADER + number * ENTRY)
            file.write(b"garbage!" * (ENTRY // 8))
            written[number] = None
        file.seek(0, os.SEEK_END)
        file.write(torn)
    good = [entry for entry in written if entry is not None]
    with path.open("rb") as file:
        reader = IndexReader(file.fileno())
        assert [entry for _, entry in reader.entries(0)] == good
        assert reader.last() == (good[-1] if good else None)
        for stream in (Stream.STDOUT, Stream.STDERR):
            for offset in {entry.at(stream) for entry in good} | {0, 7, 10_000}:
                found = reader.get(reader.after(stream, offset))
                assert found == next((entry for entry in good if entry.at(stream) > offset), None)
    with closing(IndexWriter(path)) as index:
        index.add(Entry(Kind.ENDED, 99, 99_999, 99_999))
        assert [entry for _, entry in index.reader.entries(0)][-1].kind is Kind.ENDED
        assert len(list(index.reader.entries(0))) == len(good) + 1


@given(st.binary(max_size=HEADER + 200))
def test_any_garbage_is_taken_for_an_index(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("index") / "index"
    path.write_bytes(data)
    with closing(IndexWriter(path)) as index:
        index.add(Entry(Kind.DATA, 1, 5))
        assert [entry.offset for _, entry in index.reader.entries(0)] == [5]


def test_an_index_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with closing(IndexWriter(path, limit=16 << 10)) as index:
        for number in range(5000):
            index.add(Entry(Kind.DATA, number, number, pack_size(80, 24)))
        assert index.last is not None
    assert path.stat().st_blocks * 512 <= (16 << 10) + HEADER + 4096
    with closing(IndexWriter(path)) as index:
        reader = index.reader
        found = [entry.offset for _, entry in reader.entries(0)]
        assert found == list(range(found[0], 5000))
        assert len(found) >= 100
        after = reader.get(reader.after(Stream.TERMINAL, 4990))
        assert after is not None
        assert after.offset == 4991


def test_what_comes_at_once_is_noted_once(folder: AgentFolder, pipe: tuple[int, int]) -> None:
    with closing(Record.open(folder, WIDE)) as one:
        for _ in range(2000):
            fill(pipe, one, b"x")
    entries = (folder.index.stat().st_size - HEADER) // ENTRY
    assert entries < 1000


def test_an_index_that_tells_of_more_than_there_is_is_cut_back(
    folder: AgentFolder, pipe: tuple[int, int]
) -> None:
    with closing(Record.open(folder, WIDE)) as one:
        fill(pipe, one, b"kept")
        one.resized(80, 24)
        fill(pipe, one, b" gone with the power")
    os.truncate(folder.record, 4)
    with closing(Record.open(folder, WIDE)) as one:
        fill(pipe, one, b" new")
    assert b"".join(piece.data for piece in pieces(folder)) == b"kept new"
    assert all(piece.time is not None for piece in pieces(folder) if piece.data)
