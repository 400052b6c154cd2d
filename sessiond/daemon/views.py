"""What looks at agents and types into them, in messages of the wire: AgentsService hands these calls on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

from sessiond.agents.checkpoint import MakeScreen, rebuild
from sessiond.agents.index import Stream
from sessiond.agents.policy import keep_policy
from sessiond.agents.reading import Query, RecordReader
from sessiond.aio import Pulse, any_of
from sessiond.config import Terminal as TerminalSettings
from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.screens import HELD, QUICK
from sessiond.daemon.terminal import Terminal
from sessiond.daemon.viewer import Viewer
from sessiond.errors import Conflict, InvalidArgument, SessiondError
from sessiond.ports import ScreenText
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import agent_to_wire, seconds
from sessiond.rpc.output_codec import (
    format_from_wire,
    lines_to_wire,
    piece_to_wire,
    policy_from_wire,
    screen_to_wire,
    size_from_wire,
    stream_from_wire,
)

# A program that has read nothing for so many seconds while its input is full does not read.
_PATIENCE = 5.0
_PAUSE_MAX = 60.0
_PARTS_MAX = 10_000
_LINES = 1000
# Read and sent at once of a record.
_PIECE = 256 * 1024


class TerminalsLike(Protocol):
    """The terminals that are open."""

    def get(self, agent: str) -> Terminal | None: ...


class OutputsLike(Protocol):
    """The files of agents without a terminal that are followed."""

    def listen(self, agent: str) -> Pulse: ...


class Views:
    """Looks at one session's agents."""

    def __init__(
        self,
        roster: Roster,
        terminals: Callable[[], TerminalsLike],
        outputs: Callable[[], OutputsLike],
        settings: TerminalSettings,
        make_screen: MakeScreen,
    ) -> None:
        self._roster = roster
        self._terminals = terminals
        self._outputs = outputs
        self._settings = settings
        self._make_screen = make_screen

    # ---- attach

    async def attach(
        self, requests: AsyncIterator[pb.AttachAgentRequest], context: Any
    ) -> AsyncGenerator[pb.AttachAgentResponse, None]:
        """Join a terminal: its screen, what follows, and at last how the agent ended."""
        start = await self._start(requests)
        policy = policy_from_wire(start.size_policy)
        size = size_from_wire(start.size) if start.HasField("size") else None
        entry = self._roster.find(start.agent)
        terminal = self._living(entry)
        if policy:
            await asyncio.to_thread(keep_policy, entry.folder, policy)
            terminal = self._living(entry)
        viewer = Viewer(
            read_only=start.read_only,
            size=size,
            scrollback=min(start.scrollback, self._settings.scrollback),
        )
        async with AsyncExitStack() as stack:
            await terminal.hub.join(viewer, policy)
            stack.callback(terminal.hub.leave, viewer)
            typing = asyncio.create_task(
                _typed(terminal, viewer, requests), name=f"typing into {terminal.agent}"
            )
            stack.push_async_callback(_end, typing)
            while True:
                message = await terminal.hub.next(viewer)
                if viewer.left and message is viewer.last:
                    return
                yield message
                if message is viewer.last:
                    return

    async def _start(self, requests: AsyncIterator[pb.AttachAgentRequest]) -> pb.AttachStart:
        async for request in requests:
            if request.HasField("start"):
                return request.start
            break
        raise InvalidArgument(
            "attach_start_missing",
            "the first message of an attached client must be a start",
            hint="send AttachStart with the agent's id or name",
        )

    def _living(self, entry: Entry) -> Terminal:
        """The terminal of an agent that has not ended."""
        if not entry.spec.tty:
            raise Conflict(
                "agent_no_terminal",
                f"{entry.spec.name} has no terminal",
                hint=f"sessionctl output {entry.spec.name}",
                fields={"agent": entry.id},
            )
        terminal = self._terminals().get(self._roster.present(entry).id)
        if terminal is None or entry.end is not None:
            raise Conflict(
                "agent_ended",
                f"{entry.spec.name} has ended",
                hint=f"sessionctl screen {entry.spec.name} shows its last screen",
                fields={"agent": entry.id},
            )
        return terminal

    # ---- typing

    async def send_input(self, request: pb.SendInputRequest) -> pb.SendInputResponse:
        """Type parts one after another; what was typed before a part that fails stays typed."""
        terminal = self._living(self._roster.find(request.agent))
        if len(request.parts) > _PARTS_MAX:
            raise InvalidArgument(
                "input_invalid", f"more than {_PARTS_MAX} parts", hint="send them in several calls"
            )
        pauses = [seconds(part.pause) for part in request.parts if part.WhichOneof("part") == "pause"]
        if any(one > _PAUSE_MAX for one in pauses):
            raise InvalidArgument(
                "duration_invalid", f"a pause is at most {_PAUSE_MAX:g} s", hint="send later instead"
            )
        keys = [part.key for part in request.parts if part.WhichOneof("part") == "key"]
        if keys:
            # All are checked before anything is typed.
            screen = await terminal.hub.screen.get()
            for key in keys:
                screen.encode_key(key)
        typed = 0
        for part in request.parts:
            if part.WhichOneof("part") == "pause":
                await asyncio.sleep(seconds(part.pause))
                continue
            data = await _encoded(terminal, part)
            await terminal.hub.keyboard.type(data, patience=_PATIENCE)
            typed += len(data)
        return pb.SendInputResponse(bytes=typed)

    # ---- looking

    async def get_screen(self, request: pb.GetScreenRequest) -> pb.GetScreenResponse:
        """What is on the screen, or was when the agent ended."""
        entry = self._roster.find(request.agent)
        form = format_from_wire(request.format)
        scrollback = min(request.scrollback, self._settings.scrollback)
        if not entry.spec.tty:
            raise Conflict(
                "agent_no_terminal",
                f"{entry.spec.name} has no terminal",
                hint=f"sessionctl output {entry.spec.name}",
                fields={"agent": entry.id},
            )
        terminal = self._terminals().get(entry.id)
        if terminal is not None:
            with suppress(Conflict):
                # Suppressed: it was closed meanwhile, and is read from its record like any that has ended.
                live = terminal.hub.screen
                screen, offset = await live.get(), terminal.record.end
                if scrollback <= QUICK:
                    return screen_to_wire(screen.write_down(form, scrollback), offset)
                written = await live.deep(scrollback, lambda deep: deep.write_down(form, scrollback))
                return screen_to_wire(written, offset)
        written, offset = await asyncio.to_thread(self._at_rest, entry, form, scrollback)
        return screen_to_wire(written, offset)

    def _at_rest(self, entry: Entry, form: str, scrollback: int) -> tuple[ScreenText, int]:
        spec = entry.spec
        screen, offset = rebuild(
            entry.folder, self._make_screen, spec.columns, spec.rows, max(scrollback, HELD)
        )
        try:
            return screen.write_down(form, scrollback), offset
        finally:
            screen.close()

    async def read_output(self, request: pb.ReadOutputRequest) -> pb.ReadOutputResponse:
        """Lines of an agent's output."""
        entry = self._roster.find(request.agent)
        query = Query(
            stream=Stream(stream_from_wire(request.stream)),
            grep=request.grep,
            offset=request.offset if request.HasField("offset") else None,
            last=request.last,
            limit=request.limit or _LINES,
            raw=request.raw,
        )
        reader = RecordReader(entry.folder, entry.spec.tty)
        return lines_to_wire(await asyncio.to_thread(reader.lines, query))

    async def stream_record(
        self, request: pb.StreamRecordRequest
    ) -> AsyncGenerator[pb.StreamRecordResponse, None]:
        """An agent's output from an offset on; with ``follow`` until its end is known and all is told."""
        entry = self._roster.find(request.agent)
        stream = Stream(stream_from_wire(request.stream))
        cursor = RecordReader(entry.folder, entry.spec.tty).cursor(
            stream, request.offset, from_end=request.from_end
        )
        while True:
            # Taken before reading, so that nothing comes unnoticed in between.
            news = [pulse.next for pulse in self._news(entry)]
            over = entry.settled
            pieces = await asyncio.to_thread(cursor.read, _PIECE)
            for piece in pieces:
                yield piece_to_wire(piece)
            if pieces:
                continue
            if over or not request.follow:
                break
            await any_of(*news)
            self._roster.present(entry)
        if entry.end is not None and over:
            yield pb.StreamRecordResponse(ended=agent_to_wire(self._roster.row(entry)))

    def _news(self, entry: Entry) -> list[Pulse]:
        """What is fired when there is more of an agent's output, or something happened to an agent."""
        grown = self._grown(entry)
        return [self._roster.changed] if grown is None else [self._roster.changed, grown]

    def _grown(self, entry: Entry) -> Pulse | None:
        if entry.spec.tty:
            terminal = self._terminals().get(entry.id)
            return None if terminal is None else terminal.grew
        with suppress(SessiondError):
            # Suppressed: it is not followed any more, so that it has ended, which is told besides.
            return self._outputs().listen(entry.id)
        return None


