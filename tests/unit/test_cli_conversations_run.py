"""`run --adapter`, `continue`, `takeover`: what is asked for, what `--print` prints, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sessiond.cli.terminal import Outcome
from sessiond.errors import InvalidArgument, NotFound, Unreachable, Unsupported
from sessiond.model.agent_session import STOPPED, Life, Plan, Transcript, Turn
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.cli_case import StandIn, ctl, programs
from tests.unit.cli_conversations_case import (
    CLAUDE,
    CODEX,
    PATIENCE,
    PROMISED,
    SESSIONCTL,
    Machine,
    alive,
    finder,
    found,
    machine,
    process,
    said,
)

KEY = ("claude-code", CLAUDE)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """The workspace of the session shop is the current folder, and that of the conversation CLAUDE."""
    (tmp_path / "w").mkdir()
    with StandIn(finder(*machine())) as stand_in:
        made = Machine(stand_in, tmp_path / "w")
        monkeypatch.chdir(tmp_path / "w/shop")
        made.put(found(CLAUDE, cwd=str(tmp_path / "w/shop"), life=STOPPED))
        yield made
        made.daemons.stop()


@pytest.fixture
def stayed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How sessionctl stayed with agents, instead of doing it."""
    calls: list[str] = []
    for name in ("attach", "stream_plain"):

        def stay(*_: Any, _name: str = name, **__: Any) -> Outcome:
            calls.append(_name)
            return Outcome()

        monkeypatch.setattr(f"sessiond.cli.terminal.{name}", stay)
    return calls


def wish(here: Machine) -> Any:
    return here.finder.wishes[-1][2]


# ---- run --adapter --------------------------------------------------------------------------


def test_a_conversation_is_launched_as_an_agent(here: Machine) -> None:
    words = ["-m", "opus", "--name", "n", "--group", "g", "--label", "a=1", "--env", "X=1"]
    done = ctl("run", "-d", "--adapter", "claude-code", *words, "Fix the test")
    assert (done.code, done.out) == (0, "shop/n\n"), done.err
    asked = here.spawned
    assert list(asked.command) == ["claude-code", "Fix the test"]
    assert (asked.name, asked.group, dict(asked.labels)) == ("n", "g", {"a": "1"})
    assert asked.set_environment["X"] == "1"
    assert asked.tty
    assert (wish(here).prompt, wish(here).model, wish(here).print) == ("Fix the test", "opus", False)
    assert wish(here).cwd == str(here.folder / "shop")
    told = ctl("run", "-d", "--json", "--adapter", "claude-code", "--print", "x").json
    assert set(told) == {"agent", "agent_session"}
    assert told["agent_session"].keys() >= PROMISED
    assert told["agent_session"]["agent"] == told["agent"]["id"]
    assert not here.spawned.tty, "print mode needs no terminal"


def test_it_stays_as_run_does(here: Machine, stayed: list[str]) -> None:
    ctl("run", "--adapter", "codex", "x", terminal=True)
    ctl("run", "--adapter", "codex", terminal=True)
    assert wish(here).prompt == ""
    ctl("run", "--adapter", "codex", "--print", "x", terminal=True)
    assert stayed == ["attach", "attach", "stream_plain"]


@pytest.mark.parametrize("prompt", ["-x", "--help", "--", "a\nb\t'\"$HOME", "ü 漢", "-", " "])
def test_prompts_arrive_unchanged(here: Machine, tmp_path: Path, prompt: str) -> None:
    assert ctl("run", "-d", "--adapter", "codex", "--", prompt).code == 0
    assert wish(here).prompt == prompt
    file = tmp_path / "prompt"
    file.write_text(prompt)
    assert ctl("run", "-d", "--adapter", "codex", "--prompt-file", str(file)).code == 0
    assert wish(here).prompt == prompt
    assert ctl("continue", "-d", CLAUDE, "--", prompt).code == 0
    assert wish(here).prompt == prompt


def test_a_prompt_is_read_from_what_is_piped(here: Machine) -> None:
    done = process("run", "-d", "--adapter", "codex", "--prompt-file", "-", input="from a pipe\n")
    assert done.returncode == 0, done.stderr
    assert wish(here).prompt == "from a pipe\n"


