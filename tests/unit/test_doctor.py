"""The doctor as a whole: a well machine, no line of his unproven, no machine that he cannot look at."""

from __future__ import annotations

import ast
import inspect
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sessiond.doctor import CHECKS, CheckRow, Machine, checks, row
from sessiond.doctor.row import Status
from sessiond.errors import SessiondError
from sessiond.paths import Paths
from tests.unit import test_doctor_agents, test_doctor_files, test_doctor_installation, test_doctor_manager
from tests.unit.doctor_case import (
    ASKS_MANAGER,
    ASKS_RUNNING,
    MACHINE_ID,
    MODULES,
    SPEAKERS,
    Made,
    Table,
    Wrong,
    is_told,
    made_machine,
    outcome,
)

TABLE = Table()
wrong = TABLE.wrong
TABLES = (
    TABLE,
    test_doctor_agents.TABLE,
    test_doctor_files.TABLE,
    test_doctor_installation.TABLE,
    test_doctor_manager.TABLE,
)


# ---- a well machine -------------------------------------------------------------------------


def test_nothing_is_said_of_a_machine_that_is_well() -> None:
    with made_machine() as made:
        rows = made.rows()
    # Whether somebody keeps the clock of this machine is not made up.
    told = [one for one in rows if one.check != "clock_synchronised" and one.status is not Status.OK]
    assert told == []
    assert [one.check for one in rows] == list(CHECKS)
    assert all(one.detail for one in rows)
    assert not any(one.fix for one in rows if one.status is Status.OK)


def test_a_clock_that_is_kept_is_well() -> None:
    with made_machine() as made:
        for asked in (0.5, None):
            [found] = CHECKS["clock_synchronised"](made.machine, lambda asked=asked: asked)  # type: ignore[call-arg]
            assert found.status is Status.OK


def test_folders_that_will_be_made_are_well() -> None:
    with made_machine() as made:
        made.environ["XDG_STATE_HOME"] = str(made.folder / "new/state")
        [folder] = made.rows("state_folder")
        [database] = made.rows("database")
        assert folder.status is database.status is Status.OK
        assert "not there yet" in folder.detail
        assert not (made.folder / "new").exists()


def test_a_nest_is_well_although_nothing_outlives_it() -> None:
    with made_machine() as made:
        made.write("run/systemd/container", "sessiond-nest\n")
        made.environ["SESSIOND_RUNTIME_DIR"] = str(made.paths.runtime)
        test_doctor_manager.volatile(made)
        test_doctor_installation.runtime_units(made)
        made.programs.answer("systemctl", ASKS_RUNNING, made.running(ActiveState="failed"))
        made.paths.database.chmod(0o644)
        rows = {one.check: one for one in made.rows()}
        found = [rows["journal_persistent"], rows["units"]]
        assert [one.status for one in found] == [Status.OK, Status.OK], found
        assert "as long as the nest" in found[0].detail
        # What mends a nest's systemd is given as one gives it from outside.
        assert rows["supervisor"].fix.startswith("sessionctl nest exec -- journalctl --user-unit=")
        assert rows["database"].fix.startswith("chmod 0600 /")


def test_a_journal_that_was_flushed_is_kept_although_its_place_in_memory_is_left() -> None:
    with made_machine() as made:
        test_doctor_manager.volatile(made)
        later = time.time() + 5
        os.utime(made.write(f"var/log/journal/{MACHINE_ID}/system.journal"), (later, later))
        [found] = made.rows("journal_persistent")
        assert found.status is Status.OK


def test_looking_leaves_nothing_behind() -> None:
    with made_machine() as made:
        before = sorted(made.folder.rglob("*"))
        made.rows()
        assert sorted(made.folder.rglob("*")) == before


# ---- every line -----------------------------------------------------------------------------


@wrong("inotify", "warning", "what it said is not understood", "", lambda made: _all(made, "inotify"))
def _nonsense(made: Made) -> None:
    made.write("proc/sys/fs/inotify/max_user_watches", "many")


