"""The user's manager: the way to it, whether it answers, for how long it lives, what it was given."""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from sessiond.doctor.machine import Machine, Silence, bus_address
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning
from sessiond.doctor.sockets import connect

# FDPOLL=0, without which an agent's last words can be lost, and FreezeUnit.
OLDEST_SYSTEMD = 246
# What limits need; io is asked for by few, and few distributions delegate it.
CONTROLLERS = {"cpu": "CPUQuota, CPUWeight", "memory": "MemoryMax, MemoryHigh", "pids": "TasksMax"}
_STATES = ("initializing", "starting", "running", "degraded", "maintenance")


def runtime_dir(machine: Machine) -> Iterator[CheckRow]:
    """XDG_RUNTIME_DIR: set, a folder, ours, private, and the manager's."""
    check = "runtime_dir"
    folder, usual = machine.runtime, machine.usual_runtime
    named = machine.environ.get("XDG_RUNTIME_DIR", "")
    told = f"XDG_RUNTIME_DIR is {named}" if named else "XDG_RUNTIME_DIR is not set"
    if named and not named.startswith("/"):
        told += ", which is no absolute path and is ignored"
    mend = f"export XDG_RUNTIME_DIR={shlex.quote(str(usual))}"
    if _manager_in(usual) and not _manager_in(folder):
        yield failure(check, f"{told}, and the user manager is not there but at {usual}", mend)
        return
    try:
        info = folder.stat()
    except OSError as error:
        yield failure(check, f"{told}, and {folder}: {error.strerror}", machine.manager_remedy)
        return
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISDIR(info.st_mode):
        yield failure(check, f"{told}: {folder} is not a folder", "unset XDG_RUNTIME_DIR")
    elif info.st_uid != machine.uid:
        text = f"{told}: {folder} belongs to uid {info.st_uid}, not to {machine.user}"
        yield failure(check, text, mend if folder != usual else machine.manager_remedy)
    elif mode & 0o077:
        text = f"{told}: others may enter it (mode {mode:04o})"
        yield failure(check, text, f"chmod 0700 {shlex.quote(str(folder))}")
    elif named != str(folder):
        text = f"{told}: {folder} was found without it, but systemctl --user and others need it set"
        yield warning(check, text, mend)
    else:
        yield ok(check, told)


def _manager_in(folder: Path) -> bool:
    return (folder / "systemd/private").exists()


def user_manager(machine: Machine) -> Iterator[CheckRow]:
    """Whether systemd's manager of this user answers."""
    check, answer = "user_manager", machine.manager
    state = answer.properties().get("SystemState", "")
    if not answer.good:
        if answer.silence is Silence.HUNG:
            yield unknown(check, answer.said, answer.command)
        elif answer.silence is Silence.MISSING:
            yield failure(check, answer.said, machine.as_root("apt-get install systemd"))
        else:
            where = "" if machine.systemd_runs else " (PID 1 of this machine is not systemd)"
            text = f"no user manager of systemd answers{where}: {answer.said}"
            yield failure(check, text, machine.manager_remedy)
    elif state == "stopping":
        text = "systemd's user manager is on its way down, and ends every session"
        yield failure(check, text, machine.manager_remedy)
    elif state not in _STATES:
        yield unknown(check, f"the user manager says {state or 'nothing of itself'}", answer.command)
    else:
        yield ok(check, f"systemd's manager of {machine.user} is {state}")


def needs_manager(machine: Machine, check: str) -> CheckRow | None:
    """The row of a check that nobody can answer while there is no user manager; None while there is."""
    if machine.manager.good:
        return None
    return unknown(check, "the user manager does not answer", machine.manager_remedy)


def needs_systemd(machine: Machine, check: str) -> CheckRow | None:
    """The row of a check of the system, where its PID 1 is another program; None where it is systemd."""
    if machine.systemd_runs:
        return None
    return unknown(check, "PID 1 of this machine is not systemd", machine.manager_remedy)


def bus(machine: Machine) -> Iterator[CheckRow]:
    """Whether the user's bus serves, with the manager on it."""
    check, path = "bus", machine.bus
    if not os.path.lexists(path):
        yield failure(check, f"no D-Bus of the user at {path}", _bus_remedy(machine))
        return
    refused = connect(path)
    if refused:
        yield failure(check, f"{path}: {refused}", _bus_remedy(machine))
        return
    name = "org.freedesktop.systemd1"
    words = (name, "/org/freedesktop/systemd1", f"{name}.Manager", "Version")
    options = (f"--address={bus_address(path)}", f"--timeout={machine.deadline:g}")
    answer = machine.ask("busctl", *options, "get-property", *words, deadline=machine.deadline + 1)
    if answer.good:
        yield ok(check, f"{path} serves, with the user manager on it")
    elif answer.silence or "timed out" in answer.err.lower():
        yield unknown(check, answer.said, answer.command)
    else:
        text = f"the user manager is not on the bus at {path}: {answer.said}"
        yield failure(check, text, "systemctl --user daemon-reexec")


def _bus_remedy(machine: Machine) -> str:
    if not machine.manager.good:
        return machine.manager_remedy
    if machine.systemctl("show", "--property=LoadState", "dbus.socket").out == "LoadState=loaded":
        return "systemctl --user restart dbus.socket"
    return machine.as_root("apt-get install dbus-user-session") + " && systemctl --user daemon-reload"


