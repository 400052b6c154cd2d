"""`send`, `screen`, `output`, `replay`, `export`, and streams of agents without a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessiond.errors import Conflict
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.cli_case import ctl
from tests.unit.cli_terminal_case import (
    AGENT,
    PATIENCE,
    SESSION,
    SESSIONCTL,
    OnTerminal,
    StandIn,
    line,
    piece,
)

OUT: Any = pb.OUTPUT_STREAM_STDOUT
ERR: Any = pb.OUTPUT_STREAM_STDERR
PLAIN = f"""
import sys
from sessiond.cli.app import App
from sessiond.cli.terminal import stream_plain
outcome = stream_plain(App(), {SESSION!r}, {AGENT!r})
sys.exit(9 if outcome.detached else outcome.agent.exit_status)
"""


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as made:
        yield made


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# ---- send and screen


def test_text_comes_first_then_keys_then_enter(stand_in: StandIn) -> None:
    words = ("send", "claude-1", "fix", "it", "--key", "Tab", "--enter-after", "300", "--stdin", "--paste")
    done = subprocess.run(
        [*SESSIONCTL, *words, "--json"], input=b"a\nb", capture_output=True, timeout=PATIENCE
    )
    assert (done.returncode, json.loads(done.stdout)["bytes"]) == (0, 7), done.stderr
    parts = stand_in.agents.sends[0].parts
    assert [one.WhichOneof("part") for one in parts] == ["paste", "paste", "key", "pause", "key"]
    assert [parts[0].paste, parts[1].paste, parts[2].key, parts[4].key] == ["fix it", "a\nb", "Tab", "Enter"]
    assert parts[3].pause.ToMilliseconds() == 300
    assert ctl("send", "claude-1").code == 2


def test_the_screen_as_text_moves_no_cursor(stand_in: StandIn) -> None:
    assert ctl("screen", "claude-1").out == "SCREEN_FORMAT_TEXT 0\nrow \\x1b[31mred\n"
    assert "\x1b[31m" in ctl("screen", "claude-1", "--ansi", "--scrollback", "5").out
    assert ctl("screen", "claude-1", "--html", "--json").json["format"] == "html"
    assert ctl("screen", "claude-1", "--html", "--ansi").code == 2


# ---- output


def test_all_pages_are_read_and_two_files_are_merged_by_time(stand_in: StandIn) -> None:
    stand_in.agents.agent.tty = False
    stand_in.agents.lines = [line(f"o{n}", 3 * n, stream=OUT, at=2 * n) for n in range(5)]
    stand_in.agents.lines += [line(f"e{n}", 3 * n, stream=ERR, at=2 * n + 1) for n in range(3)]
    assert ctl("output", "claude-1").out.split() == ["o0", "e0", "o1", "e1", "o2", "e2", "o3", "o4"]
    assert ctl("output", "claude-1", "--stream", "stderr", "-n", "2").out.split() == ["e1", "e2"]
    page = ctl("output", "claude-1", "--json", "--stream", "stdout", "--offset", "3").json
    assert [one["offset"] for one in page["lines"]] == [3, 6]
    assert (page["total"], page["has_more"], page["next_offset"]) == (15, True, 9)
    assert ctl("output", "claude-1", "--offset", "1", "--json").errors[0]["code"] == "offset_invalid"


def test_a_number_of_lines_counts_from_an_offset_on_and_else_from_the_end(stand_in: StandIn) -> None:
    stand_in.agents.lines = [line(f"l{n}", 3 * n) for n in range(6)]
    assert ctl("output", "claude-1", "--offset", "3", "-n", "3").out.split() == ["l1", "l2", "l3"]
    assert ctl("output", "claude-1", "--offset", "3", "-n", "0").out == ""
    assert ctl("output", "claude-1", "-n", "3").out.split() == ["l3", "l4", "l5"]
    page = ctl("output", "claude-1", "--json", "--offset", "3", "-n", "1").json
    assert ([one["text"] for one in page["lines"]], page["has_more"], page["next_offset"]) == (
        ["l1"],
        True,
        6,
    )
    refused = ctl("output", "claude-1", "-f", "--offset", "3", "-n", "1")
    assert refused.code == 2
    assert "leave out -n" in refused.err


def test_following_survives_the_daemon_and_tells_each_line_once(stand_in: StandIn) -> None:
    agents = stand_in.agents
    agents.lines = [line("one", 0), line("par", 4)]
    stand_in.do(lambda: agents.record(piece(b"par", offset=4)))
    process = start(*SESSIONCTL, "output", "claude-1", "-f", "--json")
    stand_in.until(lambda agents: any(one.follow for one in agents.records))
    stand_in.stop()
    stand_in.start()
    stand_in.do(lambda: agents.record(piece(b"tial\n\x1b[31mred\x1b[0m\nrest", offset=7)))
    stand_in.do(agents.end)
    out, err = process.communicate(timeout=PATIENCE)
    shown = [json.loads(one) for one in out.splitlines()]
    expected = [("one", 0), ("partial", 4), ("red", 12), ("rest", 25)]
    assert [(one["text"], one["offset"]) for one in shown] == expected, err


# ---- streams without a terminal


def test_both_streams_are_copied_byte_for_byte_over_a_crash(stand_in: StandIn) -> None:
    agents = stand_in.agents
    stand_in.do(lambda: agents.record(piece(b"\xff\x00a", stream=OUT), piece(b"bad", stream=ERR)))
    process = start(sys.executable, "-c", PLAIN)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 3) == b"\xff\x00a"
    stand_in.stop()
    # What was told before comes again in another cut, and a gap that takes up no offsets beside it.
    agents.pieces = [piece(b"\xff\x00abc", stream=OUT), piece(offset=5, stream=OUT, gap=99)]
    agents.pieces += [piece(b"d", offset=5, stream=OUT), piece(b"bad!", stream=ERR)]
    stand_in.start()
    stand_in.do(lambda: agents.end(exit_status=4))
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (4, b"bcd", b"bad!")


def test_an_interrupt_goes_to_the_agent_and_a_second_one_leaves(stand_in: StandIn) -> None:
    process = start(sys.executable, "-c", PLAIN)
    stand_in.until(lambda agents: bool(agents.records))
    process.send_signal(signal.SIGINT)
    stand_in.until(lambda agents: agents.signals == [("SIGINT", True)])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (9, b"[detached from shop/claude-1]\n")
    assert len(stand_in.agents.signals) == 1


def test_a_reader_that_goes_away_ends_it_quietly(stand_in: StandIn) -> None:
    process = start(*SESSIONCTL, "output", "claude-1", "-f")
    stand_in.until(lambda agents: bool(agents.records))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(PATIENCE) == -signal.SIGPIPE
    with process.stderr:
        assert process.stderr.read() == b""


# ---- replay and export


def recorded(stand_in: StandIn) -> None:
    stand_in.agents.pieces = [
        piece(size=pb.TerminalSize(columns=100, rows=30)),
        piece("hé".encode()[:2], at=0.0),
        piece("hé".encode()[2:] + b"l\x1b[1mlo\r\n", offset=2, at=0.25),
        piece(offset=12, at=1.0, size=pb.TerminalSize(columns=90, rows=20)),
        piece(b"bye \xff\r\n", offset=12, at=3600.5),
    ]


def test_a_replay_without_a_terminal_just_writes(stand_in: StandIn) -> None:
    recorded(stand_in)
    whole = b"".join(one.data for one in stand_in.agents.pieces)
    done = subprocess.run([*SESSIONCTL, "replay", "claude-1"], capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, whole), done.stderr
    for text, code in (("hélo", 1), ("héllo", 0)):
        words = [*SESSIONCTL, "replay", "claude-1", "--search", text]
        assert subprocess.run(words, capture_output=True, timeout=PATIENCE).returncode == code, text


def test_a_replay_is_paused_stepped_and_left_by_keys(stand_in: StandIn) -> None:
    recorded(stand_in)
    with OnTerminal("replay", "claude-1") as client:
        client.see(b"lo\r\n")
        client.type(b" .")
        client.see(b"bye")
        assert client.end() == 0
        assert client.mode == client.before
    with OnTerminal("replay", "claude-1") as client:
        client.see(b"lo\r\n")
        client.type(b"\x1b[?62;1cq")
        assert client.end() == 0
        assert b"bye" not in client.seen


def test_asciinema_reads_what_is_exported(stand_in: StandIn, tmp_path: Path) -> None:
    recorded(stand_in)
    path = tmp_path / "x.cast"
    assert ctl("export", "claude-1", str(path)).code == 0
    header, *events = map(json.loads, path.read_text().splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, 100, 30)
    assert [one[1:] for one in events] == [
        ["o", "h"],
        ["o", "él\x1b[1mlo\r\n"],
        ["r", "90x20"],
        ["o", "bye \ufffd\r\n"],
    ]
    assert [one[0] for one in events] == [0, 0.25, 1.0, 3600.5]
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x.cast"]
    # It opens the terminal that it was started on.
    with OnTerminal("cat", str(path), program=["asciinema"]) as reader:
        assert reader.end() == 0, reader.seen
        assert "hél\x1b[1mlo\r".encode() in reader.seen
        assert "bye \ufffd\r".encode() in reader.seen


def test_an_export_replaces_nothing_and_leaves_nothing_partial(stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.agents.lines = [line(f"l{n}", 3 * n) for n in range(5)]
    path = tmp_path / "x.txt"
    path.write_text("mine")
    assert ctl("export", "claude-1", str(path), "--json").errors[0]["code"] == "file_exists"
    assert ctl("export", "claude-1", str(path), "--force").code == 0
    assert path.read_text().split() == ["l0", "l1", "l2", "l3", "l4"]
    assert ctl("export", "claude-1", str(tmp_path / "x.doc"), "--json").errors[0]["code"] == "format_unknown"
    assert ctl("export", "claude-1", str(tmp_path / "y.html")).code == 0
    stand_in.agents.refuse = Conflict("broken", "it broke")
    assert ctl("export", "claude-1", str(tmp_path / "z.cast")).code == 4
    assert sorted(os.listdir(tmp_path)) == ["x.txt", "y.html"]
