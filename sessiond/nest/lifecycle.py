"""Up, down and status: one nest per record folder, told alive from dead, removed without rest."""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from sessiond.errors import InvalidArgument, NotFound, PermissionDenied, SessiondError
from sessiond.nest import cgroups, layout, units
from sessiond.nest.boot import NOTIFY, Boot
from sessiond.nest.plan import BootPlan, UserNamespace
from sessiond.nest.record import (
    Folder,
    Nest,
    Record,
    check_owner,
    locked,
    machine_boot_id,
    prepare,
    prepare_inner,
    record_folder,
    start_time,
    status,
)
from sessiond.nest.requirements import cgroup_parent, check_tools, init_binary, user_namespace
from sessiond.paths import check_socket_path

BOOT_SECONDS = 30.0
STOP_SECONDS = 10.0
KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Options:
    """How to boot. The defaults are the nest over the live root; the rest serves test hosts.

    ``overlay`` is a folder for the upper layer (kept: booting on it again is the reboot);
    ``guest`` makes that unprivileged user inside the overlay and boots its manager; ``linger`` is
    whether it starts at boot; ``persistent_journal`` and ``private_net`` (only lo, up) as they
    say; ``traversable`` are paths whose folders the guest may pass, inside only; ``announce`` puts
    SESSIOND_RUNTIME_DIR into the user manager's environment; ``outside`` shows the processes outside.
    """

    overlay: Path | None = None
    guest: str = ""
    linger: bool = True
    persistent_journal: bool = False
    private_net: bool = False
    traversable: tuple[Path, ...] = ()
    announce: bool = True
    outside: bool = True


def up(
    uid: int | None = None,
    *,
    base: Path | None = None,
    options: Options | None = None,
    timeout: float = BOOT_SECONDS,
) -> Nest:
    """Boot a nest for a user (default: the caller), or return the one that lives.

    Returns when its systemd and that user's manager serve. What a dead nest left is removed first.
    Raises PermissionDenied or Unsupported with what is missing, TimedOut or SessiondError with the
    boot's last output in the hint.
    """
    wanted = os.getuid() if uid is None else uid
    living = status(wanted, base=base)
    if living:
        return living
    options = options or Options()
    parent = cgroup_parent()
    namespace = user_namespace(wanted) if os.geteuid() != 0 else None
    check_tools()
    init = init_binary()
    name, gid = _identity(wanted, options)
    folder = record_folder(wanted, base)
    check_socket_path(folder.runtime / "sessions" / ("0" * 32 + ".sock"))
    with locked(folder, lambda: prepare(folder, uid=wanted, gid=gid)):
        living = status(wanted, base=base)
        if living:
            return living
        _clear(folder)
        prepare_inner(folder, uid=wanted, gid=gid)
        record = Record(
            uid=wanted,
            user=name,
            inner_uid=wanted if namespace is None else 0,
            cgroup=str(parent / f"sessiond-nest-{wanted}-{secrets.token_hex(4)}"),
            runtime_dir=str(folder.runtime),
            machine_boot_id=machine_boot_id(),
            user_namespace=namespace is not None,
            private_net=options.private_net,
            overlay=str(options.overlay or ""),
            announced=options.announce,
        )
        # Written before anything exists, so that whatever a crash leaves can be found.
        folder.save(record)
        try:
            with Boot(folder.boot, time.monotonic() + timeout) as boot:
                plan = _plan(folder, record, options, init, boot.console, gid, namespace)
                return _boot(folder, record, boot, plan, gid)
        except OSError as error:
            _clear(folder)
            raise SessiondError("nest_boot_failed", f"the nest could not be booted: {error}") from error
        except BaseException:
            _clear(folder)
            raise


def _identity(uid: int, options: Options) -> tuple[str, int]:
    """The user's name and primary group; a guest exists only inside."""
    if options.guest:
        if options.overlay is None:
            raise InvalidArgument("nest_guest_needs_overlay", "a guest user needs an overlay")
        return options.guest, uid
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise InvalidArgument(
            "nest_user_unknown", f"uid {uid} is no user of this machine", fields={"uid": str(uid)}
        ) from None
    return entry.pw_name, entry.pw_gid


def _boot(folder: Folder, record: Record, boot: Boot, plan: BootPlan, gid: int) -> Nest:
    _make_cgroup(Path(record.cgroup))
    boot.start(plan)
    started = start_time(boot.pid)
    if started is None:
        raise SessiondError("nest_boot_failed", "the nest's first process ended at once")
    record = replace(record, pid=boot.pid, start_time=started)
    folder.save(record)
    boot.go()
    _close_console(record)
    record = replace(record, ready=True)
    folder.save(record, group=gid if record.uid != os.geteuid() else -1)
    return Nest(folder, record)


def _make_cgroup(cgroup: Path) -> None:
    try:
        cgroup.mkdir()
        cgroups.pass_on_controllers(cgroup)
        (cgroup / layout.INIT_CGROUP).mkdir()
        (cgroup / layout.EXEC_CGROUP).mkdir()
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise PermissionDenied(
            "nest_needs_privilege",
            f"no cgroup can be made in {cgroup.parent}: {os.strerror(error.errno)}",
            hint="start the container with docker run --privileged --cgroupns=private",
            fields={"missing": "writable cgroup"},
        ) from error


