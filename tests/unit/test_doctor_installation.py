"""What the doctor says of units, launcher, supervisor and socket that are not well."""

from __future__ import annotations

import os
import shutil
import socket

import pytest

import sessiond
from tests.unit.doctor_case import ASKS_RUNNING, ASKS_UNITS, NEVER, Made, Table, Wrong, is_told, manager_down

TABLE = Table()
wrong = TABLE.wrong

# units


def _shown(made: Made, **changes: str) -> None:
    made.programs.answer("systemctl", ASKS_UNITS, made.units(**changes))


@wrong("units", "failure", "sessiond.service is not installed", "sessionctl install")
def _not_installed(made: Made) -> None:
    _shown(made, LoadState="not-found", FragmentPath="")


@wrong("units", "failure", "sessiond.slice is not installed", "sessionctl install")
def _slice_without_a_file(made: Made) -> None:
    _shown(made, FragmentPath="")


@wrong("units", "failure", "sessiond@.service is masked", "systemctl --user unmask")
def _masked(made: Made) -> None:
    _shown(made, LoadState="masked")


@wrong("units", "failure", "cannot be used: Unit has a bad setting", "sessionctl install")
def _bad_setting(made: Made) -> None:
    _shown(made, LoadState="bad-setting", LoadError="Unit has a bad setting")


@wrong("units", "warning", "was changed after systemd had read it", "systemctl --user daemon-reload")
def _not_reloaded(made: Made) -> None:
    _shown(made, NeedDaemonReload="yes")


@wrong("units", "warning", f"not as this release ({sessiond.__version__}) writes it", "sessionctl install")
def _edited(made: Made) -> None:
    with (made.home / ".config/systemd/user/sessiond.service").open("a") as file:
        file.write("WatchdogSec=1\n")


@wrong(
    "units", "warning", "sessiond.service is disabled: no session starts at boot", "enable sessiond.service"
)
def _disabled(made: Made) -> None:
    _shown(made, UnitFileState="disabled")


@wrong("units", "warning", "until the user manager ends", "sessionctl install")
def runtime_units(made: Made) -> None:
    """Have the units in the runtime folder."""
    folder = made.runtime / "systemd/user"
    shutil.copytree(made.home / ".config/systemd/user", folder)
    made.programs.answer("systemctl", ASKS_UNITS, made.units(folder))


@wrong("units", "warning", "not known: Connection timed out", "systemctl --user")
def _units_unknown(made: Made) -> None:
    made.programs.answer("systemctl", ASKS_UNITS, err="Connection timed out", status=1)


@wrong("units", "warning", "the user manager does not answer", "systemctl start user@")
def _units_without_manager(made: Made) -> None:
    manager_down(made)


# launcher


@wrong("launcher", "failure", "launcher is missing", "sessionctl install")
def _no_launcher(made: Made) -> None:
    made.paths.launcher.unlink()


@wrong("launcher", "failure", "which is no file", "sessionctl install")
def _dangling(made: Made) -> None:
    shutil.rmtree(made.folder / "venv")


@wrong("launcher", "failure", "may not be executed", "chmod u+x")
def _not_executable(made: Made) -> None:
    made.own_program("", mode=0o644)


@wrong("launcher", "failure", "interpreter of", "sessionctl install")
def _no_interpreter(made: Made) -> None:
    made.own_program("#!/nowhere/python3\n")


@wrong(
    "launcher", "failure", "does not run, so no unit can start: No module named grpc", "sessionctl install"
)
def _broken_program(made: Made) -> None:
    made.own_program("#!/bin/sh\necho No module named grpc >&2; exit 1\n")


@wrong("launcher", "failure", "cannot be run: Exec format error", "sessionctl install")
def _no_program(made: Made) -> None:
    made.own_program("\x7fnonsense")


@wrong(
    "launcher", "warning", f"starts sessiond 0.0.1, and this is {sessiond.__version__}", "sessionctl install"
)
def _other_release(made: Made) -> None:
    made.own_program("#!/bin/sh\necho sessiond 0.0.1\n")


