"""What a person sees: tables that fit, colours where wanted, nothing that moves the cursor; completion."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from sessiond.cli import render
from tests.unit.cli_case import StandIn, Terminal, ctl

WIDE = "日本語の名前"
NASTY = "a\x1b[31mb\nc\td\x07"


# ---- rendering ------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def on_terminal() -> redirect_stdout[Terminal]:
    """Standard output is a terminal while entered."""
    return redirect_stdout(Terminal())


def test_a_table_fits_the_terminal_and_is_whole_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["name", "/a/very/long/path/" + "x" * 80], [WIDE, "/short"]]
    monkeypatch.setenv("NO_COLOR", "1")
    for columns in (40, 60, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        with on_terminal():
            lines = render.table(["NAME", "PATH"], rows, shrink=(1, 0), paths=(1,))
        assert max(map(render.width, lines)) <= columns
        assert lines[1].endswith("xxx"), "a path is cut at its front"
    assert rows[0][1] in render.table(["NAME", "PATH"], rows, shrink=(1, 0))[1]


def test_columns_stay_aligned_beside_wide_and_combining_characters() -> None:
    rows = [["plain", "x"], [WIDE, "x"], ["e\u0301", "x"]]
    lines = render.table(["NAME", "X"], rows)
    assert len({render.width(line) for line in lines}) == 1


def test_nothing_of_a_name_or_path_reaches_the_terminal_raw() -> None:
    assert render.plain(NASTY) == "a\\x1b[31mb\\nc\\td\\x07"
    assert render.plain("a\nb", keep_newlines=True) == "a\nb"
    assert render.plain("plain ü " + WIDE) == "plain ü " + WIDE
    assert render.plain("\udcff\u202e") == "\\udcff\\u202e"


@pytest.mark.parametrize(
    ("variables", "colourful"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
)
def test_colours_where_they_are_wanted(
    variables: dict[str, str], colourful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not render.colours()
    with on_terminal():
        assert render.colours() is colourful


def test_no_colours_through_a_pipe(tmp_path: Path) -> None:
    with StandIn():
        ctl("new", str(tmp_path / "a"), "--start")
        assert "\x1b" not in ctl("list").out
        assert "\x1b" in ctl("list", terminal=True).out


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("abcdef", 1, "…"),
        ("日本語", 4, "日…"),
        ("abc", 0, ""),
    ],
)
def test_cut(text: str, columns: int, cut: str) -> None:
    assert render.cut(text, columns) == cut


def test_cut_at_the_front() -> None:
    assert render.cut("/home/me/work", 8, front=True) == "…me/work"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (61, "1min"), (7200, "2h"), (180000, "2d")]
)
def test_how_long_ago(seconds: float, text: str) -> None:
    now = 1_700_000_000.5
    when = f"2023-11-14T22:13:20.{'5'}Z"
    assert render.ago(when, now=now + seconds) == text
    assert render.ago(None) == "-"


def test_times_of_any_precision_are_read() -> None:
    for fraction in ("", ".5", ".500", ".500000", ".500000000"):
        moment = render.parse_time(f"2023-11-14T22:13:20{fraction}Z")
        assert moment is not None
        assert moment.timestamp() == 1_700_000_000 + (0.5 if fraction else 0)


def test_amounts_for_people() -> None:
    assert [render.size(count) for count in (None, 0, 1023, 1536, 3 << 30)] == [
        "unknown",
        "0B",
        "1023B",
        "1.5K",
        "3.0G",
    ]
    assert [render.seconds(one) for one in (None, 0.0123, 2.5, 61, 3661)] == [
        "unknown",
        "12ms",
        "2.500s",
        "1min 1s",
        "1h 1min 1s",
    ]


def test_the_home_folder_is_written_as_people_do_on_a_terminal_only() -> None:
    home = os.environ["HOME"]
    assert render.home_path(f"{home}/x") == f"{home}/x"
    with on_terminal():
        assert render.home_path(f"{home}/x") == "~/x"
        assert render.home_path(f"{home}x") == f"{home}x"


def test_an_empty_list_says_what_to_do() -> None:
    with StandIn():
        shown = ctl("list")
    assert shown.out == ""
    assert "sessionctl new" in shown.err


# ---- completion -----------------------------------------------------------------------------


def completed(line: str, shell: str = "bash") -> list[str]:
    """Words that a shell is offered for the last word of a line."""
    words = line.split(" ")
    env = {
        **os.environ,
        "_SESSIONCTL_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1) if shell != "fish" else words[-1],
    }
    argv = [sys.executable, "-m", "sessiond.cli.main"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_verbs_options_and_words_are_completed() -> None:
    assert completed("sessionctl un") == ["plain,unarchive", "plain,uninstall"]
    assert "plain,--purge" in completed("sessionctl delete --")
    assert completed("sessionctl list --state a") == ["plain,active", "plain,archived"]
    assert completed("sessionctl nest e") == ["plain,exec"]
    assert completed("sessionctl start ./x") == ["dir,./x"]


def test_names_of_sessions_are_completed(tmp_path: Path) -> None:
    with StandIn():
        for name in ("shop", "ship", "blog"):
            ctl("new", str(tmp_path / name))
        odd = ctl("new", str(tmp_path / "odd"), "--name", "odd name; rm", "--json").json
        assert completed("sessionctl start sh") == ["plain,ship", "plain,shop"]
        assert completed("sessionctl start ship sh") == ["plain,shop"]
        assert completed("sessionctl show bl") == ["plain,blog"]
        assert completed(f"sessionctl show {odd['id'][:4]}") == [f"plain,{odd['id'][:8]}"]
        assert completed("sessionctl rename bl") == ["plain,blog"]
        assert completed("sessionctl start sho", "fish") == [f"plain,shop\t{tmp_path}/shop"]
        assert completed("sessionctl start sho", "zsh") == ["plain", "shop", f"{tmp_path}/shop"]


def test_completion_is_silent_when_nobody_answers() -> None:
    assert completed("sessionctl start sh") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_ask_as_completion_answers(shell: str) -> None:
    script = ctl("completion", shell)
    assert script.code == 0
    assert f"_SESSIONCTL_COMPLETE={shell}_complete" in script.out
    assert "sessionctl" in script.out


def test_bash_takes_its_script() -> None:
    script = ctl("completion", "bash").out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)
