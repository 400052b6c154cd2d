"""Conversations on a host: files as agent programs write them, stand-ins that have them open, followers."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc._generated.v1 import system_pb2
from sessiond.rpc.status import from_rpc_error
from tests.system.product import CONFIG, HOME, PATIENCE, SUPERVISOR, Product, until

CLAUDE = f"{HOME}/.claude"
CODEX = f"{HOME}/.codex"
# Where no test is about it, an adapter is given up for nothing but that it hangs: on a busy machine it may be
# kept waiting for long.
PATIENT = "[adapters]\ndeadline = 60.0\n"
# Adapters are given up soon, and yet not for being kept waiting on a busy machine.
HASTY = "[adapters]\ndeadline = 4.0\n"
# Registers the process that runs it as Claude Code does, under whose name, then stays.
REGISTERED = """
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
# Holds a conversation's lock as Codex does, under whose name.
LOCKING = """
import fcntl, os, sys, time
open("/proc/self/comm", "w").write("codex")
folder = os.path.expanduser("~/.codex/thread-writer-locks")
os.makedirs(folder, exist_ok=True)
file = open(f"{folder}/{sys.argv[1]}.lock", "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


@dataclass
class Programs:
    """Files and processes of agent programs, made by hand."""

    product: Product
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    # ---- Claude Code

    def transcript(self, cwd: str, *, prompt: str = "hello", session: str = "", **common: Any) -> str:
        """A conversation of Claude Code in a folder; returns its id."""
        session = session or str(uuid.uuid4())
        self.product.write(transcript_path(session, cwd), transcript_text(session, cwd, prompt, **common))
        return session

    def claude(self, session: str, status: str = "busy", waiting: str = "") -> int:
        """A process that has it open, started by hand; returns its pid inside."""
        return self.start("python3", "-c", REGISTERED, session, status, waiting)

    def entry(self, pid: int) -> dict[str, Any]:
        """What the registry says of a process."""
        found: dict[str, Any] = json.loads(
            self.product.host.path(f"{CLAUDE}/sessions/{pid}.json").read_text()
        )
        return found

    def register(self, pid: int, session: str, **fields: Any) -> None:
        """An entry of the registry, whatever is true."""
        entry = {"pid": pid, "sessionId": session, "cwd": HOME, "status": "busy", **fields}
        self.product.write(f"{CLAUDE}/sessions/{pid}.json", json.dumps(entry))

    # ---- Codex

    def rollout(self, cwd: str, *, session: str = "") -> str:
        """A conversation of Codex in a folder; returns its id."""
        session = session or str(uuid.uuid4())
        moment = "2026-01-02T03:04:05.000Z"
        meta = {"id": session, "timestamp": moment, "cwd": cwd, "originator": "cli", "source": "cli"}
        said = {"type": "user_message", "message": "hello"}
        lines = [
            {"timestamp": moment, "type": "session_meta", "payload": meta},
            {"timestamp": moment, "type": "event_msg", "payload": {"type": "task_started"}},
            {"timestamp": moment, "type": "event_msg", "payload": said},
            {"timestamp": moment, "type": "event_msg", "payload": {"type": "task_complete"}},
        ]
        self.product.write(rollout_path(session), "".join(json.dumps(one) + "\n" for one in lines))
        return session

    def codex(self, session: str) -> int:
        """A process that holds its lock; returns its pid inside."""
        return self.start("python3", "-c", LOCKING, session)

    # ---- processes

    def start(self, *argv: str, cwd: str | None = None, env: Mapping[str, str] | None = None) -> int:
        """A process that prints its pid when it is ready."""
        process = self.product.host.popen(argv, cwd=cwd, env=env)
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip().isdecimal(), f"{argv[0]}: {line}{process.stdout.read()}"
        return int(line)

    def end(self) -> None:
        """End them, and remove the files."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.product.host.run(["sh", "-c", f"chmod -R u+rwX {CLAUDE} {CODEX} 2>/dev/null; true"])
        self.product.rid(CLAUDE, CODEX)


