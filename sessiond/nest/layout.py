"""What of the live machine a nest sees, and how its init is called."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from sessiond.nest import units
from sessiond.nest.plan import GuestUser, Layer, Overlay
from sessiond.paths import OUTSIDE

if TYPE_CHECKING:
    from sessiond.nest.lifecycle import Options
    from sessiond.nest.record import Record

INIT_CGROUP = "init"
EXEC_CGROUP = "exec"

# systemd's own, another init's, or of the live machine's users.
_RUN_HIDDEN = frozenset(
    {"systemd", "user", "dbus", "log", "udev", "initctl", "utmp", "credentials", "sessiond-nest"}
    | {
        os.path.basename(OUTSIDE),
        "sendsigs.omit.d",
        "motd.d",
        "tmpfiles.d",
        "nologin",
        "reboot-required",
        "shm",
        "mount",
    }
)
# Where name services listen; all a test host keeps of the live /run.
_RUN_NAMES = (
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/connman",
    "/run/nscd",
    "/run/nslcd",
    "/run/avahi-daemon",
)
_NAME_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/localtime")
_DEVICES = ("fuse", "kvm", "net", "dri", "nvidia", "kfd", "dxg", "vhost", "udmabuf", "snd")

_API_TYPES = frozenset(
    {"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "bpf"}
    | {"tracefs", "pstore", "configfs", "mqueue", "hugetlbfs", "fusectl", "binfmt_misc", "nsfs"}
    | {"efivarfs", "autofs", "ramfs", "rpc_pipefs"}
)
_OWN_TREES = ("/proc", "/sys", "/dev", "/run")


def run_kept(own: Path, *, isolated: bool) -> tuple[str, ...]:
    """Paths below /run that stay visible: always name resolution, else all that is not init's.

    ``own`` is the record folder, which no kept folder may bring in a second time.
    """
    kept = {path for path in _RUN_NAMES if os.path.exists(path)}
    if not isolated:
        for entry in os.scandir("/run"):
            if entry.name not in _RUN_HIDDEN and _served(entry):
                kept.add(entry.path)
    for file in _NAME_FILES:
        real = os.path.realpath(file)
        if os.path.islink(file) and real.startswith("/run/") and os.path.exists(real):
            kept.add(real)
    kept = {path for path in kept if path != str(own) and not str(own).startswith(path + "/")}
    return tuple(sorted(path for path in kept if not _below_any(path, kept)))


def _served(entry: os.DirEntry[str]) -> bool:
    """Folders and sockets; a file there is mostly the pid of something not in the nest."""
    if entry.is_symlink():
        return False
    return entry.is_dir() or stat.S_ISSOCK(entry.stat().st_mode)


def _below_any(path: str, others: set[str]) -> bool:
    return any(path.startswith(other + "/") for other in others)


def outside() -> tuple[str, str]:
    """The /proc that shows most, which in a nest is that of its own outside, and where it is seen inside."""
    return (OUTSIDE if os.path.exists(f"{OUTSIDE}/self/stat") else "/proc", OUTSIDE)


def devices() -> tuple[str, ...]:
    """Devices that programs of people use, where the machine has them."""
    return tuple(sorted(name for name in os.listdir("/dev") if name.startswith(_DEVICES) or name == "net"))


def init_argv(init: str) -> tuple[str, ...]:
    """systemd as PID 1; words after its options it reads as a kernel command line."""
    return (
        init,
        "--system",
        f"--unit={units.TARGET}",
        "--show-status=yes",
        "--log-level=info",
        f"systemd.hostname={socket.gethostname()}",
    )


def init_environment(notify: str) -> dict[str, str]:
    """The environment of PID 1 alone; it starts its children with a clean one."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "container": "sessiond-nest",
        "NOTIFY_SOCKET": notify,
        "SYSTEMD_UNIT_PATH": units.UNIT_DIR,
        "SYSTEMD_GENERATOR_PATH": units.EMPTY_DIR,
        "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": units.EMPTY_DIR,
    }


def announced(record: Record) -> dict[str, str]:
    """What the user's manager learns about where sockets belong."""
    return {"SESSIOND_RUNTIME_DIR": record.runtime_dir} if record.announced else {}


def manager_environment(record: Record) -> dict[str, str]:
    """What is put into the user manager's environment; root of a user namespace has our home."""
    home = {"HOME": pwd.getpwuid(record.uid).pw_dir} if record.user_namespace else {}
    return announced(record) | home


def new_boot_id() -> str:
    """A boot id of the nest's own, so that each boot is one in its journal."""
    return str(uuid.uuid4())


def machine_id(options: Options) -> str:
    """The id to give the nest; empty when the live one is good. An overlay keeps one of its own."""
    if options.overlay is None:
        try:
            present = Path("/etc/machine-id").read_text().strip()
        except OSError:
            present = ""
        return "" if len(present) == 32 else secrets.token_hex(16)
    kept = options.overlay / "machine-id"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(secrets.token_hex(16))
    return kept.read_text().strip()


def overlay(options: Options, record: Record) -> Overlay:
    """Layers over / and every other disk below it, all in the folder given; made if missing."""
    base = options.overlay
    assert base is not None
    layers, copies, empty = [], [], []
    for index, (mountpoint, fstype) in enumerate(_mounts()):
        if fstype == "tmpfs" and mountpoint != "/":
            if os.path.isdir(mountpoint):
                empty.append(mountpoint)
        elif os.path.isdir(mountpoint):
            layers.append(_layer(base, index, mountpoint))
        elif os.path.isfile(mountpoint):
            copies.append(mountpoint)
    merged = base / "merged"
    merged.mkdir(parents=True, exist_ok=True)
    guest = GuestUser(options.guest, record.uid, options.linger) if options.guest else None
    return Overlay(
        merged=str(merged),
        layers=tuple(layers),
        copies=tuple(copies),
        empty=tuple(empty),
        traversable=tuple(_passed(options.traversable)),
        user=guest,
        persistent_journal=options.persistent_journal,
    )


def upper_dir(base: Path) -> Path:
    """Where an overlay's changes to the root file system lie."""
    return base / "root" / "upper"


def _layer(base: Path, index: int, mountpoint: str) -> Layer:
    name = "root" if mountpoint == "/" else f"mount-{index}"
    upper, work = base / name / "upper", base / name / "work"
    upper.mkdir(mode=0o755, parents=True, exist_ok=True)
    work.mkdir(exist_ok=True)
    return Layer(mountpoint, str(upper), str(work))


def _mounts() -> list[tuple[str, str]]:
    """Mount points that hold files, with their types, / first; the last one mounted counts."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point, fstype = before.split(" ")[4], after.split(" ", 1)[0]
        hidden = any(point == tree or point.startswith(tree + "/") for tree in _OWN_TREES)
        if fstype not in _API_TYPES and not hidden and "\\" not in point:
            found[point] = fstype
    return sorted(found.items())


def _passed(paths: tuple[Path, ...]) -> list[str]:
    """Every folder on the way to these paths, as named and as resolved."""
    folders = {
        str(parent)
        for path in paths
        for form in (path.absolute(), path.resolve())
        for parent in (form, *form.parents)
    }
    return sorted(folders - {"/"})
