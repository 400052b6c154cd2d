"""One connection to the user's bus: calls with a deadline, errors turned into ours, signals told apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, InvalidAddressError, InvalidMessageError, SignatureBodyMismatchError

from sessiond.errors import Conflict, InvalidArgument, Unreachable
from sessiond.init.systemd.faults import late, refusal, unanswered
from sessiond.init.systemd.names import MANAGER, MANAGER_PATH, PROPERTIES, SYSTEMD
from sessiond.init.systemd.outbox import Form, Outbox

DEADLINE = 25.0
CONNECT_DEADLINE = 10.0
# A manager with thousands of units may take long to read all its files again.
RELOAD_DEADLINE = 90.0

_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"


def of_manager(member: str) -> str:
    """The rule that fits one kind of the manager's signals."""
    return f"type='signal',sender='{SYSTEMD}',path='{MANAGER_PATH}',interface='{MANAGER}',member='{member}'"


# That the manager reads its files anew, is exec'd anew, or is gone.
LIFE = (
    of_manager("Reloading"),
    f"type='signal',sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{SYSTEMD}'",
)
ALL = (
    *(of_manager(member) for member in ("JobRemoved", "UnitNew", "UnitRemoved", "UnitFilesChanged")),
    *LIFE,
)

Listener = Callable[[Message], None]
# Told the object path of a job that ended and its result.
JobListener = Callable[[str, str], None]


def bus_address(environ: Mapping[str, str] | None = None) -> str:
    """Address of the bus that the user's manager is on: the manager's own socket, or what a login names."""
    env = os.environ if environ is None else environ
    usual = f"{env.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/bus"
    named = env.get("DBUS_SESSION_BUS_ADDRESS", "")
    if named and not os.path.exists(usual):
        return named
    return f"unix:path={_escaped(usual)}"


def socket_path(address: str) -> Path | None:
    """The socket's path in a bus address; None where it has none."""
    first = address.partition(";")[0]
    if not first.startswith("unix:"):
        return None
    options = dict(part.partition("=")[::2] for part in first.removeprefix("unix:").split(","))
    path = options.get("path")
    return Path(os.fsdecode(_unescaped(path))) if path else None


def _escaped(path: str) -> str:
    plain = b"-_/.*\\"
    return "".join(
        chr(byte) if byte in plain or (byte < 128 and chr(byte).isalnum()) else f"%{byte:02x}"
        for byte in os.fsencode(path)
    )


def _unescaped(text: str) -> bytes:
    head, *rest = text.split("%")
    return head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in rest)


