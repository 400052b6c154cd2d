"""The journal: whether it is written, kept over a reboot, and shown to this user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sessiond.doctor.machine import Machine
from sessiond.doctor.manager import needs_systemd
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning


def journal_persistent(machine: Machine) -> Iterator[CheckRow]:
    """Whether what is logged now is still there after a reboot."""
    check = "journal_persistent"
    if row := needs_systemd(machine, check):
        yield row
        return
    volatile, persistent = _kept(machine)
    if volatile and machine.in_nest:
        yield ok(check, "a nest's journal lasts as long as the nest")
    elif volatile:
        text = "the journal is kept in memory only: logs of sessions are lost at a reboot"
        yield warning(check, text, _persist(machine))
    elif persistent:
        yield ok(check, "the journal is kept on disk")
    else:
        yield failure(check, "nothing that is logged is stored anywhere", _persist(machine))


def _kept(machine: Machine) -> tuple[bool, bool]:
    """Whether what is logged now goes to memory, and whether it goes to disk.

    Told from the places themselves, since this user may not see into the one in memory: that is
    removed when it was flushed to disk, or left behind and older than what is written on disk.
    """
    try:
        name = machine.read("/etc/machine-id")
    except FileNotFoundError:
        name = ""
    memory = _written(machine.system(f"/run/log/journal/{name}")) if name else 0.0
    disk = _written(machine.system(f"/var/log/journal/{name}")) if name else 0.0
    written = _written(machine.system(f"/var/log/journal/{name}/system.journal")) if name else 0.0
    volatile = memory > written
    return volatile, bool(disk) and not volatile


def _written(path: Path) -> float:
    """When a file was last written, in seconds since 1970; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _persist(machine: Machine) -> str:
    drop_in = "/etc/systemd/journald.conf.d"
    return machine.as_root(
        f"mkdir -p /var/log/journal {drop_in} && "
        f"printf '[Journal]\\nStorage=persistent\\n' > {drop_in}/persistent.conf && "
        "systemctl restart systemd-journald && journalctl --flush"
    )


def journal_readable(machine: Machine) -> Iterator[CheckRow]:
    """Whether this user sees what sessions log."""
    check = "journal_readable"
    if row := needs_systemd(machine, check):
        yield row
        return
    state = machine.ask("systemctl", "show", "--property=ActiveState", "systemd-journald.service")
    if state.good and state.properties().get("ActiveState") not in ("active", "activating", "reloading"):
        text = f"journald does not run ({state.out}): nothing is logged"
        yield failure(check, text, machine.as_root("systemctl start systemd-journald"))
        return
    boot = machine.read("/proc/sys/kernel/random/boot_id").replace("-", "")
    answer = machine.ask(
        "journalctl",
        "--no-pager",
        "--lines=1",
        "--output=cat",
        f"_BOOT_ID={boot}",
        f"_UID={machine.uid}",
    )
    volatile, persistent = _kept(machine)
    denied = "permission" in answer.err.lower()
    if answer.silence:
        yield unknown(check, answer.said, answer.command)
    elif answer.good and answer.out and not answer.out.startswith("-- No entries"):
        yield ok(check, f"lines of {machine.user} can be read")
    elif denied or (volatile and not _may_enter(machine)):
        text = f"{machine.user} may not read the journal, so no log of a session can be shown"
        yield failure(check, text, machine.as_root(f"usermod -aG systemd-journal {machine.user}"))
    elif not (volatile or persistent):
        yield failure(check, "there is no journal: no log of a session can be shown", _persist(machine))
    elif not answer.good:
        yield unknown(check, answer.said, answer.command)
    else:
        text = f"no line of {machine.user} since the boot: not written, or already deleted"
        yield unknown(check, text, answer.command)


def _may_enter(machine: Machine) -> bool:
    name = machine.read("/etc/machine-id")
    return os.access(machine.system(f"/run/log/journal/{name}"), os.R_OK | os.X_OK)