def _plan(
    folder: Folder,
    record: Record,
    options: Options,
    init: str,
    console: str,
    gid: int,
    namespace: UserNamespace | None,
) -> BootPlan:
    vendor = units.vendor_dir()
    assert vendor is not None  # init_binary checked it
    notify = str(folder.boot / NOTIFY)
    uid = record.inner_uid
    entries = units.unit_entries(
        vendor,
        uid=uid,
        start_user=options.overlay is None,
        flush=options.persistent_journal,
        notify=notify,
    )
    entries += units.unit_environment(uid, layout.manager_environment(record))
    entries += units.journal_entries(
        persistent=options.persistent_journal, gid=gid if namespace is None else 0
    )
    if namespace and not namespace.subuids:
        entries += units.root_only_entries()
    overlay = layout.overlay(options, record) if options.overlay else None
    return BootPlan(
        cgroup=f"{record.cgroup}/{layout.INIT_CGROUP}",
        scratch=str(folder.boot / "scratch"),
        console=console,
        machine_id=layout.machine_id(options),
        boot_id=layout.new_boot_id(),
        init=layout.init_argv(init),
        environment=layout.init_environment(notify),
        entries=tuple(entries),
        binds=(str(folder.runtime), str(folder.boot)),
        run_kept=layout.run_kept(folder.path, isolated=overlay is not None),
        devices=layout.devices(),
        lingering=(record.user if namespace is None else "root",),
        outside=layout.outside() if options.outside else (),
        private_net=options.private_net,
        overlay=overlay,
        user_namespace=namespace,
    )


def _close_console(record: Record) -> None:
    """Take the console away: a hung-up terminal would make systemd wait each time it opens it."""
    script = "umount -l /dev/console && rm -f /dev/console"
    argv = ["nsenter", "--target", str(record.pid), *record.namespaces, "/bin/sh", "-c", script]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", check=False
    )
    if done.returncode != 0:
        raise SessiondError("nest_boot_failed", f"the nest cannot be entered: {done.stderr.strip()}")


def down(uid: int | None = None, *, base: Path | None = None, timeout: float = STOP_SECONDS) -> bool:
    """End a user's nest (default: the caller's) and remove all of it; False when there was none.

    What runs inside is asked to end first and killed after ``timeout`` seconds (0: at once).
    Raises TimedOut when a process could not be killed.
    """
    folder = record_folder(os.getuid() if uid is None else uid, base)
    try:
        with locked(folder, lambda: check_owner(folder)):
            record = folder.load()
            if record and record.alive and timeout > 0:
                _ask_to_end(record, timeout)
            existed = _clear(folder)
            _remove_folder(folder)
    except NotFound:
        return False
    return existed


def _ask_to_end(record: Record, timeout: float) -> None:
    """systemd's own orderly way down, for at most ``timeout`` seconds."""
    with contextlib.suppress(ProcessLookupError):
        init = os.pidfd_open(record.pid)
        try:
            if record.alive:
                _end_entered(record)
                # SIGRTMIN+4 is systemd's "power off"; in a container its PID 1 then exits.
                signal.pidfd_send_signal(init, signal.SIGRTMIN + 4)
                poll = select.poll()
                poll.register(init, select.POLLIN)
                poll.poll(timeout * 1000)
        finally:
            os.close(init)


def _end_entered(record: Record) -> None:
    """Kill what was run inside from out here: no child of PID 1, which would wait in vain to be told of
    its end. Those who wait for it out here are left to; without them it would stay as a zombie inside."""
    inside = _pid_namespace(record.pid)
    for pid in cgroups.pids(Path(record.cgroup) / layout.EXEC_CGROUP):
        with contextlib.suppress(ProcessLookupError):
            if inside and _pid_namespace(pid) == inside:
                os.kill(pid, signal.SIGKILL)


def _pid_namespace(pid: int) -> str:
    """Identity of a process's PID namespace; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def power_cut(nest: Nest) -> None:
    """SIGKILL its PID 1, with which everything inside dies at once; the record stays."""
    init = os.pidfd_open(nest.pid)
    try:
        if nest.alive:
            signal.pidfd_send_signal(init, signal.SIGKILL)
            poll = select.poll()
            poll.register(init, select.POLLIN)
            poll.poll(KILL_SECONDS * 1000)
    finally:
        os.close(init)
    cgroups.kill(nest.cgroup, time.monotonic() + KILL_SECONDS)


def _clear(folder: Folder) -> bool:
    """Kill and remove what the record names, alive or dead; whether there was a record."""
    record = folder.load()
    if record and record.machine_boot_id == machine_boot_id():
        cgroup = Path(record.cgroup)
        cgroups.kill(cgroup, time.monotonic() + KILL_SECONDS)
        cgroups.remove(cgroup)
    for path in (folder.boot, folder.runtime):
        if path.exists():
            # rmtree never follows a link that the user may have put there.
            shutil.rmtree(path)
    folder.record.unlink(missing_ok=True)
    return record is not None


def _remove_folder(folder: Folder) -> None:
    for path in (folder.draft, folder.lock):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        # Somebody else's file in it: the folder stays, nothing of the nest does.
        folder.path.rmdir()