class Connection:
    """One life of the connection; ``lost`` is done, with the reason, when it is over."""

    def __init__(self, bus: MessageBus, outbox: Outbox) -> None:
        self._bus = bus
        self._outbox = outbox
        self._jobs: dict[str, list[JobListener]] = {}
        self._listeners: list[Listener] = []
        self._version = ""
        self._began = ""
        self._forms: dict[tuple[int, str, str], Form] = {}
        self.calls = 0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._ending = asyncio.create_task(self._end(), name="end of the bus connection")

    @classmethod
    async def open(cls, address: str, *, subscribe: bool = True, matches: Sequence[str] = ALL) -> Connection:
        """Connect, and subscribe to the manager's signals, of which those that the rules fit come in.
        Raises Unreachable `init_unavailable`."""
        try:
            async with asyncio.timeout(CONNECT_DEADLINE):
                bus = await MessageBus(bus_address=address).connect()
        except (OSError, EOFError, AuthError, InvalidAddressError) as error:
            raise unanswered(f"no connection to the bus at {address}: {_reason(error)}") from error
        writer, real = bus._writer, bus._sock
        assert writer is not None
        assert real is not None
        outbox = Outbox(real)
        writer.sock = outbox  # type: ignore[assignment]
        connection = cls(bus, outbox)
        try:
            bus.add_message_handler(connection._receive)
            if subscribe:
                await asyncio.gather(*(connection.match(rule) for rule in matches))
                await connection.subscribe()
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _end(self) -> None:
        reason = "the connection was closed"
        try:
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except Exception as error:  # noqa: BLE001  # whatever broke it, it is over
            reason = f"the bus hung up: {_reason(error)}"
        self._outbox.close()
        self.lost.set_result(reason)

    async def close(self) -> None:
        """Disconnect; whoever waits for an answer gets Unreachable. Safe to repeat."""
        if self.alive:
            self._bus.disconnect()
        # A connection that never carried a message has nobody who sees its end.
        await asyncio.shield(self._ending)

    @property
    def alive(self) -> bool:
        """Whether it still stands."""
        return self._bus.connected and not self.lost.done()

    # ---- calls

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        destination: str = SYSTEMD,
        deadline: float = DEADLINE,
    ) -> list[Any]:
        """One method call; returns the reply's body. Raises errors of ours, see faults."""
        message = self._message(path, interface, member, signature, body, destination)
        if not self.alive:
            raise unanswered(await self.reason())
        self.calls += 1
        try:
            async with asyncio.timeout(deadline) as limit:
                reply = await self._bus.call(message)
        except TimeoutError as error:
            if not limit.expired():
                raise unanswered(f"{member}: {_reason(error)}") from error
            raise late(member, deadline) from error
        except (OSError, EOFError) as error:
            raise unanswered(f"{member}: {_reason(error)}") from error
        if reply is None:
            raise unanswered(f"{member}: the connection was closed")
        if reply.message_type is MessageType.ERROR:
            raise refusal(reply.error_name or "", str(reply.body[0]) if reply.body else "", member)
        return reply.body

    def post(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> int:
        """Send a call whose answer comes to the listeners; returns the serial they see as reply_serial."""
        return self._post(self._message(path, interface, member, signature, body, SYSTEMD), member)

    def _post(self, message: Message, member: str) -> int:
        if not self.alive:
            raise unanswered(f"{member}: the connection was closed")
        message.serial = self._bus.next_serial()
        self.calls += 1
        self._send(message._marshall(False), member)
        return message.serial

    def ask(self, path: str, interface: str, name: str) -> int:
        """Ask for one property as ``post`` would, in less time."""
        if not self.alive:
            raise unanswered(f"{name}: the connection was closed")
        key = (len(path), interface, name)
        form = self._forms.get(key)
        if form is None:
            form = Form(self._message(path, PROPERTIES, "Get", "ss", [interface, name], SYSTEMD))
            self._forms[key] = form
        serial = self._bus.next_serial()
        self.calls += 1
        self._send(form.filled(serial, path), name)
        return serial

    def _send(self, data: bytearray, what: str) -> None:
        try:
            self._outbox.send(data)
        except OSError as error:
            raise unanswered(f"{what}: {_reason(error)}") from error

    async def reason(self) -> str:
        """Why it is over."""
        return await asyncio.shield(self.lost)

    async def until(self, event: asyncio.Event, seconds: float | None = None) -> bool:
        """Return whether the event came in time; raises Unreachable when the connection ends first."""
        coming = asyncio.ensure_future(event.wait())
        both: set[asyncio.Future[Any]] = {coming, self.lost}
        try:
            await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()
        if not event.is_set() and self.lost.done():
            raise unanswered(self.lost.result())
        return event.is_set()

    def _message(
        self, path: str, interface: str, member: str, signature: str, body: list[Any] | None, destination: str
    ) -> Message:
        try:
            message = Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body or [],
            )
        except (InvalidMessageError, SignatureBodyMismatchError) as error:
            raise InvalidArgument("init_refused_argument", f"{member}: {error}") from error
        return message

    async def manager(
        self, member: str, signature: str = "", *body: Any, deadline: float = DEADLINE
    ) -> list[Any]:
        """Call a method of the manager."""
        return await self.call(MANAGER_PATH, MANAGER, member, signature, list(body), deadline=deadline)

    async def get(self, path: str, interface: str, name: str) -> Any:
        """One property."""
        body = await self.call(path, PROPERTIES, "Get", "ss", [interface, name])
        return body[0].value

    async def get_all(self, path: str, interface: str) -> dict[str, Any]:
        """All properties of an interface."""
        body = await self.call(path, PROPERTIES, "GetAll", "s", [interface])
        return {name: variant.value for name, variant in body[0].items()}

    async def match(self, rule: str) -> None:
        """Have the bus deliver what the rule fits."""
        await self.call(_BUS_PATH, _BUS, "AddMatch", "s", [rule], destination=_BUS)

    async def unmatch(self, rule: str) -> None:
        """Take one such rule back; a connection that is lost has none."""
        with contextlib.suppress(Unreachable):
            await self.call(_BUS_PATH, _BUS, "RemoveMatch", "s", [rule], destination=_BUS)

    def drop_match(self, rule: str) -> None:
        """The same, without an answer to wait for."""
        message = self._message(_BUS_PATH, _BUS, "RemoveMatch", "s", [rule], _BUS)
        message.flags = MessageFlag.NO_REPLY_EXPECTED
        with contextlib.suppress(Unreachable):
            self._post(message, "RemoveMatch")

    async def subscribe(self) -> None:
        """Have the manager send its signals; each life of a manager must be asked anew."""
        try:
            await self.manager("Subscribe")
        except Conflict as error:
            if error.code != "already_subscribed":
                raise

    async def version(self) -> str:
        """The manager's version as it writes it: `252.38-1~deb12u1`."""
        if not self._version:
            self._version = str(await self.get(MANAGER_PATH, MANAGER, "Version"))
        return self._version

    async def began(self) -> str:
        """When the manager began, as a word that no other run of it has; the same after it is exec'd anew."""
        if not self._began:
            self._began = f"{await self.get(MANAGER_PATH, MANAGER, 'UserspaceTimestamp'):x}"
        return self._began

    async def major_version(self) -> int:
        """The number that features go by: 252; 0 where the version does not begin with one."""
        digits = re.match(r"\d+", await self.version())
        return int(digits[0]) if digits else 0

    # ---- signals

    @contextlib.contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Have every signal, and answers to ``post``, told to the listener in the order of their arrival."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextlib.contextmanager
    def jobs_of(self, unit: str, listener: JobListener) -> Iterator[None]:
        """Have the end of every job of one unit told to the listener."""
        listeners = self._jobs.setdefault(unit, [])
        listeners.append(listener)
        try:
            yield
        finally:
            listeners.remove(listener)
            if not listeners:
                self._jobs.pop(unit, None)

    def _receive(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "JobRemoved" and message.interface == MANAGER:
                _, path, unit, result = message.body
                for told in tuple(self._jobs.get(unit, ())):
                    told(path, result)
                return
            if message.member == "NameOwnerChanged":
                self._version = self._began = ""
        for listener in tuple(self._listeners):
            listener(message)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
