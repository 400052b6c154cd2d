"""Where lists of agents of the systems before this one lie: each is a test that it is otherwise."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections.abc import Iterator

import pytest

from sessiond.discovery.kernel import OPEN, Inotify
from sessiond.rpc._generated.v1 import agents_pb2
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from tests.system.agents_case import crew_of, state
from tests.system.discovery_case import (
    CLAUDE,
    CODEX,
    HASTY,
    PATIENT,
    Programs,
    Row,
    configured,
    doctors_word,
    finder_of,
    finders,
    got,
    listed,
    problems,
    programs,
    rollout_path,
    row_of,
    settings,
    transcript_path,
    watching,
    while_away,
)
from tests.system.product import HOME, STATE, Product, until

__all__ = ["programs", "settings"]

BIN = f"{HOME}/bin"
# Claude Code as far as an agent's unit sees it: it registers, does what its prompt says, and leaves its entry
# behind when it is killed.
PROGRAM = r"""#!/usr/bin/env python3
import json, os, subprocess, sys, time
words = sys.argv[1:]
session = words[words.index("--resume" if "--resume" in words else "--session-id") + 1]
stat = open("/proc/self/stat").read()
home = os.path.expanduser("~/.claude")
os.makedirs(home + "/sessions", exist_ok=True)
entry = {"pid": os.getpid(), "sessionId": session, "cwd": os.getcwd(), "kind": "interactive",
         "procStart": stat.rpartition(")")[2].split()[19], "status": "busy"}
with open(f"{home}/sessions/{os.getpid()}.json", "w") as file:
    json.dump(entry, file)
prompt = sys.stdin.read() if "-p" in words else words[-1]
folder = f"{home}/projects/{os.getcwd().replace('/', '-')}"
os.makedirs(folder, exist_ok=True)
with open(f"{folder}/{session}.jsonl", "a") as file:
    line = {"type": "user", "sessionId": session, "cwd": os.getcwd(), "uuid": "u1",
            "timestamp": "2026-01-02T03:04:05.000Z", "message": {"role": "user", "content": prompt}}
    file.write(json.dumps(line) + "\n")
if prompt == "print a megabyte":
    sys.stdout.write(("x" * 999 + "\n") * 1000)
elif prompt.startswith("exit "):
    sys.exit(int(prompt[5:]))
elif prompt == "have children":
    subprocess.Popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def claude(product: Product, programs: Programs) -> Iterator[Programs]:
    """A program of that name in ~/bin."""
    product.write(f"{BIN}/claude", PROGRAM)
    product.host.run(["chmod", "755", f"{BIN}/claude"])
    yield programs
    product.host.run(["rm", "-r", BIN])


def spawn(session: str) -> agents_pb2.SpawnAgentRequest:
    """As a person's shell would have it started."""
    environment = {"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin", "HOME": HOME}
    return agents_pb2.SpawnAgentRequest(session=session, environment=environment)


def launched(product: Product, session: str, prompt: str) -> tuple[agents_pb2.Agent, Row]:
    """What LaunchAgentSession answers, in print mode."""
    request = pb.LaunchAgentSessionRequest(
        adapter="claude-code", spawn=spawn(session), prompt=prompt, print=True
    )
    with product.client() as client:
        answer = client.call(client.discovery.LaunchAgentSession, request)
    return answer.agent, row_of(answer.agent_session)


# ---- a live agent is shown stopped


