"""A private systemd for machines whose PID 1 is another program (containers, CI).

``up`` boots systemd with journald, dbus, logind and one user's manager in namespaces of their
own, over the live file system; ``down`` removes it without rest; ``status`` finds the living one;
``exec_argv`` and ``run`` run programs inside. Synchronous, standard library only.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessiond.nest.enter import exec_argv, outer_pids, run, user_environment
    from sessiond.nest.lifecycle import Options, down, power_cut, up
    from sessiond.nest.record import Nest, Record, record_folder, status
    from sessiond.nest.requirements import manager_running

# Asking whether there is a nest is on the way of every command: it loads the record's module alone.
_HOMES = {
    "exec_argv": "enter",
    "outer_pids": "enter",
    "run": "enter",
    "user_environment": "enter",
    "Options": "lifecycle",
    "down": "lifecycle",
    "power_cut": "lifecycle",
    "up": "lifecycle",
    "Nest": "record",
    "Record": "record",
    "record_folder": "record",
    "status": "record",
    "manager_running": "requirements",
}

__all__ = [
    "Nest",
    "Options",
    "Record",
    "down",
    "exec_argv",
    "manager_running",
    "outer_pids",
    "power_cut",
    "record_folder",
    "run",
    "status",
    "up",
    "user_environment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
