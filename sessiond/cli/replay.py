"""`replay`: an agent's record played on this terminal, with its timing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from contextlib import aclosing
from typing import Any

import click

from sessiond.cli.agents import agent, get_agent
from sessiond.cli.app import App
from sessiond.cli.life import duration
from sessiond.cli.outlet import Outlet
from sessiond.cli.route import Route
from sessiond.cli.terminal import agent_label
from sessiond.cli.terminal_state import CallersTerminal
from sessiond.cli.verb import verb
from sessiond.errors import InvalidArgument, SessiondError

SLOWEST, FASTEST = 1 / 64, 1024.0
# Answers of the terminal, mouse and function keys are no keys of ours; a coded key may be one.
_CODED = re.compile(rb"\x1b\[(\d+)(?:[:;][\d:;]*)?u")
_OTHER = re.compile(
    rb"\x1b(?:\[M...|\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])", re.S
)


@verb(
    "replay",
    examples="""
sessionctl replay shop/claude
sessionctl replay claude --speed 4 --idle-limit 2
sessionctl replay claude --from 10min
sessionctl replay claude --search "tests failed"
""",
)
@agent()
@click.option(
    "--speed",
    type=click.FloatRange(SLOWEST, FASTEST),
    default=1.0,
    metavar="N",
    help="So many times as fast.",
)
@click.option("--from", "begin", metavar="TIME", help="Begin so long after its start: 90, 30s, 5min, 2h.")
@click.option("--search", metavar="TEXT", help="Begin where this text appears first.")
@click.option("--idle-limit", metavar="TIME", help="Wait no longer than this where nothing was printed.")
def replay(
    app: App, target: str, speed: float, begin: str | None, search: str | None, idle_limit: str | None
) -> None:
    """Play the record of what an agent printed, with its timing.

    Keys: q quits, space pauses, . shows the next piece while paused, + and - change the speed. What comes
    before --from or --search is drawn at once. Without a terminal all of it is written at once.
    """
    if search == "":
        raise InvalidArgument("text_invalid", "an empty text is everywhere", hint="--search TEXT")
    start = duration(begin) if begin is not None else 0.0
    limit = duration(idle_limit) if idle_limit is not None else None
    found = get_agent(app, target)
    app.flush()
    route = Route(app, found.session, found.id)
    code = asyncio.run(_replay(found, route, speed, start, search, limit))
    if code:
        app.exit_code = code


async def _replay(
    found: Any, route: Route, speed: float, start: float, search: str | None, limit: float | None
) -> int:
    until = await _place(found, route, search.encode()) if search is not None else 0
    out = Outlet(1)
    terminal = CallersTerminal(0, out) if os.isatty(0) and os.isatty(1) else None
    player = _Player(found, route, out, terminal)
    try:
        return await player.run(speed, start, until, limit)
    finally:
        out.close()


async def _pieces(route: Route) -> Any:
    from sessiond.cli.stream import Follower
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    return aclosing(Follower(route, pb.OUTPUT_STREAM_BOTH, follow=False).pieces())


async def _place(found: Any, route: Route, text: bytes) -> int:
    """Number of bytes, over all streams, after which a text is on the screen; the text is looked for across
    escape sequences. Raises SessiondError `text_not_found`."""
    from sessiond.agents.lines import Stripper

    strippers: dict[Any, tuple[Stripper, bytes]] = {}
    done = 0
    async with await _pieces(route) as pieces:
        async for piece in pieces:
            if not piece.HasField("data"):
                continue
            stripper, before = strippers.get(piece.stream, (Stripper(), b""))
            done += len(piece.data)
            plain = before + stripper.feed(piece.data)
            if text in plain:
                return done
            strippers[piece.stream] = (
                stripper,
                plain[len(plain) - len(text) + 1 :] if len(text) > 1 else b"",
            )
    raise SessiondError(
        "text_not_found",
        f"{text.decode()!r} appears nowhere in what is held of {agent_label(found)}",
        hint="sessionctl output AGENT --grep REGEX looks for patterns",
        fields={"text": text.decode()},
    )


class _Player:
    """Plays pieces, and listens to the keyboard where there is one."""

    def __init__(self, found: Any, route: Route, out: Outlet, terminal: CallersTerminal | None) -> None:
        self._found = found
        self._route = route
        self._out = out
        self._terminal = terminal
        self._speed = 1.0
        self._paused = False
        self._step = False
        self._key = asyncio.Event()

    async def run(self, speed: float, start: float, until: int, limit: float | None) -> int:
        """Play to the end, or until somebody has seen enough; returns the exit code."""
        self._speed = speed
        loop = asyncio.get_running_loop()
        self._left: asyncio.Future[int] = loop.create_future()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in signals:
            loop.add_signal_handler(number, self._leave, 128 + number)
        playing = asyncio.create_task(self._play(start, until, limit), name="play")
        broken = asyncio.create_task(self._out.broken(), name="broken")
        if self._terminal is not None:
            self._terminal.enter()
            loop.add_reader(0, self._read)
        try:
            waited: set[asyncio.Future[Any]] = {playing, broken, self._left}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                playing.result()
                return 0
            if self._left.done():
                return self._left.result()
            raise BrokenPipeError
        finally:
            playing.cancel()
            broken.cancel()
            await asyncio.wait({playing, broken})
            if not playing.cancelled():
                playing.exception()
            if self._terminal is not None:
                loop.remove_reader(0)
                self._terminal.restore(below=True)
            for number in signals:
                loop.remove_signal_handler(number)

    async def _play(self, start: float, until: int, limit: float | None) -> None:
        from sessiond.terminal.queries import QueryFilter

        # Answers would come as if typed, and nobody waits for them.
        queries = QueryFilter()
        first: int | None = None
        last = 0
        shown = 0
        if self._terminal is not None:
            await self._out.write(self._terminal.fresh())
        async with await _pieces(self._route) as pieces:
            async for piece in pieces:
                if not piece.HasField("data"):
                    continue
                if piece.HasField("time"):
                    now = piece.time.ToNanoseconds()
                    if first is None:
                        first = last = now
                    if self._terminal is not None and now > first + start * 1e9 and shown >= until:
                        idle = (now - max(last, first + int(start * 1e9))) / 1e9
                        await self._wait(idle if limit is None else min(idle, limit))
                    last = max(last, now)
                data = piece.data if self._found.tty else self._lines(piece.data)
                if self._terminal is not None:
                    await self._terminal.show(queries.feed(data))
                else:
                    await self._out.write(data)
                shown += len(piece.data)

    def _lines(self, data: bytes) -> bytes:
        """A raw terminal begins no new line by itself."""
        return data.replace(b"\n", b"\r\n") if self._terminal is not None else data

    async def _wait(self, seconds: float) -> None:
        """Let recorded time pass, at the speed that is set."""
        loop = asyncio.get_running_loop()
        while self._paused or seconds > 0:
            if self._paused and self._step:
                self._step = False
                return
            began, speed = loop.time(), self._speed
            self._key.clear()
            try:
                async with asyncio.timeout(None if self._paused else seconds / speed):
                    await self._key.wait()
            except TimeoutError:
                return
            if not self._paused or speed != self._speed:
                seconds -= (loop.time() - began) * speed

    def _leave(self, code: int) -> None:
        if not self._left.done():
            self._left.set_result(code)

    def _read(self) -> None:
        try:
            data = os.read(0, 4096)
        except OSError:
            data = b""
        if not data:
            self._leave(0)
            return
        coded = _CODED.sub(lambda match: chr(min(int(match[1]), 127)).encode(), data)
        for key in _OTHER.sub(b"", coded).decode("ascii", "ignore"):
            self._pressed(key)

    def _pressed(self, key: str) -> None:
        if key in "qQ\x03":
            self._leave(0)
        elif key == " ":
            self._paused = not self._paused
        elif key == ".":
            self._step = self._paused
        elif key in "+=":
            self._speed = min(self._speed * 2, FASTEST)
        elif key == "-":
            self._speed = max(self._speed / 2, SLOWEST)
        self._key.set()