def test_a_live_agent_is_shown_stopped_where_only_its_folder_tells_of_it(
    product: Product, programs: Programs
) -> None:
    folder, other = product.folder(), product.folder()
    here, there = str(uuid.uuid4()), str(uuid.uuid4())
    tree = f"{HOME}/.pi/agent/sessions"
    try:
        for session, cwd in ((here, folder), (there, other)):
            header = {"type": "session", "version": 3, "id": session, "cwd": cwd}
            header["timestamp"] = "2026-01-02T03:04:05.000Z"
            path = f"{tree}/--{cwd.strip('/').replace('/', '-')}--/2026_{session}.jsonl"
            product.write(path, json.dumps(header) + "\n")
            product.host.run(["touch", "-d", "2026-01-02", path])
        product.host.run(["sh", "-c", f"mkdir -p {BIN} && cp /bin/sleep {BIN}/pi"])
        assert {row.status for row in listed(product, refresh=True).values()} == {"stopped"}
        pid = programs.start("sh", "-c", f"echo $$; exec {BIN}/pi 1000", cwd=folder)
        until(lambda: product.host.path(f"/proc/{pid}/comm").read_text() == "pi\n", "the program")
        with watching(product, "pi") as watch:
            row = watch.rows[here]
            assert (row.status, str(pid) in row.reason) == ("unknown", True)
            assert watch.rows[there].status == "stopped"
            assert got(product, here, "pi").status == "unknown"
            [shown] = product.json("discovered")
            assert (shown["id"], shown["status"], shown["reason"]) == (here, "unknown", row.reason)
            product.kill(pid)
            watch.until(lambda one: one.rows[here].status == "stopped", "the end of it")
    finally:
        product.host.run(["rm", "-rf", f"{HOME}/.pi", BIN])


def test_a_live_agent_is_shown_stopped_where_its_first_prompt_came_late(
    product: Product, programs: Programs
) -> None:
    folder, session = product.folder(), str(uuid.uuid4())
    pid = programs.claude(session, "idle")
    row = listed(product, refresh=True)[session]
    assert (row.status, row.pid, row.message.first_prompt) == ("idle", pid, "")
    for moment in ("2020-01-01T00:00:00.000Z", "2040-01-01T00:00:00.000Z"):
        programs.transcript(folder, session=session, timestamp=moment)
        for date in ("1990-01-01", "2040-01-01"):
            product.host.run(["touch", "-d", date, transcript_path(session, folder)])
            row = listed(product, refresh=True)[session]
            assert (row.status, row.pid, row.message.first_prompt) == ("idle", pid, "hello")


def test_a_live_agent_is_shown_stopped_where_its_adapter_timed_out_and_nobody_is_told(
    product: Product, programs: Programs
) -> None:
    session = programs.transcript(product.folder())
    pid = programs.claude(session)
    with configured(product, HASTY), watching(product, "claude-code") as watch:
        finder = finder_of(product, "claude-code")
        product.kill(finder, signal.SIGSTOP)
        row = listed(product, refresh=True)[session]
        assert (row.status, row.pid, row.stale) == ("running", pid, True)
        watch.until(lambda one: one.trouble("claude-code")[-1:] == [""], "it is well again")
        assert watch.trouble("claude-code") == ["adapter_timeout", ""]
        assert watch.statuses(session) == ["running"]
        # And whoever asks is told.
        while_away(product, lambda: problems(product, "claude-code").keys(), {("adapter_timeout", "")})
        while_away(product, lambda: "claude-code" in doctors_word(product)[1], True)
        assert set(watch.statuses(session)) == {"running"}


# ---- a recycled pid is shown running


# Has a process of the user's with a pid of the caller's choice, which the kernel gives to root (clone3).
RECYCLE = """
import ctypes, os, sys
pid, uid, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
wanted = (ctypes.c_int * 1)(pid)
# Flags, four pointers not used, SIGCHLD, three for a stack, then the pids and how many.
args = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
made = ctypes.CDLL(None, use_errno=True).syscall(435, ctypes.byref(args), 88)
if made == 0:
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
    os.execv(program, [program, "1000"])
print(made if made > 0 else os.strerror(ctypes.get_errno()), flush=True)
os.waitpid(made, 0)
"""


