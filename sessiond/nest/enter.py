"""Running programs inside a nest, and telling its pids as the caller sees them."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sessiond.errors import PermissionDenied
from sessiond.nest import cgroups, layout
from sessiond.nest.record import Nest

# The helper moves itself, never its caller, then becomes nsenter.
_MOVE = 'echo 0 > "$1" && shift && exec "$@"'
# Without privilege a caller may be where it cannot leave; what it runs then dies with PID 1 alone.
_TRY_MOVE = '{ echo 0 > "$1"; } 2>/dev/null; shift; exec "$@"'


def user_environment(nest: Nest, *, root: bool = False) -> dict[str, str]:
    """What a login would set for the nest's user: the way to its manager and bus."""
    runtime = f"/run/user/{0 if root else nest.record.inner_uid}"
    found = {
        "XDG_RUNTIME_DIR": runtime,
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus",
    }
    return found if root else found | layout.announced(nest.record)


def exec_argv(
    nest: Nest,
    argv: Sequence[str],
    *,
    root: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    inherit: bool = True,
) -> list[str]:
    """The command line that, executed out here, runs argv inside as the nest's user (or root).

    The environment is the caller's (nothing, without ``inherit``) with the nest's own variables
    set and ``env`` over it; the folder is the caller's unless ``cwd`` names one inside. What runs
    inside is killed when the process out here is. PermissionDenied when the nest is root's and
    the caller is not.
    """
    record = nest.record
    if os.geteuid() != 0 and not record.user_namespace:
        raise PermissionDenied(
            "nest_needs_privilege",
            "this nest was booted by root, and only root can run programs in it",
            hint="run it as root; sessionctl's other verbs reach it through its socket",
        )
    folder = os.getcwd() if cwd is None else os.fspath(cwd)
    other = not root and not record.user_namespace and record.uid != os.geteuid()
    variables = {
        **(_login(record.uid) if other and inherit else {}),
        **user_environment(nest, root=root),
        **(env or {}),
    }
    words = [f"{key}={value}" for key, value in variables.items()]
    # Not nsenter's --wd, which would open the folder out here and keep the outer mounts under it.
    inside = ["env", *([] if inherit else ["-i"]), f"--chdir={folder}", *words, *argv]
    become = ["setpriv", "--pdeathsig", "KILL"]
    if other:
        become += [f"--reuid={record.uid}", f"--regid={_group(record.uid)}", "--init-groups"]
    move = _TRY_MOVE if record.user_namespace else _MOVE
    procs = str(nest.cgroup / layout.EXEC_CGROUP / "cgroup.procs")
    enter = ["nsenter", "--target", str(nest.pid), *record.namespaces, "--"]
    return ["/bin/sh", "-c", move, "sh", procs, *enter, *become, "--", *inside]


def _login(uid: int) -> dict[str, str]:
    """HOME, USER, LOGNAME and SHELL of a user of this machine; nothing for a guest."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return {}
    return {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell,
    }


def _group(uid: int) -> int:
    """A user's primary group; a guest's has the user's own number."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def run(
    nest: Nest,
    argv: Sequence[str],
    *,
    root: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    inherit: bool = True,
    check: bool = True,
    timeout: float = 60.0,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run argv inside and return what it printed; subprocess's own errors when check is set."""
    return subprocess.run(
        exec_argv(nest, argv, root=root, cwd=cwd, env=env, inherit=inherit),
        check=check,
        timeout=timeout,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
    )


def outer_pids(nest: Nest) -> dict[int, int]:
    """Pid inside → pid out here, of every process that lives in the nest."""
    level = len(_namespaced_pids(nest.pid)) - 1
    found: dict[int, int] = {}
    for outer in cgroups.pids(nest.cgroup):
        numbers = _namespaced_pids(outer)
        # A process of ours on its way in is in the cgroup but not yet in the namespace.
        if len(numbers) > level:
            found[numbers[level]] = outer
    return found


def _namespaced_pids(pid: int) -> list[int]:
    """A process's pid in each namespace from the reader's own inwards; empty when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return [int(word) for word in line.split()[1:]]
    return []
