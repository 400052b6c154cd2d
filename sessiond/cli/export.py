"""`export`: an agent's record as a file for other programs and people."""

from __future__ import annotations

import asyncio
import codecs
import errno
import html
import json
import os
import secrets
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any, BinaryIO

import click

from sessiond.cli import render
from sessiond.cli.agents import agent, get_agent
from sessiond.cli.app import App
from sessiond.cli.terminal import agent_label
from sessiond.cli.verb import absolute, verb
from sessiond.errors import AlreadyExists, Exhausted, InvalidArgument, SessiondError

FORMATS = ("cast", "txt", "html")
# Who waits longer than this is told how far it is, so often.
_SOON, _OFTEN = 1.0, 0.25


@verb(
    "export",
    examples="""
sessionctl export shop/claude session.cast
sessionctl export claude output.txt --force
sessionctl export claude screen.html
sessionctl export claude - --format cast | asciinema play -
""",
)
@agent()
@click.argument("file")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Default: what the name of FILE ends with."
)
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def export(app: App, target: str, file: str, form: str | None, force: bool) -> None:
    """Write the record of an agent to FILE; `-` is standard output.

    .cast is asciicast version 2, as asciinema plays it; .txt is all of its output as plain text; .html
    is its last screen. FILE appears whole or not at all, readable by you alone.
    """
    form = form or _format_of(file)
    to_stdout = file == "-"
    path = "" if to_stdout else absolute(file)
    if path:
        _check(path, force=force)
    found = get_agent(app, target)
    write = {"cast": _cast, "txt": _text, "html": _html}[form]
    progress = _Progress()
    app.flush()
    try:
        if to_stdout:
            write(app, found, sys.stdout.buffer, progress)
            sys.stdout.buffer.flush()
        else:
            with _whole(path, force=force) as out:
                write(app, found, out, progress)
    finally:
        progress.end()
    if not to_stdout:
        if app.json:
            app.print_json({"agent": found.id, "path": path, "format": form, "bytes": os.stat(path).st_size})
        else:
            app.note(f"{agent_label(found)}: written to {render.plain(path)}")


def _format_of(file: str) -> str:
    suffix = os.path.splitext(file)[1].lower().removeprefix(".")
    if suffix in FORMATS:
        return suffix
    where = "standard output" if file == "-" else f"the name {file}"
    raise InvalidArgument(
        "format_unknown",
        f"{where} does not say which format is wanted",
        hint="--format cast, txt or html",
        fields={"file": file},
    )


# ---- files ----------------------------------------------------------------------------------


def _check(path: str, *, force: bool) -> None:
    """Raise what is known to fail before anything is read."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from error
    if not force:
        raise _exists(path)
    if not stat.S_ISREG(info.st_mode) and not stat.S_ISLNK(info.st_mode):
        raise InvalidArgument(
            "file_invalid", f"{path} is no regular file", hint="name another", fields={"path": path}
        )


@contextmanager
def _whole(path: str, *, force: bool) -> Iterator[BinaryIO]:
    """A file that appears under its name once all of it is on the disk, and leaves nothing otherwise."""
    folder, name = os.path.split(path)
    beside = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
    before = {one: signal.signal(one, _interrupted) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        _place(beside, path, force=force)
    except OSError as error:
        raise _failed(path, error) from error
    finally:
        with suppress(OSError):
            os.unlink(beside)
        for one, handler in before.items():
            signal.signal(one, handler)


def _place(beside: str, path: str, *, force: bool) -> None:
    if force:
        os.replace(beside, path)
        return
    try:
        # Unlike a rename, a link fails where somebody made a file of that name meanwhile.
        os.link(beside, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without links.
        if os.path.lexists(path):
            raise _exists(path) from None
        os.rename(beside, path)


def _interrupted(number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _exists(path: str) -> AlreadyExists:
    return AlreadyExists(
        "file_exists", f"{path} exists", hint="name another, or give --force", fields={"path": path}
    )


def _failed(path: str, error: OSError) -> SessiondError:
    told = f"{path} cannot be written: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Exhausted(
            "disk_full", told, hint="free some space, or name another disk", fields={"path": path}
        )
    return SessiondError(
        "file_unwritable", told, hint="name a file in a folder that you may write to", fields={"path": path}
    )


class _Progress:
    """How far it is, on stderr where that is a terminal and it takes long."""

    def __init__(self) -> None:
        self._shown = False
        self._next = time.monotonic() + _SOON
        self._wanted = sys.stderr is not None and sys.stderr.isatty()

    def at(self, done: int, total: int) -> None:
        """So many bytes of so many are done."""
        if self._wanted and time.monotonic() >= self._next:
            self._shown = True
            self._next = time.monotonic() + _OFTEN
            print(f"\r{render.size(done)} of {render.size(total)}\x1b[K", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line away."""
        if self._shown:
            self._shown = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---- formats --------------------------------------------------------------------------------


