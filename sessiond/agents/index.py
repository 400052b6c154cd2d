"""The index beside what an agent printed: when, in which terminal size, and what is not held.

One page of slots that are rewritten in place, then entries of a fixed size that are only added. Each has a
checksum: what is torn or foreign is as if it were not there. Offsets never go back from one entry to the
next, so both files of an agent without a terminal can be searched through one sequence.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from sessiond.agents.faults import open_file
from sessiond.agents.holes import NoPunching, punch

log = logging.getLogger(__name__)

ENTRY = 32
HEADER = 4096
# Bytes of an index; some 90 minutes of output without a pause. What is older has no time any more.
INDEX_LIMIT = 16 << 20
# Output that comes within this many seconds is noted as one.
CLOSE = 0.01

_BLOCK = 4096
_FORMAT = 1
_BODY = struct.Struct("<BBHqQQ")
_SUM = struct.Struct("<I")
# Marks that wait for room on the disk; there are as many as somebody changes a size meanwhile.
_OWED_MAX = 256


class Stream(StrEnum):
    """One of an agent's streams, in the words of the wire."""

    BOTH = "both"
    STDOUT = "stdout"
    STDERR = "stderr"
    TERMINAL = "terminal"


class Kind(IntEnum):
    """What an entry says."""

    DATA = 1
    """Output came, up to its offset."""
    RESIZED = 2
    GAP = 3
    RESTARTED = 4
    ENDED = 5
    SLOT = 6
    """Not an entry but a slot of the header."""


class Slot(IntEnum):
    """Places in the header."""

    FORMAT = 0
    ENTRIES_START = 1
    """Where the first entry lies that is still held."""
    STDOUT_START = 2
    """First offset that is held of the record, or of standard output."""
    STDERR_START = 3
    STDOUT_FORWARDED = 4
    STDERR_FORWARDED = 5
    GAP = 6
    """The gap that is growing now: its room is there before the disk is full."""


class Reason(IntEnum):
    """Why nothing is recorded."""

    NONE = 0
    DISK_LOW = 1
    DISK_FULL = 2
    WRITE_FAILED = 3
    LIMIT_REACHED = 4

    @property
    def problem(self) -> str:
        """Its stable word, empty for none."""
        return "" if self is Reason.NONE else self.name.lower()


@dataclass(frozen=True, slots=True)
class Entry:
    """``time`` in microseconds since 1970; ``offset`` is how much the record, or standard output, has.

    ``value`` is, with two files, how much standard error has; of a terminal its size (``pack_size``), and in
    a gap the bytes that are missing.
    """

    kind: Kind
    time: int
    offset: int
    value: int = 0
    reason: Reason = Reason.NONE

    def at(self, stream: Stream) -> int:
        """How much that stream has at this point."""
        return self.value if stream is Stream.STDERR else self.offset


def pack_size(columns: int, rows: int) -> int:
    """A size as one number; 0 is none."""
    return (columns & 0xFFFF) << 16 | (rows & 0xFFFF)


def unpack_size(value: int) -> tuple[int, int]:
    """Columns and rows."""
    return value >> 16 & 0xFFFF, value & 0xFFFF


def encode(entry: Entry) -> bytes:
    """An entry as it is written."""
    body = _BODY.pack(entry.kind, entry.reason, 0, entry.time, entry.offset, entry.value)
    return _SUM.pack(zlib.crc32(body)) + body


def decode(data: bytes) -> Entry | None:
    """An entry as it was written; None for what is none."""
    if len(data) != ENTRY or _SUM.unpack_from(data)[0] != zlib.crc32(data[4:]):
        return None
    kind, reason, _, when, offset, value = _BODY.unpack_from(data, 4)
    try:
        return Entry(Kind(kind), when, offset, value, Reason(reason))
    except ValueError:
        return None


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


