"""Attached: an agent's terminal on the caller's, until either ends, and across restarts of the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sessiond.cli import render
from sessiond.cli.detach import Keyboard, Pressed, Typed
from sessiond.cli.outlet import Outlet
from sessiond.cli.route import Route, ended
from sessiond.cli.terminal_state import CallersTerminal
from sessiond.client.streams import Conversation, Line, Lost
from sessiond.errors import Conflict, InvalidArgument, SessiondError, Unreachable

if TYPE_CHECKING:
    from sessiond.cli.app import App

STDIN, STDOUT = 0, 1
READ = 64 * 1024
# What may wait to be sent: while the agent's program does not read, and while nobody is connected.
WAITING, WAITING_ALONE = 1 << 20, 4096
# The detach key pressed again within this time is one for the program.
TWICE = 0.2
# The rest of a key that came in part comes within this time, or never.
PART = 0.05
# How long what was typed last may take to be delivered when the client leaves.
FAREWELL = 0.5
# Connections in a row that broke before anything came over them.
FRUITLESS = 5

# Not `list(signal.Signals)`: those that mean that somebody wants this process gone.
_LEAVE = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_LEFT = "sessionctl screen AGENT, output AGENT or replay AGENT show what it left"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: ``agent`` as it ended, or None where the client left it running; ``signal`` that
    made the client leave, or 0."""

    agent: Any | None = None
    signal: int = 0

    @property
    def detached(self) -> bool:
        """Whether the agent goes on."""
        return self.agent is None


def attach(
    app: App,
    session: str,
    agent: str,
    *,
    read_only: bool = False,
    scrollback: int = 0,
    size_policy: str = "",
    detach_key: str | None = None,
    ended_too: bool = False,
) -> Outcome:
    """Join an agent's terminal until it ends or the person leaves, and say which on stderr.

    ``session`` and ``agent`` are ids. With ``ended_too`` one that has ended already is no error: what it
    printed is shown. Raises SessiondError; the caller's terminal is as it was in every case.
    """
    if not (os.isatty(STDIN) and os.isatty(STDOUT)):
        raise Conflict(
            "no_terminal",
            "standard input and output must be a terminal to attach",
            hint="sessionctl screen AGENT shows it once, sessionctl output -f AGENT follows it",
        )
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    keyboard = Keyboard(_detach_key(detach_key))
    policy: Any = pb.SizePolicy.Value(f"SIZE_POLICY_{size_policy.upper().replace('-', '_') or 'UNSPECIFIED'}")
    start = pb.AttachStart(agent=agent, read_only=read_only, scrollback=scrollback, size_policy=policy)
    app.flush()
    route = Route(app, session, agent)
    client = _Attached(route, start, keyboard, ended_too=ended_too)
    outcome = asyncio.run(client.run())
    _tell(app, route, outcome)
    return outcome


def stream_plain(app: App, session: str, agent: str, *, stdout: bool = True) -> Outcome:
    """Copy an agent's stdout to stdout (unless that is not wanted) and its stderr to stderr, byte for byte,
    until it ends.

    Ctrl-C goes to the agent; a second one within a second leaves it running.
    """
    from sessiond.cli.stream import copy

    app.flush()
    route = Route(app, session, agent)
    outcome = asyncio.run(copy(app, route, stdout=stdout))
    if outcome.detached:
        _tell(app, route, outcome)
    return outcome


def _detach_key(given: str | None) -> str:
    from sessiond import config
    from sessiond.config.kinds import Key
    from sessiond.paths import Paths

    if given is None:
        return config.load(Paths.from_environment().config_file).terminal.detach_key
    from pathlib import Path

    try:
        return Key().check(given, Path())
    except ValueError as error:
        raise InvalidArgument(
            "key_invalid", f"not a key to detach with: {given!r}", hint=str(error), fields={"key": given}
        ) from error


def agent_label(agent: Any) -> str:
    """`SESSION/NAME` of an agent of the wire, fit for a line."""
    return render.plain(f"{agent.session_name or agent.session[:8]}/{agent.name or agent.id}")


