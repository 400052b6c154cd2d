"""Clients of a terminal: the screen first, then what follows; several at once, slow ones, sizes, queries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessiond.agents.bounds import RecordLimits
from sessiond.daemon import viewer
from sessiond.daemon.screens import HELD
from sessiond.errors import Conflict, InvalidArgument, SessiondError, Unreachable
from sessiond.ports import Screen
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.terminal.emulator import make_screen
from tests.unit.terminal_case import AGENT, Case, Client, attached, case, size

# Prints what it reads, in visible form, until it reads a q.
ECHO = """
os.write(1, b"ready")
while (data := os.read(0, 1000)) != b"q": os.write(1, b"<" + data.hex().encode() + b">")
"""
# Tells its size when that changes.
SIZES = """
import signal
def told(*_): os.write(1, b"[%d %d]" % os.get_terminal_size(1))
signal.signal(signal.SIGWINCH, told)
os.write(1, b"ready")
while True: signal.pause()
"""


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Case]:
    async with case(tmp_path) as made:
        yield made


async def test_the_screen_comes_first_and_then_each_byte_once(one: Case) -> None:
    program = one.run(await one.open(), "os.write(1, b'before')\n" + ECHO)
    await one.grown(b"ready")
    async with attached(one, size=size(80, 24)) as client:
        screen = await client.screen()
        assert b"beforeready" in screen.data
        assert (screen.size.columns, screen.size.rows) == (80, 24)
        assert screen.offset == len(b"beforeready")
        client.say(input=b"hi")
        await client.until(b"<6869>")
        client.say(input=b"q")
        ended = asyncio.create_task(one.ended(program))
        last = await client.next()
        await ended
        assert last.ended.id == AGENT
        assert last.ended.exit_status == 0
        with pytest.raises(StopAsyncIteration):
            await client.next()


async def test_a_screen_cut_in_a_sequence_is_followed_by_the_whole_sequence(one: Case) -> None:
    one.run(
        await one.open(), "os.write(1, b'ab\\x1b[3')\nos.read(0, 1)\nos.write(1, b'1mred')\nos.read(0, 1)"
    )
    await one.grown(b"\x1b[3")
    async with attached(one) as client:
        screen = await client.screen()
        assert screen.offset == 2
        client.say(input=b"x")
        await client.until(b"red")
        assert client.seen == b"\x1b[31mred"


async def test_many_clients_see_the_same_and_some_only_look(one: Case) -> None:
    one.run(await one.open(), ECHO)
    await one.grown(b"ready")
    async with attached(one) as first, attached(one) as second, attached(one, read_only=True) as third:
        for client in (first, second, third):
            await client.screen()
        assert one.terminals.facts(AGENT).clients == 3
        third.say(input=b"no")
        second.say(input=b"a")
        for client in (first, second, third):
            await client.until(b"<61>")
        assert b"6e6f" not in one.record
    assert one.terminals.facts(AGENT).clients == 0


async def test_who_does_not_read_is_sent_the_screen_instead(one: Case) -> None:
    flood = "for n in range(12000): os.write(1, b'%01023d\\n' % n)\nos.write(1, b'done')"
    flood = f"os.write(1, b'ready')\nos.read(0, 1)\n{flood}\nos.read(0, 1)"
    one.run(await one.open(), flood)
    await one.grown(b"ready")
    async with attached(one) as slow, attached(one) as quick:
        await slow.screen()
        await quick.screen()
        quick.say(input=b"x")
        await asyncio.gather(one.grown(b"done"), quick.until(b"done"))
        # Nothing of it waits in the daemon.
        screen = await slow.screen()
        assert screen.behind
        assert b"done" in screen.data
        assert screen.offset == len(one.record)
        assert len(quick.seen) == len(one.record) - len(b"ready")


async def test_the_bound_holds_whatever_comes(one: Case) -> None:
    one_viewer = viewer.Viewer(read_only=False, size=None, scrollback=0)
    one_viewer.drawn(b"", 0)
    one_viewer.answers(True)
    for number in range(400):
        one_viewer.push(b"x" * 65536, number)
        assert one_viewer._bytes <= viewer.MOST
    assert one_viewer.wants_screen
    assert one_viewer.behind


async def test_who_is_late_is_cut_back_sooner(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.daemon.viewer._LAG", -1.0)
    one_viewer = viewer.Viewer(read_only=False, size=None, scrollback=0)
    one_viewer.drawn(b"", 0)
    one_viewer.answers(True)
    for number in range(17):
        assert not one_viewer.wants_screen
        one_viewer.push(b"x" * 65536, number)
    assert one_viewer.behind


async def test_what_comes_in_a_turn_is_one_message(one: Case) -> None:
    one_viewer = viewer.Viewer(read_only=False, size=None, scrollback=0)
    one_viewer.drawn(b"", 0)
    one_viewer.answers(True)
    for number in range(1, 11):
        one_viewer.push(b"x" * 1000, number * 1000)
    message = one_viewer.output()
    assert message is not None
    assert len(message.output.data) == message.output.offset == 10_000
    assert one_viewer.output() is None


async def test_the_size_of_who_was_last_active(one: Case) -> None:
    one.run(await one.open(), SIZES)
    await one.grown(b"ready")
    async with attached(one, size=size(100, 30)) as first:
        await first.screen()
        await first.until(b"[100 30]")
        async with attached(one, size=size(90, 20)) as second:
            screen = await second.screen()
            assert screen.size == size(90, 20)
            await second.until(b"[90 20]")
            assert (await first.next()).resized == size(90, 20)
            assert (await first.screen()).size == size(90, 20)
            first.say(input=b" ")
            assert (await second.next()).resized == size(100, 30)
            second.say(resize=size(70, 10))
            while (message := await first.next()).resized != size(70, 10):
                assert message.HasField("output")
            assert one.terminals.facts(AGENT).columns == 70
        # It has gone: the other's size counts again.
        while (message := await first.next()).resized != size(100, 30):
            assert not message.HasField("ended")


async def test_the_smallest_size_and_a_fixed_one(one: Case) -> None:
    one.run(await one.open(), SIZES)
    await one.grown(b"ready")
    async with (
        attached(one, size=size(100, 10), size_policy=pb.SIZE_POLICY_SMALLEST) as first,
        attached(one, size=size(50, 30)) as second,
        attached(one, size=size(20, 5), read_only=True) as third,
    ):
        assert (await first.screen()).size == size(100, 10)
        assert (await second.screen()).size == size(50, 10)
        assert (await third.screen()).size == size(50, 10)
        async with attached(one, size=size(10, 10), size_policy=pb.SIZE_POLICY_FIXED) as fourth:
            assert (await fourth.screen()).size == size(50, 10)


@pytest.mark.parametrize("spoiled", [False, True])
async def test_a_policy_that_was_chosen_outlives_the_daemon(
    one: Case, spoiled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one.run(await one.open(), SIZES)
    await one.grown(b"ready")
    async with attached(one, size=size(100, 10), size_policy=pb.SIZE_POLICY_SMALLEST) as first:
        assert (await first.screen()).size == size(100, 10)
    if spoiled:
        one.folder.policy.write_text("biggest")
    await one.terminals.stop()
    one.again()
    assert one.terminals.restore(one.spec, one.folder)
    async with attached(one, size=size(90, 10)) as first, attached(one, size=size(95, 10)) as second:
        await first.screen()
        # Where nothing was chosen, or it cannot be told, who came last decides.
        assert (await second.screen()).size == (size(95, 10) if spoiled else size(90, 10))
    assert ("holds no size policy" in caplog.text) is spoiled


async def test_a_query_is_answered_once_by_whoever_is_there(one: Case) -> None:
    ask = (
        "import signal\nos.write(1, b'\\x1b[5n')\nos.write(1, b'<' + os.read(0, 100).hex().encode() + b'>')\n"
    )
    one.run(await one.open(), ask + "os.read(0, 1)\n" + ask + "os.read(0, 1)")
    # Nobody is there: the emulator answers.
    await one.grown(b"<1b5b306e>")
    async with attached(one) as first, attached(one) as second:
        await first.screen()
        await second.screen()
        second.say(input=b"x")
        await second.until(b"\x1b[5n")
        second.say(input=b"mine")
        await second.until(b"<6d696e65>")
        await first.until(b"<6d696e65>")
        # Its terminal would have answered too.
        assert b"\x1b[5n" not in first.seen


async def test_a_new_daemon_does_not_answer_what_was_asked_of_the_old(one: Case) -> None:
    one.run(await one.open(), "os.write(1, b'\\x1b[5n')\nos.read(0, 100)\n" + ECHO)
    await one.grown(b"ready")
    await one.terminals.stop()
    one.again()
    assert one.terminals.restore(one.spec, one.folder)
    async with attached(one) as client:
        await client.screen()
        client.say(input=b"z")
        await client.until(b"<7a>")
    assert b"1b5b" not in one.record


async def test_a_screen_is_the_same_after_a_restart(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.daemon.screens._WORTH", 1)
    drawn = r"\x1b[?1049h\x1b[2J\x1b[5;7Hhere\x1b[31mred\x1b]2;title\x07"
    text = f"os.write(1, b'{drawn}')\nos.read(0, 1)"
    one.run(await one.open(), text)
    await one.grown(b"title\x07")
    before = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT, format=pb.SCREEN_FORMAT_ANSI))
    await one.terminals.stop()
    assert one.folder.screen.exists()
    one.again()
    assert one.terminals.restore(one.spec, one.folder)
    after = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT, format=pb.SCREEN_FORMAT_ANSI))
    assert after == before
    assert before.alternate
    assert before.title == "title"
    # Without the drawing, from the record alone.
    await one.terminals.stop()
    one.folder.screen.write_bytes(b"garbage")
    one.again()
    assert one.terminals.restore(one.spec, one.folder)
    again = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT, format=pb.SCREEN_FORMAT_ANSI))
    assert again == before


async def test_the_last_screen_of_an_agent_that_has_ended(one: Case) -> None:
    program = one.run(await one.open(), "os.write(1, b'goodbye')")
    await one.ended(program)
    screen = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT))
    assert "goodbye" in screen.content
    with pytest.raises(Conflict) as caught:
        await Client(one).next()
    assert caught.value.code == "agent_ended"


async def test_scrollback_on_request(one: Case) -> None:
    one.run(
        await one.open(), "os.write(1, b''.join(b'line %d\\r\\n' % n for n in range(300)))\nos.read(0, 1)"
    )
    await one.grown(b"line 299\r\n")
    async with attached(one) as plain, attached(one, scrollback=200) as long:
        assert b"line 150" not in (await plain.screen()).data
        assert b"line 150" in (await long.screen()).data


async def test_typing_keys_and_pastes(one: Case) -> None:
    one.run(await one.open(), "os.write(1, b'\\x1b[?2004h')\n" + ECHO)
    await one.grown(b"ready")
    parts = [
        pb.InputPart(data=b"a"),
        pb.InputPart(key="Up"),
        pb.InputPart(paste="p"),
    ]
    for part, seen in zip(parts, (b"<61>", b"<1b5b41>", b"<1b5b3230307e701b5b3230317e>"), strict=True):
        answer = await one.views.send_input(pb.SendInputRequest(agent=AGENT, parts=[part]))
        assert answer.bytes == len(bytes.fromhex(seen[1:-1].decode()))
        await one.grown(seen)
    with pytest.raises(InvalidArgument) as caught:
        await one.views.send_input(
            pb.SendInputRequest(agent=AGENT, parts=[pb.InputPart(data=b"no"), pb.InputPart(key="Nokey")])
        )
    assert caught.value.code == "key_unknown"
    assert b"6e6f" not in one.record


async def test_a_program_that_does_not_read(one: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.daemon.views._PATIENCE", 0.05)
    one.run(await one.open(), "os.write(1, b'ready')\nimport signal\nsignal.pause()")
    await one.grown(b"ready")
    with pytest.raises(SessiondError) as caught:
        await one.views.send_input(
            pb.SendInputRequest(agent=AGENT, parts=[pb.InputPart(data=b"x" * (1 << 20))])
        )
    assert caught.value.code == "input_full"


async def test_much_input_arrives_whole(one: Case) -> None:
    code = """