def test_a_recycled_pid_is_shown_running(product: Product, programs: Programs) -> None:
    session = programs.transcript(product.folder())
    product.host.run(["sh", "-c", f"mkdir -p {BIN} && cp /bin/sleep {BIN}/claude"])
    try:
        pid = programs.claude(session)
        assert got(product, session).status == "running"
        product.kill(pid)
        programs.processes[-1].wait()
        words = ("python3", "-c", RECYCLE, str(pid), str(product.host.uid), f"{BIN}/claude")
        process = product.host.popen(words, user=False)
        programs.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == f"{pid}\n"
        try:
            until(lambda: product.host.path(f"/proc/{pid}/comm").read_text() == "claude\n", "the program")
            assert programs.entry(pid)["sessionId"] == session
            rows = listed(product, refresh=True)
            assert rows[session].status == "stopped"
            # What runs under that pid now is told as what it is.
            [other] = rows.keys() - {session}
            assert (other.partition("-")[0], rows[other].status) == (f"process:{pid}", "unknown")
            assert got(product, session).status == "stopped"
        finally:
            product.kill(pid)
            process.wait()
    finally:
        product.host.run(["rm", "-r", BIN])


def test_a_lock_of_a_process_that_is_no_more_persists(product: Product, programs: Programs) -> None:
    session = programs.rollout(product.folder())
    pid = programs.codex(session)
    with watching(product, "codex") as watch:
        assert (watch.rows[session].status, watch.rows[session].pid) == ("idle", pid)
        product.kill(pid)
        watch.until(lambda one: one.rows[session].status == "stopped", "the end of it")
    # The file stays, as after any kill; it says nothing, whatever process writes in it.
    lock = f"{CODEX}/thread-writer-locks/{session}.lock"
    assert product.host.path(lock).exists()
    product.write(lock, str(product.supervisor_pid()))
    assert listed(product, refresh=True)[session].status == "stopped"


# ---- nothing is cached, and events come from polling


def test_nothing_is_cached(product: Product, programs: Programs) -> None:
    folder = product.folder()
    sessions = {programs.transcript(folder) for _ in range(20)}
    thread = programs.rollout(folder)
    assert listed(product, refresh=True).keys() == sessions | {thread}
    watched = Inotify()
    try:
        for place in (transcript_path("x", folder), rollout_path(thread)):
            watched.add(str(product.host.path(place).parent), OPEN)

        def opened() -> list[str]:
            return [event.name for event in watched.read() if event.name]

        def settled() -> bool:
            listed(product, refresh=True)
            got(product, next(iter(sessions)))
            return not opened()

        # What the kernel told of the last of them may come to be looked at after they are listed.
        until(settled, "a look at all that opens none")
        watched.read()
        for _ in range(5):
            assert len(listed(product)) == 21
        assert watched.read() == []
        # Nor does looking at processes open any, nor at one conversation.
        assert got(product, next(iter(sessions))).status == "stopped"
        assert opened() == []
    finally:
        watched.close()


def test_events_come_from_polling(product: Product, programs: Programs) -> None:
    folder = product.folder()
    first, second, third = (programs.transcript(folder) for _ in range(3))
    pids = {session: programs.claude(session) for session in (first, second, third)}
    with watching(product, "claude-code", stopped=False) as watch:
        assert watch.rows.keys() == set(pids)
        finder = finder_of(product, "claude-code")
        if os.uname().machine == "x86_64":
            # poll(2) without a timeout: only an event wakes it.
            until(lambda: _sleeps(product, finder), "it sleeps until something happens")
        for gone in (second, third, first):
            entry = product.host.path(f"{CLAUDE}/sessions/{pids[gone]}.json").read_text()
            product.kill(pids[gone])
            watch.until(lambda one, gone=gone: gone not in one.rows, "its end")  # type: ignore[misc]
            # No file told of it: the entry is as it was.
            assert product.host.path(f"{CLAUDE}/sessions/{pids[gone]}.json").read_text() == entry
        kinds = [one.WhichOneof("change") for one in watch.told]
        after = watch.told[kinds.index("current") + 1 :]
        assert [one.removed.id for one in after] == [second, third, first]
        assert finders(product)["find:claude-cod"] == finder


def _sleeps(product: Product, pid: int) -> bool:
    words = product.host.run(["cat", f"/proc/{pid}/syscall"], user=False).stdout.split()
    return words[0] == "7" and int(words[3], 16) & 0xFFFFFFFF == 0xFFFFFFFF


