"""The screen of a terminal that is written to now: brought up to date when it is needed, and not before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sessiond.agents.checkpoint import Checkpoint, MakeScreen, Replay, write_checkpoint
from sessiond.agents.folder import AgentFolder
from sessiond.agents.record import Record
from sessiond.daemon.boundary import LOOK_BACK, unfinished
from sessiond.errors import Conflict, NotFound
from sessiond.ports import Screen
from sessiond.terminal.queries import QueryScanner

log = logging.getLogger(__name__)

T = TypeVar("T")

# A screen that is further behind is brought on in the background: what is fed again after a kill is bounded.
_BEHIND = 32 << 20
# So much is fed by the loop itself, some milliseconds' work; more by a thread.
_SHORT = 256 * 1024
_STEP = 8 << 20
# After so many steps that were not enough the program waits for the last: it prints faster than it is drawn.
_STEPS = 3
# Drawing takes as long as feeding so much: only then is a drawing worth being kept.
_WORTH = 8 << 20
# With no more scrollback the loop may draw by itself.
QUICK = 100
# What is held all the while somebody looks: enough for a terminal that is made higher. Who wants more, and
# seldom, gets it from a screen of its own: ten thousand lines are 16 MB.
HELD = 500
# A screen costs memory, making it anew time: so many seconds after it was last needed it is let go of.
IDLE = 30.0


class LiveScreen:
    """Follows one record; answers device queries where nobody else does, never those of the past.

    ``pause`` has the terminal's output wait, or go on. All but ``get`` and ``close`` returns at once.
    """

    def __init__(
        self,
        folder: AgentFolder,
        record: Record,
        make_screen: MakeScreen,
        scrollback: int,
        size: tuple[int, int],
        answer: Callable[[bytes], object],
        pause: Callable[[bool], None],
    ) -> None:
        self._folder = folder
        self._record = record
        self._make_screen = make_screen
        self._scrollback = scrollback
        # One at a time: each is large.
        self._deepening = asyncio.Lock()
        self._size = size
        self._answer = answer
        self._pause = pause
        self._replay: Replay | None = None
        self._scanner: QueryScanner | None = None
        # From here on nobody has answered what was asked.
        self._owed: int | None = None
        # Brings the screen up to date in a thread; meanwhile nobody else may touch it.
        self._task: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._kept = 0
        self._waiting = 0
        self._holders = 0
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    # ---- output

    def feed(self, data: bytes, before: int, *, answering: bool, lost: bytes = b"") -> None:
        """Output came at the offset ``before``, of which ``lost`` is not in the record; ``answering``, as the
        only one who can."""
        if lost:
            self._feed_lost(lost, answering=answering)
        if not answering:
            self._scanner = None
        else:
            if self._scanner is None:
                self._scanner = QueryScanner()
            if self._scanner.feed(data) and self._owed is None:
                self._owed = before
                self._catch_up()
        if self._replay is not None and self._behind > _BEHIND:
            self._catch_up()

    def _feed_lost(self, data: bytes, *, answering: bool) -> None:
        """What is not recorded is seen now or never."""
        replay = self._replay
        if replay is None or self._task is not None or self._behind > _SHORT:
            return
        try:
            replay.advance(self._record.end)
            replies = replay.screen.feed(data)
        except Exception:  # noqa: BLE001 - told in the log
            self._failed()
            return
        if answering and replies:
            self._answer(replies)

    @property
    def _behind(self) -> int:
        return 0 if self._replay is None else self._record.end - self._replay.offset

    def resize(self, columns: int, rows: int) -> None:
        """Follow the terminal's size."""
        self._size = columns, rows
        if self._replay is not None:
            self._replay.note(self._record.end, self._size)

    # ---- being needed

    async def get(self) -> Screen:
        """The screen, true up to the end of the record until the loop turns.

        Raises Conflict `agent_ended` when the terminal is closed meanwhile, NotFound `record_gone`.
        """
        self._waiting += 1
        try:
            while True:
                task = self._catch_up()
                replay = self._replay
                if task is None and replay is not None:
                    self._used()
                    return replay.screen
                if self._closed or task is None:
                    raise Conflict(
                        "agent_ended", "the agent has ended", hint="sessionctl screen shows its last"
                    )
                await asyncio.shield(task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._pause(False)

    async def deep(self, scrollback: int, work: Callable[[Screen], T]) -> T:
        """Do something long, in a thread, with a screen as it is in this turn of the loop that holds so many
        lines; it is made for that alone. Raises NotFound `record_gone`."""
        until, size = self._record.end, self._size
        async with self._deepening:
            return await asyncio.to_thread(self._made_deep, until, size, scrollback, work)

    def _made_deep(
        self, until: int, size: tuple[int, int], scrollback: int, work: Callable[[Screen], T]
    ) -> T:
        replay = Replay(self._folder, self._make_screen, *size, scrollback)
        try:
            replay.skip(self._record.start)
            replay.advance(until)
            replay.resized()
            if replay.screen.size != size:
                replay.screen.resize(*size)
            return work(replay.screen)
        finally:
            replay.close()
            replay.screen.close()

    def hold(self) -> None:
        """Keep it until ``release``, once for each call."""
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
        if not self._holders and self._replay is not None and not self._closed:
            self._idle = asyncio.get_running_loop().call_later(IDLE, self._forget)

    def _forget(self) -> None:
        self._idle = None
        if self._task is not None:
            self._used()
        elif self._worth_keeping():
            # Which begins its own time anew, and is not worth it the next time.
            self._keeping = asyncio.create_task(self.keep(), name=f"drawing of {self._folder.agent}")
        else:
            self._drop()

    def _drop(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            replay.close()
            replay.screen.close()

    # ---- catching up

    def _catch_up(self) -> asyncio.Task[None] | None:
        """Bring the screen up to date; returns who does that where it is not done at once."""
        if self._task is None and not self._closed:
            if self._replay is not None and self._behind <= _SHORT:
                try:
                    self._advance(self._replay)
                except Exception:  # noqa: BLE001 - told in the log
                    self._failed()
                else:
                    return None
            return self._begin(self._run())
        return self._task

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._task = asyncio.create_task(work, name=f"screen of {self._folder.agent}")
        self._task.add_done_callback(self._done)
        return self._task

    def _advance(self, replay: Replay) -> None:
        """Feed the last of it, and answer what is owed."""
        replay.skip(self._record.start)
        if self._owed is not None:
            replay.advance(self._owed)
        replies = replay.advance(self._record.end)
        replay.resized()
        if self._owed is not None:
            self._owed = None
            if replies:
                self._answer(replies)
                self._used()

    def _failed(self) -> None:
        """A library's fault must not keep the program's output from anybody: the screen is made anew."""
        log.exception("the emulator of agent %s failed", self._folder.agent)
        self._drop()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            # The process ends; a thread may still be at it.
            return
        if not self._waiting:
            self._pause(False)
        if task.exception() is not None:
            # Who waits for it is told besides; what asked may have nobody who waits.
            log.warning(
                "the screen of agent %s cannot be made", self._folder.agent, exc_info=task.exception()
            )
            self._owed = None
            self._drop()
        if self._closed:
            self._drop()

    async def _run(self) -> None:
        if self._replay is None:
            replay = await asyncio.to_thread(
                Replay, self._folder, self._make_screen, *self._size, min(self._scrollback, HELD)
            )
            # Its sizes are those that were noted by then: the last one cannot be noted twice too often.
            replay.note(self._record.end, self._size)
            self._kept = replay.begun
            self._replay = replay
        replay = self._replay
        steps = 0
        while not self._closed and self._behind > _SHORT:
            steps += 1
            self._pause(steps > _STEPS)
            replay.skip(self._record.start)
            answering = self._owed is not None and replay.offset >= self._owed
            until = self._record.end if self._owed is None or answering else self._owed
            until = min(until, replay.offset + _STEP)
            offset = replay.offset
            replies = await asyncio.to_thread(replay.advance, until)
            if answering and replies and not self._closed:
                self._answer(replies)
            if replay.offset == offset < until:
                raise OSError("the record is shorter than it was")
        if not self._closed:
            # Until those who wait had their turn, or a flood would have it behind again by then.
            self._pause(self._waiting > 0)
            self._advance(replay)
            self._used()

    # ---- ending

    def _worth_keeping(self) -> bool:
        replay = self._replay
        # A plain screen is no more than the end of the record.
        return replay is not None and not replay.degraded and self._record.end - self._kept >= _WORTH

    async def keep(self) -> None:
        """Write down the screen where making it anew from the record would take longer than that."""
        if self._closed or not self._worth_keeping():
            return
        try:
            end, cut, (columns, rows) = self._record.end, self.cut(), self._size
            self._kept = end
            drawing = await self.deep(self._scrollback, lambda screen: screen.drawing(self._scrollback))
        except NotFound:
            # The agent is being removed.
            return
        except Exception:
            log.warning("the screen of agent %s is not kept", self._folder.agent, exc_info=True)
            return
        checkpoint = Checkpoint(end - len(cut), columns, rows, drawing)
        await asyncio.to_thread(write_checkpoint, self._folder, checkpoint)
        self._used()

    async def close(self) -> None:
        """Free it, and return when no thread works at it. Idempotent."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        for task in (self._keeping, self._task):
            if task is not None:
                await asyncio.wait([task])
        self._drop()
