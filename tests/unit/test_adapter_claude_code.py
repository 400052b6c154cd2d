"""Claude Code's adapter on what real runs wrote, and on what they can write."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sessiond.adapters import make_adapter
from sessiond.adapters.claude_code.registry import own_domain
from sessiond.errors import NotFound
from sessiond.model.agent_session import STOPPED, Found, Life, Turn
from sessiond.ports.discovery import AgentAdapter, Clear, Gone
from tests.unit.adapter_case import (
    NOBODY,
    FakeProcess,
    FakeProcesses,
    check_evidence,
    check_told,
    count_reads,
    found_by,
    life_of,
    problems_of,
)

FIXTURES = Path(__file__).parent.parent / "fixtures/claude_code"
PROJECT = "-home-user-project"

ASKED = "602475a8-03c2-4783-bb21-695163b470d6"
WITH_SUBAGENT = "242e3a83-63fe-450d-b2c5-c1604649c428"
SUBAGENT = "agent-a777abfe2215002c7"
BEFORE_CLEAR = "e49b8ab1-6145-42ec-bedb-1457e1680b68"
CLEARED = "5728407d-eabd-48ed-acea-9d5d4f1d1c2a"
PRINTED = "d2247491-24e6-4213-80da-44fdc3ad9851"
FORK_PRINTED = "c7911fa3-df58-423d-ba71-f3947cc72c7f"
TALKED = "653c31de-a30b-4e8a-883b-b07d3b918c86"
BRANCHED = "77a5394c-d43f-4d15-b195-e0a7e74d4b3a"
FORK_TALKED = "c4b0fcc1-bc54-4447-a316-16ec0024293b"
NEW = "11111111-2222-4333-8444-555555555555"

CLAUDE = FakeProcess(4242, 1288875, "claude", "/opt/claude-code/bin/claude.exe", cwd="/home/user/project")


@pytest.fixture
def home(isolated_home: Path) -> Path:
    shutil.copytree(FIXTURES, isolated_home / ".claude")
    return isolated_home


@pytest.fixture
def adapter(home: Path) -> AgentAdapter:
    return make("claude-code", home)


def make(name: str, home: Path, **environment: str) -> AgentAdapter:
    return make_adapter(name, {"HOME": str(home), **environment})


def transcript_of(home: Path, id: str) -> Path:
    return home / ".claude/projects" / PROJECT / f"{id}.jsonl"


def register(home: Path, pid: int = 4242, **fields: Any) -> Path:
    """An entry of the registry, the fixture's with these fields (None takes one out)."""
    entry = json.loads((FIXTURES / "sessions/4242.json").read_text()) | {"pid": pid} | fields
    path = home / f".claude/sessions/{pid}.json"
    path.write_text(json.dumps({name: value for name, value in entry.items() if value is not None}))
    return path


def user(text: str, **more: Any) -> dict[str, Any]:
    """A line of a prompt."""
    return {
        "parentUuid": None,
        "type": "user",
        "message": {"role": "user", "content": text},
        "uuid": f"u-{text[:8]}",
        "timestamp": "2026-11-21T10:00:00.000Z",
        "cwd": "/home/user/project",
        "sessionId": NEW,
        "version": "2.1.329",
        **more,
    }


