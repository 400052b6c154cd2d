"""Where sessionctl finds the supervisor, how it asks systemd and the journal, what install writes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sessiond.cli import host as host_module
from sessiond.cli import installation, journal, starter
from sessiond.cli.host import Host, find_host
from sessiond.cli.installation import Places
from sessiond.cli.status import accounts
from sessiond.errors import SessiondError, Unreachable
from sessiond.paths import Paths
from tests.unit.cli_case import StandIn, ctl, have_manager, programs

SHOWN = "/run/x/sessiond.sock"


class Record:
    runtime_dir = "/run/nest"


class Nest:
    record = Record()


# ---- the socket -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "variables", "manager", "nest", "socket"),
    [
        ("/o", {"SESSIOND_SOCKET": "/v", "SESSIOND_RUNTIME_DIR": "/r"}, True, True, "/o"),
        (None, {"SESSIOND_SOCKET": "/v", "SESSIOND_RUNTIME_DIR": "/r"}, True, True, "/v"),
        (None, {"SESSIOND_RUNTIME_DIR": "/r", "XDG_RUNTIME_DIR": "/x"}, True, True, "/r/sessiond.sock"),
        (None, {"SESSIOND_RUNTIME_DIR": "/r", "XDG_RUNTIME_DIR": "/x"}, False, True, "/r/sessiond.sock"),
        (
            None,
            {"SESSIOND_RUNTIME_DIR": "relative", "XDG_RUNTIME_DIR": "/x"},
            True,
            False,
            "/x/sessiond/sessiond.sock",
        ),
        (None, {"XDG_RUNTIME_DIR": "/x"}, True, True, "/x/sessiond/sessiond.sock"),
        (None, {"XDG_RUNTIME_DIR": "/x"}, False, True, "/run/nest/sessiond.sock"),
        (None, {"XDG_RUNTIME_DIR": "/x"}, False, False, "/x/sessiond/sessiond.sock"),
        (None, {}, True, False, f"/run/user/{os.getuid()}/sessiond/sessiond.sock"),
        (None, {"XDG_RUNTIME_DIR": ""}, True, False, f"/run/user/{os.getuid()}/sessiond/sessiond.sock"),
    ],
)
def test_the_socket_is_found_by_precedence(
    option: str | None,
    variables: dict[str, str],
    manager: bool,
    nest: bool,
    socket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "manager_runs", lambda env: manager)
    monkeypatch.setattr(host_module, "living_nest", lambda: Nest() if nest else None)
    found = find_host(option, variables)
    assert found.socket == socket
    assert (found.nest is not None) == (nest and not manager)


def test_a_nest_is_not_even_looked_for_where_a_manager_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    have_manager()
    monkeypatch.setattr(host_module, "living_nest", lambda: pytest.fail("looked for a nest"))
    assert find_host(None).manager


def test_pids_of_a_nest_are_told_as_seen_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [{7: 700}, {7: 700, 8: 800}]
    monkeypatch.setattr("sessiond.nest.outer_pids", lambda nest: seen.pop(0) if len(seen) > 1 else seen[0])
    nested = Host("/run/nest/sessiond.sock", nest=Nest(), manager=False)  # type: ignore[arg-type]
    assert nested.pid(7) == 700
    assert nested.pid(8) == 800, "a process that came later is looked up again"
    assert nested.pid(9) is None
    assert Host(SHOWN, nest=None, manager=True).pid(9) == 9
    elsewhere = Host(SHOWN, nest=Nest(), manager=False)  # type: ignore[arg-type]
    assert elsewhere.pid(7) == 7, "another supervisor's pids are not the nest's"


def test_programs_find_the_bus_without_a_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bus").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    env = Host(SHOWN, nest=None, manager=True).environment()
    assert env["XDG_RUNTIME_DIR"] == str(tmp_path)
    assert env["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path={tmp_path}/bus"


def test_without_a_manager_systemctl_is_not_even_tried() -> None:
    with pytest.raises(Unreachable) as caught:
        Host(SHOWN, nest=None, manager=False).systemctl("start", "x")
    assert caught.value.code == "manager_unreachable"
    assert caught.value.hint


def test_a_program_that_fails_tells_what_it_said(tmp_path: Path) -> None:
    with programs(tmp_path / "bin", systemctl="echo no such unit >&2; exit 5"):
        with pytest.raises(SessiondError, match="no such unit"):
            Host(SHOWN, nest=None, manager=True).systemctl("start", "x")


# ---- status ---------------------------------------------------------------------------------


def test_what_systemd_does_not_count_is_unknown(tmp_path: Path) -> None:
    text = (
        "TasksCurrent=3\\nTasksMax=infinity\\nMemoryCurrent=[not set]\\nCPUUsageNSec=18446744073709551615\\n"
    )
    with programs(tmp_path / "bin", systemctl=f"printf '{text}'"):
        found = accounts(Host(SHOWN, nest=None, manager=True), "x.slice")
    assert found == {"tasks": 3, "tasks_max": None, "memory": None, "cpu_seconds": None, "cgroup": None}


def test_status_reads_like_systemctl(tmp_path: Path) -> None:
    have_manager()
    shown = "printf 'TasksCurrent=9\\nMemoryCurrent=10485760\\nCPUUsageNSec=1500000000\\nControlGroup=/g\\n'"
    with programs(tmp_path / "bin", systemctl=shown, journalctl="echo a line of the journal"), StandIn():
        ctl("new", str(tmp_path / "shop"), "--start")
        page = ctl("status", "shop").out
        told = ctl("status", "shop", "--json").json
        supervisor = ctl("status").out
        assert ctl("status", "nobody").code == 3
    for text in (
        "● shop - ",
        "State: active since",
        "Tasks: 9",
        "Memory: 10.0M",
        "CPU: 1.500s",
        "a line of the journal",
    ):
        assert text in page, text
    assert (told["tasks"], told["memory"], told["cpu_seconds"]) == (9, 10485760, 1.5)
    assert "the supervisor" in supervisor
    assert "Sessions: 1, 1 active" in supervisor


def test_status_works_where_systemctl_and_journalctl_do_not(tmp_path: Path) -> None:
    failing = "echo no >&2; exit 1"
    with programs(tmp_path / "bin", systemctl=failing, journalctl=failing), StandIn():
        ctl("new", str(tmp_path / "shop"), "--start")
        page = ctl("status", "shop")
    assert page.code == 0
    assert "Tasks: unknown" in page.out
    assert "sessionctl doctor" in page.out


# ---- logs -----------------------------------------------------------------------------------


def logs(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sessiond.cli.main", "logs", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_logs_becomes_journalctl_with_the_session_s_slice_and_units(tmp_path: Path) -> None:
    with programs(tmp_path / "bin", journalctl='printf "%s\\n" "$@"'), StandIn():
        made = ctl("new", str(tmp_path / "shop"), "--json").json
        plain = logs("shop").stdout.splitlines()
        followed = logs("shop", "-f", "-n", "5", "--json").stdout.splitlines()
        since = logs("shop", "--since", "1 hour ago").stdout.splitlines()
        assert logs("shop", "-n", "few").returncode == 7
        assert logs("nobody").returncode == 3
    assert "--lines=100" in plain
    assert f"_SYSTEMD_USER_SLICE={made['slice']}" in plain
    assert f"USER_UNIT={made['unit']}" in plain
    assert plain.count("+") == plain.count(f"_UID={os.getuid()}") - 1, "every alternative is this user's"
    assert {"--follow", "--lines=5", "--output=json"} <= set(followed)
    assert {"--since=1 hour ago", "--lines=all"} <= set(since)


def test_the_supervisor_s_own_log_needs_no_supervisor(tmp_path: Path) -> None:
    with programs(tmp_path / "bin", journalctl='printf "%s\\n" "$@"; exit 3'):
        done = logs("--supervisor")
    assert "_SYSTEMD_USER_UNIT=sessiond.service" in done.stdout
    assert done.returncode == 3, "it exits as journalctl does"
    assert "--user" not in done.stdout.splitlines()


def test_every_match_of_a_session_names_it() -> None:
    words = journal.session_matches("a" * 32)
    assert all("a" * 32 in word for word in words if word != "+" and not word.startswith("_UID="))


# ---- install --------------------------------------------------------------------------------


def test_install_writes_units_and_launcher_once(isolated_home: Path) -> None:
    places = Places.of_user()
    changed = installation.write_files(places)
    assert places.launcher in changed
    assert os.readlink(places.launcher) == str(Path(sys.executable).parent / "sessiond")
    unit = (isolated_home / ".config/systemd/user/sessiond.service").read_text()
    assert f"ExecStart={places.launcher}\n" in unit
    assert installation.PLACEHOLDER not in "".join(one.read_text() for one in places.units.glob("sessiond*"))
    assert installation.write_files(places) == []
    assert not list(places.units.glob(".*")), "no draft is left"


def test_install_mends_what_was_changed(isolated_home: Path) -> None:
    places = Places.of_user()
    installation.write_files(places)
    places.launcher.unlink()
    places.launcher.symlink_to("/nowhere")
    unit = places.units / "sessiond.service"
    unit.write_text("changed")
    assert set(installation.write_files(places)) == {places.launcher, unit}
    assert "ExecStart=" in unit.read_text()


def test_uninstall_takes_ours_and_leaves_the_rest(isolated_home: Path) -> None:
    places = Places.of_user()
    installation.write_files(places)
    wants = places.units / "default.target.wants"
    control = places.units.parent / "user.control"
    ours = [
        wants / "sessiond.service",
        wants / f"sessiond@{'a' * 32}.service",
        control / f"sessiond-{'a' * 32}-agents.slice.d",
    ]
    others = [
        wants / "other.service",
        places.units / "sessiondx.service",
        places.units / "sessiond-mine.service",
        control / "other.slice.d",
        control / "sessiond-mine.slice.d",
    ]
    for link in (ours[0], ours[1], others[0]):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../sessiond.service")
    for folder in (ours[2], others[3], others[4]):
        folder.mkdir(parents=True)
        (folder / "50-TasksMax.conf").touch()
    for file in (others[1], others[2]):
        file.touch()
    removed = installation.remove_files(places)
    assert {*ours, places.launcher, places.units / "sessiond.service"} <= set(removed)
    assert not any(os.path.lexists(one) for one in removed)
    assert all(os.path.lexists(one) for one in others)
    assert installation.remove_files(places) == []


def test_the_environment_of_a_runtime_installation_goes_with_it(isolated_home: Path) -> None:
    places = Places.of_user(runtime=True)
    assert str(places.units).startswith(os.environ["XDG_RUNTIME_DIR"])
    installation.write_files(places)
    drop_in = installation.write_environment(places, {"A": 'b c"d', "E": "100%"})
    assert drop_in.read_text() == '[Service]\nEnvironment="A=b c\\"d"\nEnvironment=E=100%%\n'
    installation.remove_files(places)
    assert not drop_in.parent.exists()
    assert not (isolated_home / ".config").exists()


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/plain/path-1_2.x", "/plain/path-1_2.x"),
        ("/with space", '"/with space"'),
        ("/100%", "/100%%"),
        ('/qu"ote', '"/qu\\"ote"'),
        ("/back\\slash", '"/back\\\\slash"'),
        ("/new\nline", '"/new\\nline"'),
        ("/semi;colon", '"/semi;colon"'),
    ],
)
def test_a_path_in_a_unit_file(path: str, word: str) -> None:
    assert installation.escaped(Path(path)) == word


def test_uninstall_asks_first(isolated_home: Path) -> None:
    installation.write_files(Places.of_user())
    refused = ctl("uninstall", "--json")
    assert (refused.code, refused.errors[0]["code"]) == (2, "confirmation_needed")
    assert ctl("uninstall", terminal=True, typed="n\n").code != 0
    assert Places.of_user().launcher.is_symlink()


def test_uninstall_without_a_manager_removes_the_files(isolated_home: Path) -> None:
    installation.write_files(Places.of_user())
    paths = Paths.from_environment()
    (paths.state / "sessions/x").mkdir(parents=True)
    workspace = isolated_home / "work"
    (workspace / ".sessiond").mkdir(parents=True)
    (paths.state / "sessions/x/workspace").symlink_to(workspace)
    kept = ctl("uninstall", "--yes", "--keep-data", "--json")
    assert kept.json["kept"] == [str(paths.state)]
    done = ctl("uninstall", "--yes", "--json")
    assert done.json == {"removed": [str(paths.state)], "kept": []}
    assert (workspace / ".sessiond").is_dir()


def test_install_and_up_need_a_manager() -> None:
    for verb in ("install", "up", "down"):
        done = ctl(verb, "--json")
        assert (done.code, done.errors[0]["code"]) == (5, "manager_unreachable"), verb


def test_up_where_nothing_is_installed_says_so(tmp_path: Path) -> None:
    have_manager()
    with programs(tmp_path / "bin", systemctl="echo LoadState=not-found; echo ActiveState=inactive"):
        done = ctl("up", "--json")
    assert (done.code, done.errors[0]["code"]) == (5, "not_installed")
    assert done.errors[0]["hint"] == "sessionctl install"


def test_up_tells_why_the_supervisor_did_not_start(tmp_path: Path) -> None:
    have_manager()
    systemctl = (
        """case "$*" in *show*) echo LoadState=loaded; echo ActiveState=failed;; *start*) exit 1;; esac"""
    )
    with programs(tmp_path / "bin", systemctl=systemctl, journalctl="echo the reason why"):
        done = ctl("up", "--json")
    assert (done.code, done.errors[0]["code"]) == (1, "supervisor_failed")
    assert "the reason why" in done.errors[0]["message"]


def test_a_nest_is_refused_where_a_manager_runs() -> None:
    have_manager()
    done = ctl("nest", "up", "--json")
    assert (done.code, done.errors[0]["code"]) == (4, "manager_running")


def test_without_a_nest_its_verbs_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.nest.status", lambda *_: None)
    monkeypatch.setattr("sessiond.nest.record_folder", lambda *_: NoRecord())
    state = ctl("nest", "status", "--json")
    assert (state.code, state.json["state"]) == (3, "down")
    assert ctl("nest", "exec", "--", "true", "--json").code == 3


class NoRecord:
    def load(self) -> None:
        return None


# ---- the starter ----------------------------------------------------------------------------


def test_the_starter_starts_a_session(tmp_path: Path) -> None:
    with StandIn():
        made = ctl("new", str(tmp_path / "a"), "--json").json
        assert starter.main([made["id"]]) == 0
        assert ctl("show", "a", "--json").json["state"] == "active"


def test_the_starter_waits_for_a_supervisor_that_comes(tmp_path: Path) -> None:
    with StandIn():
        made = ctl("new", str(tmp_path / "a"), "--json").json
    exits: list[int] = []
    thread = threading.Thread(target=lambda: exits.append(starter.main([made["id"]])))
    thread.start()
    with StandIn():
        thread.join(60)
    assert exits == [0]


def test_the_starter_gives_up_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starter, "PATIENCE", 0.05)
    assert starter.main(["a" * 32]) == 1
    assert "supervisor" in capsys.readouterr().err
    assert starter.main(["not an id"]) == 1
    assert starter.main([]) == 2
    with StandIn():
        assert starter.main(["a" * 32]) == 1
    assert "no session" in capsys.readouterr().err


def test_the_starter_tells_the_journal_in_a_way_that_outlives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "PATIENCE", 0.05)
    stderr = tmp_path / "stderr"
    with stderr.open("w") as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.setblocking(False)
        monkeypatch.setattr("sessiond.log.JOURNAL", str(tmp_path / "journal"))
        monkeypatch.setattr("sys.stderr", stream)
        info = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        assert starter.main(["a\nUSER_UNIT=b"]) == 1
        entry = journal.recv(65536).decode().splitlines()
        assert entry[0].startswith("MESSAGE=")
        assert entry[1:] == [
            "PRIORITY=3",
            "SYSLOG_IDENTIFIER=sessiond",
            "USER_UNIT=sessiond@a\\nUSER_UNIT=b.service",
        ]
        assert starter.main(["a" * 32]) == 1
        assert f"USER_UNIT=sessiond@{'a' * 32}.service" in journal.recv(65536).decode().splitlines()
        assert stderr.read_text() == ""
    # Where the journal is not there, or stderr is somebody else's, it is said there.
    with stderr.open("w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert starter.main(["a" * 32]) == 1
        monkeypatch.setenv("JOURNAL_STREAM", "0:0")
        assert starter.main(["a" * 32]) == 1
    assert len(stderr.read_text().splitlines()) == 2


# ---- config and doctor ----------------------------------------------------------------------


def test_config_tells_who_set_what(isolated_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_LOG_LEVEL", "debug")
    rows = {row["key"]: row for row in ctl("config", "--json").json}
    assert rows["log.level"]["value"] == "debug"
    assert rows["log.level"]["origin"] == "environment SESSIOND_LOG_LEVEL"
    assert rows["discovery.depth"] | {"help": ""} == {
        "key": "discovery.depth",
        "value": 3,
        "origin": "default",
        "help": "",
    }
    assert re.search(r"log\.level +debug +environment", ctl("config").out)
    monkeypatch.setenv("SESSIOND_LOG_LEVEL", "loud")
    assert ctl("config").code == 7


def test_doctor_prints_its_rows_and_exits_with_1_on_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from sessiond.doctor.row import CheckRow, Status

    rows: list[Any] = [
        CheckRow("bus", Status.OK, "fine"),
        CheckRow("linger", Status.WARNING, "off", "do this"),
    ]
    monkeypatch.setattr("sessiond.doctor.checks", lambda *_: rows)
    told = ctl("doctor", "--json")
    assert told.code == 0
    assert told.json[1] == {"check": "linger", "status": "warning", "detail": "off", "fix": "do this"}
    rows.append(CheckRow("units", Status.FAILURE, "gone", "sessionctl install"))
    assert ctl("doctor", "--json").code == 1
    shown = ctl("doctor")
    assert "→ sessionctl install" in shown.out
    assert "1 failures, 1 warnings" in shown.out
    assert json.loads(json.dumps(told.json)) == told.json
