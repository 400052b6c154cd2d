"""The files of an agent's output, open for reading while somebody may write them and drop their front."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from sessiond.agents.faults import fault
from sessiond.agents.folder import AgentFolder
from sessiond.agents.index import IndexReader, Slot, Stream
from sessiond.agents.lines import LINE_MAX
from sessiond.errors import NotFound

_CHUNK = 256 << 10
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line without its newline, at most LINE_MAX bytes of it; where it is cut, ``tail`` is its other end.
    ``next`` is where the next one begins."""

    offset: int
    data: bytes
    tail: bytes
    next: int

    @property
    def cut(self) -> bool:
        """Whether there is more of it."""
        return bool(self.tail)


class OutputFile:
    """One stream as far as it went when it was opened."""

    def __init__(self, stream: Stream, fd: int, index: IndexReader | None) -> None:
        self.stream = stream
        self.fd = fd
        self._index = index
        self._slot = Slot.STDERR_START if stream is Stream.STDERR else Slot.STDOUT_START
        self.end = os.fstat(fd).st_size if fd >= 0 else 0

    @property
    def start(self) -> int:
        """First offset that is held now."""
        return 0 if self._index is None else min(self._index.value(self._slot), self.end)

    def read(self, offset: int, count: int) -> tuple[int, bytes]:
        """Bytes from an offset on, and the offset that they begin at: a later one where the front has been
        dropped meanwhile."""
        data = os.pread(self.fd, max(0, min(count, self.end - offset)), offset) if self.fd >= 0 else b""
        # Asked afterwards: who drops something says so first, so what is held now was read whole.
        start = self.start
        return (offset, data) if start <= offset else (start, data[start - offset :])

    def forward(self, offset: int) -> Iterator[RawLine]:
        """Lines from an offset on."""
        begun, place, line = offset, offset, _Line()
        while place < self.end:
            found, chunk = self.read(place, _CHUNK)
            if found > place:
                begun, place, line = found, found, _Line()
                if not chunk:
                    continue
            if not chunk:
                break
            at = 0
            while (newline := chunk.find(b"\n", at)) >= 0:
                line.add(chunk[at:newline])
                at = newline + 1
                yield line.taken(begun, place + at)
                begun = place + at
            line.add(chunk[at:])
            place += len(chunk)
        if begun < place:
            yield line.taken(begun, place)

    def backward(self, offset: int) -> Iterator[RawLine]:
        """Lines before an offset, the last one first."""
        stop = min(offset, self.end)
        base, chunk = stop, b""
        while stop > self.start:
            # Where its text ends: before its newline, which the last line may lack.
            if stop - 1 < base:
                base, chunk = self._before(stop)
            text_end = stop - 1 if chunk[stop - 1 - base : stop - base] == b"\n" else stop
            begun, place = text_end, text_end
            while True:
                if place <= base:
                    if base <= self.start:
                        begun = base
                        break
                    base, chunk = self._before(base)
                    if not chunk:
                        return
                newline = chunk.rfind(b"\n", 0, place - base)
                if newline >= 0:
                    begun = base + newline + 1
                    break
                begun = place = base
            line = self._between(begun, text_end, stop)
            if line is None:
                return
            yield line
            stop = begun

    def _before(self, stop: int) -> tuple[int, bytes]:
        start = self.start
        return self.read(max(start, stop - _CHUNK), stop - max(start, stop - _CHUNK))

    def _between(self, begun: int, text_end: int, next_line: int) -> RawLine | None:
        """The line between two offsets; None where it is dropped meanwhile."""
        length = text_end - begun
        found, data = self.read(begun, min(length, LINE_MAX))
        tail = b""
        if length > LINE_MAX:
            _, tail = self.read(max(begun + LINE_MAX, text_end - LINE_MAX), LINE_MAX)
            tail = tail[: text_end - max(begun + LINE_MAX, text_end - LINE_MAX)]
        return RawLine(begun, data, tail, next_line) if found == begun else None


class _Line:
    """A line that is read in pieces; holds only both of its ends."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._head = b""
        self._tail = b""

    def add(self, data: bytes) -> None:
        room = LINE_MAX - len(self._head)
        if room:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail = (self._tail + data[-LINE_MAX:])[-LINE_MAX:]

    def taken(self, offset: int, following: int) -> RawLine:
        line = RawLine(offset, self._head, self._tail, following)
        self._clear()
        return line


class OutputFiles:
    """The files of one agent and their index, to be used with `with`.

    Raises NotFound `record_gone` where none is there.
    """

    def __init__(self, folder: AgentFolder, *, tty: bool) -> None:
        self._folder = folder
        self._tty = tty
        self._stack = ExitStack()
        self.index: IndexReader | None = None
        self.streams: dict[Stream, OutputFile] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            fd = self._open(stack, self._folder.index.name)
            self.index = None if fd < 0 else IndexReader(fd)
            names = (
                {Stream.TERMINAL: self._folder.record.name}
                if self._tty
                else {Stream.STDOUT: self._folder.stdout.name, Stream.STDERR: self._folder.stderr.name}
            )
            self.streams = {
                stream: OutputFile(stream, self._open(stack, name), self.index)
                for stream, name in names.items()
            }
            if all(one.fd < 0 for one in self.streams.values()):
                raise NotFound(
                    "record_gone",
                    f"nothing is held of what agent {self._folder.agent} printed",
                    hint="its files were deleted, or it never started",
                    fields={"agent": self._folder.agent, "path": str(self._folder.path)},
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack, name: str) -> int:
        """A file open for reading; -1 where there is none that is a file."""
        path = self._folder.path / name
        try:
            fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            return -1
        except OSError as error:
            raise fault(error, path, "read") from error
        stack.callback(os.close, fd)
        return fd if stat.S_ISREG(os.fstat(fd).st_mode) else -1
