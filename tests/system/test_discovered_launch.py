"""Conversations launched, gone on with and taken over on a real machine, with a program that stands in for
Claude Code."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from tests.system.discovery_case import settings
from tests.system.product import HOME, PATIENCE, Product, until

__all__ = ["settings"]

BIN = f"{HOME}/stand-in"
CLAUDE = f"{HOME}/.claude"
ENVIRONMENT = {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": HOME, "LANG": "C.UTF-8"}


@dataclass
class Claude:
    """The stand-in on one host, and a session that it is run in."""

    product: Product
    session: dict[str, Any]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    # ---- what is asked of the supervisor

    def spawn(self, **fields: Any) -> agents_pb2.SpawnAgentRequest:
        made: dict[str, Any] = {
            "session": self.session["id"],
            "environment": ENVIRONMENT,
            "tty": True,
            **fields,
        }
        return agents_pb2.SpawnAgentRequest(**made)

    def launch(self, prompt: str = "", *, spawn: Any = None, **fields: Any) -> Any:
        with self.product.client() as client:
            request = pb.LaunchAgentSessionRequest(
                adapter="claude-code", spawn=spawn or self.spawn(), prompt=prompt, **fields
            )
            return client.call(client.discovery.LaunchAgentSession, request, timeout=PATIENCE)

    def resume(self, word: str, prompt: str = "", **fields: Any) -> Any:
        with self.product.client() as client:
            request = pb.ResumeAgentSessionRequest(
                agent_session=word, spawn=self.spawn(session=""), prompt=prompt, **fields
            )
            return client.call(client.discovery.ResumeAgentSession, request, timeout=PATIENCE)

    def refused(self, code: str, word: str, prompt: str = "", **fields: Any) -> SessiondError:
        with pytest.raises(SessiondError) as caught:
            self.resume(word, prompt, **fields)
        assert caught.value.code == code
        return caught.value

    def rows(self) -> dict[str, Any]:
        """All rows by id."""
        with self.product.client() as client:
            request = pb.ListAgentSessionsRequest(filter=pb.AgentSessionFilter(include_stopped=True))
            answer = client.call(client.discovery.ListAgentSessions, request)
        return {one.id: one for one in answer.agent_sessions}

    def row(self, word: str) -> Any:
        """One, looked at anew."""
        with self.product.client() as client:
            request = pb.GetAgentSessionRequest(agent_session=word)
            return client.call(client.discovery.GetAgentSession, request).agent_session

    def until(self, word: str, status: str) -> Any:
        """One in a status."""
        return until(
            lambda: one if status_of(one := self.row(f"claude-code:{word}")) == status else None,
            f"{word} is {status}",
        )

    def type(self, agent: str, text: str) -> None:
        """Type into an agent's terminal as a person does."""
        with self.product.client() as client:
            request = agents_pb2.SendInputRequest(session=self.session["id"], agent=agent)
            request.parts.add(data=f"{text}\r".encode())
            client.call(client.agents.SendInput, request)

    def label(self, word: str, **labels: str) -> None:
        with self.product.client() as client:
            request = pb.LabelAgentSessionRequest(agent_session=word, set_labels=labels)
            client.call(client.discovery.LabelAgentSession, request)

    # ---- what is on the machine

    def start(self, *words: str, folder: str = "", **environment: str) -> int:
        """Started by hand, outside of any unit of ours; returns its pid inside."""
        said = ["sh", "-c", 'cd "$1" && shift && echo $$ && exec "$@"', "sh", folder or self.session["path"]]
        process = self.product.host.popen(
            [*said, f"{BIN}/claude", *words], env={**ENVIRONMENT, **environment}
        )
        self.processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def registered(self, pid: int) -> str:
        """The conversation that a process has open."""
        return until(lambda: self._registered(pid), f"process {pid} in the registry")

    def _registered(self, pid: int) -> str:
        done = self.product.host.run(["cat", f"{CLAUDE}/sessions/{pid}.json"], check=False)
        return "" if done.returncode else str(json.loads(done.stdout)["sessionId"])

    def lives(self, pid: int) -> bool:
        return self.product.host.run(["test", "-d", f"/proc/{pid}"], check=False).returncode == 0

    def transcript(self, conversation: str) -> str:
        folder = self.session["path"].replace("/", "-")
        return self.product.host.run(["cat", f"{CLAUDE}/projects/{folder}/{conversation}.jsonl"]).stdout


