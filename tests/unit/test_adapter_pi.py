"""Pi's adapter on files that the real program wrote, and processes that are said to run."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from sessiond.adapters.pi import Adapter
from sessiond.adapters.pi_rust import Adapter as RustAdapter
from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.agent_session import STOPPED, Found, Turn, Wish
from sessiond.ports.discovery import Clear, Gone
from tests.unit.adapter_case import (
    NOBODY,
    FakeProcess,
    FakeProcesses,
    check_told,
    found_by,
    life_of,
    problems_of,
)

FIXTURES = Path(__file__).parent.parent / "fixtures/pi"
PROJECT = "/home/user/project"
OTHER = "/home/user/other"
NODE = "/usr/bin/node"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A home with the conversations of the real runs."""
    sessions = tmp_path / ".pi/agent/sessions"
    for path in FIXTURES.glob("*.jsonl"):
        cwd = json.loads(path.read_text().splitlines()[0])["cwd"]
        folder = sessions / f"--{cwd.strip('/').replace('/', '-')}--"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    return sessions


@pytest.fixture
def adapter(tree: Path, tmp_path: Path) -> Adapter:
    return Adapter({"HOME": str(tmp_path)})


def a_file(tree: Path, id: str) -> Path:
    return next(tree.glob(f"*/*_{id}.jsonl"))


def boot_ticks() -> int:
    """Now, as processes' start times are counted."""
    ticks = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * ticks // 1_000_000_000


def a_pi(pid: int = 100, **more: Any) -> FakeProcess:
    return FakeProcess(pid, **{"comm": "pi", "exe": NODE, "argv": ["pi"], "cwd": PROJECT, **more})


def test_what_the_real_program_wrote_is_found(adapter: Adapter) -> None:
    found = found_by(adapter)

    assert set(found) == {"my-id-1", "tool-1", "tui-1", "fork-1", "fail-1"}
    one = found["my-id-1"]
    assert one.cwd == PROJECT
    assert one.model == "fake/m1"
    assert one.first_prompt == "from stdin"
    assert one.last_prompt == "tool:pwd;sleep 5"
    assert one.turn is Turn.DONE
    assert (one.tokens_in, one.tokens_out) == (36, 12)
    assert one.cost_usd == pytest.approx(36e-6 + 24e-6)
    assert one.started_at is not None
    assert one.updated_at is not None
    assert one.started_at < one.updated_at
    assert one.native["version"] == "3"


def test_a_fork_names_its_parent(adapter: Adapter) -> None:
    assert found_by(adapter)["fork-1"].parent == "my-id-1"


def test_the_turn_is_that_of_the_last_message(adapter: Adapter) -> None:
    found = found_by(adapter)

    assert found["tool-1"].turn is Turn.WORKING
    assert found["tool-1"].activity == "running bash"
    assert found["fail-1"].turn is Turn.DONE


def test_a_prompt_that_waits_for_an_answer_is_work(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "tui-1")
    with path.open("a") as file:
        line = {"type": "message", "timestamp": "2026-11-21T18:00:00.000Z"}
        file.write(json.dumps({**line, "message": {"role": "user", "content": "and more"}}) + "\n")

    found = found_by(adapter, {str(path)})

    assert found["tui-1"].turn is Turn.WORKING
    assert found["tui-1"].activity == "thinking"
    assert found["tui-1"].last_prompt == "and more"


def test_a_name_is_the_title(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "tui-1")
    with path.open("a") as file:
        file.write('{"type":"session_info","name":"Refactor"}\n')

    assert found_by(adapter, {str(path)})["tui-1"].title == "Refactor"


def test_sums_are_of_the_whole_or_nothing(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "my-id-1")
    lines = path.read_text().splitlines()
    filler = json.dumps({"type": "custom", "customType": "x", "data": "y" * 1000})
    path.write_text("\n".join([*lines[:6], *[filler] * 200, *lines[6:]]) + "\n")

    found = found_by(adapter)["my-id-1"]

    assert (found.tokens_in, found.tokens_out, found.cost_usd) == (None, None, None)
    assert found.first_prompt == "from stdin"
    assert found.last_prompt == "tool:pwd;sleep 5"
    assert found.turn is Turn.DONE


def test_a_first_prompt_behind_a_long_system_prompt_is_found(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "my-id-1")
    lines = path.read_text().splitlines()
    filler = json.dumps({"type": "custom", "data": "y" * 50_000})
    path.write_text("\n".join([lines[0], filler, filler, filler, *lines[1:]]) + "\n")

    assert found_by(adapter)["my-id-1"].first_prompt == "from stdin"