# ---- what was launched


def test_an_undrained_pipe_stops_a_resumed_agent_after_64_kib(product: Product, claude: Programs) -> None:
    made = product.started()
    session = claude.transcript(made["path"])
    request = pb.ResumeAgentSessionRequest(
        agent_session=session, spawn=spawn(made["id"]), prompt="print a megabyte", print=True
    )
    with product.client() as client:
        answer = client.call(client.discovery.ResumeAgentSession, request)
    assert answer.agent_session.id == session
    with crew_of(product, made["id"]) as crew:
        ended = crew.wait(answer.agent.id)
        assert (state(ended), ended.exit_status) == ("completed", 0)
        assert crew.get(answer.agent.id).record_bytes == 1_000_000
    row = got(product, session)
    assert (row.status, row.message.last_prompt) == ("stopped", "print a megabyte")


def test_stop_signals_one_pid_and_the_tree_lives_on(product: Product, claude: Programs) -> None:
    made = product.started()
    agent, row = launched(product, made["id"], "have children")
    with crew_of(product, made["id"]) as crew:
        crew.printed(agent.name, "up")
        until(lambda: len(crew.pids(agent)) >= 4, "the whole tree")
        tree = crew.pids(agent)
        with watching(product, "claude-code") as watch:
            assert (watch.rows[row.message.id].status, watch.rows[row.message.id].agent) == (
                "running",
                agent.name,
            )
            crew.stop(agent.name)
            watch.until(lambda one: one.rows[row.message.id].status == "stopped", "its end")
        assert [pid for pid in tree if product.host.path(f"/proc/{pid}").exists()] == []


def test_exit_statuses_are_lost(product: Product, claude: Programs) -> None:
    made = product.started()
    agent, row = launched(product, made["id"], "exit 7")
    with crew_of(product, made["id"]) as crew:
        ended = crew.wait(agent.id)
    assert (state(ended), ended.exit_status) == ("failed", 7)
    known = got(product, row.message.id)
    assert (known.status, known.message.agent, known.message.first_prompt) == ("stopped", agent.id, "exit 7")
    product.kill_supervisor()
    assert got(product, row.message.id).message.agent == agent.id
    [listed_agent] = product.json("ps", "-a", made["id"])
    assert (listed_agent["state"], listed_agent["exit_status"]) == ("failed", 7)


# ---- what is stored


def test_the_state_file_grows_without_bound(product: Product, programs: Programs) -> None:
    folder = product.folder()
    sessions = [programs.transcript(folder) for _ in range(10)]
    stays = programs.transcript(folder)
    with configured(product, f"{PATIENT}keep_days = 0\n"):
        with product.client() as client:
            for session in (*sessions, stays):
                request = pb.LabelAgentSessionRequest(agent_session=session)
                request.set_labels["kept"] = "yes"
                client.call(client.discovery.LabelAgentSession, request)
        assert _kept(product) == {*sessions, stays}
        for session in sessions:
            product.host.run(["rm", transcript_path(session, folder)])
        assert listed(product, refresh=True).keys() == {stays}
        until(lambda: _kept(product) == {stays}, "what is of nothing any more is forgotten")
        # What cannot be read is not gone.
        product.host.run(["chmod", "000", f"{CLAUDE}/projects"])
        listed(product, refresh=True)
        product.restart_supervisor()
        listed(product, refresh=True)
        assert _kept(product) == {stays}
        product.host.run(["chmod", "700", f"{CLAUDE}/projects"])
        assert dict(listed(product, refresh=True)[stays].message.labels) == {"kept": "yes"}


def _kept(product: Product) -> set[str]:
    """Ids in the store, as SQLite itself tells them."""
    script = (
        "import sqlite3,sys; c=sqlite3.connect('file:'+sys.argv[1]+'?mode=ro',uri=True);"
        "print(*[one[0] for one in c.execute('SELECT id FROM overlay')])"
    )
    return set(product.host.run(["python3", "-c", script, f"{STATE}/sessiond.db"]).stdout.split())