def transcript_path(session: str, cwd: str) -> str:
    """Where Claude Code writes a conversation."""
    return f"{CLAUDE}/projects/{cwd.replace('/', '-')}/{session}.jsonl"


def rollout_path(session: str) -> str:
    """Where Codex writes one."""
    return f"{CODEX}/sessions/2026/01/02/rollout-2026-01-02T03-04-05-{session}.jsonl"


def transcript_text(session: str, cwd: str, prompt: str, **common: Any) -> str:
    """A prompt and its answer as Claude Code writes them."""
    common = {"sessionId": session, "cwd": cwd, "timestamp": "2026-01-02T03:04:05.000Z", **common}
    answer = {
        "role": "assistant",
        "model": "m",
        "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "done"}],
    }
    said = [
        {"type": "user", "message": {"role": "user", "content": prompt}},
        {"type": "assistant", "message": answer},
    ]
    lines = [json.dumps({**one, **common, "uuid": str(uuid.uuid4())}) for one in said]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def settings() -> str:
    """Adapters are waited for."""
    return PATIENT


@pytest.fixture
def programs(product: Product) -> Iterator[Programs]:
    """The user's home without any agent program's files, before and after."""
    made = Programs(product)
    try:
        yield made
    finally:
        made.end()


# ---- what is said of them


@dataclass(frozen=True)
class Row:
    """One row, in the words of the CLI."""

    status: str
    pid: int
    stale: bool
    reason: str
    session: str
    agent: str
    message: pb.AgentSession = field(compare=False)


def row_of(message: pb.AgentSession) -> Row:
    """A row from its message."""
    word = pb.AgentSessionStatus.Name(message.status)
    status = word.removeprefix("AGENT_SESSION_STATUS_").lower()
    return Row(
        status, message.pid, message.stale, message.reason, message.session, message.agent_name, message
    )


def listed(product: Product, *adapters: str, refresh: bool = False) -> dict[str, Row]:
    """All rows by id, stopped ones too."""
    request = pb.ListAgentSessionsRequest(refresh=refresh)
    request.filter.include_stopped = True
    request.filter.adapters.extend(adapters)
    with product.client() as client:
        answer = client.call(client.discovery.ListAgentSessions, request)
    return {one.id: row_of(one) for one in answer.agent_sessions}


def got(product: Product, session: str, adapter: str = "claude-code") -> Row:
    """One row, looked at anew."""
    with product.client() as client:
        request = pb.GetAgentSessionRequest(agent_session=f"{adapter}:{session}")
        return row_of(client.call(client.discovery.GetAgentSession, request).agent_session)


def problems(product: Product, *adapters: str, refresh: bool = False) -> dict[tuple[str, str], str]:
    """All trouble there is: code and path (empty: of the adapter) to reason."""
    request = pb.ListAgentSessionsRequest(refresh=refresh, page_size=1)
    request.filter.adapters.extend(adapters)
    with product.client() as client:
        found = client.call(client.discovery.ListAgentSessions, request).problems
    return {(one.code, one.path): one.reason for one in found}


def doctors_word(product: Product) -> tuple[str, str]:
    """What the supervisor's doctor says of the programs' files: status and detail."""
    with product.client() as client:
        checks = client.call(client.system.RunDoctor, system_pb2.RunDoctorRequest()).checks
    [row] = [one for one in checks if one.check == "agent_files"]
    return row.status, row.detail


