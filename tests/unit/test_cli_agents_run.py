"""`run`: what it asks for, which session it takes, how it stays and exits; and files of variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessiond.cli.environment import chosen_environment, own_environment, parse, read_file
from sessiond.cli.terminal import Outcome
from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError, Unreachable
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.agents_case import Daemons
from tests.unit.cli_case import StandIn, ctl


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    (tmp_path / "w").mkdir()
    with StandIn() as stand_in:
        made = Daemons(stand_in, tmp_path / "w")
        yield made
        made.stop()


@pytest.fixture
def workspace(daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace of the session shop, as the current folder."""
    daemons.start("shop")
    monkeypatch.chdir(tmp_path / "w/shop")
    return tmp_path / "w/shop"


def spawned(daemons: Daemons) -> Any:
    return daemons.of["shop"].requests("SpawnAgent")[-1]


# ---- what is asked for ----------------------------------------------------------------------


def test_the_command_passes_unchanged(daemons: Daemons, workspace: Path) -> None:
    words = ["prog", "", "-d", "--json", "--", "a\nb", "$HOME", "%n", "ü 'x\"", "--name=x"]
    for given in (["--", *words], words):
        done = ctl("run", "-d", *given)
        assert (done.code, done.out) == (0, "shop/new\n"), done.err
        assert list(spawned(daemons).command) == words


def test_detached_it_prints_the_name_or_the_object(daemons: Daemons, workspace: Path) -> None:
    assert ctl("run", "-d", "--name", "a b", "--", "x").out == "shop/a b\n"
    told = ctl("run", "-d", "--json", "--name", "x", "--", "x").json
    assert (told["session_name"], told["name"], told["state"]) == ("shop", "x", "running")


def test_all_that_can_be_asked_for_arrives(daemons: Daemons, workspace: Path) -> None:
    before = os.umask(0o027)
    flags = (
        "--name n --restart on-failure --resurrect --group g --label a=1 --label b="
        " -p MemoryMax=1G -p CPUWeight=5 --timeout 1min --stop-signal INT --stop-timeout 500ms --no-tty -d"
    )
    assert ctl("run", *flags.split(), "--", "x").code == 0
    asked = spawned(daemons)
    assert (asked.name, asked.group, dict(asked.labels)) == ("n", "g", {"a": "1", "b": ""})
    assert (asked.restart, asked.resurrect) == (pb.RESTART_POLICY_ON_FAILURE, True)
    assert dict(asked.properties) == {"MemoryMax": "1G", "CPUWeight": "5"}
    assert (asked.timeout.seconds, asked.stop_timeout.nanos, asked.stop_signal) == (60, 500_000_000, "INT")
    assert (asked.tty, asked.umask, asked.cwd) == (False, 0o027, str(workspace))
    assert os.umask(before) == 0o027, "it is as it was"


def test_a_terminal_by_default_where_there_is_one(daemons: Daemons, workspace: Path) -> None:
    assert ctl("run", "-d", "--", "x").code == 0
    assert not spawned(daemons).tty
    ctl("run", "-d", "--", "x", terminal=True)
    assert spawned(daemons).tty
    ctl("run", "-d", "--no-tty", "--", "x", terminal=True)
    assert not spawned(daemons).tty
    ctl("run", "-d", "--tty", "--env", "TERM=vt100", "--", "x")
    asked = spawned(daemons)
    assert (asked.tty, asked.term, asked.columns) == (True, "vt100", 0)


def test_the_environment_goes_whole_and_what_is_chosen_apart(
    daemons: Daemons, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "ü")
    monkeypatch.setenv("DISPLAY", ":7")
    (workspace / "vars").write_text("A=file\nB=file\n")
    done = ctl("run", "-d", "--env-file", "vars", "--env", "A=word", "--env", "DISPLAY", "--", "x")
    assert done.code == 0, done.err
    asked = spawned(daemons)
    assert asked.environment["MINE"] == "ü"
    assert asked.environment["PATH"] == os.environ["PATH"]
    assert dict(asked.set_environment) == {"A": "word", "B": "file", "DISPLAY": ":7"}