def how_it_ended(agent: Any) -> str:
    """How an agent ended, in a few words."""
    if agent.HasField("exit_status"):
        told = f"exit status {agent.exit_status}"
    elif agent.signal:
        told = f"signal {agent.signal}"
    else:
        told = "exit status not known"
    return render.plain(f"{told}: {agent.reason}" if agent.reason else told)


def _tell(app: App, route: Route, outcome: Outcome) -> None:
    if app.json:
        return
    try:
        app.note(f"[{_sentence(app, route, outcome)}]")
    except OSError:
        # The terminal hung up, and nobody is there to be told; what is buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _sentence(app: App, route: Route, outcome: Outcome) -> str:
    agent = outcome.agent
    if agent is not None and agent.session_name:
        return f"{agent_label(agent)} ended: {how_it_ended(agent)}"
    name = _label_of(app, route, agent)
    return f"detached from {name}" if agent is None else f"{name} ended: {how_it_ended(agent)}"


def _label_of(app: App, route: Route, agent: Any | None) -> str:
    """The name of an agent as the supervisor knows it; its id where that does not answer."""
    from sessiond.rpc._generated.v1 import agents_pb2 as pb
    from sessiond.rpc._generated.v1 import sessions_pb2

    supervisor = app.supervisor
    try:
        if agent is None:
            request = pb.GetAgentRequest(session=route.session, agent=route.agent)
            return agent_label(supervisor.call(supervisor.agents.GetAgent, request, timeout=2.0).agent)
        # It may have been removed since; its daemon, which told of its end, does not know its session's name.
        of = sessions_pb2.GetSessionRequest(session=route.session)
        agent.session_name = supervisor.call(supervisor.sessions.GetSession, of, timeout=2.0).session.name
    except SessiondError:
        agent = agent or pb.Agent(session=route.session, id=route.agent)
    return agent_label(agent)


# ---- one attachment -------------------------------------------------------------------------


