"""What the doctor says of folders, disks, settings, the database and the kernel that are not well."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond.doctor import CheckRow, kernel
from tests.unit.doctor_case import Made, Table, Wrong, is_told

TABLE = Table()
wrong = TABLE.wrong

# config, roots, database


@wrong("config", "failure", "did you mean", "config.toml")
def _unknown_key(made: Made) -> None:
    made.paths.config_file.write_text("[discovery]\nroot = []\n")


@wrong("config", "failure", "environment SESSIOND_LOG_LEVEL", "config.toml")
def _bad_variable(made: Made) -> None:
    made.environ["SESSIOND_LOG_LEVEL"] = "loud"


@wrong("discovery_roots", "warning", "not known: the settings cannot be read", "sessionctl config")
def _no_settings(made: Made) -> None:
    made.paths.config_file.write_text("?")


def _roots(made: Made, root: Path) -> None:
    made.paths.config_file.write_text(f'[discovery]\nroots = ["{root}"]\n')


@wrong("discovery_roots", "warning", "is not there: no workspace below it is found", "mkdir -p")
def _root_is_missing(made: Made) -> None:
    _roots(made, made.folder / "gone")


@wrong("discovery_roots", "warning", "is no folder", "sessionctl config")
def _root_is_a_file(made: Made) -> None:
    _roots(made, made.write("file"))


@wrong("database", "failure", "is no regular file", "mv ")
def _database_is_a_folder(made: Made) -> None:
    made.paths.database.unlink()
    made.paths.database.mkdir()


@wrong("database", "failure", "cannot be read and written: Text file busy", "ls -ld")
def _database_is_busy(made: Made) -> None:
    # What root may not open for writing either: a program that runs.
    shutil.copy("/bin/sleep", made.paths.database)
    made.paths.database.chmod(0o700)
    process = made.sockets.enter_context(subprocess.Popen([made.paths.database, "60"]))
    made.sockets.callback(process.kill)


@wrong("database", "warning", "kept aside, and a new one made", "restart sessiond.service")
def _damaged(made: Made) -> None:
    made.paths.database.write_bytes(b"not a database")


@wrong("database", "warning", "can be read by others (mode 0644)", "chmod 0600")
def _open_database(made: Made) -> None:
    made.paths.database.chmod(0o644)


@wrong("database_aside", "warning", "sessiond.db.corrupt-20250101T000000Z", "rm ")
def _kept_aside(made: Made) -> None:
    for tail in ("", "-wal"):
        made.paths.state.joinpath(f"sessiond.db.corrupt-20250101T000000Z{tail}").write_text("")


# folders and disks


@wrong("state_folder", "failure", "is no folder", "mv ")
def _state_is_a_link(made: Made) -> None:
    made.paths.state.rename(made.folder / "elsewhere")
    made.paths.state.symlink_to(made.folder / "elsewhere")


@wrong("runtime_folder", "failure", "is no folder", "mv ")
def _runtime_is_a_file(made: Made) -> None:
    shutil.rmtree(made.paths.runtime)
    made.paths.runtime.write_text("")


@wrong("state_folder", "failure", f"belongs to uid {os.getuid()}, not to", "chown -R")
def _state_of_another(made: Made) -> None:
    made.changes["uid"] = os.getuid() + 1


@wrong("data_folder", "failure", "cannot be written", "ls -ld")
def _data_not_writable(made: Made) -> None:
    # Root may write everywhere but here.
    made.changes["paths"] = dataclasses.replace(made.paths, data=Path(f"/proc/{os.getpid()}/fdinfo"))


@wrong("config_folder", "failure", "cannot be written", "")
def _config_below_a_place_not_writable(made: Made) -> None:
    made.changes["paths"] = dataclasses.replace(made.paths, config=Path("/proc/sys/fs/sessiond"))


def _with_room(monkeypatch_free: int, files_free: int) -> Callable[[Made], list[CheckRow]]:
    """Look at a state folder on a disk with so much room."""

    def look(made: Made) -> list[CheckRow]:
        real = os.statvfs
        room = list(real("/"))
        room[0:5] = [4096, 4096, 1 << 30, monkeypatch_free // 4096, monkeypatch_free // 4096]
        room[5:8] = [1 << 20, files_free, files_free]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "statvfs", lambda _: os.statvfs_result(room))
            return made.rows("state_disk")

    return look


def _nothing(made: Made) -> None:
    """The disk is what is wrong."""


wrong("state_disk", "failure", "no room: 31 MiB", "df -h", _with_room(31 << 20, 9999))(_nothing)
wrong("state_disk", "warning", "little room: 511 MiB", "df -h", _with_room(511 << 20, 9999))(_nothing)
wrong("state_disk", "failure", "and 63 files", "df -i", _with_room(9 << 30, 63))(_nothing)
wrong("state_disk", "warning", "and 1000 files", "df -i", _with_room(9 << 30, 1000))(_nothing)


# kernel


@wrong("clock", "failure", "the clock says 1970-01-01", "timedatectl set-ntp true")
def _before_the_release(made: Made) -> None:
    made.changes["now"] = 4711.0


@wrong("clock", "warning", "was written 48 hours after that", "timedatectl set-ntp true")
def _set_back(made: Made) -> None:
    later = time.time() + 48 * 3600 + 60
    os.utime(made.paths.database, (later, later))


def _clock_of(error: float | None) -> Callable[[Made], list[CheckRow]]:
    return lambda made: list(kernel.clock_synchronised(made.machine, lambda: error))


wrong("clock_synchronised", "warning", "nothing keeps the clock right", "set-ntp", _clock_of(16.0))(_nothing)


@wrong("clock_synchronised", "warning", "nothing keeps the clock right", "set-ntp", _clock_of(None))
def _says_no(made: Made) -> None:
    made.programs.answer("timedatectl", out="no")


@wrong("clock_synchronised", "warning", "not known: Failed to parse", "timedatectl show", _clock_of(None))
def _cannot_say(made: Made) -> None:
    made.programs.answer("timedatectl", err="Failed to parse bus message", status=1)


def _inotify_of(number: int) -> Callable[[Made], list[CheckRow]]:
    return lambda made: list(kernel.inotify(made.machine, lambda: number))


wrong("inotify", "failure", "all 128 inotify instances", "sysctl", _inotify_of(errno.EMFILE))(_nothing)
wrong("inotify", "warning", "not known: no inotify instance", "grep", _inotify_of(errno.EPERM))(_nothing)


@wrong("inotify", "warning", "8191 watches are few", "fs.inotify.max_user_watches=")
def _few_watches(made: Made) -> None:
    made.write("proc/sys/fs/inotify/max_user_watches", "8191")


@wrong("inotify", "warning", "16 inotify instances", "fs.inotify.max_user_instances=")
def _few_instances(made: Made) -> None:
    made.write("proc/sys/fs/inotify/max_user_instances", "16")


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_what_is_wrong_is_told_with_what_mends_it(one: Wrong) -> None:
    is_told(one)
