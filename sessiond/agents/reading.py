"""Reads what an agent printed, at rest or while it grows: lines for people, pieces for replay and streams.

Needs nothing but the files, and a bounded amount of memory however much there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter

from sessiond.agents.files import OutputFile, OutputFiles, RawLine
from sessiond.agents.folder import AgentFolder
from sessiond.agents.grep import DEADLINE, Grep
from sessiond.agents.index import Entry, IndexReader, Kind, Slot, Stream, unpack_size
from sessiond.agents.lines import plain
from sessiond.errors import InvalidArgument

LINES_MAX = 10_000
# An answer holds less text than a message of gRPC may (4 MiB).
TEXT_MAX = 3 << 20

_PIECES_MAX = 4096
_LINE_COST = 64
_SEEK_LINE = 4096


@dataclass(frozen=True, slots=True)
class RecordFacts:
    """First and next offset (of two files their sums), and why nothing is recorded now, or empty."""

    start: int
    end: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """Which lines: the first ``limit`` from ``offset`` on, or the ``last`` so many before it (or the end);
    only those in which ``grep`` is found. ``raw`` keeps escape sequences."""

    stream: Stream = Stream.BOTH
    grep: str = ""
    offset: int | None = None
    last: int = 0
    limit: int = 1000
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``time`` is when its first bytes came, None where nobody noted it."""

    text: str
    offset: int
    time: datetime | None
    stream: Stream
    cut: bool


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines found; ``next_offset`` is where to go on, None with two files."""

    lines: tuple[Line, ...]
    total: int
    start: int
    has_more: bool
    next_offset: int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing of the record at an offset: ``data``, or the terminal's new ``size``, or so many bytes that
    are not held (``gap``), or that the program was started anew (``restarted``)."""

    time: datetime | None
    offset: int
    stream: Stream
    data: bytes = b""
    size: tuple[int, int] | None = None
    gap: int = 0
    restarted: bool = False


class RecordReader:
    """Opens the files at each call, so none stays open between. All calls raise NotFound `record_gone`."""

    def __init__(self, folder: AgentFolder, tty: bool) -> None:
        self._folder = folder
        self._tty = tty

    def facts(self) -> RecordFacts:
        """How much there is."""
        with OutputFiles(self._folder, tty=self._tty) as files:
            gap = None if files.index is None else files.index.slot(Slot.GAP)
            return RecordFacts(
                start=sum(one.start for one in files.streams.values()),
                end=sum(one.end for one in files.streams.values()),
                problem="" if gap is None or gap.kind is not Kind.GAP else gap.reason.problem,
            )

    def lines(self, query: Query, deadline: float = DEADLINE) -> Lines:
        """The lines asked for. Raises InvalidArgument `stream_invalid`, `offset_invalid`, `grep_invalid`,
        TimedOut `grep_timeout`. Takes as long as reading takes: call it in a thread."""
        grep = Grep(query.grep, deadline) if query.grep else None
        with OutputFiles(self._folder, tty=self._tty) as files:
            chosen = _choose(files, query.stream)
            if len(chosen) > 1 and query.offset:
                raise InvalidArgument(
                    "offset_invalid",
                    "an offset is one of standard output or of standard error, not of both",
                    hint="name the stream: stdout or stderr",
                    fields={"offset": str(query.offset)},
                )
            found = [_Found.of(one, query, grep, files.index) for one in chosen]
            return _merged(found, chosen, query)

    def cursor(self, stream: Stream = Stream.BOTH, offset: int = 0, *, from_end: bool = False) -> Cursor:
        """What reads piece after piece, from an offset (with two files: from the beginning) or the end on."""
        return Cursor(self._folder, self._tty, stream, offset, from_end=from_end)

    def pieces(self, stream: Stream, offset: int, most: int) -> list[Piece]:
        """Pieces from an offset on, with at most so many bytes. Who goes on from there takes ``cursor``,
        which tells each mark once."""
        return self.cursor(stream, offset).read(most)


