"""Bad days of all that stands around agents: daemons, supervisors and clients killed while lines flow."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from sessiond.errors import Unreachable
from sessiond.model.unit import daemon_unit
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.status import from_rpc_error
from tests.system.agents_case import Crew, crew_of, flowed, state
from tests.system.product import HOME, PATIENCE, Product, until
from tests.unit.cli_terminal_case import OnTerminal

SESSIONCTL = Path(sys.executable).parent / "sessionctl"
FOR_EVER = "while :; do sleep 1000; done"
KILLS = 20

# Numbered lines with their times on both streams, until a file says to stop.
LINES = """
import os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    for fd in (1, 2):
        lines = [b"%010d %020d\\n" % (number + n, time.monotonic_ns()) for n in range(int(sys.argv[2]))]
        os.write(fd, b"".join(lines))
    number += len(lines)
    time.sleep(float(sys.argv[3]))
os.write(1, b"%010d last words\\n" % number)
"""


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


def lines_of(crew: Crew, count: int, pause: float) -> tuple[pb.Agent, Path]:
    """An agent that writes so many lines after each pause, and the file that tells it to stop."""
    stop = f"{crew.product.row(crew.session)['path']}/stop"
    agent = crew.run(sys.executable, "-S", "-c", LINES, stop, str(count), str(pause), name="lines")
    return agent, crew.product.host.path(stop)


def killed_often(crew: Crew, agent: pb.Agent, times: int, *, near: bool = False) -> list[int]:
    """Kill the session's daemon so many times while the agent writes; returns when. With ``near`` those alone
    count around which lines were written, and there are more, up to four times as many."""
    host = crew.product.host
    stdout = host.path(f"{crew.folder(agent)}/stdout")
    kills: list[int] = []
    for _ in range(times * 4 if near else times):
        pid = crew.product.pid(crew.session)
        crew.unlimited()
        before = stdout.stat().st_size
        until(lambda before=before: stdout.stat().st_size > before, "lines to be written")  # type: ignore[misc]
        crew.product.kill(pid)
        kills.append(time.monotonic_ns())
        crew.product.back(crew.session, besides=pid)
        if near and flowed(stdout, kills) >= times:
            break
    # The channel has not noticed yet that the old one is gone.
    until(lambda: answers(crew, agent.id), "a new daemon to answer")
    return kills


def answers(crew: Crew, agent: str) -> bool:
    """Whether the daemon of the moment answers for it."""
    try:
        return state(crew.get(agent)) == "running"
    except Unreachable:
        return False


def numbers(lines: list[str]) -> list[int]:
    """The numbers of lines."""
    return [int(line.split()[0]) for line in lines]


# ---- the session's daemon


def test_lines_reach_the_journal_however_often_their_daemon_is_killed(crew: Crew) -> None:
    product = crew.product
    # Fewer than the journal takes of one user.
    agent, stop = lines_of(crew, 1, 0.01)
    killed_often(crew, agent, 8)
    stop.touch()
    assert crew.wait(agent.id).exit_status == 0
    total = len(crew.lines(agent.id))

    def told() -> list[str]:
        product.host.run(["journalctl", "--sync"], user=False)
        shown = product.host.run(["journalctl", "-o", "cat", f"USER_UNIT={agent.unit}"]).stdout.splitlines()
        return [line for line in shown if line[:10].isdigit()]

    until(lambda: len(told()) >= total, f"all {total} lines in the journal")
    seen = numbers(told())
    last = max(seen)
    # What was passed on and not yet noted when the daemon was killed comes again; nothing is lost.
    assert set(seen) == set(range(last + 1))
    assert len(seen) < 2 * (last + 1) * 1.2


def test_a_daemon_killed_under_a_flood_without_a_terminal_loses_and_doubles_no_line(crew: Crew) -> None:
    product = crew.product
    # All of it is to be held, however long the kills take.
    agent, stop = lines_of(crew, 4, 0.002)
    path = product.host.path(f"{HOME}/followed")
    product.write(f"{HOME}/followed", "")
    with path.open("wb") as out:
        follow = ["output", "lines", "--stream", "stdout", "-n", "10000", "-f"]
        follower = subprocess.Popen(product.host.argv([SESSIONCTL, *follow]), stdout=out)
        try:
            until(lambda: path.stat().st_size, "it to follow")
            kills = killed_often(crew, agent, KILLS, near=True)
            stop.touch()
            ended = crew.wait(agent.id)
            assert follower.wait(PATIENCE) == 0
        finally:
            follower.kill()
            follower.wait()
    assert (state(ended), ended.exit_status) == ("completed", 0)
    folder = product.host.path(crew.folder(agent))
    stdout, stderr = (folder / "stdout").read_bytes(), (folder / "stderr").read_bytes()
    assert flowed(folder / "stdout", kills) >= KILLS, f"of {len(kills)} kills"
    count = stdout.count(b"\n")
    assert ended.record_bytes == len(stdout) + len(stderr)
    for stream, held in (("stdout", count), ("stderr", count - 1)):
        told = numbers(product.ctl("output", "lines", "--stream", stream).splitlines())
        assert told == list(range(held)), stream
    followed = numbers(path.read_text().splitlines())
    assert followed == list(range(followed[0], count))
    # Times are noted in all of its lives, and never run backwards.
    request = pb.StreamRecordRequest(session=crew.session, agent=agent.id, stream=pb.OUTPUT_STREAM_STDOUT)
    pieces = [one for one in crew.stub.StreamRecord(request, timeout=PATIENCE) if one.data]
    assert b"".join(one.data for one in pieces) == stdout
    moments = [one.time.ToNanoseconds() for one in pieces]
    assert moments == sorted(moments)
    assert not any(one.gap for one in pieces)


@pytest.mark.parametrize("tty", [False, True])
def test_long_last_words_are_kept_though_no_daemon_was_there_to_hear_them(crew: Crew, tty: bool) -> None:
    product = crew.product
    folder = product.row(crew.session)["path"]
    size = 1 << 20
    script = (
        "import os, sys\nos.write(1, b'here\\n')\nopen('go').read()\n"
        f"left = b'w' * {size} + b'\\nlast words\\n'\n"
        "while left: left = left[os.write(1, left):]\nsys.exit(9)\n"
    )
    product.host.run(["mkfifo", f"{folder}/go"])
    agent = crew.run("python3", "-c", script, tty=tty)
    crew.printed(agent.id, "here")
    unit = daemon_unit(crew.session)
    product.write(f"{HOME}/hold", "")
    hold = f"[Service]\nExecStartPre=/bin/sh -c 'while [ -e {HOME}/hold ]; do sleep 0.05; done'\n"
    product.user_unit_drop_in(unit, hold)
    pid = product.pid(crew.session)
    product.kill(pid)
    product.host.run(["sh", "-c", f"echo > {folder}/go"])
    if not tty:
        # With a terminal it is held up in its last words until somebody takes them.
        until(lambda: product.host.show(agent.unit, "MainPID")["MainPID"] == "0", "its end")
    product.host.run(["rm", f"{HOME}/hold"])
    product.new_pid(crew.session, besides=pid)
    ended = crew.wait(agent.id)
    assert (state(ended), ended.exit_status) == ("failed", 9)
    assert [len(line) for line in crew.lines(agent.id)] == [4, 65536, 10]
    assert ended.record_bytes == 5 + size + 12 + 3 * tty
    [row] = [one for one in product.json("ps", "-a", crew.session) if one["id"] == agent.id]
    assert (row["state"], row["exit_status"], row["recording_problem"]) == ("failed", 9, None)
    assert product.host.sessionctl("wait", f"{crew.session}/{agent.id}", check=False).returncode == 9


# ---- the supervisor


class Joined:
    """One client of a terminal over any socket that serves agents."""

    def __init__(self, crew: Crew, agent: str, **start: Any) -> None:
        self._said: queue.Queue[pb.AttachAgentRequest | None] = queue.Queue()
        self._said.put(
            pb.AttachAgentRequest(session=crew.session, start=pb.AttachStart(agent=agent, **start))
        )
        # Long: it is open while much else is waited for.
        self.call = crew.stub.AttachAgent(
            iter(self._said.get, None), wait_for_ready=True, timeout=4 * PATIENCE
        )
        self.screen = next(self.call).screen
        self.seen = b""

    def type(self, data: bytes) -> None:
        """Type."""
        self._said.put(pb.AttachAgentRequest(input=data))

    def see(self, what: bytes) -> None:
        """Read until the output holds it."""
        while what not in self.seen:
            self.seen += next(self.call).output.data

    def close(self) -> None:
        """Hang up."""
        self._said.put(None)
        self.call.cancel()


def on_terminal(product: Product, *words: str, columns: int = 80, rows: int = 24) -> OnTerminal:
    """sessionctl inside, on a terminal of its own out here."""
    return OnTerminal(*words, columns=columns, rows=rows, program=product.host.argv([SESSIONCTL]))


def test_a_supervisor_that_is_killed_is_noticed_by_those_alone_who_came_through_it(crew: Crew) -> None:
    product = crew.product
    agent = crew.sh('while read -r word; do echo "<$word>"; done', tty=True, name="echo")
    through = Crew(product, crew.session, product.socket)
    with on_terminal(product, "attach", "echo") as person, ExitStack() as stack:
        stack.callback(through.close)
        direct, passed = Joined(crew, agent.id), Joined(through, agent.id)
        stack.callback(direct.close)
        stack.callback(passed.close)
        for number in range(3):
            person.type(b"before%d\r" % number)
            for client in (direct, passed):
                client.see(b"<before%d>" % number)
            person.see(b"<before%d>" % number)
            pid = product.kill_supervisor()
            with pytest.raises(grpc.RpcError) as lost:
                passed.see(b"never")
            error = from_rpc_error(lost.value)
            assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (error.code, error.hint) == ("supervisor_unreachable", "sessionctl up")
            shown = len(person.seen)
            person.type(b"after%d\r" % number)
            person.see(b"<after%d>" % number)
            direct.see(b"<after%d>" % number)
            # No redrawing, no message: bytes of the program alone.
            assert person.seen[shown:].split() == [b"after%d" % number, b"<after%d>" % number]
            assert product.supervisor_pid() == pid
            until(lambda: crew.get(agent.id).clients == 2, "the client that was cut off to be let go of")
            passed.close()
            passed = Joined(through, agent.id)
            stack.callback(passed.close)
            assert b"<after%d>" % number in passed.screen.data
        assert (state(crew.get(agent.id)), crew.get(agent.id).pid) == ("running", agent.pid)
        crew.kill(agent.id)
        assert person.end() == 0
        assert b"SIGKILL" in person.seen


# ---- clients


def test_a_client_that_is_killed_takes_its_size_with_it_and_nothing_else(crew: Crew) -> None:
    product = crew.product
    script = 'trap "stty size" WINCH; echo ready; while read -r word; do echo "<$word>"; done'
    agent = crew.run("bash", "-c", script, tty=True, name="shared")
    crew.printed(agent.id, "ready")

    def size() -> tuple[int, int, int]:
        now = crew.get(agent.id)
        return now.clients, now.columns, now.rows

    with on_terminal(product, "attach", "shared", "--size-policy", "smallest", columns=100, rows=30) as stays:
        stays.see(b"ready")
        until(lambda: size() == (1, 100, 30), "the size of the first")
        for _ in range(3):
            with on_terminal(product, "attach", "shared", columns=60, rows=20) as dies:
                dies.see(b"ready")
                until(lambda: size() == (2, 60, 20), "the size of the smaller one")
                [line] = product.host.run(["pgrep", "-f", "sessionctl attach shared$"]).stdout.split()
                product.kill(int(line))
                dies.end()
            until(lambda: size() == (1, 100, 30), "the size of the one that is left")
            stays.type(b"still\r")
            stays.see(b"<still>")
            stays.seen = b""
        assert (state(crew.get(agent.id)), crew.get(agent.id).pid) == ("running", agent.pid)
        crew.kill(agent.id)
        assert stays.end() == 0
    crew.gone()


def test_clients_that_are_killed_leave_nothing_open(crew: Crew) -> None:
    product = crew.product
    other = crew.sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done", name="other")
    crew.printed(other.id, "5")
    # What stays open for the next call is open before anything is counted.
    product.ctl("output", "other", "-n", "1")

    def opened() -> int:
        return len(os.listdir(f"/proc/{product.host.outer_pid(product.pid(crew.session))}/fd"))

    before = opened()
    for _ in range(3):
        running = [product.host.popen([SESSIONCTL, "output", "other", "-f"]) for _ in range(4)]
        for one in running:
            assert one.stdout is not None
            # It follows.
            assert one.stdout.readline()
        assert opened() >= before + len(running)
        for one in running:
            one.kill()
            one.wait()
        until(lambda: opened() <= before, "all that was open for them to be closed")
    crew.kill(other.id)
    crew.gone()
