"""What must be installed and allowed before a nest can boot, said clearly when it is not."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from sessiond.errors import PermissionDenied, Unsupported
from sessiond.nest import cgroups, units
from sessiond.nest.plan import UserNamespace

_INIT = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_USER_BUS = ("/usr/lib/systemd/user/dbus.socket", "/lib/systemd/user/dbus.socket")
_CAP_SYS_ADMIN = 21
_USERNS_SWITCHES = {
    "user/max_user_namespaces": "0",
    "kernel/unprivileged_userns_clone": "0",
    "kernel/apparmor_restrict_unprivileged_userns": "1",
}
_PAM_DIRS = ("/usr/lib", "/lib", "/usr/lib64", "/lib64")


def init_binary() -> str:
    """Path of systemd, after checking that all else the nest boots is installed; Unsupported."""
    missing: list[str] = []
    init = next((path for path in _INIT if os.access(path, os.X_OK)), "")
    if not init or units.vendor_dir() is None:
        missing.append("systemd")
    if not (shutil.which("dbus-daemon") or shutil.which("dbus-broker")):
        missing.append("dbus")
    if not any(os.path.exists(path) for path in _USER_BUS):
        missing.append("dbus-user-session")
    if not _pam_systemd():
        missing.append("libpam-systemd")
    if missing:
        words = " ".join(missing)
        raise Unsupported(
            "nest_needs_packages",
            f"the nest boots systemd, and this machine lacks: {', '.join(missing)}",
            hint=f"apt-get install {words}",
            fields={"packages": words},
        )
    return init


def _pam_systemd() -> bool:
    return any(
        path.exists()
        for folder in _PAM_DIRS
        for pattern in ("security", "*/security")
        for path in Path(folder).glob(f"{pattern}/pam_systemd.so")
    )


def check_tools() -> None:
    """nsenter and setpriv, with which programs are run inside; Unsupported when missing."""
    missing = [tool for tool in ("nsenter", "setpriv") if shutil.which(tool) is None]
    if missing:
        raise Unsupported(
            "nest_needs_packages",
            f"this machine lacks {' and '.join(missing)}",
            hint="apt-get install util-linux",
            fields={"packages": "util-linux"},
        )


def cgroup_parent() -> Path:
    """Where this process may make the nest's cgroup; PermissionDenied says what is missing.

    Root makes it at the top, so that no logout takes it; others below what was delegated to them.
    """
    if os.geteuid() == 0:
        if not _effective_capability(_CAP_SYS_ADMIN):
            raise _needs(
                "CAP_SYS_ADMIN",
                "this process is root without CAP_SYS_ADMIN, as in a container by default",
                "start the container with docker run --privileged --cgroupns=private",
            )
        return cgroups.cgroup2_mount()
    parent = cgroups.delegated_parent()
    if parent is None:
        raise _needs(
            "delegated cgroup",
            "without root a nest needs a cgroup that is delegated to this user, and there is none",
            "run it as root (sudo sessionctl nest up)",
        )
    return parent


def user_namespace(uid: int) -> UserNamespace:
    """The user namespace for a caller who is not root; PermissionDenied where they are off."""
    if uid != os.geteuid():
        raise _needs("root", "only root boots a nest for another user", "run it as root")
    for name, forbidding in _USERNS_SWITCHES.items():
        try:
            value = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            raise _needs(
                "user namespaces",
                f"user namespaces are switched off ({name.replace('/', '.')} is {value})",
                "run it as root (sudo sessionctl nest up)",
            )
    name, gid = pwd.getpwuid(uid).pw_name, os.getegid()
    if shutil.which("newuidmap") and shutil.which("newgidmap"):
        subuids, subgids = _range("/etc/subuid", name, uid), _range("/etc/subgid", name, uid)
        if subuids and subgids:
            return UserNamespace(uid, gid, subuids, subgids)
    return UserNamespace(uid, gid)


def _range(file: str, name: str, uid: int) -> tuple[int, ...]:
    """The first range of ids given to a user, as (first, count); empty without one."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ()
    for line in lines:
        owner, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if owner in (name, str(uid)) and first.isdigit() and count.isdigit():
            return int(first), int(count)
    return ()


def _needs(missing: str, message: str, hint: str) -> PermissionDenied:
    return PermissionDenied("nest_needs_privilege", message, hint=hint, fields={"missing": missing})


def _effective_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def manager_running(uid: int) -> bool:
    """Whether a user manager serves this user already, so that no nest is needed."""
    return os.path.exists(f"/run/user/{uid}/systemd/private") and os.path.exists(f"/run/user/{uid}/bus")
