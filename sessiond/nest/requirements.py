"""What must be installed and allowed before a nest can boot, said clearly when it is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sessiond.errors import PermissionDenied, Unsupported
from sessiond.nest import units

_INIT = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_USER_BUS = ("/usr/lib/systemd/user/dbus.socket", "/lib/systemd/user/dbus.socket")
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


def check_privilege() -> None:
    """Root with CAP_SYS_ADMIN; PermissionDenied otherwise."""
    if os.geteuid() != 0:
        raise PermissionDenied(
            "nest_needs_privilege",
            "booting a nest needs root",
            hint="run it as root (sudo sessionctl nest up)",
        )
    if not _effective_capability(21):
        raise PermissionDenied(
            "nest_needs_privilege",
            "this process is root without CAP_SYS_ADMIN, as in a container by default",
            hint="start the container with docker run --privileged --cgroupns=private",
            fields={"missing": "CAP_SYS_ADMIN"},
        )


def _effective_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def manager_running(uid: int) -> bool:
    """Whether a user manager serves this user already, so that no nest is needed."""
    return os.path.exists(f"/run/user/{uid}/systemd/private") and os.path.exists(f"/run/user/{uid}/bus")
