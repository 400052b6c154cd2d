"""The screen of a terminal that is written to now: made when it is needed, and let go of when it is not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sessiond.agents.checkpoint import Checkpoint, MakeScreen, Replay, write_checkpoint
from sessiond.agents.folder import AgentFolder
from sessiond.agents.record import Record
from sessiond.daemon.boundary import LOOK_BACK, unfinished
from sessiond.errors import Conflict
from sessiond.ports import Screen
from sessiond.terminal.queries import QueryScanner

log = logging.getLogger(__name__)

# Drawn anew after so much output: what is fed again after a kill is a tenth of a second's work.
_EVERY = 16 << 20
# What a screen that is being made is behind by is fed in a thread, and by the loop once it is so little.
_LAST_STEP = 256 * 1024
_STEP = 8 << 20
# A screen costs memory, making it anew time: so many seconds after it was last needed it is let go of.
_IDLE = 30.0


class LiveScreen:
    """Follows one record; answers device queries where nobody else does, never those of the past."""

    def __init__(
        self,
        folder: AgentFolder,
        record: Record,
        make_screen: MakeScreen,
        scrollback: int,
        size: tuple[int, int],
        answer: Callable[[bytes], object],
    ) -> None:
        self._folder = folder
        self._record = record
        self._make_screen = make_screen
        self._scrollback = scrollback
        self._size = size
        self._answer = answer
        self._screen: Screen | None = None
        self._scanner: QueryScanner | None = None
        # From here on nobody has answered what was asked, and a screen is being made that will.
        self._owed: int | None = None
        self._building: asyncio.Task[None] | None = None
        # Up to where it was fed since it was last written down, or made; and what was written down.
        self._drawn = 0
        self._kept: int | None = None
        self._holders = 0
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    # ---- following

    @property
    def live(self) -> bool:
        """Whether it must be fed with all output."""
        return self._screen is not None

    def feed(self, data: bytes, before: int, *, answering: bool) -> None:
        """Take output that came at the offset ``before``; ``answering``, as the only one who can."""
        if self._screen is not None:
            self._follow(self._screen, data, answering)
        elif answering:
            if self._scanner is None:
                self._scanner = QueryScanner()
            if self._scanner.feed(data) and self._owed is None:
                self._owed = before
                self._build()

    def _follow(self, screen: Screen, data: bytes, answering: bool) -> None:
        try:
            replies = screen.feed(data)
        except Exception:
            # A library's fault must not keep the program's output from anybody: the screen is made anew when
            # it is next needed.
            log.exception("the emulator of agent %s failed", self._folder.agent)
            self._drop()
            return
        if answering and replies:
            self._answer(replies)
            self._used()
        if self._record.end - self._drawn >= _EVERY:
            self.keep()

    def resize(self, columns: int, rows: int) -> None:
        """Follow the terminal's size."""
        self._size = columns, rows
        if self._screen is not None:
            self._screen.resize(columns, rows)

    # ---- being needed

    async def get(self) -> Screen:
        """The screen, true up to the end of the record until the loop turns.

        Raises Conflict `agent_ended` when the terminal is closed meanwhile.
        """
        while self._screen is None:
            if self._closed:
                raise Conflict("agent_ended", "the agent has ended", hint="sessionctl screen shows its last")
            await asyncio.shield(self._build())
        self._used()
        return self._screen

    def hold(self) -> None:
        """Keep it live until ``release``, once for each call."""
        self._holders += 1

    def release(self) -> None:
        """End one ``hold``."""
        self._holders -= 1
        self._used()

    def cut(self) -> bytes:
        """What has begun at the end of the record and is not in a drawing: a part of a sequence."""
        start = max(self._record.start, self._record.end - LOOK_BACK)
        tail = self._record.read(start, self._record.end - start)
        length = unfinished(tail)
        return tail[-length:] if length else b""

    def _used(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._holders and self._screen is not None:
            self._idle = asyncio.get_running_loop().call_later(_IDLE, self._forget)

    def _forget(self) -> None:
        self._idle = None
        self.keep()
        self._drop()

    def _drop(self) -> None:
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    # ---- making it

    def _build(self) -> asyncio.Task[None]:
        if self._building is None:
            self._building = asyncio.create_task(self._make(), name=f"screen of {self._folder.agent}")
            self._building.add_done_callback(self._built)
        return self._building

    def _built(self, task: asyncio.Task[None]) -> None:
        self._building = None
        if not task.cancelled() and (error := task.exception()) is not None:
            # Who waits for it is told besides; a query may have nobody who waits.
            log.warning("the screen of agent %s cannot be made: %s", self._folder.agent, error)
            self._owed = None

    async def _make(self) -> None:
        replay = await asyncio.to_thread(
            Replay, self._folder, self._make_screen, *self._size, self._scrollback
        )
        try:
            while not self._closed:
                answering = self._owed is not None and replay.offset >= self._owed
                until = self._record.end if self._owed is None or answering else self._owed
                if replay.offset >= until and until == self._record.end:
                    break
                if until - replay.offset <= _LAST_STEP:
                    replies = replay.advance(until)
                else:
                    until = min(until, replay.offset + _STEP)
                    replies = await asyncio.to_thread(replay.advance, until)
                if answering and replies and not self._closed:
                    self._answer(replies)
                if replay.offset < until:
                    break
            if self._closed:
                replay.screen.close()
                return
            replay.screen.resize(*self._size)
        except BaseException:
            replay.screen.close()
            raise
        finally:
            replay.close()
        self._screen = replay.screen
        self._scanner = None
        self._owed = None
        self._drawn = replay.offset
        self._used()

    # ---- ending

    def keep(self) -> None:
        """Write down the screen, so that it need not be made from the beginning of the record again."""
        if self._screen is None or self._record.end == self._kept:
            return
        self._drawn = self._kept = self._record.end
        columns, rows = self._screen.size
        offset = self._record.end - len(self.cut())
        drawing = self._screen.drawing(self._scrollback)
        write_checkpoint(self._folder, Checkpoint(offset, columns, rows, drawing))

    async def close(self) -> None:
        """Free it, and return when no thread works at it. Idempotent."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._drop()
        if self._building is not None:
            await asyncio.wait([self._building])
