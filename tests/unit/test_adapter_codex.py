"""Codex: rollouts that real runs wrote, and who holds their locks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from backports import zstd

from sessiond.adapters import make_adapter
from sessiond.errors import InvalidArgument, NotFound, Unsupported
from sessiond.model.agent_session import STOPPED, Found, Life, Problem, Turn, Wish
from sessiond.ports.discovery import Clear, Gone
from tests.unit.adapter_case import (
    FakeProcess,
    FakeProcesses,
    check_message,
    check_told,
    count_reads,
    found_by,
)

FIXTURES = Path(__file__).parent.parent / "fixtures" / "codex"
DONE = "01a1fee6-e183-7ed2-b2be-d61fccf90b1a"
KILLED = "01a1fee7-66f8-7782-8588-9798068b95a8"
ASKED = "01a1fee8-754c-75c2-98fd-4435b4b663fd"
FORKED = "01a1fee9-f658-7162-8a36-a253432436ff"
FILES = {"done": DONE, "killed": KILLED, "asked": ASKED, "answered": ASKED, "forked": FORKED}
# Far from now in ticks since boot: a process that began long after the fixtures' turns.
NOW = 10**9


def lay(home: Path, name: str, folder: str = "sessions/2026/11/21") -> Path:
    """One of the fixtures where Codex keeps it."""
    path = home / ".codex" / folder / f"rollout-2026-11-21T16-18-26-{FILES[name]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FIXTURES / f"{name}.jsonl", path)
    return path


def lock(home: Path, session: str) -> tuple[int, int]:
    """The file whose flock its writer holds: device and inode."""
    path = home / ".codex/thread-writer-locks" / f"{session}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    status = path.stat()
    return status.st_dev, status.st_ino


def index(home: Path, number: int = 5, **columns: str) -> Path:
    """An index with one conversation; ``columns`` are what it tells of it."""
    path = home / ".codex" / f"state_{number}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE IF EXISTS threads")
        connection.execute(f"CREATE TABLE threads (id TEXT, {', '.join(columns) or 'x'})")
        marks = ", ".join("?" * (len(columns) or 1))
        connection.execute(f"INSERT INTO threads VALUES (?, {marks})", (DONE, *(columns.values() or ("",))))
    return path


def home_of(home: Path) -> Mapping[str, str]:
    return {"HOME": str(home)}


def test_a_rollout_tells_of_its_conversation(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    found = found_by(make_adapter("codex", home_of(tmp_path)))[DONE]
    assert (found.cwd, found.model, found.turn) == ("/home/user/project", "gpt-5", Turn.DONE)
    assert (found.first_prompt, found.last_prompt) == ("say hi", "say hi")
    assert (found.tokens_in, found.tokens_out) == (100, 7)
    assert found.started_at
    assert found.updated_at
    assert found.started_at.isoformat() == "2026-11-21T16:18:26.322000+00:00"
    assert found.started_at < found.updated_at
    assert found.native["cli_version"] == "0.169.0"
    assert found.native["source"] == "exec"


def test_a_first_line_longer_than_what_is_read_is_enough(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    path.write_bytes(path.read_bytes().replace(b"You are", b"You are" + b"x" * 400_000, 1))
    found = found_by(make_adapter("codex", home_of(tmp_path)))[DONE]
    assert found.cwd == "/home/user/project"
    assert found.turn is Turn.DONE


def test_a_fork_names_its_parent(tmp_path: Path) -> None:
    lay(tmp_path, "forked")
    found = found_by(make_adapter("codex", home_of(tmp_path)))[FORKED]
    assert found.parent == ASKED


def test_codex_home_is_honoured(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    (tmp_path / ".codex").rename(tmp_path / "elsewhere")
    given = {"HOME": str(tmp_path / "none"), "CODEX_HOME": str(tmp_path / "elsewhere")}
    assert set(found_by(make_adapter("codex", given))) == {DONE}


def test_nothing_is_found_where_codex_never_ran(tmp_path: Path) -> None:
    adapter = make_adapter("codex", home_of(tmp_path))
    assert list(adapter.discover(None)) == []
    assert adapter.evidence(FakeProcesses()).lives == {}


# ---- the index -------------------------------------------------------------------------------


def test_the_index_adds_names(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    index(tmp_path, name="My work", title="say hi", first_user_message="say hi")
    assert found_by(make_adapter("codex", home_of(tmp_path)))[DONE].title == "My work"


def test_a_renamed_one_is_told_when_the_index_changes(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    lay(tmp_path, "forked")
    path = index(tmp_path, name="before")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    index(tmp_path, name="after it")
    assert {key: row.title for key, row in found_by(adapter, {str(path)}).items()} == {DONE: "after it"}


def test_a_newer_index_of_another_form_hides_no_conversation(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    index(tmp_path, name="My work")
    with contextlib.closing(sqlite3.connect(tmp_path / ".codex/state_6.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE conversations (uuid TEXT)")
    adapter = make_adapter("codex", home_of(tmp_path))
    told = list(adapter.discover(None))
    check_told(adapter, told)
    assert [each.code for each in told if isinstance(each, Problem)] == ["format_newer"]
    assert [each.id for each in told if isinstance(each, Found)] == [DONE]


def test_a_newer_index_with_the_same_columns_is_read(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    index(tmp_path, 5, name="old")
    index(tmp_path, 12, name="new")
    assert found_by(make_adapter("codex", home_of(tmp_path)))[DONE].title == "new"


# ---- changes ---------------------------------------------------------------------------------


def test_only_what_changed_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    path = lay(tmp_path, "asked")
    adapter = make_adapter("codex", home_of(tmp_path))
    assert found_by(adapter)[ASKED].turn is Turn.WORKING
    shutil.copyfile(FIXTURES / "answered.jsonl", path)
    changed = found_by(adapter, {str(path)})
    assert set(changed) == {ASKED}
    assert changed[ASKED].turn is Turn.DONE


def test_archiving_moves_and_does_not_end(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    path.unlink()
    new = lay(tmp_path, "done", "archived_sessions")
    changed = found_by(adapter, {str(path), str(new)})
    assert changed[DONE].native["archived"] == "true"


def test_a_deleted_one_is_gone(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    path.unlink()
    assert list(adapter.discover({str(path)})) == [Gone(DONE)]


def test_a_folder_that_goes_takes_its_conversations(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    shutil.rmtree(path.parent)
    assert list(adapter.discover({str(path.parent)})) == [Gone(DONE)]


def test_a_broken_beginning_is_told_until_it_is_well(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    good = path.read_bytes()
    path.write_bytes(b"no rollout\n")
    adapter = make_adapter("codex", home_of(tmp_path))
    assert [(each.code, each.path) for each in adapter.discover(None) if isinstance(each, Problem)] == [
        ("file_malformed", str(path))
    ]
    path.write_bytes(good)
    told = list(adapter.discover({str(path)}))
    assert Clear(str(path)) in told
    assert [each.id for each in told if isinstance(each, Found)] == [DONE]


def pack(path: Path, data: bytes | None = None) -> Path:
    """As Codex does it with what is old."""
    packed = path.with_name(path.name + ".zst")
    packed.write_bytes(zstd.compress(path.read_bytes() if data is None else data))
    path.unlink()
    return packed


def test_a_compressed_one_is_read_as_it_was(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    plain = make_adapter("codex", home_of(tmp_path))
    before = found_by(plain)[DONE]
    said = plain.transcript(before, 50)
    packed = pack(path)
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[DONE]
    assert replace(found, native=before.native, source=before.source) == before
    assert found.native["path"] == str(packed)
    assert adapter.transcript(found, 50) == said


def test_of_a_long_compressed_one_the_beginning_and_the_index_tell(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    lines = path.read_bytes()
    first, _, rest = lines.partition(b"\n")
    filler = b'{"type":"compacted","payload":{"message":"' + b"x" * 1000 + b'"}}\n'
    pack(path, first + b"\n" + filler * 20_000 + rest)
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[DONE]
    assert found.cwd
    transcript = adapter.transcript(found, 50)
    assert [one.role for one in transcript.messages][-1] == "assistant"
    assert transcript.has_more, "of the last 16 MB"


@pytest.mark.parametrize("content", [b"", b"no zstd", b"\x28\xb5\x2f\xfd", zstd.compress(b"x" * 10_000)[:-4]])
def test_a_broken_compressed_one_is_told(tmp_path: Path, content: bytes) -> None:
    path = lay(tmp_path, "done")
    packed = pack(path)
    packed.write_bytes(content)
    adapter = make_adapter("codex", home_of(tmp_path))
    told = list(adapter.discover(None))
    check_told(adapter, told)
    assert [each.path for each in told if isinstance(each, Problem)] == [str(packed)]
    assert not [each for each in told if isinstance(each, Found)]


def test_one_that_unpacks_without_end_is_not_waited_for(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    first = path.read_bytes().partition(b"\n")[0]
    packed = pack(path, first + b"\n" + b"\n" * (300 << 20))
    assert packed.stat().st_size < 1 << 20
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[DONE]
    with pytest.raises(NotFound, match="256 MB"):
        adapter.transcript(found, 5)


def test_without_what_unpacks_it_is_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    pack(lay(tmp_path, "done"))
    index(tmp_path, name="My work", cwd="/home/user/project")
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[DONE]
    assert (found.title, found.cwd) == ("My work", "/home/user/project")
    with pytest.raises(NotFound) as caught:
        adapter.transcript(found, 5)
    assert caught.value.code == "transcript_missing"
    assert "resume" in caught.value.hint


# ---- processes -------------------------------------------------------------------------------


def test_who_holds_the_lock_has_it_open(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    lay(tmp_path, "forked")
    adapter = make_adapter("codex", home_of(tmp_path))
    rows = found_by(adapter)
    processes = FakeProcesses(FakeProcess(77, 5, exe="/x/codex"), locks={lock(tmp_path, DONE): 77})
    assert adapter.evidence(processes).lives == {DONE: Life(True, pid=77, start_time=5)}
    assert adapter.is_alive(rows[DONE], processes) == Life(True, pid=77, start_time=5)
    assert adapter.is_alive(rows[FORKED], processes) == STOPPED


def test_a_lock_that_is_held_outside_of_a_nest_is_in_doubt(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    lay(tmp_path, "killed")
    adapter = make_adapter("codex", home_of(tmp_path))
    rows = found_by(adapter)
    holder = FakeProcess(77, 5, "codex", cwd=rows[KILLED].cwd)
    processes = FakeProcesses(outside=[holder], locks_outside={lock(tmp_path, DONE): 77})
    evidence = adapter.evidence(processes)
    assert evidence.lives == {DONE: Life(None, "process 77 outside of this nest holds its lock")}
    # What it has open is known: nothing else of its folder is.
    assert not evidence.outside
    assert adapter.is_alive(rows[DONE], processes).alive is None


def test_an_older_version_outside_of_a_nest_is_seen_by_its_open_file(tmp_path: Path) -> None:
    path = str(lay(tmp_path, "killed"))
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    older = FakeProcess(77, 5, "codex", open_files=[path])
    evidence = adapter.evidence(FakeProcesses(outside=[older]))
    assert evidence.lives[KILLED].alive is None
    assert not evidence.outside
    # Of one whose files cannot be looked at nothing can be told; of a server it can.
    closed = FakeProcess(78, 5, "codex", cwd="/somewhere")
    server = FakeProcess(79, 5, "codex", argv=("codex", "mcp-server"))
    # Some other file that it has locked says nothing.
    processes = FakeProcesses(outside=[closed, server], locks_outside={(1, 2): 78})
    [told] = adapter.evidence(processes).outside or ()
    assert (told.pid, told.cwd) == (78, "/somewhere")


def test_a_lock_that_nobody_holds_shows_nothing(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    lock(tmp_path, KILLED)
    adapter = make_adapter("codex", home_of(tmp_path))
    rows = found_by(adapter)
    assert adapter.evidence(FakeProcesses()).lives == {}
    assert adapter.is_alive(rows[KILLED], FakeProcesses()) == STOPPED


def test_a_holder_out_of_sight_is_not_taken_for_none(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    life = adapter.is_alive(found_by(adapter)[DONE], FakeProcesses(locks={lock(tmp_path, DONE): 4242}))
    assert life.alive is None
    assert "4242" in life.reason


def test_the_shared_server_is_the_process_of_none(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    lay(tmp_path, "forked")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    server = FakeProcess(88, 6, exe="/x/codex", argv=("codex", "app-server", "--managed-daemon"))
    locks = {lock(tmp_path, DONE): 88, lock(tmp_path, FORKED): 88}
    evidence = adapter.evidence(FakeProcesses(server, locks=locks))
    assert {(life.alive, life.pid) for life in evidence.lives.values()} == {(True, None)}
    assert all("88" in life.reason for life in evidence.lives.values())
    assert list(evidence.holders) == [(88, 6)], "its end is still to be heard of"


def test_an_older_version_without_locks_is_seen_by_its_open_file(tmp_path: Path) -> None:
    path = lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    found_by(adapter)
    holder = FakeProcess(77, exe="/x/codex", open_files={str(path)})
    assert adapter.evidence(FakeProcesses(holder)).lives[DONE].pid == 77


def test_a_turn_that_an_earlier_process_left_is_not_at_work(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[KILLED]
    assert found.turn is Turn.WORKING
    later = FakeProcess(77, NOW, exe="/x/codex")
    life = adapter.is_alive(found, FakeProcesses(later, locks={lock(tmp_path, KILLED): 77}))
    assert replace(found, life=life).status == "idle"


def test_a_command_that_needs_leave_waits_until_it_runs(tmp_path: Path) -> None:
    lay(tmp_path, "asked")
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[ASKED]
    holder = FakeProcess(77, 1, exe="/x/codex")
    locks = {lock(tmp_path, ASKED): 77}
    life = adapter.is_alive(found, FakeProcesses(holder, locks=locks))
    assert (life.turn, life.activity) == (Turn.WAITING, "waiting for permission")
    command = FakeProcess(78, parent=77, environment={"CODEX_THREAD_ID": ASKED})
    life = adapter.is_alive(found, FakeProcesses(holder, command, locks=locks))
    assert replace(found, life=life).status == "running"
    assert found.activity == "using exec_command"


# ---- reading and starting ----------------------------------------------------------------------


def test_a_transcript_is_the_last_messages(tmp_path: Path) -> None:
    lay(tmp_path, "answered")
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[ASKED]
    whole = adapter.transcript(found, 20)
    for message in whole.messages:
        check_message(message)
    assert [each.role for each in whole.messages] == ["user", "assistant", "tool", "assistant"]
    assert whole.messages[1].tools[0].name == "exec_command"
    assert whole.messages[2].tools[0].id == whole.messages[1].tools[0].id
    assert whole.messages[3].tokens_out == 7
    assert not whole.has_more
    last = adapter.transcript(found, 1)
    assert [each.text for each in last.messages] == ["hello there"]
    assert last.has_more


def test_a_huge_rollout_is_read_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = count_reads(monkeypatch)
    path = lay(tmp_path, "answered")
    tail = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(2 * 1024**3)
        file.write(b"\n" + tail)
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[ASKED]
    assert found.turn is Turn.DONE
    transcript = adapter.transcript(found, 4)
    assert [each.role for each in transcript.messages] == ["user", "assistant", "tool", "assistant"]
    assert 0 < sum(given) < 64 * 1024**2


@pytest.mark.parametrize("prompt", ["-rf", "resume", "two\nlines"])
def test_a_prompt_is_taken_for_nothing_else(tmp_path: Path, prompt: str) -> None:
    adapter = make_adapter("codex", home_of(tmp_path))
    plan = adapter.launch(Wish("/p", prompt, model="gpt-5"))
    assert plan.argv == ("codex", "--no-daemon", "-m", "gpt-5", "--", prompt)
    assert (plan.learn, plan.id, plan.input) == ("files", "", None)


def test_print_mode_reads_the_prompt_and_tells_its_id(tmp_path: Path) -> None:
    adapter = make_adapter("codex", home_of(tmp_path))
    plan = adapter.launch(Wish("/p", "x" * 1_000_000, print=True))
    assert plan.argv == ("codex", "exec", "--json", "--skip-git-repo-check", "-")
    assert plan.input == b"x" * 1_000_000
    assert plan.learn == "stdout"
    assert adapter.identify(f'{{"type":"thread.started","thread_id":"{DONE}"}}') == DONE
    for line in (
        "",
        "{}",
        "[1]",
        "WARNING: x",
        '{"type":"thread.started","thread_id":"../x"}',
        "[" * 100_000,
    ):
        assert adapter.identify(line) is None


def test_resuming_names_the_conversation(tmp_path: Path) -> None:
    lay(tmp_path, "done")
    adapter = make_adapter("codex", home_of(tmp_path))
    found = found_by(adapter)[DONE]
    plan = adapter.resume(found, Wish("/p", "more", print=True))
    assert plan.argv == ("codex", "exec", "resume", "--json", "--skip-git-repo-check", DONE, "-")
    assert (plan.id, plan.input, plan.learn) == (DONE, b"more", "")
    plan = adapter.resume(found, Wish("/p", "more"))
    assert plan.argv == ("codex", "resume", "--no-daemon", "-C", "/p", DONE, "--", "more")


def test_an_archived_one_is_not_resumed(tmp_path: Path) -> None:
    lay(tmp_path, "done", "archived_sessions")
    adapter = make_adapter("codex", home_of(tmp_path))
    with pytest.raises(Unsupported, match="archived") as caught:
        adapter.resume(found_by(adapter)[DONE], Wish("/p", "x"))
    assert caught.value.code == "adapter_cannot"
    assert DONE in caught.value.hint


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("/p", "  ", print=True), "prompt_missing"),
        (Wish("/p", "x" * 131_072), "prompt_too_large"),
        (Wish("/p", "a\0b"), "prompt_invalid"),
        (Wish("/p", "x", model="--yolo"), "model_invalid"),
        (Wish("/p", "x", model="a b"), "model_invalid"),
    ],
)
def test_what_cannot_be_started_says_why(tmp_path: Path, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_adapter("codex", home_of(tmp_path)).launch(wish)
    assert caught.value.code == code
    assert caught.value.hint


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    adapter = make_adapter("codex", home_of(tmp_path))
    program = tmp_path / "node_modules/@openai/codex/bin/codex.js"
    program.parent.mkdir(parents=True)
    program.touch()
    link = tmp_path / "codex"
    os.symlink(program, link)
    assert adapter.version(str(link)) == ""
    (program.parent.parent / "package.json").write_text('{"version": "0.169.0"}')
    assert adapter.version(str(link)) == "0.169.0"
    assert adapter.version(str(tmp_path / "nothing")) == ""
