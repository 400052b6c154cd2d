"""What scripts rely on: options, exit codes, errors on stderr, processes that end as they should."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from sessiond.cli import exits
from sessiond.cli.life import duration
from sessiond.cli.main import SECTIONS, cli
from sessiond.cli.verb import absolute, session_word
from sessiond.errors import BY_KIND, ErrorKind, InvalidArgument
from tests.unit.cli_case import StandIn, ctl, have_manager

VERBS = [verb for section in SECTIONS.values() for verb in section]
SESSIONCTL = [sys.executable, "-m", "sessiond.cli.main"]
DEADLINE = 60
# What a terminal of 80 columns holds beside the name.
LINE = 66


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def all_verbs() -> Iterator[tuple[str, ...]]:
    for name in VERBS:
        found = command(name)
        if isinstance(found, click.Group):
            for below in found.commands:
                yield (name, below)
        else:
            yield (name,)


# ---- options and help -----------------------------------------------------------------------


@pytest.mark.parametrize("words", list(all_verbs()), ids=" ".join)
def test_every_verb_has_help_with_examples_and_the_options_that_all_have(words: tuple[str, ...]) -> None:
    shown = ctl(*words, "--help")
    assert shown.code == 0
    assert f"Examples:\n    sessionctl {' '.join(words)}" in shown.out or "eval" in shown.out
    for option in ("--json", "--socket", "--debug"):
        assert option in shown.out
    assert len(command(words[0]).get_short_help_str(200)) <= LINE


def test_help_lists_every_verb_by_section_with_a_line() -> None:
    shown = ctl("--help")
    assert shown.code == 0
    for title, verbs in SECTIONS.items():
        assert f"{title}:" in shown.out
        assert all(f"\n  {verb} " in shown.out for verb in verbs)


def test_global_options_are_taken_before_and_after_the_verb(tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    for words in (["--json", "--socket", path, "list"], ["list", "--json", "--socket", path]):
        done = ctl(*words)
        assert done.code == 5
        assert path in done.errors[0]["message"]


def test_the_help_of_no_verb_is_a_mistake() -> None:
    assert ctl().code == 2


def test_a_verb_loads_no_module_that_it_does_not_need(tmp_path: Path) -> None:
    script = """
