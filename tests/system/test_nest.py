"""The nest on the live machine: up, down, racing, dying, and nothing of it left behind."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond import nest
from sessiond.errors import PermissionDenied, SessiondError, TimedOut, Unsupported
from sessiond.nest import boot, layout, lifecycle, units
from sessiond.nest.plan import Entry
from sessiond.nest.record import start_time
from sessiond.paths import OUTSIDE

_CI = bool(os.environ.get("CI"))
_UID = os.getuid()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The cgroups that this test makes: other nests may come and go meanwhile."""
    seen: list[Path] = []
    make = lifecycle._make_cgroup

    def make_and_tell(cgroup: Path) -> None:
        seen.append(cgroup)
        make(cgroup)

    monkeypatch.setattr(lifecycle, "_make_cgroup", make_and_tell)
    return seen


@pytest.fixture
def base(made: list[Path]) -> Iterator[Path]:
    """A record folder of the test's own, short enough for sockets; nothing may be left after it."""
    folder = Path(tempfile.mkdtemp(prefix="sn-", dir="/tmp"))
    mounts = _mounts()
    try:
        yield folder / "n"
    finally:
        nest.down(base=folder / "n", timeout=0)
        shutil.rmtree(folder)
    assert _mounts() == mounts
    assert [cgroup for cgroup in made if cgroup.exists()] == []


def _mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def _up(base: Path) -> nest.Nest:
    try:
        return nest.up(base=base, timeout=120)
    except (PermissionDenied, Unsupported) as error:
        if _CI:
            raise
        pytest.skip(f"no nest can boot here: {error.message}")


@pytest.fixture(scope="module")
def shared() -> Iterator[nest.Nest]:
    """One nest for the tests that leave it as they found it."""
    folder = Path(tempfile.mkdtemp(prefix="sn-", dir="/tmp"))
    try:
        yield _up(folder / "n")
    finally:
        nest.down(base=folder / "n", timeout=0)
        shutil.rmtree(folder)


def _out(found: nest.Nest, *argv: str) -> str:
    return nest.run(found, argv).stdout


def test_systemd_journald_bus_logind_and_the_users_manager_run(shared: nest.Nest) -> None:
    assert _out(shared, "systemctl", "is-system-running", "--wait") == "running\n"
    running = ["systemd-journald", "dbus", "systemd-logind", f"user@{_UID}"]
    assert _out(shared, "systemctl", "is-active", *running).split() == ["active"] * 4
    assert _out(shared, "systemctl", "--user", "is-system-running", "--wait") == "running\n"
    assert _out(shared, "loginctl", "show-user", str(_UID), "-p", "Linger") == "Linger=yes\n"
    assert "org.freedesktop.systemd1" in _out(shared, "busctl", "--user", "list")


def test_only_pid_1_has_the_private_unit_path(shared: nest.Nest) -> None:
    environment = _out(shared, "systemctl", "--user", "show-environment").splitlines()
    assert f"SESSIOND_RUNTIME_DIR={shared.runtime_dir}" in environment
    assert not [line for line in environment if line.startswith(("SYSTEMD_UNIT", "NOTIFY", "cont"))]
    paths = _out(shared, "systemctl", "--user", "show", "-p", "UnitPath", "--value").split()
    assert f"/run/user/{_UID}/systemd/user" in paths
    assert "/usr/lib/systemd/user" in paths
    assert pwd.getpwuid(_UID).pw_dir + "/.config/systemd/user" in paths


def test_no_unit_of_the_live_machine_is_loaded(shared: nest.Nest) -> None:
    listed = json.loads(_out(shared, "systemctl", "list-unit-files", "-o", "json"))
    names = {entry["unit_file"] for entry in listed}
    allowed = {*units._REQUIRED, *units._OPTIONAL, units.TARGET}
    assert names <= allowed
    assert "systemd-sysctl.service" not in names


