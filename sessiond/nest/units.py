"""The units the nest's systemd knows: a few of the vendor's, one target of its own, nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from sessiond.nest.plan import Entry

UNIT_DIR = "/run/systemd/sessiond-nest"
EMPTY_DIR = "/run/systemd/sessiond-empty"
TARGET = "sessiond-nest.target"

VENDOR_DIRS = ("/usr/lib/systemd/system", "/lib/systemd/system")

_REQUIRED = (
    "basic.target",
    "sysinit.target",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-logind.service",
    "user@.service",
    "user-runtime-dir@.service",
)
_OPTIONAL = (
    "systemd-journald-dev-log.socket",
    "systemd-journal-flush.service",
    "dbus.service",
    "dbus.socket",
    "dbus-broker.service",
    "dbus-org.freedesktop.login1.service",  # by this name the bus asks for logind
    "user.slice",
    "system.slice",
    "machine.slice",
    "sockets.target",
    "paths.target",
    "timers.target",
    "slices.target",
    "local-fs.target",
    "local-fs-pre.target",
    "swap.target",
    "nss-user-lookup.target",
    "shutdown.target",
    "umount.target",
    "final.target",
    "exit.target",
    "poweroff.target",
    "reboot.target",
    "halt.target",
    "systemd-exit.service",
    "systemd-poweroff.service",
    "systemd-reboot.service",
    "systemd-halt.service",
)
_DROP_INS = ("user@.service.d", "user@0.service.d", "user-.slice.d")

# logind's and journald's sandboxes would leave folders in the live /tmp, and cost half the boot.
_PLAIN_SERVICE = """\
[Service]
PrivateTmp=no
ProtectSystem=no
ProtectHome=no
ProtectHostname=no
ProtectClock=no
ProtectControlGroups=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectProc=default
WatchdogSec=0
"""


_ROOT_ONLY_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <standard_system_servicedirs/>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_type="signal"/>
    <allow receive_requested_reply="true"/>
  </policy>
  <policy user="root">
    <allow own="*"/>
  </policy>
</busconfig>
"""


def vendor_dir() -> Path | None:
    """The folder of the distribution's own system units, or None when systemd is missing."""
    for folder in VENDOR_DIRS:
        if all(os.path.exists(f"{folder}/{name}") for name in _REQUIRED):
            return Path(folder)
    return None


def unit_entries(vendor: Path, *, uid: int, start_user: bool, flush: bool, notify: str) -> list[Entry]:
    """Links to the vendor's units and the nest's own; ``notify`` is the readiness socket.

    ``start_user`` pulls in the user's manager, ``flush`` moves the journal to disk.
    """
    entries = [Entry("dir", UNIT_DIR, mode=0o755), Entry("dir", EMPTY_DIR, mode=0o755)]
    for name in (*_REQUIRED, *_OPTIONAL):
        if (vendor / name).exists():
            real = (vendor / name).resolve().name
            # An alias must lead to the unit's link beside it, or systemd loads the unit twice.
            target = str(vendor / name) if real == name else real
            entries.append(Entry("link", f"{UNIT_DIR}/{name}", target))
    for folder in _DROP_INS:
        # File by file: a linked folder would let our own drop-ins land in the vendor's.
        for file in sorted((vendor / folder).glob("*.conf")):
            entries.append(Entry("link", f"{UNIT_DIR}/{folder}/{file.name}", str(file)))
    if not (vendor / "dbus.service").exists():
        entries.append(Entry("link", f"{UNIT_DIR}/dbus.service", "dbus-broker.service"))
    wanted = ["systemd-logind.service"]
    wanted += [f"user@{uid}.service"] if start_user else []
    wanted += ["systemd-journal-flush.service"] if flush else []
    entries.append(Entry("file", f"{UNIT_DIR}/{TARGET}", _target(wanted)))
    for service in ("systemd-logind", "systemd-journald"):
        path = f"{UNIT_DIR}/{service}.service.d/50-sessiond.conf"
        entries.append(Entry("file", path, _PLAIN_SERVICE))
    path = f"{UNIT_DIR}/user@{uid}.service.d/50-sessiond-ready.conf"
    entries.append(Entry("file", path, _readiness(notify)))
    return entries


def _target(wanted: list[str]) -> str:
    first = "systemd-journald.service dbus.socket dbus.service"
    return (
        "[Unit]\nDescription=The private host\n"
        f"Requires=basic.target {first}\nWants={' '.join(wanted)}\n"
        f"After=basic.target {first} {' '.join(wanted)}\nAllowIsolate=yes\n"
    )


def _readiness(notify: str) -> str:
    """The user's manager tells whoever boots the nest that it serves, or that it failed."""

    def tell(word: str) -> str:
        send = f"NOTIFY_SOCKET={notify} exec systemd-notify --no-block SESSIOND_USER={word}"
        return f"-+/bin/sh -c 'test -S {notify} || exit 0; {send}'"

    return f"[Service]\nExecStartPost={tell('ready')}\nExecStopPost={tell('stopped')}\n"


def unit_environment(uid: int, variables: dict[str, str]) -> list[Entry]:
    """A drop-in that puts variables into the environment of the user's manager; none for none."""
    if not variables:
        return []
    lines = "".join(f'Environment="{key}={value}"\n' for key, value in variables.items())
    path = f"{UNIT_DIR}/user@{uid}.service.d/50-sessiond-environment.conf"
    return [Entry("file", path, f"[Service]\n{lines}")]


def journal_entries(*, persistent: bool, gid: int) -> list[Entry]:
    """Where the nest's journal is kept, never in the live machine's; group ``gid`` may read it."""
    storage = "Storage=persistent" if persistent else "Storage=volatile\nRuntimeMaxUse=64M"
    text = f"[Journal]\n{storage}\nReadKMsg=no\nAudit=no\nForwardToSyslog=no\nForwardToWall=no\n"
    entries = [Entry("file", "/run/systemd/journald.conf.d/50-sessiond.conf", text)]
    if not persistent:
        entries.append(Entry("dir", "/run/log/journal", mode=0o2755, gid=gid))
    return entries


# Without newuidmap no process may set its groups, which User= and PAM would do.
_ROOT_ONLY_MANAGER = """\
[Service]
User=
PAMName=
Environment=XDG_RUNTIME_DIR=/run/user/0 SHELL=/bin/sh USER=root LOGNAME=root
"""


def root_only_entries() -> list[Entry]:
    """For a user namespace with one user: the system bus and the manager stay root."""
    config = "/run/systemd/sessiond-bus.conf"
    command = "--nofork --nopidfile --systemd-activation --syslog-only --address=systemd:"
    return [
        Entry("file", config, _ROOT_ONLY_BUS),
        Entry("file", f"{UNIT_DIR}/user@0.service.d/50-sessiond-root.conf", _ROOT_ONLY_MANAGER),
        Entry(
            "file",
            f"{UNIT_DIR}/dbus.service.d/50-sessiond.conf",
            f"[Service]\nExecStart=\nExecStart=/usr/bin/dbus-daemon --config-file={config} {command}\n",
        ),
    ]
