"""Wakes the manager when an automatic restart is due, so that a daemon that died is back without delay."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from dbus_fast import Message

from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import MANAGER_PATH, PEER, UNIT, unit_name
from sessiond.init.systemd.status import is_daemon
from sessiond.init.systemd.units import RESTART_DELAY


class Waking:
    """While entered, pings the manager at the moment that its restart timer for a session daemon is due.

    The manager serves that timer up to 250 ms late, so that timers can share a wake-up (sd_event_add_time(3),
    the default accuracy), but serves it at any wake-up once it is due. PropertiesChanged of units must
    come in by matches of others.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._due: dict[str, asyncio.TimerHandle] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._connection.listening(self._receive))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        for handle in self._due.values():
            handle.cancel()
        self._due.clear()

    def _receive(self, message: Message) -> None:
        if message.member != "PropertiesChanged" or message.body[0] != UNIT:
            return
        state = message.body[1].get("SubState")
        unit = unit_name(message.path or "")
        if state is not None and state.value == "auto-restart" and unit not in self._due and is_daemon(unit):
            loop = asyncio.get_running_loop()
            self._due[unit] = loop.call_later(RESTART_DELAY, self._wake, unit)

    def _wake(self, unit: str) -> None:
        del self._due[unit]
        if self._connection.alive:
            self._connection.post(MANAGER_PATH, PEER, "Ping", "", [])