def _text(app: App, found: Any, out: BinaryIO, progress: _Progress) -> None:
    from sessiond.cli.lines import all_lines, streams_of

    for line in all_lines(app, found, streams_of(found, "both"), paged=progress.at):
        out.write(line.text.encode("utf-8", "replace") + b"\n")


_PAGE = """<!DOCTYPE html>
<html>
<head>
<meta charset="utf-8">
<title>{title}</title>
</head>
<body>
{body}
</body>
</html>
"""


def _html(app: App, found: Any, out: BinaryIO, _progress: _Progress) -> None:
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    request = pb.GetScreenRequest(session=found.session, agent=found.id, format=pb.SCREEN_FORMAT_HTML)
    shown = app.supervisor.call(app.supervisor.agents.GetScreen, request)
    title = html.escape(agent_label(found))
    out.write(_PAGE.format(title=title, body=shown.content).encode("utf-8", "replace"))


def _cast(app: App, found: Any, out: BinaryIO, progress: _Progress) -> None:
    from sessiond.cli.route import Route

    asyncio.run(_write_cast(found, Route(app, found.session, found.id), out, progress))


async def _write_cast(found: Any, route: Any, out: BinaryIO, progress: _Progress) -> None:
    from sessiond.cli.stream import Follower
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    cast = Cast(out.write, found)
    done = 0
    async with aclosing(Follower(route, pb.OUTPUT_STREAM_BOTH, follow=False).pieces()) as pieces:
        async for piece in pieces:
            cast.add(piece)
            done += len(piece.data)
            progress.at(done, found.record_bytes - found.record_start)
    cast.end()


class Cast:
    """Writes asciicast version 2: a header, then one event a line."""

    def __init__(self, write: Callable[[bytes], Any], agent: Any) -> None:
        self._write = write
        self._agent = agent
        self._size = (agent.columns or 80, agent.rows or 24)
        self._begun = False
        self._first: int | None = None
        self._now = 0.0
        # A character that is cut between two pieces is shown with the second one.
        self._texts: dict[Any, Any] = {}

    def add(self, piece: Any) -> None:
        """The next piece of the record."""
        if piece.HasField("time"):
            stamp = piece.time.ToNanoseconds()
            self._first = stamp if self._first is None else self._first
            self._now = max(self._now, (stamp - self._first) / 1e9)
        kind = piece.WhichOneof("message")
        if kind == "size" and not self._begun:
            self._size = (piece.size.columns, piece.size.rows)
        elif kind == "size":
            self._event("r", f"{piece.size.columns}x{piece.size.rows}")
        elif kind == "gap":
            self._event("m", f"{piece.gap} bytes are not held")
        elif kind == "restarted":
            self._event("m", "restarted")
        elif kind == "data":
            if piece.stream not in self._texts:
                self._texts[piece.stream] = codecs.getincrementaldecoder("utf-8")("replace")
            self._output(self._texts[piece.stream].decode(piece.data))

    def end(self) -> None:
        """There is no more."""
        for text in self._texts.values():
            self._output(text.decode(b"", True))
        self._begin()

    def _output(self, text: str) -> None:
        if text:
            # Files hold no carriage returns, which a terminal adds.
            self._event("o", text if self._agent.tty else text.replace("\n", "\r\n"))

    def _event(self, kind: str, value: str) -> None:
        self._begin()
        self._line([round(self._now, 6), kind, value])

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        header: dict[str, Any] = {"version": 2, "width": self._size[0], "height": self._size[1]}
        if self._first is not None:
            header["timestamp"] = self._first // 1_000_000_000
        header["title"] = agent_label(self._agent)
        header["env"] = {"TERM": "xterm-256color"}
        self._line(header)

    def _line(self, value: object) -> None:
        self._write(json.dumps(value).encode() + b"\n")
