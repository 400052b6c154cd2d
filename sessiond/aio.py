"""Small asyncio pieces that more than one process needs: pulses, readiness, the watchdog, signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import sdnotify

_P = ParamSpec("_P")
_T = TypeVar("_T")


def unbroken(
    work: Callable[_P, Coroutine[Any, Any, _T]],
) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """Have a coroutine function end before its caller's cancellation is heard: a client that hangs up
    in the middle of a change must not leave half of it. A second cancellation is not waited out."""

    @wraps(work)
    async def whole(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        task = asyncio.create_task(work(*args, **kwargs), name=work.__qualname__)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
                raise
            if not task.cancelled():
                # Retrieved, since nobody is left who could be told.
                task.exception()
            raise

    return whole


class Pulse:
    """Wakes all who wait, each time it is fired; who comes later waits for the next."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        """Wake those who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """What the next firing sets: take it, look, then wait for it, and nothing is missed in between."""
        return self._event

    async def wait(self) -> None:
        """Return at the next firing."""
        await self._event.wait()

    async def until(self, test: Callable[[], _T | None]) -> _T:
        """Return the first answer of ``test`` that is not None, asking now and after each firing."""
        while (answer := test()) is None:
            await self._event.wait()
        return answer


async def any_of(*events: asyncio.Event) -> None:
    """Return once one of them is set."""
    tasks = [asyncio.create_task(one.wait()) for one in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class ServiceManager:
    """Tells the init system how this process is doing; does nothing where it did not ask."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()

    def ready(self, status: str) -> None:
        """It serves."""
        self._notifier.notify(f"READY=1\nSTATUS={_line(status)}")

    def status(self, status: str) -> None:
        """A sentence for `systemctl status`."""
        self._notifier.notify(f"STATUS={_line(status)}")

    def stopping(self, status: str) -> None:
        """It has begun to end."""
        self._notifier.notify(f"STOPPING=1\nSTATUS={_line(status)}")

    async def watchdog(self) -> None:
        """Prove for ever, from the event loop, that the loop turns: three times in the period asked for."""
        period = _watchdog_seconds()
        while period:
            self._notifier.notify("WATCHDOG=1")
            await asyncio.sleep(period / 3)


def _line(text: str) -> str:
    return text.replace("\n", " ")


def _watchdog_seconds() -> float:
    """The period that the init system asks for; 0 where it watches nobody, or another process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0


class Termination:
    """The signals that ask a process to end, as something to wait for."""

    def __init__(self, *signals: signal.Signals) -> None:
        self._received: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        for one in signals:
            asyncio.get_running_loop().add_signal_handler(one, self._receive, one)

    def _receive(self, which: signal.Signals) -> None:
        if not self._received.done():
            self._received.set_result(which)

    async def wait(self) -> signal.Signals:
        """Return the first of the signals that came."""
        return await asyncio.shield(self._received)
