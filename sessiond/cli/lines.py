"""Lines of an agent's output: page after page of what is held, and as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessiond.cli.app import App

PAGE = 10_000
_LATER = 1 << 62


def streams_of(agent: Any, word: str) -> list[Any]:
    """The streams that `stdout`, `stderr` or `both` means for an agent of the wire."""
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    if word == "both":
        if agent.tty:
            return [pb.OUTPUT_STREAM_TERMINAL]
        return [pb.OUTPUT_STREAM_STDOUT, pb.OUTPUT_STREAM_STDERR]
    return [pb.OutputStream.Value(f"OUTPUT_STREAM_{word.upper()}")]


def read(app: App, request: Any) -> Any:
    """The answer to one ReadOutput."""
    return app.supervisor.call(app.supervisor.agents.ReadOutput, request)


def all_lines(
    app: App,
    agent: Any,
    streams: list[Any],
    *,
    grep: str = "",
    offset: int = 0,
    raw: bool = False,
    paged: Callable[[int, int], None] | None = None,
) -> Iterator[Any]:
    """All lines that are held, from an offset on; of two streams in the order of their times.

    ``paged`` is told after each page how far it is, and of how much.
    """
    each = [_pages(app, agent, one, grep=grep, offset=offset, raw=raw, paged=paged) for one in streams]
    return each[0] if len(each) == 1 else merge(*each, key=_time)


def _pages(
    app: App,
    agent: Any,
    stream: Any,
    *,
    grep: str,
    offset: int,
    raw: bool,
    paged: Callable[[int, int], None] | None,
) -> Iterator[Any]:
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    while True:
        request = pb.ReadOutputRequest(
            session=agent.session,
            agent=agent.id,
            stream=stream,
            grep=grep,
            offset=offset,
            limit=PAGE,
            raw=raw,
        )
        page = read(app, request)
        yield from page.lines
        # A page that leads nowhere further is the last, whatever it says.
        if not page.has_more or page.next_offset <= offset:
            return
        offset = page.next_offset
        if paged is not None:
            paged(offset, page.total)


def _time(line: Any) -> int:
    return line.time.ToNanoseconds() if line.HasField("time") else _LATER


class Assembler:
    """Lines put together of the pieces of one stream, as ReadOutput would tell them: no more than both ends
    of a line are held, however long it is."""

    def __init__(self, stream: Any, *, raw: bool) -> None:
        self._stream = stream
        self._raw = raw
        self._clear()

    def feed(self, piece: Any) -> Iterator[Any]:
        """The lines that a piece of data completes."""
        data: bytes = piece.data
        place = 0
        while (end := data.find(b"\n", place)) >= 0:
            self._add(data[place:end], piece, place)
            yield self._taken()
            place = end + 1
        if place < len(data):
            self._add(data[place:], piece, place)

    def rest(self) -> Any | None:
        """The line that no newline ended, once nothing more comes; None where there is none."""
        return self._taken() if self._offset is not None else None

    def _clear(self) -> None:
        self._head = bytearray()
        self._tail = b""
        self._offset: int | None = None
        self._time: Any | None = None

    def _add(self, data: bytes, piece: Any, place: int) -> None:
        from sessiond.agents.lines import LINE_MAX

        if self._offset is None:
            self._offset = piece.offset + place
            self._time = piece.time if piece.HasField("time") else None
        room = LINE_MAX - len(self._head)
        if room:
            self._head += data[:room]
        if len(data) > room:
            self._tail = (self._tail + data[room:][-LINE_MAX:])[-LINE_MAX:]

    def _taken(self) -> Any:
        from sessiond.agents.lines import plain
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        head, tail = bytes(self._head), self._tail
        if self._raw:
            text = head.decode("utf-8", "replace")
        elif b"\r" in tail.rstrip(b"\r"):
            # A line that is drawn again and again: its end is what is read.
            text = plain(tail[tail.index(b"\r") :])
        else:
            text = plain(head)
        line = pb.OutputLine(text=text, offset=self._offset or 0, stream=self._stream, cut=bool(tail))
        if self._time is not None:
            line.time.CopyFrom(self._time)
        self._clear()
        return line
