"""Looks at what sessiond stands on, and says what is well, what is not, and what mends it.

Synchronous, and of use with and without a supervisor: the supervisor
answers RunDoctor with it from a thread, `sessionctl doctor` calls it directly.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from sessiond.config import Settings
from sessiond.doctor import agents, files, installation, journal, kernel, manager
from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, Status, unknown
from sessiond.errors import SessiondError
from sessiond.paths import Paths

__all__ = ["CHECKS", "CheckRow", "Machine", "Status", "checks", "examine"]

Check = Callable[[Machine], Iterable[CheckRow]]

# In the order they are shown: what the rest stands on comes first. The name is that of its rows.
CHECKS: dict[str, Check] = {
    "runtime_dir": manager.runtime_dir,
    "user_manager": manager.user_manager,
    "bus": manager.bus,
    "linger": manager.linger,
    "systemd_version": manager.systemd_version,
    "cgroup_version": manager.cgroup_version,
    "controllers": manager.controllers,
    "journal_persistent": journal.journal_persistent,
    "journal_readable": journal.journal_readable,
    "units": installation.units,
    "launcher": installation.launcher,
    "supervisor": installation.supervisor,
    "socket": installation.socket,
    "config": files.settings,
    "database": files.database,
    "runtime_folder": files.runtime_folder,
    "state_folder": files.state_folder,
    "data_folder": files.data_folder,
    "config_folder": files.config_folder,
    "runtime_disk": files.runtime_disk,
    "state_disk": files.state_disk,
    "discovery_roots": files.discovery_roots,
    "agents": agents.agents,
    "terminal_emulator": agents.terminal_emulator,
    "recording_disk": agents.recording_disk,
    "recording_bounds": agents.recording_bounds,
    "open_files": agents.open_files,
    "inotify": kernel.inotify,
    "clock": kernel.clock,
    "clock_synchronised": kernel.clock_synchronised,
}
# Most of a check is waiting for a program; together they take as long as the slowest.
_AT_ONCE = 8
_FOR_SYSTEMD = re.compile(r"\b(systemctl|journalctl|loginctl|busctl)\b")


def checks(
    paths: Paths, environ: Mapping[str, str], settings: Settings | None, socket: Path | None = None
) -> list[CheckRow]:
    """Every row of every check; never raises for what is wrong with the machine.

    ``settings`` is None where they cannot be read, which a row tells; ``socket`` is the supervisor's
    where it is not the usual one. Takes seconds where programs hang, else a fraction of one.
    """
    return examine(Machine(paths, environ, settings, socket or paths.socket))


def examine(machine: Machine) -> list[CheckRow]:
    """Every row of every check of this machine, in the order of the list."""
    _ = machine.manager  # asked once, before threads would each ask
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
        found = pool.map(lambda name: _looked(name, CHECKS[name], machine), CHECKS)
        rows = [row for rows in found for row in rows]
    return [replace(row, fix=_from_outside(row.fix)) for row in rows] if machine.in_nest else rows


def _from_outside(fix: str) -> str:
    """A command for a nest's systemd as it is given outside of the nest, where people are."""
    if not _FOR_SYSTEMD.search(fix):
        return fix
    enter = "sessionctl nest exec" + (" --root" if fix.startswith("sudo ") else "")
    command = fix.removeprefix("sudo ")
    simple = not any(sign in command for sign in "|&;>")
    return f"{enter} -- {command if simple else f'sh -c {shlex.quote(command)}'}"


def _looked(name: str, check: Check, machine: Machine) -> list[CheckRow]:
    """The rows of one check; what cannot be looked at is unknown, which is not well."""
    try:
        return list(check(machine))
    except OSError as error:
        return [unknown(name, f"{error.filename or 'looking'}: {error.strerror}", "")]
    except ValueError as error:
        return [unknown(name, f"what it said is not understood: {error}", "")]
    except SessiondError as error:
        return [unknown(name, error.message, error.hint)]
