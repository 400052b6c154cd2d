"""One agent's terminal: its master and its pipe, its record, and the hub of those who look at it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from sessiond.agents.checkpoint import MakeScreen
from sessiond.agents.folder import AgentFolder
from sessiond.agents.record import Record
from sessiond.aio import Pulse
from sessiond.config import Terminal as TerminalSettings
from sessiond.daemon import pty
from sessiond.daemon.attach import Hub
from sessiond.daemon.keyboard import Keyboard
from sessiond.daemon.screens import LiveScreen
from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb

# What is moved in one turn, in pieces of 4 KiB: some milliseconds of a flood.
_PIECES = 32


@dataclass(frozen=True, slots=True)
class TerminalFacts:
    """Where the record begins and ends, why it is not written now (or empty), who looks, and the size."""

    start: int
    end: int
    problem: str
    clients: int
    columns: int
    rows: int


class Terminal:
    """Owns its descriptors from the start on, also of a call that fails."""

    def __init__(
        self,
        agent: str,
        folder: AgentFolder,
        record: Record,
        master: int,
        pipe: int,
        settings: TerminalSettings,
        make_screen: MakeScreen,
        look: Callable[[Terminal], None],
    ) -> None:
        """``look`` has it given a turn soon."""
        self.agent = agent
        self.master = master
        self.record = record
        self.grew = Pulse()
        # Nobody has the slave open, and all that was written to it was read.
        self.hung = False
        self.closed = False
        self._paused = False
        self._look = look
        self._pipe = pipe
        self._slave = -1
        self._ending: asyncio.Task[None] | None = None
        size = pty.get_size(master)
        self._keyboard = Keyboard(master)
        self._screen = LiveScreen(
            folder, record, make_screen, settings.scrollback, size, self._keyboard.put, self._pause
        )
        self.hub = Hub(
            self._screen,
            self._keyboard,
            size,
            settings.size_policy,
            self._resize,
            lambda: record.end,
            self._emptied,
        )

    @property
    def facts(self) -> TerminalFacts:
        """What there is to tell of it now."""
        columns, rows = self.hub.size
        record = self.record
        return TerminalFacts(record.start, record.end, record.problem, self.hub.clients, columns, rows)

    # ---- output

    def turn(self) -> bool:
        """Move some output on its way; returns whether there may be more."""
        if self.closed or self._paused:
            return False
        moved, dry, hung = pty.move(self.master, self._pipe, _PIECES)
        self.hung = hung
        if not self.settle() and dry and not moved:
            # Dry with an empty pipe: there is nothing, and the kernel tells when there is.
            if hung:
                self.grew.fire()
            return False
        return not hung

    def _pause(self, yes: bool) -> None:
        """Leave output where it is for a moment, or go on."""
        if self._paused and not yes and not self.closed:
            self._look(self)
        self._paused = yes

    def settle(self) -> int:
        """Bring all that the pipe holds into the record and to those who look; returns how much it was."""
        total = 0
        while True:
            before = self.record.end
            taken = self.record.take(self._pipe)
            if not taken.count:
                break
            total += taken.count
            after = self.record.end
            data = self.record.read(before, after - before)
            # What could not be recorded is seen all the same.
            self.hub.feed(data, before, after, taken.data or b"")
            if not taken.more:
                break
        if total:
            self.grew.fire()
        return total

    @property
    def drained(self) -> bool:
        """Whether the slave is closed by all and every byte is in the record."""
        return self.hung and not pty.waiting(self._pipe)

    # ---- slave and size

    def hold(self, slave: int) -> None:
        """Keep the slave open until ``let_go``: a terminal that nobody has open hangs up."""
        self._slave = slave

    def let_go(self) -> None:
        """Let go of the slave; idempotent."""
        fd, self._slave = self._slave, -1
        if fd >= 0:
            os.close(fd)

    def _resize(self, columns: int, rows: int) -> None:
        if self.closed:
            return
        pty.set_size(self.master, columns, rows)
        self.record.resized(columns, rows)
        self.grew.fire()

    # ---- ending

    def close(self, *, ended: bool) -> None:
        """Let go of the terminal; ``ended``, that its program has ended, and not that this daemon does.

        Those who look keep what they see until they were told of the end. Idempotent.
        """
        if self.closed:
            return
        if ended:
            self.record.ended()
        self.closed = True
        self._keyboard.close()
        self.let_go()
        os.close(self.master)
        os.close(self._pipe)
        self.grew.fire()
        if not (ended and self.hub.clients):
            self._emptied()

    def end(self, message: pb.AttachAgentResponse | None, error: SessiondError | None = None) -> None:
        """Tell all who look that nothing follows."""
        self.hub.end(message, error)

    def _emptied(self) -> None:
        """The last who looked has gone."""
        if self.closed and self._ending is None:
            self._ending = asyncio.create_task(self._free(), name=f"end of terminal {self.agent}")

    async def _free(self) -> None:
        try:
            await self._screen.keep()
            await self._screen.close()
        finally:
            self.record.close()

    @property
    def free(self) -> bool:
        """Whether all was let go of."""
        return self._ending is not None and self._ending.done()

    @property
    def ending(self) -> asyncio.Task[None] | None:
        """What lets go of the rest, once nobody looks any more."""
        return self._ending
