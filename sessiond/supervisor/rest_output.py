"""What agents printed, read from their folders while no daemon serves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from sessiond.agents.checkpoint import rebuild
from sessiond.agents.folder import AgentFolder
from sessiond.agents.index import Stream
from sessiond.agents.reading import Query, RecordFacts, RecordReader
from sessiond.errors import Conflict, NotFound
from sessiond.model.agent import AgentSpec
from sessiond.ports import Screen, ScreenText
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.output_codec import (
    format_from_wire,
    lines_to_wire,
    piece_to_wire,
    screen_to_wire,
    stream_from_wire,
)

_LINES = 1000
_PIECE = 64 * 1024

MakeScreen = Callable[[int, int, int], Screen]


class RestOutput:
    """Answers with an agent's lines, pieces and screen; files are opened for each answer alone."""

    def __init__(self, make_screen: MakeScreen, scrollback: int) -> None:
        self._make_screen = make_screen
        self._scrollback = scrollback

    def facts(self, spec: AgentSpec, folder: AgentFolder) -> RecordFacts:
        """How much there is; nothing where it is gone. Blocks."""
        try:
            return RecordReader(folder, spec.tty).facts()
        except NotFound:
            return RecordFacts(0, 0)

    async def screen(
        self, spec: AgentSpec, folder: AgentFolder, request: pb.GetScreenRequest
    ) -> pb.GetScreenResponse:
        """What was on its screen. Raises Conflict `agent_no_terminal`, NotFound `record_gone`."""
        form = format_from_wire(request.format)
        if not spec.tty:
            raise Conflict(
                "agent_no_terminal",
                f"{spec.name} has no terminal",
                hint=f"sessionctl output {spec.name}",
                fields={"agent": spec.id},
            )
        scrollback = min(request.scrollback, self._scrollback)
        written, offset = await asyncio.to_thread(self._drawn, spec, folder, form, scrollback)
        return screen_to_wire(written, offset)

    def _drawn(
        self, spec: AgentSpec, folder: AgentFolder, form: str, scrollback: int
    ) -> tuple[ScreenText, int]:
        screen, offset = rebuild(folder, self._make_screen, spec.columns, spec.rows, self._scrollback)
        try:
            return screen.write_down(form, scrollback), offset
        finally:
            screen.close()

    async def lines(
        self, spec: AgentSpec, folder: AgentFolder, request: pb.ReadOutputRequest
    ) -> pb.ReadOutputResponse:
        """Lines of its output. Raises as `RecordReader.lines`."""
        query = Query(
            stream=Stream(stream_from_wire(request.stream)),
            grep=request.grep,
            offset=request.offset if request.HasField("offset") else None,
            last=request.last,
            limit=request.limit or _LINES,
            raw=request.raw,
        )
        return lines_to_wire(await asyncio.to_thread(RecordReader(folder, spec.tty).lines, query))

    async def pieces(
        self, spec: AgentSpec, folder: AgentFolder, request: pb.StreamRecordRequest
    ) -> AsyncGenerator[pb.StreamRecordResponse, None]:
        """Its output from an offset on, as far as it goes."""
        stream = Stream(stream_from_wire(request.stream))
        reader = RecordReader(folder, spec.tty)
        cursor = reader.cursor(stream, request.offset, from_end=request.from_end)
        while pieces := await asyncio.to_thread(cursor.read, _PIECE):
            for piece in pieces:
                yield piece_to_wire(piece)
