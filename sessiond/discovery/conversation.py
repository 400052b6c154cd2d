"""Talks with one adapter's process: asks, hears what it tells, and kills it when it hangs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sessiond.discovery import wire
from sessiond.discovery.nursery import Child, kill
from sessiond.errors import SessiondError, TimedOut, Unreachable

FAILED: Final = "adapter_failed"
TIMEOUT: Final = "adapter_timeout"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an adapter's process is no more."""

    code: str
    reason: str

    def error(self, adapter: str) -> SessiondError:
        """As who asks is told."""
        return (TimedOut if self.code == TIMEOUT else Unreachable)(
            self.code,
            f"the adapter {adapter} failed: {self.reason}",
            hint=f"`sessionctl discovered --refresh --adapter {adapter}` tries it again at once",
            fields={"adapter": adapter},
        )


class Conversation:
    """With one process, until that ends. It is killed when it has work to do and gives no sign for longer
    than the deadline, in seconds."""

    def __init__(self, adapter: str, child: Child, deadline: float) -> None:
        self._adapter = adapter
        self._child = child
        self._deadline = deadline
        self._decoder = msgspec.msgpack.Decoder(wire.News)
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = 0
        self._asked: dict[int, asyncio.Future[msgspec.Raw]] = {}
        # It begins by itself.
        self._busy = True
        self._sign = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._fault: Fault | None = None
        self._open = asyncio.Event()
        self._over = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    async def listen(
        self, first: wire.Question | None, told: Callable[[wire.Told], None], ended: Callable[[Fault], None]
    ) -> None:
        """Say what it needs to know first, and hand over what it tells, then why it ended (nothing, where
        this is cancelled). The process is gone when this returns, whatever ends it."""
        cancelled = False
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._child.socket)
            if first is not None:
                self._send(0, first)
            self._open.set()
            self._signed()
            self._arm()
            await self._read(reader, told)
        except asyncio.CancelledError:
            cancelled = True
            raise
        finally:
            self._over = True
            self._open.set()
            if self._timer is not None:
                self._timer.cancel()
            if self._writer is not None:
                self._writer.transport.abort()
            status = await self._child.end()
            fault = self._fault = self._fault or Fault(FAILED, f"its process {_how(status)}")
            if not cancelled:
                ended(fault)
            for asked in list(self._asked.values()):
                if not asked.done():
                    asked.set_exception(fault.error(self._adapter))

    async def ask(self, question: wire.Question) -> msgspec.Raw:
        """Its answer. Raises what the adapter raises, and the fault when the process ends."""
        await self._open.wait()
        if self._over:
            fault = self._fault or Fault(FAILED, "it is being closed")
            raise fault.error(self._adapter)
        self._numbers += 1
        number = self._numbers
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        if not self._busy and len(self._asked) == 1:
            # It slept until now, and that was no silence.
            self._signed()
        try:
            self._send(number, question)
            self._arm()
            answer: msgspec.Raw = await asked
            return answer
        finally:
            del self._asked[number]

    def _send(self, number: int, question: wire.Question) -> None:
        assert self._writer is not None  # It is open.
        self._writer.write(wire.frame(wire.Asked(number, question)))

    async def _read(self, reader: asyncio.StreamReader, told: Callable[[wire.Told], None]) -> None:
        while True:
            try:
                length = wire.read_length(await reader.readexactly(wire.LENGTH.size))
                news = self._decoder.decode(await reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            except (msgspec.MsgspecError, ValueError) as error:
                self._fault = Fault(FAILED, f"what it tells is not understood: {error}")
                return
            self._signed()
            match news:
                case wire.Busy():
                    self._busy = True
                    self._arm()
                case wire.Idle():
                    self._busy = False
                case wire.Told():
                    told(news)
                case wire.Answer(number, result):
                    if (asked := self._asked.get(number)) is not None and not asked.done():
                        asked.set_result(result)
                case wire.Refusal(number):
                    if (asked := self._asked.get(number)) is not None and not asked.done():
                        asked.set_exception(news.error())
                case wire.Failed(reason):
                    self._fault = Fault(FAILED, reason)

    # ---- the deadline

    def _signed(self) -> None:
        self._sign = asyncio.get_running_loop().time()

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._deadline, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._over or not (self._busy or self._asked):
            return
        loop = asyncio.get_running_loop()
        silent = loop.time() - self._sign
        if silent < self._deadline:
            self._timer = loop.call_later(self._deadline - silent, self._check)
            return
        self._fault = Fault(TIMEOUT, f"it gave no sign for {self._deadline:g} s and was ended")
        kill(self._child.pidfd)


def _how(status: int | None) -> str:
    if status is None:
        return "ended"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"was ended by signal {number}"
    return f"ended with status {os.WEXITSTATUS(status)}"


def read_answer(adapter: str, answer: msgspec.Raw, kind: Any) -> Any:
    """An answer in its type. Raises Unreachable `adapter_failed` where it is of another."""
    try:
        return msgspec.msgpack.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        raise Fault(FAILED, f"its answer is not understood: {error}").error(adapter) from error
