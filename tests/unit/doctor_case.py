"""Machines made up for the doctor, ways to spoil them, and what he then says, from which line of his."""

from __future__ import annotations

import functools
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sessiond
from sessiond import config, doctor
from sessiond.doctor import (
    CHECKS,
    CheckRow,
    Machine,
    agents,
    examine,
    files,
    installation,
    journal,
    kernel,
    manager,
)
from sessiond.doctor.row import Status
from sessiond.errors import SessiondError
from sessiond.paths import Paths

MODULES: tuple[ModuleType, ...] = (doctor, agents, files, installation, journal, kernel, manager)
# What makes a row that somebody has to act on.
SPEAKERS = ("failure", "warning", "unknown")

MACHINE_ID = "0123456789abcdef0123456789abcdef"
VERSION = "252.38-1~deb12u1"
# Seconds after which a program that hangs is given up; those that answer beside it do within them.
NEVER = 1.5
ASKS_MANAGER = "show --property=Version"
ASKS_UNITS = "--property=Id,LoadState"
ASKS_RUNNING = "--property=LoadState,ActiveState"


@dataclass
class Programs:
    """Stand-ins for systemctl and the like: each answers what was last said for the words it is given."""

    folder: Path
    cases: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)

    def answer(self, program: str, words: str = "", out: str = "", err: str = "", status: int = 0) -> None:
        """Have a program answer so when its arguments hold the words."""
        do = f"printf '%s\\n' {shlex.quote(out)}; printf '%s' {shlex.quote(err)} >&2; exit {status}"
        self._add(program, words, do)

    def hang(self, program: str, words: str = "") -> None:
        """Have it never answer."""
        self._add(program, words, "exec sleep 600")

    def also(self, program: str, do: str) -> None:
        """Have it do something before it answers."""
        self.before[program] = do
        self._write(program)

    def _add(self, program: str, words: str, do: str) -> None:
        case = f"*{shlex.quote(words) if words else ''}*) {do};;"
        self.cases.setdefault(program, []).insert(0, case)
        self._write(program)

    def _write(self, program: str) -> None:
        cases = "\n".join(self.cases[program])
        before = self.before.get(program, "")
        script = f'#!/bin/sh\n{before}\ncase "$*" in\n{cases}\nesac\nexit 3\n'
        (self.folder / program).write_text(script)
        (self.folder / program).chmod(0o755)


@dataclass
class Made:
    """A machine that is well, and ways to spoil it."""

    folder: Path
    programs: Programs
    environ: dict[str, str]
    sockets: ExitStack
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def runtime(self) -> Path:
        return self.root / f"run/user/{os.getuid()}"

    @property
    def paths(self) -> Paths:
        return Paths.from_environment(self.environ)

    @property
    def machine(self) -> Machine:
        """The machine as it is now."""
        usual: dict[str, Any] = {
            "paths": self.paths,
            "environ": self.environ,
            "settings": None,
            "socket": self.paths.socket,
            "root": self.root,
            "deadline": 60.0,
        }
        with suppress(SessiondError):
            usual["settings"] = config.load(self.paths.config_file, self.environ)
        return Machine(**(usual | self.changes))

    def rows(self, *names: str) -> list[CheckRow]:
        """The rows of some checks, or of all."""
        machine = self.machine
        if not names:
            return examine(machine)
        return [row for name in names for row in CHECKS[name](machine)]

    def write(self, path: str, text: str = "") -> Path:
        """Write a file of the system's."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def listen(self, path: Path, mode: int = 0o600) -> socket.socket:
        """Serve on a socket."""
        one = self.sockets.enter_context(socket.socket(socket.AF_UNIX))
        one.bind(os.fspath(path))
        path.chmod(mode)
        one.listen(8)
        return one

    def units(self, folder: Path | None = None, /, **changes: str) -> str:
        """What systemctl shows of the three units, each with these properties."""
        blocks = []
        folder = folder or self.home / ".config/systemd/user"
        for name in installation.UNITS:
            usual = {
                "Id": name,
                "LoadState": "loaded",
                "LoadError": "",
                "UnitFileState": "enabled",
                "FragmentPath": str(folder / name),
                "NeedDaemonReload": "no",
            }
            blocks.append("\n".join(f"{key}={value}" for key, value in (usual | changes).items()))
        return "\n\n".join(blocks)

    def running(self, **changes: str) -> str:
        """What systemctl shows of the supervisor's unit while it runs."""
        usual = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "Result": "success"}
        usual |= {"NRestarts": "0", "MainPID": "4711"}
        return "\n".join(f"{key}={value}" for key, value in (usual | changes).items())

    def supervisor(self, **changes: str) -> None:
        self.programs.answer("systemctl", ASKS_RUNNING, self.running(**changes))

    def own_program(self, text: str, mode: int = 0o755) -> Path:
        """Write the program that the launcher leads to."""
        program = self.folder / "venv/bin/sessiond"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(mode)
        return program


@contextmanager
def made_machine() -> Iterator[Made]:
    """A machine that is well, taken away afterwards."""
    with tempfile.TemporaryDirectory(prefix="doctor-") as name, ExitStack() as sockets:
        folder = Path(name)
        environ = {
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "XDG_RUNTIME_DIR": str(folder / f"root/run/user/{os.getuid()}"),
        }
        (folder / "bin").mkdir()
        made = Made(folder, Programs(folder / "bin"), environ, sockets)
        _make_well(made)
        yield made