def test_a_last_line_longer_than_the_tail_is_read(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "my-id-1")
    block = {"type": "text", "text": "y" * 200_000}
    message = {"role": "toolResult", "toolCallId": "1", "content": [block]}
    with path.open("a") as file:
        file.write(json.dumps({"type": "message", "message": message}) + "\n")

    assert found_by(adapter)["my-id-1"].turn is Turn.WORKING


def test_a_line_being_written_is_no_trouble(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "my-id-1")
    with path.open("a") as file:
        file.write('{"type":"message","mess')

    told = list(adapter.discover(None))

    assert not problems_of(told)
    assert next(each for each in told if isinstance(each, Found) and each.id == "my-id-1").tokens_in == 36


def test_a_broken_line_is_told_and_makes_sums_unknown(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "my-id-1")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")

    told = list(adapter.discover(None))

    assert [each.path for each in problems_of(told)] == [str(path)]
    found = next(each for each in told if isinstance(each, Found) and each.id == "my-id-1")
    assert found.tokens_in is None
    assert found.turn is Turn.DONE


def test_a_newer_format_is_told_beside_its_row(adapter: Adapter, tree: Path) -> None:
    path = a_file(tree, "tui-1")
    path.write_text(path.read_text().replace('"version":3', '"version":9'))

    told = list(adapter.discover(None))

    assert [each.code for each in problems_of(told)] == ["format_newer"]
    assert "tui-1" in {each.id for each in told if isinstance(each, Found)}