@wrong("inotify", "warning", "No such file or directory", "", lambda made: _all(made, "inotify"))
def _no_proc(made: Made) -> None:
    (made.root / "proc/sys/fs/inotify/max_user_watches").unlink()


@wrong("config", "warning", "not known: out of order", "mend it", lambda made: _all(made, "config"))
def _an_error_of_ours(made: Made) -> None:
    def check(_: Machine) -> Iterator[CheckRow]:
        raise SessiondError("out_of_order", "out of order", hint="mend it")

    patch = made.sockets.enter_context(pytest.MonkeyPatch.context())
    patch.setitem(CHECKS, "config", check)


def _all(made: Made, check: str) -> list[CheckRow]:
    return [one for one in made.rows() if one.check == check]


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_what_is_wrong_is_told_with_what_mends_it(one: Wrong) -> None:
    is_told(one)


def _calls(module: ModuleType) -> Iterator[tuple[int, int]]:
    """First and last line of each place where a module makes a row to act on."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in SPEAKERS:
            yield node.lineno, node.end_lineno or node.lineno


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_failure_and_warning_is_provoked(module: ModuleType) -> None:
    said = {
        line
        for table in TABLES
        for one in table
        for name, line in outcome(one).lines
        if name == module.__name__
    }
    calls = list(_calls(module))
    assert calls
    never = [first for first, last in calls if not said & set(range(first, last + 1))]
    assert never == [], f"no test provokes what {module.__name__} says in these lines"


# ---- the whole ------------------------------------------------------------------------------


def test_programs_that_hang_are_waited_for_together_and_nothing_is_called_well() -> None:
    with made_machine() as made:
        for program in ("systemctl", "loginctl", "journalctl", "busctl", "timedatectl"):
            made.programs.hang(program)
        made.changes["deadline"] = 5.0
        began = time.monotonic()
        rows = {one.check: one for one in made.rows()}
        took = time.monotonic() - began
    # One after the other they would take nine times the deadline.
    assert took < 9 * 5.0
    asked = ("user_manager", "bus", "linger", "systemd_version", "controllers", "units", "supervisor")
    for name in (*asked, "journal_readable"):
        assert rows[name].status is Status.WARNING, rows[name]
        assert "not known" in rows[name].detail
        assert rows[name].fix


def test_a_machine_with_nothing_of_it_can_be_looked_at(tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path / "home"),
        "PATH": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    rows = checks(Paths.from_environment(environ), environ, None)
    assert {one.check for one in rows} == set(CHECKS)
    assert not (tmp_path / "home").exists()


def test_a_program_is_asked_through_the_managers_own_bus_and_without_what_is_ours_alone() -> None:
    with made_machine() as made:
        made.environ |= {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere", "NOTIFY_SOCKET": "@x"}
        del made.environ["XDG_RUNTIME_DIR"]
        text = made.machine.ask("sh", "-c", "env").out
        assert f"DBUS_SESSION_BUS_ADDRESS=unix:path={made.runtime}/bus" in text
        assert f"XDG_RUNTIME_DIR={made.runtime}" in text
        assert "NOTIFY_SOCKET" not in text


def test_an_administrators_command_is_for_him_alone() -> None:
    with made_machine() as made:
        made.changes["uid"] = 0
        assert made.machine.as_root("a && b") == "a && b"
        made.changes["uid"] = 1000
        assert made.machine.as_root("a 'b c'") == "sudo a 'b c'"
        assert made.machine.as_root("a > 'b c'") == """sudo sh -c 'a > '"'"'b c'"'"''"""


def test_names_that_are_no_utf8_can_be_sent() -> None:
    shown = row.failure("x", os.fsdecode(b"/a\xff"), os.fsdecode(b"ls /a\xff"))
    assert (shown.detail.encode(), shown.fix.encode()) == (b"/a\\udcff", b"ls /a\\udcff")


def test_the_manager_is_asked_once() -> None:
    with made_machine() as made:
        log = made.folder / "asked"
        made.programs.also("systemctl", f'echo "$*" >> {log}')
        made.rows()
        asked = [line for line in log.read_text().splitlines() if ASKS_MANAGER in line]
        assert len(asked) == 1
