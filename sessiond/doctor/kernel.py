"""The kernel: its clock, and how many files it watches for one user."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning

# No machine can rightly believe to be in the time before this was written.
RELEASED = datetime(2025, 1, 1, tzinfo=UTC)
# Seconds by which a file may be ahead: other machines write to shared disks.
AHEAD = 3600.0
# Seconds of possible error from which the kernel's clock is not kept by anybody, as timedatectl has it.
_UNKEPT = 16.0

INSTANCES, WATCHES = 64, 8192


# ---- clock ----------------------------------------------------------------------------------


def clock(machine: Machine) -> Iterator[CheckRow]:
    """Whether the clock may be right: not before this release, and not before what was written."""
    check = "clock"
    fix = machine.as_root("timedatectl set-ntp true")
    now = datetime.fromtimestamp(machine.now, UTC)
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    paths = machine.paths
    ahead = [
        (seconds, path)
        for path in (paths.database, paths.state, paths.launcher, paths.config_file, paths.lock)
        if (seconds := _mtime(str(path)) - machine.now) > AHEAD
    ]
    if now < RELEASED:
        yield failure(check, f"the clock says {shown}: times of sessions, logs and events are wrong", fix)
    elif ahead:
        seconds, path = max(ahead)
        text = f"the clock says {shown}, and {path} was written {seconds / 3600:.0f} hours after that"
        yield warning(check, text, fix)
    else:
        yield ok(check, shown)


def _mtime(path: str) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0


class _Timex(ctypes.Structure):
    """The head of the kernel's struct timex, with room for the rest."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 512),
    ]


def clock_error() -> float | None:
    """How wrong the kernel reckons its clock may be, in seconds; None where it may not be asked."""
    state = _Timex()
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    except (OSError, AttributeError):
        return None
    return None if answer < 0 else state.maxerror / 1e6


def clock_synchronised(
    machine: Machine, ask_kernel: Callable[[], float | None] = clock_error
) -> Iterator[CheckRow]:
    """Whether something keeps the clock right."""
    check = "clock_synchronised"
    error = ask_kernel()
    if error is None:
        # A sandbox may keep us from asking the kernel; timedated asks it for us.
        asked = machine.ask("timedatectl", "show", "--property=NTPSynchronized", "--value")
        if asked.out not in ("yes", "no"):
            yield unknown(check, asked.said, asked.command)
            return
        error = 0.0 if asked.out == "yes" else _UNKEPT
    if error >= _UNKEPT:
        text = "nothing keeps the clock right: times of sessions, logs and events may be wrong"
        yield warning(check, text, machine.as_root("timedatectl set-ntp true"))
    else:
        yield ok(check, "the clock is kept right")


# ---- inotify --------------------------------------------------------------------------------


def take_instance() -> int:
    """0 where one more inotify instance can be had, or the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        return ctypes.get_errno()
    os.close(descriptor)
    return 0


def inotify(machine: Machine, take_one: Callable[[], int] = take_instance) -> Iterator[CheckRow]:
    """Whether changes of workspaces can be watched for."""
    check = "inotify"
    folder = "/proc/sys/fs/inotify"
    instances = int(machine.read(f"{folder}/max_user_instances"))
    watches = int(machine.read(f"{folder}/max_user_watches"))
    lines = "fs.inotify.max_user_instances=512\\nfs.inotify.max_user_watches=524288\\n"
    file = "/etc/sysctl.d/60-inotify.conf"
    fix = machine.as_root(f"printf '{lines}' > {file} && sysctl -p {file}")
    number = take_one()
    if number == errno.EMFILE:
        text = f"all {instances} inotify instances of {machine.user} are in use: changes go unnoticed"
        yield failure(check, text, fix)
    elif number:
        yield unknown(check, f"no inotify instance to be had: {os.strerror(number)}", f"grep . {folder}/*")
    elif watches < WATCHES or instances < INSTANCES:
        text = f"{instances} inotify instances and {watches} watches are few: changes may go unnoticed"
        yield warning(check, text, fix)
    else:
        yield ok(check, f"{instances} inotify instances and {watches} watches for each user")
