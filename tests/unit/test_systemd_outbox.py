"""What goes to the bus: gathered, in order, patient with a full buffer, and told when it is broken."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from dbus_fast import Message

from sessiond.init.systemd.names import PROPERTIES, SERVICE, SYSTEMD, unit_path
from sessiond.init.systemd.outbox import Form, Outbox
from sessiond.model.unit import daemon_unit

MUCH = 4 * 1024 * 1024


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


async def read(theirs: socket.socket, size: int) -> bytes:
    found = b""
    async with asyncio.timeout(60):
        while len(found) < size:
            found += await asyncio.get_running_loop().sock_recv(theirs, size - len(found))
    return found


async def test_sends_nothing_before_the_turn_is_over(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    outbox = Outbox(ours)
    assert (outbox.send(bytearray(b"one ")), outbox.send(memoryview(b"two"))) == (4, 3)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    assert await read(theirs, 7) == b"one two"


async def test_keeps_what_a_full_buffer_does_not_take(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    outbox = Outbox(ours)
    outbox.send(bytearray(b"a" * MUCH))
    outbox.send(bytearray(b"b"))
    assert await read(theirs, MUCH + 1) == b"a" * MUCH + b"b"
    outbox.send(bytearray(b"after"))
    assert await read(theirs, 5) == b"after"


async def test_raises_once_the_other_end_is_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    outbox = Outbox(ours)
    theirs.close()
    outbox.send(bytearray(b"lost"))
    # The loop runs what was called before it, in order.
    await asyncio.sleep(0)
    with pytest.raises(BrokenPipeError):
        outbox.send(bytearray(b"told"))


async def test_closed_while_it_waits_it_leaves_the_loop_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = pair
    outbox = Outbox(ours)
    outbox.send(bytearray(b"a" * MUCH))
    await asyncio.sleep(0)
    outbox.close()
    assert not asyncio.get_running_loop().remove_writer(ours.fileno())
    with pytest.raises(BrokenPipeError):
        outbox.send(bytearray(b"b"))


def _question(session: str, serial: int) -> Message:
    path = unit_path(daemon_unit(session))
    body = [SERVICE, "MainPID"]
    return Message(
        destination=SYSTEMD,
        path=path,
        interface=PROPERTIES,
        member="Get",
        signature="ss",
        body=body,
        serial=serial,
    )


@pytest.mark.parametrize(("session", "serial"), [("0f" * 16, 1), ("a1" * 16, 255), ("7" * 32, 0x01020304)])
def test_a_form_that_is_filled_in_is_the_message_the_library_makes(session: str, serial: int) -> None:
    form = Form(_question("e" * 32, 9))
    message = _question(session, serial)
    assert bytes(form.filled(serial, str(message.path))) == bytes(message._marshall(False))
    again = _question("e" * 32, 9)
    assert bytes(form.filled(9, str(again.path))) == bytes(again._marshall(False))