def linger(machine: Machine) -> Iterator[CheckRow]:
    """Whether the manager, and with it every session, lives on without a login."""
    check = "linger"
    if row := needs_systemd(machine, check):
        yield row
        return
    answer = machine.ask("loginctl", "show-user", "--property=Linger", "--value", str(machine.uid))
    if answer.out == "yes":
        yield ok(check, f"on: sessions of {machine.user} live on without a login, and start at boot")
    elif answer.out == "no" or "not logged in or lingering" in answer.err:
        text = (
            f"LINGER IS OFF: when {machine.user} logs out, systemd kills every session, "
            "and none starts at boot"
        )
        yield failure(check, text, machine.as_root(f"loginctl enable-linger {machine.user}"))
    else:
        yield unknown(check, answer.said, answer.command)


# ---- versions -------------------------------------------------------------------------------


def systemd_version(machine: Machine) -> Iterator[CheckRow]:
    """Whether the manager is new enough, and the one that is installed."""
    check = "systemd_version"
    if row := needs_manager(machine, check):
        yield row
        return
    running = machine.manager.properties().get("Version", "")
    number = re.match(r"\d+", running)
    installed = machine.ask("systemctl", "--version")
    first = re.match(r"systemd (\d+)(?: \((\S+)\))?", installed.out)
    if number is None:
        yield unknown(check, f"the user manager's version is {running!r}", machine.manager.command)
    elif int(number[0]) < OLDEST_SYSTEMD:
        text = f"systemd {running} is too old: sessiond needs {OLDEST_SYSTEMD}"
        yield failure(check, text, machine.as_root("apt-get install --only-upgrade systemd"))
    elif not installed.good or first is None:
        yield unknown(check, installed.said, installed.command)
    elif running not in first.groups():
        text = f"the user manager is still systemd {running}, and {first[2] or first[1]} is installed"
        yield warning(check, text, "systemctl --user daemon-reexec")
    else:
        yield ok(check, f"systemd {running}")


def cgroup_version(machine: Machine) -> Iterator[CheckRow]:
    """Whether systemd keeps processes in cgroups of version 2, and in them alone."""
    check = "cgroup_version"
    if row := needs_systemd(machine, check):
        yield row
        return
    kinds = _cgroup_mounts(machine.read("/proc/self/mountinfo"))
    boot = "boot with systemd.unified_cgroup_hierarchy=1"
    remedy = _unify(machine)
    if kinds.get("/sys/fs/cgroup") == "cgroup2":
        yield ok(check, "cgroup version 2")
    elif "cgroup2" in kinds.values():
        text = f"cgroup versions 1 and 2 side by side: sessions run, but cannot be frozen or limited; {boot}"
        yield warning(check, text, remedy)
    elif kinds:
        text = (
            f"cgroup version 1 alone: sessions can be neither frozen nor limited, nor kept track of; {boot}"
        )
        yield failure(check, text, remedy)
    else:
        mount = machine.as_root("mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        yield failure(check, "no cgroup file system is mounted", mount)


def _unify(machine: Machine) -> str:
    if not machine.system("/etc/default/grub").exists():
        return "cat /proc/cmdline"
    line = 's/^GRUB_CMDLINE_LINUX="/&systemd.unified_cgroup_hierarchy=1 /'
    return machine.as_root(f"sed -i {shlex.quote(line)} /etc/default/grub && update-grub")


def _cgroup_mounts(mountinfo: str) -> dict[str, str]:
    """Where cgroup file systems are mounted, and of which kind; the last one mounted counts."""
    found = {}
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        words = place.split()
        if len(words) > 4 and kind.split(" ")[0] in ("cgroup", "cgroup2"):
            found[words[4]] = kind.split(" ")[0]
    return found


def controllers(machine: Machine) -> Iterator[CheckRow]:
    """Whether the manager may use what limits need."""
    check = "controllers"
    if row := needs_manager(machine, check):
        yield row
        return
    group = machine.manager.properties().get("ControlGroup", "").strip("/")
    mount = Path("/sys/fs/cgroup")
    listing = mount / group / "cgroup.controllers"
    try:
        given = set(machine.read(str(listing)).split())
        offered = set(machine.read(str(mount / "cgroup.controllers")).split())
    except OSError as error:
        why = "there is none" if error.errno == errno.ENOENT else error.strerror
        yield unknown(check, f"{listing}: {why}", f"cat {shlex.quote(str(listing))}")
        return
    missing = [name for name in CONTROLLERS if name not in given]
    if not missing:
        yield ok(check, f"delegated: {', '.join(sorted(given))}")
        return
    limits = ", ".join(CONTROLLERS[name] for name in missing)
    text = f"not delegated to the user manager: {', '.join(missing)}; {limits} are accepted and not enforced"
    if absent := [name for name in missing if name not in offered]:
        text += f"; the kernel has {', '.join(absent)} disabled, or bound to cgroup version 1"
        yield warning(check, text, "grep . /proc/cgroups /proc/cmdline")
        return
    lines = shlex.quote(f"[Service]\\nDelegate={' '.join(sorted(given | set(CONTROLLERS)))}\\n")
    folder = "/etc/systemd/system/user@.service.d"
    write = f"mkdir -p {folder} && printf {lines} > {folder}/delegate.conf"
    yield warning(check, text, machine.as_root(f"{write} && systemctl daemon-reload"))
