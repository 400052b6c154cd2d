"""The user's systemd over D-Bus with dbus-fast alone: what the product's own bus code is held against."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"


class BusError(Exception):
    """systemd refused, or a job did not end well."""


class Bus:
    """A connection that is subscribed to the manager's signals."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._jobs: dict[str, asyncio.Future[str]] = {}

    @classmethod
    async def connect(cls) -> Self:
        """Connect to the user's bus."""
        made = cls(await MessageBus(bus_type=BusType.SESSION).connect())
        made._bus.add_message_handler(made._heard)
        await made._match(f"type='signal',interface='{_MANAGER}',member='JobRemoved'")
        await made.call("Subscribe")
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bus.disconnect()

    async def call(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        """One call of the manager; raises BusError."""
        return await self._send(_NAME, _PATH, _MANAGER, member, signature, body)

    async def start(self, unit: str, argv: Sequence[str], **properties: Variant) -> None:
        """Make a transient unit and return when its start is done."""
        await self._job(
            unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", _list(argv, properties), []
        )

    async def stop(self, unit: str) -> None:
        """Stop a unit and return when it is stopped."""
        await self._job(unit, "StopUnit", "ss", unit, "replace")

    async def restarted(self, unit: str) -> None:
        """Return at the end of the next job of a unit that somebody else asks for."""
        await self._done(unit)

    async def count_units(self, pattern: str) -> int:
        """How many units the manager lists for a pattern."""
        return len((await self.call("ListUnitsByPatterns", "asas", [], [pattern]))[0])

    async def property(self, unit: str, interface: str, name: str) -> Any:
        """One property of a unit; ``interface`` is `Unit`, `Service`."""
        path = (await self.call("LoadUnit", "s", unit))[0]
        body = (f"{_NAME}.{interface}", name)
        return (await self._send(_NAME, path, _PROPERTIES, "Get", "ss", body))[0].value

    async def on_change(self, unit: str, listener: Callable[[], None]) -> None:
        """Call ``listener`` at each PropertiesChanged of a unit."""
        path = (await self.call("LoadUnit", "s", unit))[0]

        def heard(message: Message) -> None:
            if message.member == "PropertiesChanged" and message.path == path:
                listener()

        self._bus.add_message_handler(heard)
        await self._match(f"type='signal',interface='{_PROPERTIES}',member='PropertiesChanged',path='{path}'")

    async def _job(self, unit: str, member: str, signature: str, *body: Any) -> None:
        # Waited for by name and from before the call: the job may end before its number is read.
        ended = self._done(unit)
        await self.call(member, signature, *body)
        await ended

    def _done(self, unit: str) -> asyncio.Future[None]:
        removed = self._jobs[unit] = asyncio.get_running_loop().create_future()

        async def wait() -> None:
            result = await removed
            if result != "done":
                raise BusError(f"{unit}: {result}")

        return asyncio.ensure_future(wait())

    def _heard(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "JobRemoved":
            _, _, unit, result = message.body
            waiting = self._jobs.pop(unit, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(result)

    async def _match(self, rule: str) -> None:
        dbus = "org.freedesktop.DBus"
        await self._send(dbus, "/org/freedesktop/DBus", dbus, "AddMatch", "s", (rule,))

    async def _send(
        self, name: str, path: str, interface: str, member: str, signature: str, body: Sequence[Any]
    ) -> list[Any]:
        message = Message(
            destination=name, path=path, interface=interface, member=member, signature=signature, body=[*body]
        )
        reply = await self._bus.call(message)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise BusError(f"{member}: {reply.error_name}: {reply.body}")
        return list(reply.body)


def _list(argv: Sequence[str], properties: Mapping[str, Variant]) -> list[list[Any]]:
    command = Variant("a(sasb)", [[argv[0], list(argv), False]])
    return [["ExecStart", command], *([name, value] for name, value in properties.items())]
