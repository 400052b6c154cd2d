"""Conversations on a real machine: files as Claude Code writes them, real processes, a real supervisor."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sessiond.rpc._generated.v1 import discovery_pb2, system_pb2
from tests.system.discovery_case import finders, settings
from tests.system.product import HOME, INSIDE_ROOTS, PATIENCE, Product, until

__all__ = ["settings"]

CLAUDE = f"{HOME}/.claude"
# Registers the process that runs it as the program itself does, under whose name, then stays.
PROGRAM = """
import json, os, sys, time
open("/proc/self/comm", "w").write("claude")
_, session, status, waiting = sys.argv
stat = open("/proc/self/stat").read()
entry = {"pid": os.getpid(), "sessionId": session, "cwd": os.getcwd(), "kind": "interactive",
         "procStart": stat.rpartition(")")[2].split()[19], "status": status, "waitingFor": waiting}
folder = os.path.expanduser("~/.claude/sessions")
os.makedirs(folder, exist_ok=True)
path = f"{folder}/{os.getpid()}.json"
with open(path + ".new", "w") as file:
    json.dump(entry, file)
os.rename(path + ".new", path)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@dataclass
class Claude:
    """Files and processes of Claude Code, made by hand."""

    product: Product
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def transcript(self, cwd: str, *, prompt: str = "hello") -> str:
        """A conversation in a folder; returns its id."""
        session = str(uuid.uuid4())
        common = {"sessionId": session, "cwd": cwd, "timestamp": "2026-01-02T03:04:05.000Z"}
        said = [
            {"type": "user", "message": {"role": "user", "content": prompt}},
            {
                "type": "assistant",
                "message": {
                    "role": "assistant",
                    "model": "m",
                    "stop_reason": "end_turn",
                    "content": [{"type": "text", "text": "done"}],
                },
            },
        ]
        lines = [json.dumps({**one, **common, "uuid": str(uuid.uuid4())}) for one in said]
        self.product.write(self.path(session, cwd), "\n".join(lines) + "\n")
        return session

    def path(self, session: str, cwd: str) -> str:
        """Where its transcript lies."""
        return f"{CLAUDE}/projects/{cwd.replace('/', '-')}/{session}.jsonl"

    def run(self, session: str, status: str = "busy", waiting: str = "") -> int:
        """A process that has it open, started by hand; returns its pid inside."""
        process = self.product.host.popen(["python3", "-c", PROGRAM, session, status, waiting])
        self.processes.append(process)
        assert process.stdout is not None
        return int(process.stdout.readline())


@pytest.fixture
def claude(product: Product) -> Iterator[Claude]:
    made = Claude(product)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    product.clean()
    product.rid(CLAUDE)


def rows(product: Product, *words: str) -> dict[str, dict[str, Any]]:
    """What `discovered --json` prints, by id."""
    return {row["id"]: row for row in product.json("discovered", *words)}


def shown(product: Product, session: str) -> dict[str, Any]:
    """One row of all, over gRPC and without a process."""
    with product.client() as client:
        request = discovery_pb2.GetAgentSessionRequest(agent_session=f"claude-code:{session}")
        one = client.call(client.discovery.GetAgentSession, request).agent_session
        word = discovery_pb2.AgentSessionStatus.Name(one.status)
        return {
            "status": word.removeprefix("AGENT_SESSION_STATUS_").lower(),
            "pid": one.pid,
            "activity": one.activity,
            "agent": one.agent_name,
        }


def test_what_was_started_by_hand_is_shown_and_its_end_is_heard(product: Product, claude: Claude) -> None:
    folder = product.folder()
    session, other = claude.transcript(folder, prompt="mend the roof"), claude.transcript(folder)
    pid = claude.run(session)
    found = rows(product, "-a")
    assert (found[session]["status"], found[session]["pid"]) == ("running", pid)
    assert (found[session]["first_prompt"], found[session]["cwd"]) == ("mend the roof", folder)
    assert (found[session]["session"], found[session]["agent"]) == (None, None)
    assert (found[other]["status"], found[other]["pid"]) == ("stopped", None)
    assert set(rows(product)) == {session}
    with product.client() as client:
        watch = client.discovery.WatchAgentSessions(
            discovery_pb2.WatchAgentSessionsRequest(), timeout=PATIENCE
        )
        changes = iter(watch)
        told = []
        while (change := next(changes)).WhichOneof("change") != "current":
            told.append(change.agent_session.id)
        assert set(told) == {session}
        product.kill(pid)
        # Told by the end of the process: its entry in the registry stays as it was.
        while (change := next(changes)).WhichOneof("change") == "agent_session":
            assert change.agent_session.id == session
        assert change.removed.id == session
        watch.cancel()
    assert rows(product) == {}
    assert shown(product, session)["status"] == "stopped"


def test_a_recycled_pid_is_no_life(product: Product, claude: Claude) -> None:
    session = claude.transcript(product.folder())
    pid = claude.run(session)
    assert shown(product, session)["status"] == "running"
    entry = json.loads(product.host.run(["cat", f"{CLAUDE}/sessions/{pid}.json"]).stdout)
    entry["procStart"] = str(int(entry["procStart"]) + 1)
    product.write(f"{CLAUDE}/sessions/{pid}.json", json.dumps(entry))
    until(lambda: shown(product, session)["status"] == "stopped", "another process of that pid")


