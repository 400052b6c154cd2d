"""Terminals in a session daemon: what is printed gets into the record, whole and once, come what may."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from sessiond.daemon import pty
from sessiond.daemon.boundary import unfinished
from sessiond.errors import TimedOut, Unreachable
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.terminal_case import AGENT, Case, case


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Case]:
    async with case(tmp_path) as made:
        yield made


def numbered(count: int) -> bytes:
    return b"".join(b"%09d\n" % number for number in range(count))


FLOOD = """
for n in range({count}):
    os.write(1, b"".join(b"%09d\\n" % i for i in range(n * 1000, n * 1000 + 1000)))
"""


async def test_every_byte_is_in_the_record(one: Case) -> None:
    program = one.run(await one.open(), FLOOD.format(count=500))
    await one.ended(program)
    assert one.record == numbered(500_000)


async def test_what_must_survive_is_stored_before_the_terminal_is_used(one: Case) -> None:
    await one.open()
    assert sorted(one.store.kept) == [f"pipe-{AGENT}", f"tty-{AGENT}"]
    stored = [message for message in one.store.messages if "FDSTORE=1" in message]
    assert all("FDPOLL=0" in message for message in stored)
    assert one.store.messages[-1] == "BARRIER=1"


async def test_without_an_answer_of_the_store_nothing_is_left(
    one: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.daemon.descriptors._BARRIER_TIMEOUT", 0.01)
    asyncio.get_running_loop().remove_reader(one.store._socket)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TimedOut, match="did not take") as caught:
        await one.open()
    assert caught.value.code == "descriptor_store_timeout"
    assert one.terminals.get(AGENT) is None
    one.store.receive()
    assert one.store.kept == {}
    assert before >= len(os.listdir("/proc/self/fd")) - 6


async def test_a_new_daemon_goes_on_where_the_last_was_cut_off(one: Case) -> None:
    """The old one's bytes in its pipe come first; nothing is lost and nothing comes twice."""
    program = one.run(await one.open(), FLOOD.format(count=300))
    for least in range(100_000, 600_000, 100_000):
        terminal = one.terminals.get(AGENT)
        assert terminal is not None
        while len(one.record) < least:
            await terminal.grew.wait()
        # As a kill in the middle of a turn leaves it: moved to the pipe, and no further.
        pty.move(terminal.master, terminal._pipe, 3)
        await one.terminals.stop()
        one.again()
        assert one.terminals.restore(one.spec, one.folder)
    await one.ended(program)
    assert one.record == numbered(300_000)


async def test_last_words_spoken_while_no_daemon_was_there(one: Case) -> None:
    program = one.run(await one.open(), "os.write(1, b'last words')")
    await one.terminals.stop()
    await asyncio.to_thread(program.wait)
    one.again()
    assert one.terminals.restore(one.spec, one.folder)
    await one.ended(program)
    assert one.record == b"last words"


async def test_a_terminal_that_is_gone_is_told(one: Case) -> None:
    assert not one.terminals.restore(one.spec, one.folder)


async def test_what_was_not_handed_to_this_process_stays_in_the_store(one: Case) -> None:
    await one.open()
    await one.terminals.stop()
    # Asked of those who have let go, and not of their successor.
    assert not one.terminals.restore(one.spec, one.folder)
    one.store.receive()
    assert sorted(one.store.kept) == [f"pipe-{AGENT}", f"tty-{AGENT}"]
    one.again()
    assert one.terminals.restore(one.spec, one.folder)


async def test_who_follows_is_sent_to_the_next_daemon_when_this_one_ends(one: Case) -> None:
    one.run(await one.open(), "os.write(1, b'so far')\nsys.stdin.read()")
    request = pb.StreamRecordRequest(agent=AGENT, stream=pb.OUTPUT_STREAM_TERMINAL, follow=True)
    async with aclosing(one.views.stream_record(request)) as pieces:
        while not (piece := await anext(pieces)).data.endswith(b"so far"):
            assert piece
        following = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        one.roster.leave()
        with pytest.raises(Unreachable) as caught:
            await following
    assert caught.value.code == "daemon_restarting"