left = 1 << 20
os.write(1, b"ready")
while left: left -= len(os.read(0, 4096))
os.write(1, b"all")
os.read(0, 1)
"""
    one.run(await one.open(), code)
    await one.grown(b"ready")
    async with attached(one) as client:
        await client.screen()
        client.say(input=b"x" * (1 << 20))
        await client.until(b"all")


async def test_a_stop_of_the_daemon_tells_clients_to_come_back(one: Case) -> None:
    one.run(await one.open(), ECHO)
    await one.grown(b"ready")
    async with attached(one) as client:
        await client.screen()
        await one.terminals.stop()
        with pytest.raises(Unreachable):
            await client.next()


async def test_bad_beginnings(one: Case) -> None:
    one.run(await one.open(), ECHO)
    await one.grown(b"ready")

    async def said() -> AsyncIterator[pb.AttachAgentRequest]:
        yield pb.AttachAgentRequest(input=b"x")

    with pytest.raises(InvalidArgument) as caught:
        await anext(one.views.attach(said(), None))
    assert caught.value.code == "attach_start_missing"
    with pytest.raises(InvalidArgument) as caught:
        await Client(one, size=size(0, 1)).next()
    assert caught.value.code == "size_invalid"
    async with attached(one) as client:
        await client.screen()
        client.say(start=pb.AttachStart(agent=AGENT))
        with pytest.raises(InvalidArgument) as caught:
            await client.next()
    assert caught.value.code == "attach_start_repeated"


async def test_the_record_is_followed_to_the_end(one: Case) -> None:
    program = one.run(await one.open(), "os.write(1, b'one')\nos.read(0, 1)\nos.write(1, b'two')")
    await one.grown(b"one")
    data = b""
    last = None
    async for message in one.views.stream_record(pb.StreamRecordRequest(agent=AGENT, follow=True)):
        data += message.data
        if message.data == b"one":
            await one.views.send_input(pb.SendInputRequest(agent=AGENT, parts=[pb.InputPart(data=b"x")]))
            ending = asyncio.create_task(one.ended(program))
        last = message
    await ending
    assert data == b"onetwo"
    assert last is not None
    assert last.ended.exit_status == 0


async def test_lines_of_a_terminal(one: Case) -> None:
    one.run(await one.open(), "os.write(1, b'a\\nb\\nc\\n')\nos.read(0, 1)")
    await one.grown(b"c\n")
    found = await one.views.read_output(pb.ReadOutputRequest(agent=AGENT, last=2))
    assert [line.text for line in found.lines] == ["b", "c"]
    assert found.has_more


async def test_what_is_not_recorded_for_want_of_disk_is_seen(one: Case) -> None:
    one.again(RecordLimits(limit=1 << 20, total=1 << 30, low_disk=1 << 60))
    path = await one.open()
    async with attached(one) as client:
        await client.screen()
        one.run(path, ECHO)
        await client.until(b"ready")
        client.say(input=b"a")
        await client.until(b"<61>")
        assert one.record == b""
        assert one.terminals.facts(AGENT).problem == "disk_low"
        screen = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT))
        assert "<61>" in screen.content


async def test_a_screen_far_behind_is_brought_up_to_date_while_a_flood_goes_on(one: Case) -> None:
    one.run(await one.open(), "while True: os.write(1, b'%079d\\r\\n' % 1 * 100)")
    terminal = one.terminals.get(AGENT)
    assert terminal is not None
    async with attached(one) as client:
        await client.screen()
        await terminal.grew.until(lambda: terminal.record.end > (4 << 20) or None)
        screen = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT))
        assert screen.content.startswith("0" * 78 + "1\n")
        before = terminal.record.end
        await terminal.grew.until(lambda: terminal.record.end > before + (1 << 20) or None)


async def test_an_emulator_that_fails_keeps_no_output_back(
    one: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one.run(await one.open(), ECHO)
    await one.grown(b"ready")
    async with attached(one) as client:
        await client.screen()

        def fail(*_: object) -> bytes:
            raise RuntimeError("a bug of the library")

        with monkeypatch.context() as patch:
            patch.setattr("sessiond.agents.checkpoint.Replay.advance", fail)
            client.say(input=b"a")
            await client.until(b"<61>")
            with pytest.raises(RuntimeError):
                await one.views.get_screen(pb.GetScreenRequest(agent=AGENT))
        assert "emulator" in caplog.text
        screen = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT))
        assert "ready<61>" in screen.content


async def test_much_scrollback_is_drawn_while_output_goes_on(one: Case) -> None:
    code = "os.write(1, b''.join(b'line %d\\r\\n' % n for n in range(900)))\nn = 0\n"
    # On one row: however much of it there is by then, no line is pushed out.
    code += "while True:\n    os.write(1, b'\\r[%d]' % n)\n    n += 1\n    os.sched_yield()"
    one.run(await one.open(), code)
    await one.grown(b"\r[")
    async with attached(one, scrollback=1000) as client:
        screen = await client.screen()
        assert b"line 850\r\n" in screen.data
        for _ in range(5):
            await client.next()
        # What follows begins where the screen ends.
        assert one.record[screen.offset : screen.offset + len(client.seen)] == client.seen


async def test_a_screen_that_is_looked_at_holds_little_and_shows_all_on_request(one: Case) -> None:
    made: list[int] = []

    def make(columns: int, rows: int, scrollback: int) -> Screen:
        made.append(scrollback)
        return make_screen(columns, rows, scrollback)

    one.make_screen = make
    one.again()
    path = await one.open()
    one.run(
        path, "os.write(1, b''.join(b'line %d\\r\\n' % n for n in range(900)) + b'done')\nsys.stdin.read()"
    )
    await one.grown(b"done")
    async with attached(one) as plain, attached(one, scrollback=1000) as long:
        assert b"line 50\r" not in (await plain.screen()).data
        screen = await long.screen()
        assert b"line 50\r" in screen.data
        assert screen.offset == len(one.record)
        shown = await one.views.get_screen(pb.GetScreenRequest(agent=AGENT, scrollback=1000))
        assert shown.content.splitlines()[0] == "line 0"
    # The one that stays, and one for each who asked for more.
    assert made == [HELD, 1000, 1000]
