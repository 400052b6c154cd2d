"""An agent's record followed to its end, over restarts of its daemon, no byte lost or told twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sessiond.cli.outlet import Outlet
from sessiond.cli.route import Route, ended
from sessiond.client.streams import Line, Lost
from sessiond.errors import SessiondError, Unreachable

if TYPE_CHECKING:
    from sessiond.cli.app import App
    from sessiond.cli.terminal import Outcome

# A second Ctrl-C within this time leaves the agent running.
TWICE = 1.0
# Breaks in a row between which nothing came.
FRUITLESS = 5
_LEAVE = (signal.SIGHUP, signal.SIGTERM)


class Follower:
    """One stream of an agent (or both files, in the order of time), from an offset on."""

    def __init__(self, route: Route, stream: Any, offset: int = 0, *, follow: bool = True) -> None:
        self._route = route
        self._stream = stream
        self._follow = follow
        # How far each stream has been told of.
        self._told: dict[Any, int] = {stream: offset}

    async def pieces(self) -> AsyncGenerator[Any, None]:
        """Messages of StreamRecord; following, the last tells of the agent's end. Raises SessiondError."""
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        fruitless = 0
        line = self._route.open()
        follow = self._follow
        last: Any | None = None
        try:
            while True:
                request = pb.StreamRecordRequest(
                    session=self._route.session,
                    agent=self._route.agent,
                    stream=self._stream,
                    offset=self._told.get(self._stream, 0),
                    follow=follow,
                )
                try:
                    async with aclosing(line.stream(line.agents.StreamRecord, request)) as pieces:
                        async for piece in pieces:
                            fruitless = 0
                            if self._fresh(piece):
                                yield piece
                            if piece.HasField("ended"):
                                return
                    if not follow:
                        if last is not None:
                            yield pb.StreamRecordResponse(ended=last)
                        return
                    raise _broken_off()
                except Lost as lost:
                    fruitless += 1
                    if fruitless > FRUITLESS:
                        raise _unreachable(lost) from lost
                await line.close()
                line, agent = await self._route.regain()
                if self._follow and ended(agent):
                    # Its session may be at rest, where nothing can be followed: the rest, and its end.
                    follow, last = False, agent
        finally:
            await line.close()

    def _fresh(self, piece: Any) -> bool:
        """Note how far a piece goes, and cut what was told before; False where nothing is left of it."""
        told = self._told.get(piece.stream, 0)
        kind = piece.WhichOneof("message")
        if kind == "data":
            if (over := told - piece.offset) > 0:
                if over >= len(piece.data):
                    return False
                piece.data = piece.data[over:]
                piece.offset = told
            self._told[piece.stream] = piece.offset + len(piece.data)
            return True
        if kind == "gap" and piece.offset < told < piece.offset + piece.gap:
            # More was dropped at the front since: what is told of is what came after that.
            return True
        # Marks stand between bytes: one at the very end of what was told may have come or not, and is
        # harmless twice.
        return bool(piece.offset >= told or kind == "ended")


async def copy(app: App, route: Route, *, stdout: bool = True) -> Outcome:
    """Copy both streams of an agent, or its stderr alone, to ours until it ends. Raises BrokenPipeError where
    nobody reads."""
    from sessiond.cli.terminal import Outcome
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    loop = asyncio.get_running_loop()
    left: asyncio.Future[int] = loop.create_future()
    out, err = Outlet(1), Outlet(2)
    interrupts = _Interrupts(app, route, left)

    def leave(number: int) -> None:
        if not left.done():
            left.set_result(number)

    async def pass_on() -> Any:
        wanted = pb.OUTPUT_STREAM_BOTH if stdout else pb.OUTPUT_STREAM_STDERR
        async with aclosing(Follower(route, wanted).pieces()) as pieces:
            async for piece in pieces:
                if piece.HasField("data"):
                    await (err if piece.stream == pb.OUTPUT_STREAM_STDERR else out).write(piece.data)
                elif piece.HasField("ended"):
                    return piece.ended
        raise AssertionError("a stream that is followed ends with the agent's end")

    loop.add_signal_handler(signal.SIGINT, interrupts.pressed)
    for number in _LEAVE:
        loop.add_signal_handler(number, leave, int(number))
    copying = asyncio.create_task(pass_on(), name="copy")
    # A reader that goes away ends us at once, not when the next line is due.
    broken = [asyncio.create_task(one.broken(), name="broken") for one in (out, err)]
    tasks: set[asyncio.Task[Any]] = {copying, *broken}
    try:
        await asyncio.wait({*tasks, left}, return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            return Outcome(copying.result())
        if left.done():
            return Outcome(signal=left.result())
        raise BrokenPipeError
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await interrupts.close()
        for number in (signal.SIGINT, *_LEAVE):
            loop.remove_signal_handler(number)
        out.close()
        err.close()


class _Interrupts:
    """Ctrl-C: to the agent the first time, and soon again, leave."""

    def __init__(self, app: App, route: Route, left: asyncio.Future[int]) -> None:
        self._app = app
        self._route = route
        self._left = left
        self._last = float("-inf")
        self._sending: set[asyncio.Task[None]] = set()

    def pressed(self) -> None:
        """It was pressed."""
        now = asyncio.get_running_loop().time()
        again, self._last = now - self._last < TWICE, now
        if again:
            if not self._left.done():
                self._left.set_result(0)
            return
        task = asyncio.create_task(self._send(), name="interrupt")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Let what is being sent be sent."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=TWICE)

    async def _send(self) -> None:
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        request = pb.SignalAgentRequest(
            session=self._route.session, agent=self._route.agent, signal="SIGINT", all=True
        )
        line: Line = self._route.open()
        try:
            await line.call(line.agents.SignalAgent, request)
        except Lost as lost:
            self._app.warn(_unreachable(lost))
        except SessiondError as error:
            # It is ending already, which the stream tells.
            if error.code != "agent_not_running":
                self._app.warn(error)
        finally:
            await line.close()


def _broken_off() -> Lost:
    return Lost(SessiondError("stream_ended", "the other side ended the connection"))


def _unreachable(lost: Lost) -> Unreachable:
    return Unreachable(
        "daemon_unreachable",
        f"the session's daemon does not answer: {lost.error.message}",
        hint="sessionctl doctor",
    )
