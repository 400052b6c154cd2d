"""What the doctor says where agents, their records and their terminals are not well off."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.agents import holes
from sessiond.agents.book import Book
from sessiond.agents.folder import AgentFolder
from sessiond.doctor import CheckRow, agents
from sessiond.init.systemd import units
from sessiond.model.agent import AgentSpec, new_agent_id
from tests.unit.doctor_case import (
    Made,
    Table,
    Wrong,
    is_told,
    made_machine,
    open_files,
)

TABLE = Table()
wrong = TABLE.wrong

SESSION = "0" * 31 + "1"


def _kept(made: Made) -> AgentFolder:
    """An agent in the book of a session."""
    agent = new_agent_id()
    spec = AgentSpec(
        id=agent,
        session=SESSION,
        name="one",
        argv=("true",),
        program=Path("/bin/true"),
        cwd=Path("/"),
        created=datetime.now(UTC),
    )
    return Book(SESSION, made.paths.session_state(SESSION), made.paths.runtime).claim(spec, {}).folder


@wrong("agents", "warning", "is not shown as an agent", "ls -la ")
def _garbage(made: Made) -> None:
    _kept(made).spec.write_text("{")


@wrong("agents", "warning", "is not shown as an agent", "ls -la ")
def _half_gone(made: Made) -> None:
    _kept(made).spec.unlink()


@wrong("agents", "failure", "no agent of this session is shown", "ls -la ")
def _no_folder(made: Made) -> None:
    folder = made.paths.session_state(SESSION)
    folder.mkdir(parents=True)
    (folder / "agents").write_text("")


def _python(made: Made, module: str) -> None:
    """Have another module found in place of the emulator's library."""
    folder = made.folder / "modules"
    folder.mkdir()
    (folder / "pyghostty.py").write_text(module)
    made.environ["PYTHONPATH"] = str(folder)


@wrong("terminal_emulator", "warning", "ImportError: no such library", "pip install --force-reinstall")
def _no_emulator(made: Made) -> None:
    _python(made, "raise ImportError('no such library')")


@wrong("terminal_emulator", "warning", "no emulator here: it ended with -11", "pip install --force-reinstall")
def _emulator_that_crashes(made: Made) -> None:
    _python(
        made,
        "import os, resource, signal; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        "os.kill(os.getpid(), signal.SIGSEGV)",
    )


@wrong("terminal_emulator", "warning", "not known", "sessionctl doctor")
def _no_python(made: Made) -> None:
    made.changes["python"] = str(made.folder / "gone/python")


@wrong("recording_disk", "warning", "not known: the settings cannot be read", "sessionctl config")
def _no_settings(made: Made) -> None:
    made.paths.config_file.write_text("?")


@wrong("recording_disk", "warning", "what agents print is not recorded", "df -h")
def _less_than_asked_for(made: Made) -> None:
    made.paths.config_file.write_text('[recording]\nlow_disk = "1024T"\n')


def _without_holes(made: Made) -> list[CheckRow]:
    def punch(fd: int, start: int, stop: int) -> None:
        assert (os.fstat(fd).st_size, start, stop) == (2 * holes.PAGE, 0, holes.PAGE)
        raise holes.NoPunching

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holes, "punch", punch)
        return made.rows("recording_bounds")


@wrong("recording_bounds", "warning", "cannot free the front of a file", "findmnt", _without_holes)
def _old_file_system(made: Made) -> None:
    """The kernel is what is wrong."""


@wrong("open_files", "warning", "may open 4096 files, and a session daemon asks for 16384", "LimitNOFILE=")
def _few_files(made: Made) -> None:
    open_files(made, "4096")


@wrong("open_files", "warning", "not known: the user manager's limit is not told", "ulimit")
def _no_limit_told(made: Made) -> None:
    made.write("proc/17/limits", "Limit\n")


@pytest.mark.parametrize("one", TABLE, ids=lambda one: one.name)
def test_what_is_wrong_is_told_with_what_mends_it(one: Wrong) -> None:
    is_told(one)


def test_agents_that_can_be_read_are_well_and_left_as_they_are() -> None:
    with made_machine() as made:
        folder = _kept(made)
        before = {path: path.lstat().st_mtime_ns for path in folder.path.rglob("*")}
        [found] = made.rows("agents")
        assert (found.status, found.detail) == ("ok", "agents that are kept: 1")
        assert {path: path.lstat().st_mtime_ns for path in folder.path.rglob("*")} == before


def test_an_unlimited_manager_is_well() -> None:
    with made_machine() as made:
        open_files(made, "unlimited")
        [found] = made.rows("open_files")
        assert found.status == "ok"


def test_records_in_a_folder_that_is_not_there_yet_are_well() -> None:
    with made_machine() as made:
        made.environ["XDG_STATE_HOME"] = str(made.folder / "new/state")
        for check in ("agents", "recording_disk", "recording_bounds"):
            [found] = made.rows(check)
            assert found.status == "ok"
        assert not (made.folder / "new").exists()


def test_as_many_files_as_the_unit_of_a_session_daemon_asks_for() -> None:
    assert agents.OPEN_FILES == units.OPEN_FILES
