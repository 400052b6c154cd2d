"""What the doctor says of a user manager, its bus, cgroups and journal that are not well."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.unit.doctor_case import (
    ASKS_MANAGER,
    MACHINE_ID,
    NEVER,
    VERSION,
    Made,
    Table,
    Wrong,
    is_told,
    manager_down,
    mount,
)

TABLE = Table()
wrong = TABLE.wrong

# runtime_dir


@wrong("runtime_dir", "failure", "the user manager is not there but at", "export XDG_RUNTIME_DIR=")
def _names_another_folder(made: Made) -> None:
    made.environ["XDG_RUNTIME_DIR"] = str(made.folder)


@wrong("runtime_dir", "failure", "No such file or directory", "loginctl enable-linger")
def _nowhere(made: Made) -> None:
    made.environ["XDG_RUNTIME_DIR"] = ""
    shutil.rmtree(made.runtime)


@wrong("runtime_dir", "failure", "is not a folder", "unset XDG_RUNTIME_DIR")
def _names_a_file(made: Made) -> None:
    shutil.rmtree(made.runtime)
    made.runtime.write_text("")


@wrong("runtime_dir", "failure", f"belongs to uid {os.getuid()}", "export XDG_RUNTIME_DIR=")
def _of_another_user(made: Made) -> None:
    made.changes["uid"] = os.getuid() + 1


@wrong("runtime_dir", "failure", "others may enter it (mode 0755)", "chmod 0700")
def _open(made: Made) -> None:
    made.runtime.chmod(0o755)


@wrong("runtime_dir", "warning", "was found without it", "export XDG_RUNTIME_DIR=")
def _unset(made: Made) -> None:
    del made.environ["XDG_RUNTIME_DIR"]


@wrong("runtime_dir", "warning", "no absolute path and is ignored", "export XDG_RUNTIME_DIR=")
def _relative(made: Made) -> None:
    made.environ["XDG_RUNTIME_DIR"] = "run"


# user_manager


@wrong("user_manager", "warning", f"did not answer within {NEVER:g} s", "systemctl --user")
def _manager_hangs(made: Made) -> None:
    made.programs.hang("systemctl", ASKS_MANAGER)
    made.changes["deadline"] = NEVER


@wrong("user_manager", "failure", "systemctl is not installed", "apt-get install systemd")
def _no_systemctl(made: Made) -> None:
    made.environ["PATH"] = str(made.folder)


@wrong("user_manager", "failure", "answers: Failed to connect to bus", "systemctl start user@")
def _down(made: Made) -> None:
    manager_down(made)


@wrong("user_manager", "failure", "PID 1 of this machine is not systemd", "sessionctl nest up")
def _no_systemd(made: Made) -> None:
    manager_down(made)
    shutil.rmtree(made.root / "run/systemd/system")


@wrong("user_manager", "failure", "on its way down", "systemctl start user@")
def _stopping(made: Made) -> None:
    made.programs.answer("systemctl", ASKS_MANAGER, f"Version={VERSION}\nSystemState=stopping")


@wrong("user_manager", "warning", "says nothing of itself", "systemctl --user")
def _says_nothing(made: Made) -> None:
    made.programs.answer("systemctl", ASKS_MANAGER)


# bus


@wrong("bus", "failure", "no D-Bus of the user", "systemctl --user restart dbus.socket")
def _no_bus(made: Made) -> None:
    (made.runtime / "bus").unlink()


@wrong("bus", "failure", "no D-Bus of the user", "apt-get install dbus-user-session")
def _no_bus_installed(made: Made) -> None:
    (made.runtime / "bus").unlink()
    made.programs.answer("systemctl", "dbus.socket", "LoadState=not-found")


@wrong("bus", "failure", "no D-Bus of the user", "systemctl start user@")
def _no_bus_without_manager(made: Made) -> None:
    (made.runtime / "bus").unlink()
    manager_down(made)


@wrong("bus", "failure", "nobody listens on it", "systemctl --user restart dbus.socket")
def _dead_bus(made: Made) -> None:
    (made.runtime / "bus").unlink()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(made.runtime / "bus"))


@wrong("bus", "failure", "the user manager is not on the bus", "systemctl --user daemon-reexec")
def _manager_left_the_bus(made: Made) -> None:
    made.programs.answer("busctl", err="The name org.freedesktop.systemd1 was not provided", status=1)


@wrong("bus", "warning", "not known: `busctl", "busctl --address=unix:path=/")
def _bus_hangs(made: Made) -> None:
    # Its own limit, which is a second longer, is what ends busctl itself.
    made.programs.hang("busctl")
    made.changes["deadline"] = NEVER


# linger


@wrong("linger", "failure", "LINGER IS OFF", "loginctl enable-linger")
def _off(made: Made) -> None:
    made.programs.answer("loginctl", out="no")


@wrong("linger", "failure", "systemd kills every session", "loginctl enable-linger")
def _off_and_logged_out(made: Made) -> None:
    err = "Failed to get user: User ID 1000 is not logged in or lingering"
    made.programs.answer("loginctl", err=err, status=1)


@wrong("linger", "warning", "not known: Failed to connect", "loginctl show-user")
def _no_logind(made: Made) -> None:
    made.programs.answer("loginctl", err="Failed to connect to bus: No such file or directory", status=1)


@wrong("linger", "warning", "did not answer within", "loginctl show-user")
def _logind_hangs(made: Made) -> None:
    made.programs.hang("loginctl")
    made.changes["deadline"] = NEVER


@wrong("linger", "warning", "not known: PID 1", "sessionctl nest up")
def _linger_without_systemd(made: Made) -> None:
    shutil.rmtree(made.root / "run/systemd/system")


# systemd_version


def _version(made: Made, text: str) -> None:
    made.programs.answer("systemctl", ASKS_MANAGER, f"Version={text}\nSystemState=running")


@wrong("systemd_version", "warning", "not known: the user manager's version is 'new'", "systemctl --user")
def _no_number(made: Made) -> None:
    _version(made, "new")


@wrong("systemd_version", "failure", "systemd 245.4 is too old", "apt-get install")
def _old(made: Made) -> None:
    _version(made, "245.4")


@wrong("systemd_version", "warning", "not known: `systemctl --version`", "systemctl --version")
def _installed_says_nothing(made: Made) -> None:
    made.programs.answer("systemctl", "--version")


@wrong("systemd_version", "warning", "is still systemd 251.1", "systemctl --user daemon-reexec")
def _upgraded(made: Made) -> None:
    _version(made, "251.1")


@wrong("systemd_version", "warning", "the user manager does not answer", "systemctl start user@")
def _version_without_manager(made: Made) -> None:
    manager_down(made)


# cgroup_version


@wrong("cgroup_version", "warning", "side by side", "/proc/cmdline")
def _hybrid(made: Made) -> None:
    mounts = mount("/sys/fs/cgroup/unified", "cgroup2") + mount("/sys/fs/cgroup/memory", "cgroup")
    made.write("proc/self/mountinfo", mounts)


@wrong("cgroup_version", "failure", "version 1 alone", "update-grub")
def _version_1(made: Made) -> None:
    made.write("proc/self/mountinfo", mount("/sys/fs/cgroup/memory", "cgroup"))
    made.write("etc/default/grub")


@wrong("cgroup_version", "failure", "no cgroup file system", "mount -t cgroup2")
def _none_mounted(made: Made) -> None:
    made.write("proc/self/mountinfo")


@wrong("cgroup_version", "warning", "not known: PID 1", "sessionctl nest up")
def _cgroups_without_systemd(made: Made) -> None:
    shutil.rmtree(made.root / "run/systemd/system")


# controllers


def _delegated(made: Made) -> Path:
    return (
        made.root
        / f"sys/fs/cgroup/user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service/cgroup.controllers"
    )


@wrong(
    "controllers", "warning", "not delegated to the user manager: cpu; CPUQuota", "Delegate=cpu memory pids"
)
def _not_delegated(made: Made) -> None:
    _delegated(made).write_text("memory pids")


@wrong("controllers", "warning", "the kernel has memory disabled", "/proc/cgroups")
def _not_offered(made: Made) -> None:
    (made.root / "sys/fs/cgroup/cgroup.controllers").write_text("cpu pids")
    _delegated(made).write_text("cpu pids")


@wrong("controllers", "warning", "not known: /sys/fs/cgroup/user.slice", "cat /sys/fs/cgroup")
def _no_such_group(made: Made) -> None:
    _delegated(made).unlink()


@wrong("controllers", "warning", "the user manager does not answer", "systemctl start user@")
def _controllers_without_manager(made: Made) -> None:
    manager_down(made)


# journal


def volatile(made: Made, mode: int = 0o755) -> None:
    """Have the journal in memory."""
    folder = made.root / f"run/log/journal/{MACHINE_ID}"
    folder.mkdir(parents=True)
    folder.chmod(mode)


def _nothing_stored(made: Made) -> None:
    shutil.rmtree(made.root / "var/log")


@wrong("journal_persistent", "warning", "in memory only", "Storage=persistent")
def _in_memory(made: Made) -> None:
    volatile(made)


@wrong("journal_persistent", "failure", "nothing that is logged is stored", "Storage=persistent")
def _stored_nowhere(made: Made) -> None:
    _nothing_stored(made)


@wrong("journal_persistent", "failure", "nothing that is logged is stored", "Storage=persistent")
def _no_machine_id(made: Made) -> None:
    (made.root / "etc/machine-id").unlink()


@wrong("journal_persistent", "warning", "not known: PID 1", "sessionctl nest up")
def _journal_without_systemd(made: Made) -> None:
    shutil.rmtree(made.root / "run/systemd/system")


@wrong("journal_readable", "warning", "not known: PID 1", "sessionctl nest up")
def _reading_without_systemd(made: Made) -> None:
    shutil.rmtree(made.root / "run/systemd/system")


@wrong("journal_readable", "failure", "journald does not run", "systemctl start systemd-journald")
def _no_journald(made: Made) -> None:
    made.programs.answer("systemctl", "systemd-journald", "ActiveState=inactive")


@wrong("journal_readable", "warning", "did not answer within", "journalctl --no-pager")
def _journal_hangs(made: Made) -> None:
    made.programs.hang("journalctl")
    made.changes["deadline"] = NEVER


@wrong("journal_readable", "failure", "may not read the journal", "usermod -aG systemd-journal")
def _denied(made: Made) -> None:
    err = "No journal files were opened due to insufficient permissions."
    made.programs.answer("journalctl", err=err)


@wrong("journal_readable", "failure", "there is no journal", "Storage=persistent")
def _no_journal(made: Made) -> None:
    _nothing_stored(made)
    made.programs.answer("journalctl", out="-- No entries --")


@wrong("journal_readable", "warning", "not known: Journal file is truncated", "journalctl --no-pager")
def _broken_journal(made: Made) -> None:
    made.programs.answer("journalctl", err="Journal file is truncated", status=1)


@wrong("journal_readable", "warning", "not known: no line of", "journalctl --no-pager")
def _no_line(made: Made) -> None:
    made.programs.answer("journalctl")


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_what_is_wrong_is_told_with_what_mends_it(one: Wrong) -> None:
    is_told(one)
