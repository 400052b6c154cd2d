"""The manager is woken when the restart of a session daemon is due, and for nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from dbus_fast import Message, MessageType, Variant

from sessiond.init.systemd.bus import Connection
from sessiond.init.systemd.names import PROPERTIES, SERVICE, UNIT, unit_path
from sessiond.init.systemd.units import RESTART_DELAY
from sessiond.init.systemd.waking import Waking
from sessiond.model.unit import daemon_unit, session_slice

SESSION = "0123456789abcdef0123456789abcdef"


class FakeConnection:
    """Hands messages to its one listener, and keeps when it was asked to post what."""

    def __init__(self) -> None:
        self.alive = True
        self.posted: list[tuple[float, str]] = []
        self.posting = asyncio.Event()
        self.listener: Callable[[Message], None] | None = None

    @contextmanager
    def listening(self, listener: Callable[[Message], None]) -> Iterator[None]:
        self.listener = listener
        yield
        self.listener = None

    def post(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> int:
        self.posted.append((time.monotonic(), member))
        self.posting.set()
        return 1

    def tell(self, unit: str, state: str, *, interface: str = UNIT, since: float | None = None) -> None:
        properties = {"SubState": Variant("s", state)}
        if since is not None:
            properties["StateChangeTimestampMonotonic"] = Variant("t", int(since * 1e6))
        assert self.listener is not None
        self.listener(
            Message(
                message_type=MessageType.SIGNAL,
                path=unit_path(unit),
                interface=PROPERTIES,
                member="PropertiesChanged",
                signature="sa{sv}as",
                body=[interface, properties, []],
            )
        )


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


def waking(connection: FakeConnection) -> Waking:
    return Waking(cast(Connection, connection))


async def test_pings_when_the_restart_is_due(connection: FakeConnection) -> None:
    began = time.monotonic() - RESTART_DELAY / 2
    with waking(connection):
        connection.tell(daemon_unit(SESSION), "auto-restart", since=began)
        connection.tell(daemon_unit(SESSION), "auto-restart", since=began)
        async with asyncio.timeout(60):
            await connection.posting.wait()
        (when, member), *more = connection.posted
    assert member == "Ping"
    assert when >= began + RESTART_DELAY
    assert not more


async def test_lets_the_manager_sleep_otherwise(connection: FakeConnection) -> None:
    past = time.monotonic() - 1.0
    with waking(connection):
        connection.tell(daemon_unit(SESSION), "running", since=past)
        connection.tell(daemon_unit(SESSION), "auto-restart", since=past, interface=SERVICE)
        connection.tell(session_slice(SESSION), "auto-restart", since=past)
        connection.tell("other.service", "auto-restart", since=past)
        # Whatever were due by now would come before this.
        connection.tell(daemon_unit("f" * 32), "auto-restart")
        async with asyncio.timeout(60):
            await connection.posting.wait()
        assert len(connection.posted) == 1


async def test_pings_nobody_once_it_is_left(connection: FakeConnection) -> None:
    with waking(connection):
        connection.tell(daemon_unit(SESSION), "auto-restart")
    with waking(connection):
        # Due later than the one before.
        connection.tell(daemon_unit("f" * 32), "auto-restart")
        async with asyncio.timeout(60):
            await connection.posting.wait()
    assert len(connection.posted) == 1