def test_variables_that_are_no_utf8_are_left_out_and_named(daemons: Daemons, workspace: Path) -> None:
    argv = [sys.executable, "-m", "sessiond.cli.main", "run", "-d", "--", "x"]
    env = {**os.environb, b"BAD": b"\xff", b"GOOD": b"1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "BAD" in done.stderr
    assert "BAD" not in spawned(daemons).environment
    assert spawned(daemons).environment["GOOD"] == "1"


# ---- where ----------------------------------------------------------------------------------


def test_the_session_of_the_nearest_folder_above_is_taken(
    daemons: Daemons, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(workspace / "deep/er")
    done = ctl("run", "-d", "--", "x")
    assert (done.out, done.err) == ("shop/new\n", "")
    assert spawned(daemons).cwd == str(workspace / "deep/er")


def test_a_folder_of_no_session_becomes_one_and_that_is_said(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "w/fresh"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # No daemon answers for it here; what matters is what was made before.
    monkeypatch.setattr("sessiond.cli.run._spawning", lambda: 0.2)
    done = ctl("run", "-d", "--", "x")
    assert done.code == 125
    assert done.err.startswith(f"Made session fresh of {folder}\n")
    [session] = ctl("list", "--json").json
    assert (session["name"], session["state"]) == ("fresh", "active")


def test_a_session_that_is_stopped_is_started(daemons: Daemons, workspace: Path) -> None:
    ctl("stop", "shop")
    assert ctl("run", "-d", "-s", "shop", "--", "x").code == 0
    assert ctl("list", "--json").json[0]["state"] == "active"


@pytest.mark.parametrize("effect", ["none", "possible"])
def test_nothing_is_asked_twice_of_a_daemon_that_should_be_there(
    daemons: Daemons, workspace: Path, effect: str
) -> None:
    daemons.of["shop"].faults["SpawnAgent"] = Unreachable(
        "daemon_unreachable", "no", fields={"effect": effect}
    )
    done = ctl("run", "-d", "-s", "shop", "--json", "--", "x")
    assert (done.code, done.errors[0]["code"]) == (125, "daemon_unreachable")
    assert len(daemons.of["shop"].requests("SpawnAgent")) == 1


def test_a_session_by_name_from_elsewhere_runs_in_its_workspace(
    daemons: Daemons, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ctl("run", "-d", "-s", "shop", "--", "x").code == 0
    # A folder outside of it is the daemon's to replace.
    assert spawned(daemons).cwd == str(tmp_path)
    assert ctl("run", "-d", "-s", str(workspace), "--cwd", str(workspace), "--", "x").code == 0
    assert spawned(daemons).cwd == str(workspace)


def test_a_folder_that_was_chosen_must_be_in_the_workspace(
    daemons: Daemons, workspace: Path, tmp_path: Path
) -> None:
    for folder, code in ((str(tmp_path), "cwd_outside"), ("./none", "path_missing")):
        done = ctl("run", "-d", "-s", "shop", "--cwd", folder, "--json", "--", "x")
        assert (done.code, done.errors[0]["code"]) == (125, code)
    assert not daemons.of["shop"].requests("SpawnAgent")


def test_a_current_folder_that_is_gone_is_missed_only_where_it_is_needed(
    daemons: Daemons, workspace: Path
) -> None:
    (workspace / "gone").mkdir()
    os.chdir(workspace / "gone")
    (workspace / "gone").rmdir()
    try:
        assert ctl("run", "-d", "--json", "--", "x").errors[0]["code"] == "path_missing"
        assert ctl("run", "-d", "-s", "shop", "--", "x").code == 0
    finally:
        os.chdir(workspace)


# ---- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--nonsense", "--", "x"],
        ["run", "--restart", "sometimes", "--", "x"],
        ["run", "--timeout", "0", "--", "x"],
        ["run", "--label", "x", "--", "x"],
        ["run", "-s", "shop/agent", "--", "x"],
        ["run", "-s", "nobody", "--", "x"],
        ["run", "--env", "NOT_SET_HERE", "--", "x"],
        ["run", "--env-file", "/nowhere", "--", "x"],
    ],
    ids=" ".join,
)
def test_failures_of_sessionctl_itself_exit_with_125(
    daemons: Daemons, workspace: Path, words: list[str]
) -> None:
    done = ctl(*words)
    assert (done.code, done.out) == (125, "")
    assert "hint: " in done.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("command_not_found", "no"), 127),
        (InvalidArgument("command_not_executable", "no"), 126),
        (Conflict("start_failed", "no"), 125),
    ],
)
def test_a_command_that_cannot_be_executed_exits_as_in_a_shell(
    daemons: Daemons, workspace: Path, error: SessiondError, code: int
) -> None:
    daemons.of["shop"].faults["SpawnAgent"] = error
    assert ctl("run", "--", "x").code == code


def test_what_json_means_behind_the_command_is_the_programs(daemons: Daemons, workspace: Path) -> None:
    daemons.of["shop"].faults["SpawnAgent"] = NotFound("command_not_found", "no such thing")
    assert ctl("run", "x", "--json").err.startswith("sessionctl: no such thing")


# ---- staying --------------------------------------------------------------------------------