async def test_half_a_terminal_is_dropped(one: Case) -> None:
    await one.open()
    await one.terminals.stop()
    one.store.receive()
    os.close(one.store.kept.pop(f"tty-{AGENT}"))
    one.again()
    assert not one.terminals.restore(one.spec, one.folder)
    one.store.receive()
    assert one.store.kept == {}


async def test_terminals_of_nobody_are_swept(one: Case) -> None:
    await one.open()
    await one.terminals.stop()
    one.again()
    one.terminals.sweep()
    one.store.receive()
    assert one.store.kept == {}


async def test_a_hang_up_costs_no_turns_and_a_second_run_is_read(one: Case) -> None:
    path = await one.open()
    first = one.run(path, "os.write(1, b'one')")
    await one.grown(b"one")
    terminal = one.terminals.get(AGENT)
    assert terminal is not None
    await terminal.grew.until(lambda: terminal.drained or None)
    turns = 0

    def count() -> bool:
        nonlocal turns
        turns += 1
        return False

    original, terminal.turn = terminal.turn, count  # type: ignore[method-assign]
    for _ in range(50):
        await asyncio.sleep(0)
    assert turns == 0
    terminal.turn = original  # type: ignore[method-assign]
    await asyncio.to_thread(first.wait)
    second = one.run(path, "os.write(1, b'two')")
    one.terminals.rearm(AGENT)
    await one.grown(b"two")
    await one.ended(second)
    assert one.record == b"onetwo"


async def test_a_flood_leaves_turns_to_others(one: Case) -> None:
    one.run(await one.open(), "while True: os.write(1, b'y' * 4000)")
    await one.grown(b"y")
    before = one.terminals.facts(AGENT).end
    turns = 0
    while one.terminals.facts(AGENT).end < before + (8 << 20):
        # Would never return if the flood were read to its end.
        await asyncio.sleep(0)
        turns += 1
    # A turn of the loop moves no more than a slice of it.
    assert turns > 4


async def test_a_stranger_that_holds_the_terminal_open_does_not_hold_up_its_end(
    one: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sessiond.daemon.terminals._DRAIN_TIMEOUT", 0.05)
    path = await one.open()
    stranger = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        program = one.run(path, "os.write(1, b'done')")
        await one.ended(program)
    finally:
        os.close(stranger)
    assert one.record == b"done"
    assert "held open" in caplog.text


async def test_a_size_reaches_the_program(one: Case) -> None:
    path = await one.open()
    assert pty.get_size(one.terminals._terminals[AGENT].master) == (80, 24)
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    try:
        assert termios.tcgetwinsize(fd) == (24, 80)
        assert termios.tcgetattr(fd)[0] & 0o40000
    finally:
        os.close(fd)


async def test_a_program_that_is_killed(one: Case) -> None:
    program = one.run(await one.open(), "os.write(1, b'alive'); import signal; signal.pause()")
    await one.grown(b"alive")
    program.send_signal(signal.SIGKILL)
    await one.ended(program)
    assert one.entry.end is not None
    assert one.entry.end.exit_status == -signal.SIGKILL
    one.store.receive()
    assert one.store.kept == {}


@pytest.mark.parametrize(
    ("tail", "length"),
    [
        (b"", 0),
        (b"text", 0),
        (b"a\x1b", 1),
        (b"a\x1b[", 2),
        (b"a\x1b[38;5", 6),
        (b"a\x1b[31m", 0),
        (b"\x1b[31mtext", 0),
        (b"x\x1b]0;title", 9),
        (b"x\x1b]0;title\x1b", 10),
        (b"x\x1b]0;title\x07", 0),
        (b"x\x1b]0;title\x1b\\", 0),
        (b"x\x1bP1$r", 5),
        (b"x\x1b(", 2),
        (b"x\x1b(B", 0),
        (b"x\x1b7", 0),
        ("ä".encode()[:1], 1),
        ("ä".encode(), 0),
        ("x€".encode()[:-1], 2),
        ("x😀".encode()[:-1], 3),
        ("x😀".encode(), 0),
        (b"\x80\x80\x80\x80\x80", 0),
        (b"\x1b]0;a\x18", 0),
    ],
)
def test_where_output_may_be_cut(tail: bytes, length: int) -> None:
    assert unfinished(tail) == length