def _make_well(made: Made) -> None:
    group = f"user.slice/user-{os.getuid()}.slice/user@{os.getuid()}.service"
    controllers = "cpuset cpu io memory pids"
    made.write(
        "proc/self/mountinfo", "24 1 0:2 / / rw - ext4 /dev/sda rw\n" + mount("/sys/fs/cgroup", "cgroup2")
    )
    made.write("proc/sys/kernel/random/boot_id", "01234567-89ab-cdef-0123-456789abcdef\n")
    made.write("proc/sys/fs/inotify/max_user_instances", "128\n")
    made.write("proc/sys/fs/inotify/max_user_watches", "65536\n")
    made.write("sys/fs/cgroup/cgroup.controllers", controllers)
    made.write(f"sys/fs/cgroup/{group}/cgroup.controllers", controllers)
    made.write(f"sys/fs/cgroup/{group}/init.scope/cgroup.procs", "17\n18\n")
    open_files(made, "524288")
    made.write("etc/machine-id", MACHINE_ID)
    for folder in ("run/systemd/system", f"var/log/journal/{MACHINE_ID}"):
        (made.root / folder).mkdir(parents=True)
    (made.runtime / "systemd").mkdir(parents=True)
    made.runtime.chmod(0o700)
    made.listen(made.runtime / "systemd/private")
    made.listen(made.runtime / "bus")
    paths = made.paths
    paths.runtime.mkdir(mode=0o700)
    made.listen(paths.socket)
    for own in (paths.state, paths.data, paths.config, made.home / ".config/systemd/user", made.home / "src"):
        own.mkdir(parents=True, exist_ok=True)
    paths.database.write_bytes(b"SQLite format 3\0and more")
    paths.database.chmod(0o600)
    paths.launcher.symlink_to(made.own_program(f"#!/bin/sh\necho sessiond {sessiond.__version__}\n"))
    for unit in (Path(sessiond.__file__).parents[1] / "units").glob("sessiond*"):
        text = unit.read_text().replace("@LAUNCHER@", str(paths.launcher))
        (made.home / ".config/systemd/user" / unit.name).write_text(text)
    say = made.programs.answer
    say("systemctl", "--version", f"systemd 252 ({VERSION})\n+PAM +AUDIT")
    say("systemctl", ASKS_MANAGER, f"Version={VERSION}\nControlGroup=/{group}\nSystemState=running")
    say("systemctl", ASKS_UNITS, made.units())
    say(
        "systemctl",
        "--property=ExecStart",
        f"ExecStart={{ path={paths.launcher} ; argv[]={paths.launcher} ; }}",
    )
    say("systemctl", ASKS_RUNNING, made.running())
    say("systemctl", "systemd-journald", "ActiveState=active")
    say("systemctl", "dbus.socket", "LoadState=loaded")
    say("loginctl", "", "yes")
    say("journalctl", "", "a line")
    say("busctl", "", f's "{VERSION}"')
    say("timedatectl", "", "yes")


def mount(place: str, kind: str) -> str:
    """A line of mountinfo."""
    return f"30 24 0:26 / {place} rw,nosuid shared:9 - {kind} {kind} rw,nsdelegate\n"


def open_files(made: Made, hard: str) -> None:
    """Let the user manager have so many open files, in the kernel's own table."""
    made.write(
        "proc/17/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max processes             127235               127235               processes \n"
        f"Max open files            1024                 {hard:<20} files     \n",
    )


def manager_down(made: Made) -> None:
    """Have no user manager answer."""
    err = "Failed to connect to bus: Connection refused"
    made.programs.answer("systemctl", ASKS_MANAGER, err=err, status=1)


# ---- what can be wrong ----------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """One way to spoil a machine, and the row that must tell it."""

    name: str
    spoil: Callable[[Made], Any]
    check: str
    status: Status
    detail: str
    fix: str
    look: Callable[[Made], list[CheckRow]] | None


class Table(list[Wrong]):
    """Ways to spoil a machine."""

    def wrong(
        self,
        check: str,
        status: str,
        detail: str,
        fix: str,
        look: Callable[[Made], list[CheckRow]] | None = None,
    ) -> Callable[[Callable[[Made], Any]], Callable[[Made], Any]]:
        """Enter one: the check that tells it, how, and parts of what it says."""

        def enter(spoil: Callable[[Made], Any]) -> Callable[[Made], Any]:
            name = f"{check}-{spoil.__name__.strip('_')}"
            self.append(Wrong(name, spoil, check, Status(status), detail, fix, look))
            return spoil

        return enter


@dataclass(frozen=True)
class Outcome:
    """What a check said, and the (module, line) it was said from."""

    rows: tuple[CheckRow, ...]
    lines: frozenset[tuple[str, int]]


@functools.cache
def outcome(one: Wrong) -> Outcome:
    """Spoil a machine and have it looked at."""
    lines: set[tuple[str, int]] = set()
    with made_machine() as made, pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name in SPEAKERS:
                if hasattr(module, name):
                    patch.setattr(module, name, _noting(getattr(module, name), lines))
        one.spoil(made)
        rows = one.look(made) if one.look else made.rows(one.check.removesuffix("_aside"))
    return Outcome(tuple(rows), frozenset(lines))


def _noting(speak: Callable[..., CheckRow], lines: set[tuple[str, int]]) -> Callable[..., CheckRow]:
    def noted(*words: str) -> CheckRow:
        caller = sys._getframe(1)
        lines.add((caller.f_globals["__name__"], caller.f_lineno))
        return speak(*words)

    return noted


def is_told(one: Wrong) -> None:
    """Fail unless the row that must tell it does, with a command that a shell can read."""
    rows = outcome(one).rows
    told = [row for row in rows if row.check == one.check and one.detail in row.detail]
    assert told, rows
    assert told[0].status is one.status, told
    assert one.fix in told[0].fix, told
    assert subprocess.run(["sh", "-n", "-c", told[0].fix]).returncode == 0, told[0].fix
    assert "\n" not in told[0].fix
