"""OpenCode's adapter on databases that hold what the real program wrote."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sessiond.adapters.opencode import Adapter, control
from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.agent_session import STOPPED, Found, Turn, Wish
from sessiond.ports.discovery import Clear, Gone
from tests.unit.adapter_case import (
    NOBODY,
    FakeProcess,
    FakeProcesses,
    check_evidence,
    check_message,
    check_told,
    found_by,
    life_of,
    problems_of,
)
from tests.unit.opencode_case import (
    ASKED,
    FORKED,
    SESSIONS,
    STARTED,
    SUBAGENT,
    TOOL,
    change,
    insert,
    lay_opencode,
)

PROJECT = "/home/user/project"
EXE = "/opt/opencode-ai/bin/opencode.exe"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return lay_opencode(tmp_path)


@pytest.fixture
def adapter(database: Path, tmp_path: Path) -> Adapter:
    return Adapter({"HOME": str(tmp_path)})


def running(database: Path, pid: int = 100, **more: Any) -> FakeProcess:
    given = {"cwd": PROJECT, "start_time": now_ticks(), "open_files": [str(database)], **more}
    return FakeProcess(pid, comm="opencode", exe=EXE, **given)


def now_ticks() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def message(database: Path, session: str, id: str, **data: Any) -> None:
    row = {"id": id, "session_id": session, "time_created": 1895277909898, "time_updated": 1895277909898}
    insert(database, "message", {**row, "data": json.dumps(data, separators=(",", ":"))})


def part(database: Path, session: str, message: str, **data: Any) -> None:
    row = {"id": f"prt_{message}", "message_id": message, "session_id": session, "time_created": 1}
    data_text = json.dumps(data, separators=(",", ":"))
    insert(database, "part", {**row, "time_updated": 1, "data": data_text})


# ---- finding ------------------------------------------------------------------------------------


def test_what_real_runs_wrote_is_told(adapter: Adapter) -> None:
    rows = found_by(adapter)
    assert rows.keys() == SESSIONS
    asked = rows[ASKED]
    assert asked.cwd == PROJECT
    assert asked.model == "fake/m1"
    assert asked.first_prompt == '"say hi"'
    assert (asked.tokens_in, asked.tokens_out, asked.cost_usd) == (100, 7, 0.0)
    assert asked.turn is Turn.DONE
    assert asked.started_at is not None
    assert asked.updated_at is not None
    assert asked.updated_at > asked.started_at
    assert asked.native["version"] == "1.18.33"


def test_a_subagent_and_a_fork_show_their_parent(adapter: Adapter) -> None:
    rows = found_by(adapter)
    assert rows[SUBAGENT].parent == STARTED
    assert rows[FORKED].parent == ASKED
    assert rows[FORKED].last_prompt == "again"
    assert {rows[id].parent for id in (ASKED, STARTED, TOOL)} == {""}


def test_of_several_that_it_could_be_forked_from_the_title_decides(database: Path, adapter: Adapter) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        fork = dict(connection.execute("SELECT * FROM session WHERE id = ?", (FORKED,)).fetchone())
        first = dict(
            connection.execute(
                "SELECT * FROM message WHERE session_id = ? ORDER BY time_created", (FORKED,)
            ).fetchone()
        )
    later = fork["time_created"] + 5000
    insert(
        database,
        "session",
        {**fork, "id": "ses_2", "title": "hello from the fake model (fork #2)", "time_created": later},
    )
    insert(database, "message", {**first, "id": "msg_2", "session_id": "ses_2"})
    assert found_by(adapter)["ses_2"].parent == FORKED


def test_what_did_not_change_is_not_opened(
    adapter: Adapter, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(database, (1, 1))
    first = found_by(adapter)
    time_passes(monkeypatch)
    again = found_by(adapter)
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("it was opened"))
    assert found_by(adapter) == again == first
    assert list(adapter.discover({str(database)})) == []


def time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    really = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: really() + 1_000_000_000)


def test_only_what_changed_is_told(adapter: Adapter, database: Path) -> None:
    found_by(adapter)
    change(
        database, f"UPDATE session SET title = 'New', time_updated = time_updated + 1 WHERE id = '{ASKED}'"
    )
    rows = found_by(adapter, {f"{database}-wal"})
    assert {id: row.title for id, row in rows.items()} == {ASKED: "New"}


def test_a_turn_is_followed_though_its_session_says_nothing(adapter: Adapter, database: Path) -> None:
    found_by(adapter)
    message(database, ASKED, "msg_user", role="user", time={"created": 1})
    assert found_by(adapter, {str(database)})[ASKED].turn is Turn.WORKING
    message(database, ASKED, "msg_zzz", role="assistant", time={"created": 1})
    part(database, ASKED, "msg_zzz", type="tool", tool="bash", state={"status": "running"})
    row = found_by(adapter, {str(database)})[ASKED]
    assert (row.turn, row.activity) == (Turn.WORKING, "using bash")
    done = json.dumps({"role": "assistant", "time": {"created": 1, "completed": 2}, "finish": "stop"})
    change(database, "UPDATE message SET data = ? WHERE id = 'msg_zzz'", values=(done,))
    assert found_by(adapter, {str(database)})[ASKED].turn is Turn.DONE


def test_a_question_waits_for_an_answer(adapter: Adapter, database: Path) -> None:
    message(database, ASKED, "msg_zzz", role="assistant", time={"created": 1})
    part(database, ASKED, "msg_zzz", type="tool", tool="question", state={"status": "running"})
    row = found_by(adapter)[ASKED]
    assert (row.turn, row.activity) == (Turn.WAITING, "waiting for an answer")


def test_what_is_deleted_is_gone(adapter: Adapter, database: Path) -> None:
    found_by(adapter)
    change(database, f"DELETE FROM session WHERE id = '{TOOL}'")
    assert list(adapter.discover({str(database)})) == [Gone(TOOL)]
    assert found_by(adapter).keys() == SESSIONS - {TOOL}


def test_a_deleted_database_takes_all_with_it(adapter: Adapter, database: Path) -> None:
    found_by(adapter)
    database.unlink()
    told = list(adapter.discover({str(database)}))
    assert {each.id for each in told if isinstance(each, Gone)} == SESSIONS


def test_databases_of_other_channels_and_a_named_one_are_read(tmp_path: Path, adapter: Adapter) -> None:
    other = lay_opencode(tmp_path / "other", "mine.sqlite")
    change(other, f"UPDATE session SET id = 'ses_named' WHERE id = '{TOOL}'")
    channel = lay_opencode(tmp_path / "channel", "opencode-dev.db")
    change(channel, f"UPDATE session SET id = 'ses_dev' WHERE id = '{TOOL}'")
    shutil.copy(channel, tmp_path / ".local/share/opencode/opencode-dev.db")
    named = Adapter({"HOME": str(tmp_path), "OPENCODE_DB": str(other)})
    assert found_by(named).keys() == SESSIONS | {"ses_named", "ses_dev"}
    assert found_by(adapter).keys() == SESSIONS | {"ses_dev"}
    assert str(other.parent) in {each.folder for each in named.watched()}


def test_the_data_folder_follows_the_environment(tmp_path: Path) -> None:
    lay_opencode(tmp_path / "home")
    data = tmp_path / "home/.local/share"
    assert found_by(Adapter({"HOME": "/nowhere", "XDG_DATA_HOME": str(data)})).keys() == SESSIONS
    assert found_by(Adapter({"HOME": "/nowhere"})) == {}


def test_files_of_older_releases_are_read(tmp_path: Path) -> None:
    storage = tmp_path / ".local/share/opencode/storage"
    path = write(
        storage / "session/global/ses_old.json",
        {"id": "ses_old", "directory": PROJECT, "title": "Old", "time": {"created": 1, "updated": 2000}},
    )
    write(storage / "message/ses_old/msg_1.json", {"id": "msg_1", "role": "user", "time": {"created": 1}})
    write(storage / "part/msg_1/prt_1.json", {"type": "text", "text": "old prompt"})
    done = {"role": "assistant", "time": {"created": 1, "completed": 2}, "providerID": "p", "modelID": "m"}
    write(storage / "message/ses_old/msg_2.json", done)
    write(storage / "part/msg_2/prt_2.json", {"type": "text", "text": "old answer"})
    adapter = Adapter({"HOME": str(tmp_path)})
    row = found_by(adapter)["ses_old"]
    assert (row.first_prompt, row.model, row.turn) == ("old prompt", "p/m", Turn.DONE)
    assert [each.text for each in adapter.transcript(row, 5).messages] == ["old prompt", "old answer"]
    # The database of a later release has it, too: it is told once, from there.
    database = lay_opencode(tmp_path / "new")
    change(database, f"UPDATE session SET id = 'ses_old' WHERE id = '{TOOL}'")
    moved = shutil.copy(database, storage.parent / "opencode.db")
    assert found_by(adapter)["ses_old"].native["version"] == "1.18.33"
    Path(moved).unlink()
    assert found_by(adapter)["ses_old"].title == "Old"
    path.unlink()
    assert Gone("ses_old") in list(adapter.discover({str(path)}))


def write(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


# ---- hostile databases --------------------------------------------------------------------------


def test_a_locked_database_leaves_the_last_good_answer(adapter: Adapter, database: Path) -> None:
    whole = found_by(adapter)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE session SET title = 'x'")
        # Held in its journal: readers have to wait.
        told = list(adapter.discover(None))
        check_told(adapter, told)
        assert {each.id: each for each in told if isinstance(each, Found)} == whole
        assert [each.code for each in problems_of(told)] == ["file_unreadable"]
        connection.rollback()
    told = list(adapter.discover({str(database)}))
    assert Clear(str(database)) in told


def test_another_schema_is_told_as_newer(adapter: Adapter, database: Path) -> None:
    whole = found_by(adapter)
    change(database, "ALTER TABLE session RENAME COLUMN directory TO place")
    told = list(adapter.discover(None))
    assert {each.id for each in told if isinstance(each, Found)} == whole.keys()
    assert [each.code for each in problems_of(told)] == ["format_newer"]


def test_older_schemas_without_some_columns_are_read(adapter: Adapter, database: Path) -> None:
    for column in ("tokens_input", "cost", "model", "agent"):
        change(database, f"ALTER TABLE session DROP COLUMN {column}")
    row = found_by(adapter)[ASKED]
    assert (row.tokens_in, row.cost_usd, row.model) == (None, None, "fake/m1")


def test_a_view_that_never_ends_does_not_hold_us_up(adapter: Adapter, database: Path) -> None:
    endless = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)"
    change(
        database,
        "ALTER TABLE session RENAME TO real_session",
        f"CREATE VIEW session AS {endless} SELECT id, id AS directory, id AS time_created, "
        "id AS time_updated FROM n",
    )
    told = list(adapter.discover(None))
    assert [each.code for each in problems_of(told)] == ["file_unreadable"]


def test_ids_that_cannot_be_ids_are_left_out_and_told(adapter: Adapter, database: Path) -> None:
    for number, id in enumerate(("../../etc/passwd", "a b", "--help;", "x" * 500)):
        change(
            database,
            "INSERT INTO session "
            "(id, project_id, slug, directory, title, version, time_created, time_updated) "
            f"VALUES (?, 'global', 's{number}', '/', 't', '1', 1, 1)",
            values=(id,),
        )
    told = list(adapter.discover(None))
    assert {each.id for each in told if isinstance(each, Found)} == SESSIONS
    assert [each.code for each in problems_of(told)] == ["file_malformed"]


def test_nothing_is_written(adapter: Adapter, database: Path) -> None:
    before = (database.read_bytes(), sorted(os.listdir(database.parent)))
    found = found_by(adapter)
    adapter.transcript(found[ASKED], 10)
    assert (database.read_bytes(), sorted(os.listdir(database.parent))) == before


# ---- evidence -----------------------------------------------------------------------------------


def test_without_a_process_that_has_it_open_all_are_stopped(adapter: Adapter, database: Path) -> None:
    rows = found_by(adapter)
    idle = FakeProcess(7, comm="opencode", exe=EXE, cwd=PROJECT, open_files=["/elsewhere/opencode.db"])
    for processes in (NOBODY, FakeProcesses(idle)):
        evidence = adapter.evidence(processes)
        assert all(life_of(row, evidence) == STOPPED for row in rows.values())
        assert adapter.is_alive(rows[ASKED], processes) == STOPPED


def test_a_process_that_does_not_tell_may_have_any_of_its_folder(adapter: Adapter, database: Path) -> None:
    rows = found_by(adapter)
    processes = FakeProcesses(running(database))
    evidence = adapter.evidence(processes)
    check_evidence(evidence)
    assert life_of(rows[ASKED], evidence).alive is None
    assert "pid 100" in life_of(rows[ASKED], evidence).reason
    assert adapter.is_alive(rows[ASKED], processes).alive is None
    assert evidence.holders


def test_what_was_written_elsewhere_since_it_began_is_possible(adapter: Adapter, database: Path) -> None:
    rows = found_by(adapter)
    assert rows[TOOL].cwd != PROJECT
    early = FakeProcesses(running(database, start_time=0))
    written = rows[TOOL].updated_at
    assert written is not None
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    evidence = adapter.evidence(early)
    assert (life_of(rows[TOOL], evidence).alive is None) == (written.timestamp() > booted - 1)
    # One of ours says by its unit what it has open.
    ours = adapter.evidence(FakeProcesses(running(database, start_time=0, mark="s-a")))
    assert life_of(rows[TOOL], ours) == STOPPED


def test_our_mark_names_the_conversation_of_the_outermost(adapter: Adapter, database: Path) -> None:
    rows = found_by(adapter)
    environment = {"SESSIOND_AGENT_SESSION": f"opencode:{ASKED}"}
    first = running(database, 100, start_time=1000, environment=environment)
    inner = running(database, 200, start_time=2000, environment=environment, cwd="/elsewhere")
    evidence = adapter.evidence(FakeProcesses(inner, first))
    life = life_of(rows[ASKED], evidence)
    assert (life.alive, life.pid) == (True, 100)
    assert [each.pid for each in evidence.possible] == [200]


class Control(ThreadingHTTPServer):
    """Stands in for the control port of a program that runs as this process."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"/session/status": {}, "/permission": [], "/question": []}
        self.asked: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Answers)


