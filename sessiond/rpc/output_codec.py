"""Between messages and what is read of an agent's output: lines, pieces of a record, screens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sessiond.errors import InvalidArgument
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import text
from sessiond.rpc.codec import timestamp

_STREAMS = {
    "both": pb.OUTPUT_STREAM_BOTH,
    "stdout": pb.OUTPUT_STREAM_STDOUT,
    "stderr": pb.OUTPUT_STREAM_STDERR,
    "terminal": pb.OUTPUT_STREAM_TERMINAL,
}
_STREAM_WORDS: dict[int, str] = {number: word for word, number in _STREAMS.items()}
_FORMATS: dict[int, str] = {
    pb.SCREEN_FORMAT_UNSPECIFIED: "text",
    pb.SCREEN_FORMAT_TEXT: "text",
    pb.SCREEN_FORMAT_ANSI: "ansi",
    pb.SCREEN_FORMAT_HTML: "html",
}
_POLICIES: dict[int, str] = {
    pb.SIZE_POLICY_UNSPECIFIED: "",
    pb.SIZE_POLICY_LAST_ACTIVE: "last-active",
    pb.SIZE_POLICY_SMALLEST: "smallest",
    pb.SIZE_POLICY_FIXED: "fixed",
}
_CELLS_MAX = 1000


class LineLike(Protocol):
    """One line of output."""

    @property
    def text(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def time(self) -> datetime | None: ...
    @property
    def stream(self) -> str: ...
    @property
    def cut(self) -> bool: ...


class LinesLike(Protocol):
    """Lines that were found."""

    @property
    def lines(self) -> Sequence[LineLike]: ...
    @property
    def total(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def has_more(self) -> bool: ...
    @property
    def next_offset(self) -> int | None: ...


class PieceLike(Protocol):
    """One thing of a record."""

    @property
    def time(self) -> datetime | None: ...
    @property
    def offset(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def size(self) -> tuple[int, int] | None: ...
    @property
    def gap(self) -> int: ...
    @property
    def restarted(self) -> bool: ...


class ScreenLike(Protocol):
    """A screen written down."""

    @property
    def content(self) -> str: ...
    @property
    def columns(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cursor_column(self) -> int: ...
    @property
    def cursor_row(self) -> int: ...
    @property
    def title(self) -> str: ...
    @property
    def alternate(self) -> bool: ...
    @property
    def degraded(self) -> bool: ...


def stream_from_wire(number: int) -> str:
    """The word of a stream, `both` where unspecified. Raises InvalidArgument `stream_invalid`."""
    word = _STREAM_WORDS.get(number or pb.OUTPUT_STREAM_BOTH)
    if word is None:
        raise InvalidArgument(
            "stream_invalid", f"no stream has the number {number}", hint="streams: " + ", ".join(_STREAMS)
        )
    return word


def format_from_wire(number: int) -> str:
    """The word of a screen's format, `text` where unspecified. Raises InvalidArgument `format_invalid`."""
    word = _FORMATS.get(number)
    if word is None:
        raise InvalidArgument(
            "format_invalid", f"no format has the number {number}", hint="formats: text, ansi, html"
        )
    return word


def policy_from_wire(number: int) -> str:
    """The word of a size policy, empty where unspecified. Raises InvalidArgument `size_policy_invalid`."""
    word = _POLICIES.get(number)
    if word is None:
        raise InvalidArgument(
            "size_policy_invalid",
            f"no size policy has the number {number}",
            hint="policies: last-active, smallest, fixed",
        )
    return word


def size_from_wire(size: pb.TerminalSize) -> tuple[int, int]:
    """Columns and rows. Raises InvalidArgument `size_invalid`."""
    if not (1 <= size.columns <= _CELLS_MAX and 1 <= size.rows <= _CELLS_MAX):
        raise InvalidArgument(
            "size_invalid",
            f"no terminal has {size.columns} columns and {size.rows} rows",
            hint=f"1 to {_CELLS_MAX} of each",
            fields={"columns": str(size.columns), "rows": str(size.rows)},
        )
    return size.columns, size.rows


def lines_to_wire(found: LinesLike) -> pb.ReadOutputResponse:
    """Lines that were found."""
    response = pb.ReadOutputResponse(total=found.total, start=found.start, has_more=found.has_more)
    if found.next_offset is not None:
        response.next_offset = found.next_offset
    for line in found.lines:
        added = response.lines.add(
            text=text(line.text), offset=line.offset, stream=_STREAMS[line.stream], cut=line.cut
        )
        if line.time is not None:
            added.time.CopyFrom(timestamp(line.time))
    return response


def piece_to_wire(piece: PieceLike) -> pb.StreamRecordResponse:
    """One thing of a record."""
    message = pb.StreamRecordResponse(offset=piece.offset, stream=_STREAMS[piece.stream])
    if piece.time is not None:
        message.time.CopyFrom(timestamp(piece.time))
    if piece.size is not None:
        message.size.columns, message.size.rows = piece.size
    elif piece.gap:
        message.gap = piece.gap
    elif piece.restarted:
        message.restarted = True
    else:
        message.data = piece.data
    return message


def screen_to_wire(screen: ScreenLike, offset: int) -> pb.GetScreenResponse:
    """A screen written down, true up to an offset of the record."""
    return pb.GetScreenResponse(
        content=text(screen.content),
        size=pb.TerminalSize(columns=screen.columns, rows=screen.rows),
        cursor_column=screen.cursor_column,
        cursor_row=screen.cursor_row,
        title=text(screen.title),
        alternate=screen.alternate,
        degraded=screen.degraded,
        offset=offset,
    )