def status_of(row: Any) -> str:
    word: str = pb.AgentSessionStatus.Name(row.status)
    return word.removeprefix("AGENT_SESSION_STATUS_").lower()


@pytest.fixture
def claude(product: Product) -> Iterator[Claude]:
    python = product.host.run(["sh", "-c", "readlink -f $(command -v python3)"]).stdout.strip()
    source = (Path(__file__).parent / "claude_stand_in.py").read_text()
    product.write(f"{BIN}/claude", f"#!{python}\n{source}")
    product.host.run(["chmod", "+x", f"{BIN}/claude"])
    made = Claude(product, product.started())
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()
    # Programs in sessions, which write there too, are ended first.
    product.clean()
    product.rid(CLAUDE)


def test_one_row_from_the_launch_to_the_end_and_on(claude: Claude) -> None:
    product, session = claude.product, claude.session
    made = claude.launch("hello", spawn=claude.spawn(name="helper", labels={"team": "core"}))
    first = made.agent_session.id
    assert (made.agent_session.session, made.agent_session.agent) == (session["id"], made.agent.id)
    row = claude.until(first, "idle")
    assert list(claude.rows()) == [first]
    assert (row.agent_name, row.labels, row.first_prompt) == ("helper", {"team": "core"}, "hello")
    assert row.cwd == session["path"]
    # Another conversation in the same process is the agent's from now on.
    claude.type(made.agent.id, "/clear")
    claude.type(made.agent.id, "again")
    helper = f"{session['name']}/helper"
    second = until(
        lambda: one if (one := claude.row(helper)).id != first else None, "another conversation"
    ).id
    claude.until(second, "idle")

    def shown() -> dict[str, tuple[str, str, dict[str, str]]]:
        return {one.id: (status_of(one), one.agent_name, dict(one.labels)) for one in claude.rows().values()}

    expected = {first: ("stopped", "helper", {"team": "core"}), second: ("idle", "helper", {})}
    until(lambda: shown() == expected, "two rows")

    def told_again() -> None:
        """The same, sooner or later, and nothing false before: a daemon on its way up cannot be asked yet."""
        told: list[dict[str, tuple[str, str, dict[str, str]]]] = []

        def same() -> bool:
            told.append(shown())
            return told[-1] == expected

        until(same, "the same two rows")
        for rows in told:
            assert rows.keys() == expected.keys()
            for one, (status, *rest) in rows.items():
                assert status in (expected[one][0], "unknown")
                assert rest == list(expected[one][1:])

    # Nothing of this dies with a manager.
    product.kill_supervisor()
    told_again()
    pid = product.pid(session["id"])
    product.kill(pid)
    product.new_pid(session["id"], pid)
    told_again()
    product.restart_supervisor()
    told_again()
    # Typed to where it waits, in one piece.
    answer = claude.resume(second, "two\nlines")
    assert answer.typed
    until(lambda: "two\\nlines" in claude.transcript(second), "what was pasted")
    claude.until(second, "idle")
    # It ends, and is gone on with.
    claude.type(made.agent.id, "/exit")
    claude.until(second, "stopped")
    row = until(lambda: one if (one := claude.row(second)).HasField("ended_at") else None, "its end")
    assert (status_of(row), row.agent_name) == ("stopped", "helper")
    assert row.ended_at.ToSeconds() >= row.launched_at.ToSeconds()
    assert not claude.row(first).HasField("ended_at"), "it was left before"
    answer = claude.resume(first, "and on")
    assert not answer.typed
    assert answer.agent_session.labels == {"team": "core"}
    until(lambda: "did and on" in claude.transcript(first), "the answer")
    claude.until(first, "idle")
    assert {one.agent for one in claude.rows().values()} == {made.agent.id, answer.agent.id}