class _Answers(BaseHTTPRequestHandler):
    server: Control

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        answer = self.server.answers.get(self.path)
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


@pytest.fixture
def port() -> Iterator[Control]:
    with Control() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_control_port_tells_who_works_and_who_waits(
    adapter: Adapter, database: Path, port: Control
) -> None:
    rows = found_by(adapter)
    port.answers["/session/status"] = {
        ASKED: {"type": "busy"},
        FORKED: {"type": "retry"},
        "../x": {"type": "busy"},
    }
    port.answers["/permission"] = [{"sessionID": ASKED, "permission": "bash"}, {"sessionID": 5}, 7]
    evidence = adapter.evidence(FakeProcesses(running(database, os.getpid())))
    asked, forked = life_of(rows[ASKED], evidence), life_of(rows[FORKED], evidence)
    assert (asked.alive, asked.turn, asked.activity) == (True, Turn.WAITING, "waiting for permission")
    assert (forked.alive, forked.turn, forked.activity) == (True, Turn.WORKING, "retrying")
    assert evidence.lives.keys() == {ASKED, FORKED}
    port.answers["/session/status"] = {}
    idle = adapter.evidence(FakeProcesses(running(database, os.getpid())))
    assert life_of(rows[ASKED], idle).alive is None


@pytest.mark.parametrize("answer", [b"no JSON", b"[]", b'{"a":' * 5000, None, b"\xff" * 100])
def test_a_port_that_talks_nonsense_is_as_none(
    adapter: Adapter, database: Path, port: Control, answer: bytes | None
) -> None:
    rows = found_by(adapter)
    port.answers["/session/status"] = answer
    evidence = adapter.evidence(FakeProcesses(running(database, os.getpid())))
    assert "does not tell" in life_of(rows[ASKED], evidence).reason


