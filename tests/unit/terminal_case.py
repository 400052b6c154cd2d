"""A terminal with a program in it, as a session daemon holds one; what systemd would do is done by hand."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from sessiond.agents.book import Book
from sessiond.agents.bounds import RecordLimits
from sessiond.agents.checkpoint import MakeScreen
from sessiond.agents.folder import AgentFolder
from sessiond.agents.reading import RecordFacts, RecordReader
from sessiond.config import Terminal as TerminalSettings
from sessiond.daemon.descriptors import Descriptors
from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.terminals import Terminals
from sessiond.daemon.views import Views
from sessiond.model.agent import AgentEnd, AgentSpec
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.terminal.emulator import make_screen

SESSION = "5e" * 16
AGENT = "00112233aabbccdd"
LIMITS = RecordLimits(limit=64 << 20, total=1 << 30, low_disk=0)
SETTINGS = TerminalSettings(scrollback=1000, size_policy="last-active", detach_key="ctrl-\\")


class Store:
    """The init system's side of the descriptor store: takes what is sent, answers barriers."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.kept: dict[str, int] = {}
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.path)
        asyncio.get_running_loop().add_reader(self._socket, self.receive)

    def receive(self) -> None:
        """Take all that was sent."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, 4096, 4)
            except BlockingIOError:
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.messages.append(data.decode())
            if "FDSTORE" in fields:
                self.kept[fields["FDNAME"]] = fds.pop()
            elif "FDSTOREREMOVE" in fields:
                fd = self.kept.pop(fields["FDNAME"], None)
                if fd is not None:
                    os.close(fd)
            for fd in fds:
                os.close(fd)

    def passed_on(self) -> Descriptors:
        """What the next process is given."""
        self.receive()
        return Descriptors({name: os.dup(fd) for name, fd in self.kept.items()}, self.path)

    def close(self) -> None:
        """Let go of all that is kept."""
        self.receive()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for fd in self.kept.values():
            os.close(fd)


class Streams:
    """What the roster asks of streams."""

    def facts(self, spec: AgentSpec, folder: AgentFolder) -> RecordFacts:
        """What is held."""
        return RecordReader(folder, spec.tty).facts()

    def screen(self, agent: str) -> None:
        """Nobody asks who looks."""


class Case:
    """One agent with a terminal, and its views."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.spec = AgentSpec(
            id=AGENT,
            session=SESSION,
            name="agent",
            argv=("sh",),
            program=Path("/bin/sh"),
            cwd=folder,
            created=datetime.now(UTC),
            tty=True,
        )
        self.folder = AgentFolder(folder / "sessions" / SESSION / "agents" / AGENT, folder)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.store = store
        self.make_screen: MakeScreen = make_screen
        self.programs: list[subprocess.Popen[bytes]] = []
        self.again()

    def again(self, limits: RecordLimits = LIMITS) -> None:
        """A new life of the daemon."""
        self.terminals = Terminals(self.store.passed_on(), limits, SETTINGS, self.make_screen)
        self.roster = Roster(Book(SESSION, self.folder.path, self.folder.runtime), Streams())  # type: ignore[arg-type]
        self.roster.entries[AGENT] = Entry(self.spec, self.folder)
        self.views = Views(self.roster, lambda: self.terminals, _no_outputs, SETTINGS, self.make_screen)

    @property
    def entry(self) -> Entry:
        """The agent as the roster has it."""
        return self.roster.entries[AGENT]

    @property
    def record(self) -> bytes:
        """All that was recorded."""
        return self.folder.record.read_bytes()

    async def open(self) -> str:
        """Make the terminal; returns the path of its slave."""
        return await self.terminals.open(self.spec, self.folder)

    def run(self, path: str, code: str, *, raw: bool = True) -> subprocess.Popen[bytes]:
        """A Python program with the terminal as its own, as systemd starts one."""
        before = "import os, sys, tty, fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        before += "tty.setraw(0)\n" if raw else ""
        slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
        try:
            program = subprocess.Popen(
                [sys.executable, "-S", "-c", before + code],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.programs.append(program)
        self.terminals.started(AGENT)
        return program

    async def grown(self, what: bytes) -> None:
        """Wait until the end of the record holds it."""
        terminal = self.terminals.get(AGENT)
        assert terminal is not None
        record = terminal.record
        await terminal.grew.until(lambda: what in record.read(max(0, record.end - 4096), 4096) or None)

    async def ended(self, program: subprocess.Popen[bytes]) -> None:
        """Do what follows the end of the program."""
        await self.terminals.drained(AGENT)
        await asyncio.to_thread(program.wait)
        self.entry.end = AgentEnd(exit_status=program.returncode)
        self.terminals.close(AGENT)
        self.entry.settled = True
        self.terminals.ended(AGENT, self.roster.bare(self.entry))
        self.roster.changed.fire()


def _no_outputs() -> NoReturn:
    raise AssertionError("no agent here is without a terminal")


@asynccontextmanager
async def case(folder: Path) -> AsyncIterator[Case]:
    """A case in a folder; ends what runs in it."""
    store = Store(folder / "notify")
    one = Case(folder, store)
    try:
        yield one
    finally:
        for program in one.programs:
            program.kill()
            program.wait()
        await one.terminals.stop()
        store.close()


class Client:
    """One attached client: what it says goes through ``say``, what it is told comes from ``next``."""

    def __init__(self, one: Case, **start: Any) -> None:
        self._requests: asyncio.Queue[pb.AttachAgentRequest | None] = asyncio.Queue()
        self.say(start=pb.AttachStart(agent=AGENT, **start))
        self._messages = one.views.attach(self._said(), None)
        self.seen = b""

    async def _said(self) -> AsyncIterator[pb.AttachAgentRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._requests.put_nowait(pb.AttachAgentRequest(**message))

    async def next(self) -> pb.AttachAgentResponse:
        """The next message."""
        message = await anext(self._messages)
        if message.HasField("output"):
            self.seen += message.output.data
        return message

    async def screen(self) -> pb.AttachScreen:
        """The next screen; what comes before it is passed over."""
        while True:
            message = await self.next()
            if message.HasField("screen"):
                self.seen = b""
                return message.screen

    async def until(self, what: bytes) -> None:
        """Read until the output since the last screen holds it."""
        while what not in self.seen:
            assert (await self.next()).HasField("output")

    async def close(self) -> None:
        """Hang up."""
        await self._messages.aclose()


@asynccontextmanager
async def attached(one: Case, **start: Any) -> AsyncIterator[Client]:
    """A client, attached while entered."""
    client = Client(one, **start)
    try:
        yield client
    finally:
        await client.close()


def size(columns: int, rows: int) -> pb.TerminalSize:
    """A size on the wire."""
    return pb.TerminalSize(columns=columns, rows=rows)
