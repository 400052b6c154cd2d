"""Gemini CLI: files that real runs wrote, and processes that do not tell what they have open."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.adapters import make_adapter
from sessiond.errors import InvalidArgument, Unsupported
from sessiond.model.agent_session import Found, Problem, Turn, Wish
from sessiond.ports.discovery import AgentAdapter, Gone
from tests.unit.adapter_case import FakeProcess, FakeProcesses, check_message, found_by, life_of

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gemini"
KILLED = "22222222-2222-4333-8444-555555555555"
RESUMED = "44444444-2222-4333-8444-555555555555"
FILES = {"killed": KILLED, "resumed": RESUMED}
NODE = "/usr/bin/node"
SCRIPT = "/usr/lib/node_modules/.bin/gemini"


def lay(home: Path, name: str, stamp: str = "2026-11-21T16-21") -> Path:
    """One of the fixtures where Gemini CLI keeps it."""
    folder = home / ".gemini/tmp/project"
    (folder / "chats").mkdir(parents=True, exist_ok=True)
    (folder / ".project_root").write_text("/home/user/project")
    path = folder / "chats" / f"session-{stamp}-{FILES[name][:8]}.jsonl"
    shutil.copyfile(FIXTURES / f"{name}.jsonl", path)
    return path


def adapter_of(home: Path) -> AgentAdapter:
    return make_adapter("gemini", {"HOME": str(home)})


def test_a_file_tells_of_its_conversation(tmp_path: Path) -> None:
    lay(tmp_path, "resumed")
    found = found_by(adapter_of(tmp_path))[RESUMED]
    assert (found.cwd, found.model, found.turn) == ("/home/user/project", "gemini-2.5-flash", Turn.DONE)
    assert (found.first_prompt, found.last_prompt) == ("TOOL now", "again after")
    assert (found.tokens_in, found.tokens_out) == (100, 10)
    assert found.started_at
    assert found.updated_at
    assert found.started_at < found.updated_at
    assert found.native["kind"] == "main"


def test_one_that_was_killed_was_at_work(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    found = found_by(adapter_of(tmp_path))[KILLED]
    assert found.turn is Turn.WORKING
    assert found.first_prompt == "SLOW", "what the program says itself is no prompt"


def test_of_files_with_the_same_id_the_last_counts(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    lay(tmp_path, "killed", "2026-11-21T17-00")
    adapter = adapter_of(tmp_path)
    assert found_by(adapter)[KILLED].native["path"].endswith("T17-00-22222222.jsonl")


def test_a_file_in_which_nothing_was_said_hides_no_other_of_its_id(tmp_path: Path) -> None:
    # Resumed in another minute, it makes one of a new name, and goes on in the old one.
    path = lay(tmp_path, "resumed")
    adapter = adapter_of(tmp_path)
    before = found_by(adapter)[RESUMED]
    stub = path.with_name(path.name.replace("T16-21", "T17-00"))
    head, context, *_ = path.read_text().splitlines()
    stub.write_text("\n".join([head.replace("T16", "T17"), context.replace("T16", "T17"), ""]))
    assert found_by(adapter, {str(stub)}) == {RESUMED: before}
    assert [each.text for each in adapter.transcript(before, 2).messages] != []
    said = {"id": "m", "timestamp": "2030-01-01T00:00:00Z", "type": "user", "content": "a used id"}
    with stub.open("a") as file:
        file.write(json.dumps(said) + "\n")
    assert found_by(adapter, {str(stub)})[RESUMED].last_prompt == "a used id"


def test_a_subagent_names_its_parent(tmp_path: Path) -> None:
    path = lay(tmp_path, "resumed")
    child = path.parent / RESUMED / "child-1.jsonl"
    child.parent.mkdir()
    child.write_text(path.read_text().replace(RESUMED, "child-1"))
    assert found_by(adapter_of(tmp_path))["child-1"].parent == RESUMED


def test_old_files_are_read_and_their_folder_is_known_by_its_hash(tmp_path: Path) -> None:
    project = "/home/user/old"
    digest = hashlib.sha256(project.encode()).hexdigest()
    chats = tmp_path / ".gemini/tmp" / digest / "chats"
    chats.mkdir(parents=True)
    (tmp_path / ".gemini/projects.json").write_text(json.dumps({"projects": {project: "old"}}))
    message = {"id": "1", "type": "user", "content": "hello", "timestamp": "2025-11-21T16:21:57.161Z"}
    head = {"sessionId": KILLED, "projectHash": digest, "startTime": "2025-11-21T16:21:57.161Z"}
    (chats / "session-2025-11-21T16-21-22222222.json").write_text(
        json.dumps({**head, "messages": [message]}, indent=2)
    )
    found = found_by(adapter_of(tmp_path))[KILLED]
    assert (found.cwd, found.first_prompt, found.turn) == (project, "hello", Turn.WORKING)


def test_changes_are_told_alone(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    path = lay(tmp_path, "resumed")
    adapter = adapter_of(tmp_path)
    found_by(adapter)
    with path.open("a") as file:
        message = {"id": "n", "timestamp": "2026-11-22T00:00:00Z", "type": "user", "content": "and now"}
        file.write(json.dumps(message) + "\n")
    changed = found_by(adapter, {str(path)})
    assert {key: row.last_prompt for key, row in changed.items()} == {RESUMED: "and now"}
    path.unlink()
    assert list(adapter.discover({str(path)})) == [Gone(RESUMED)]


def test_a_step_back_takes_messages_back(tmp_path: Path) -> None:
    path = lay(tmp_path, "resumed")
    with path.open("a") as file:
        file.write('{"$rewindTo": "65927a4b-1ea3-47e5-a170-d3b86f099e13"}\n')
    adapter = adapter_of(tmp_path)
    found = found_by(adapter)[RESUMED]
    assert (found.tokens_in, found.tokens_out) == (100, 10), "what was spent stays spent"
    assert not any(each.text == "hello gem" for each in adapter.transcript(found, 20).messages)


def test_a_project_that_gets_its_folder_later(tmp_path: Path) -> None:
    path = lay(tmp_path, "killed")
    root = path.parent.parent / ".project_root"
    root.unlink()
    adapter = adapter_of(tmp_path)
    assert found_by(adapter)[KILLED].cwd == ""
    root.write_text("/home/user/project")
    assert found_by(adapter, {str(root)})[KILLED].cwd == "/home/user/project"


def test_a_file_without_an_id_is_told(tmp_path: Path) -> None:
    path = lay(tmp_path, "killed")
    path.write_text("nothing\n")
    told = list(adapter_of(tmp_path).discover(None))
    assert [each.code for each in told if isinstance(each, Problem)] == ["file_malformed"]
    assert not any(isinstance(each, Found) for each in told)


# ---- processes -------------------------------------------------------------------------------


def pair(cwd: str = "/home/user/project", **environment: str) -> list[FakeProcess]:
    """The one that is started, and the one that it starts."""
    made = [
        FakeProcess(10, exe=NODE, argv=(NODE, SCRIPT), cwd=cwd, environment=environment),
        FakeProcess(11, exe=NODE, argv=(NODE, "--x=1", SCRIPT), cwd=cwd, environment=environment),
    ]
    made[1].parent = 10
    return made


def test_a_process_in_the_folder_may_have_any_open(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    adapter = adapter_of(tmp_path)
    found = found_by(adapter)[KILLED]
    evidence = adapter.evidence(FakeProcesses(*pair()))
    assert [each.pid for each in evidence.possible] == [11], "the first only starts the second"
    life = life_of(found, evidence)
    assert life.alive is None
    assert "11" in life.reason
    assert replace(found, life=life).status == "unknown"
    assert adapter.is_alive(found, FakeProcesses(*pair())).alive is None


def test_one_elsewhere_and_other_programs_have_none_open(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    adapter = adapter_of(tmp_path)
    found = found_by(adapter)[KILLED]
    elsewhere = FakeProcesses(*pair("/home/user/other"))
    assert life_of(found, adapter.evidence(elsewhere)).alive is False
    assert adapter.is_alive(found, elsewhere).alive is False
    editor = FakeProcess(12, exe="/usr/bin/vim", argv=("vim", "gemini"), cwd="/home/user/project")
    script = FakeProcess(13, exe=NODE, argv=(NODE, "x.js", "gemini"), cwd="/home/user/project")
    assert adapter.evidence(FakeProcesses(editor, script)).possible == []


def test_a_marked_process_has_its_own_open_and_no_other(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    lay(tmp_path, "resumed")
    adapter = adapter_of(tmp_path)
    rows = found_by(adapter)
    processes = FakeProcesses(*pair(SESSIOND_AGENT_SESSION=f"gemini:{KILLED}"))
    evidence = adapter.evidence(processes)
    assert (life_of(rows[KILLED], evidence).alive, life_of(rows[KILLED], evidence).pid) == (True, 11)
    assert life_of(rows[RESUMED], evidence).alive is False
    assert adapter.is_alive(rows[KILLED], processes).alive is True


# ---- reading and starting ----------------------------------------------------------------------


def test_a_transcript_is_the_last_messages(tmp_path: Path) -> None:
    lay(tmp_path, "resumed")
    adapter = adapter_of(tmp_path)
    found = found_by(adapter)[RESUMED]
    whole = adapter.transcript(found, 20)
    for message in whole.messages:
        check_message(message)
    prompts = [each.text.strip() for each in whole.messages if each.role == "user" and each.text]
    assert prompts == ["TOOL now", "again after"]
    assert whole.messages[-1].text == "hello gem"
    assert any(tool.name == "run_shell_command" for each in whole.messages for tool in each.tools)
    last = adapter.transcript(found, 1)
    assert len(last.messages) == 1
    assert last.has_more


def test_launching_chooses_the_id(tmp_path: Path) -> None:
    adapter = adapter_of(tmp_path)
    plan = adapter.launch(Wish("/p", "hello", id=KILLED, print=True, model="gemini-2.5-pro"))
    assert plan.argv[:5] == ("gemini", "--session-id", KILLED, "--model", "gemini-2.5-pro")
    assert (plan.id, plan.input, plan.learn) == (KILLED, b"hello", "")
    plan = adapter.launch(Wish("/p", "-x", id=KILLED))
    assert plan.argv == ("gemini", "--session-id", KILLED, "--prompt-interactive=-x")
    assert adapter.identify(f'{{"type":"init","session_id":"{KILLED}"}}') == KILLED
    assert adapter.identify("[" * 100_000) is None


def test_resuming_is_done_in_its_folder(tmp_path: Path) -> None:
    lay(tmp_path, "killed")
    adapter = adapter_of(tmp_path)
    found = found_by(adapter)[KILLED]
    plan = adapter.resume(found, Wish("/home/user/project", "more", print=True))
    assert plan.argv[:3] == ("gemini", "--resume", KILLED)
    assert plan.input == b"more"
    with pytest.raises(Unsupported) as caught:
        adapter.resume(found, Wish("/elsewhere", "more"))
    assert caught.value.code == "adapter_cannot"


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("/p", "x", id="mine"), "id_invalid"),
        (Wish("/p", "", id=KILLED, print=True), "prompt_missing"),
        (Wish("/p", "x" * 131_072, id=KILLED), "prompt_too_large"),
        (Wish("/p", "x", id=KILLED, model="-y"), "model_invalid"),
    ],
)
def test_what_cannot_be_started_says_why(tmp_path: Path, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapter_of(tmp_path).launch(wish)
    assert caught.value.code == code
    assert caught.value.hint


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    program = tmp_path / "gemini-cli/bundle/gemini.js"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "gemini-cli/package.json").write_text('{"version": "0.61.0"}')
    assert adapter_of(tmp_path).version(str(program)) == "0.61.0"