def test_a_prompt_of_two_mebibytes_is_taken_and_no_larger_one(here: Machine, tmp_path: Path) -> None:
    file = tmp_path / "prompt"
    file.write_text("x" * (2 << 20))
    here.finder.plans["codex"] = Plan(("codex",), input=b"y" * 10)
    done = ctl("run", "-d", "--adapter", "codex", "--prompt-file", str(file))
    assert done.code == 0, done.err
    assert len(wish(here).prompt) == 2 << 20
    assert here.spawned.input == b"y" * 10
    file.write_text("x" * ((2 << 20) + 1))
    done = ctl("run", "-d", "--adapter", "codex", "--prompt-file", str(file), "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "input_too_large")


def test_prompt_files_that_cannot_be_read(here: Machine, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name, code in (("latin", "prompt_not_utf8"), ("gone", "input_unreadable"), ("w", "input_unreadable")):
        for words in (["run", "--adapter", "codex"], ["continue", CLAUDE], ["takeover", CLAUDE]):
            done = ctl(*words, "-d", "--json", "--prompt-file", str(tmp_path / name))
            assert (done.code, done.out, done.errors[0]["code"]) == (125, "", code), words
            assert done.errors[0]["hint"]
    assert here.shop.requests("SpawnAgent") == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--model", "x", "--", "ls"], "--model is for --adapter"),
        (["run", "--print", "--", "ls"], "--print is for --adapter"),
        (["run", "--prompt-file", "x", "--", "ls"], "--prompt-file is for --adapter"),
        (["run"], "Missing argument"),
        (["run", "--adapter", "codex", "--print", "--tty", "x"], "leave out --tty"),
        (["run", "--adapter", "codex", "fix", "the", "test"], "quote it"),
        (["run", "--adapter", "codex", "fix", "--json"], "options go before the prompt: --json"),
        (["run", "--adapter", "codex", "--prompt-file", "x", "word"], "--prompt-file is the prompt"),
        (["run", "--adapter"], "requires an argument"),
        (["continue"], "Missing argument"),
        (["continue", CLAUDE, "a", "b"], "unexpected extra argument"),
        (["continue", CLAUDE, "a", "--prompt-file", "x"], "the prompt is given twice"),
        (["takeover", CLAUDE, "word"], "unexpected extra argument"),
        (["takeover"], "Missing argument"),
    ],
)
def test_mistakes_in_the_command_line(here: Machine, words: list[str], says: str) -> None:
    done = ctl(*words)
    assert (done.code, done.out) == (125, "")
    assert says in done.err
    assert "hint:" in done.err
    assert here.finder.wishes == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (InvalidArgument("prompt_missing", "no prompt", hint="give one"), 125),
        (Unsupported("adapter_cannot", "it has no print mode", hint="leave out --print"), 125),
        (Unreachable("adapter_failed", "it crashed", hint="again"), 125),
    ],
)
def test_what_the_adapter_refuses_is_told_and_nothing_runs(here: Machine, fault: Any, code: int) -> None:
    here.finder.plans["codex"] = fault
    done = ctl("run", "--json", "--adapter", "codex", "--print", "x")
    assert (done.code, done.errors[0]["code"], done.errors[0]["hint"]) == (code, fault.code, fault.hint)
    assert here.shop.requests("SpawnAgent") == []


def test_a_program_that_is_not_installed(here: Machine) -> None:
    here.shop.faults["SpawnAgent"] = NotFound("command_not_found", "no codex")
    done = ctl("run", "--json", "--adapter", "codex", "x")
    assert (done.code, done.errors[0]["code"]) == (127, "adapter_not_installed")
    assert ctl("run", "--json", "--adapter", "clod", "x").errors[0]["code"] == "adapter_unknown"
    done = ctl("run", "--json", "--adapter", "codex", "--input", os.devnull, "x")
    assert done.errors[0]["code"] == "request_invalid"