def test_what_runs_inside_speaks_to_the_journal(shared: nest.Nest) -> None:
    run = ["systemd-run", "--user", "--wait", "--pipe", "echo", "to the caller"]
    assert _out(shared, *run) == "to the caller\n"
    # journald looks up whose line it is when it comes to it: of a program that has ended nothing is left.
    start = ["systemd-run", "--user", "--quiet", "--unit=says", "-p", "Type=notify", "-p", "NotifyAccess=all"]
    _out(shared, *start, "sh", "-c", "echo to the journal; systemd-notify --ready; exec sleep infinity")
    _out(shared, "journalctl", "--sync")
    _out(shared, "systemctl", "--user", "stop", "says")
    shown = _out(shared, "journalctl", "--user-unit=says.service", "-o", "cat")
    assert "to the journal" in shown


def test_names_resolve_as_outside(shared: nest.Nest) -> None:
    for query in (["hosts", "localhost"], ["hosts", socket.gethostname()], ["passwd", "root"]):
        argv = ["getent", *query]
        outside = subprocess.run(argv, capture_output=True, text=True)
        inside = nest.run(shared, argv, check=False)
        assert (inside.returncode, inside.stdout) == (outside.returncode, outside.stdout)
    assert _out(shared, "cat", "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text()
    assert _out(shared, "hostname") == socket.gethostname() + "\n"


def test_sockets_of_the_users_services_are_reached_from_outside(shared: nest.Nest) -> None:
    server = (
        "import os, socket; s = socket.socket(socket.AF_UNIX);"
        "s.bind(os.environ['SESSIOND_RUNTIME_DIR'] + '/test.sock'); s.listen(1);"
        "os.system('systemd-notify --ready'); c = s.accept()[0]; c.sendall(b'hello')"
    )
    start = ["systemd-run", "--user", "--quiet", "--unit=serves", "-p", "Type=notify"]
    start += ["-p", "NotifyAccess=all", "--", sys.executable, "-c", server]
    _out(shared, *start)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(120)
        client.connect(str(shared.runtime_dir / "test.sock"))
        assert client.recv(16) == b"hello"
    assert stat.S_IMODE(shared.runtime_dir.stat().st_mode) == 0o700
    longest = shared.runtime_dir / "sessions" / ("0" * 32 + ".sock")
    assert len(os.fsencode(longest)) <= 107


def test_pids_are_told_as_the_caller_sees_them(shared: nest.Nest) -> None:
    _out(shared, "systemd-run", "--user", "--quiet", "--unit=sleeps", "sleep", "987654")
    inner = int(_out(shared, "systemctl", "--user", "show", "sleeps", "-p", "MainPID", "--value"))
    outer = nest.outer_pids(shared)
    assert Path(f"/proc/{outer[inner]}/cmdline").read_bytes().split(b"\0")[1] == b"987654"
    assert outer[1] == shared.pid
    _out(shared, "systemctl", "--user", "stop", "sleeps")
    assert inner not in nest.outer_pids(shared)


def test_what_runs_inside_sees_the_processes_outside_apart_from_its_own(shared: nest.Nest) -> None:
    code = (
        "from sessiond.discovery.processes import LiveProcesses as P; print(*(p.pid for p in P().outside()))"
    )
    seen = {int(pid) for pid in _out(shared, sys.executable, "-c", code).split()}
    assert os.getpid() in seen
    assert seen.isdisjoint(nest.outer_pids(shared).values())
    assert Path(f"/proc/{shared.pid}/root{OUTSIDE}").is_mount()
    write = nest.run(shared, ["sh", "-c", f"echo x > {OUTSIDE}/self/comm"], check=False)
    assert "Read-only" in write.stderr


def test_exec_keeps_folder_environment_status_and_input(
    shared: nest.Nest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_OUTSIDE", "kept; $HOME 'quoted'")
    assert _out(shared, "pwd") == f"{tmp_path}\n"
    assert _out(shared, "printenv", "FROM_OUTSIDE") == "kept; $HOME 'quoted'\n"
    assert nest.run(shared, ["printenv", "XDG_RUNTIME_DIR"]).stdout == f"/run/user/{_UID}\n"
    assert nest.run(shared, ["sh", "-c", "exit 7"], check=False).returncode == 7
    assert nest.run(shared, ["cat"], stdin="through").stdout == "through"
    nest.run(shared, ["sh", "-c", "echo written > here"])
    assert (tmp_path / "here").read_text() == "written\n"


def test_exec_moves_its_helper_and_never_its_caller(shared: nest.Nest) -> None:
    before = Path("/proc/self/cgroup").read_text()
    inside = _out(shared, "cat", "/proc/self/cgroup")
    assert Path("/proc/self/cgroup").read_text() == before
    assert inside.splitlines()[-1] == f"0::/../{layout.EXEC_CGROUP}"


def test_what_exec_runs_dies_with_the_process_outside(shared: nest.Nest) -> None:
    argv = nest.exec_argv(shared, ["sh", "-c", "echo $$; exec sleep 987655"])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    inner = int(process.stdout.readline())
    descriptor = os.pidfd_open(nest.outer_pids(shared)[inner])
    process.kill()
    process.wait(120)
    process.stdout.close()
    _await_end(descriptor)


def _await_end(descriptor: int) -> None:
    import select

    try:
        assert select.select([descriptor], [], [], 120)[0], "it still runs"
    finally:
        os.close(descriptor)


def test_up_twice_gives_the_living_one(base: Path) -> None:
    first = _up(base)
    assert nest.up(base=base, timeout=120) == first
    assert nest.status(base=base) == first


def test_racing_ups_boot_one_nest(base: Path) -> None:
    _up(base)
    nest.down(base=base, timeout=0)
    racers = [_python(f"print(nest.up(base=Path({str(base)!r}), timeout=120).pid)") for _ in range(4)]
    pids = {racer.communicate(timeout=300)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 4
    living = nest.status(base=base)
    assert living
    assert pids == {f"{living.pid}\n"}


def test_racing_ups_and_downs_end_in_one_or_none(base: Path) -> None:
    first = _up(base)
    turns = ["nest.up(base=base, timeout=120)", "nest.down(base=base, timeout=0)"] * 3
    racers = [_python(f"base = Path({str(base)!r}); {turn}") for turn in turns]
    for racer in racers:
        _, error = racer.communicate(timeout=300)
        assert racer.returncode == 0, error
    assert not first.cgroup.exists()
    living = nest.status(base=base)
    assert nest.down(base=base, timeout=0) is (living is not None)


def _python(code: str) -> subprocess.Popen[str]:
    program = f"from pathlib import Path; from sessiond import nest; {code}"
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_it_outlives_the_process_that_booted_it_and_holds_nothing_of_it(base: Path) -> None:
    _up(base)
    nest.down(base=base, timeout=0)
    leak_read, leak_write = os.pipe()
    os.set_inheritable(leak_write, True)
    code = (
        f"from sessiond import nest; from pathlib import Path; nest.up(base=Path({str(base)!r}), timeout=120)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], pass_fds=[leak_write], capture_output=True, timeout=300
    )
    os.close(leak_write)
    assert done.returncode == 0, done.stderr
    # The output of the booting process ended with it, and so did the descriptor it was given.
    assert os.read(leak_read, 1) == b""
    os.close(leak_read)
    living = nest.status(base=base)
    assert living
    assert os.getsid(living.pid) != os.getsid(0)


def test_down_leaves_no_process_mount_or_cgroup(base: Path) -> None:
    before = _mounts()
    living = _up(base)
    start = ["systemd-run", "--user", "--quiet", "--unit=deaf", "sh", "-c"]
    nest.run(living, [*start, "trap '' TERM; while :; do sleep 987656; done"])
    pids = {pid: start_time(pid) for pid in nest.outer_pids(living).values()}
    assert len(pids) > 5
    assert nest.down(base=base, timeout=0.2) is True
    assert [pid for pid, started in pids.items() if start_time(pid) == started] == []
    assert not living.cgroup.exists()
    assert not base.exists()
    assert _mounts() == before
    assert nest.status(base=base) is None
    assert nest.down(base=base) is False


def test_down_lets_services_end_in_their_own_way(base: Path, tmp_path: Path) -> None:
    living = _up(base)
    script = f"trap 'echo ended > {tmp_path}/word; exit' TERM; touch {tmp_path}/ready; "
    script += "systemd-notify --ready; while :; do sleep 0.05; done"
    start = ["systemd-run", "--user", "--quiet", "-p", "Type=notify", "-p", "NotifyAccess=all"]
    nest.run(living, [*start, "sh", "-c", script])
    assert nest.down(base=base, timeout=120) is True
    assert (tmp_path / "word").read_text() == "ended\n"


def test_the_live_machine_is_not_touched(base: Path) -> None:
    before = _machine()
    living = _up(base)
    nest.run(living, ["systemd-run", "--user", "--wait", "--quiet", "true"])
    nest.run(living, ["loginctl", "enable-linger", "daemon"], check=False)
    assert nest.run(living, ["sysctl", "-w", "kernel.panic=1"], check=False).returncode != 0
    assert nest.run(living, ["hostname", "other"]).returncode == 0
    assert _machine() == before
    nest.down(base=base)
    assert _machine() == before


def _machine() -> dict[str, object]:
    seen: dict[str, object] = {"hostname": socket.gethostname()}
    for folder in ("/etc", "/etc/systemd", "/var/lib/systemd", "/var/lib/systemd/linger"):
        names = os.listdir(folder) if os.path.isdir(folder) else None
        seen[folder] = sorted(names) if names is not None else None
    seen["journal"] = sorted(os.listdir("/var/log/journal")) if os.path.isdir("/var/log/journal") else 0
    seen["private tmp"] = [str(p) for d in ("/tmp", "/var/tmp") for p in Path(d).glob("systemd-private*")]
    for name in ("/etc/machine-id", "/etc/hostname", "/etc/passwd"):
        path = Path(name)
        seen[name] = (path.stat().st_mtime_ns, path.read_text()) if path.exists() else None
    for name in (
        "fs/file-max",
        "fs/nr_open",
        "net/unix/max_dgram_qlen",
        "kernel/panic",
        "kernel/core_pattern",
    ):
        path = Path("/proc/sys", name)
        seen[name] = path.read_text() if path.exists() else None
    return seen


def test_a_dead_nest_is_told_from_a_living_one_and_swept_by_up(base: Path) -> None:
    dead = _up(base)
    nest.power_cut(dead)
    assert not dead.alive
    assert nest.status(base=base) is None
    (dead.runtime_dir / "stale.sock").touch()
    living = nest.up(base=base, timeout=120)
    assert living.pid != dead.pid
    assert not dead.cgroup.exists()
    assert list(living.runtime_dir.iterdir()) == []


def test_down_sweeps_a_dead_nest(base: Path) -> None:
    dead = _up(base)
    nest.power_cut(dead)
    assert dead.cgroup.exists()
    assert nest.down(base=base) is True
    assert not dead.cgroup.exists()
    assert not base.exists()


def test_a_recycled_pid_is_no_nest_and_is_not_killed(base: Path) -> None:
    living = _up(base)
    nest.power_cut(living)
    with subprocess.Popen(["sleep", "987657"]) as innocent:
        path = base / "record.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": innocent.pid}))
        assert nest.status(base=base) is None
        assert nest.down(base=base) is True
        assert innocent.poll() is None
        innocent.kill()


