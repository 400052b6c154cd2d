"""The screen of a recorded terminal, made anew: from a drawing beside the record, and the record after it."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sessiond.agents.deaths import Dangerous, Verdict, Watch, WatchedScreen, verdict_on
from sessiond.agents.faults import open_file
from sessiond.agents.folder import AgentFolder
from sessiond.agents.index import ENTRY, HEADER, IndexReader, Kind, Slot, Stream, decode, unpack_size
from sessiond.errors import NotFound
from sessiond.ports import Screen

log = logging.getLogger(__name__)

# Without a drawing no more than this is read: some tenths of a second for the emulator.
MOST = 64 << 20
# A plain screen shows the last lines alone, and is slow.
_PLAIN = 1 << 20

# Fed at once: several times what can be seen of a long run of lines, since only that is drawn.
_PIECE = 1 << 20
_PIECE_PER_LINE = 512
_MAGIC = b"sessiond screen 1\n"
# Offset, columns, rows, length of the drawing, and a checksum of it with all of these.
_HEAD = struct.Struct("<QHHII")
_DRAWING_MAX = 64 << 20

MakeScreen = Callable[[int, int, int], Screen]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A drawing of the screen as it was when the record had so many bytes."""

    offset: int
    columns: int
    rows: int
    drawing: bytes


def read_checkpoint(folder: AgentFolder) -> Checkpoint | None:
    """What was kept; None where there is none, or what is there is damaged: it is only a cache."""
    start = len(_MAGIC) + _HEAD.size
    try:
        with open(open_file(folder.screen, os.O_RDONLY), "rb") as file:
            data = file.read(start + _DRAWING_MAX)
    except OSError:
        return None
    if not data.startswith(_MAGIC) or len(data) < start:
        return None
    offset, columns, rows, length, check = _HEAD.unpack_from(data, len(_MAGIC))
    drawing = data[start:]
    if len(drawing) != length or not columns or not rows or check != _check(offset, columns, rows, drawing):
        return None
    return Checkpoint(offset, columns, rows, drawing)


