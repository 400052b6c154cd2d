"""One terminal's record: what its program printed, byte for byte, from a pipe to a file.

The end of the record is the size of its file. Bytes go there by `splice` at that offset, so a kill at any
instant leaves each of them in the pipe or in the record, and in no third place.

On a file system that cannot drop the front of a file recording stops at twice the limit: the first part is
kept, `problem` is `limit_reached`, and viewers go on.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import termios
import time
from dataclasses import dataclass
from typing import Self

from sessiond.agents.bounds import GROWTH, LEAST, FreeDisk, RecordLimits, cut_front, over_total, slack
from sessiond.agents.faults import FULL, fault, open_file
from sessiond.agents.folder import AgentFolder
from sessiond.agents.holes import NoPunching
from sessiond.agents.index import Entry, IndexWriter, Kind, Reason, Slot, Stream, now, pack_size

log = logging.getLogger(__name__)

# Seconds after a failed write until the next is tried.
_AGAIN = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """``count`` bytes were taken from the pipe; ``data`` has them only where they were not recorded.
    ``more`` says that the pipe held more than was taken."""

    count: int
    data: bytes | None
    more: bool


class Record:
    """Written by one daemon alone. No call blocks on the pipe; a full disk is told in ``problem``."""

    def __init__(self, folder: AgentFolder, fd: int, index: IndexWriter, limits: RecordLimits) -> None:
        self._folder = folder
        self._fd = fd
        self._index = index
        self._limits = limits
        self._free = FreeDisk(limits.low_disk)
        self._can_punch = True
        self._size = 0
        self._reason = Reason.NONE
        self._gap: Entry | None = None
        self._failed_at = 0.0
        self._grown = 0
        self.end = os.fstat(fd).st_size
        self.start = min(index.reader.value(Slot.STDOUT_START), self.end)
        self._recover()

    @classmethod
    def open(cls, folder: AgentFolder, limits: RecordLimits) -> Self:
        """Create or reopen it. Raises Exhausted `disk_full`, PermissionDenied `state_denied`."""
        try:
            fd = open_file(folder.record, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise fault(error, folder.record, "opened") from error
        try:
            index = IndexWriter(folder.index)
        except OSError as error:
            os.close(fd)
            raise fault(error, folder.index, "opened") from error
        return cls(folder, fd, index, limits)

    def _recover(self) -> None:
        """Note what a kill left without a note: it came when the file was last written."""
        self._index.rewind(lambda entry: entry.offset <= self.end)
        last = self._index.last
        if last is not None and last.kind is not Kind.GAP:
            self._size = last.value
        else:
            reader = self._index.reader
            for number in range(reader.stop - 1, reader.first - 1, -1):
                entry = reader.get(number)
                if entry is not None and entry.kind is not Kind.GAP:
                    self._size = entry.value
                    break
        if self.end > (0 if last is None else last.offset):
            written = os.fstat(self._fd).st_mtime_ns // 1000
            self._index.add(Entry(Kind.DATA, written, self.end, self._size))

    @property
    def problem(self) -> str:
        """Why nothing is recorded now: `disk_low`, `disk_full`, `write_failed`, `limit_reached`; or empty."""
        if self._reason is Reason.DISK_LOW and self._fd >= 0 and not self._free.is_low(self._fd, 0):
            # The next byte will be recorded.
            return ""
        return self._reason.problem

    # ---- writing

    def take(self, pipe: int, most: int = 1 << 20) -> Taken:
        """Take what the pipe holds now, at most so much; nothing where it is empty."""
        held = _held_in(pipe)
        count = min(held, most)
        if count <= 0:
            return Taken(0, None, more=False)
        if not self._may_write():
            return self._pass_on(pipe, held, count)
        try:
            taken = os.splice(pipe, self._fd, count, offset_dst=self.end, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return Taken(0, None, more=False)
        except OSError as error:
            self._stop(Reason.DISK_FULL if error.errno in FULL else Reason.WRITE_FAILED, error.strerror or "")
            return self._pass_on(pipe, held, count)
        if taken:
            self._wrote(taken)
        return Taken(taken, None, more=held > taken > 0)

    def _wrote(self, count: int) -> None:
        if self._reason is not Reason.NONE:
            self._go_on()
        self.end += count
        self._index.note(self.end, self._size)
        self._grown += count
        over = self.end - self.start - self._limits.limit
        if over > 0:
            self._drop(over + slack(self._limits.limit))
        if GROWTH.add(count):
            over = over_total(self._folder.path, self._limits.total)
            if over > 0:
                self._drop(min(over, self.end - self.start - LEAST))

    def _drop(self, count: int) -> None:
        """Drop so many bytes at the front, or a few less."""
        if not self._can_punch or count <= 0:
            return
        before = self.start
        try:
            self.start = cut_front(
                self._fd, self._index, Slot.STDOUT_START, self.start, min(self.start + count, self.end)
            )
        except (NoPunching, OSError) as error:
            self._can_punch = False
            # Its slot was written first, and nothing was dropped.
            self._index.put(Slot.STDOUT_START, before)
            log.warning(
                "the front of %s cannot be dropped (%s): recording stops at twice the limit",
                self._folder.record,
                getattr(error, "strerror", None) or "the file system cannot do it",
            )
        else:
            GROWTH.add(before - self.start)
            self._index.trim(self._index.reader.after(Stream.TERMINAL, self.start))

    def _may_write(self) -> bool:
        """Whether recording may be tried now."""
        if not self._can_punch and self.end - self.start >= 2 * self._limits.limit:
            self._stop(Reason.LIMIT_REACHED, "twice the limit is held")
            return False
        grown, self._grown = self._grown, 0
        if self._free.is_low(self._fd, grown):
            self._stop(Reason.DISK_LOW, "the disk has less room than the setting recording.low_disk asks for")
            return False
        if self._reason in (Reason.DISK_FULL, Reason.WRITE_FAILED):
            return time.monotonic() - self._failed_at >= _AGAIN
        return True

    def _pass_on(self, pipe: int, held: int, count: int) -> Taken:
        """Take bytes that cannot be recorded, so that the program goes on, and count them."""
        try:
            data = os.read(pipe, count)
        except BlockingIOError:
            data = b""
        if not data:
            return Taken(0, None, more=False)
        gap = self._gap
        if gap is None:
            gap = Entry(Kind.GAP, now(), self.end, 0, self._reason)
        self._gap = Entry(Kind.GAP, gap.time, gap.offset, gap.value + len(data), gap.reason)
        self._index.put_gap(self._gap)
        return Taken(len(data), data, more=held > len(data))

    def _stop(self, reason: Reason, why: str) -> None:
        self._failed_at = time.monotonic()
        if reason is not self._reason:
            self._reason = reason
            log.warning("%s is not written: %s", self._folder.record, why)

    def _go_on(self) -> None:
        """A write went well again: the gap is over."""
        self._reason = Reason.NONE
        log.info("%s is written again", self._folder.record)
        self._close_gap()

    def _close_gap(self) -> None:
        if self._gap is None:
            return
        # First added, then cleared: who is killed between finds both and keeps one.
        self._index.add(self._gap)
        self._index.clear(Slot.GAP)
        self._gap = None

    # ---- marks

    def resized(self, columns: int, rows: int) -> None:
        """Mark that the terminal has a new size from here on."""
        self._size = pack_size(columns, rows)
        self._mark(Kind.RESIZED)

    def restarted(self) -> None:
        """Mark that the program was started anew here."""
        self._mark(Kind.RESTARTED)

    def ended(self) -> None:
        """Mark that the program has ended here."""
        self._close_gap()
        self._mark(Kind.ENDED)

    def _mark(self, kind: Kind) -> None:
        self._index.add(Entry(kind, now(), self.end, self._size))

    # ---- reading

    def read(self, offset: int, count: int) -> bytes:
        """At most so many bytes from an offset on; none from before ``start``, where they are dropped."""
        if offset < self.start:
            return b""
        return os.pread(self._fd, max(0, min(count, self.end - offset)), offset)

    def close(self) -> None:
        """Let go of the files; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._index.close()
            os.close(fd)


def _held_in(pipe: int) -> int:
    """Bytes that a pipe holds now."""
    answer = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, answer)
    return answer[0]