def test_a_boot_killed_midway_is_swept_by_the_next(base: Path) -> None:
    _up(base)
    nest.down(base=base, timeout=0)
    killed = _python(
        "import os, signal; from sessiond.nest import lifecycle;"
        "lifecycle._close_console = lambda record: os.kill(os.getpid(), signal.SIGKILL);"
        f"nest.up(base=Path({str(base)!r}), timeout=120)"
    )
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    left = json.loads((base / "record.json").read_text())
    assert start_time(left["pid"]) == left["start_time"]
    assert nest.status(base=base) is None
    living = nest.up(base=base, timeout=120)
    assert start_time(left["pid"]) != left["start_time"]
    assert not Path(left["cgroup"]).exists()
    assert living.alive


def test_an_interrupted_boot_leaves_nothing(
    base: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _mounts()

    def interrupt(record: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "_close_console", interrupt)
    with pytest.raises(KeyboardInterrupt):
        nest.up(base=base, timeout=120)
    assert _mounts() == before
    assert [cgroup.exists() for cgroup in made] == [False]
    assert not (base / "record.json").exists()


def test_a_boot_that_does_not_end_is_bounded_and_leaves_nothing(
    base: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _mounts()
    silent = ("/bin/sh", "-c", "echo waiting for nothing > /dev/console; exec sleep 987658")
    monkeypatch.setattr(layout, "init_argv", lambda init: silent)
    began = time.monotonic()
    with pytest.raises(TimedOut) as raised:
        nest.up(base=base, timeout=15)
    assert time.monotonic() - began < 100
    assert raised.value.code == "nest_boot_failed"
    assert "waiting for nothing" in raised.value.hint
    assert _mounts() == before
    assert [cgroup.exists() for cgroup in made] == [False]


def test_a_boot_that_fails_shows_its_console(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = ("/bin/sh", "-c", "echo the reason it gave > /dev/console; exit 3")
    monkeypatch.setattr(layout, "init_argv", lambda init: failing)
    began = time.monotonic()
    with pytest.raises(SessiondError) as raised:
        nest.up(base=base, timeout=300)
    assert time.monotonic() - began < 100
    assert "the reason it gave" in raised.value.hint
    assert nest.status(base=base) is None


def test_a_users_manager_that_fails_is_told_with_its_journal(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(uid: int, variables: dict[str, str]) -> list[Entry]:
        path = f"{units.UNIT_DIR}/user@{uid}.service.d/90-broken.conf"
        return [Entry("file", path, "[Service]\nExecStart=\nExecStart=/bin/false\n")]

    monkeypatch.setattr(units, "unit_environment", broken)
    with pytest.raises(SessiondError) as raised:
        nest.up(base=base, timeout=120)
    assert raised.value.code == "nest_boot_failed"
    assert f"user@{_UID}.service" in raised.value.hint


def test_a_step_that_the_kernel_refuses_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "devices", lambda: ("no-such-device",))
    with pytest.raises(Unsupported) as raised:
        nest.up(base=base, timeout=120)
    assert raised.value.code == "nest_boot_failed"
    assert "no-such-device" in raised.value.message


def test_a_nest_below_run_keeps_its_folders_visible() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sn-", dir="/run"))
    try:
        living = _up(folder / "n")
        nest.run(living, ["touch", f"{living.runtime_dir}/seen"])
        assert (living.runtime_dir / "seen").exists()
        mounts = _out(living, "cat", "/proc/self/mountinfo").splitlines()
        assert not [line for line in mounts if "scratch" in line.split()[4]]
        nest.down(base=folder / "n")
    finally:
        nest.down(base=folder / "n", timeout=0)
        shutil.rmtree(folder)


def test_the_console_is_gone_once_booted(shared: nest.Nest) -> None:
    assert not Path(f"/proc/{shared.pid}/root/dev/console").exists()
    shown = _out(shared, "journalctl", "-o", "cat", "_PID=1")
    assert "SIGHUP" not in shown
    assert boot.NOTIFY not in os.listdir(shared.folder.boot)