def tail(folder: AgentFolder, most: int) -> list[Piece]:
    """The end of a terminal's record, at most so many bytes, from the beginning of a line on where one begins
    soon, with the sizes in force: what a screen is made from. The last piece with data ends at the end."""
    with OutputFiles(folder, tty=True) as files:
        record = files.streams[Stream.TERMINAL]
        start = max(record.start, record.end - most)
        if start > record.start:
            start, data = record.read(start, min(most, _SEEK_LINE))
            start += data.find(b"\n") + 1
    cursor = Cursor(folder, True, Stream.TERMINAL, start)
    joined: list[Piece] = []
    room = most
    while pieces := cursor.read(max(room, 1)):
        for piece in pieces:
            room -= len(piece.data)
            joined.append(piece)
        if room <= 0:
            break
    return _joined(joined)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with data that follows data put together."""
    done: list[Piece] = []
    run: list[Piece] = []
    for piece in pieces:
        if not piece.data and run:
            done.append(_one(run))
            run = []
        if piece.data:
            run.append(piece)
        else:
            done.append(piece)
    return [*done, _one(run)] if run else done


def _one(run: list[Piece]) -> Piece:
    first = run[0]
    return Piece(first.time, first.offset, first.stream, data=b"".join(piece.data for piece in run))


def _choose(files: OutputFiles, stream: Stream) -> list[OutputFile]:
    if stream is Stream.BOTH:
        return list(files.streams.values())
    if stream not in files.streams:
        held = " and ".join(files.streams)
        raise InvalidArgument(
            "stream_invalid",
            f"this agent has no {stream}: what it prints is {held}",
            hint=f"ask for {' or '.join(files.streams)}, or for both",
            fields={"stream": stream},
        )
    return [files.streams[stream]]


# ---- lines ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """Lines of one stream with their places in the order of both, oldest first."""

    lines: list[tuple[int, Line]]
    more: bool
    next_offset: int

    @classmethod
    def of(cls, file: OutputFile, query: Query, grep: Grep | None, index: IndexReader | None) -> _Found:
        most = min(query.last or query.limit or 1, LINES_MAX)
        start = file.start
        if query.last:
            place = file.end if query.offset is None else min(max(query.offset, start), file.end)
            source = file.backward(place)
        else:
            place = min(max(query.offset or 0, start), file.end)
            source = file.forward(place)
        kept: list[tuple[RawLine, str]] = []
        room = TEXT_MAX
        more = False
        reached = place
        for raw in source:
            text = _text(raw, query.raw)
            if grep is not None and not grep.finds(text):
                reached = raw.next
                continue
            room -= len(text.encode("utf-8", "replace")) + _LINE_COST
            if kept and room < 0:
                more = True
                break
            kept.append((raw, text))
            reached = raw.next
            if len(kept) >= most:
                more = raw.offset > file.start if query.last else raw.next < file.end
                break
        if query.last:
            kept.reverse()
            reached = place
        lines = _timed(kept, file.stream, index)
        return cls(list(lines), more, reached)


def _text(line: RawLine, raw: bool) -> str:
    if raw:
        return line.data.decode("utf-8", "replace")
    if b"\r" in line.tail.rstrip(b"\r"):
        # A line that is drawn again and again: its end is what is read.
        return plain(line.tail[line.tail.index(b"\r") :])
    return plain(line.data)


def _timed(
    kept: list[tuple[RawLine, str]], stream: Stream, index: IndexReader | None
) -> Iterator[tuple[int, Line]]:
    number, entry = -1, None
    for raw, text in kept:
        if index is not None and (number < 0 or (entry is not None and entry.at(stream) <= raw.offset)):
            number = index.after(stream, raw.offset)
            entry = index.get(number)
        # What nobody noted came last.
        place = number if entry is not None else 1 << 62
        yield place, Line(text, raw.offset, None if entry is None else _time(entry), stream, raw.cut)


def _merged(found: list[_Found], files: list[OutputFile], query: Query) -> Lines:
    most = min(query.last or query.limit or 1, LINES_MAX)
    # Stable: what came at once is told in the order of the streams.
    every = sorted((line for one in found for line in one.lines), key=itemgetter(0))
    more = any(one.more for one in found) or len(every) > most
    if len(found) > 1:
        for one in found:
            # Beyond what was looked at of one stream nothing of the other may be told: lines would lack.
            if one.more and one.lines:
                edge = one.lines[0] if query.last else one.lines[-1]
                at = next((i for i, line in enumerate(every) if line is edge), None)
                if at is not None:
                    every = every[at:] if query.last else every[: at + 1]
    chosen = _fitting([line for _, line in every], most, last=bool(query.last))
    return Lines(
        lines=tuple(chosen),
        total=sum(one.end for one in files),
        start=sum(one.start for one in files),
        has_more=more or len(chosen) < len(every),
        next_offset=found[0].next_offset if len(found) == 1 else None,
    )


def _fitting(lines: list[Line], most: int, *, last: bool) -> list[Line]:
    """As many as may be answered, from the end that matters."""
    room = TEXT_MAX
    kept: list[Line] = []
    for line in reversed(lines) if last else lines:
        room -= len(line.text.encode("utf-8", "replace")) + _LINE_COST
        if len(kept) == most or (kept and room < 0):
            break
        kept.append(line)
    return kept[::-1] if last else kept


def _time(entry: Entry) -> datetime:
    try:
        return datetime.fromtimestamp(entry.time / 1e6, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


# ---- pieces ---------------------------------------------------------------------------------


class Cursor:
    """Reads on where it stopped, also in what came since. Each mark is told once."""

    def __init__(
        self, folder: AgentFolder, tty: bool, stream: Stream, offset: int, *, from_end: bool = False
    ) -> None:
        self._folder = folder
        self._tty = tty
        self._stream = stream
        self._offsets: dict[Stream, int] = {}
        self._begun = False
        self._given = offset
        self._from_end = from_end
        self._number = 0

    @property
    def offset(self) -> int:
        """How far it has come; of two files the sum."""
        return sum(self._offsets.values())

    def read(self, most: int) -> list[Piece]:
        """The next pieces, with at most so many bytes of data; empty where there is nothing more now."""
        with OutputFiles(self._folder, tty=self._tty) as files:
            chosen = _choose(files, self._stream)
            turn = _Turn(max(most, 1))
            if not self._begun:
                self._begin(chosen, files.index, turn)
            for file in chosen:
                self._skip(file, turn)
            if self._noted(chosen, files.index, turn):
                for file in chosen:
                    self._data(file, file.end, None, turn)
            return turn.pieces

    def _begin(self, chosen: list[OutputFile], index: IndexReader | None, turn: _Turn) -> None:
        self._begun = True
        given = 0 if len(chosen) > 1 else self._given
        for file in chosen:
            self._offsets[file.stream] = file.end if self._from_end else min(given, file.end)
        if index is None:
            return
        stream = chosen[0].stream
        at = max(self._offsets[stream], chosen[0].start)
        everything = not self._from_end and (len(chosen) > 1 or self._given == 0)
        self._number = index.first if everything else index.reaching(stream, at)
        if stream is Stream.TERMINAL:
            size = _size_before(index, self._number)
            if size is not None:
                turn.pieces.append(Piece(None, at, stream, size=size))

    def _skip(self, file: OutputFile, turn: _Turn) -> None:
        """Tell of what is dropped at the front."""
        offset, start = self._offsets[file.stream], file.start
        if offset < start:
            turn.pieces.append(Piece(None, offset, file.stream, gap=start - offset))
            self._offsets[file.stream] = start

    def _noted(self, chosen: list[OutputFile], index: IndexReader | None, turn: _Turn) -> bool:
        """Tell what the index notes; whether all of it was told."""
        if index is None:
            return True
        for number, entry in index.entries(self._number):
            self._number = number
            if len(turn.pieces) >= _PIECES_MAX:
                return False
            for file in chosen:
                if not self._data(file, min(entry.at(file.stream), file.end), entry, turn):
                    return False
            if entry.kind is Kind.DATA:
                # The last one may yet grow.
                self._number = number + (number + 1 < index.stop)
                continue
            self._mark(entry, chosen[0], turn)
            self._number = number + 1
        return True

    def _mark(self, entry: Entry, file: OutputFile, turn: _Turn) -> None:
        stream, offset = file.stream, entry.at(file.stream)
        if entry.kind is Kind.RESIZED and stream is Stream.TERMINAL:
            turn.pieces.append(Piece(_time(entry), offset, stream, size=unpack_size(entry.value)))
        elif entry.kind is Kind.GAP:
            turn.pieces.append(Piece(_time(entry), offset, stream, gap=entry.value))
        elif entry.kind is Kind.RESTARTED:
            turn.pieces.append(Piece(_time(entry), offset, stream, restarted=True))

    def _data(self, file: OutputFile, stop: int, entry: Entry | None, turn: _Turn) -> bool:
        """Tell the data up to an offset; False where that is too much for this turn."""
        when = None if entry is None else _time(entry)
        while (offset := self._offsets[file.stream]) < stop:
            if turn.room <= 0 or len(turn.pieces) >= _PIECES_MAX:
                return False
            found, data = file.read(offset, min(stop - offset, turn.room))
            if found > offset:
                turn.pieces.append(Piece(None, offset, file.stream, gap=found - offset))
            if not data:
                self._offsets[file.stream] = max(found, offset)
                if found == offset:
                    return True
                continue
            turn.pieces.append(Piece(when, found, file.stream, data=data))
            turn.room -= len(data)
            self._offsets[file.stream] = found + len(data)
        return True


class _Turn:
    """What one call of a cursor may still tell, and has told."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.pieces: list[Piece] = []


def _size_before(index: IndexReader, number: int) -> tuple[int, int] | None:
    """The terminal's size at an entry: what the one before says, or where there is none itself."""
    for near in range(number - 1, max(index.first, number - 64) - 1, -1):
        entry = index.get(near)
        if entry is not None and entry.kind is not Kind.GAP and entry.value:
            return unpack_size(entry.value)
    entry = index.get(number)
    # A change of size tells itself.
    known = entry is not None and entry.kind is Kind.DATA and entry.value
    return unpack_size(entry.value) if entry is not None and known else None
