"""Settings: one table, four places they come from, and errors that name the place."""

from __future__ import annotations

import argparse
import os
import tomllib
from pathlib import Path

import pytest

from sessiond import config
from sessiond.adapters import ADAPTERS
from sessiond.adapters.places import VARIABLES
from sessiond.config.kinds import Choice, Homes, Several
from sessiond.errors import InvalidArgument
from sessiond.model.identity import SessionType

HOME = {"HOME": "/home/ada"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def fault(path: Path, environ: dict[str, str] | None = None, **flags: str) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        config.load(path, HOME | (environ or {}), {key.replace("__", "."): one for key, one in flags.items()})
    return caught.value


def test_defaults(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "none.toml", HOME)
    assert settings.discovery.roots == tuple(Path("/home/ada", one) for one in ("projects", "src", "code"))
    assert settings.discovery.depth == 3
    assert settings.discovery.markers == (".git", ".scud", ".claude", "AGENTS.md")
    assert settings.discovery.watch is True
    assert settings.session.watchdog == 180.0
    assert settings.log.level == "info"
    assert not settings.given("discovery.roots")
    assert all(row.origin == "default" for row in settings.rows())


def test_adapters_are_switched_off_by_their_names(tmp_path: Path) -> None:
    [kind] = [one.kind for one in config.SETTINGS if one.key == "adapters.disabled"]
    assert isinstance(kind, Several)
    assert kind.words == tuple(ADAPTERS)
    path = write(tmp_path, '[adapters]\ndisabled = ["gemini", "acp", "gemini"]\n')
    assert config.load(path, HOME).adapters.disabled == ("gemini", "acp")
    assert config.load(path, HOME | {"SESSIOND_ADAPTERS_DISABLED": "pi, codex"}).adapters.disabled == (
        "pi",
        "codex",
    )
    assert "claude-code" in fault(path, {"SESSIOND_ADAPTERS_DISABLED": "claude"}).hint


def test_homes_are_folders_by_the_names_of_adapters(tmp_path: Path) -> None:
    [kind] = [one.kind for one in config.SETTINGS if one.key == "adapters.homes"]
    assert isinstance(kind, Homes)
    assert kind.words == tuple(VARIABLES)
    path = write(
        tmp_path, '[adapters]\nhomes = ["codex=~/.codex-work", "claude-code=/a/../b/", "codex=/a:b"]\n'
    )
    told = ("codex=/home/ada/.codex-work", "claude-code=/b", "codex=/a:b")
    assert config.load(path, HOME).adapters.homes == told
    variable = {"SESSIOND_ADAPTERS_HOMES": "pi=/x:gemini=/y=z"}
    assert config.load(path, HOME | variable).adapters.homes == ("pi=/x", "gemini=/y=z")
    for bad in (
        "/x",
        "codex",
        "codex=",
        "codex=x",
        "acp=/x",
        "=/x",
        "codex=/",
        "codex=~",
        "codex=/home",
        "pi=/a\0",
    ):
        error = fault(path, {}, adapters__homes=bad)
        assert error.code == "config_bad_value", bad
        assert "NAME=FOLDER" in error.hint


def test_the_default_owner_is_the_user(tmp_path: Path) -> None:
    import pwd

    settings = config.load(tmp_path / "none.toml", HOME)
    assert settings.session.owner == pwd.getpwuid(os.getuid()).pw_name


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    path = write(tmp_path, "[discovery]\ndepth = 5\n\n[events]\nhistory = 7\n")
    environ = HOME | {"SESSIOND_DISCOVERY_DEPTH": "6"}

    from_file = config.load(path, HOME)
    assert (from_file.discovery.depth, from_file.origins["discovery.depth"]) == (5, f"file {path}:2")
    from_environment = config.load(path, environ)
    assert from_environment.discovery.depth == 6
    assert from_environment.origins["discovery.depth"] == "environment SESSIOND_DISCOVERY_DEPTH"
    from_flag = config.load(path, environ, {"discovery.depth": "7", "events.history": None})
    assert (from_flag.discovery.depth, from_flag.origins["discovery.depth"]) == (7, "flag --discovery-depth")
    assert (from_flag.events.history, from_flag.origins["events.history"]) == (7, f"file {path}:5")


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path) -> None:
    settings = config.load(tmp_path / "none.toml", HOME | {"SESSIOND_DISCOVERY_DEPTH": ""})
    assert settings.origins["discovery.depth"] == "default"


@pytest.mark.parametrize("given", ["~/a:/b//c/../d", ["~/a", "/b/d"]])
def test_lists_in_flags(tmp_path: Path, given: str | list[str]) -> None:
    settings = config.load(tmp_path / "none.toml", HOME, {"discovery.roots": given})
    assert settings.discovery.roots == (Path("/home/ada/a"), Path("/b/d"))


def test_lists_in_variables_and_files(tmp_path: Path) -> None:
    path = write(tmp_path, 'discovery.roots = ["~", "/x"]\n')
    settings = config.load(path, HOME | {"SESSIOND_DISCOVERY_MARKERS": ".git, package.json,"})
    assert settings.discovery.roots == (Path("/home/ada"), Path("/x"))
    assert settings.discovery.markers == (".git", "package.json")
    assert settings.origins["discovery.roots"] == f"file {path}:1"


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("0", False), ("OFF", False), ("true", True)])
def test_switches_in_variables(tmp_path: Path, text: str, value: bool) -> None:
    settings = config.load(tmp_path / "none.toml", HOME | {"SESSIOND_DISCOVERY_WATCH": text})
    assert settings.discovery.watch is value