@wrong("launcher", "warning", "did not answer within", "launcher --version")
def _hangs(made: Made) -> None:
    made.own_program("#!/bin/sh\nexec sleep 60\n")
    made.changes["deadline"] = NEVER


@wrong("launcher", "warning", "starts /opt/sessiond, not the launcher", "sessionctl install")
def _unit_starts_another(made: Made) -> None:
    made.programs.answer("systemctl", "--property=ExecStart", "ExecStart={ path=/opt/sessiond ; argv[]=x ; }")


# supervisor and socket


@wrong("supervisor", "failure", "has failed: exit-code", "journalctl --user-unit=sessiond.service")
def _failed(made: Made) -> None:
    made.supervisor(ActiveState="failed", Result="exit-code")


@wrong("supervisor", "failure", "does not stay up: 7 restarts, watchdog", "journalctl")
def _loops(made: Made) -> None:
    made.supervisor(ActiveState="activating", SubState="auto-restart", NRestarts="7", Result="watchdog")


@wrong("supervisor", "failure", "sessiond.service is inactive", "sessionctl up")
def _inactive(made: Made) -> None:
    made.supervisor(ActiveState="inactive")


@wrong("supervisor", "failure", "sessiond.service is inactive", "sessionctl install")
def _inactive_and_not_installed(made: Made) -> None:
    made.supervisor(ActiveState="inactive", LoadState="not-found")


@wrong("supervisor", "warning", "after 5 restarts by systemd", "journalctl")
def _many_restarts(made: Made) -> None:
    made.supervisor(NRestarts="5")


@wrong("supervisor", "warning", "not known: Connection timed out", "systemctl --user")
def _supervisor_unknown(made: Made) -> None:
    made.programs.answer("systemctl", ASKS_RUNNING, err="Connection timed out", status=1)


@wrong("supervisor", "warning", "the user manager does not answer", "systemctl start user@")
def _supervisor_without_manager(made: Made) -> None:
    manager_down(made)


@wrong("socket", "failure", "holds 107 bytes", "export SESSIOND_RUNTIME_DIR=")
def _too_long(made: Made) -> None:
    made.changes["socket"] = made.folder / ("x" * 120)


@wrong("socket", "failure", "there is no socket", "sessionctl up")
def _no_socket(made: Made) -> None:
    made.paths.socket.unlink()


@wrong("socket", "failure", "there is no socket", "systemctl start user@")
def _no_socket_without_manager(made: Made) -> None:
    made.paths.socket.unlink()
    manager_down(made)


@wrong("socket", "failure", "has mode 0755, not 0700", "chmod 0700")
def _open_folder(made: Made) -> None:
    made.paths.runtime.chmod(0o755)


@wrong("socket", "failure", "has mode 0666, not 0600", "chmod 0600")
def _open_socket(made: Made) -> None:
    made.paths.socket.chmod(0o666)


@wrong("socket", "failure", "is no socket", "mv ")
def _a_file(made: Made) -> None:
    made.paths.socket.unlink()
    made.paths.socket.write_text("")


@wrong("socket", "failure", "is no folder", "mv ")
def _a_linked_folder(made: Made) -> None:
    made.paths.runtime.rename(made.folder / "elsewhere")
    made.paths.runtime.symlink_to(made.folder / "elsewhere")


@wrong("socket", "failure", f"belongs to uid {os.getuid()}, not to", "mv ")
def _of_another(made: Made) -> None:
    made.changes["uid"] = os.getuid() + 1


@wrong("socket", "failure", "left behind: nobody listens on it", "sessionctl up")
def _stale(made: Made) -> None:
    made.paths.socket.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(made.paths.socket))
    made.paths.socket.chmod(0o600)


@wrong("socket", "failure", "Protocol wrong type", "ls -l")
def _of_another_kind(made: Made) -> None:
    made.paths.socket.unlink()
    one = made.sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    one.bind(os.fspath(made.paths.socket))
    made.paths.socket.chmod(0o600)


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_what_is_wrong_is_told_with_what_mends_it(one: Wrong) -> None:
    is_told(one)
