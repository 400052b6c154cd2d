"""Terminals on a real systemd: no byte is lost or doubled, whenever their daemon is killed."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import grpc
import pytest

from sessiond.errors import Unreachable
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.system.agents_case import Crew, crew_of, flowed, state
from tests.system.product import PATIENCE, Product, until

KILLS = 20

# Numbered lines that tell when they were written, for ever, until a file says to stop; what was written is
# kept beside. Slow enough for the kernel's buffer to outlast a kill: one that is blocked proves nothing. And
# for all of it to be held, however long the kills take.
FLOOD = """
import os, sys, time, tty
tty.setraw(1)
own = open(sys.argv[1], "wb", buffering=0)
number = 0
while not os.path.exists(sys.argv[2]):
    lines = []
    for _ in range(4):
        lines.append(b"%010d %020d\\n" % (number, time.monotonic_ns()))
        number += 1
    data = b"".join(lines)
    own.write(data)
    while data:
        data = data[os.write(1, data):]
    time.sleep(0.001)
own.close()
"""

# Numbered lines in bursts, until a file says to stop; how many they were is kept beside.
BURSTS = """
import os, sys, time, tty
tty.setraw(1)
number = 0
while not os.path.exists(sys.argv[2]):
    data = b"".join(b"%015d\\n" % count for count in range(number, number + 512))
    number += 512
    while data:
        data = data[os.write(1, data):]
    time.sleep(0.004)
open(sys.argv[1], "w").write(str(number))
"""


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


def test_a_kill_at_any_moment_of_a_flood_loses_and_doubles_nothing(crew: Crew) -> None:
    host = crew.product.host
    folder = crew.product.row(crew.session)["path"]
    own, stop = f"{folder}/own", f"{folder}/stop"
    agent = crew.run(sys.executable, "-S", "-c", FLOOD, own, stop, tty=True)
    wrote = host.path(own)
    record = host.path(f"{crew.folder(agent)}/record")
    kills: list[int] = []

    def grown() -> bool:
        before = record.stat().st_size
        return until(lambda: record.stat().st_size > before, "the record to grow")

    for _ in range(KILLS * 4):
        crew.unlimited()
        grown()
        pid = host.outer_pid(crew.product.pid(crew.session))
        grown()
        os.kill(pid, signal.SIGKILL)
        kills.append(time.monotonic_ns())
        until(partial(_gone, pid), "the daemon to be dead")
        until(partial(_answers, crew, agent.id), "a new daemon to answer")
        if flowed(wrote, kills) >= KILLS:
            break
    host.path(stop).touch()
    ended = crew.wait(agent.id)
    assert (state(ended), ended.exit_status) == ("completed", 0)
    printed, recorded = wrote.read_bytes(), record.read_bytes()
    # Told by the line where it begins: a difference of megabytes is no message.
    lines = zip(recorded.splitlines(), printed.splitlines(), strict=False)
    assert next((pair for pair in lines if pair[0] != pair[1]), None) is None
    assert len(recorded) == len(printed)
    assert ended.record_bytes == len(recorded)
    assert flowed(wrote, kills) >= KILLS, f"of {len(kills)} kills"


def test_a_kill_between_a_terminal_and_its_record_loses_and_doubles_nothing(crew: Crew) -> None:
    host = crew.product.host
    folder = crew.product.row(crew.session)["path"]
    own, stop = f"{folder}/own", f"{folder}/stop"
    agent = crew.run(sys.executable, "-S", "-c", BURSTS, own, stop, tty=True)
    for _ in range(3):
        crew.unlimited()
        pid = host.outer_pid(crew.product.pid(crew.session))
        with ExitStack() as stack:
            pipes = [stack.enter_context(open(path, "rb", buffering=0)) for path in _pipes(pid)]
            assert pipes, "none is a terminal's"
            until(partial(_caught, pid, [pipe.fileno() for pipe in pipes]), "bytes on their way")
        os.kill(pid, signal.SIGKILL)
        until(partial(_gone, pid), "the daemon to be dead")
        until(partial(_answers, crew, agent.id), "a new daemon to answer")
    host.path(stop).touch()
    ended = crew.wait(agent.id)
    printed = int(host.path(own).read_text())
    assert ended.record_bytes == printed * 16
    # What is held of it: the front may have been let go of.
    first = -(-ended.record_start // 16)
    with host.path(f"{crew.folder(agent)}/record").open("rb") as record:
        record.seek(first * 16)
        # In parts: the longer the kills took, the more there is.
        for begin in range(first, printed, 10_000):
            part = range(begin, min(begin + 10_000, printed))
            assert record.read(16 * len(part)) == b"".join(b"%015d\n" % number for number in part)
        assert not record.read(1)


def _pipes(pid: int) -> list[str]:
    """The pipes that a process has open by one descriptor for both ends."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        # What is closed meanwhile is not one of them.
        with suppress(FileNotFoundError):
            with open(f"/proc/{pid}/fdinfo/{name}") as info:
                flags = next(int(line.split()[1], 8) for line in info if line.startswith("flags:"))
            if os.readlink(path).startswith("pipe:") and flags & os.O_ACCMODE == os.O_RDWR:
                found.append(path)
    return found


