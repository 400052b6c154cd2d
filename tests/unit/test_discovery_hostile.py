"""Files, environments and processes that somebody made up to have the wrong thing shown, read or ended."""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import sqlite3
import threading
import tracemalloc
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sessiond.adapters import make_adapter
from sessiond.adapters.acp.journal import Journal
from sessiond.adapters.opencode import control
from sessiond.adapters.reading.sqlite import read_database
from sessiond.discovery.answers import describe
from sessiond.discovery.engine import Channel
from sessiond.discovery.lives import settle
from sessiond.discovery.processes import read_stat
from sessiond.errors import Conflict, InvalidArgument, PermissionDenied, SessiondError
from sessiond.model.agent_session import MARKER, Found, Life, is_proper_id
from sessiond.model.conversation import Choice
from sessiond.ports.discovery import AgentAdapter, Clear, Evidence, Gone
from sessiond.supervisor.discovered.paging import Pages
from tests.unit.adapter_case import FakeProcess, FakeProcesses, found_by, problems_of
from tests.unit.test_discovery_host import finding, sleeping

UUID = "019ab000-1111-7222-8333-444444444444"
CLAUDE_FIXTURE = "653c31de-a30b-4e8a-883b-b07d3b918c86"
VICTIM = FakeProcess(4242, 77, "vim", "/usr/bin/vim", ("vim", "claude", "codex", "openclaw"))
IMPROPER = [
    "",
    "-x",
    "--dangerously",
    ".",
    "..",
    "../../x",
    "a/b",
    "a b",
    "a\nb",
    "a\x1b[2J",
    "$(x)",
    "a;x",
    "\udcff",
    "x" * 257,
]


def make(name: str, home: Path) -> AgentAdapter:
    return make_adapter(name, {"HOME": str(home), "TMPDIR": str(home / "tmp")})


