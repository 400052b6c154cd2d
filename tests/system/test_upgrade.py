"""An upgrade from an installed older wheel to a newer one elsewhere: agents write on, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessiond.client.sync import Supervisor
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import daemon_pb2
from sessiond.testing.host import HOME, Host
from tests.system.conftest import _booted as booted
from tests.system.product import PATIENCE, Product, daemon_unit, until
from tests.system.wheels import installation

OLDER, NEWER = "0.0.8", "99.1.0"
LAUNCHER = f"{HOME}/.local/share/sessiond/launcher"

# Numbers without a gap, until it is told to end; then how many there were. All of them are to be held,
# however long the upgrades take.
WRITER = """
import os, sys, time
number = 0
while not os.path.exists(sys.argv[1]):
    for _ in range(2):
        number += 1
        print("line", number)
    sys.stdout.flush()
    time.sleep(0.001)
print("last", number)
"""


class Two:
    """A host with an older installation that runs, and a newer one beside it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.product = Product(host)
        self.older = installation(host, "older", OLDER)
        self.newer = installation(host, "newer", NEWER)
        host.run([self.older, "install"])
        self.product.serving()

    def upgrade(self, *words: str, check: bool = True) -> Any:
        """What the newer installation's `upgrade --json` prints, and its exit status."""
        done = self.host.run([self.newer, "upgrade", "--json", *words], check=check, timeout=180)
        return json.loads(done.stdout) if done.stdout else None, done

    def launcher(self) -> str:
        return self.host.run(["readlink", LAUNCHER]).stdout.strip()

    def daemon_version(self, session: str) -> str:
        with Supervisor(self.product.daemon_socket(session)) as daemon:
            request = daemon_pb2.GetDaemonInfoRequest(session=session)
            return str(daemon.call(daemon.daemon.GetDaemonInfo, request).version)

    def spawn(self, session: str, name: str, *, tty: bool, stop: str) -> pb.Agent:
        request = pb.SpawnAgentRequest(
            session=session,
            name=name,
            tty=tty,
            command=["/usr/bin/env", "python3", "-c", WRITER, stop],
            environment={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": HOME},
        )
        with self.product.client() as client:
            agent: pb.Agent = client.call(client.agents.SpawnAgent, request).agent
            return agent

    def agent(self, agent: pb.Agent) -> pb.Agent:
        with self.product.client() as client:
            request = pb.GetAgentRequest(session=agent.session, agent=agent.id)
            found: pb.Agent = client.call(client.agents.GetAgent, request).agent
            return found

    def printing(self, agent: pb.Agent) -> pb.Agent:
        """The agent once some of its output is held."""

        def look() -> pb.Agent | None:
            found = self.agent(agent)
            return found if found.record_bytes else None

        return until(look, f"output of {agent.name}")

    def ended(self, agent: pb.Agent) -> pb.Agent:
        with self.product.client() as client:
            request = pb.WaitAgentRequest(session=agent.session, agent=agent.id)
            found: pb.Agent = client.call(client.agents.WaitAgent, request, timeout=PATIENCE).agent
            return found

    def output(self, agent: pb.Agent) -> bytes:
        with self.product.client() as client:
            request = pb.StreamRecordRequest(session=agent.session, agent=agent.id)
            stream = client.stream(client.agents.StreamRecord, request, timeout=PATIENCE)
            messages = list(stream)
        assert not [one for one in messages if one.gap]
        return b"".join(one.data for one in messages)


@pytest.fixture(scope="module")
def both(_swept: None) -> Iterator[Two]:
    with booted() as host:
        yield Two(host)


@pytest.fixture
def two(both: Two) -> Iterator[Two]:
    """Both installations, the older one in place; no session is left afterwards."""
    if both.launcher() != f"{HOME}/older/bin/sessiond":
        both.host.run([both.older, "upgrade", "--force"], timeout=180)
    yield both
    both.product.clean()


def test_agents_write_on_through_an_upgrade_and_no_byte_is_lost(two: Two) -> None:
    product = two.product
    sessions = [product.started()["id"] for _ in range(3)]
    idle = product.new()["id"]
    assert {two.daemon_version(one) for one in sessions} == {OLDER}
    stop = f"{HOME}/stop"
    agents = [
        two.spawn(session, f"writer-{int(tty)}", tty=tty, stop=stop)
        for session in sessions
        for tty in (True, False)
    ]
    before = [two.printing(one) for one in agents]
    supervisor = product.supervisor_pid()

    plan, _ = two.upgrade("--dry-run")
    assert sorted(one["id"] for one in plan["sessions"]) == sorted(sessions)
    assert two.launcher() == f"{HOME}/older/bin/sessiond"

    told, _ = two.upgrade()
    assert two.launcher() == told["program"] == f"{HOME}/newer/bin/sessiond"
    assert (told["supervisor"]["from"], told["supervisor"]["to"]) == (OLDER, NEWER)
    assert told["supervisor"]["pid"] == product.supervisor_pid() != supervisor
    assert product.info().version == NEWER
    assert sorted((one["id"], one["ok"], one["from"], one["to"]) for one in told["sessions"]) == [
        (one, True, OLDER, NEWER) for one in sorted(sessions)
    ]
    assert {two.daemon_version(one) for one in sessions} == {NEWER}
    assert product.state(idle) == "inactive"

    after = [two.agent(one) for one in agents]
    assert [one.pid for one in after] == [one.pid for one in before]
    assert all(now.record_bytes > then.record_bytes for now, then in zip(after, before, strict=True))
    product.write(stop, "")
    for one in agents:
        assert two.ended(one).exit_status == 0
        lines = two.output(one).replace(b"\r\n", b"\n").decode().splitlines()
        count = int(lines.pop().removeprefix("last "))
        assert lines == [f"line {number}" for number in range(1, count + 1)]

    again, _ = two.upgrade()
    assert again["changed"] == []
    assert [one["ok"] for one in again["sessions"]] == [True] * 3


def test_an_installation_that_cannot_serve_is_not_left_in_place(two: Two) -> None:
    session = two.product.started()["id"]
    pid = two.product.pid(session)
    program = two.host.path(f"{HOME}/newer/bin/sessiond")
    whole = program.read_text()
    program.write_text("#!/bin/sh\nexit 9\n")
    try:
        told, done = two.upgrade(check=False)
    finally:
        program.write_text(whole)
    assert (told, done.returncode) == (None, 1)
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "upgrade_failed"
    assert two.launcher() == f"{HOME}/older/bin/sessiond"
    two.product.serving()
    assert two.product.info().version == OLDER
    assert two.product.pid(session) == pid


def test_one_daemon_that_does_not_come_back_is_told_and_the_others_are_upgraded(two: Two) -> None:
    product = two.product
    good, bad = product.started()["id"], product.started()["id"]
    drop_in = "[Service]\nExecStartPre=/bin/false\n"
    product.user_unit_drop_in(daemon_unit(bad), drop_in)
    told, done = two.upgrade(check=False)
    assert done.returncode == 1
    assert {one["id"]: one["ok"] for one in told["sessions"]} == {good: True, bad: False}
    assert two.daemon_version(good) == NEWER


def test_an_older_installation_takes_over_only_when_it_is_forced(two: Two) -> None:
    session = two.product.started()["id"]
    two.upgrade()
    back = two.host.run([two.older, "upgrade", "--json"], check=False)
    assert json.loads(back.stderr.splitlines()[-1])["error"]["code"] == "installation_older"
    assert two.daemon_version(session) == NEWER
    two.host.run([two.older, "upgrade", "--force"], timeout=180)
    assert two.product.info().version == two.daemon_version(session) == OLDER


def test_without_an_installation_there_is_nothing_to_upgrade(fresh_host: Callable[..., Host]) -> None:
    host = fresh_host()
    done = host.sessionctl("upgrade", "--json", check=False)
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "not_installed"
