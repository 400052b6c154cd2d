"""Names, addresses, commands and errors of the systemd backend, without systemd."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import ErrorKind, InvalidArgument
from sessiond.init.systemd import journal, units
from sessiond.init.systemd.bus import bus_address, socket_path
from sessiond.init.systemd.faults import refusal
from sessiond.init.systemd.names import unit_name, unit_path
from sessiond.model.identity import new_id
from sessiond.model.unit import daemon_unit, session_slice, starter_unit
from sessiond.ports import DaemonSpec

# ---- names


def test_a_units_path_is_escaped_as_systemd_does() -> None:
    path = "/org/freedesktop/systemd1/unit/sessiond_2dsession_40ab_2eservice"
    assert unit_path("sessiond-session@ab.service") == path
    assert unit_path("0a.slice") == "/org/freedesktop/systemd1/unit/_30a_2eslice"


@given(st.text(min_size=1))
def test_a_units_path_leads_back_to_its_name(name: str) -> None:
    assert unit_name(unit_path(name)) == name


@pytest.mark.parametrize(
    "path", ["/", "/org/freedesktop/systemd1/job/5", "/org/freedesktop/systemd1/unit/_zz"]
)
def test_another_path_is_no_units(path: str) -> None:
    assert unit_name(path) == ""


# ---- addresses


def test_the_managers_own_bus_is_preferred(tmp_path: Path) -> None:
    elsewhere = {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=/tmp/dbus-x"}
    named = {"XDG_RUNTIME_DIR": str(tmp_path), **elsewhere}
    assert bus_address(named) == "unix:abstract=/tmp/dbus-x"
    (tmp_path / "bus").touch()
    assert bus_address(named) == f"unix:path={tmp_path}/bus"
    assert bus_address({}) == f"unix:path=/run/user/{os.getuid()}/bus"


@pytest.mark.parametrize("folder", ["/run/user/1000", "/tmp/a b,c;d%e", "/tmp/ünï", "/tmp/\udcff"])
def test_a_path_survives_the_grammar_of_addresses(folder: str) -> None:
    address = bus_address({"XDG_RUNTIME_DIR": folder})
    assert socket_path(address) == Path(folder, "bus")


def test_an_address_without_a_path_has_none() -> None:
    assert socket_path("unix:abstract=/x") is None
    assert socket_path("tcp:host=localhost,port=1") is None
    assert socket_path("unix:guid=0a,path=/x/bus;unix:path=/y") == Path("/x/bus")


# ---- commands


ODD_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


def test_a_plain_command_is_left_as_it_is() -> None:
    argv = ["/opt/my app/bin/python", "-m", "x", "--socket=/run/user/1000/s.sock", "ünï", "%i", ""]
    assert units.command(argv, "/home/me/my work") == (argv, "/home/me/my work")
    assert units.command(argv, "/gone", needed=False) == (argv, "-/gone")


@given(st.lists(ODD_TEXT, max_size=4))
def test_an_odd_command_gets_its_words_through_a_shell(words: list[str]) -> None:
    argv, folder = units.command(["/usr/bin/printf", r"%s\0", "$", *words], "/")
    assert folder == "/"
    assert argv[0] == "/bin/sh"
    # No letter that systemd writes otherwise than it reads it.
    assert not {"$", ";", "\n"} & set("".join(argv))
    done = subprocess.run(argv, capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in ["$", *words])


@pytest.mark.parametrize("name", ["new\nline", "trail ", "-dash;", "end\\", "$HOME", "'q\"`", "\n"])
def test_an_odd_folder_is_entered_by_the_shell(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    argv, outside = units.command(["/bin/pwd", ";"][:1], f"{folder}")
    if argv[0] == "/bin/pwd":
        argv = [*argv]
        done = subprocess.run(argv, capture_output=True, check=True, cwd=outside)
    else:
        done = subprocess.run(argv, capture_output=True, check=True, cwd="/")
    assert done.stdout == os.fsencode(folder) + b"\n"


def test_a_missing_odd_folder_ends_it_unless_it_is_not_needed(tmp_path: Path) -> None:
    gone = f"{tmp_path}/go\nne"
    argv, _ = units.command(["/bin/pwd"], gone)
    assert subprocess.run(argv, capture_output=True).returncode == units.EXIT_CHDIR
    argv, _ = units.command(["/bin/pwd"], gone, needed=False)
    assert subprocess.run(argv, capture_output=True).stdout == b"/\n"


# ---- properties of the unit


def spec(**changes: object) -> DaemonSpec:
    plain = DaemonSpec(new_id(), "shop", Path("/home/me/shop"), ["/usr/bin/true", "x"])
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_daemon_is_registered_as_the_design_says() -> None:
    wanted = spec(environment={"A": "1"}, watchdog=180.0, start_timeout=60.0, stop_timeout=30.0)
    found = {name: variant.value for name, variant in units.daemon_properties(wanted, 252)}
    assert found["Slice"] == session_slice(wanted.session)
    assert found["PartOf"] == [starter_unit(wanted.session)]
    assert (found["Type"], found["NotifyAccess"]) == ("notify", "main")
    assert found["ExecStart"] == [["/usr/bin/true", ["/usr/bin/true", "x"], False]]
    assert found["WorkingDirectory"] == "/home/me/shop"
    assert found["Environment"] == ["A=1"]
    assert (found["Restart"], found["RestartUSec"]) == ("on-failure", 100_000)
    assert (found["StartLimitBurst"], found["StartLimitIntervalUSec"]) == (30, 60_000_000)
    assert found["WatchdogUSec"] == 180_000_000
    assert (found["TimeoutStartUSec"], found["TimeoutStopUSec"]) == (60_000_000, 30_000_000)
    assert (found["KillMode"], found["OOMPolicy"]) == ("mixed", "continue")
    assert found["FileDescriptorStoreMax"] == 2048
    assert found["LimitNOFILE"] > 2 * 2048
    assert found["Description"] == "shop (/home/me/shop)"


def test_an_older_systemd_is_not_asked_for_what_it_does_not_know() -> None:
    name = "FileDescriptorStorePreserve"
    assert name not in dict(units.daemon_properties(spec(), 253))
    assert dict(units.daemon_properties(spec(), 254))[name].value == "yes"


@pytest.mark.parametrize("path", ["/a\nb", "/\x1b[31mred", "/ünï✓", "/" + "x" * 4000, "/\udcff"])
def test_a_description_is_one_printable_line_of_bounded_length(path: str) -> None:
    shown = units.description("n" * 64, Path(path))
    assert shown.isprintable()
    assert len(shown) <= 240
    assert shown.endswith(")")


def _not_utf8(plain: DaemonSpec) -> DaemonSpec:
    return replace(plain, workspace=Path("/\udcff"))


def _large_variable(plain: DaemonSpec) -> DaemonSpec:
    return replace(plain, environment={"A": "x" * 140_000})


def _large_environment(plain: DaemonSpec) -> DaemonSpec:
    return replace(plain, environment={f"A{number}": "x" * 100_000 for number in range(30)})


def _nul(plain: DaemonSpec) -> DaemonSpec:
    return replace(plain, argv=["/bin/true", "a\0b"])


@pytest.mark.parametrize("spoil", [_not_utf8, _large_variable, _large_environment, _nul])
def test_what_the_kernel_or_the_bus_would_refuse_is_refused_before(
    spoil: Callable[[DaemonSpec], DaemonSpec],
) -> None:
    with pytest.raises(InvalidArgument):
        units.daemon_properties(spoil(spec()), 252)


# ---- errors


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("org.freedesktop.systemd1.NoSuchUnit", ErrorKind.NOT_FOUND, "unit_not_loaded"),
        ("org.freedesktop.systemd1.UnitExists", ErrorKind.EXISTS, "unit_exists"),
        ("org.freedesktop.systemd1.TransactionIsDestructive", ErrorKind.CONFLICT, "job_in_the_way"),
        ("org.freedesktop.systemd1.SomethingNew", ErrorKind.CONFLICT, "init_refused"),
        ("org.freedesktop.DBus.Error.PropertyReadOnly", ErrorKind.INVALID, "property_unknown"),
        ("org.freedesktop.DBus.Error.AccessDenied", ErrorKind.DENIED, "init_denied"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", ErrorKind.UNREACHABLE, "init_unavailable"),
        ("org.freedesktop.DBus.Error.Spawn.ChildExited", ErrorKind.UNREACHABLE, "init_unavailable"),
        ("org.freedesktop.DBus.Error.NoReply", ErrorKind.UNREACHABLE, "init_unavailable"),
        ("org.freedesktop.DBus.Error.Failed", ErrorKind.FAILED, "init_failed"),
        ("", ErrorKind.FAILED, "init_failed"),
    ],
)
def test_errors_of_the_bus_become_ours(name: str, kind: ErrorKind, code: str) -> None:
    error = refusal(name, "it will not", "StartUnit")
    assert (error.kind, error.code) == (kind, code)
    assert "it will not" in error.message
    if kind is ErrorKind.UNREACHABLE:
        assert error.hint


# ---- journal


def test_journal_entries_become_lines() -> None:
    entry = {
        "__REALTIME_TIMESTAMP": "1767225600000000",
        "SYSLOG_IDENTIFIER": "shop",
        "_PID": "7",
        "MESSAGE": "one\ntwo",
    }
    assert journal._shown(entry) == ["2026-01-01T00:00:00Z shop[7]: one", "2026-01-01T00:00:00Z shop[7]: two"]
    binary = json.loads('{"__REALTIME_TIMESTAMP": "0", "MESSAGE": [104, 105, 255], "_COMM": "sh"}')
    assert journal._shown(binary) == ["1970-01-01T00:00:00Z sh[]: hi\ufffd"]
    assert journal._shown({"__REALTIME_TIMESTAMP": "0", "MESSAGE": None}) == [
        "1970-01-01T00:00:00Z unknown[]: "
    ]


def test_daemon_unit_names_are_short_enough_for_systemd() -> None:
    assert len(daemon_unit(new_id())) < 255