def locked_by(path: Path, pid: int) -> dict[tuple[int, int], int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch()
    status = path.stat()
    return {(status.st_dev, status.st_ino): pid}


# ---- other people's processes ------------------------------------------------------------------


def test_a_register_that_names_somebody_elses_process_does_not_make_it_its_own(tmp_path: Path) -> None:
    entry = tmp_path / ".claude/sessions/4242.json"
    entry.parent.mkdir(parents=True)
    entry.write_text(json.dumps({"pid": 4242, "sessionId": UUID, "procStart": "77", "status": "idle"}))
    adapter = make("claude-code", tmp_path)
    list(adapter.discover(None))
    [life] = adapter.evidence(FakeProcesses(VICTIM)).lives.values()
    assert life.alive is None
    assert "not shown to be Claude Code" in life.reason
    # The program itself, by whichever way it is run.
    for argv, comm, exe in (
        (("claude",), "claude", "/home/user/.local/share/claude/versions/2.1.329"),
        (("2.1.329",), "2.1.329", "/home/user/.local/share/claude/versions/2.1.329"),
        (("node", "--no-warnings", "/x/@anthropic-ai/claude-code/cli.js"), "node", "/usr/bin/node"),
    ):
        itself = FakeProcess(4242, 77, comm, exe, argv)
        assert adapter.evidence(FakeProcesses(itself)).lives[UUID].alive


def test_a_lock_that_somebody_else_holds_does_not_make_it_codexs(tmp_path: Path) -> None:
    adapter = make("codex", tmp_path)
    locks = locked_by(tmp_path / f".codex/thread-writer-locks/{UUID}.lock", 4242)
    [life] = adapter.evidence(FakeProcesses(VICTIM, locks=locks)).lives.values()
    assert life.alive is None
    assert "not shown to be Codex" in life.reason


def test_a_journal_that_somebody_else_locks_is_not_held_by_its_runner(tmp_path: Path) -> None:
    journal = tmp_path / ".local/state/sessiond/acp/talk.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"type":"session","version":1,"id":"talk","cwd":"/tmp","command":["x"]}\n')
    adapter = make("acp", tmp_path)
    found_by(adapter)
    locks = locked_by(journal, 4242)
    holder = FakeProcess(4242, 77, "flock", "/usr/bin/flock", ("flock", str(journal), "sleep", "9"))
    life = adapter.evidence(FakeProcesses(holder, locks=locks)).lives["talk"]
    assert life.alive is None
    assert "not shown to be its runner" in life.reason


def openclaw_lock(folder: Path, state: Path, **told: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    lock = {"pid": 4242, "startTime": 77, "role": "agent-embedded", "stateDir": str(state), **told}
    (folder / "gateway.state.lock").write_text(json.dumps(lock))


def test_a_lock_that_names_somebody_elses_process_does_not_make_it_openclaws(tmp_path: Path) -> None:
    state = tmp_path / ".openclaw"
    openclaw_lock(state / f"tmp/openclaw-{os.getuid()}", state)
    adapter = make("openclaw", tmp_path)
    evidence = adapter.evidence(FakeProcesses(VICTIM))
    assert (dict(evidence.lives), list(evidence.possible)) == ({}, [])
    assert "not shown to be OpenClaw" in evidence.unknown


def test_a_lock_in_a_shared_folder_that_others_can_write_is_nobodys_word(tmp_path: Path) -> None:
    state = tmp_path / ".openclaw"
    shared = tmp_path / f"tmp/openclaw-{os.getuid()}"
    openclaw_lock(shared, state)
    adapter = make("openclaw", tmp_path)
    processes = FakeProcesses(FakeProcess(4242, 77, "openclaw-agent", "/usr/bin/node"))
    assert adapter.evidence(processes).possible
    shared.chmod(0o777)
    evidence = adapter.evidence(processes)
    assert (list(evidence.possible), evidence.unknown) == ([], "")
    # Nor is one that leads elsewhere.
    shared.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    shared.symlink_to(tmp_path / "elsewhere")
    assert not adapter.evidence(processes).possible


# ---- ids ---------------------------------------------------------------------------------------


class Program:
    name, program = "opencode", "opencode"


@pytest.mark.parametrize("id", IMPROPER)
def test_what_is_no_id_is_none_whoever_says_it(id: str) -> None:
    assert not is_proper_id(id)
    marked = FakeProcess(9, 5, "opencode", environment={MARKER: f"opencode:{id}"})
    processes = FakeProcesses(marked)
    assert settle(Program(), Evidence(), {}, processes).known == {}
    told = Evidence({id: Life(True, pid=9, start_time=5)})
    assert settle(Program(), told, {}, FakeProcesses(FakeProcess(9, 5))).known == {}


def test_ids_that_programs_use_are_proper() -> None:
    for id in (UUID, "agent-a777abfe2215002c7", "ses_3f2a", "agent:main:x@y", "my-id_1.2", "2026-11-21T16"):
        assert is_proper_id(id)


@pytest.mark.parametrize("id", ["-x", "--dangerously-skip-permissions"])
def test_a_transcript_that_is_named_as_an_option_is_none(tmp_path: Path, id: str) -> None:
    project = tmp_path / ".claude/projects/-tmp"
    project.mkdir(parents=True)
    line = {"type": "user", "uuid": "u", "cwd": "/tmp", "message": {"role": "user", "content": "hello"}}
    (project / f"{id}.jsonl").write_text(json.dumps(line) + "\n")
    assert found_by(make("claude-code", tmp_path)) == {}


@pytest.mark.parametrize("where", ["memory/linked", "not.one", f"{UUID}/memory"])
def test_what_lies_in_a_folder_of_another_kind_is_no_subagent(tmp_path: Path, where: str) -> None:
    folder = tmp_path / f".claude/projects/-tmp/{where}/below"
    folder.mkdir(parents=True)
    line = {"type": "user", "uuid": "u", "cwd": "/tmp", "message": {"role": "user", "content": "hello"}}
    (folder / "agent-x.jsonl").write_text(json.dumps(line) + "\n")
    adapter = make("claude-code", tmp_path)
    assert found_by(adapter) == {}
    assert found_by(adapter, {str(folder), str(folder.parent), str(folder / "agent-x.jsonl")}) == {}


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_told_as_that(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f".claude/projects/-tmp/{UUID}.jsonl"
    path.parent.mkdir(parents=True)
    {"pipe": os.mkfifo, "device": lambda at: at.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](path)
    [problem] = problems_of(make("claude-code", tmp_path).discover(None))
    assert (problem.path, problem.code, problem.reason) == (
        str(path),
        "file_unreadable",
        "not a regular file",
    )


def test_many_that_go_at_once_have_each_other_listed_no_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".claude/projects/-tmp"
    folder.mkdir(parents=True)
    line = {"type": "user", "uuid": "u", "cwd": "/tmp", "message": {"role": "user", "content": "hello"}}
    paths = [folder / f"{UUID[:-2]}{number:02}.jsonl" for number in range(40)]
    for path in paths:
        path.write_text(json.dumps(line) + "\n")
    moved = folder.with_name("-moved") / paths[-1].name
    adapter = make("claude-code", tmp_path)
    assert len(found_by(adapter)) == len(paths)
    for path in paths[:-1]:
        path.unlink()
    moved.parent.mkdir()
    paths[-1].rename(moved)
    listed: list[str] = []
    really = os.scandir

    def count(path: str) -> object:
        listed.append(path)
        return really(path)

    monkeypatch.setattr(os, "scandir", count)
    told = list(adapter.discover({str(path) for path in paths}))
    assert sorted(each.id for each in told if isinstance(each, Gone)) == [one.stem for one in paths[:-1]]
    assert [each.native["transcript"] for each in told if isinstance(each, Found)] == [str(moved)]
    assert sorted(listed) == sorted(map(str, (folder.parent, folder, moved.parent)))


def test_a_folder_in_which_subagents_may_be_is_told_once_it_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / f".claude/projects/-tmp/{UUID}/subagents"
    folder.parent.mkdir(parents=True)
    # It leads round to itself.
    folder.symlink_to(folder)
    adapter = make("claude-code", tmp_path)
    assert [each.path for each in problems_of(adapter.discover(None))] == [str(folder)]
    folder.unlink()
    assert list(adapter.discover({str(folder.parent)})) == [Clear(str(folder))]


# ---- ports -------------------------------------------------------------------------------------


class Trickling:
    """Serves on the loopback: a byte of an answer now and then, for ever."""

    def __init__(self, answer: bytes) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.over = threading.Event()
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self.socket.accept()
        with connection, suppress(OSError):
            for each in itertools.cycle(self._answer):
                connection.sendall(bytes([each]))
                if self.over.wait(0.01):
                    return

    def close(self) -> None:
        self.over.set()
        self._thread.join()
        self.socket.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 60_000, b"HTTP/1.1 100 go\r\n\r\n"])
def test_a_port_that_trickles_is_not_waited_for(answer: bytes) -> None:
    trickling = Trickling(answer)
    try:
        assert control.ask(FakeProcess(os.getpid(), 1)) is None
        assert not trickling.over.is_set()
    finally:
        trickling.close()


# ---- requests ----------------------------------------------------------------------------------


def test_a_page_token_that_is_nested_without_end_is_none_of_ours() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    token = f'["a","b",1,"2026-01-01T00:00:00+00:00","codex","x",{deep}]'.encode()
    with pytest.raises(InvalidArgument) as caught:
        Pages(lambda _: None).next(Choice(), [], 1, base64.urlsafe_b64encode(token).decode())
    assert caught.value.code == "page_token_invalid"


def test_an_output_that_tells_an_option_for_an_id_tells_none(tmp_path: Path) -> None:
    line = json.dumps({"type": "text", "sessionID": "--print-logs"})
    assert make("opencode", tmp_path).identify(line) is None
    assert make("opencode", tmp_path).identify(line.replace("--print-logs", "ses_1")) == "ses_1"


# ---- what is read ------------------------------------------------------------------------------


async def test_an_adapter_takes_no_more_memory_than_one_may() -> None:
    async with finding("one", "two") as case:
        case.write("two", "b", title="meanwhile")
        case.write("one", "a", do="hog")
        await case.until(lambda: any("MemoryError" in one.reason for one in case.problems.get("one", ())))
        await case.until(lambda: case.title("two", "b") == "meanwhile")


ANSWER = {
    "type": "assistant",
    "uuid": "u",
    "message": {"role": "assistant", "id": "m", "content": [{"type": "tool_use", "id": "t", "name": "n"}]},
}


def test_a_message_of_claude_code_with_tools_without_end_is_cut(tmp_path: Path) -> None:
    project = tmp_path / ".claude/projects/-tmp"
    project.mkdir(parents=True)
    (project / f"{UUID}.jsonl").write_text((json.dumps(ANSWER) + "\n") * 2000)
    adapter = make("claude-code", tmp_path)
    [message] = adapter.transcript(found_by(adapter)[UUID], 10).messages
    assert (len(message.tools), message.cut) == (200, True)


def test_of_a_transcript_of_lines_without_end_the_last_are_looked_at(tmp_path: Path) -> None:
    project = tmp_path / ".claude/projects/-tmp"
    project.mkdir(parents=True)
    prompt = {"type": "user", "uuid": "u", "cwd": "/tmp", "message": {"role": "user", "content": "hello"}}
    (project / f"{UUID}.jsonl").write_text(json.dumps(prompt) + "\n" + "\n" * 100_000)
    adapter = make("claude-code", tmp_path)
    told = adapter.transcript(found_by(adapter)[UUID], 10)
    assert (told.messages, told.has_more) == ((), True)


# ---- ending ------------------------------------------------------------------------------------


async def test_nobody_has_us_or_the_first_process_or_anothers_ended() -> None:
    async with finding("one") as case:
        case.write("one", "a")
        await case.until(lambda: case.title("one", "a") == "")
        for pid in (-5, 0, 1, os.getpid(), *case.finder.processes.values()):
            stat = read_stat(pid) if pid > 0 else None
            life = Life(True, pid=pid, start_time=stat.start_time if stat else 0)
            with pytest.raises(PermissionDenied) as caught:
                await case.finder.end("one", Found("one", "a", life=life), 1.0)
            assert caught.value.code == "process_denied"
        with sleeping() as child:
            stat = read_stat(child.pid)
            assert stat is not None
            # What only may have it open is not ended for it.
            may = Life(None, "who knows", child.pid, stat.start_time)
            with pytest.raises(Conflict) as unknown:
                await case.finder.end("one", Found("one", "a", life=may), 1.0)
            assert unknown.value.code == "agent_session_unknown"
            assert child.poll() is None


# ---- what is shown -----------------------------------------------------------------------------


def test_keys_in_a_command_line_are_not_shown(tmp_path: Path) -> None:
    journal = tmp_path / ".local/state/sessiond/acp/talk.jsonl"
    journal.parent.mkdir(parents=True)
    command = ["env", "KEY=secret", "opencode", "acp", "--api-key", "secret"]
    head = {"type": "session", "version": 1, "id": "talk", "cwd": "/tmp", "command": command}
    journal.write_text(json.dumps(head) + "\n")
    row = found_by(make("acp", tmp_path))["talk"]
    assert row.native["command"] == "env"
    head["command"] = command[2:]
    journal.write_text(json.dumps(head) + "\n")
    assert found_by(make("acp", tmp_path))["talk"].native["command"] == "opencode acp"


LINES = {
    "codex": (
        f".codex/sessions/2026/11/21/rollout-2026-11-21T16-18-26-{UUID}.jsonl",
        {"type": "session_meta", "timestamp": "2026-11-21T16:18:26Z", "payload": {"id": UUID, "cwd": "/tmp"}},
        {"type": "response_item", "payload": {"type": "message", "role": "user", "content": []}},
    ),
    "pi": (
        ".pi/agent/sessions/--tmp--/2026-11-21T16-19-21-725Z_my-id-1.jsonl",
        {
            "type": "session",
            "version": 3,
            "id": "my-id-1",
            "timestamp": "2026-11-21T16:19:21Z",
            "cwd": "/tmp",
        },
        {"type": "message", "message": {"role": "user", "content": "hello"}},
    ),
    "gemini": (
        ".gemini/tmp/x/chats/session-1.jsonl",
        {"sessionId": UUID, "projectHash": "x", "startTime": "2026-11-21T16:19:21Z", "kind": "main"},
        {"id": "a", "type": "user", "content": "hello"},
    ),
    "acp": (
        ".local/state/sessiond/acp/talk.jsonl",
        {"type": "session", "version": 1, "id": "talk", "cwd": "/tmp", "command": ["x"]},
        {"type": "prompt", "text": "hello"},
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_without_end_hold_no_adapter_up(tmp_path: Path, name: str) -> None:
    place, head, said = LINES[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in (head, said)) + "{}\n" * 200_000)
    adapter = make(name, tmp_path)
    [found] = found_by(adapter).values()
    told = adapter.transcript(found, 10)
    # What lies before all these is not looked for.
    assert (told.messages, told.has_more) == ((), True)


def test_of_a_message_of_opencode_only_so_much_is_read(tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/opencode"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "opencode.db")) as connection, connection:
        connection.execute("CREATE TABLE session (id, directory, time_created, time_updated)")
        connection.execute("CREATE TABLE message (id, session_id, time_created, data)")
        connection.execute("CREATE TABLE part (id, message_id, data)")
        connection.execute("INSERT INTO session VALUES ('ses_1', '/tmp', 1, 1)")
        data = json.dumps({"role": "assistant", "time": {"completed": 1}, "finish": "stop"})
        connection.execute("INSERT INTO message VALUES ('msg_1', 'ses_1', 1, ?)", (data,))
        image = json.dumps({"type": "text", "text": "x" * 5_000_000})
        tool = json.dumps({"type": "tool", "tool": "t", "callID": "c", "state": {"status": "running"}})
        connection.executemany(
            "INSERT INTO part VALUES (?, 'msg_1', ?)",
            [(f"prt_{number:04}", tool) for number in range(1000)] + [("prt_9", image)],
        )
    adapter = make("opencode", tmp_path)
    [message] = adapter.transcript(found_by(adapter)["ses_1"], 10).messages
    assert (len(message.tools), message.text) == (199, "")


def test_names_in_a_database_that_are_no_text_are_its_trouble(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE abcd (efgh)")
        connection.execute("INSERT INTO abcd VALUES (1)")
    path.write_bytes(path.read_bytes().replace(b"efgh", b"ef\xffh"))

    def names(connection: sqlite3.Connection) -> object:
        return connection.execute("SELECT * FROM abcd").fetchall()

    with pytest.raises(sqlite3.DatabaseError):
        read_database(str(path), names)


def test_a_journal_that_is_a_pipe_is_none(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    os.mkfifo(path, 0o600)
    with pytest.raises(SessiondError) as caught:
        Journal.go_on(path, "talk")
    assert caught.value.code == "journal_failed"


def test_a_journal_with_a_line_without_end_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "acp/talk.jsonl"
    Journal.begin(path, "talk", "/tmp", ["x"]).close()
    with path.open("ab") as file:
        file.write(b'{"type":"opened","session":"s1"}\n')
        file.write(b"x" * 60_000_000)
    tracemalloc.start()
    try:
        journal, _, session = Journal.go_on(path, "talk")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    journal.close()
    assert session == "s1"
    assert path.stat().st_mode & 0o777 == 0o600
    assert most < 30_000_000
    assert path.read_bytes().endswith(b"x\n")


def test_what_a_file_says_wrong_is_told_without_steering_a_terminal() -> None:
    told = describe(ValueError("bad \x1b[2J\x07 value\nwith more"))
    assert told.isprintable()
    assert "bad [2J value" in told


def test_what_is_told_last_arrives_though_questions_were_left_unread() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"a question that nobody reads")
        channel = Channel(theirs)
        channel.send(b"the reason")
        leaving = threading.Thread(target=channel.leave)
        leaving.start()
        told = b""
        while part := ours.recv(100):
            told += part
        ours.close()
        leaving.join()
        assert told == b"the reason"
