"""`output`: what an agent printed, read without consuming it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import islice
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.agents import agent, get_agent
from sessiond.cli.app import App
from sessiond.cli.lines import PAGE, Assembler, all_lines, read, streams_of
from sessiond.cli.verb import verb
from sessiond.errors import InvalidArgument

# What -f begins with when no number is given.
FOLLOWED = 10


@verb(
    "output",
    examples="""
sessionctl output shop/build
sessionctl output build -n 50 --stream stderr
sessionctl output build -f --grep "error|warning"
sessionctl output build --json --offset 4096 | jq -r '.lines[].text'
sessionctl output claude --raw > session.raw
""",
)
@agent()
@click.option(
    "--stream",
    type=click.Choice(["stdout", "stderr", "both"]),
    default="both",
    help="Of an agent without a terminal; default both.",
)
@click.option("--grep", default="", metavar="REGEX", help="Only lines in which it is found.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, PAGE),
    metavar="N",
    help="The last N lines; with --offset the first.",
)
@click.option("--offset", type=click.IntRange(0, (1 << 63) - 1), metavar="N", help="From this byte on.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the agent ends; begins with the last 10.")
@click.option("--raw", is_flag=True, help="With the escape sequences of a terminal.")
def output(
    app: App,
    target: str,
    stream: str,
    grep: str,
    lines: int | None,
    offset: int | None,
    follow: bool,
    raw: bool,
) -> None:
    """Show what an agent printed.

    All that is held, unless -n, --offset or -f say otherwise. What a terminal was sent is shown as
    plain lines.

    --json prints one object with at most 10,000 lines and the offset to go on from; with -f one line each.
    """
    found = get_agent(app, target)
    streams = streams_of(found, stream)
    if offset is not None and len(streams) > 1:
        raise InvalidArgument(
            "offset_invalid",
            "an offset is one of standard output or of standard error, not of both",
            hint="--stream stdout, or --stream stderr",
            fields={"offset": str(offset)},
        )
    if follow and offset is not None and lines is not None:
        raise click.UsageError("-f goes on from an --offset without end: leave out -n")
    shown = _Shown(app, found, streams, grep=grep, raw=raw)
    if follow:
        shown.follow(lines, offset)
    elif app.json:
        shown.page(lines, offset)
    elif lines is None or offset is not None:
        for line in islice(all_lines(app, found, streams, grep=grep, offset=offset or 0, raw=raw), lines):
            shown.line(line)
    else:
        for line in shown.last(lines):
            shown.line(line)


class _Shown:
    """One run of the verb."""

    def __init__(self, app: App, agent: Any, streams: list[Any], *, grep: str, raw: bool) -> None:
        self._app = app
        self._agent = agent
        self._streams = streams
        self._grep = grep
        self._raw = raw

    def line(self, line: Any) -> None:
        """Show one line."""
        if self._app.json:
            self._app.print_json(line_object(line), indent=None)
            return
        # Tabs are a matter of layout; everything else that moves a cursor is shown as what it is.
        self._app.print(line.text if self._raw else "\t".join(map(render.plain, line.text.split("\t"))))

    def page(self, count: int | None, offset: int | None) -> None:
        """One answer as one object."""
        if count is None or offset is not None:
            page = self._ask(limit=PAGE if count is None else max(count, 1), offset=offset or 0)
        else:
            page = self._ask(last=max(count, 1))
        if count == 0:
            del page.lines[:]
        self._app.print_json(
            {
                "lines": [line_object(one) for one in page.lines],
                "total": page.total,
                "start": page.start,
                "has_more": page.has_more,
                "next_offset": page.next_offset if page.HasField("next_offset") else None,
            }
        )

    def last(self, count: int) -> list[Any]:
        """The last so many lines."""
        return list(self._ask(last=count).lines) if count else []

    def _ask(
        self,
        *,
        last: int = 0,
        limit: int = PAGE,
        offset: int | None = None,
        stream: Any = None,
        grep: bool = True,
    ) -> Any:
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        if stream is None:
            stream = self._streams[0] if len(self._streams) == 1 else pb.OUTPUT_STREAM_BOTH
        request = pb.ReadOutputRequest(
            session=self._agent.session,
            agent=self._agent.id,
            stream=stream,
            grep=self._grep if grep else "",
            last=last,
            limit=limit,
            raw=self._raw,
        )
        if offset is not None and (len(self._streams) == 1 or stream != pb.OUTPUT_STREAM_BOTH):
            request.offset = offset
        return read(self._app, request)

    # ---- following

    def follow(self, count: int | None, offset: int | None) -> None:
        """The last lines, or those from an offset on, and then what comes."""
        if offset is not None:
            starts = {self._streams[0]: offset}
        else:
            starts = {stream: self._last_line(stream, count) for stream in self._streams}
            wanted = FOLLOWED if count is None else count
            # The last line of a stream may not be complete: it comes with what follows.
            for line in self.last(wanted):
                if line.offset < starts[line.stream]:
                    self.line(line)
        self._app.flush()
        code = asyncio.run(self._follow(starts))
        if code:
            self._app.exit_code = code

    def _last_line(self, stream: Any, count: int | None) -> int:
        """Where the last line of a stream begins; with a count of 0 where the stream ends."""
        page = self._ask(last=1, stream=stream, grep=False)
        end: int = page.total
        return page.lines[0].offset if page.lines and count != 0 else end

    async def _follow(self, starts: dict[Any, int]) -> int:
        import signal

        from sessiond.cli.outlet import Outlet
        from sessiond.cli.route import Route

        loop = asyncio.get_running_loop()
        left: asyncio.Future[int] = loop.create_future()
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

        def leave(number: int) -> None:
            if not left.done():
                left.set_result(number)

        for number in signals:
            loop.add_signal_handler(number, leave, int(number))
        route = Route(self._app, self._agent.session, self._agent.id)
        out = Outlet(1)
        following = asyncio.create_task(self._each_of(route, starts), name="follow")
        # A reader that goes away ends us at once, not when the next line is due.
        broken = asyncio.create_task(out.broken(), name="broken")
        try:
            tasks: set[asyncio.Future[Any]] = {following, broken, left}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                return 128 + left.result()
            if not following.done():
                raise BrokenPipeError
            following.result()
            return 0
        finally:
            following.cancel()
            broken.cancel()
            await asyncio.wait([following, broken])
            for number in signals:
                loop.remove_signal_handler(number)
            out.close()

    async def _each_of(self, route: Any, starts: dict[Any, int]) -> None:
        await asyncio.gather(*(self._each(route, stream, start) for stream, start in starts.items()))

    async def _each(self, route: Any, stream: Any, start: int) -> None:
        from sessiond.cli.stream import Follower

        lines = Assembler(stream, raw=self._raw)
        async with aclosing(Follower(route, stream, start).pieces()) as pieces:
            async for piece in pieces:
                if piece.HasField("data"):
                    for line in lines.feed(piece):
                        self._found(line)
                    # Whoever follows reads each as it comes, through a pipe too.
                    self._app.flush()
        if (line := lines.rest()) is not None:
            self._found(line)
            self._app.flush()

    def _found(self, line: Any) -> None:
        if self._grep:
            from sessiond.agents.grep import Grep

            if not Grep(self._grep).finds(line.text):
                return
        self.line(line)


def line_object(line: Any) -> dict[str, Any]:
    """A line as --json shows it."""
    from sessiond.cli.jsonout import time_text
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    stream = pb.OutputStream.Name(line.stream).removeprefix("OUTPUT_STREAM_").lower()
    return {
        "text": line.text,
        "offset": line.offset,
        "time": time_text(line, "time"),
        "stream": stream,
        "cut": line.cut,
    }