def test_an_unchanged_file_is_not_opened_again(
    adapter: Adapter, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files that were changed the moment before they are read are read once more.
    later = time.time_ns() + 1_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    first = found_by(adapter)

    def refuse(*given: object, **more: object) -> int:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(os, "open", refuse)
    assert found_by(adapter) == first


def test_a_deleted_file_is_gone(adapter: Adapter, tree: Path) -> None:
    found_by(adapter)
    path = a_file(tree, "tui-1")
    path.unlink()

    assert list(adapter.discover({str(path)})) == [Clear(str(path)), Gone("tui-1")]
    assert "tui-1" not in found_by(adapter)


def test_a_changed_folder_is_looked_through(adapter: Adapter, tree: Path) -> None:
    found_by(adapter)
    path = a_file(tree, "tui-1")
    path.rename(path.with_name("2026-11-22T00-00-00-000Z_tui-1.jsonl"))
    a_file(tree, "fail-1").unlink()

    told = list(adapter.discover({str(path.parent)}))
    gone = list(adapter.discover({str(tree / "--home-user-project--")}))

    assert {each.id for each in told if isinstance(each, Found)} == {"tui-1"}
    assert Gone("fail-1") in gone
    assert Gone("tui-1") not in told


def test_two_files_of_one_id_are_one_row_and_trouble(adapter: Adapter, tree: Path) -> None:
    first = a_file(tree, "tui-1")
    second = tree / "--home-user-project--/2026-11-23T00-00-00-000Z_tui-1.jsonl"
    second.write_text(first.read_text().replace(OTHER, PROJECT))
    os.utime(first, ns=(1, 1))

    told = list(adapter.discover(None))
    check_told(adapter, told)

    rows = [each for each in told if isinstance(each, Found) and each.id == "tui-1"]
    assert [row.native["path"] for row in rows] == [str(second)]
    assert [each.path for each in problems_of(told)] == [str(first)]


def test_who_set_a_folder_for_all_sessions_finds_them_there(tmp_path: Path, tree: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.move(a_file(tree, "tui-1"), flat)
    adapter = Adapter({"HOME": str(tmp_path), "PI_CODING_AGENT_SESSION_DIR": "~/flat"})
    (tmp_path / ".pi/agent/settings.json").write_text(json.dumps({"sessionDir": str(flat)}))

    assert "tui-1" in found_by(adapter)
    assert "tui-1" in found_by(Adapter({"HOME": str(tmp_path)}))
    assert [each.folder for each in adapter.watched()] == [str(tree), str(flat)]


def test_another_agent_folder_is_honoured(tmp_path: Path, tree: Path) -> None:
    moved = tmp_path / "elsewhere"
    (tmp_path / ".pi/agent").rename(moved)

    assert "tui-1" in found_by(Adapter({"HOME": "/nonexistent", "PI_CODING_AGENT_DIR": str(moved)}))


# ---- the port ---------------------------------------------------------------------------------


def test_each_conversation_of_the_shared_tree_is_told_by_one(
    tmp_path: Path, tree: Path, adapter: Adapter
) -> None:
    path = a_file(tree, "tui-1")
    header, rest = path.read_text().split("\n", 1)
    ported = {**json.loads(header), "provider": "anthropic", "modelId": "opus"}
    path.write_text(json.dumps(ported) + "\n" + rest)

    assert set(found_by(RustAdapter({"HOME": str(tmp_path)}))) == {"tui-1"}
    assert set(found_by(adapter)) == {"my-id-1", "tool-1", "fork-1", "fail-1"}


def test_an_old_header_of_pi_itself_is_not_the_ports(tmp_path: Path, tree: Path, adapter: Adapter) -> None:
    path = a_file(tree, "tui-1")
    header, rest = path.read_text().split("\n", 1)
    old = {name: value for name, value in json.loads(header).items() if name != "version"}
    path.write_text(json.dumps({**old, "provider": "anthropic", "modelId": "opus"}) + "\n" + rest)

    assert found_by(RustAdapter({"HOME": str(tmp_path)})) == {}
    assert "tui-1" in found_by(adapter)


def test_trouble_is_told_by_one_of_the_two(tmp_path: Path, tree: Path, adapter: Adapter) -> None:
    a_file(tree, "tui-1").write_text("nothing\n")

    assert len(problems_of(adapter.discover(None))) == 1
    assert problems_of(RustAdapter({"HOME": str(tmp_path)}).discover(None)) == []


# ---- evidence ---------------------------------------------------------------------------------


def test_with_no_process_all_are_stopped(adapter: Adapter) -> None:
    found = found_by(adapter)
    evidence = adapter.evidence(NOBODY)

    assert all(life_of(each, evidence) == STOPPED for each in found.values())
    assert adapter.is_alive(found["tui-1"], NOBODY) == STOPPED


def test_our_mark_names_the_conversation(adapter: Adapter) -> None:
    found = found_by(adapter)
    processes = FakeProcesses(
        a_pi(environment={"SESSIOND_AGENT_SESSION": "pi:my-id-1"}, start_time=boot_ticks())
    )

    life = adapter.is_alive(found["my-id-1"], processes)

    assert life.alive
    assert life.pid == 100
    assert adapter.is_alive(found["tool-1"], processes) == STOPPED


def test_what_is_in_no_file_yet_is_told_once_though_the_port_shares_the_tree(
    adapter: Adapter, tmp_path: Path
) -> None:
    port = RustAdapter({"HOME": str(tmp_path)})
    found_by(adapter)
    found_by(port)
    for mark, tells, is_silent in (("pi:new", adapter, port), ("pi-rust:new", port, adapter)):
        processes = FakeProcesses(a_pi(environment={"SESSIOND_AGENT_SESSION": mark}, start_time=boot_ticks()))
        assert set(tells.evidence(processes).lives) == {"new"}
        assert not is_silent.evidence(processes).lives
    # Whoever goes on with it, a conversation is told by who began it.
    processes = FakeProcesses(
        a_pi(environment={"SESSIOND_AGENT_SESSION": "pi-rust:my-id-1"}, start_time=boot_ticks())
    )
    assert set(adapter.evidence(processes).lives) == {"my-id-1"}


def test_both_programs_may_have_one_open_and_each_process_is_told_by_its_own_adapter(
    adapter: Adapter, tmp_path: Path
) -> None:
    port = RustAdapter({"HOME": str(tmp_path)})
    own = a_pi(comm="pi-rust", exe="/usr/bin/pi-rust", argv=["pi-rust"])
    for process, told_by, other in ((a_pi(), adapter, port), (own, port, adapter)):
        found = found_by(adapter)
        found_by(port)
        processes = FakeProcesses(process)
        assert adapter.is_alive(found["my-id-1"], processes).alive is None
        assert list(told_by.evidence(processes).spare) == []
        assert list(other.evidence(processes).spare) == [process.pid]


def test_a_mark_handed_down_says_nothing(adapter: Adapter) -> None:
    found = found_by(adapter)
    environment = {"SESSIOND_AGENT_SESSION": "pi:my-id-1", "PI_CODING_AGENT": "true"}
    processes = FakeProcesses(a_pi(environment=environment, start_time=boot_ticks()))

    assert adapter.is_alive(found["my-id-1"], processes).alive is None


def test_a_running_tool_names_the_conversation(adapter: Adapter) -> None:
    found = found_by(adapter)
    tool = FakeProcess(200, comm="sleep", parent=100, environment={"PI_SESSION_ID": "tool-1"})
    processes = FakeProcesses(a_pi(start_time=boot_ticks()), tool)

    assert adapter.is_alive(found["tool-1"], processes).pid == 100
    assert adapter.is_alive(found["my-id-1"], processes) == STOPPED


def test_what_a_tool_named_counts_more_than_the_mark_of_the_start(adapter: Adapter) -> None:
    found = found_by(adapter)
    tool = FakeProcess(200, comm="sleep", parent=100, environment={"PI_SESSION_ID": "tool-1"})
    marked = a_pi(environment={"SESSIOND_AGENT_SESSION": "pi:my-id-1"}, start_time=boot_ticks())
    assert adapter.is_alive(found["my-id-1"], FakeProcesses(marked)).alive is True

    for processes in (FakeProcesses(marked, tool), FakeProcesses(marked)):
        assert adapter.is_alive(found["tool-1"], processes).pid == 100
        assert adapter.is_alive(found["my-id-1"], processes) == STOPPED

    assert adapter.is_alive(found["tool-1"], FakeProcesses()) == STOPPED
    again = a_pi(environment={"SESSIOND_AGENT_SESSION": "pi:my-id-1"}, start_time=boot_ticks() + 5)
    assert adapter.is_alive(found["my-id-1"], FakeProcesses(again)).alive is True, "another of that pid"


def test_what_is_written_beside_a_mark_may_be_what_it_went_on_to(adapter: Adapter, tree: Path) -> None:
    found = found_by(adapter)
    environment = {"SESSIOND_AGENT_SESSION": "pi:my-id-1"}
    row = found["my-id-1"]
    marked = a_pi(environment=environment, start_time=boot_ticks(), cwd=row.cwd)
    processes = FakeProcesses(marked)
    other = next(one for one in found.values() if one.cwd == row.cwd and one.id != row.id)
    assert adapter.is_alive(other, processes) == STOPPED, "written before anybody looked"

    path = Path(other.native["path"])
    os.utime(path)
    list(adapter.discover({str(path)}))
    life = adapter.is_alive(other, processes)
    assert (life.alive, "pid 100" in life.reason) == (None, True)
    assert adapter.is_alive(row, processes).alive is True
    assert adapter.is_alive(other, FakeProcesses()) == STOPPED

    # One that was seen to live while it was written, and ended.
    assert adapter.is_alive(other, processes) == STOPPED
    carrier = a_pi(pid=101, environment={"SESSIOND_AGENT_SESSION": f"pi:{other.id}"}, start_time=boot_ticks())
    assert adapter.is_alive(other, FakeProcesses(marked, carrier)).alive is True
    os.utime(path, ns=(1, 1))
    list(adapter.discover({str(path)}))
    assert adapter.is_alive(other, processes) == STOPPED


def test_a_tool_that_outlived_its_pi_is_no_evidence(adapter: Adapter) -> None:
    found = found_by(adapter)
    tool = FakeProcess(200, comm="sleep", parent=1, environment={"PI_SESSION_ID": "tool-1"})

    assert adapter.is_alive(found["tool-1"], FakeProcesses(tool)) == STOPPED


def test_a_pi_may_have_any_of_its_folder(adapter: Adapter, tree: Path) -> None:
    for path in tree.glob("*/*.jsonl"):
        os.utime(path, ns=(1, 1))
    found = found_by(adapter)
    processes = FakeProcesses(a_pi(start_time=boot_ticks()))
    evidence = adapter.evidence(processes)

    life = life_of(found["my-id-1"], evidence)

    assert life.alive is None
    assert "pid 100" in life.reason
    assert life_of(found["tui-1"], evidence) == STOPPED


def test_a_conversation_of_another_folder_written_since_may_be_its(adapter: Adapter) -> None:
    found = found_by(adapter)
    processes = FakeProcesses(a_pi(start_time=1))

    life = adapter.is_alive(found["tui-1"], processes)

    assert life.alive is None
    assert "other folders" in life.reason


@pytest.mark.parametrize(
    "process",
    [
        FakeProcess(100, comm="pi", exe="/usr/bin/python3.11", cwd=PROJECT),
        FakeProcess(100, comm="node", exe=NODE, argv=["node", "server.js"], cwd=PROJECT),
        a_pi(environment={"HOME": "/home/somebody"}),
    ],
    ids=["a program of that name", "another of the interpreter", "of another home"],
)
def test_who_is_not_pi_is_no_evidence(adapter: Adapter, process: FakeProcess) -> None:
    found = found_by(adapter)

    assert adapter.is_alive(found["my-id-1"], FakeProcesses(process)) == STOPPED


def test_one_that_has_not_named_itself_yet_counts(adapter: Adapter) -> None:
    found = found_by(adapter)
    begun = FakeProcess(100, comm="node", exe=NODE, argv=["node", "/usr/local/bin/pi", "-p"], cwd=PROJECT)

    assert adapter.is_alive(found["my-id-1"], FakeProcesses(begun)).alive is None


# ---- reading, starting --------------------------------------------------------------------------


def test_the_end_of_a_conversation_is_read(adapter: Adapter) -> None:
    found = found_by(adapter)["my-id-1"]

    transcript = adapter.transcript(found, 4)

    assert [message.role for message in transcript.messages] == ["user", "assistant", "tool", "assistant"]
    assert transcript.has_more
    assert transcript.messages[1].tools[0].name == "bash"
    assert json.loads(transcript.messages[1].tools[0].content)["command"] == "pwd;sleep 5"
    assert transcript.messages[2].tools[0].content == "/home/user/project\n"
    assert transcript.messages[3].text == "Hello from the fake."
    assert transcript.messages[3].tokens_in == 12
    assert not adapter.transcript(found, 100).has_more


def test_a_failure_is_in_the_transcript(adapter: Adapter) -> None:
    assert adapter.transcript(found_by(adapter)["fail-1"], 1).messages[0].text == "Error: boom"


def test_a_conversation_without_its_file_cannot_be_read(adapter: Adapter, tree: Path) -> None:
    found = found_by(adapter)["tui-1"]
    a_file(tree, "tui-1").unlink()

    with pytest.raises(NotFound, match="gone") as caught:
        adapter.transcript(found, 10)
    assert caught.value.code == "transcript_missing"
    with pytest.raises(NotFound):
        adapter.resume(found, Wish(PROJECT, "more", print=True))


def test_a_prompt_to_print_goes_to_standard_input(adapter: Adapter) -> None:
    plan = adapter.launch(Wish(PROJECT, "x" * 500_000, model="fake/m1", print=True, id="chosen"))

    assert plan.argv == ("pi", "--session-id", "chosen", "--model", "fake/m1", "-p", "--mode", "json")
    assert plan.input == b"x" * 500_000
    assert (plan.id, plan.learn) == ("chosen", "")


def test_a_prompt_to_talk_is_a_word(adapter: Adapter) -> None:
    assert adapter.launch(Wish(PROJECT, "-v", id="chosen")).argv[-2:] == ("--", "-v")
    assert adapter.launch(Wish(PROJECT, "@someone", id="chosen")).argv[-2:] == ("--", " @someone")
    assert adapter.launch(Wish(PROJECT, id="chosen")).argv == ("pi", "--session-id", "chosen")


def test_one_is_gone_on_with_by_its_file(adapter: Adapter, tree: Path) -> None:
    found = found_by(adapter)["tui-1"]

    plan = adapter.resume(found, Wish("/elsewhere", "more", print=True))

    assert plan.argv[:3] == ("pi", "--session", str(a_file(tree, "tui-1")))
    assert plan.id == "tui-1"


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish(PROJECT, "", print=True), "prompt_missing"),
        (Wish(PROJECT, " \n", print=True), "prompt_missing"),
        (Wish(PROJECT, "x" * 140_000), "prompt_too_large"),
        (Wish(PROJECT, "x", model="--help"), "model_invalid"),
        (Wish(PROJECT, "x", model="a\nb"), "model_invalid"),
    ],
)
def test_what_the_program_would_not_take_is_refused(adapter: Adapter, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        adapter.launch(wish)
    assert caught.value.code == code
    assert caught.value.hint


def test_the_id_is_in_the_first_line_of_output(adapter: Adapter) -> None:
    line = '{"type":"session","version":3,"id":"tui-1","timestamp":"2026-11-21T16:21:57.928Z","cwd":"/"}'

    assert adapter.identify(line) == "tui-1"
    assert adapter.identify('{"type":"agent_start"}') is None
    assert adapter.identify("nothing") is None


def test_the_version_is_that_of_the_package(adapter: Adapter, tmp_path: Path) -> None:
    package = tmp_path / "node_modules/@earendil-works/pi-coding-agent"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"name":"@earendil-works/pi-coding-agent","version":"0.87.1"}')
    (package / "dist/cli.js").write_text("")
    link = tmp_path / "pi"
    link.symlink_to(package / "dist/cli.js")

    assert adapter.version(str(link)) == "0.87.1"
    assert adapter.version("/bin/sh") == ""