def test_the_program_of_acp_is_named(here: Machine) -> None:
    here.finder.plans["acp"] = Plan(("sessiond", "gemini", "--acp"))
    done = ctl("run", "-d", "--adapter", "acp", "Fix it", "gemini", "--acp")
    assert done.code == 0, done.err
    assert (wish(here).prompt, wish(here).command) == ("Fix it", ("gemini", "--acp"))


def test_the_help_of_run_is_readable() -> None:
    text = ctl("run", "--help").out
    assert max(map(len, text.splitlines())) <= 100
    assert "--adapter NAME" in text


# ---- --print --------------------------------------------------------------------------------

ANSWERED = (
    said("user", "Earlier"),
    said("assistant", "Old"),
    said("user", "Fix it", minute=1),
    said("assistant", "I look.\n", minute=2),
    said("tool", "", minute=3),
    said("assistant", "Done:\n\tmended \x1b[31m", minute=4),
)


def answers(here: Machine, *messages: Any, adapter: str = "codex", conversation: str = "") -> None:
    """What a conversation holds once its agent has ended; by default that which was launched last."""

    def write(_agent: Any) -> None:
        name = conversation or here.finder.wishes[-1][2].id
        here.finder.put(found(name, adapter, life=STOPPED))
        here.tell((adapter, name), *messages)

    here.shop.at_end = write


def test_the_answer_is_printed_as_text(here: Machine) -> None:
    here.prints(b'{"type": "result"}\n', b"a warning\n")
    answers(here, *ANSWERED)
    done = process("run", "--adapter", "codex", "--print", "Fix it")
    assert (done.returncode, done.stderr) == (0, "a warning\n")
    assert done.stdout == "I look.\n\nDone:\n\tmended \x1b[31m\n", "for a pipe, as it was written"