def said(content: list[dict[str, Any]], stop: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    """A line of an answer."""
    message = {"role": "assistant", "model": "claude-x", "stop_reason": stop, "content": content}
    usage = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5}
    return user("") | {
        "type": "assistant",
        "message": message | {"usage": usage, "id": "m1"},
        "timestamp": "2026-11-21T10:00:05.000Z",
        **more,
    }


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def write(home: Path, *lines: dict[str, Any], id: str = NEW) -> Path:
    path = transcript_of(home, id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return path


# ---- what a transcript tells --------------------------------------------------------------------


def test_a_conversation_is_told_by_both_ends_of_its_transcript(adapter: AgentAdapter, home: Path) -> None:
    found = found_by(adapter)[BEFORE_CLEAR]
    assert found.cwd == "/home/user/project"
    assert found.model == "claude-opus-5-5"
    assert found.first_prompt == "slow 5"
    assert found.last_prompt.startswith("tool: touch")
    assert found.started_at == datetime(2026, 11, 21, 16, 23, 36, 995000, UTC)
    assert found.updated_at == datetime(2026, 11, 21, 16, 23, 51, 822000, UTC)
    assert (found.tokens_in, found.tokens_out, found.cost_usd) == (240, 18, 0.00132)
    assert found.turn is Turn.DONE, "its user interrupted it"
    assert found.native["version"] == "2.1.329"
    assert found.native["transcript"] == str(transcript_of(home, BEFORE_CLEAR))


def test_commands_are_no_prompts(adapter: AgentAdapter) -> None:
    assert found_by(adapter)[CLEARED].first_prompt == "second one"


def test_a_title_given_by_its_user_is_the_title(adapter: AgentAdapter) -> None:
    assert found_by(adapter)[FORK_TALKED].title == "My fine title"


def test_a_title_of_the_program_gives_way_to_its_users(home: Path) -> None:
    titles = [{"type": "custom-title", "customTitle": "Mine"}, {"type": "ai-title", "aiTitle": "Its own"}]
    write(home, user("hello"), *titles)
    assert found_by(make("claude-code", home))[NEW].title == "Mine"
    write(home, user("hello"), titles[1])
    assert found_by(make("claude-code", home))[NEW].title == "Its own"


def test_subagents_and_forks_show_their_parent(adapter: AgentAdapter) -> None:
    found = found_by(adapter)
    parents = {id: row.parent for id, row in found.items()}
    assert parents[SUBAGENT] == WITH_SUBAGENT
    assert parents[FORK_PRINTED] == PRINTED
    assert parents[BRANCHED] == TALKED
    assert parents[FORK_TALKED] == TALKED
    assert parents[ASKED] == parents[PRINTED] == parents[TALKED] == parents[CLEARED] == ""
    assert found[SUBAGENT].title == "A title"
    assert found[SUBAGENT].native["agentType"] == "general-purpose"


@pytest.mark.parametrize(
    ("last", "turn", "activity"),
    [
        (said([text("Done.")]), Turn.DONE, ""),
        (said([text("Done.")], stop=None), Turn.DONE, ""),
        (said([text("I call")], stop="tool_use"), Turn.WORKING, "using a tool"),
        (said([{"type": "tool_use", "name": "Bash"}], stop="tool_use"), Turn.WORKING, "using Bash"),
        (said([{"type": "thinking", "thinking": "hm"}], stop=None), Turn.WORKING, "thinking"),
        (said([text("API Error")], stop="stop_sequence", isApiErrorMessage=True), Turn.DONE, ""),
        (user("go on"), Turn.WORKING, "thinking"),
        (user("<command-name>/cost</command-name>"), Turn.DONE, ""),
        (user("[Request interrupted by user]"), Turn.DONE, ""),
        (
            user("") | {"message": {"role": "user", "content": [{"type": "tool_result", "content": "hi"}]}},
            Turn.WORKING,
            "thinking",
        ),
    ],
)
def test_the_last_message_says_whose_turn_it_is(
    home: Path, last: dict[str, Any], turn: Turn, activity: str
) -> None:
    write(home, user("begin"), said([text("Yes.")]), last, {"type": "last-prompt", "lastPrompt": "begin"})
    found = found_by(make("claude-code", home))[NEW]
    assert (found.turn, found.activity) == (turn, activity)


def test_costs_noted_before_something_more_was_said_are_not_those_of_the_whole(home: Path) -> None:
    usage = {"claude-x": {"inputTokens": 1, "cacheReadInputTokens": 2, "outputTokens": 3}}
    cost = {"type": "cost-state", "totalCostUSD": 0.5, "modelUsage": usage, "hasUnknownModelCost": False}
    write(home, user("one"), said([text("1")]), cost)
    found = found_by(make("claude-code", home))[NEW]
    assert (found.tokens_in, found.tokens_out, found.cost_usd) == (3, 3, 0.5)
    write(home, user("one"), said([text("1")]), cost, user("two"))
    found = found_by(make("claude-code", home))[NEW]
    assert (found.tokens_in, found.tokens_out, found.cost_usd) == (None, None, None)
    write(home, user("one"), said([text("1")]), cost | {"hasUnknownModelCost": True})
    found = found_by(make("claude-code", home))[NEW]
    assert (found.tokens_in, found.cost_usd) == (3, None)


def test_the_folder_comes_from_the_lines_not_from_the_name_of_the_folder(home: Path) -> None:
    # `/home/user/a-b` and `/home/user/a/b` make the same name.
    write(home, user("hello", cwd="/home/user/a/b"), said([text("x")], cwd="/home/user/a/b/deeper"))
    assert found_by(make("claude-code", home))[NEW].cwd == "/home/user/a/b"


def test_a_transcript_that_moved_with_its_folder_is_of_the_new_folder(home: Path) -> None:
    write(home, user("hello", cwd="/home/user/elsewhere"), said([text("x")], cwd="/home/user/project"))
    assert found_by(make("claude-code", home))[NEW].cwd == "/home/user/project"


def test_of_two_transcripts_of_one_id_the_one_written_last_counts(home: Path) -> None:
    path = write(home, user("hello", cwd="/old"))
    os.utime(path, (1000, 1000))
    other = home / ".claude/projects/-moved" / path.name
    other.parent.mkdir()
    other.write_text(json.dumps(user("hello", cwd="/moved")) + "\n")
    adapter = make("claude-code", home)
    assert found_by(adapter)[NEW].cwd == "/moved"
    other.unlink()
    assert found_by(adapter, {str(other)})[NEW].cwd == "/old"


def test_long_prompts_and_much_before_them_are_read(home: Path) -> None:
    notes = [user("x" * 3000, type="attachment", message=None) for _ in range(20)]
    long = "word " * 40_000
    write(home, *notes, user(long), *(said([text("x" * 4000)]) for _ in range(40)))
    found = found_by(make("claude-code", home))[NEW]
    assert found.first_prompt.startswith("word word")
    assert len(found.first_prompt) == 200


def test_what_was_said_before_long_records_is_found(home: Path) -> None:
    record = user("", type="attachment", message=None, rendered="x" * 200_000)
    write(home, user("begin"), said([text("Yes.")]), record, {"type": "last-prompt", "lastPrompt": "begin"})
    found = found_by(make("claude-code", home))[NEW]
    assert (found.model, found.turn, found.last_prompt) == ("claude-x", Turn.DONE, "begin")


# ---- changes ------------------------------------------------------------------------------------


def test_unchanged_files_are_not_opened_again(adapter: AgentAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    # What was written this very moment may change once more without showing it, and is not kept.
    later = time.time_ns() + 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later)
    whole = found_by(adapter)
    opened: list[str] = []
    really = os.open

    def count(path: str, *rest: Any) -> int:
        opened.append(path)
        return really(path, *rest)

    monkeypatch.setattr(os, "open", count)
    assert found_by(adapter) == whole
    assert opened == []


def test_a_change_is_told_alone(adapter: AgentAdapter, home: Path) -> None:
    found_by(adapter)
    path = transcript_of(home, ASKED)
    with path.open("a") as file:
        file.write(json.dumps(user("one more")) + "\n")
    assert [(found.id, found.last_prompt) for found in found_by(adapter, {str(path)}).values()] == [
        (ASKED, "one more")
    ]
    path.unlink()
    assert list(adapter.discover({str(path)})) == [Gone(ASKED)]
    assert list(adapter.discover({str(path)})) == []


def test_a_folder_that_comes_and_goes_is_told_whole(adapter: AgentAdapter, home: Path) -> None:
    found_by(adapter)
    folder = home / ".claude/projects/-another"
    folder.mkdir()
    (folder / f"{NEW}.jsonl").write_text(json.dumps(user("hello")) + "\n")
    assert set(found_by(adapter, {str(folder)})) == {NEW}
    shutil.rmtree(folder)
    assert list(adapter.discover({str(folder)})) == [Gone(NEW)]
    shutil.rmtree(home / ".claude/projects")
    gone = {told.id for told in adapter.discover({str(home / ".claude/projects")}) if isinstance(told, Gone)}
    assert gone == {ASKED, WITH_SUBAGENT, SUBAGENT, BEFORE_CLEAR, PRINTED, FORK_PRINTED} | {
        TALKED,
        BRANCHED,
        FORK_TALKED,
    }, "the one that a process has open stays"


def test_all_of_it_may_come_later(isolated_home: Path) -> None:
    adapter = make("claude-code", isolated_home)
    assert found_by(adapter) == {}
    check_evidence(adapter.evidence(NOBODY))
    shutil.copytree(FIXTURES, isolated_home / ".claude")
    assert ASKED in found_by(adapter, {str(isolated_home / ".claude")})


def test_another_folder_of_settings_is_honoured(isolated_home: Path) -> None:
    shutil.copytree(FIXTURES, isolated_home / "elsewhere")
    adapter = make("claude-code", isolated_home, CLAUDE_CONFIG_DIR=str(isolated_home / "elsewhere/"))
    assert ASKED in found_by(adapter)
    assert [each.folder for each in adapter.watched()] == [
        str(isolated_home / "elsewhere/projects"),
        str(isolated_home / "elsewhere/sessions"),
    ]


def test_trouble_of_a_file_is_told_and_cleared(adapter: AgentAdapter, home: Path) -> None:
    before = found_by(adapter)[ASKED]
    path = transcript_of(home, ASKED)
    good = path.read_bytes()
    path.write_bytes(b"\0" * 5000)
    told = list(adapter.discover({str(path)}))
    assert [problem.code for problem in problems_of(told)] == ["file_malformed"]
    assert [each for each in told if isinstance(each, Found)] == [before], "the last good answer stays"
    path.write_bytes(good)
    assert Clear(str(path)) in list(adapter.discover({str(path)}))


def test_what_is_no_session_is_passed_over(adapter: AgentAdapter, home: Path) -> None:
    whole = set(found_by(adapter))
    folder = home / ".claude/projects" / PROJECT
    for name in ("with space.jsonl", "..jsonl", ".jsonl", "notes.txt", "x\udcff.jsonl", "\u2603.jsonl"):
        (folder / os.fsdecode(os.fsencode(name))).write_text("{}\n")
    (home / ".claude/sessions/notes.json").write_text("{}")
    (home / ".claude/projects/file.jsonl").write_text("{}")
    told = list(adapter.discover(None))
    check_told(adapter, told)
    assert {each.id for each in told if isinstance(each, Found)} == whole
    assert not problems_of(told)


# ---- who lives ----------------------------------------------------------------------------------


def test_nobody_lives_without_a_process(adapter: AgentAdapter) -> None:
    for found in found_by(adapter).values():
        assert life_of(found, adapter.evidence(NOBODY)).alive is False
        assert adapter.is_alive(found, NOBODY).alive is False


@pytest.mark.parametrize(
    ("fields", "turn", "activity"),
    [
        ({"status": "busy"}, Turn.WORKING, ""),
        ({"status": "idle"}, Turn.DONE, ""),
        ({"status": "waiting", "waitingFor": "permission prompt"}, Turn.WAITING, "waiting for permission"),
        ({"status": "waiting", "waitingFor": "dialog open"}, Turn.WAITING, "waiting for an answer"),
        ({"status": "waiting", "waitingFor": "goal proposal"}, Turn.WAITING, "waiting for goal proposal"),
        ({"status": "waiting"}, Turn.WAITING, "waiting for an answer"),
        ({"status": None}, None, ""),
        ({"status": "of a later version"}, None, ""),
    ],
)
def test_the_registry_says_what_a_process_does(
    adapter: AgentAdapter, home: Path, fields: dict[str, Any], turn: Turn | None, activity: str
) -> None:
    register(home, **fields)
    found = found_by(adapter)[CLEARED]
    expected = Life(True, "", 4242, 1288875, turn, activity)
    assert adapter.evidence(FakeProcesses(CLAUDE)).lives == {CLEARED: expected}
    assert adapter.is_alive(found, FakeProcesses(CLAUDE)) == expected


def test_a_pid_that_is_anothers_by_now_has_nothing_open(adapter: AgentAdapter) -> None:
    found = found_by(adapter)[CLEARED]
    recycled = FakeProcesses(FakeProcess(4242, 1288876, "claude", CLAUDE.exe, cwd=CLAUDE.cwd))
    assert life_of(found, adapter.evidence(recycled)).alive is not True
    assert adapter.evidence(recycled).lives == {}
    other = FakeProcesses(FakeProcess(4242, 1288876, "sleep", "/usr/bin/sleep"))
    assert life_of(found, adapter.evidence(other)).alive is False
    assert adapter.is_alive(found, other).alive is False


def test_a_process_of_another_namespace_cannot_be_told_of(adapter: AgentAdapter, home: Path) -> None:
    found = found_by(adapter)[CLEARED]
    register(home, pidDomain=own_domain())
    assert adapter.evidence(FakeProcesses(CLAUDE)).lives[CLEARED].alive is True
    path = register(home, pidDomain="linux:0000:pid:[1]")
    for processes in (FakeProcesses(CLAUDE), NOBODY):
        life = adapter.evidence(processes).lives[CLEARED]
        assert (life.alive, life.pid) == (None, None)
        assert "another PID namespace" in life.reason
        assert life.entry == str(path)
        assert adapter.is_alive(found, processes) == life
    # Who knows that it is over has a way out.
    path.unlink()
    assert CLEARED not in adapter.evidence(NOBODY).lives
    assert adapter.is_alive(found, NOBODY) == STOPPED


def test_a_process_without_a_start_time_cannot_be_told(adapter: AgentAdapter, home: Path) -> None:
    found_by(adapter)
    register(home, procStart=None)
    assert adapter.evidence(FakeProcesses(CLAUDE)).lives[CLEARED].alive is None
    assert adapter.evidence(FakeProcesses(FakeProcess(4242, 1, "sleep"))).lives == {}


def test_what_runs_without_a_transcript_is_a_row(home: Path) -> None:
    path = register(home, 77, sessionId=NEW, name="A name", nameSource="user", cwd="/home/user/other")
    adapter = make("claude-code", home)
    found = found_by(adapter)[NEW]
    assert (found.cwd, found.title) == ("/home/user/other", "A name")
    assert found.started_at is not None
    lives = adapter.evidence(FakeProcesses(FakeProcess(77, 1288875, "claude"))).lives
    assert lives[NEW].alive
    with pytest.raises(NotFound) as refused:
        adapter.transcript(found, 5)
    assert refused.value.code == "transcript_missing"
    path.unlink()
    assert list(adapter.discover({str(path)})) == [Gone(NEW)]


def test_clear_gives_a_process_another_conversation(adapter: AgentAdapter, home: Path) -> None:
    path = register(home, sessionId=BEFORE_CLEAR)
    found_by(adapter)
    assert set(adapter.evidence(FakeProcesses(CLAUDE)).lives) == {BEFORE_CLEAR}
    register(home, sessionId=NEW)
    assert set(found_by(adapter, {str(path)})) == {NEW}
    assert set(adapter.evidence(FakeProcesses(CLAUDE)).lives) == {NEW}
    write(home, user("hello"))
    assert found_by(adapter, {str(transcript_of(home, NEW))})[NEW].first_prompt == "hello"
    path.unlink()
    assert list(adapter.discover({str(path)})) == [], "its transcript tells of it now"


def test_a_spare_process_has_no_conversation(home: Path) -> None:
    register(home, 78, sessionId=NEW, kind="bg", spare=True)
    adapter = make("claude-code", home)
    assert NEW not in found_by(adapter)
    assert NEW not in adapter.evidence(FakeProcesses(FakeProcess(78, 1288875, "claude"))).lives


def test_of_two_processes_with_one_conversation_the_living_and_later_counts(
    adapter: AgentAdapter, home: Path
) -> None:
    found_by(adapter)
    register(home, 79, updatedAt=1)
    register(home, 80, updatedAt=2_000_000_000_000, status="idle")
    both = [FakeProcess(pid, 1288875, "claude") for pid in (79, 80)]
    assert adapter.evidence(FakeProcesses(*both)).lives[CLEARED].pid == 80
    assert adapter.evidence(FakeProcesses(both[0])).lives[CLEARED].pid == 79


@pytest.mark.parametrize("text", ["", "{"])
def test_an_entry_that_cannot_be_read_leaves_what_it_said(
    adapter: AgentAdapter, home: Path, text: str
) -> None:
    found = found_by(adapter)[CLEARED]
    alive = FakeProcesses(CLAUDE)
    adapter.evidence(alive)
    path = home / ".claude/sessions/4242.json"
    path.write_text(text)
    assert adapter.evidence(alive).lives[CLEARED].alive is True
    # Emptied it is about to be written anew: no trouble yet.
    trouble = [str(path)] if text else []
    assert [problem.path for problem in problems_of(adapter.discover({str(path)}))] == trouble
    fresh = make("claude-code", home)
    found_by(fresh)
    life = life_of(found, fresh.evidence(alive))
    assert life.alive is None
    assert "registry" in life.reason
    assert life_of(found, fresh.evidence(NOBODY)).alive is False


def test_an_entry_is_read_while_the_end_of_a_longer_one_still_follows_it(
    adapter: AgentAdapter, home: Path
) -> None:
    """The program writes over what was there, and cuts it to its new length in a call after that."""
    found_by(adapter)
    path = home / ".claude/sessions/4242.json"
    longer = path.read_bytes()
    shorter = json.dumps({**json.loads(longer), "status": "idle", "waitingFor": None}).encode()
    path.write_bytes(shorter + longer[-40:])
    assert problems_of(adapter.discover({str(path)})) == []
    assert adapter.evidence(FakeProcesses(CLAUDE)).lives[CLEARED].turn is Turn.DONE


def test_a_registry_that_cannot_be_read_leaves_everything_unknown(home: Path) -> None:
    shutil.rmtree(home / ".claude/sessions")
    (home / ".claude/sessions").write_text("no folder")
    adapter = make("claude-code", home)
    found = found_by(adapter)[CLEARED]
    assert life_of(found, adapter.evidence(NOBODY)).alive is None
    assert adapter.is_alive(found, NOBODY).alive is None


def test_a_version_that_keeps_no_registry_may_have_any_of_its_folder(home: Path, tmp_path: Path) -> None:
    adapter = make("claude-code", home)
    rows = found_by(adapter)
    exes = {version: tmp_path / f"versions/{version}" for version in ("1.0.3", "2.1.329")}
    for exe in exes.values():
        exe.parent.mkdir(exist_ok=True)
        exe.write_text("")
    old = FakeProcess(90, 5, "claude", str(exes["1.0.3"]), cwd="/home/user/project")
    new = FakeProcess(91, 5, "claude", str(exes["2.1.329"]), cwd="/home/user/project")
    elsewhere = FakeProcess(
        92, 5, "claude", str(exes["1.0.3"]), cwd="/home/user/project", environment={"HOME": "/other"}
    )
    assert life_of(rows[ASKED], adapter.evidence(FakeProcesses(old))).alive is None
    assert adapter.is_alive(rows[ASKED], FakeProcesses(old)).alive is None
    assert life_of(rows[ASKED], adapter.evidence(FakeProcesses(new))).alive is False
    assert life_of(rows[ASKED], adapter.evidence(FakeProcesses(elsewhere))).alive is False


# ---- subagents ----------------------------------------------------------------------------------


def test_a_subagent_lives_in_the_process_that_it_was_seen_to_write_in(
    adapter: AgentAdapter, home: Path
) -> None:
    register(home, sessionId=WITH_SUBAGENT)
    alive = FakeProcesses(CLAUDE)
    folder = home / f".claude/projects/{PROJECT}/{WITH_SUBAGENT}/subagents"
    done, other = folder / f"{SUBAGENT}.jsonl", folder / "agent-b1.jsonl"
    first = done.read_text().splitlines()[0] + "\n"
    other.write_text(first)
    found = found_by(adapter)
    lives = adapter.evidence(alive).lives
    assert lives[SUBAGENT].alive is False, "it is noted as finished"
    assert (lives["agent-b1"].alive, lives["agent-b1"].pid) == (None, None), "it may be of another process"
    assert "4242" in lives["agent-b1"].reason
    other.write_text(first + json.dumps(user("go on", timestamp="2026-11-21T17:00:00.000Z")) + "\n")
    found = found_by(adapter, {str(other)})
    life = adapter.evidence(alive).lives["agent-b1"]
    assert (life.alive, life.pid, life.start_time, life.turn) == (True, 4242, 1288875, None)
    assert adapter.is_alive(found["agent-b1"], alive) == life
    # The same conversation in another process: who began it is gone.
    register(home, sessionId=WITH_SUBAGENT, procStart="1288876")
    resumed = FakeProcesses(FakeProcess(4242, 1288876, "claude", CLAUDE.exe))
    assert adapter.evidence(resumed).lives["agent-b1"].alive is None
    assert life_of(found["agent-b1"], adapter.evidence(NOBODY)).alive is False


def test_a_subagent_that_is_done_is_stopped_whatever_is_noted_beside_it(
    adapter: AgentAdapter, home: Path
) -> None:
    register(home, sessionId=WITH_SUBAGENT)
    meta = home / f".claude/projects/{PROJECT}/{WITH_SUBAGENT}/subagents/{SUBAGENT}.meta.json"
    meta.write_text('{"agentType":"Explore","description":"Another"}')
    assert found_by(adapter)[SUBAGENT].title == "Another"
    assert adapter.evidence(FakeProcesses(CLAUDE)).lives[SUBAGENT].alive is False


def test_subagents_of_a_workflow_are_found(adapter: AgentAdapter, home: Path) -> None:
    found_by(adapter)
    folder = home / f".claude/projects/{PROJECT}/{WITH_SUBAGENT}/subagents/workflows/run-1"
    folder.mkdir(parents=True)
    (folder / "agent-b1.jsonl").write_text(json.dumps(user("look", isSidechain=True)) + "\n")
    assert found_by(adapter, {str(folder.parent)})["agent-b1"].parent == WITH_SUBAGENT
    assert found_by(adapter)["agent-b1"].parent == WITH_SUBAGENT


# ---- transcripts --------------------------------------------------------------------------------


def test_the_end_of_a_conversation_is_read(adapter: AgentAdapter) -> None:
    found = found_by(adapter)[ASKED]
    whole = adapter.transcript(found, 20)
    assert [message.role for message in whole.messages] == ["user", "assistant", "tool", "assistant"]
    asked, called, result, answered = whole.messages
    assert asked.text.startswith("tool: echo hi")
    assert called.text == "I call a tool."
    assert called.tools[0].name == "Bash"
    assert "echo hi" in called.tools[0].content
    assert (called.tokens_in, called.tokens_out, called.model) == (120, 14, "claude-opus-5-5")
    assert (result.tools[0].id, result.tools[0].content) == (called.tools[0].id, "hi")
    assert answered.text == "The tool said: hi"
    assert not whole.has_more
    last = adapter.transcript(found, 1)
    assert (last.messages, last.has_more) == ((answered,), True)


def test_long_texts_are_cut(home: Path) -> None:
    call = {"type": "tool_use", "id": "1", "name": "Bash", "input": {"command": "x" * 9000}}
    write(home, user("y" * 30_000), said([call]))
    adapter = make("claude-code", home)
    asked, called = adapter.transcript(found_by(adapter)[NEW], 5).messages
    assert (len(asked.text), asked.cut) == (20_000, True)
    assert (len(called.tools[0].content), called.cut) == (4_000, True)


def test_a_transcript_of_two_gigabytes_is_read_at_its_ends(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, path = count_reads(monkeypatch), write(home, user("begin"))
    with path.open("r+b") as file:
        file.seek(2 * 1024**3)
        lines = (said([text(f"answer {number}")], uuid=f"a{number}") for number in range(3))
        file.write(
            b"\n" + b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
        )
    adapter = make("claude-code", home)
    found = found_by(adapter)[NEW]
    assert (found.first_prompt, found.model, found.turn) == ("begin", "claude-x", Turn.DONE)
    end = adapter.transcript(found, 2)
    assert end.has_more
    assert end.messages[-1].text.endswith("answer 2")
    assert 0 < sum(given) < 64 * 1024**2