def test_only_our_own_password_is_used(adapter: Adapter, database: Path, port: Control) -> None:
    found_by(adapter)
    theirs = {control.PASSWORD: "secret"}
    adapter.evidence(FakeProcesses(running(database, os.getpid(), environment=theirs)))
    assert port.asked == []
    ours = {control.PASSWORD: control.OURS + "x"}
    adapter.evidence(FakeProcesses(running(database, os.getpid(), environment=ours)))
    assert port.asked[0][1].startswith("Basic ")


# ---- reading and starting -----------------------------------------------------------------------


def test_a_transcript_has_messages_with_their_tools(adapter: Adapter) -> None:
    rows = found_by(adapter)
    transcript = adapter.transcript(rows[TOOL], 20)
    for each in transcript.messages:
        check_message(each)
    assert [each.role for each in transcript.messages] == ["user", "assistant", "assistant"]
    call, result = transcript.messages[1].tools
    assert (call.name, json.loads(call.content)["command"]) == ("bash", "echo hi")
    assert (result.result, result.failed, result.content.strip()) == (True, False, "hi")
    assert transcript.messages[2].text.strip() == "hello from the fake model"
    assert not transcript.has_more
    last = adapter.transcript(rows[TOOL], 1)
    assert (len(last.messages), last.has_more) == (1, True)


