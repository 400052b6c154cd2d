"""What `sessionctl install` made, and what runs of it: units, launcher, supervisor, socket."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import sessiond
from sessiond.doctor.machine import Answer, Machine, Silence
from sessiond.doctor.manager import needs_manager
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning
from sessiond.doctor.sockets import connect
from sessiond.errors import InvalidArgument
from sessiond.model.unit import ROOT_SLICE, SUPERVISOR_UNIT
from sessiond.paths import check_socket_path

INSTALL = "sessionctl install"
LOOK = f"journalctl --user-unit={SUPERVISOR_UNIT} -n 50"
TEMPLATE = "sessiond@.service"
UNITS = (SUPERVISOR_UNIT, TEMPLATE, ROOT_SLICE)
# A template is asked for through an instance; this one is nobody's.
_NOBODY = TEMPLATE.replace("@", f"@{'0' * 32}")
_PLACEHOLDER = "@LAUNCHER@"
_UNIT_PROPERTIES = "Id,LoadState,LoadError,UnitFileState,FragmentPath,NeedDaemonReload"
# A supervisor that came back so often since it was started is in trouble, although it runs.
MANY_RESTARTS = 5
# Importing takes its time on a busy machine with a cold disk.
_VERSION_PATIENCE = 4


# ---- units ----------------------------------------------------------------------------------


def units(machine: Machine) -> Iterator[CheckRow]:
    """Whether the manager has our units, as this release writes them, and starts the supervisor at boot."""
    check = "units"
    if row := needs_manager(machine, check):
        yield row
        return
    answer = machine.systemctl("show", f"--property={_UNIT_PROPERTIES}", SUPERVISOR_UNIT, _NOBODY, ROOT_SLICE)
    blocks = answer.blocks()
    if not answer.good or len(blocks) != len(UNITS):
        yield unknown(check, answer.said, answer.command)
        return
    rows = [row for name, one in zip(UNITS, blocks, strict=True) if (row := _unit_fault(check, name, one))]
    if not rows and (row := _enablement(check, machine, blocks[0])):
        rows = [row]
    yield from rows or [ok(check, f"installed: {blocks[0]['FragmentPath']}")]


def _unit_fault(check: str, name: str, shown: dict[str, str]) -> CheckRow | None:
    state, path = shown.get("LoadState"), shown.get("FragmentPath", "")
    if state == "masked":
        return failure(check, f"{name} is masked", f"systemctl --user unmask {name}")
    # A slice is loaded also where it has no file.
    if state == "not-found" or not path:
        return failure(check, f"{name} is not installed", INSTALL)
    if state != "loaded":
        return failure(check, f"{path} cannot be used: {shown.get('LoadError') or state}", INSTALL)
    if shown.get("NeedDaemonReload") == "yes":
        text = f"{path} was changed after systemd had read it"
        return warning(check, text, "systemctl --user daemon-reload")
    if not _as_released(name, Path(path)):
        return warning(check, f"{path} is not as this release ({sessiond.__version__}) writes it", INSTALL)
    return None


def _as_released(name: str, path: Path) -> bool:
    """Whether a unit file is ours, whatever the launcher's path in it; changes belong in drop-ins."""
    source = _source(name)
    if source is None:
        return True
    parts = map(re.escape, source.split(_PLACEHOLDER))
    return re.fullmatch(".+".join(parts), path.read_text(errors="replace")) is not None


def _source(name: str) -> str | None:
    """A unit file as this copy of sessiond has it: beside its modules, or in the checkout."""
    here = Path(sessiond.__file__).resolve().parent
    for folder in (here / "_units", here.parent / "units"):
        if (folder / name).is_file():
            return (folder / name).read_text()
    return None


def _enablement(check: str, machine: Machine, supervisor: dict[str, str]) -> CheckRow | None:
    path, state = supervisor["FragmentPath"], supervisor.get("UnitFileState", "")
    if Path(path).is_relative_to(machine.runtime):
        if machine.in_nest:
            return ok(check, f"installed for as long as the nest lives: {path}")
        text = f"installed until the user manager ends ({path}): no session starts at boot"
        return warning(check, text, INSTALL)
    if state != "enabled":
        text = f"{SUPERVISOR_UNIT} is {state or 'not enabled'}: no session starts at boot"
        return warning(check, text, f"systemctl --user enable {SUPERVISOR_UNIT}")
    return None


# ---- launcher -------------------------------------------------------------------------------


def launcher(machine: Machine) -> Iterator[CheckRow]:
    """Whether what units start through leads to a program that runs, of this release."""
    check = "launcher"
    started = _started_by_unit(machine)
    link = started or machine.paths.launcher
    if started and started != machine.paths.launcher and not started.is_relative_to(machine.runtime):
        text = f"{SUPERVISOR_UNIT} starts {started}, not the launcher {machine.paths.launcher}"
        yield warning(check, text, INSTALL)
    if not os.path.lexists(link):
        yield failure(check, f"{link} is missing: no unit can start", INSTALL)
        return
    target = Path(os.path.realpath(link))
    if not target.is_file():
        yield failure(check, f"{link} leads to {target}, which is no file: no unit can start", INSTALL)
    elif not os.access(target, os.X_OK):
        fix = f"chmod u+x {shlex.quote(str(target))}"
        yield failure(check, f"{target} may not be executed: no unit can start", fix)
    else:
        answer = machine.ask(str(link), "--version", deadline=machine.deadline * _VERSION_PATIENCE)
        yield _version(check, link, target, answer)


