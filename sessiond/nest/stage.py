"""The boot stage: enters new namespaces, arranges the mounts and becomes the nest's PID 1.

Runs as a process of its own (``main``), speaks JSON packets over one inherited socket: the plan
comes in, the pid goes out, a word lets it go on, an error goes out; the socket closes at exec.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sessiond.nest import syscalls as sc
from sessiond.nest.plan import BootPlan, Entry, GuestUser, Overlay, UserNamespace

PACKET = 1 << 18
GO = b"go"

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_TTY_GROUP = 5


def main() -> None:
    """Read the plan, fork into the namespaces, and exec the nest's init in the child."""
    control = socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    try:
        plan = BootPlan.from_json(control.recv(PACKET))
        _leave_caller(plan)
        child = os.fork()
    except OSError as error:
        _report(control, error)
        raise SystemExit(1) from None
    if child:
        control.send(json.dumps({"pid": child}).encode())
        os._exit(0)
    # Whoever boots the nest reads the parent's stderr to its end.
    os.dup2(0, 2)
    if control.recv(16) != GO:
        os._exit(1)
    try:
        _build(plan)
        _exec_init(plan)
    except Exception as error:  # noqa: BLE001  # told to whoever boots the nest, as all else
        _report(control, error)
    os._exit(1)


def _report(control: socket.socket, error: Exception) -> None:
    message: dict[str, str | int] = {"step": "", "errno": 0, "error": f"{type(error).__name__}: {error}"}
    if isinstance(error, OSError):
        message |= {"step": str(error.filename or ""), "errno": error.errno or 0}
    elif isinstance(error, subprocess.CalledProcessError):
        message |= {"step": str(error.cmd[0]), "error": f"{error}: {error.output}"}
    control.send(json.dumps(message).encode())


def _leave_caller(plan: BootPlan) -> None:
    """Move into the nest's cgroup and new namespaces."""
    Path(plan.cgroup, "cgroup.procs").write_text("0")
    mapper = _start_mapper(plan.user_namespace) if plan.user_namespace else None
    flags = sc.CLONE_NEWNS | sc.CLONE_NEWPID | sc.CLONE_NEWCGROUP | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC
    flags |= sc.CLONE_NEWNET if plan.private_net else 0
    sc.unshare(flags | (sc.CLONE_NEWUSER if mapper else 0))
    if mapper:
        mapper()


def _start_mapper(namespace: UserNamespace) -> Callable[[], None]:
    """What is to be called in the new user namespace; newuidmap must run outside of it."""
    if not (namespace.subuids and namespace.subgids):
        return lambda: _map_self(namespace)
    target, (go_read, go_write) = str(os.getpid()), os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        os.read(go_read, 1)
        try:
            for tool, own, more in (
                ("newuidmap", namespace.uid, namespace.subuids),
                ("newgidmap", namespace.gid, namespace.subgids),
            ):
                words = ["0", str(own), "1", "1", *map(str, more)]
                subprocess.run([tool, target, *words], check=True)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    os.close(go_read)

    def wait() -> None:
        os.close(go_write)
        if os.waitpid(helper, 0)[1] != 0:
            raise PermissionError(errno.EPERM, "newuidmap or newgidmap failed", "map the users")
        os.setuid(0)
        os.setgid(0)

    return wait


