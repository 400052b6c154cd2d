"""A daemon of agents that stands in for the real one, and sessionctl on a terminal of its own beside it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sessiond.aio import Pulse
from sessiond.errors import Conflict, NotFound, SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc, sessions_pb2, sessions_pb2_grpc, types_pb2
from sessiond.rpc.server import Server

T = TypeVar("T")

SESSION = "5" * 32
AGENT = "a1b2c3d4e5f60718"
PATIENCE = 120.0
SESSIONCTL = [sys.executable, "-m", "sessiond.cli.main"]
BEGAN = 1_700_000_000_000_000_000


def piece(
    data: bytes = b"",
    *,
    offset: int = 0,
    at: float | None = None,
    stream: Any = pb.OUTPUT_STREAM_TERMINAL,
    **fields: Any,
) -> pb.StreamRecordResponse:
    """One message of StreamRecord; ``at`` in seconds."""
    made = pb.StreamRecordResponse(offset=offset, stream=stream, **fields)
    if data:
        made.data = data
    if at is not None:
        made.time.FromNanoseconds(BEGAN + round(at * 1e9))
    return made


def line(
    text: str, offset: int, *, stream: Any = pb.OUTPUT_STREAM_TERMINAL, at: float | None = None
) -> pb.OutputLine:
    """One line of ReadOutput."""
    made = pb.OutputLine(text=text, offset=offset, stream=stream)
    if at is not None:
        made.time.FromNanoseconds(BEGAN + round(at * 1e9))
    return made


class Agents(agents_pb2_grpc.AgentsServiceServicer):
    """One agent. What a test wants to happen it sets, and what came it reads."""

    def __init__(self) -> None:
        self.agent = pb.Agent(
            id=AGENT,
            name="claude-1",
            session=SESSION,
            session_name="shop",
            state=pb.AGENT_STATE_RUNNING,
            tty=True,
            columns=80,
            rows=24,
        )
        self.screen = b"SCREEN"
        self.pieces: list[pb.StreamRecordResponse] = []
        self.lines: list[pb.OutputLine] = []
        self.starts: list[pb.AttachStart] = []
        self.resizes: list[tuple[int, int]] = []
        self.input = b""
        self.signals: list[tuple[str, bool]] = []
        self.sends: list[pb.SendInputRequest] = []
        self.records: list[pb.StreamRecordRequest] = []
        self.attached = 0
        self.refuse: SessiondError | None = None
        self.heard = Pulse()
        self._outbox: list[asyncio.Queue[pb.AttachAgentResponse | None]] = []

    def end(self, *, exit_status: int = 0) -> None:
        """It ends."""
        self.agent.state = pb.AGENT_STATE_FAILED if exit_status else pb.AGENT_STATE_COMPLETED
        self.agent.exit_status = exit_status
        for box in self._outbox:
            box.put_nowait(pb.AttachAgentResponse(ended=self.agent))
        self.heard.fire()

    def say(self, data: bytes) -> None:
        """It prints."""
        for box in self._outbox:
            box.put_nowait(pb.AttachAgentResponse(output=pb.AttachOutput(data=data)))

    def record(self, *pieces: pb.StreamRecordResponse) -> None:
        """What it prints is recorded."""
        self.pieces += pieces
        self.heard.fire()

    def _check(self, request: Any) -> None:
        if request.agent not in (AGENT, self.agent.name):
            raise NotFound("agent_not_found", f"no agent {request.agent}")
        if self.refuse is not None:
            raise self.refuse

    @property
    def _running(self) -> bool:
        return self.agent.state == pb.AGENT_STATE_RUNNING

    async def GetAgent(self, request: Any, context: Any) -> pb.GetAgentResponse:
        if request.agent not in (AGENT, self.agent.name):
            raise NotFound("agent_not_found", f"no agent {request.agent}")
        return pb.GetAgentResponse(agent=self.agent)

    async def ListAgents(self, request: Any, context: Any) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=[self.agent])

    async def SignalAgent(self, request: Any, context: Any) -> pb.SignalAgentResponse:
        self.signals.append((request.signal, request.all))
        self.heard.fire()
        return pb.SignalAgentResponse(agent=self.agent)

    async def SendInput(self, request: Any, context: Any) -> pb.SendInputResponse:
        self._check(request)
        self.sends.append(request)
        return pb.SendInputResponse(bytes=7)

    async def GetScreen(self, request: Any, context: Any) -> pb.GetScreenResponse:
        self._check(request)
        form = pb.ScreenFormat.Name(request.format)
        return pb.GetScreenResponse(
            content=f"{form} {request.scrollback}\nrow \x1b[31mred\n",
            size=pb.TerminalSize(columns=80, rows=24),
            title="title",
        )

    async def ReadOutput(self, request: Any, context: Any) -> pb.ReadOutputResponse:
        self._check(request)
        both = request.stream == pb.OUTPUT_STREAM_BOTH
        held = [one for one in self.lines if both or one.stream == request.stream]
        total = max((one.offset + len(one.text) + 1 for one in held), default=0)
        found = [one for one in held if request.grep in one.text]
        if request.last:
            if request.HasField("offset"):
                found = [one for one in found if one.offset < request.offset]
            more = len(found) > request.last
            return pb.ReadOutputResponse(
                lines=found[-request.last :], total=total, has_more=more, next_offset=total
            )
        found = [one for one in found if one.offset >= request.offset]
        # Pages of two at most, to have several.
        page = found[: min(2, request.limit or 2)]
        more = len(found) > len(page)
        after = page[-1].offset + len(page[-1].text) + 1 if page else total
        return pb.ReadOutputResponse(lines=page, total=total, has_more=more, next_offset=after)

    async def StreamRecord(self, request: Any, context: Any) -> AsyncIterator[pb.StreamRecordResponse]:
        self._check(request)
        self.records.append(request)
        self.heard.fire()
        both = request.stream == pb.OUTPUT_STREAM_BOTH
        place = 0
        while True:
            heard = asyncio.create_task(self.heard.wait())
            try:
                while place < len(self.pieces):
                    one = self.pieces[place]
                    place += 1
                    if both or (one.stream == request.stream and one.offset >= request.offset):
                        yield one
                if not request.follow:
                    return
                if not self._running:
                    yield pb.StreamRecordResponse(ended=self.agent)
                    return
                await heard
            finally:
                heard.cancel()

    async def AttachAgent(self, requests: Any, context: Any) -> AsyncIterator[pb.AttachAgentResponse]:
        first = await anext(aiter(requests))
        if self.refuse is not None:
            raise self.refuse
        if not self._running:
            raise Conflict("agent_ended", "it has ended")
        self.starts.append(first.start)
        box: asyncio.Queue[pb.AttachAgentResponse | None] = asyncio.Queue()
        self._outbox.append(box)
        size = pb.TerminalSize(columns=80, rows=24)
        box.put_nowait(pb.AttachAgentResponse(screen=pb.AttachScreen(data=self.screen, size=size)))
        hearing = asyncio.create_task(self._hear(requests, box))
        self.attached += 1
        self.heard.fire()
        try:
            while (message := await box.get()) is not None:
                yield message
        finally:
            self._outbox.remove(box)
            hearing.cancel()
            await asyncio.wait({hearing})
            self.attached -= 1
            self.heard.fire()

    async def _hear(self, requests: Any, box: asyncio.Queue[pb.AttachAgentResponse | None]) -> None:
        async for message in requests:
            if message.HasField("resize"):
                self.resizes.append((message.resize.columns, message.resize.rows))
            self.input += message.input
            self.heard.fire()
        box.put_nowait(None)


class Sessions(sessions_pb2_grpc.SessionsServiceServicer):
    """One session, as the supervisor knows it."""

    def __init__(self, endpoint: Path) -> None:
        self.session = types_pb2.Session(
            id=SESSION, name="shop", endpoint=str(endpoint), state=types_pb2.SESSION_STATE_ACTIVE
        )
        self.changed = Pulse()

    async def GetSession(self, request: Any, context: Any) -> sessions_pb2.GetSessionResponse:
        return sessions_pb2.GetSessionResponse(session=self.session)

    async def WaitSession(self, request: Any, context: Any) -> sessions_pb2.WaitSessionResponse:
        while self.session.state not in request.states:
            await self.changed.wait()
        return sessions_pb2.WaitSessionResponse(session=self.session)


class StandIn:
    """A supervisor and a session's daemon that serve one agent while entered."""

    def __init__(self) -> None:
        runtime = Path(os.environ["XDG_RUNTIME_DIR"], "sessiond")
        self._sockets = {
            "supervisor": runtime / "sessiond.sock",
            "daemon": runtime / "sessions" / f"{SESSION}.sock",
        }
        self._servers: dict[str, Server] = {}
        self._thread = threading.Thread(target=self._serve, name="stand-in")
        self._ready = threading.Event()
        self._fault: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fault is None:
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def do(self, deed: Callable[[], T]) -> T:
        """Do something where it serves."""

        async def done() -> T:
            return deed()

        return self.wait(done())

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Await something where it serves."""

        async def awaited() -> T:
            async with asyncio.timeout(PATIENCE):
                return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(PATIENCE + 5)

    def until(self, test: Callable[[Agents], bool]) -> None:
        """Wait until something is true of the agents."""
        self.wait(self.agents.heard.until(lambda: True if test(self.agents) else None))

    def stop(self, which: str = "daemon") -> None:
        """End one of the servers, as a process that goes away does."""
        self.wait(self._servers.pop(which).stop(0))

    def start(self, which: str = "daemon") -> None:
        """Serve again."""
        self.wait(self._start(which))

    def stop_session(self) -> None:
        """The session stops, and its daemon with it."""
        self.stop()
        self.sessions.session.state = types_pb2.SESSION_STATE_INACTIVE
        self.do(self.sessions.changed.fire)

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as fault:  # noqa: BLE001 - told to the thread that waits
            self._fault = fault
            self._ready.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.agents = Agents()
        self.sessions = Sessions(self._sockets["daemon"])
        for which, path in self._sockets.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await self._start(which)
        self._ready.set()
        await self._end.wait()
        for server in self._servers.values():
            await server.stop(0)

    async def _start(self, which: str) -> None:
        server = Server(self._sockets[which])
        agents_pb2_grpc.add_AgentsServiceServicer_to_server(self.agents, server.grpc)
        if which == "supervisor":
            sessions_pb2_grpc.add_SessionsServiceServicer_to_server(self.sessions, server.grpc)
        self._servers[which] = server
        await server.start()


class OnTerminal:
    """sessionctl on a terminal of its own; what it shows is gathered in ``seen``."""

    def __init__(
        self, *words: str, columns: int = 80, rows: int = 24, program: Sequence[str] = SESSIONCTL
    ) -> None:
        self.master, self._slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self._slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [*program, *words],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
            preexec_fn=_own_terminal,  # noqa: PLW1509 - it calls the kernel alone
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self.master, self._slave):
            with suppress(OSError):
                os.close(fd)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        """Type on it."""
        while data:
            data = data[os.write(self.master, data) :]

    def see(self, wanted: bytes, *, besides: int = 0) -> bytes:
        """Wait until something is shown, once more than so often; returns all that was shown up to there."""
        deadline = time.monotonic() + PATIENCE
        found = self.seen.count(wanted)
        while found <= besides:
            shown = f"{wanted!r} was not shown; shown was {self.seen[-2000:]!r}"
            assert time.monotonic() < deadline, shown
            ended = self.process.poll() is not None
            # What was looked at is not looked at again, but for where it may have begun.
            begun = max(0, len(self.seen) - len(wanted) + 1)
            assert self._more(0.1) or not ended, shown
            found += self.seen.count(wanted, begun)
        return self.seen

    def end(self) -> int:
        """Wait until it ends; returns its exit status. ``seen`` is all that it showed."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end; shown was {self.seen[-2000:]!r}"
            self._more(0.02)
        while self._more(0):
            pass
        return self.process.returncode

    def _more(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.master, 65536)
        return True

    def signal(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)

    @property
    def mode(self) -> Any:
        """How the terminal reads lines now."""
        return termios.tcgetattr(self._slave)

    def hang_up(self) -> None:
        """Close the terminal, as a window is closed."""
        os.close(self._slave)
        os.close(self.master)
        self.process.wait(PATIENCE)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