def test_a_transcript_of_what_is_gone_is_missing(adapter: Adapter) -> None:
    found_by(adapter)
    with pytest.raises(NotFound) as caught:
        adapter.transcript(Found("opencode", "ses_none"), 5)
    assert caught.value.code == "transcript_missing"


def test_print_mode_takes_its_prompt_from_standard_input(adapter: Adapter) -> None:
    plan = adapter.launch(Wish(PROJECT, "hi " * 100_000, "fake/m1", print=True))
    assert plan.argv == ("opencode", "run", "--format", "json", "--model", "fake/m1")
    assert plan.input == b"hi " * 100_000
    assert (plan.id, plan.learn) == ("", "stdout")
    line = json.dumps({"type": "step_start", "sessionID": ASKED, "part": {}})
    assert adapter.identify(line) == ASKED
    assert [
        adapter.identify(each) for each in ("", "{", "[]", '{"sessionID": 5}', '{"sessionID": "a b"}')
    ] == [None] * 5


def test_a_terminal_gets_a_port_of_its_own_with_a_password(adapter: Adapter) -> None:
    plans = [adapter.launch(Wish(PROJECT, "-x say hi")) for _ in range(2)]
    assert plans[0].argv == ("opencode", "--port", "0", "--prompt=-x say hi")
    passwords = {plan.environment[control.PASSWORD] for plan in plans}
    assert len(passwords) == 2
    assert all(each.startswith(control.OURS) for each in passwords)
    assert plans[0].learn == "files"