def _map_self(namespace: UserNamespace) -> None:
    """The one mapping that needs no helper: root inside is the user outside."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {namespace.uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {namespace.gid} 1")


def _build(plan: BootPlan) -> None:
    """Arrange every mount of the nest; afterwards / is its root."""
    os.umask(0o022)
    # The live tree goes on showing new mounts of the machine and never sees ours.
    sc.mount("", "/", "", sc.MS_REC | (sc.MS_PRIVATE if plan.overlay else sc.MS_SLAVE))
    root = _mount_overlay(plan.overlay) if plan.overlay else ""
    os.makedirs(plan.scratch, exist_ok=True)
    sc.mount("tmpfs", plan.scratch, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=0700")
    scratch = os.open(plan.scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    dev, run = f"{plan.scratch}/dev", f"{plan.scratch}/run"
    _stage_dev(plan, dev)
    _stage_run(plan, run)
    if plan.overlay is None:
        _hide_state(plan)
    for path in plan.binds:
        if root and not _below_run(path):
            os.makedirs(root + path, exist_ok=True)
            sc.bind(path, root + path)
    _mount_api(plan, root)
    sc.mount(dev, f"{root}/dev", "", sc.MS_MOVE)
    sc.mount(run, f"{root}/run", "", sc.MS_MOVE)
    if not root:
        # The new /run hides its path: only a descriptor still names it.
        sc.unmount(f"/proc/self/fd/{scratch}")
    os.close(scratch)
    if plan.overlay:
        sc.pivot_root(plan.overlay.merged)
        _furnish(plan, plan.overlay)


def _below_run(path: str) -> bool:
    return path.startswith("/run/")


def _mount_overlay(overlay: Overlay) -> str:
    for layer in overlay.layers:
        options = f"lowerdir={layer.mountpoint},upperdir={layer.upper},workdir={layer.work}"
        target = overlay.merged + layer.mountpoint.rstrip("/")
        sc.mount("overlay", target, "overlay", 0, options)
    for path in overlay.copies:
        shutil.copyfile(path, overlay.merged + path)
    for path in overlay.empty:
        sc.mount("tmpfs", overlay.merged + path, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=1777")
    return overlay.merged


def _stage_dev(plan: BootPlan, dev: str) -> None:
    """A private /dev: harmless devices bound in, terminals and shared memory of its own."""
    os.mkdir(dev)
    sc.mount("tmpfs", dev, "tmpfs", sc.MS_NOSUID, "mode=0755,size=4m")
    for name in (*_DEVICES, *plan.devices):
        _bind_into(f"/dev/{name}", f"{dev}/{name}")
    for name, target in _DEV_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    options = "newinstance,ptmxmode=0666,mode=0620"
    if plan.user_namespace is None or plan.user_namespace.subgids:
        options += f",gid={_TTY_GROUP}"
    sc.mount("devpts", f"{dev}/pts", "devpts", sc.MS_NOSUID | sc.MS_NOEXEC, options)
    os.mkdir(f"{dev}/shm")
    sc.mount("tmpfs", f"{dev}/shm", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=1777")
    _bind_into(plan.console, f"{dev}/console")


def _bind_into(source: str, target: str) -> None:
    """Bind source, a folder or any file, at target, which is made for it."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if stat.S_ISDIR(os.stat(source).st_mode):
        os.makedirs(target, exist_ok=True)
        sc.bind(source, target, recursive=True)
    else:
        Path(target).touch()
        sc.bind(source, target)