@pytest.mark.parametrize(
    ("text", "place", "near"),
    [
        ("[discovery]\nroots = []\ndepht = 1\n", ":3", "discovery.depth"),
        ("[discvery]\ndepth = 1\n", ":1", "discovery"),
        ("discovery.depth = 1\nsession.watchdgo = 2\n", ":2", "session.watchdog"),
        ("# a comment\ndiscover = 3\n", ":2", "discovery"),
    ],
)
def test_an_unknown_key_names_its_line_and_the_nearest(
    tmp_path: Path, text: str, place: str, near: str
) -> None:
    path = write(tmp_path, text)
    error = fault(path)
    assert error.code == "config_unknown_key"
    assert f"{path}{place}: " in error.message
    assert error.hint == f"did you mean {near}?"


def test_an_unknown_variable_is_an_error_and_others_are_not_ours(tmp_path: Path) -> None:
    error = fault(tmp_path / "none.toml", {"SESSIOND_DISCOVERY_ROOT": "/x"})
    assert error.code == "config_unknown_key"
    assert error.hint == "did you mean SESSIOND_DISCOVERY_ROOTS?"
    config.load(tmp_path / "none.toml", HOME | {"SESSIOND_RUNTIME_DIR": "/x", "SESSIOND_SOCKET": "/y"})


@pytest.mark.parametrize(
    ("text", "place", "allowed"),
    [
        ("[discovery]\ndepth = 17", ":2", "0 to 16"),
        ("[discovery]\ndepth = -1", ":2", "0 to 16"),
        ("[discovery]\ndepth = true", ":2", "0 to 16"),
        ("[discovery]\ndepth = '3'", ":2", "0 to 16"),
        ("[discovery]\ndepth = { x = 1 }", ":2", "0 to 16"),
        ("[discovery.depth]\nx = 1", ":1", "0 to 16"),
        ("[discovery]\nroots = ['a/b']", ":2", "begin with / or ~/"),
        ('[discovery]\nroots = ["/a\\u0000"]', ":2", "begin with / or ~/"),
        ("[discovery]\nroots = '/a'", ":2", "a list of paths"),
        ("[discovery]\nmarkers = ['a/b']", ":2", "without '/'"),
        ("[discovery]\nmarkers = [3]", ":2", "without '/'"),
        ("[discovery]\nwatch = 1", ":2", "true or false"),
        ("discovery = 3", ":1", "a table: [discovery]"),
        ("[session]\n\ntype = 'work'", ":3", "development, production, test, persona"),
        ("[session]\nowner = ''", ":2", "1 to 64 printable"),
        ("[session]\nwatchdog = nan", ":2", "5 to 86400"),
        ("[session]\nwatchdog = inf", ":2", "5 to 86400"),
        ("[log]\nlevel = 'loud'", ":2", "debug, info, warning, error"),
    ],
)
def test_a_bad_value_names_its_line_and_what_is_allowed(
    tmp_path: Path, text: str, place: str, allowed: str
) -> None:
    path = write(tmp_path, text)
    error = fault(path)
    assert error.code == "config_bad_value"
    assert f"{path}{place}: " in error.message
    assert allowed in error.hint


def test_bad_values_elsewhere_name_the_variable_or_flag(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    error = fault(path, {"SESSIOND_DISCOVERY_DEPTH": "many"})
    assert error.message.startswith("environment SESSIOND_DISCOVERY_DEPTH: ")
    assert "'many'" in error.message
    error = fault(path, {}, session__watchdog="soon")
    assert error.message.startswith("flag --session-watchdog: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a = [\nb")
    error = fault(path)
    assert error.code == "config_syntax"
    assert f"{path}:2: " in error.message

    path.write_bytes(b"# ok\nx = '\xff'\n")
    error = fault(path)
    assert (error.code, f"{path}:2: not UTF-8") == ("config_syntax", error.message)

    assert fault(tmp_path).code == "config_unreadable"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    assert "larger than" in fault(path).message
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in fault(path).message


def test_the_template_says_every_default(tmp_path: Path) -> None:
    text = config.template()
    assert config.load(write(tmp_path, text), HOME).rows() == config.load(tmp_path / "none", HOME).rows()
    live = "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    path = write(tmp_path, live)
    assert set(tomllib.loads(live)) == {one.group for one in config.SETTINGS}
    settings = config.load(path, HOME)
    assert all(row.origin.startswith(f"file {path}:") for row in settings.rows())
    assert [row.value for row in settings.rows()] == [
        row.value for row in config.load(tmp_path / "none", HOME).rows()
    ]


def test_flags_come_from_the_table(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    text = parser.format_help()
    assert all(one.flag in text for one in config.SETTINGS)
    flags = config.flags_of(parser.parse_args(["--discovery-roots", "/a", "--discovery-roots=/b:/c"]))
    settings = config.load(tmp_path / "none", HOME, flags)
    assert settings.discovery.roots == (Path("/a"), Path("/b"), Path("/c"))
    assert settings.given("discovery.roots")
    assert not settings.given("log.level")


def test_the_types_are_those_of_the_model() -> None:
    kind = next(one.kind for one in config.SETTINGS if one.key == "session.type")
    assert isinstance(kind, Choice)
    assert kind.words == tuple(SessionType)


def test_rows_are_plain_and_explained(tmp_path: Path) -> None:
    rows = config.load(tmp_path / "none", HOME).rows()
    assert [row.key for row in rows] == [one.key for one in config.SETTINGS]
    assert all(isinstance(row.value, int | float | str | list) for row in rows)
    assert all(row.help.endswith(".") for row in rows)