def test_with_json_it_is_one_object(here: Machine) -> None:
    here.prints(b"raw", exit_status=3)
    answers(here, *ANSWERED)
    done = process("run", "--adapter", "codex", "--print", "--json", "Fix it")
    assert (done.returncode, done.stderr) == (3, "")
    told = json.loads(done.stdout)
    assert set(told) == {"agent", "agent_session", "messages", "output"}
    assert (told["agent"]["exit_status"], told["agent"]["session_name"]) == (3, "shop")
    assert told["agent_session"].keys() >= PROMISED
    assert [one["role"] for one in told["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert told["output"] is None


@pytest.mark.parametrize("exit_status", [0, 7])
def test_without_an_answer_all_that_it_printed_is_shown(here: Machine, exit_status: int) -> None:
    here.prints(b"\xff raw\n" * 50_000, b"oh\n", exit_status=exit_status)
    argv = [*SESSIONCTL, "run", "--adapter", "codex", "--print", "x"]
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE, env=dict(os.environ))
    assert done.returncode == exit_status
    assert done.stdout == b"\xff raw\n" * 50_000
    assert done.stderr.startswith(b"oh\nNo answer of shop/new could be read (")
    answers(here, said("user", "x"))
    told = process("run", "--adapter", "codex", "--print", "--json", "x")
    assert json.loads(told.stdout)["messages"] == []
    assert json.loads(told.stdout)["output"] == "\ufffd raw\n" * 50_000


def test_an_answer_before_a_failure_is_shown_with_what_failed(here: Machine) -> None:
    here.prints(b"raw", exit_status=1)
    answers(here, *ANSWERED)
    done = process("run", "--adapter", "codex", "--print", "x")
    assert (done.returncode, done.stdout[:7]) == (1, "I look.")
    assert "shop/new: it ended with 1" in done.stderr


def test_what_is_left_out_of_an_answer_is_told(here: Machine) -> None:
    here.prints(b"raw")
    answers(here, said("user", "x"), said("assistant", "y" * 20_000, cut=True))
    done = process("run", "--adapter", "codex", "--print", "x")
    assert done.stdout == "y" * 20_000 + "\n"
    assert "longer than what is shown; all of it: sessionctl output shop/new" in done.stderr
    answers(here, said("user", "x"), *(said("assistant", str(n)) for n in range(150)))
    done = process("run", "--adapter", "codex", "--print", "x")
    assert (len(done.stdout.split()), done.stderr) == (150, "")
    answers(here, said("user", "x"), *(said("assistant", str(n)) for n in range(1500)))
    done = process("run", "--adapter", "codex", "--print", "x")
    assert len(done.stdout.split()) == 1000
    assert "The beginning is left out" in done.stderr
    answers(here, said("user", "x"), said("assistant", "short", cut=True))
    assert process("run", "--adapter", "codex", "--print", "x").stderr == "", "what was cut is no text"


def test_an_id_that_is_told_on_stdout_is_waited_for(here: Machine) -> None:
    here.prints(b'{"id": 1}\n{"more": 2}\n')
    here.finder.plans["codex"] = Plan(("codex",), learn="stdout")
    here.finder.lines['{"id": 1}'] = CODEX
    answers(here, *ANSWERED, conversation=CODEX)
    done = process("run", "--adapter", "codex", "--print", "x")
    assert (done.returncode, done.stdout[:7]) == (0, "I look."), done.stderr


def test_a_program_that_failed_before_it_told_its_id_is_not_waited_for(here: Machine) -> None:
    here.prints(b"usage: codex\n", exit_status=2)
    here.finder.plans["codex"] = Plan(("codex",), learn="files")
    done = process("run", "--adapter", "codex", "--print", "x")
    assert (done.returncode, done.stdout) == (2, "usage: codex\n")
    assert "its program did not tell which conversation it is" in done.stderr


def test_an_adapter_that_fails_meanwhile_hides_nothing(here: Machine) -> None:
    here.prints(b"raw\n")
    broken = Unreachable("adapter_failed", "it is broken")
    here.shop.at_end = lambda _agent: here.finder.fail("codex", broken)
    done = process("run", "--adapter", "codex", "--print", "x")
    assert (done.returncode, done.stdout) == (0, "raw\n")
    assert "it is broken" in done.stderr


def test_an_old_answer_is_not_shown_for_a_new_one(here: Machine) -> None:
    here.prints(b"raw\n", exit_status=1)
    here.tell(KEY, *ANSWERED)
    done = process("continue", CLAUDE, "--print", "Fix it")
    assert (done.returncode, done.stdout) == (1, "raw\n")
    assert "nothing was answered" in done.stderr
    here.prints(b"raw\n")
    again = (*ANSWERED, said("user", "Fix it", minute=5), said("assistant", "New", minute=6))
    answers(here, *again, adapter="claude-code", conversation=CLAUDE)
    done = process("continue", CLAUDE, "--print", "Fix it")
    assert (done.returncode, done.stdout, done.stderr) == (0, "New\n", "")
    assert wish(here).print


def test_ctrl_c_goes_to_the_agent_and_what_it_answered_is_shown(here: Machine) -> None:
    here.shop.held = asyncio.Event()
    here.prints(b"raw\n", b"working\n", exit_status=130)
    answers(here, *ANSWERED)
    argv = [*SESSIONCTL, "run", "--adapter", "codex", "--print", "x"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, env=dict(os.environ), **pipes) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "working\n", "shown as it comes"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out[:7]) == (130, "I look.")
    assert "ended with 130" in err
    assert [one.signal for one in here.shop.requests("SignalAgent")] == ["SIGINT"]


def test_a_reader_that_goes_away_ends_it_and_not_the_agent(here: Machine) -> None:
    here.shop.held = asyncio.Event()
    here.prints(b"raw\n")
    argv = ["sh", "-c", '"$@" | true', "sh", *SESSIONCTL, "run", "--adapter", "codex", "--print", "x"]
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (0, b"")
    [agent] = here.shop.agents
    assert agent.state == pb.AGENT_STATE_RUNNING
    assert here.shop.requests("SignalAgent") == []


# ---- continue -------------------------------------------------------------------------------


def test_a_stopped_one_is_resumed_in_the_session_of_its_folder(here: Machine) -> None:
    done = ctl("continue", "-d", "3f2a", "Go on", "-m", "opus", "--name", "again", "--json")
    assert done.code == 0, done.err
    assert done.json["agent"]["name"] == "again"
    assert done.json["agent_session"]["id"] == CLAUDE
    assert here.finder.wishes[-1][:2] == KEY
    assert (wish(here).prompt, wish(here).model, wish(here).print) == ("Go on", "opus", False)
    assert here.spawned.cwd == str(here.folder / "shop")