class IndexReader:
    """Looks things up in an index; blocks read are kept for the next call, so make one for each task.

    What lies beyond the size that the file had when it was made is not looked at.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._count = max(0, os.fstat(fd).st_size - HEADER) // ENTRY
        first = self.slot(Slot.ENTRIES_START)
        start = 0 if first is None else max(0, first.value - HEADER) // ENTRY
        self.first = min(start, self._count)
        self._block: tuple[int, list[Entry | None]] = (-1, [])

    @property
    def stop(self) -> int:
        """One past the last entry."""
        return self._count

    def slot(self, slot: Slot) -> Entry | None:
        """What a slot of the header holds."""
        entry = decode(os.pread(self._fd, ENTRY, slot * ENTRY))
        return entry if entry is not None and (slot is Slot.GAP or entry.kind is Kind.SLOT) else None

    def value(self, slot: Slot) -> int:
        """The value of a slot, 0 for none."""
        entry = self.slot(slot)
        return 0 if entry is None else entry.value

    def get(self, number: int) -> Entry | None:
        """One entry; None where it is torn or not there."""
        if not self.first <= number < self._count:
            return None
        per = _BLOCK // ENTRY
        block = number // per
        if self._block[0] != block:
            data = os.pread(self._fd, _BLOCK, HEADER + block * _BLOCK)
            self._block = (
                block,
                [decode(data[i : i + ENTRY]) for i in range(0, len(data) - ENTRY + 1, ENTRY)],
            )
        entries = self._block[1]
        return entries[number % per] if number % per < len(entries) else None

    def entries(self, start: int) -> Iterator[tuple[int, Entry]]:
        """All good entries from a number on, with their numbers."""
        for number in range(max(start, self.first), self._count):
            entry = self.get(number)
            if entry is not None:
                yield number, entry

    def last(self) -> Entry | None:
        """The last good entry."""
        for number in range(self._count - 1, self.first - 1, -1):
            entry = self.get(number)
            if entry is not None:
                return entry
        return None

    def after(self, stream: Stream, offset: int) -> int:
        """Number of the first entry at which the stream has more than so much; ``stop`` where none has."""
        return self._search(stream, offset + 1)

    def reaching(self, stream: Stream, offset: int) -> int:
        """Number of the first entry at which the stream has at least so much; ``stop`` where none has."""
        return self._search(stream, offset)

    def _search(self, stream: Stream, least: int) -> int:
        low, high = self.first, self._count
        while low < high:
            middle = (low + high) // 2
            # A bad one is passed over to the next good one; bad ones are few, or all of a damaged stretch.
            probe = middle
            while probe < high and (entry := self.get(probe)) is None:
                probe += 1
            if probe == high or (entry is not None and entry.at(stream) >= least):
                high = middle
            else:
                low = probe + 1
        while low < self._count and self.get(low) is None:
            low += 1
        return low


class IndexWriter:
    """Adds to an index; one process does at a time. Never raises for a disk that is full."""

    def __init__(self, path: Path, limit: int = INDEX_LIMIT) -> None:
        self._limit = max(limit, 4 * _BLOCK)
        self._fd = open_file(path, os.O_RDWR | os.O_CREAT)
        self._owed: list[Entry] = []
        self._told = False
        self._can_punch = True
        # When the last entry was added, by the clock that never jumps; it may be made to reach further.
        self._open_since = -CLOSE
        try:
            self.locked = lock(self._fd)
            self._prepare()
        except BaseException:
            os.close(self._fd)
            raise

    def _prepare(self) -> None:
        reader = IndexReader(self._fd)
        mark = reader.slot(Slot.FORMAT)
        if mark is None:
            # Nothing is kept of a header that is not ours, or was cut off when it was first written.
            page = encode(Entry(Kind.SLOT, now(), 0, _FORMAT)).ljust(HEADER, b"\0")
            try:
                os.pwrite(self._fd, page, 0)
            except OSError as error:
                self._failed(error)
            reader = IndexReader(self._fd)
        elif mark.value != _FORMAT:
            log.warning("an index of format %d is written on as format %d", mark.value, _FORMAT)
        self._start = HEADER + reader.first * ENTRY
        # Whatever is torn at the end is written over.
        self._end = HEADER + reader.stop * ENTRY
        self.last = reader.last()
        gap = reader.slot(Slot.GAP)
        if gap is not None and gap.kind is Kind.GAP:
            # It was growing when its writer was killed; perhaps it was added, and not yet cleared.
            last = self.last
            if last is None or (last.kind, last.time, last.offset) != (Kind.GAP, gap.time, gap.offset):
                self.add(gap)
            self.clear(Slot.GAP)

    @property
    def reader(self) -> IndexReader:
        """What reads it as it is now."""
        return IndexReader(self._fd)

    # ---- adding

    def note(self, offset: int, value: int) -> None:
        """Note that output has come up to here, now: in a new entry, or in one that is not 10 ms old."""
        last, clock = self.last, time.monotonic()
        if last is not None and last.kind is Kind.DATA and clock - self._open_since < CLOSE:
            entry = Entry(Kind.DATA, last.time, offset, value)
            if self._write(entry, self._end - ENTRY):
                self.last = entry
            return
        self.add(Entry(Kind.DATA, now(), offset, value))
        self._open_since = clock

    def add(self, entry: Entry) -> None:
        """Add an entry; a mark that cannot be written now is kept, and written with the next."""
        self._open_since = -CLOSE
        while self._owed and self._append(self._owed[0]):
            del self._owed[0]
        if not self._owed and self._append(entry):
            return
        if entry.kind is not Kind.DATA and len(self._owed) < _OWED_MAX:
            self._owed.append(entry)

    def _append(self, entry: Entry) -> bool:
        if not self._write(entry, self._end):
            return False
        self._end += ENTRY
        self.last = entry
        if self._end - self._start > self._limit:
            self._trim(self._end - self._limit * 3 // 4)
        return True

    def put(self, slot: Slot, value: int) -> bool:
        """Rewrite a slot of the header; whether it could be."""
        return self._write(Entry(Kind.SLOT, now(), 0, value), slot * ENTRY)

    def put_gap(self, entry: Entry) -> None:
        """Write down the gap that is growing, where there is room on a full disk too."""
        self._write(entry, Slot.GAP * ENTRY)

    def clear(self, slot: Slot) -> None:
        """Empty a slot."""
        self._pwrite(bytes(ENTRY), slot * ENTRY)

    def _write(self, entry: Entry, place: int) -> bool:
        return self._pwrite(encode(entry), place)

    def _pwrite(self, data: bytes, place: int) -> bool:
        try:
            # A short write leaves a torn entry, which the next one is written over.
            return os.pwrite(self._fd, data, place) == len(data)
        except OSError as error:
            self._failed(error)
            return False

    def _failed(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            log.warning("times of output cannot be noted: %s", error.strerror)

    # ---- trimming

    def trim(self, stop: int) -> None:
        """Drop the entries before a number: what they tell of is no longer held."""
        self._trim(HEADER + stop * ENTRY)

    def _trim(self, stop: int) -> None:
        """Give back the blocks that lie wholly before a place in the file."""
        stop = min(stop, self._end) // _BLOCK * _BLOCK
        if stop <= self._start or not self._can_punch:
            return
        # Told first: what is read meanwhile begins behind the hole.
        if not self.put(Slot.ENTRIES_START, stop):
            return
        try:
            punch(self._fd, max(HEADER, self._start // _BLOCK * _BLOCK), stop)
        except NoPunching:
            self._can_punch = False
        self._start = stop

    def rewind(self, most: Callable[[Entry], bool]) -> None:
        """Take back what the end tells of more than there is: a power cut may have kept it alone."""
        while self.last is not None and not most(self.last):
            reader = self.reader
            number = next((n for n in range(reader.stop - 1, reader.first - 1, -1) if reader.get(n)), None)
            if number is None:
                break
            self._end = HEADER + number * ENTRY
            os.ftruncate(self._fd, self._end)
            self.last = self.reader.last()

    def close(self) -> None:
        """Let go of the file; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def lock(fd: int) -> bool:
    """Keep others from cutting what this index tells of, until the descriptor is closed; False where one
    does so just now, or the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        return False
    return True
