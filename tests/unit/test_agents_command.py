"""What an agent is started with: the program found, the environment made, the program become."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.agents.book import Book
from sessiond.agents.command import (
    agent_environment,
    check_size,
    default_name,
    resolve,
    working_folder,
)
from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.agent import AgentSpec
from tests.unit import unprivileged

SESSION = "a" * 32
SPEC = AgentSpec(
    id="0123456789abcdef",
    session=SESSION,
    name="n",
    argv=("x",),
    program=Path("/bin/true"),
    cwd=Path("/"),
    created=datetime(2026, 1, 1, tzinfo=UTC),
)
SOCKET = Path("/run/s.sock")
SHOW = """
import json, os, signal, sys
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ), "umask": os.umask(0),
    "pipe": signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL,
    "ignored": open("/proc/self/status").read().split("SigIgn:")[1].split()[0],
}))
"""


def program(path: Path, text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# ---- finding the program --------------------------------------------------------------------


def test_a_word_is_searched_in_the_path_given(tmp_path: Path) -> None:
    second = program(tmp_path / "b" / "tool")
    program(tmp_path / "a" / "tool", mode=0o644)
    path = {"PATH": f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b"}
    assert resolve(["tool"], path, tmp_path) == second


def test_a_path_is_taken_from_the_folder(tmp_path: Path) -> None:
    made = program(tmp_path / "bin" / "tool")
    assert resolve(["bin/tool"], {}, tmp_path) == made
    assert resolve([str(made)], {}, Path("/")) == made
    assert resolve(["tool"], {"PATH": "bin"}, tmp_path) == made


@pytest.mark.parametrize("word", ["no-such-program", "./none", "", "/usr/bin/none/below"])
def test_what_is_not_there_is_not_found(tmp_path: Path, word: str) -> None:
    with pytest.raises(NotFound) as caught:
        resolve([word], {"PATH": "/usr/bin"}, tmp_path)
    assert caught.value.code == "command_not_found"
    # A path is not looked for in any PATH.
    assert ("PATH" in caught.value.hint) is ("/" not in word)


def test_a_path_behind_a_closed_folder_is_told_from_one_that_is_not_there(tmp_path: Path) -> None:
    program(tmp_path / "closed" / "tool")
    (tmp_path / "closed").chmod(0)
    code = """
        import sys
        from pathlib import Path
        from sessiond.agents.command import resolve
        from sessiond.errors import SessiondError
        for word in ("closed/tool", "tool"):
            try:
                resolve([word], {"PATH": "closed"}, Path(sys.argv[1]))
            except SessiondError as error:
                print(error.code)
        """
    try:
        told = unprivileged.run(code, tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert told.split() == ["command_not_executable", "command_not_found"]


def test_what_cannot_be_executed_says_why(tmp_path: Path) -> None:
    program(tmp_path / "plain", mode=0o644)
    program(tmp_path / "lost", "#!/no/such/interpreter -x\n")
    (tmp_path / "folder").mkdir()
    for word, why in (
        ("plain", "not executable"),
        ("lost", "/no/such/interpreter"),
        ("folder", "not a file"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            resolve([f"./{word}"], {}, tmp_path)
        assert caught.value.code == "command_not_executable"
        assert why in caught.value.message


def test_no_command_and_a_nul_are_refused() -> None:
    for argv in ([], ["a\0b"]):
        with pytest.raises(InvalidArgument):
            resolve(argv, {}, Path("/"))


# ---- sizes ----------------------------------------------------------------------------------


def test_sizes_are_those_of_this_kernel() -> None:
    fits = "x" * (128 * 1024 - 1)
    check_size(["true", fits], {"A": "1"})
    subprocess.run(["/bin/true", fits], check=True)
    for argv, environment, code in (
        (["true", fits + "x"], {"A": "1"}, "command_too_large"),
        (["true"], {"A": fits}, "environment_too_large"),
        (["true", *[fits] * 60], {"A": "1"}, "command_too_large"),
        (["true"], {f"A{number}": "y" * 100_000 for number in range(100)}, "environment_too_large"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            check_size(argv, environment)
        assert caught.value.code == code


def test_what_passes_the_check_is_executed_by_the_kernel() -> None:
    words = ["/bin/true"]
    while True:
        more = [*words, "x" * 100_000]
        try:
            check_size(more, {"A": "1"})
        except InvalidArgument:
            break
        words = more
    assert len(words) > 10
    subprocess.run(words, env={"A": "1"}, check=True)


# ---- environment ----------------------------------------------------------------------------


def test_what_belongs_to_the_callers_terminal_and_desktop_stays_behind() -> None:
    given = {
        "PATH": "/x",
        "HOME": "/h",
        "API_KEY": "k",
        "COLORTERM": "truecolor",
        "SSH_AUTH_SOCK": "/a",
        **dict.fromkeys(
            ("TMUX", "DISPLAY", "WAYLAND_DISPLAY", "XDG_SESSION_ID", "KITTY_WINDOW_ID", "INVOCATION_ID"), "1"
        ),
        "SESSIOND_AGENT": "other",
        "TERM": "dumb",
    }
    made = agent_environment(given, {}, SPEC, SOCKET)
    assert {name for name in given if name not in made} == {
        "TMUX",
        "DISPLAY",
        "WAYLAND_DISPLAY",
        "XDG_SESSION_ID",
        "KITTY_WINDOW_ID",
        "INVOCATION_ID",
        "TERM",
    }
    assert made["SESSIOND_SESSION"] == SESSION
    assert made["SESSIOND_AGENT"] == SPEC.id
    assert made["SESSIOND_SOCKET"] == str(SOCKET)
    assert made["SESSIOND_MARK"] == f"{SESSION}-{SPEC.id}"
    assert made["PWD"] == "/"


def test_what_was_asked_for_by_name_is_given() -> None:
    made = agent_environment({"DISPLAY": ":0"}, {"DISPLAY": ":7", "SESSIOND_AGENT": "x"}, SPEC, SOCKET)
    assert made["DISPLAY"] == ":7"
    assert made["SESSIOND_AGENT"] == SPEC.id


def test_a_terminal_has_its_own_name() -> None:
    made = agent_environment({"TERM": "dumb"}, {}, replace(SPEC, tty=True, term="tmux-256color"), SOCKET)
    assert made["TERM"] == "tmux-256color"


def test_the_managers_place_is_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/inside")
    assert (
        agent_environment({"XDG_RUNTIME_DIR": "/out"}, {}, SPEC, SOCKET)["XDG_RUNTIME_DIR"] == "/run/inside"
    )


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0")])
def test_variables_that_cannot_be_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        agent_environment({name: value}, {}, SPEC, SOCKET)
    assert caught.value.code == "environment_invalid"


# ---- folder and name ------------------------------------------------------------------------


def test_the_folder_is_the_callers_when_it_is_inside(tmp_path: Path) -> None:
    home = tmp_path / "work"
    inside = home / "src"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(home)
    (home / "out").symlink_to(tmp_path)
    link = tmp_path / "link"
    assert working_folder(str(inside), link) == inside
    assert working_folder(str(link / "src"), link) == inside
    for outside in ("", str(tmp_path), str(home / "none"), str(home / "out"), "src"):
        assert working_folder(outside, link) == home


def test_names_come_from_the_command_with_the_first_free_number() -> None:
    assert default_name(["/usr/bin/claude"], set()) == "claude-1"
    assert default_name(["claude"], {"claude-1", "claude-3"}) == "claude-2"
    assert default_name(["../-x\n"], set()) == "x_-1"
    talking = ["/data/launcher", "acp", "--print", "--", "/opt/opencode", "acp"]
    assert default_name(talking, {"opencode-1"}) == "opencode-2"
    assert default_name(talking[:4], set()) == default_name(["launcher", "--", "x"], set()) == "launcher-1"
    assert default_name([""], set()) == "agent-1"


# ---- becoming the program -------------------------------------------------------------------


def started(tmp_path: Path, spec: AgentSpec, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run what a unit would execute, with an environment that must not come through."""
    state = tmp_path / SESSION
    state.mkdir(mode=0o700, exist_ok=True)
    folder = Book(SESSION, state, tmp_path / "runtime").claim(spec, environment).folder
    words = [sys.executable, "-m", "sessiond", "agent", str(folder.path), str(folder.runtime)]
    surroundings = {**os.environ, "LEAKED": "1", "INVOCATION_ID": "run"}
    return subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("resurrect", [False, True])
