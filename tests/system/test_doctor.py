"""`sessionctl doctor` on a real systemd that is spoilt in the ways that machines are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest

from sessiond.rpc._generated.v1 import system_pb2
from sessiond.testing.host import HOME, Host
from tests.system.product import OUTSIDE_ROOTS, STATE, SUPERVISOR, USER_UNITS, Product, until

LAUNCHER = f"{HOME}/.local/share/sessiond/launcher"
CONFIG = f"{HOME}/.config/sessiond"
# What a machine that runs the tests may lack: they neither make nor mend it.
NOT_OURS = {"controllers", "clock_synchronised", "inotify", "open_files"}


def look(host: Host, env: Mapping[str, str] | None = None, *words: str) -> dict[str, dict[str, str]]:
    """The rows of `doctor --json` by name; its exit code must be what they say."""
    done = host.sessionctl("doctor", "--json", *words, check=False, env=env)
    rows: list[dict[str, str]] = json.loads(done.stdout)
    assert all(set(row) == {"check", "status", "detail", "fix"} for row in rows)
    assert {row["status"] for row in rows} <= {"ok", "warning", "failure"}
    failed = any(row["status"] == "failure" for row in rows)
    assert done.returncode == (1 if failed else 0), rows
    # Of rows with one name the worst counts.
    order = ("ok", "warning", "failure")
    return {row["check"]: row for row in sorted(rows, key=lambda row: order.index(row["status"]))}


def is_told(
    host: Host, check: str, status: str, detail: str, fix: str, env: Mapping[str, str] | None = None
) -> None:
    """Wait until a check says so: who was asked may not answer in time on a busy machine."""
    row: dict[str, str] = {}

    def so() -> bool:
        row.update(look(host, env)[check])
        return (row["status"], detail in row["detail"], fix in row["fix"]) == (status, True, True)

    try:
        until(so, f"{check} is {status}")
    except pytest.fail.Exception as error:
        raise AssertionError(f"{error}: {row}") from error


def is_well(host: Host, *but: str) -> None:
    """Wait until everything is well, but for what is named and what the tests do not make: who was asked may
    not answer in time on a busy machine, and what was mended may take a moment."""
    bad: dict[str, dict[str, str]] = {}

    def well() -> bool:
        bad.clear()
        bad.update({name: row for name, row in look(host).items() if row["status"] != "ok"})
        return not bad.keys() - NOT_OURS - set(but)

    try:
        until(well, "all is well")
    except pytest.fail.Exception as error:
        raise AssertionError(f"{error}: {bad}") from error


@contextmanager
def done(host: Host, do: str, undo: str, *, user: bool = True) -> Iterator[None]:
    """Within it a command has been run; afterwards another one."""
    host.run(["sh", "-c", do], user=user)
    try:
        yield
    finally:
        host.run(["sh", "-c", undo], user=user)


def mend(host: Host, check: str) -> None:
    """Run the fix that a check gives, as the user; what needs an administrator is run as one."""
    fix = look(host)[check]["fix"]
    if fix.startswith("sudo "):
        host.run(["sh", "-c", fix.removeprefix("sudo ")], user=False)
    else:
        host.run(["sh", "-c", fix])


# ---- well ----------------------------------------------------------------------------------


def test_an_installation_is_well_and_warnings_alone_are_no_failure(product: Product) -> None:
    is_well(product.host)
    assert look(product.host)["supervisor"]["detail"].startswith(f"{SUPERVISOR} is active")


def test_people_read_what_is_wrong_and_what_mends_it(product: Product) -> None:
    with done(product.host, f"chmod 0644 {STATE}/sessiond.db", f"chmod 0600 {STATE}/sessiond.db"):
        shown = product.host.sessionctl("doctor").stdout
    assert "! database" in shown
    assert f"→ chmod 0600 {STATE}/sessiond.db" in shown
    assert " 0 failures, " in shown.splitlines()[-1]


def test_the_supervisor_says_the_same(product: Product) -> None:
    with product.client() as client:
        checks = client.call(client.system.RunDoctor, system_pb2.RunDoctorRequest()).checks
    told = {one.check: one.status for one in checks}
    # Its sandbox keeps it from asking the kernel for the clock, and it alone knows what adapters told.
    for name in ("clock_synchronised", "agent_files"):
        told.pop(name)
    rows = {name: row["status"] for name, row in look(product.host).items() if name in told}
    assert told == rows


# ---- user manager, bus, linger -------------------------------------------------------------


def test_xdg_runtime_dir_is_found_where_nobody_set_it(product: Product) -> None:
    bare = ["env", "-u", "XDG_RUNTIME_DIR", "-u", "DBUS_SESSION_BUS_ADDRESS"]
    program = product.host.run(["readlink", LAUNCHER]).stdout.strip().removesuffix("d") + "ctl"
    shown = product.host.run([*bare, program, "doctor", "--json"])
    rows = {row["check"]: row for row in json.loads(shown.stdout)}
    assert rows["runtime_dir"]["status"] == "warning"
    assert rows["runtime_dir"]["fix"] == f"export XDG_RUNTIME_DIR={product.host.runtime_dir}"
    assert {name for name, row in rows.items() if row["status"] != "ok"} <= NOT_OURS | {"runtime_dir"}


def test_xdg_runtime_dir_of_somebody_else(product: Product) -> None:
    env = {"XDG_RUNTIME_DIR": "/run/user"}
    is_told(
        product.host, "runtime_dir", "failure", "not there but at", "export XDG_RUNTIME_DIR=/run/user", env
    )


def test_linger_off_is_shouted_and_its_fix_turns_it_on(fresh_product: Callable[..., Product]) -> None:
    host = fresh_product().host
    host.run(["loginctl", "disable-linger", "tester"], user=False)
    is_told(host, "linger", "failure", "LINGER IS OFF", "sudo loginctl enable-linger tester")
    mend(host, "linger")
    # Nobody was logged in, so systemd may have ended the manager already.
    until(lambda: look(host)["socket"]["status"] == "ok", "the supervisor serves again")
    is_well(host)


def test_a_stopped_user_manager_is_told_and_its_fix_brings_it_back(
    fresh_product: Callable[..., Product],
) -> None:
    host = fresh_product().host
    host.run(["systemctl", "stop", f"user@{host.uid}.service"], user=False)
    rows = look(host)
    assert (
        rows["user_manager"]["status"] == rows["bus"]["status"] == rows["runtime_dir"]["status"] == "failure"
    )
    for name in ("systemd_version", "controllers", "units", "supervisor"):
        assert rows[name]["status"] == "warning"
        assert "the user manager does not answer" in rows[name]["detail"]
    mend(host, "user_manager")
    until(lambda: look(host)["socket"]["status"] == "ok", "the supervisor serves again")
    is_well(host)


def test_a_dead_bus_is_told_and_its_fix_brings_it_back(fresh_product: Callable[..., Product]) -> None:
    host = fresh_product().host
    host.systemctl("stop", "dbus.socket", "dbus.service")
    is_told(host, "bus", "failure", "/bus", "systemctl --user restart dbus.socket")
    mend(host, "bus")
    assert look(host)["bus"]["status"] == "ok"


def test_a_frozen_user_manager_is_unknown_and_nothing_hangs(fresh_product: Callable[..., Product]) -> None:
    host = fresh_product().host
    pid = host.run(
        ["systemctl", "show", f"user@{host.uid}", "-p", "MainPID", "--value"], user=False
    ).stdout.strip()
    with done(host, f"kill -STOP {pid}", f"kill -CONT {pid}", user=False):
        row = look(host)["user_manager"]
        assert (row["status"], "did not answer within" in row["detail"]) == ("warning", True), row
    is_well(host)


# ---- journal -------------------------------------------------------------------------------

_JOURNALD = "/run/systemd/journald.conf.d/50-sessiond.conf"


def _storage(host: Host, word: str) -> None:
    text = f"printf '[Journal]\\nStorage={word}\\n' > {_JOURNALD} && rm -rf /var/log/journal /run/log/journal"
    host.run(["sh", "-c", f"{text} && systemctl restart systemd-journald"], user=False)


def test_a_volatile_journal_is_told_and_its_fix_keeps_it(fresh_product: Callable[..., Product]) -> None:
    host = fresh_product().host
    _storage(host, "volatile")
    rows = look(host)
    assert (rows["journal_persistent"]["status"], rows["journal_readable"]["status"]) == (
        "warning",
        "failure",
    )
    assert "usermod -aG systemd-journal tester" in rows["journal_readable"]["fix"]
    host.run(["rm", _JOURNALD], user=False)
    mend(host, "journal_persistent")
    assert look(host)["journal_persistent"]["status"] == "ok"
    host.systemctl("restart", SUPERVISOR)
    host.run(["journalctl", "--sync"], user=False)
    is_well(host)


def test_no_journal_at_all(fresh_product: Callable[..., Product]) -> None:
    host = fresh_product().host
    _storage(host, "none")
    is_told(host, "journal_persistent", "failure", "nothing that is logged is stored", "Storage=persistent")
    is_told(host, "journal_readable", "failure", "there is no journal", "Storage=persistent")
    names = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket"
    host.run(["sh", "-c", f"systemctl stop {names}"], user=False)
    is_told(host, "journal_readable", "failure", "journald does not run", "systemctl start systemd-journald")


# ---- the installation ----------------------------------------------------------------------


def test_before_the_installation(host: Host) -> None:
    rows = look(host)
    for name in ("units", "launcher", "supervisor", "socket"):
        assert rows[name]["status"] == "failure"
    for name in ("units", "launcher", "supervisor"):
        assert rows[name]["fix"] == "sessionctl install"


BROKEN_LAUNCHERS: dict[str, tuple[str, str]] = {
    "gone": ("rm -f {}", "is missing"),
    "dangling": ("ln -sfn /nowhere/sessiond {}", "leads to /nowhere/sessiond, which is no file"),
    "not executable": ("touch ~/plain && ln -sfn ~/plain {}", "may not be executed"),
    "without its interpreter": (
        r"printf '#!/nowhere/python3\n' > ~/broken && chmod +x ~/broken && ln -sfn ~/broken {}",
        "the interpreter of",
    ),
    "failing": ("ln -sfn /bin/false {}", "does not run"),
}


@pytest.mark.parametrize("how", BROKEN_LAUNCHERS)
def test_a_broken_launcher_is_told_and_its_fix_mends_it(product: Product, how: str) -> None:
    command, detail = BROKEN_LAUNCHERS[how]
    target = product.host.run(["readlink", LAUNCHER]).stdout.strip()
    restore = f"ln -sfn {shlex.quote(target)} {LAUNCHER}"
    with done(product.host, command.format(LAUNCHER), restore):
        row = look(product.host)["launcher"]
        assert (row["status"], detail in row["detail"]) == ("failure", True), row
        if row["fix"] == "sessionctl install":
            product.ctl("install")
            assert look(product.host)["launcher"]["status"] == "ok"
    product.serving()
    is_well(product.host, "supervisor")


def test_a_launcher_of_another_release(product: Product) -> None:
    target = product.host.run(["readlink", LAUNCHER]).stdout.strip()
    other = r"printf '#!/bin/sh\necho sessiond 0.0.1\n' > ~/other && chmod +x ~/other"
    with done(product.host, f"{other} && ln -sfn ~/other {LAUNCHER}", f"ln -sfn {target} {LAUNCHER}"):
        is_told(product.host, "launcher", "warning", "starts sessiond 0.0.1", "sessionctl install")


SPOILT_UNITS: dict[str, tuple[str, str, str, str, str]] = {
    "gone": (
        f"mv {USER_UNITS}/sessiond@.service ~/kept && systemctl --user daemon-reload",
        f"mv ~/kept {USER_UNITS}/sessiond@.service && systemctl --user daemon-reload",
        "failure",
        "sessiond@.service is not installed",
        "sessionctl install",
    ),
    "changed": (
        f"echo '# mine' >> {USER_UNITS}/sessiond.slice",
        f"sed -i '/# mine/d' {USER_UNITS}/sessiond.slice && systemctl --user daemon-reload",
        "warning",
        "sessiond.slice",
        "",
    ),
    "disabled": (
        f"systemctl --user disable {SUPERVISOR}",
        f"systemctl --user enable {SUPERVISOR}",
        "warning",
        "no session starts at boot",
        f"systemctl --user enable {SUPERVISOR}",
    ),
    "broken": (
        f"cp {USER_UNITS}/sessiond@.service ~/kept && sed -i /ExecStart/d {USER_UNITS}/sessiond@.service"
        " && systemctl --user daemon-reload",
        f"mv ~/kept {USER_UNITS}/sessiond@.service && systemctl --user daemon-reload",
        "failure",
        "cannot be used",
        "sessionctl install",
    ),
    "masked": (
        f"mv {USER_UNITS}/sessiond@.service ~/kept && systemctl --user mask sessiond@.service",
        f"systemctl --user unmask sessiond@.service && mv ~/kept {USER_UNITS}/sessiond@.service"
        " && systemctl --user daemon-reload",
        "failure",
        "sessiond@.service is masked",
        "systemctl --user unmask sessiond@.service",
    ),
}


@pytest.mark.parametrize("how", SPOILT_UNITS)
def test_spoilt_units_are_told(product: Product, how: str) -> None:
    do, undo, status, detail, fix = SPOILT_UNITS[how]
    with done(product.host, do, undo):
        is_told(product.host, "units", status, detail, fix)
    is_well(product.host)


def test_a_supervisor_that_is_down_is_told_and_its_fix_starts_it(product: Product) -> None:
    product.stop_supervisor()
    try:
        rows = look(product.host)
        assert rows["supervisor"]["status"] == rows["socket"]["status"] == "failure"
        assert rows["supervisor"]["fix"] == rows["socket"]["fix"] == "sessionctl up"
        product.ctl("up")
        is_well(product.host)
    finally:
        product.start_supervisor()


@pytest.mark.parametrize(
    ("rule", "detail"), [("Restart=no", "has failed: exit-code"), ("RestartSec=600", "does not stay up")]
)
def test_a_supervisor_that_failed_or_does_not_stay_up(product: Product, rule: str, detail: str) -> None:
    drop_in = f"[Service]\nType=exec\nExecStart=\nExecStart=/bin/false\n{rule}\n"
    product.user_unit_drop_in(SUPERVISOR, drop_in)

    def ended() -> bool:
        shown = product.host.show(SUPERVISOR, "ActiveState", "SubState")
        return shown["ActiveState"] == "failed" or shown["SubState"] == "auto-restart"

    try:
        product.host.systemctl("restart", SUPERVISOR, check=False)
        until(ended, "the supervisor's unit has ended")
        is_told(product.host, "supervisor", "failure", detail, "journalctl")
    finally:
        product.host.run(["rm", "-r", f"{USER_UNITS}/{SUPERVISOR}.d"])
        product.host.systemctl("daemon-reload")
        product.start_supervisor()


def test_modes_of_the_socket_and_its_folder(product: Product) -> None:
    folder = f"{product.host.runtime_dir}/sessiond"
    socket = f"{folder}/sessiond.sock"
    with done(product.host, f"chmod 0666 {socket}", "true"):
        is_told(product.host, "socket", "failure", "has mode 0666, not 0600", f"chmod 0600 {socket}")
        mend(product.host, "socket")
    with done(product.host, f"chmod 0750 {folder}", "true"):
        is_told(product.host, "socket", "failure", "has mode 0750, not 0700", f"chmod 0700 {folder}")
        mend(product.host, "socket")
    is_well(product.host)


def test_a_socket_that_nobody_listens_on(product: Product) -> None:
    bind = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    path = f"{product.host.runtime_dir}/left.sock"
    with done(product.host, f"python3 -c {shlex.quote(bind)} {path} && chmod 0600 {path}", f"rm {path}"):
        found = look(product.host, None, "--socket", path)["socket"]
    assert found["status"] == "failure"
    assert "left behind: nobody listens" in found["detail"]


# ---- files ---------------------------------------------------------------------------------


@contextmanager
def _mounted(host: Host, folder: str, options: str) -> Iterator[None]:
    owner = f"uid={host.uid},gid={host.uid},mode=700"
    mount = f"mount -t tmpfs -o {options},{owner} tmpfs {folder}"
    with done(host, mount, f"umount --lazy {folder}", user=False):
        yield


def test_folders_that_cannot_be_written(product: Product) -> None:
    host = product.host
    with _mounted(host, STATE, "ro"):
        is_told(host, "state_folder", "failure", "Read-only file system", "remount,rw")
        mend(host, "state_folder")
        assert look(host)["state_folder"]["status"] == "ok"
    folder = f"{HOME}/.local/share/sessiond"
    with done(host, f"chmod 0500 {folder}", f"chmod 0700 {folder}"):
        is_told(host, "data_folder", "failure", "Permission denied", f"chmod u+rwx {folder}")
        mend(host, "data_folder")
    with done(host, f"mkdir -p {CONFIG} && chown 0:0 {CONFIG}", f"rmdir {CONFIG}", user=False):
        is_told(host, "config_folder", "failure", "belongs to uid 0", "chown -R tester")
        mend(host, "config_folder")
        is_well(host)


def test_disks_that_are_full_or_nearly(product: Product) -> None:
    host = product.host
    with _mounted(host, STATE, "size=16M"):
        is_told(host, "state_disk", "failure", "no room: 16 MiB", "df -h")
    with _mounted(host, STATE, "size=100M"):
        is_told(host, "state_disk", "warning", "little room: 100 MiB", "df -h")
    with _mounted(host, STATE, "size=1G,nr_inodes=40"):
        is_told(host, "state_disk", "failure", "files", "df -i")
    with _mounted(host, STATE, "size=64k"):
        host.run(["sh", "-c", f"dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null; true"])
        is_told(host, "state_folder", "failure", "No space left on device", "df -h")


def test_settings_that_mean_nothing(product: Product) -> None:
    product.write(f"{CONFIG}/config.toml", '[log]\nlevel = "loud"\n')
    try:
        is_told(product.host, "config", "failure", "config.toml:2", f"{CONFIG}/config.toml")
        is_told(
            product.host, "discovery_roots", "warning", "the settings cannot be read", "sessionctl config"
        )
        product.write(f"{CONFIG}/config.toml", f'[discovery]\nroots = ["{HOME}/gone", "/root"]\n')
        rows = product.host.sessionctl("doctor", "--json").stdout
        assert f"{HOME}/gone is not there" in rows
        assert "/root cannot be read" in rows
    finally:
        product.host.run(["rm", "-r", CONFIG])
    is_well(product.host)


def test_a_damaged_database(product: Product) -> None:
    product.stop_supervisor()
    database = f"{STATE}/sessiond.db"
    product.host.run(["sh", "-c", f"rm {database}*; echo no database > {database}; chmod 0600 {database}"])
    is_told(product.host, "database", "warning", "is damaged", f"systemctl --user restart {SUPERVISOR}")
    mend(product.host, "database")
    product.serving()
    is_told(product.host, "database_aside", "warning", "sessiond.db.corrupt-", f"rm {database}.corrupt-")
    mend(product.host, "database_aside")
    is_well(product.host)


# ---- agents --------------------------------------------------------------------------------


def test_an_agent_that_cannot_be_read(product: Product) -> None:
    session = product.started()["id"]
    product.ctl("run", "-s", session, "--name", "spoilt", "--", "true")
    folder = f"{STATE}/sessions/{session}/agents"
    [agent] = product.host.run(["ls", folder]).stdout.split()
    product.write(f"{folder}/{agent}/spec.json", "{")
    is_told(product.host, "agents", "warning", f"{folder}/{agent} is not shown as an agent", "ls -la ")
    assert product.host.run(["cat", f"{folder}/{agent}/spec.json"]).stdout == "{"
    product.host.run(["rm", "-r", f"{folder}/{agent}"])
    is_well(product.host)


def test_records_on_a_file_system_without_holes(product: Product) -> None:
    place = f"{OUTSIDE_ROOTS}/flat"
    owner = f"{product.host.uid}:{product.host.uid}"
    mount = f"mkdir -p {place} && mount -t ramfs ramfs {place} && mkdir -m 700 {place}/sessiond"
    away = f"umount {place} && rmdir {place}"
    with done(product.host, f"{mount} && chown -R {owner} {place}", away, user=False):
        env = {"XDG_STATE_HOME": place}
        is_told(product.host, "recording_bounds", "warning", "cannot free the front", "findmnt", env)
        # It has no figures of its room either.
        is_told(product.host, "recording_disk", "warning", "is not recorded: 0 MiB free", "df -h", env)
    is_well(product.host)


def test_fewer_open_files_than_a_session_daemon_asks_for(fresh_product: Callable[..., Product]) -> None:
    product = fresh_product()
    manager = f"user@{product.host.uid}.service"
    shown = product.host.run(["systemctl", "show", "--property=MainPID", "--value", manager], user=False)
    product.host.run(["prlimit", f"--pid={shown.stdout.strip()}", "--nofile=1024:4096"])
    is_told(product.host, "open_files", "warning", "may open 4096 files", "user@.service.d")
    mend(product.host, "open_files")
    product.host.run(["systemctl", "restart", manager], user=False)
    product.serving()
    assert "4096" not in look(product.host)["open_files"]["detail"]


# ---- kernel --------------------------------------------------------------------------------


def test_no_more_inotify_instances(product: Product) -> None:
    # A namespace of its own has a limit of its own: no other process is short of them.
    program = product.host.run(["readlink", LAUNCHER]).stdout.strip().removesuffix("d") + "ctl"
    limit = f"echo 0 > /proc/sys/user/max_inotify_instances && exec {program} doctor --json"
    words = f"mount -o remount,bind,rw /proc/sys && unshare --user --map-root-user sh -c {shlex.quote(limit)}"
    shown = product.host.run(["unshare", "--mount", "sh", "-c", words], user=False, check=False)
    [row] = [row for row in json.loads(shown.stdout) if row["check"] == "inotify"]
    assert row["status"] == "failure"
    assert "fs.inotify.max_user_instances" in row["fix"]


def test_a_clock_that_was_set_back(product: Product) -> None:
    with done(product.host, f"touch -d '+3 days' {STATE}/sessiond.db", f"touch {STATE}/sessiond.db"):
        is_told(
            product.host, "clock", "warning", "was written 72 hours after that", "timedatectl set-ntp true"
        )
    is_well(product.host)