class Stay:
    """In place of the terminal: answers with an outcome, and notes how it was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcome: Outcome | SessiondError = Outcome()
        self.calls: list[str] = []
        for name in ("attach", "stream_plain"):
            monkeypatch.setattr(f"sessiond.cli.terminal.{name}", self._called(name))

    def _called(self, name: str) -> Any:
        def call(_app: Any, _session: str, _agent: str, **_rest: Any) -> Outcome:
            self.calls.append(name)
            if isinstance(self.outcome, SessiondError):
                raise self.outcome
            return self.outcome

        return call


@pytest.fixture
def stay(monkeypatch: pytest.MonkeyPatch) -> Stay:
    return Stay(monkeypatch)


def ended(state: str, **fields: Any) -> Outcome:
    agent = pb.Agent(name="x", session_name="shop", state=f"AGENT_STATE_{state.upper()}", **fields)
    agent.ended_at.FromSeconds(1_700_000_000)
    return Outcome(agent)


def test_with_a_terminal_it_attaches_and_without_it_streams(
    daemons: Daemons, workspace: Path, stay: Stay
) -> None:
    ctl("run", "--", "x")
    ctl("run", "--", "x", terminal=True)
    ctl("run", "--no-tty", "--", "x", terminal=True)
    ctl("run", "--tty", "--", "x")
    assert stay.calls == ["stream_plain", "attach", "stream_plain", "stream_plain"]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (ended("completed", exit_status=0), 0),
        (ended("failed", exit_status=3), 3),
        (ended("failed", signal="SIGKILL"), 137),
        (ended("failed", signal="SIGTERM", result="timeout"), 124),
        (ended("failed", reason="the machine went down while it ran"), 125),
        (Outcome(), 0),
        (Outcome(signal=15), 143),
    ],
)
def test_its_exit_code_is_the_programs(
    daemons: Daemons, workspace: Path, stay: Stay, outcome: Outcome, code: int
) -> None:
    stay.outcome = outcome
    assert ctl("run", "--", "x").code == code


def test_one_that_was_started_and_lost_is_named(daemons: Daemons, workspace: Path, stay: Stay) -> None:
    stay.outcome = Unreachable("daemon_unreachable", "gone")
    done = ctl("run", "--name", "x", "--", "x")
    assert done.code == 125
    assert "shop/x" in done.err


def test_with_json_the_end_is_told_on_stderr(daemons: Daemons, workspace: Path, stay: Stay) -> None:
    import json

    stay.outcome = ended("failed", exit_status=3)
    done = ctl("run", "--json", "--", "x")
    assert (done.code, done.out) == (3, "")
    assert json.loads(done.err)["exit_status"] == 3
    assert json.loads(done.err)["session_name"] == "shop", "which its daemon does not know"


# ---- files of variables ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n# A=1\n  # B=2\n", {}),
        ("A=1\nB = two words \n", {"A": "1", "B": "two words"}),
        ("export A=1\r\nB=\r\n", {"A": "1", "B": ""}),
        ("A=x=y#z # kept", {"A": "x=y#z # kept"}),
        ("A='a \"b\" \\n $HOME' # comment", {"A": 'a "b" \\n $HOME'}),
        ('A="a\\n\\"b\\" \\$HOME \\x"', {"A": 'a\n"b" $HOME \\x'}),
        ('A="one\ntwo"\nB=3', {"A": "one\ntwo", "B": "3"}),
        ("A=\"\"\nB=''", {"A": "", "B": ""}),
        ("A=1\nA=2", {"A": "2"}),
        ("A='x'\n", {"A": "x"}),
    ],
)
def test_lines_of_variables(text: str, found: dict[str, str]) -> None:
    assert parse(text, "f") == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nB", 2),
        ("A=1\n\n# x\n=2", 4),
        ("1A=2", 1),
        ("A B=2", 1),
        ("A='x\n\ny", 1),
        ('A=1\nB="x\ny" z', 3),
        ("A=1\nB=a\0b", 2),
    ],
)
def test_a_wrong_line_is_named(text: str, line: int) -> None:
    with pytest.raises(InvalidArgument, match=f"^vars:{line}: ") as caught:
        parse(text, "vars")
    assert caught.value.code == "environment_invalid"


def test_files_that_cannot_be_read_are_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"A=1\nB=\xe9\n")
    with pytest.raises(InvalidArgument, match=r"latin:2: "):
        read_file(str(tmp_path / "latin"))
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfA=1\n")
    assert read_file(str(tmp_path / "marked")) == {"A": "1"}
    with pytest.raises(SessiondError) as caught:
        read_file(str(tmp_path))
    assert caught.value.code == "path_unreadable"
    with pytest.raises(InvalidArgument) as large:
        read_file("/dev/zero")
    assert large.value.code == "environment_too_large"


def test_later_files_and_words_win() -> None:
    assert chosen_environment([], ["A=1", "A=2", "B=", "C"], {"C": "mine"}) == {
        "A": "2",
        "B": "",
        "C": "mine",
    }
    with pytest.raises(InvalidArgument):
        chosen_environment([], ["=x"], {})


def test_bytes_that_are_no_utf8_stay_behind() -> None:
    assert own_environment({b"A": b"1", b"B": b"\xff", b"\xff": b"1"}) == ({"A": "1"}, ["B", "\\xff"])
