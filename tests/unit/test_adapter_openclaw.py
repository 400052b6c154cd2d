"""OpenClaw's adapter on databases and locks that hold what the real program wrote."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sessiond.adapters.openclaw import Adapter
from sessiond.errors import InvalidArgument, NotFound, Unsupported
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
from tests.unit.opencode_case import BY_GATEWAY, EMBEDDED, change, insert, lay_lock, lay_openclaw

START = 1295856
EARLY = "2026-11-21T16:00:00.000Z"
HOLDER = FakeProcess(4242, START, "openclaw-agent", "/usr/bin/node", cwd="/home/user")
GATEWAY = FakeProcess(4242, START, "openclaw-gatewa", "/usr/bin/node", cwd="/home/user")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return lay_openclaw(tmp_path)


@pytest.fixture
def adapter(database: Path, tmp_path: Path) -> Adapter:
    return Adapter({"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")})


def event(database: Path, session: str, seq: int, role: str, **more: object) -> None:
    data = {"type": "message", "message": {"role": role, **more}}
    text = json.dumps(data, separators=(",", ":"))
    insert(
        database,
        "transcript_events",
        {"session_id": session, "seq": seq, "event_json": text, "created_at": 1},
    )


# ---- finding ------------------------------------------------------------------------------------


def test_what_real_runs_wrote_is_told(adapter: Adapter) -> None:
    rows = found_by(adapter)
    assert rows.keys() == {EMBEDDED, BY_GATEWAY}
    row = rows[EMBEDDED]
    assert (row.cwd, row.model, row.turn) == ("/home/user/claw", "fake/m1", Turn.DONE)
    assert row.first_prompt == "say hi"
    assert row.last_prompt.endswith("second prompt")
    assert row.native["key"] == f"agent:main:explicit:{EMBEDDED}"
    assert rows[BY_GATEWAY].native["status"] == "done"
    assert rows[BY_GATEWAY].ended_at is not None


def test_only_what_changed_is_told_and_the_rest_is_not_opened(
    adapter: Adapter, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found_by(adapter)
    change(database, f"UPDATE session_windows SET updated_at = 1 WHERE session_id = '{EMBEDDED}'")
    assert found_by(adapter, {f"{database}-wal"}).keys() == {EMBEDDED}
    change(database, f"DELETE FROM session_windows WHERE session_id = '{EMBEDDED}'")
    assert list(adapter.discover({str(database)})) == [Gone(EMBEDDED)]
    database.unlink()
    assert list(adapter.discover({str(database)})) == [Gone(BY_GATEWAY), Clear(str(database))]


def test_each_agent_has_a_database(adapter: Adapter, tmp_path: Path) -> None:
    other = lay_openclaw(tmp_path, "ops")
    change(other, f"UPDATE session_windows SET session_id = 'ops-1' WHERE session_id = '{EMBEDDED}'")
    assert found_by(adapter).keys() == {EMBEDDED, BY_GATEWAY, "ops-1"}


def test_a_turn_is_told_by_the_last_message_or_by_the_gateway(adapter: Adapter, database: Path) -> None:
    event(database, EMBEDDED, 90, "user", content="more")
    row = found_by(adapter)[EMBEDDED]
    assert (row.turn, row.activity, row.last_prompt) == (Turn.WORKING, "thinking", "more")
    call = {"type": "toolCall", "id": "c", "name": "exec", "arguments": {"command": "ls"}}
    event(database, EMBEDDED, 91, "assistant", content=[call], stopReason="toolUse")
    row = found_by(adapter, {str(database)})[EMBEDDED]
    assert (row.turn, row.activity) == (Turn.WORKING, "using exec")
    event(database, EMBEDDED, 92, "toolResult", toolCallId="c", isError=True, content="no such thing")
    event(database, EMBEDDED, 93, "assistant", content="sorry", stopReason="stop")
    row = found_by(adapter, {str(database)})[EMBEDDED]
    assert row.turn is Turn.DONE
    call_message, result, _ = adapter.transcript(row, 3).messages
    assert (call_message.tools[0].name, result.role) == ("exec", "tool")
    assert (result.tools[0].failed, result.tools[0].content) == (True, "no such thing")
    change(database, "UPDATE session_windows SET status = 'running', updated_at = 5")
    assert {each.turn for each in found_by(adapter).values()} == {Turn.WORKING}


def test_a_subagent_and_a_fork_show_their_parent(adapter: Adapter, database: Path) -> None:
    key = f"agent:main:explicit:{EMBEDDED}"
    change(
        database, f"UPDATE session_nodes SET spawned_by = '{key}' WHERE current_session_id = '{BY_GATEWAY}'"
    )
    assert found_by(adapter)[BY_GATEWAY].parent == EMBEDDED
    change(
        database,
        f"UPDATE session_nodes SET fork_source_session_id = 'other-1' WHERE session_key = '{key}'",
        "UPDATE session_windows SET updated_at = 5",
    )
    assert found_by(adapter)[EMBEDDED].parent == "other-1"


def test_a_locked_database_and_another_schema_leave_the_last_good_answer(
    adapter: Adapter, database: Path
) -> None:
    whole = found_by(adapter)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("UPDATE session_windows SET model = 'x'")
        told = list(adapter.discover(None))
        check_told(adapter, told)
        assert {each.id for each in told if isinstance(each, Found)} == whole.keys()
        assert [each.code for each in problems_of(told)] == ["file_unreadable"]
        connection.rollback()
    assert Clear(str(database)) in list(adapter.discover({str(database)}))
    change(database, "DROP TABLE transcript_events")
    told = list(adapter.discover(None))
    assert {each.id for each in told if isinstance(each, Found)} == whole.keys()
    assert [each.code for each in problems_of(told)] == ["format_newer"]


# ---- evidence -----------------------------------------------------------------------------------


def test_without_the_lock_all_are_stopped(adapter: Adapter, tmp_path: Path) -> None:
    rows = found_by(adapter)
    assert life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(HOLDER))) == STOPPED
    lay_lock(tmp_path)
    assert life_of(rows[EMBEDDED], adapter.evidence(NOBODY)) == STOPPED
    recycled = FakeProcess(4242, START + 1, "openclaw-agent", "/usr/bin/node")
    assert life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(recycled))) == STOPPED
    assert adapter.is_alive(rows[EMBEDDED], FakeProcesses(recycled)) == STOPPED


def test_what_changes_while_the_lock_is_held_is_worked_on(
    adapter: Adapter, database: Path, tmp_path: Path
) -> None:
    lay_lock(tmp_path, createdAt=EARLY)
    rows = found_by(adapter)
    evidence = adapter.evidence(FakeProcesses(HOLDER))
    check_evidence(evidence)
    # When it was written proves nothing.
    assert {life_of(row, evidence).alive for row in rows.values()} == {None}
    assert {adapter.is_alive(row, FakeProcesses(HOLDER)).alive for row in rows.values()} == {None}
    change(
        database, f"UPDATE session_windows SET updated_at = updated_at + 1 WHERE session_id = '{EMBEDDED}'"
    )
    rows = found_by(adapter)
    evidence = adapter.evidence(FakeProcesses(HOLDER))
    check_evidence(evidence)
    life = life_of(rows[EMBEDDED], evidence)
    assert (life.alive, life.pid, life.start_time) == (True, 4242, START)
    assert life_of(rows[BY_GATEWAY], evidence) == STOPPED
    # Of the next one nothing is known again.
    lay_lock(tmp_path, startTime=START + 5)
    other = FakeProcess(4242, START + 5, "openclaw-agent", "/usr/bin/node")
    assert life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(other))).alive is None


def test_our_mark_names_what_an_embedded_agent_has(adapter: Adapter, tmp_path: Path) -> None:
    lay_lock(tmp_path, createdAt="2027-01-01T00:00:00.000Z")
    rows = found_by(adapter)
    marked = {"SESSIOND_AGENT_SESSION": f"openclaw:{BY_GATEWAY}"}
    holder = FakeProcess(4242, START, "openclaw-agent", "/usr/bin/node", environment=marked)
    evidence = adapter.evidence(FakeProcesses(holder))
    assert life_of(rows[BY_GATEWAY], evidence).alive
    assert life_of(rows[EMBEDDED], evidence) == STOPPED


def test_a_gateway_has_what_has_not_come_to_its_end(adapter: Adapter, database: Path, tmp_path: Path) -> None:
    lay_lock(tmp_path, role=None, port=18789, createdAt=EARLY)
    rows = found_by(adapter)
    evidence = adapter.evidence(FakeProcesses(GATEWAY))
    assert {life_of(row, evidence).alive for row in rows.values()} == {False}
    assert evidence.holders == [(4242, START)]
    change(database, f"UPDATE session_windows SET status = 'running' WHERE session_id = '{BY_GATEWAY}'")
    fresh = Adapter({"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp")})
    left = life_of(found_by(fresh)[BY_GATEWAY], fresh.evidence(FakeProcesses(GATEWAY)))
    assert (left.alive, left.pid) == (None, None), "a gateway before this one may have left it so"
    change(database, "UPDATE session_windows SET updated_at = updated_at + 1")
    rows = found_by(adapter)
    life = life_of(rows[BY_GATEWAY], adapter.evidence(FakeProcesses(GATEWAY)))
    # Its process has others open, too: nobody may end it for one of them.
    assert (life.alive, life.pid) == (True, None)
    assert "gateway" in life.reason


def test_the_lock_of_another_state_folder_says_nothing(adapter: Adapter, tmp_path: Path) -> None:
    lock = lay_lock(tmp_path)
    shared = tmp_path / f"tmp/openclaw-{os.getuid()}"
    shared.mkdir(parents=True)
    lock.rename(shared / lock.name)
    rows = found_by(adapter)
    assert life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(HOLDER))).alive is None
    text = (shared / lock.name).read_text().replace("/.openclaw", "/.other")
    (shared / lock.name).write_text(text)
    assert life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(HOLDER))) == STOPPED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', "\0" * 50, '{"pid": -4}'])
def test_a_lock_that_cannot_be_read_makes_all_unknown(adapter: Adapter, tmp_path: Path, text: str) -> None:
    lay_lock(tmp_path).write_text(text)
    rows = found_by(adapter)
    life = life_of(rows[EMBEDDED], adapter.evidence(FakeProcesses(HOLDER)))
    assert life.alive is None
    assert "gateway.state.lock" in life.reason


# ---- reading and starting -----------------------------------------------------------------------


def test_a_transcript_has_the_last_messages(adapter: Adapter, database: Path) -> None:
    rows = found_by(adapter)
    transcript = adapter.transcript(rows[EMBEDDED], 3)
    for each in transcript.messages:
        check_message(each)
    assert [each.role for each in transcript.messages] == ["assistant", "user", "assistant"]
    assert transcript.has_more
    assert (transcript.messages[0].tokens_in, transcript.messages[0].tokens_out) == (100, 7)
    change(
        database,
        "PRAGMA ignore_check_constraints=1",
        "UPDATE transcript_events SET event_json = NULL, event_zstd = x'28b52ffd' WHERE seq = 4",
    )
    transcript = adapter.transcript(rows[EMBEDDED], 10)
    assert [each.code for each in transcript.problems] == ["format_newer"]
    with pytest.raises(NotFound):
        adapter.transcript(Found("openclaw", "none"), 3)


def test_a_turn_has_the_chosen_id_and_its_prompt_by_standard_input(adapter: Adapter) -> None:
    plan = adapter.launch(Wish("/home/user", "hi " * 90_000, "fake/m1", print=True, id=EMBEDDED))
    assert plan.argv[:6] == ("openclaw", "agent", "--local", "--json", "--session-id", EMBEDDED)
    assert plan.argv[6:] == ("--model", "fake/m1", "--message-file", "/dev/stdin")
    assert plan.input == b"hi " * 90_000
    assert (plan.id, plan.learn) == (EMBEDDED, "")
    again = adapter.resume(found_by(adapter)[BY_GATEWAY], Wish("/home/user", "again", print=True))
    assert again.id == BY_GATEWAY
    assert BY_GATEWAY in again.argv


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("/", print=True, id="x"), "prompt_missing"),
        (Wish("/", "x" * (4 * 1024 * 1024 + 1), print=True, id="x"), "prompt_too_large"),
        (Wish("/", "x", "--local", print=True, id="x"), "model_invalid"),
    ],
)
def test_wishes_that_cannot_be_are_refused(adapter: Adapter, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapter.launch(wish)
    assert caught.value.code == code


def test_a_terminal_is_not_to_be_had(adapter: Adapter) -> None:
    with pytest.raises(Unsupported) as caught:
        adapter.launch(Wish("/", "x", id="x"))
    assert caught.value.code == "adapter_cannot"


def test_a_folder_for_temporary_files_is_left_alone_until_the_program_uses_it(
    adapter: Adapter, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "tmp" / f"openclaw-{os.getuid()}"
    assert (str(elsewhere) in [one.folder for one in adapter.watched()]) is elsewhere.exists()
    elsewhere.mkdir(parents=True, exist_ok=True)
    assert str(elsewhere) in [one.folder for one in adapter.watched()]
    elsewhere.rmdir()
    assert str(elsewhere) not in [one.folder for one in adapter.watched()]