def test_its_folder_becomes_a_session_where_it_is_none(here: Machine, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    here.put(found("lone", cwd=str(tmp_path / "new")))
    done = ctl("continue", "-d", "lone", "x", "--json")
    assert "Made session new" in done.err
    assert [one["name"] for one in ctl("list", "-a", "--json").json] == ["new", "shop"]


def test_one_that_runs_elsewhere_is_left_alone(here: Machine, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    here.put(found("live", cwd=str(tmp_path / "new"), life=alive(4242)))
    here.put(found("maybe", cwd=str(tmp_path / "new"), life=Life(alive=None, reason="who knows")))
    for word, code in (("live", "agent_session_live"), ("maybe", "agent_session_unknown")):
        done = ctl("continue", word, "x", "--json")
        assert (done.code, done.errors[0]["code"]) == (125, code)
        assert done.errors[0]["hint"]
    assert [one["name"] for one in ctl("list", "-a", "--json").json] == ["shop"], "no session for nothing"
    assert here.finder.ended == []


def test_one_that_waits_in_a_session_is_typed_to(here: Machine, stayed: list[str]) -> None:
    agent = here.shop.add("claude", tty=True)
    life = alive(mark=f"{here.shop.session}-{agent.id}", turn=Turn.DONE)
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=life))
    done = ctl("continue", CLAUDE, "Yes, go on")
    assert done.code == 0, done.err
    assert done.out.startswith("typed to ")
    [sent] = here.shop.requests("SendInput")
    assert sent.parts[0].paste == "Yes, go on"
    ctl("continue", CLAUDE, "And on", terminal=True)
    assert stayed == ["attach"]
    done = ctl("continue", CLAUDE, "--print", "x", "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "agent_session_busy")
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=replace(life, turn=Turn.WORKING)))
    assert ctl("continue", CLAUDE, "x", "--json").errors[0]["code"] == "agent_session_busy"


def test_one_whose_folder_is_not_known_or_gone(here: Machine, tmp_path: Path) -> None:
    done = ctl("continue", "ses_older", "x", "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "path_missing")
    assert "-s" in done.errors[0]["hint"]
    assert ctl("continue", "ses_older", "-d", "-s", "shop", "x").code == 0
    here.put(found("gone", cwd=str(tmp_path / "gone")))
    assert ctl("continue", "gone", "x", "--json").errors[0]["code"] == "path_missing"
    assert not (tmp_path / "gone").exists()
    assert ctl("continue", "nobody", "x", "--json").errors[0]["code"] == "agent_session_not_found"


# ---- takeover -------------------------------------------------------------------------------


@pytest.fixture
def live(here: Machine, tmp_path: Path) -> Iterator[Machine]:
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=alive(4242)))
    # Before anything is ended it is made sure that there is something and a program to go on with.
    here.finder.transcripts[KEY] = Transcript(())
    with programs(tmp_path / "bin", **{"claude-code": "exit 0"}):
        yield here


def test_it_asks_before_a_process_is_ended(live: Machine, stayed: list[str]) -> None:
    done = ctl("takeover", CLAUDE, terminal=True, typed="n\n")
    assert (done.code, live.finder.ended) == (130, [])
    assert "End process 4242 and resume it in a session?" in done.err
    assert f"claude-code {CLAUDE}: " in done.err
    done = ctl("takeover", CLAUDE, terminal=True, typed="y\n")
    assert done.code == 0, done.err
    assert live.finder.ended == [(*KEY, 10.0)]
    assert "Ended process 4242." in done.err
    assert stayed == ["attach"]