def _stage_run(plan: BootPlan, run: str) -> None:
    os.mkdir(run)
    sc.mount("tmpfs", run, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=0755")
    for entry in plan.entries:
        _make(entry, run)
    for path in plan.run_kept:
        # What the live machine removes meanwhile is not worth a failed boot.
        with contextlib.suppress(FileNotFoundError):
            _bind_into(path, run + path.removeprefix("/run"))
    for path in filter(_below_run, plan.binds):
        target = run + path.removeprefix("/run")
        os.makedirs(target, exist_ok=True)
        sc.bind(path, target)
    if plan.outside:
        source, place = plan.outside
        target = run + place.removeprefix("/run")
        os.mkdir(target)
        # What hides parts of it may not be left out by who is root of a user namespace alone.
        sc.bind(source, target, recursive=plan.user_namespace is not None, read_only=True)


def _make(entry: Entry, run: str) -> None:
    path = run + entry.path.removeprefix("/run")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if entry.kind == "link":
        os.symlink(entry.content, path)
        return
    if entry.kind == "dir":
        os.makedirs(path, exist_ok=True)
    else:
        Path(path).write_text(entry.content)
    if entry.gid:
        os.chown(path, -1, entry.gid)
    os.chmod(path, entry.mode)


def _hide_state(plan: BootPlan) -> None:
    """Over the live root: its lingering users, journal and machine id stay its own."""
    state = "/var/lib/systemd"
    staged = f"{plan.scratch}/state"
    os.mkdir(staged, 0o755)
    if os.path.isdir(state):
        for name in os.listdir(state):
            if name != "linger" and not os.path.islink(f"{state}/{name}"):
                _bind_into(f"{state}/{name}", f"{staged}/{name}")
        os.mkdir(f"{staged}/linger")
        for user in plan.lingering:
            Path(staged, "linger", user).touch()
        sc.bind(staged, state, recursive=True)
    if os.path.isdir("/var/log/journal"):
        # The live machine's journal would be read beside the nest's own.
        sc.mount("tmpfs", "/var/log/journal", "tmpfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_RDONLY)
    if plan.machine_id:
        _hide_machine_id(plan)


def _hide_machine_id(plan: BootPlan) -> None:
    """Systemd would write a missing machine id into /etc: give it one that only it sees."""
    path = f"{plan.scratch}/machine-id"
    Path(path).write_text(plan.machine_id + "\n")
    os.chmod(path, 0o444)
    if not os.path.exists("/etc/machine-id"):
        for name in ("etc", "etc.work"):
            os.mkdir(f"{plan.scratch}/{name}", 0o755)
        Path(plan.scratch, "etc", "machine-id").touch()
        options = f"lowerdir=/etc,upperdir={plan.scratch}/etc,workdir={plan.scratch}/etc.work"
        sc.mount("overlay", "/etc", "overlay", 0, options)
    sc.bind(path, "/etc/machine-id", read_only=True)


def _mount_api(plan: BootPlan, root: str) -> None:
    """Proc, sys and the cgroup tree of these namespaces; sysctls of the machine are read-only."""
    quiet = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    proc = f"{root}/proc"
    sc.mount("proc", proc, "proc", quiet)
    # Beside the live ones first: the kernel refuses the same file system twice on a mount point.
    fresh = f"{plan.scratch}/sys"
    os.mkdir(fresh)
    if plan.user_namespace and not plan.private_net:
        # A sysfs of one's own takes a network of one's own.
        sc.bind("/sys", fresh, recursive=True)
    else:
        sc.mount("sysfs", fresh, "sysfs", quiet)
    tree = f"{plan.scratch}/cgroup"
    os.mkdir(tree)
    sc.mount("cgroup2", tree, "cgroup2", quiet)
    sc.mount(tree, f"{fresh}/fs/cgroup", "", sc.MS_MOVE)
    sc.remount_read_only(fresh)
    sc.mount(fresh, f"{root}/sys", "", sc.MS_MOVE)
    for name in ("sys", "sysrq-trigger"):
        if os.path.exists(f"{proc}/{name}"):
            sc.bind(f"{proc}/{name}", f"{proc}/{name}", read_only=True)
    boot_id = f"{plan.scratch}/run/systemd/sessiond-boot-id"
    Path(boot_id).write_text(plan.boot_id + "\n")
    sc.bind(boot_id, f"{proc}/sys/kernel/random/boot_id", read_only=True)


def _furnish(plan: BootPlan, overlay: Overlay) -> None:
    """Inside the overlay only: its own machine id, users, journal, and passable folders."""
    _write_if_other("/etc/machine-id", plan.machine_id + "\n")
    for folder in overlay.traversable:
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(os.stat(folder).st_mode)
            if mode & 0o011 != 0o011:
                os.chmod(folder, mode | 0o011)  # noqa: S103  # inside the overlay only
    marker = Path("/var/lib/sessiond-guest")
    if not marker.exists():
        _first_boot(plan, overlay)
        marker.touch()
    if overlay.user:
        _add_user(overlay.user)


def _first_boot(plan: BootPlan, overlay: Overlay) -> None:
    """What the live machine's own history would bring in is left out."""
    for folder in ("/var/lib/systemd/linger", "/var/log/journal"):
        shutil.rmtree(folder, ignore_errors=True)
    os.makedirs("/var/lib/systemd/linger")
    if overlay.persistent_journal:
        os.makedirs(f"/var/log/journal/{plan.machine_id}")
        # Group and mode are those that systemd-tmpfiles gives; absent before any boot.
        for folder in ("/var/log/journal", f"/var/log/journal/{plan.machine_id}"):
            with contextlib.suppress(LookupError):
                shutil.chown(folder, 0, "systemd-journal")
            os.chmod(folder, 0o2755)  # noqa: S103  # as journald wants it


def _add_user(user: GuestUser) -> None:
    home = Path("/home", user.name)
    if home.is_dir():
        return
    argv = ["useradd", "--no-log-init", "--create-home", "--user-group", "--shell", "/bin/bash"]
    argv += ["--uid", str(user.uid), "--key", "HOME_MODE=0755", user.name]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(
        argv,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    if user.linger:
        Path("/var/lib/systemd/linger", user.name).touch()


def _write_if_other(path: str, text: str) -> None:
    with contextlib.suppress(OSError):
        if Path(path).read_text() == text:
            return
    Path(path).write_text(text)


def _exec_init(plan: BootPlan) -> None:
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(plan.init[0], plan.init, plan.environment)  # noqa: S606


if __name__ == "__main__":
    main()
