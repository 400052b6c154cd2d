"""`attach` on a real terminal: what is shown and typed, how it leaves, and that the terminal is put right."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from sessiond.errors import Conflict
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.cli_terminal_case import OnTerminal, StandIn

DETACH = b"\x1c"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


def put_right(client: OnTerminal) -> None:
    """All that a program may have switched on is switched off, and lines are read as before."""
    assert client.mode == client.before
    shown = client.seen
    for sequence in (
        b"?1049l",
        b"?25h",
        b"?1000l",
        b"?1003l",
        b"?1006l",
        b"?2004l",
        b"[<99u",
        b"[r",
        b"]104",
        b"[0m",
    ):
        place = shown.rfind(b"\x1b" + (b"" if sequence[:1] in b"[]" else b"[") + sequence)
        assert place > shown.rfind(b"SCREEN"), sequence
    assert shown.rfind(b"\x1b[23;0t") > shown.rfind(b"\x1b[22;0t") >= 0, "the title is put back"


def test_it_draws_the_screen_passes_on_both_ways_and_tells_of_the_end(stand_in: StandIn) -> None:
    with OnTerminal("attach", "shop/claude-1", "--scrollback", "50", columns=91, rows=33) as client:
        client.see(b"SCREEN")
        assert client.mode != client.before
        stand_in.do(lambda: stand_in.agents.say(b"\xff\x00raw\x1b[?1049h"))
        client.see(b"\xff\x00raw\x1b[?1049h")
        client.type(b"a\x03\x1a\x04\r\n\xc3")
        stand_in.until(lambda agents: agents.input == b"a\x03\x1a\x04\r\n\xc3")
        stand_in.do(lambda: stand_in.agents.end(exit_status=3))
        assert client.end() == 0
        put_right(client)
        assert b"[shop/claude-1 ended: exit status 3]\r\n" in client.seen
    [start] = stand_in.agents.starts
    assert (start.agent, start.scrollback, start.read_only) == (stand_in.agents.agent.id, 50, False)
    assert (start.size.columns, start.size.rows) == (91, 33)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ((), b"\x1c"),
        ((), b"\x1b[92;5u"),
        ((), b"\x1b[92;5:1u\x1b[92;5:3u"),
        ((), b"\x1b[92;69u"),
        ((), b"\x1b[27;5;92~"),
        (("--detach-key", "ctrl-]"), b"\x1d"),
        (("--detach-key", "CTRL-A"), b"\x1b[97;5u"),
    ],
)
def test_the_detach_key_leaves_it_running(stand_in: StandIn, options: tuple[str, ...], key: bytes) -> None:
    with OnTerminal("attach", "claude-1", *options) as client:
        client.see(b"SCREEN")
        client.type(b"last words" + key)
        assert client.end() == 0
        put_right(client)
        assert b"[detached from shop/claude-1]\r\n" in client.seen
    stand_in.until(lambda agents: not agents.attached)
    assert stand_in.agents.input == b"last words"


def test_the_detach_key_twice_at_once_is_one_for_the_program(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        client.type(DETACH + DETACH + b"x")
        stand_in.until(lambda agents: agents.input == b"\x1cx")
        client.type(DETACH)
        assert client.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_leaves_and_puts_the_terminal_right(stand_in: StandIn, number: signal.Signals) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        client.signal(number)
        assert client.end() == 128 + number
        put_right(client)
    stand_in.until(lambda agents: not agents.attached)


def test_closing_the_terminal_detaches(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        client.hang_up()
        stand_in.until(lambda agents: not agents.attached)
        assert client.process.returncode >= 0, "it ends in order"


def test_a_new_size_is_told(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        client.resize(100, 40)
        stand_in.until(lambda agents: agents.resizes == [(100, 40)])
        client.type(DETACH)
        client.end()


def test_who_only_looks_types_nothing_and_leaves_the_size(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1", "--read-only") as client:
        client.see(b"SCREEN")
        client.type(b"typed")
        client.resize(100, 40)
        stand_in.do(lambda: stand_in.agents.say(b"more"))
        client.see(b"more")
        client.type(DETACH)
        assert client.end() == 0
    stand_in.until(lambda agents: not agents.attached)
    assert (stand_in.agents.input, stand_in.agents.resizes) == (b"", [])
    assert stand_in.agents.starts[0].read_only


def test_being_stopped_by_another_is_made_good_when_it_goes_on(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        stand_in.agents.screen = b"AGAIN"
        client.signal(signal.SIGCONT)
        client.see(b"AGAIN")
        client.type(b"x")
        stand_in.until(lambda agents: agents.input == b"x")
        client.type(DETACH)
        client.end()


# ---- the daemon goes away -------------------------------------------------------------------


def test_a_daemon_that_comes_back_is_joined_again(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1", "--scrollback", "9", "--size-policy", "smallest") as client:
        client.see(b"SCREEN")
        stand_in.stop()
        client.see(b"connection lost")
        client.type(b"typed meanwhile")
        stand_in.agents.screen = b"REDRAWN"
        stand_in.start()
        client.see(b"REDRAWN")
        stand_in.until(lambda agents: agents.input == b"typed meanwhile")
        client.type(DETACH)
        assert client.end() == 0
    first, second = stand_in.agents.starts
    assert (first.scrollback, first.size_policy) == (9, pb.SIZE_POLICY_SMALLEST)
    assert (second.scrollback, second.size_policy) == (0, pb.SIZE_POLICY_UNSPECIFIED)


def test_the_detach_key_works_while_nobody_is_there(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        stand_in.stop()
        client.see(b"connection lost")
        client.type(b"x" * 5000)
        client.see(b"\x07")
        client.type(DETACH)
        assert client.end() == 0
        put_right(client)


def test_an_agent_that_ended_while_its_daemon_was_away_is_told(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        stand_in.stop()
        client.see(b"connection lost")
        stand_in.do(lambda: stand_in.agents.end(exit_status=1))
        stand_in.start()
        assert client.end() == 0
        assert b"[shop/claude-1 ended: exit status 1]" in client.seen
        put_right(client)


def test_a_session_that_was_stopped_ends_it(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        stand_in.do(lambda: setattr(stand_in.agents.agent, "signal", "SIGTERM"))
        stand_in.agents.agent.state = pb.AGENT_STATE_TERMINATED
        stand_in.stop_session()
        assert client.end() == 0
        assert b"[shop/claude-1 ended: signal SIGTERM]" in client.seen
        put_right(client)


def test_a_supervisor_that_goes_away_is_not_noticed(stand_in: StandIn) -> None:
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        stand_in.stop("supervisor")
        stand_in.do(lambda: stand_in.agents.say(b"goes on"))
        client.see(b"goes on")
        client.type(DETACH)
        assert client.end() == 0
        assert b"[detached from 55555555/" in client.seen
        stand_in.start("supervisor")


def test_without_the_daemons_socket_the_supervisor_hands_on(stand_in: StandIn) -> None:
    stand_in.stop()
    with OnTerminal("attach", "claude-1") as client:
        client.see(b"SCREEN")
        client.type(DETACH)
        assert client.end() == 0
    stand_in.start()


# ---- what cannot be joined ------------------------------------------------------------------


@pytest.mark.parametrize("code", ["agent_no_terminal", "agent_ended"])
def test_what_cannot_be_joined_leaves_the_terminal_alone(stand_in: StandIn, code: str) -> None:
    stand_in.agents.refuse = Conflict(code, "it cannot")
    with OnTerminal("attach", "claude-1") as client:
        assert client.end() == 4
        assert b"\x1b" not in client.seen
        assert client.mode == client.before
    assert not stand_in.agents.starts


def test_without_a_terminal_it_says_what_else_there_is(stand_in: StandIn) -> None:
    from tests.unit.cli_case import ctl

    done = ctl("attach", "claude-1", "--json")
    if os.isatty(0) and os.isatty(1):
        pytest.skip("the tests run on a terminal")
    assert (done.code, done.errors[0]["code"]) == (4, "no_terminal")