async def _encoded(terminal: Terminal, part: pb.InputPart) -> bytes:
    """The bytes of one thing typed."""
    match part.WhichOneof("part"):
        case "data":
            return part.data
        case "key":
            return (await terminal.hub.screen.get()).encode_key(part.key)
        case "paste":
            return (await terminal.hub.screen.get()).encode_paste(part.paste.encode())
        case _:
            raise InvalidArgument(
                "input_invalid", "a part of the input is empty", hint="data, key, paste or pause"
            )


async def _typed(terminal: Terminal, viewer: Viewer, requests: AsyncIterator[pb.AttachAgentRequest]) -> None:
    """Do what a client says, in order; it is read no further while the program does not read."""
    try:
        async for request in requests:
            match request.WhichOneof("message"):
                case "input" if not viewer.read_only:
                    terminal.hub.active(viewer)
                    await terminal.hub.keyboard.type(request.input)
                case "resize":
                    terminal.hub.resized(viewer, size_from_wire(request.resize))
                case "start":
                    raise InvalidArgument(
                        "attach_start_repeated", "a client attaches once", hint="open another stream"
                    )
                case _:
                    # Input of one who only looks, or what a later release says.
                    continue
    except Conflict:
        # The terminal is closed: the agent's end follows, as the last message.
        return
    except SessiondError as error:
        viewer.end(error=error)
    else:
        viewer.leave()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
