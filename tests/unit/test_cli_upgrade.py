"""`upgrade`: what it refuses, what it plans, what it puts back and what it tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessiond import __version__
from sessiond.cli import installation, upgrade
from sessiond.cli.installation import Places
from tests.unit.cli_case import StandIn, ctl, have_manager, programs

SYSTEMCTL = 'echo "$@" >>"$CALLS"; case "$*" in *show*) echo LoadState=loaded; echo ActiveState=active;; esac'


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A machine with an installation from elsewhere; yields the file of what systemctl was asked for."""
    have_manager()
    places = Places.of_user()
    installation.write_files(places)
    places.launcher.unlink()
    places.launcher.symlink_to("/older/bin/sessiond")
    calls = tmp_path / "calls"
    calls.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLS", str(calls))
        with programs(tmp_path / "bin", systemctl=SYSTEMCTL):
            yield calls


def launcher() -> str:
    return os.readlink(Places.of_user().launcher)


def asked(calls: Path) -> list[str]:
    words = [line.removeprefix("--user --no-pager ") for line in calls.read_text().splitlines()]
    return [line for line in words if not line.startswith("show")]


def test_without_an_installation_nothing_is_written(tmp_path: Path) -> None:
    have_manager()
    done = ctl("upgrade", "--json")
    assert done.errors[0]["code"] == "not_installed"
    assert not Places.of_user().launcher.exists()


def test_without_a_manager_it_says_so() -> None:
    assert ctl("upgrade", "--json").errors[0]["code"] == "manager_unreachable"


def test_a_dry_run_tells_and_does_nothing(machine: Path, tmp_path: Path) -> None:
    with StandIn():
        made = ctl("new", str(tmp_path / "shop"), "--start", "--json").json
        ctl("new", str(tmp_path / "idle"))
        told = ctl("upgrade", "--dry-run", "--json").json
        text = ctl("upgrade", "--dry-run").out
    assert told["changed"] == [str(Places.of_user().launcher)]
    assert told["program"] == str(installation.program())
    assert told["supervisor"] == {"from": __version__, "to": __version__, "pid": None}
    assert told["sessions"] == [{"id": made["id"], "name": "shop"}]
    assert "would restart the daemon of shop" in text
    assert launcher() == "/older/bin/sessiond"
    assert asked(machine) == []


def test_all_moves_and_each_session_is_told(machine: Path, tmp_path: Path) -> None:
    with StandIn():
        ctl("new", str(tmp_path / "shop"), "--start")
        done = ctl("upgrade", "--json")
    # The stand-in's sessions have no daemon that could say its version.
    assert done.code == 1
    [session] = done.json["sessions"]
    assert (session["name"], session["ok"], session["code"]) == ("shop", False, "daemon_unreachable")
    assert done.json["supervisor"]["to"] == __version__
    assert launcher() == str(installation.program())
    assert asked(machine) == ["daemon-reload", "restart sessiond.service"]


def test_an_installation_as_it_should_be_is_only_restarted(machine: Path) -> None:
    installation.write_files(Places.of_user())
    with StandIn():
        done = ctl("upgrade")
    assert done.code == 0
    assert "no session runs" in done.out
    assert asked(machine) == ["restart sessiond.service"]


def test_what_does_not_come_up_is_taken_back(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Places.of_user().units / "sessiond.service"
    unit.write_text("[Service]\nExecStart=/older\n")
    added = Places.of_user().units / "sessiond.slice"
    added.unlink()
    with StandIn():
        monkeypatch.setattr(upgrade, "__version__", "99")
        done = ctl("upgrade", "--json")
    assert done.code == 1
    assert done.errors[0]["code"] == "upgrade_failed"
    assert launcher() == "/older/bin/sessiond"
    assert unit.read_text() == "[Service]\nExecStart=/older\n"
    assert not added.exists()
    assert asked(machine)[-1] == "restart sessiond.service"


def test_an_older_release_must_be_forced(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn():
        monkeypatch.setattr(upgrade, "__version__", "0.0.1")
        done = ctl("upgrade", "--json")
    assert done.errors[0]["code"] == "installation_older"
    assert launcher() == "/older/bin/sessiond"
    assert asked(machine) == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9.0", "0.10.0"), ("1", "1.0.1"), ("0.1.0", "1.0.0rc1"), ("0", "0.1")],
)
def test_releases_are_compared_by_their_numbers(older: Any, newer: Any) -> None:
    assert upgrade._numbers(older) < upgrade._numbers(newer)