def write_checkpoint(folder: AgentFolder, checkpoint: Checkpoint) -> None:
    """Put it in place whole; a disk that is full or a folder that is gone leaves the one before."""
    if len(checkpoint.drawing) > _DRAWING_MAX:
        return
    offset, columns, rows, drawing = (
        checkpoint.offset,
        checkpoint.columns,
        checkpoint.rows,
        checkpoint.drawing,
    )
    check = _check(offset, columns, rows, drawing)
    draft = folder.screen.with_name(".screen-new")
    try:
        fd = open_file(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        with os.fdopen(fd, "wb") as file:
            file.write(_MAGIC + _HEAD.pack(offset, columns, rows, len(drawing), check))
            file.write(drawing)
        draft.replace(folder.screen)
    except OSError as error:
        log.debug("no drawing of the screen is kept in %s: %s", folder.path, error.strerror)
        with contextlib.suppress(OSError):
            draft.unlink()


def _check(offset: int, columns: int, rows: int, drawing: bytes) -> int:
    return zlib.crc32(drawing, zlib.crc32(struct.pack("<QHH", offset, columns, rows)))


class Replay:
    """A screen brought up to any offset of a record; holds the record open, beside whoever writes it.

    Blocks for as long as the emulator takes. ``columns`` and ``rows`` are used where no size was noted.
    Raises NotFound `record_gone`.
    """

    def __init__(
        self, folder: AgentFolder, make_screen: MakeScreen, columns: int, rows: int, scrollback: int
    ) -> None:
        self._folder = folder
        self._piece = max(_PIECE, scrollback * _PIECE_PER_LINE)
        try:
            self._record = open_file(folder.record, os.O_RDONLY)
        except OSError as error:
            raise NotFound(
                "record_gone",
                f"what agent {folder.agent} printed is not held: {error.strerror}",
                hint="sessionctl ps -a",
                fields={"agent": folder.agent},
            ) from error
        try:
            self._begin(folder, make_screen, (columns, rows), scrollback)
        except BaseException:
            self.close()
            raise

    def _begin(
        self, folder: AgentFolder, make_screen: MakeScreen, size: tuple[int, int], scrollback: int
    ) -> None:
        end = self.end
        verdict = verdict_on(folder, make_screen.release) if isinstance(make_screen, Dangerous) else Verdict()
        kept = read_checkpoint(folder)
        if kept is not None and kept.offset > end:
            kept = None
        index = _Index.read(folder.index, lambda start: max(start, kept.offset if kept else end - MOST))
        # All that shows what it should not; then what is behind that, where there is enough of it.
        self.degraded = not verdict.allows(index.offset) and not verdict.moved_on(end)
        if not verdict.allows(index.offset):
            kept = None
            begin = end - _PLAIN if self.degraded else verdict.beyond
            index = _Index.read(folder.index, lambda start: max(start, begin))
        self.offset = self.begun = min(index.offset, end)
        self._sizes = index.sizes
        wanted = (*((kept.columns, kept.rows) if kept else index.size or size), scrollback)
        self._watched: WatchedScreen | None = None
        if self.degraded and isinstance(make_screen, Dangerous):
            self.screen: Screen = make_screen.plain(*wanted)
        elif isinstance(make_screen, Dangerous):
            self.screen = self._watched = WatchedScreen(
                make_screen, verdict, Watch(folder), self.offset, wanted
            )
        else:
            self.screen = make_screen(*wanted)
        if kept is None:
            return
        try:
            self.screen.feed(kept.drawing)
        except BaseException:
            self.screen.close()
            raise

    @property
    def end(self) -> int:
        """Bytes of the record now."""
        return os.fstat(self._record).st_size

    def advance(self, until: int) -> bytes:
        """Feed what comes before an offset; returns what a terminal would have sent back for it."""
        replies = bytearray()
        if self.degraded:
            self.offset = max(self.offset, until - _PLAIN)
        while self.offset < until:
            stop = until
            self.resized()
            if self._sizes:
                stop = min(stop, self._sizes[0][0])
            data = os.pread(self._record, min(self._piece, stop - self.offset), self.offset)
            if not data:
                break
            if self._watched is not None:
                self._watched.offset = self.offset
            replies += self.screen.feed(data)
            self.offset += len(data)
        return bytes(replies)

    def skip(self, offset: int) -> None:
        """Pass over what is no longer held."""
        self.offset = max(self.offset, offset)

    def note(self, offset: int, size: tuple[int, int]) -> None:
        """A size that was given meanwhile, at an offset that no other passes."""
        self._sizes.append((offset, size))

    def resized(self) -> None:
        """Give it the sizes that were noted up to where it is."""
        while self._sizes and self._sizes[0][0] <= self.offset:
            self.screen.resize(*self._sizes.pop(0)[1])

    def close(self) -> None:
        """Let go of the record; the screen is the caller's. Idempotent."""
        fd, self._record = self._record, -1
        if fd >= 0:
            os.close(fd)


def rebuild(
    folder: AgentFolder, make_screen: MakeScreen, columns: int, rows: int, scrollback: int
) -> tuple[Screen, int]:
    """The screen at the end of a record that nobody writes, and that offset. Blocks.

    Raises NotFound `record_gone`.
    """
    replay = Replay(folder, make_screen, columns, rows, scrollback)
    try:
        replay.advance(replay.end)
        replay.resized()
    except BaseException:
        replay.screen.close()
        raise
    else:
        return replay.screen, replay.offset
    finally:
        replay.close()


@dataclass(frozen=True, slots=True)
class _Index:
    """What an index tells of a record from ``offset`` on: the size there, and those given later."""

    offset: int = 0
    size: tuple[int, int] | None = None
    sizes: list[tuple[int, tuple[int, int]]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, offset: Callable[[int], int]) -> _Index:
        """``offset`` tells where to begin, given the first offset that is held."""
        try:
            fd = open_file(path, os.O_RDONLY)
        except OSError:
            return cls(max(0, offset(0)))
        try:
            reader = IndexReader(fd)
            begin = max(0, offset(reader.value(Slot.STDOUT_START)))
            first = reader.reaching(Stream.TERMINAL, begin)
            entry = reader.get(first)
            size = None if entry is None or entry.kind is Kind.GAP else unpack_size(entry.value)
            return cls(begin, size if size and all(size) else None, list(_sizes(fd, first, reader.stop)))
        finally:
            os.close(fd)


def _sizes(fd: int, first: int, stop: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Sizes noted in an index; a long one is looked through for their marks without decoding the others."""
    per = (1 << 20) // ENTRY
    for number in range(first, stop, per):
        block = os.pread(fd, min(per, stop - number) * ENTRY, HEADER + number * ENTRY)
        kinds = block[4::ENTRY]
        at = kinds.find(Kind.RESIZED)
        while at >= 0:
            entry = decode(block[at * ENTRY : (at + 1) * ENTRY])
            if entry is not None and entry.kind is Kind.RESIZED and all(unpack_size(entry.value)):
                yield entry.offset, unpack_size(entry.value)
            at = kinds.find(Kind.RESIZED, at + 1)


__all__ = ["MOST", "Checkpoint", "MakeScreen", "Replay", "read_checkpoint", "rebuild", "write_checkpoint"]