def test_a_supervisor_that_dies_over_launches_leaves_one_row_for_each(claude: Claude) -> None:
    product = claude.product
    claude.rows()
    with product.client() as client:
        calls = [
            client.discovery.LaunchAgentSession.future(
                pb.LaunchAgentSessionRequest(
                    adapter="claude-code",
                    spawn=claude.spawn(name=f"one-{number}", labels={"number": str(number)}),
                    prompt="hello",
                )
            )
            for number in range(4)
        ]
        until(lambda: product.json("ps", claude.session["id"]), "an agent")
        product.kill_supervisor()
        for call in calls:
            call.exception(timeout=PATIENCE)

    # Which agents there are is the init system's to say; each is one row, with what was asked for it.
    def agents() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = product.json("ps", claude.session["id"])
        return found if all(one["state"] == "running" for one in found) else []

    running = until(agents, "agents that run")

    def shown() -> dict[str, dict[str, str]]:
        return {one.agent_name: dict(one.labels) for one in claude.rows().values()}

    expected = {one["name"]: {"number": one["name"][-1]} for one in running}
    until(lambda: shown() == expected, "a row with its labels for each agent")
    assert len(claude.rows()) == len(running)


def test_sigkill_of_an_agent_is_heard_at_once(claude: Claude) -> None:
    product = claude.product
    made = claude.launch("hello")
    conversation = made.agent_session.id
    pid = claude.until(conversation, "idle").pid
    with product.client() as client:
        watch = client.discovery.WatchAgentSessions(pb.WatchAgentSessionsRequest(), timeout=PATIENCE)
        changes = iter(watch)
        while next(changes).WhichOneof("change") != "current":
            pass
        product.kill(pid, signal.SIGKILL)
        while (change := next(changes)).WhichOneof("change") != "removed":
            pass
        assert change.removed.id == conversation
        watch.cancel()
    # Its entry in the registry is as it was.
    assert claude._registered(pid) == conversation
    row = until(lambda: one if (one := claude.row(conversation)).HasField("ended_at") else None, "its end")
    assert (status_of(row), row.agent) == ("stopped", made.agent.id)


def test_print_mode(claude: Claude) -> None:
    prompt = "a prompt that is long " * 20_000
    made = claude.launch(prompt, spawn=claude.spawn(tty=False), print=True)
    conversation = made.agent_session.id
    row = until(lambda: one if (one := claude.row(conversation)).HasField("ended_at") else None, "its end")
    assert (status_of(row), row.agent) == ("stopped", made.agent.id)
    assert row.first_prompt.startswith("a prompt that is long")
    answer = claude.resume(conversation, "more", print=True)
    assert answer.agent.id != made.agent.id
    until(lambda: "did more" in claude.transcript(conversation), "the answer")
    assert list(claude.rows()) == [conversation]


def test_a_takeover_ends_what_was_started_by_hand(claude: Claude) -> None:
    pid = claude.start("-p")
    conversation = claude.registered(pid)
    claude.until(conversation, "running")
    error = claude.refused("agent_session_live", conversation)
    assert error.fields["pid"] == str(pid)
    claude.label(conversation, team="core")
    answer = claude.resume(conversation, "go on", take_over=True)
    assert answer.ended_pid == pid
    assert not claude.lives(pid)
    row = claude.until(conversation, "idle")
    assert (row.agent, row.session, row.labels) == (answer.agent.id, claude.session["id"], {"team": "core"})
    until(lambda: "did go on" in claude.transcript(conversation), "the answer")
    claude.until(conversation, "idle")
    # One of ours is left alone.
    again = claude.resume(conversation, "more", take_over=True)
    assert (again.typed, again.agent.id, again.HasField("ended_pid")) == (True, answer.agent.id, False)