def test_without_a_terminal_it_asks_nobody_and_does_nothing(live: Machine) -> None:
    done = ctl("takeover", CLAUDE, "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "confirmation_needed")
    assert "4242" in done.errors[0]["message"]
    assert done.errors[0]["hint"] == "sessionctl takeover --yes"
    assert live.finder.ended == []
    done = ctl("takeover", CLAUDE, "--yes", "--detach", "--json")
    assert done.code == 0, done.err
    assert done.json["agent_session"]["id"] == CLAUDE
    assert len(live.finder.ended) == 1


def test_a_process_that_does_not_end_is_not_resumed_beside(live: Machine) -> None:
    live.finder.survives = True
    done = ctl("takeover", CLAUDE, "--yes", "--detach", "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "agent_session_live")
    assert live.shop.requests("SpawnAgent") == []


def test_what_is_stopped_is_resumed_without_asking(here: Machine) -> None:
    done = ctl("takeover", CLAUDE, "--detach")
    assert (done.code, here.finder.ended) == (0, []), done.err


def test_what_runs_in_a_session_is_attached_to_without_asking(here: Machine, stayed: list[str]) -> None:
    agent = here.shop.add("claude", tty=True)
    life = alive(mark=f"{here.shop.session}-{agent.id}", turn=Turn.DONE)
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=life))
    done = ctl("takeover", CLAUDE, terminal=True)
    assert (done.code, stayed, here.finder.ended) == (0, ["attach"], []), done.err


def test_one_that_was_gone_on_with_by_hand_is_asked_about(here: Machine) -> None:
    assert ctl("continue", "-d", CLAUDE, "x").code == 0
    [agent] = here.shop.agents
    here.daemons.do(agent.ended_at.GetCurrentTime)
    agent.state = pb.AGENT_STATE_COMPLETED
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=alive(4242)))
    assert ctl("takeover", CLAUDE, "--json").errors[0]["code"] == "confirmation_needed"


def test_one_whose_process_is_not_known(here: Machine) -> None:
    here.put(found(CLAUDE, cwd=str(here.folder / "shop"), life=alive(None)))
    done = ctl("takeover", CLAUDE, "--yes", "--json")
    assert (done.code, done.errors[0]["code"]) == (125, "agent_session_unknown")


def test_of_what_cannot_be_told_nobody_is_asked_and_nothing_ends(here: Machine, tmp_path: Path) -> None:
    unsure = Life(None, "it does not tell which it has open", 4242, 1)
    (tmp_path / "none").mkdir()
    here.put(found(CLAUDE, cwd=str(tmp_path / "none"), life=unsure))
    for words in ((), ("--yes",)):
        done = ctl("takeover", CLAUDE, *words, "--json")
        assert (done.code, done.errors[0]["code"]) == (125, "agent_session_unknown")
        assert "does not tell which" in done.errors[0]["message"]
    assert here.finder.ended == []
    assert not any((tmp_path / "none").iterdir()), "nor does its folder become a session"


# ---- ps -------------------------------------------------------------------------------------


def test_ps_shows_what_an_agent_does_beside_its_state(here: Machine) -> None:
    agent = here.shop.add("claude")
    here.shop.add("server")
    life = alive(mark=f"{here.shop.session}-{agent.id}", activity="thinking")
    here.put(found(CLAUDE, life=life))
    assert ctl("discovered").code == 0
    rows = {one["name"]: one for one in ctl("ps", "--json").json}
    assert (rows["claude"]["state"], rows["claude"]["activity"]) == ("running", "thinking")
    assert (rows["server"]["state"], rows["server"]["activity"]) == ("running", None)
    assert "running (thinking)" in ctl("ps").out
    here.put(found(CLAUDE, life=replace(life, activity="", turn=Turn.WAITING)))
    here.stand_in.wait(here.finder.read())
    assert "running (waiting)" in ctl("ps").out
    here.put(found(CLAUDE, life=STOPPED))
    here.stand_in.wait(here.finder.read())
    assert "(" not in ctl("ps").out


def test_candidates_are_shown_with_what_ran_there(here: Machine, tmp_path: Path) -> None:
    (tmp_path / "w/project/.git").mkdir(parents=True)
    here.put(found("there", cwd=str(tmp_path / "w/project")))
    assert ctl("discovered").code == 0
    done = ctl("discover", str(tmp_path / "w"))
    assert done.code == 0, done.err
    assert "claude-code" in done.out