class Watch:
    """Follows conversations in a thread of its own, and keeps what it was told in its order."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._room = threading.Condition()
        self.told: list[pb.WatchAgentSessionsResponse] = []
        self.rows: dict[str, Row] = {}
        """What a client that believes all it is told shows now."""
        self.error: SessiondError | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for change in self._stream:
                with self._room:
                    self._take(change)
                    self._room.notify_all()
        except grpc.RpcError as error:
            self.error = from_rpc_error(error)
        with self._room:
            self._ended = True
            self._room.notify_all()

    def _take(self, change: pb.WatchAgentSessionsResponse) -> None:
        self.told.append(change)
        kind = change.WhichOneof("change")
        if kind == "agent_session":
            self.rows[change.agent_session.id] = row_of(change.agent_session)
        elif kind == "removed":
            self.rows.pop(change.removed.id, None)

    def until(self, test: Callable[[Watch], Any], what: str, *, timeout: float = PATIENCE) -> None:
        """Wait until it holds of all that was told so far."""
        with self._room:
            self._room.wait_for(lambda: test(self) or self._ended, timeout)
            assert test(self), f"{what}: {self.error or 'not told'}; told: {self.told[-5:]}"

    def ended(self) -> SessiondError | None:
        """Wait for its end."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.error

    def close(self) -> None:
        """Follow no longer."""
        self._stream.cancel()
        self._thread.join(PATIENCE)

    # ---- what was told

    @property
    def current(self) -> bool:
        """Whether all that was known at first has been told."""
        return any(one.WhichOneof("change") == "current" for one in self.told)

    def removed(self) -> set[str]:
        """Ids of what was told to be gone."""
        return {one.removed.id for one in self.told if one.WhichOneof("change") == "removed"}

    def statuses(self, session: str) -> list[str]:
        """Each status of one that was told."""
        rows = [one.agent_session for one in self.told if one.WhichOneof("change") == "agent_session"]
        return [row_of(one).status for one in rows if one.id == session]

    def trouble(self, adapter: str) -> list[str]:
        """Codes of what an adapter was told to suffer from; an empty one is the end of it."""
        told = [one.problem for one in self.told if one.WhichOneof("change") == "problem"]
        return [one.code for one in told if one.adapter == adapter and not one.path]


@contextmanager
def watching(product: Product, *adapters: str, stopped: bool = True) -> Iterator[Watch]:
    """A follower who has been told all there is at first, as it is."""
    listed(product, *adapters, refresh=True)
    request = pb.WatchAgentSessionsRequest()
    request.filter.include_stopped = stopped
    request.filter.adapters.extend(adapters)
    with ExitStack() as stack:
        client = stack.enter_context(product.client())
        watch = Watch(client.discovery.WatchAgentSessions(request, timeout=600))
        stack.callback(watch.close)
        watch.until(lambda one: one.current, "the first part")
        yield watch


# ---- who finds them


def finders(product: Product) -> dict[str, int]:
    """Processes of the supervisor's unit besides itself, by name: `sessiond-finder`, `find:ADAPTER`."""
    group = product.host.show(SUPERVISOR, "ControlGroup")["ControlGroup"]
    script = f"for p in $(cat /sys/fs/cgroup{group}/cgroup.procs); do echo $p $(cat /proc/$p/comm); done"
    lines = product.host.run(["sh", "-c", script]).stdout.splitlines()
    words = [line.split(" ", 1) for line in lines if " " in line]
    return {name: int(pid) for pid, name in words if name.startswith(("sessiond-finder", "find:"))}


def finder_of(product: Product, adapter: str, *, besides: int = 0) -> int:
    """Pid of an adapter's process, once it is not the one named."""
    name = f"find:{adapter}"[:15]
    return until(
        lambda: pid if (pid := finders(product).get(name, 0)) != besides else 0, f"a process of {adapter}"
    )


def while_away(product: Product, asked: Callable[[], Any], expected: Any) -> None:
    """Ask until the answer is as expected while Claude Code's adapter is away. Where it was back before the
    question was through, it is stopped again: each time it stays away for longer."""

    def answered() -> bool:
        if asked() == expected:
            return True
        if now := finders(product).get("find:claude-cod"):
            product.kill(now, signal.SIGSTOP)
            listed(product, "claude-code", refresh=True)
        return False

    until(answered, f"{expected}")


@contextmanager
def configured(product: Product, text: str) -> Iterator[None]:
    """These settings instead of the module's, in force while it lasts."""
    product.write(CONFIG, text)
    product.restart_supervisor()
    try:
        yield
    finally:
        product.write(CONFIG, PATIENT)
        product.restart_supervisor()