class _Attached:
    """One client at an agent's terminal."""

    def __init__(self, route: Route, start: Any, keyboard: Keyboard, *, ended_too: bool) -> None:
        self._route = route
        self._start = start
        self._keyboard = keyboard
        self._ended_too = ended_too
        self._out = Outlet(STDOUT)
        self._terminal = CallersTerminal(STDIN, self._out)
        self._typed: deque[bytes] = deque()
        self._waiting = 0
        self._resized = False
        self._news = asyncio.Event()
        self._sent = asyncio.Event()
        self._connected = False
        self._conversation: Conversation | None = None
        self._pressed: bytes = b""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def run(self) -> Outcome:
        """Until it ends, or the person leaves."""
        self._loop = asyncio.get_running_loop()
        self._left: asyncio.Future[int] = self._loop.create_future()
        self._redraw = asyncio.Event()
        outcome: Outcome | None = None
        try:
            line, first = await self._begin()
            with self._signals():
                if first is None:
                    return await self._past(line)
                self._terminal.enter()
                self._loop.add_reader(STDIN, self._read)
                try:
                    outcome = await self._until_left(line, first)
                finally:
                    self._loop.remove_reader(STDIN)
                    for timer in self._timers.values():
                        timer.cancel()
                    self._terminal.restore(below=outcome is None or outcome.detached)
        finally:
            self._out.close()
        return outcome

    # ---- connections

    async def _begin(self) -> tuple[Line, Any | None]:
        """The first connection and its first message; None for an agent that has ended and may have."""
        line = self._route.open()
        try:
            try:
                return line, await self._greet(line)
            except Lost:
                await line.close()
                line, agent = await self._route.regain()
                if not ended(agent):
                    return line, await self._greet(line)
                raise Conflict("agent_ended", f"{agent_label(agent)} has ended", hint=_LEFT) from None
        except SessiondError as error:
            if error.code == "agent_ended" and self._ended_too:
                return line, None
            await line.close()
            if error.code == "agent_ended":
                error.hint = _LEFT
            if error.code == "agent_no_terminal":
                error.hint = "sessionctl output -f AGENT"
            raise
        except Lost as lost:
            await line.close()
            raise _unreachable(lost) from lost
        except BaseException:
            await line.close()
            raise

    async def _greet(self, line: Line) -> Any:
        """Say what we want; returns the first answer."""
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        self._conversation = line.converse(line.agents.AttachAgent)
        start = pb.AttachStart()
        start.CopyFrom(self._start)
        if (size := self._size()) is not None:
            start.size.CopyFrom(size)
        await self._conversation.say(pb.AttachAgentRequest(session=self._route.session, start=start))
        first = await self._conversation.hear()
        if first is None:
            raise Lost(SessiondError("attach_ended", "the other side said nothing"))
        # What scrolled by stays on the caller's terminal, and the policy with the agent's.
        self._start.scrollback = 0
        self._start.size_policy = pb.SIZE_POLICY_UNSPECIFIED
        return first

    async def _until_left(self, line: Line, first: Any | None) -> Outcome:
        """Show and type; leaves when a person or a signal says so."""
        while True:
            talk = asyncio.create_task(self._talk(line, first), name="talk")
            redraw = asyncio.create_task(self._redraw.wait(), name="redraw")
            try:
                await asyncio.wait({talk, redraw, self._left}, return_when=asyncio.FIRST_COMPLETED)
                if talk.done():
                    return Outcome(talk.result())
                if self._left.done():
                    await self._farewell()
                    return Outcome(signal=self._left.result())
            finally:
                redraw.cancel()
                talk.cancel()
                await asyncio.wait({talk, redraw})
                if not talk.cancelled():
                    talk.exception()  # Retrieved: told above, or of no interest to who left.
            # Back from being stopped: another program may have drawn on this terminal.
            self._redraw.clear()
            self._terminal.enter()
            line, first = self._route.open(), None

    async def _talk(self, line: Line, first: Any | None) -> Any:
        """Follow the agent over as many connections as it takes; returns it as it ended."""
        fruitless = 0
        try:
            while True:
                try:
                    if first is None:
                        first = await self._greet(line)
                    fruitless = 0
                    return await self._serve(first)
                except Lost as lost:
                    fruitless += 1
                    if fruitless > FRUITLESS:
                        raise _unreachable(lost) from lost
                except SessiondError as error:
                    if error.code != "agent_ended":
                        raise
                    return await self._ended(line)
                first = None
                await line.close()
                await self._out.write(
                    self._terminal.remark(" connection lost; waiting for the session's daemon ")
                )
                line, agent = await self._route.regain()
                if ended(agent):
                    return agent
        finally:
            self._connected = False
            await line.close()

    async def _ended(self, line: Line) -> Any:
        try:
            return await self._route.get(line)
        except Lost as lost:
            raise _unreachable(lost) from lost

    async def _serve(self, message: Any) -> Any:
        """Pass on both ways over one connection; returns the agent when it ended."""
        conversation = self._conversation
        assert conversation is not None
        self._connected = True
        sending = asyncio.create_task(self._send(conversation), name="send")
        try:
            while message is not None:
                kind = message.WhichOneof("message")
                if kind == "output":
                    await self._terminal.show(message.output.data)
                elif kind == "screen":
                    await self._out.write(self._terminal.fresh())
                    await self._terminal.show(message.screen.data)
                elif kind == "ended":
                    return message.ended
                message = await conversation.hear()
            raise Lost(SessiondError("attach_ended", "the other side ended the connection"))
        finally:
            self._connected = False
            sending.cancel()
            await asyncio.wait({sending})

    async def _past(self, line: Line) -> Outcome:
        """Show what an agent printed that has ended before anybody could look."""
        self._terminal.enter_to_show()
        showing = asyncio.create_task(self._show_past(line), name="show")
        try:
            await asyncio.wait({showing, self._left}, return_when=asyncio.FIRST_COMPLETED)
            return Outcome(showing.result()) if showing.done() else Outcome(signal=self._left.result())
        finally:
            showing.cancel()
            await asyncio.wait({showing})
            self._terminal.restore(below=False)

    async def _show_past(self, line: Line) -> Any:
        from sessiond.rpc._generated.v1 import agents_pb2 as pb
        from sessiond.terminal.queries import QueryFilter

        # Nobody waits for answers any more.
        queries = QueryFilter()
        request = pb.StreamRecordRequest(
            session=self._route.session, agent=self._route.agent, stream=pb.OUTPUT_STREAM_TERMINAL
        )
        try:
            async for piece in line.stream(line.agents.StreamRecord, request):
                if piece.HasField("data"):
                    await self._terminal.show(queries.feed(piece.data))
            await self._terminal.show(queries.flush())
            return await self._route.get(line)
        except Lost as lost:
            raise _unreachable(lost) from lost
        finally:
            await line.close()

    # ---- typing

    async def _send(self, conversation: Conversation) -> None:
        """Send what was typed, and each new size, for as long as the connection holds."""
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        while True:
            if self._resized and (size := self._size()) is not None:
                self._resized = False
                message = pb.AttachAgentRequest(resize=size)
            elif self._typed:
                data = self._typed.popleft()
                self._waiting -= len(data)
                message = pb.AttachAgentRequest(input=data)
            else:
                self._sent.set()
                self._news.clear()
                await self._news.wait()
                self._sent.clear()
                continue
            if not await conversation.say(message):
                return

    async def _farewell(self) -> None:
        """Have what was typed before the detach key delivered."""
        if self._conversation is None or not self._connected:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while self._typed:
                    self._sent.clear()
                    await self._sent.wait()
                await self._conversation.leave()

    def _read(self) -> None:
        try:
            data = os.read(STDIN, READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:  # The terminal hung up.
            self._leave(0)
            return
        for one in self._keyboard.feed(data):
            self._key(one)
        self._timer("part", PART if self._keyboard.held else None, self._part)

    def _part(self) -> None:
        self._type(self._keyboard.flush())

    def _key(self, one: Typed | Pressed) -> None:
        if isinstance(one, Typed):
            if self._pressed and not one.silent:
                # Something else follows the detach key: that is for whoever reads this terminal next.
                self._leave(0)
            elif not self._left.done():
                self._type(one.data)
            return
        if self._pressed:
            data, self._pressed = self._pressed, b""
            self._timer("twice", None, self._part)
            self._type(data)
            return
        self._pressed = one.data
        self._timer("twice", TWICE, lambda: self._leave(0))

    def _timer(self, name: str, after: float | None, do: Any) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()
        if after is not None:
            self._timers[name] = self._loop.call_later(after, do)

    def _type(self, data: bytes) -> None:
        if self._start.read_only or not data:
            return
        if self._waiting + len(data) > (WAITING if self._connected else WAITING_ALONE):
            # As a terminal does whose program does not read.
            self._out.write_now(b"\x07", patience=0.01)
            return
        self._typed.append(data)
        self._waiting += len(data)
        self._news.set()

    def _leave(self, number: int) -> None:
        if not self._left.done():
            self._left.set_result(number)

    # ---- size and signals

    def _size(self) -> Any | None:
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        size = self._terminal.size()
        return pb.TerminalSize(columns=size[0], rows=size[1]) if size is not None else None

    def _winch(self) -> None:
        self._resized = not self._start.read_only
        self._news.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Leave in order when asked to; never be stopped with the terminal raw."""
        before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        for number in _LEAVE:
            self._loop.add_signal_handler(number, self._leave, int(number))
        self._loop.add_signal_handler(signal.SIGWINCH, self._winch)
        self._loop.add_signal_handler(signal.SIGCONT, self._redraw.set)
        try:
            yield
        finally:
            for number in (*_LEAVE, signal.SIGWINCH, signal.SIGCONT):
                self._loop.remove_signal_handler(number)
            signal.signal(signal.SIGTSTP, before)


def _unreachable(lost: Lost) -> Unreachable:
    return Unreachable(
        "daemon_unreachable",
        f"the session's daemon does not answer: {lost.error.message}",
        hint="sessionctl doctor",
    )