def test_resume_names_the_conversation(adapter: Adapter) -> None:
    found = found_by(adapter)[ASKED]
    plan = adapter.resume(found, Wish(PROJECT, "again", print=True))
    assert plan.argv == ("opencode", "run", "--format", "json", "--session", ASKED)
    assert (plan.id, plan.learn) == (ASKED, "")
    assert adapter.resume(found, Wish(PROJECT)).argv == ("opencode", "--port", "0", "--session", ASKED)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish(PROJECT, print=True), "prompt_missing"),
        (Wish(PROJECT, " \n", print=True), "prompt_missing"),
        (Wish(PROJECT, "x" * 131_072), "prompt_too_large"),
        (Wish(PROJECT, "a\0b"), "prompt_invalid"),
        (Wish(PROJECT, "x", "m1"), "model_invalid"),
        (Wish(PROJECT, "x", "--help/x"), "model_invalid"),
        (Wish(PROJECT, "x", "a/b c"), "model_invalid"),
    ],
)
def test_wishes_that_cannot_be_are_refused(adapter: Adapter, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapter.launch(wish)
    assert caught.value.code == code
    assert caught.value.hint


def test_the_version_is_that_of_the_package(adapter: Adapter, tmp_path: Path) -> None:
    program = tmp_path / "node_modules/opencode-ai/bin/opencode.exe"
    write(program.parent.parent / "package.json", {"name": "opencode-ai", "version": "1.2.3"})
    program.parent.mkdir()
    program.touch()
    link = tmp_path / "opencode"
    link.symlink_to(program)
    assert adapter.version(str(link)) == "1.2.3"
    assert adapter.version(str(tmp_path / "bare/opencode")) == ""