def test_argv_and_environment_reach_the_program_unchanged(tmp_path: Path, resurrect: bool) -> None:
    words = ["$HOME", "${X}", "%n %%", "", " a  b ", "new\nline", "'\"\\", ";", "é\u2028", "-c"]
    spec = replace(
        SPEC,
        argv=(sys.executable, "-c", SHOW, *words),
        program=Path(sys.executable),
        cwd=tmp_path,
        umask=0o037,
        resurrect=resurrect,
    )
    environment = {"A": "1", "EMPTY": "", "MULTI": "a\nb", "odd%%name": "$HOME \\ \"'"}
    done = started(tmp_path, spec, environment)
    told = json.loads(done.stdout)
    told["environment"].pop("LC_CTYPE", None)
    assert told["argv"] == words
    assert told["environment"] == {**environment, "INVOCATION_ID": "run"}
    assert told["cwd"] == str(tmp_path)
    assert told["umask"] == 0o037


def test_signals_that_python_ignores_are_not_ignored_by_the_program(tmp_path: Path) -> None:
    argv = ("sh", "-c", "grep SigIgn /proc/self/status")
    done = started(tmp_path, replace(SPEC, argv=argv, program=Path("/bin/sh")), {"PATH": "/usr/bin:/bin"})
    # SIGPIPE is 13, SIGXFSZ is 25.
    assert not int(done.stdout.split()[1], 16) & (1 << 12 | 1 << 24)


@pytest.mark.parametrize(
    ("spec", "status", "said"),
    [
        (replace(SPEC, program=Path("/no/such")), 127, "cannot execute /no/such"),
        (replace(SPEC, program=Path("/etc")), 126, "cannot execute /etc"),
        (replace(SPEC, cwd=Path("/no/such")), 200, "cannot enter /no/such"),
    ],
)
def test_what_cannot_be_done_is_said_and_told_by_the_status(
    tmp_path: Path, spec: AgentSpec, status: int, said: str
) -> None:
    done = started(tmp_path, spec, {})
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_launch_file_that_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    folder = tmp_path / SESSION / "agents" / SPEC.id
    folder.mkdir(parents=True)
    words = [sys.executable, "-m", "sessiond", "agent", str(folder), str(tmp_path)]
    for content in (None, b"", b"garbage\0", b"sessiond-launch-1\0/bin/true\0"):
        if content is not None:
            (folder / "launch").write_bytes(content)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 126
        assert "cannot read what to start" in done.stderr
        assert "Traceback" not in done.stderr
