"""Looks at what sessiond stands on, and says what is well, what is not, and what mends it.

Synchronous, standard library only, and of use with and without a supervisor: the supervisor
answers RunDoctor with it from a thread, `sessionctl doctor` calls it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sessiond.config import Settings
from sessiond.doctor import files, manager
from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, Status, warning
from sessiond.errors import SessiondError
from sessiond.paths import Paths

__all__ = ["CHECKS", "CheckRow", "Machine", "Status", "checks"]

Check = Callable[[Machine], Iterable[CheckRow]]

# In the order they are shown: what the rest stands on comes first.
CHECKS: dict[str, Check] = {
    "user_manager": manager.user_manager,
    "linger": manager.linger,
    "folders": files.folders,
    "disk": files.disk,
    "database": files.database,
}


def checks(paths: Paths, environ: Mapping[str, str], settings: Settings | None) -> list[CheckRow]:
    """Every row of every check; never raises for what is wrong with the machine.

    ``settings`` is None where they cannot be read: then that is a row of its own.
    """
    machine = Machine(paths, environ, settings)
    return [row for name, check in CHECKS.items() for row in _looked(name, check, machine)]


def _looked(name: str, check: Check, machine: Machine) -> list[CheckRow]:
    """The rows of one check; what cannot be looked at is unknown, which is not well."""
    try:
        return list(check(machine))
    except (OSError, SessiondError) as error:
        return [warning(name, f"not known: {error}", "")]