def test_an_agent_of_ours_is_one_row_and_ps_says_what_it_does(product: Product, claude: Claude) -> None:
    made = product.started()
    session = claude.transcript(made["path"])
    words = ("-s", made["id"], "--name", "helper", "-d", "--no-tty", "--")
    program = ("python3", "-c", PROGRAM, session, "waiting", "permission prompt")
    product.ctl("run", *words, *program)
    until(
        lambda: (now := shown(product, session))["status"] == "waiting" and now["agent"],
        "the agent's entry in the registry",
    )
    [row] = [one for one in rows(product).values() if one["id"] == session]
    assert (row["session"], row["agent_name"], row["activity"]) == (
        made["id"],
        "helper",
        "waiting for permission",
    )
    [agent] = product.json("ps", made["id"])
    assert (agent["state"], agent["activity"]) == ("running", "waiting for permission")
    assert row["agent"] == agent["id"]
    assert rows(product, "--session", made["id"]).keys() == {session}
    product.ctl("kill", f"{made['name']}/helper")
    until(lambda: shown(product, session)["status"] == "stopped", "the end of the agent")


def test_labels_outlive_supervisors(product: Product, claude: Claude) -> None:
    session = claude.transcript(product.folder())
    product.ctl("tag", session[:8], "team=core", "--group", "night")
    product.kill_supervisor()
    found = rows(product, "-a", "--label", "team=core", "--group", "night")
    assert found.keys() == {session}
    assert found[session]["labels"] == {"team": "core"}
    # And the conversation that it is of, where its file comes back.
    path = claude.path(session, found[session]["cwd"])
    product.host.run(["mv", path, f"{HOME}/away"])
    assert session not in rows(product, "-a", "--refresh")
    product.host.run(["mv", f"{HOME}/away", path])
    until(lambda: rows(product, "-a", "--label", "team=core").keys() == {session}, "the file again")


def test_pages(product: Product, claude: Claude) -> None:
    folder = product.folder()
    sessions = {claude.transcript(folder) for _ in range(5)}
    seen: list[str] = []
    token = ""
    with product.client() as client:
        while True:
            request = discovery_pb2.ListAgentSessionsRequest(page_size=2, page_token=token, refresh=not seen)
            request.filter.include_stopped = True
            answer = client.call(client.discovery.ListAgentSessions, request)
            seen += [one.id for one in answer.agent_sessions]
            token = answer.next_page_token
            if not token:
                break
    assert len(seen) == len(set(seen))
    assert set(seen) == sessions


def test_what_cannot_be_read_is_told(product: Product, claude: Claude) -> None:
    session = claude.transcript(product.folder())
    assert shown(product, session)["status"] == "stopped"
    product.write(f"{CLAUDE}/sessions/4194303.json", "no JSON")

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = product.json("discovered", "--errors")
        return [one for one in found if (one["path"] or "").endswith("4194303.json")]

    [problem] = until(told, "the file that cannot be read")
    assert (problem["adapter"], problem["code"]) == ("claude-code", "file_malformed")
    with product.client() as client:
        checks = client.call(client.system.RunDoctor, system_pb2.RunDoctorRequest()).checks
    [row] = [one for one in checks if one.check == "agent_files"]
    assert row.status == "warning"
    assert "4194303.json" in row.detail
    product.host.run(["rm", f"{CLAUDE}/sessions/4194303.json"])
    until(lambda: not told(), "the file is gone")


def test_a_folder_that_an_agent_ran_in_is_a_candidate(product: Product, claude: Claude) -> None:
    inside, outside = product.folder("ran", under=INSIDE_ROOTS), product.folder()
    made = product.new()
    for folder in (inside, inside, outside, made["path"]):
        claude.transcript(folder)
    until(lambda: len(rows(product, "-a", "--refresh")) == 4, "the conversations")
    with product.client() as client:
        request = discovery_pb2.ScanWorkspacesRequest()
        every = client.call(client.discovery.ScanWorkspaces, request).candidates
        request.paths.append(INSIDE_ROOTS)
        below = client.call(client.discovery.ScanWorkspaces, request).candidates
    assert {one.path: dict(one.agent_sessions) for one in every} == {
        inside: {"claude-code": 2},
        outside: {"claude-code": 1},
    }
    assert {one.path: dict(one.agent_sessions) for one in below} == {inside: {"claude-code": 2}}


def test_the_finder_is_at_hand_before_anybody_asks_and_may_be_killed_then(
    product: Product, claude: Claude
) -> None:
    session = claude.transcript(product.folder())
    for killed in (False, True):
        product.restart_supervisor()
        until(lambda: finders(product).keys() == {"sessiond-finder"}, "the finder, and no adapter")
        ready = finders(product)["sessiond-finder"]
        if killed:
            product.kill(ready)
            until(lambda: not finders(product), "its end")
        assert set(rows(product, "-a")) == {session}
        now = finders(product)
        assert now.keys() > {"sessiond-finder", "find:claude-cod"}
        assert (now["sessiond-finder"] == ready) is not killed


def test_nothing_of_discovery_runs_until_somebody_asks_nor_after_the_supervisor(product: Product) -> None:
    pid = product.restart_supervisor()

    def processes() -> list[int]:
        group = product.host.show("sessiond.service", "ControlGroup")["ControlGroup"]
        text = product.host.run(["cat", f"/sys/fs/cgroup{group}/cgroup.procs"]).stdout
        return sorted(map(int, text.split()))

    assert processes() == [pid]
    rows(product)
    started = processes()
    assert len(started) > 2
    product.kill(pid, signal.SIGKILL)
    fresh = product.serving(besides=pid)
    assert processes() == [fresh]
    alive = [
        one
        for one in started
        if product.host.run(["test", "-d", f"/proc/{one}"], check=False).returncode == 0
    ]
    assert not alive
