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

_MARGIN = 0.001


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
        state, since = (message.body[1].get(name) for name in ("SubState", "StateChangeTimestampMonotonic"))
        unit = unit_name(message.path or "")
        if state is None or state.value != "auto-restart" or unit in self._due or not is_daemon(unit):
            return
        loop = asyncio.get_running_loop()
        # The timer was set when the state changed; the loop's clock is that of the timestamp.
        began = since.value / 1e6 if since is not None else loop.time()
        self._due[unit] = loop.call_at(began + RESTART_DELAY + _MARGIN, self._wake, unit)

    def _wake(self, unit: str) -> None:
        del self._due[unit]
        if self._connection.alive:
            self._connection.post(MANAGER_PATH, PEER, "Ping", "", [])
