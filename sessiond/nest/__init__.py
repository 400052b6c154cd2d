"""A private systemd for machines whose PID 1 is another program (containers, CI).

``up`` boots systemd with journald, dbus, logind and one user's manager in namespaces of their
own, over the live file system; ``down`` removes it without rest; ``exec_argv`` and ``run`` run
programs inside. Synchronous, standard library only.
"""

from sessiond.nest.enter import exec_argv, outer_pids, run, user_environment
from sessiond.nest.lifecycle import Nest, Options, down, power_cut, status, up
from sessiond.nest.record import Record, record_folder
from sessiond.nest.requirements import manager_running

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