def test_a_takeover_of_what_ignores_signals_and_of_what_has_no_folder(claude: Claude) -> None:
    pid = claude.start("-p", STUBBORN="1")
    conversation = claude.registered(pid)
    claude.until(conversation, "running")
    folder = claude.product.folder()
    claude.product.ctl("new", folder, "--start")
    other = claude.start("-p", folder=folder)
    lost = claude.registered(other)
    claude.until(lost, "running")
    claude.product.host.run(["mv", folder, f"{folder}-moved"])
    claude.refused("path_missing", lost, take_over=True)
    assert claude.lives(other)
    claude.product.host.run(["mv", f"{folder}-moved", folder])
    request = pb.ResumeAgentSessionRequest(
        agent_session=conversation, spawn=claude.spawn(session=""), take_over=True
    )
    request.stop_timeout.FromMilliseconds(200)
    with claude.product.client() as client:
        answer = client.call(client.discovery.ResumeAgentSession, request, timeout=PATIENCE)
    assert answer.ended_pid == pid
    assert not claude.lives(pid)
    assert claude.until(conversation, "idle").agent == answer.agent.id


def test_a_recycled_pid_is_neither_taken_for_it_nor_ended(claude: Claude) -> None:
    made = claude.launch("hello")
    conversation = made.agent_session.id
    pid = claude.until(conversation, "idle").pid
    entry = json.loads(claude.product.host.run(["cat", f"{CLAUDE}/sessions/{pid}.json"]).stdout)
    claude.product.kill(pid)
    claude.until(conversation, "stopped")
    other = claude.start("-p")
    claude.registered(other)
    # As it looks where another process got its pid.
    claude.product.write(f"{CLAUDE}/sessions/{other}.json", json.dumps({**entry, "pid": other}))
    answer = claude.resume(conversation, "go on", take_over=True)
    assert not answer.HasField("ended_pid")
    assert claude.lives(other)
    assert claude.until(conversation, "idle").agent == answer.agent.id


def test_what_a_program_runs_of_its_own_kind_is_another_row(claude: Claude) -> None:
    made = claude.launch("hello", spawn=claude.spawn(name="helper"))
    outer = made.agent_session.id
    claude.until(outer, "idle")
    claude.type(made.agent.id, "/inner")
    rows = until(lambda: found if len(found := claude.rows()) == 2 else None, "two rows")
    [inner] = rows.keys() - {outer}
    assert {one.agent_name for one in rows.values()} == {"helper"}
    helper = f"{claude.session['name']}/helper"
    assert claude.row(helper).id == outer
    # Who cannot tell which came first says the same.
    claude.product.kill_supervisor()
    assert claude.row(helper).id == outer
    assert claude.rows().keys() == {outer, inner}
    error = claude.refused("agent_session_busy", inner, "typed")
    assert "whose terminal is another's" in error.message
    claude.product.kill(claude.row(inner).pid)
    claude.until(inner, "stopped")
    assert status_of(claude.row(outer)) == "running"


def test_two_at_once_start_one(claude: Claude) -> None:
    made = claude.launch("hello", spawn=claude.spawn(tty=False), print=True)
    conversation = made.agent_session.id
    claude.until(conversation, "stopped")
    with claude.product.client() as client:
        request = pb.ResumeAgentSessionRequest(
            agent_session=conversation, spawn=claude.spawn(session=""), prompt="go on"
        )
        calls = [client.discovery.ResumeAgentSession.future(request, timeout=PATIENCE) for _ in range(4)]
        answers = [call.result() for call in calls if call.exception() is None]
    # Who came later was refused, or typed to what was started by then.
    assert [one.typed for one in answers].count(False) == 1
    assert len({one.agent.id for one in answers}) == 1
    claude.until(conversation, "idle")