def _started_by_unit(machine: Machine) -> Path | None:
    """The program in the supervisor's unit; None where no unit names one."""
    if not machine.manager.good:
        return None
    answer = machine.systemctl("show", "--property=ExecStart", SUPERVISOR_UNIT)
    path = re.match(r"ExecStart=\{ path=(/.*?) ; argv\[\]=", answer.out)
    return Path(path[1]) if path else None


def _version(check: str, link: Path, target: Path, answer: Answer) -> CheckRow:
    if answer.silence is Silence.HUNG:
        return unknown(check, answer.said, answer.command)
    if not answer.good:
        text = f"{target} does not run, so no unit can start: {answer.said}"
        interpreter = _interpreter(target)
        if interpreter and not os.access(interpreter, os.X_OK):
            text = f"the interpreter of {target} is gone, so no unit can start: {interpreter}"
        return failure(check, text, INSTALL)
    version = answer.out.removeprefix("sessiond ")
    if version != sessiond.__version__:
        text = f"{link} starts sessiond {version}, and this is {sessiond.__version__}"
        return warning(check, text, INSTALL)
    return ok(check, f"{link} starts sessiond {version} ({target})")


def _interpreter(program: Path) -> str:
    """The interpreter that a script names in its first line; empty for anything else."""
    with program.open("rb") as file:
        first = file.readline(4096)
    words = first.removeprefix(b"#!").split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


# ---- what runs ------------------------------------------------------------------------------


def supervisor(machine: Machine) -> Iterator[CheckRow]:
    """Whether the supervisor's unit runs, and stays up."""
    check = "supervisor"
    if row := needs_manager(machine, check):
        yield row
        return
    names = "LoadState,ActiveState,SubState,Result,NRestarts,MainPID"
    answer = machine.systemctl("show", f"--property={names}", SUPERVISOR_UNIT)
    if not answer.good:
        yield unknown(check, answer.said, answer.command)
        return
    shown = answer.properties()
    state, restarts = shown.get("ActiveState", ""), int(shown.get("NRestarts") or 0)
    if state == "failed":
        yield failure(check, f"{SUPERVISOR_UNIT} has failed: {shown.get('Result')}", LOOK)
    elif shown.get("SubState", "").startswith("auto-restart"):
        text = f"{SUPERVISOR_UNIT} does not stay up: {restarts} restarts, {shown.get('Result')}"
        yield failure(check, text, LOOK)
    elif state != "active":
        fix = "sessionctl up" if shown.get("LoadState") == "loaded" else INSTALL
        yield failure(check, f"{SUPERVISOR_UNIT} is {state or 'unknown'}", fix)
    elif restarts >= MANY_RESTARTS:
        text = f"{SUPERVISOR_UNIT} is active, after {restarts} restarts by systemd since it was started"
        yield warning(check, text, LOOK)
    else:
        yield ok(check, f"{SUPERVISOR_UNIT} is active (pid {shown.get('MainPID')})")


def socket(machine: Machine) -> Iterator[CheckRow]:
    """Whether the supervisor's socket is there, ours alone, and answers."""
    check, path = "socket", machine.socket
    up = "sessionctl up" if machine.manager.good else machine.manager_remedy
    quoted = shlex.quote(str(path))
    try:
        check_socket_path(path)
    except InvalidArgument as error:
        yield failure(check, error.message, f"export SESSIOND_RUNTIME_DIR={machine.usual_runtime}/sessiond")
        return
    folder_fault = _fault(machine, path.parent, stat.S_ISDIR, "folder", 0o700)
    if folder_fault:
        yield failure(check, *folder_fault)
    if not os.path.lexists(path):
        yield failure(check, f"there is no socket at {path}", up)
        return
    fault = _fault(machine, path, stat.S_ISSOCK, "socket", 0o600)
    if fault:
        yield failure(check, *fault)
        return
    refused = connect(path)
    if refused == "nobody listens on it":
        yield failure(check, f"{path} was left behind: {refused}", up)
    elif refused:
        yield failure(check, f"{path}: {refused}", f"ls -l {quoted}; {LOOK}")
    elif not folder_fault:
        yield ok(check, f"{path} answers, and only {machine.user} can reach it")


def _fault(
    machine: Machine, path: Path, is_kind: Callable[[int], bool], word: str, mode: int
) -> tuple[str, str] | None:
    """What is wrong with a file that must be ours alone, and what mends it; None where all is well."""
    quoted = shlex.quote(str(path))
    away = f"mv {quoted} {shlex.quote(f'{path}.aside')}"
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    if not is_kind(info.st_mode):
        return f"{path} is no {word}", away
    if info.st_uid != machine.uid:
        return f"{path} belongs to uid {info.st_uid}, not to {machine.user}", machine.as_root(away)
    found = stat.S_IMODE(info.st_mode)
    if found != mode:
        return f"{path} has mode {found:04o}, not {mode:04o}", f"chmod {mode:04o} {quoted}"
    return None