import sys
from sessiond.cli.main import run
code = run(["list", "--socket", sys.argv[1]])
print(code, *(name for name in sys.argv[2:] if name in sys.modules))
"""
    heavy = ["rich", "dbus_fast", "psutil", "asyncinotify", "msgspec", "sqlite3", "sessiond.nest", "tomllib"]
    others = [
        f"sessiond.cli.{one.split(':')[0]}"
        for section in SECTIONS.values()
        for verb, one in section.items()
        if one.split(":")[0] != "show"
    ]
    argv = [sys.executable, "-c", script, str(tmp_path / "none"), *heavy, *others]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE)
    assert done.stdout.split() == ["5"], done.stdout + done.stderr


# ---- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (ErrorKind.FAILED, 1),
        (ErrorKind.DENIED, 1),
        (ErrorKind.EXHAUSTED, 1),
        (ErrorKind.UNSUPPORTED, 1),
        (ErrorKind.NOT_FOUND, 3),
        (ErrorKind.EXISTS, 4),
        (ErrorKind.CONFLICT, 4),
        (ErrorKind.UNREACHABLE, 5),
        (ErrorKind.TIMED_OUT, 6),
        (ErrorKind.INVALID, 7),
    ],
)
def test_each_kind_of_error_has_its_exit_code(kind: ErrorKind, code: int) -> None:
    assert exits.exit_code(BY_KIND[kind]("x", "x")) == code


def test_every_kind_of_error_is_known() -> None:
    assert {exits.exit_code(cls("x", "x")) for cls in BY_KIND.values()} == {1, 3, 4, 5, 6, 7}


def test_an_error_is_message_and_hint_for_people_and_an_object_for_programs() -> None:
    shown = ctl("list", "--state", "nonsense")
    assert (shown.code, shown.out) == (7, "")
    assert shown.err.startswith("sessionctl: no session state 'nonsense'\n  hint: states: ")
    told = ctl("list", "--state", "nonsense", "--json")
    assert set(json.loads(told.err)) == {"error"}
    assert told.errors[0]["code"] == "state_invalid"
    assert told.errors[0]["fields"] == {"state": "nonsense"}


@pytest.mark.parametrize(
    "words", [["nonsense"], ["list", "--nonsense"], ["show"], ["logs"], ["completion", "csh"], ["nest"]]
)
def test_mistakes_in_the_command_line_exit_with_2(words: list[str]) -> None:
    shown = ctl(*words)
    assert shown.code == 2
    assert shown.out == ""
    assert "Traceback" not in shown.err


def test_a_mistake_is_told_as_json_too_also_before_the_option_was_read() -> None:
    done = ctl("list", "--nonsense", "--json")
    assert (done.code, done.errors[0]["code"]) == (2, "usage")


def test_a_bug_is_told_as_one_and_whole_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sessiond.cli.show.session_table", broken)
    monkeypatch.setattr("sessiond.cli.app.App.supervisor", property(broken))
    shown = ctl("list")
    assert shown.code == 1
    assert "ZeroDivisionError" in shown.err
    assert "Traceback" not in shown.err
    with pytest.raises(ZeroDivisionError):
        ctl("list", "--debug")


def test_debug_shows_where_an_error_comes_from() -> None:
    assert "Traceback" in ctl("list", "--debug").err
    assert "Traceback" not in ctl("list").err


# ---- a supervisor that is down --------------------------------------------------------------


def test_down_exits_with_5_and_the_command_that_brings_it_up(
    isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.cli.host.manager_remedy", lambda: "sessionctl nest up")
    assert ctl("list", "--json").errors[0]["hint"] == "sessionctl nest up"
    have_manager()
    assert ctl("list", "--json").errors[0]["hint"] == "sessionctl install"
    units = isolated_home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "sessiond.service").touch()
    for words in (["list"], ["show", "x"], ["start", "x"], ["events"], ["new"], ["status"], ["logs", "x"]):
        done = ctl(*words, "--json")
        assert done.code == 5, words
        assert done.errors[-1] | {"message": ""} == {
            "code": "supervisor_unreachable",
            "message": "",
            "hint": "sessionctl up",
            "fields": {"socket": f"{os.environ['XDG_RUNTIME_DIR']}/sessiond/sessiond.sock"},
        }


def test_a_socket_that_was_left_behind_is_nobody(tmp_path: Path) -> None:
    path = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert ctl("list", "--socket", str(path)).code == 5


def test_something_else_on_the_socket_is_no_supervisor(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nhello")

        thread = threading.Thread(target=answer)
        thread.start()
        done = ctl("list", "--socket", str(path))
        thread.join()
    assert done.code == 5


@pytest.mark.parametrize("name", ["with space", "per%41cent", "ünï", "qu?ery#frag", 'quo"te'])
def test_a_socket_may_lie_in_a_folder_of_any_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIOND_RUNTIME_DIR", str(tmp_path / name))
    with StandIn():
        assert ctl("list", "--json").out == "[]\n"


# ---- words ----------------------------------------------------------------------------------


def test_words_that_name_paths_are_made_absolute_and_others_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of")
    here = str(tmp_path)
    for word, sent in {
        ".": here,
        "./a//b/": f"{here}/a/b",
        "..": str(tmp_path.parent),
        ".hidden": f"{here}/.hidden",
        "/x/./y": "/x/y",
        "~": "/home/of",
        "~/a b": "/home/of/a b",
        "name": "name",
        "3f2a": "3f2a",
        "na me": "na me",
    }.items():
        assert session_word(word) == sent, word


def test_two_dots_go_up_where_links_lead(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    assert absolute(f"{tmp_path}/link/../x") == f"{tmp_path}/real/x"
    assert absolute(f"{tmp_path}/link") == f"{tmp_path}/link"


@pytest.mark.parametrize(("word", "code"), [("shop/claude", "session_expected"), ("", "session_invalid")])
def test_words_that_name_no_session_are_refused_with_7(word: str, code: str) -> None:
    done = ctl("start", word, "--json")
    assert (done.code, done.errors[0]["code"]) == (7, code)


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = ctl("new", "--json")
    assert (done.code, done.errors[0]["code"]) == (3, "path_missing")


def test_words_that_are_no_utf8_are_refused_clearly() -> None:
    argv = [*map(os.fsencode, SESSIONCTL), b"show", b"na\xff\xfeme", b"--json"]
    done = subprocess.run(argv, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 7
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "argument_not_utf8"
    assert "\\xff" in error["message"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("0", 0),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("2s", 2),
        ("3min", 180),
        ("2h", 7200),
        ("1d", 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1y", "soon", "1e9", "1 2", "٣", "1" * 30])
def test_no_durations(text: str) -> None:
    with pytest.raises(InvalidArgument):
        duration(text)


# ---- processes ------------------------------------------------------------------------------


def started(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*SESSIONCTL, *words], stderr=subprocess.PIPE, **options)


def test_ctrl_c_exits_with_130_without_a_word(tmp_path: Path) -> None:
    with StandIn() as stand_in:
        ctl("new", str(tmp_path / "a"))
        with started("events", "-f", "-n", "10", "--json", stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            # It follows once it has shown what there was; the next event proves it.
            assert b"session_created" in process.stdout.readline()
            stand_in.do(lambda: None)
            ctl("start", "a")
            assert select.select([process.stdout], [], [], DEADLINE)[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130
            assert process.stderr.read() == b""


def test_ctrl_c_ends_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = threading.Event()
    with StandIn() as stand_in:
        assert stand_in.parts is not None
        directory = stand_in.parts.directory
        usual = directory.wait

        async def wait(*words: Any) -> Any:
            waited.set()
            return await usual(*words)

        monkeypatch.setattr(directory, "wait", wait)
        ctl("new", str(tmp_path / "a"))
        with started("wait", "a", "--debug") as process:
            assert waited.wait(DEADLINE)
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    with StandIn():
        for number in range(3):
            ctl("new", str(tmp_path / f"s{number}"))
        reading, writing = os.pipe()
        os.close(reading)
        with started("list", "--json", stdout=writing) as process:
            os.close(writing)
            assert process.wait(DEADLINE) == -signal.SIGPIPE
            assert process.stderr is not None
            assert process.stderr.read() == b""


def test_closed_standard_output_is_no_error(tmp_path: Path) -> None:
    with StandIn():
        ctl("new", str(tmp_path / "a"))
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *SESSIONCTL, "list"], capture_output=True, timeout=DEADLINE
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_output_in_an_encoding_that_cannot_hold_it_is_escaped(tmp_path: Path) -> None:
    with StandIn():
        ctl("new", str(tmp_path / "ü"))
        env = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run([*SESSIONCTL, "list"], capture_output=True, timeout=DEADLINE, env=env)
        assert done.returncode == 0
        assert rb"\xfc" in done.stdout