def _caught(pid: int, pipes: Sequence[int]) -> bool:
    """Stop a process the moment that one of its pipes holds bytes; whether it still does then."""
    if not any(any(map(_waiting, pipes)) for _ in range(100_000)):
        return False
    os.kill(pid, signal.SIGSTOP)
    until(lambda: _letter(pid) == "T", "the process to be stopped")
    if any(map(_waiting, pipes)):
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def _waiting(pipe: int) -> int:
    """How many bytes a pipe holds."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(count)


def _letter(pid: int) -> str:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()


def _answers(crew: Crew, agent: str) -> bool:
    try:
        crew.get(agent)
    except Unreachable:
        # The channel has not noticed yet that the old one is gone.
        return False
    return True


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Attached:
    """One client of a terminal over the daemon's socket."""

    def __init__(self, crew: Crew, agent: str, **start: Any) -> None:
        self._said: queue.Queue[pb.AttachAgentRequest | None] = queue.Queue()
        self.say(session=crew.session, start=pb.AttachStart(agent=agent, **start))
        # Long: it is open while much else is waited for.
        self._call = crew.stub.AttachAgent(
            iter(self._said.get, None), wait_for_ready=True, timeout=4 * PATIENCE
        )
        self.screen = next(self._call).screen
        self.seen = b""

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._said.put(pb.AttachAgentRequest(**message))

    def until(self, what: bytes) -> None:
        """Read until the output holds it."""
        while what not in self.seen:
            self.seen += next(self._call).output.data

    def last(self) -> pb.AttachAgentResponse:
        """The last message."""
        *_, last = self._call
        assert isinstance(last, pb.AttachAgentResponse)
        return last

    def close(self) -> None:
        """Hang up."""
        self._said.put(None)
        self._call.cancel()


def test_clients_come_back_to_the_same_screen_after_a_kill(crew: Crew) -> None:
    # Tells its size when that changes, and what is typed: bash runs a trap once it has read a line.
    script = 'trap "stty size" WINCH; echo ready; while read -r line; do echo "<$line>"; done; exit 3'
    agent = crew.run("bash", "-c", script, tty=True, columns=100, rows=30)
    crew.printed(agent.id, "ready")
    first = Attached(crew, agent.id, size=pb.TerminalSize(columns=100, rows=30))
    second = Attached(crew, agent.id, read_only=True)
    first.say(input=b"one\n")
    first.until(b"<one>")
    second.until(b"<one>")
    assert crew.get(agent.id).clients == 2
    pid = crew.kill_daemon()
    for client in (first, second):
        with pytest.raises((grpc.RpcError, StopIteration)):
            client.until(b"never")
        client.close()
    again = Attached(crew, agent.id, size=pb.TerminalSize(columns=90, rows=20))
    assert b"<one>" in again.screen.data
    again.say(input=b"two\n")
    again.until(b"<two>")
    again.until(b"20 90")
    again.say(input=b"\x04")
    last = again.last()
    assert (last.ended.exit_status, last.ended.id) == (3, agent.id)
    again.close()
    assert crew.product.pid(crew.session) == pid
    screen = crew.call("GetScreen", agent=agent.id)
    assert "<two>" in screen.content
    assert (screen.size.columns, screen.size.rows) == (90, 20)


def test_a_restart_of_the_daemon_keeps_the_screen_and_drops_no_terminal(crew: Crew) -> None:
    agent = crew.sh("printf '\\033[?1049h\\033[2J\\033[3;5Hin the alternate screen'; sleep 1000", tty=True)
    until(lambda: "in the alternate screen" in crew.call("GetScreen", agent=agent.id).content, "the screen")
    before = crew.call("GetScreen", agent=agent.id, format=pb.SCREEN_FORMAT_ANSI)
    assert before.alternate
    pid = crew.product.pid(crew.session)
    crew.product.host.systemctl("restart", f"sessiond-session@{crew.session}.service")
    crew.product.new_pid(crew.session, besides=pid)
    assert crew.call("GetScreen", agent=agent.id, format=pb.SCREEN_FORMAT_ANSI) == before
    assert state(crew.get(agent.id)) == "running"
    assert state(crew.kill(agent.id)) == "terminated"
