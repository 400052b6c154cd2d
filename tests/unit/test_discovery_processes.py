"""Processes as /proc tells them."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sessiond.discovery.processes import (
    LiveProcess,
    LiveProcesses,
    Namespaces,
    mark_of,
    outsiders,
    parse_locks,
    read_stat,
)
from tests.system.product import until


@contextmanager
def running(*argv: str, **how: object) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(argv, **how) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def test_a_process_is_told_as_it_is(tmp_path: Path) -> None:
    file = str(tmp_path / "file")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running("tee", file, cwd=tmp_path, env={"A": "b=c", "EMPTY": ""}, **pipes) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"x")
        child.stdin.flush()
        # By then it is all that it will be: a moment after its execution it has no command line yet.
        assert child.stdout.read(1) == b"x"
        process = LiveProcesses().get(child.pid)
        assert process is not None
        assert process.comm == "tee"
        assert os.path.samefile(process.exe, shutil.which("tee") or "")
        assert process.argv == ("tee", file)
        assert process.cwd == str(tmp_path)
        assert process.environment == {"A": "b=c", "EMPTY": ""}
        assert file in process.open_files
        assert process.parent == os.getpid()
        assert process.mark == ""


def test_a_name_that_looks_like_the_rest_of_the_line_misleads_nobody(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    shutil.copy(shutil.which("sleep") or "", program)
    with running(str(program), "60") as child:
        stat = read_stat(child.pid)
        assert stat is not None
        assert (stat.comm, stat.parent) == ("a) Z 1 (b", os.getpid())


def test_a_process_lives_until_its_last_thread_ends() -> None:
    code = (
        "import ctypes, platform, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60, 'aarch64': 93}[platform.machine()], 0)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        stat = Path(f"/proc/{child.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "its first thread is gone")
        assert read_stat(child.pid) is not None
        assert LiveProcesses().get(child.pid) is not None
        child.stdin.close()
        assert os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT) is not None
        assert read_stat(child.pid) is None


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(child.pid)
    try:
        select.select([pidfd], [], [])
        assert LiveProcesses().get(child.pid) is None
        assert all(one.pid != child.pid for one in LiveProcesses().all())
    finally:
        os.close(pidfd)
        child.wait()


def test_what_ended_meanwhile_is_empty() -> None:
    with running("sleep", "60", env={"A": "b"}) as child:
        process = LiveProcesses().get(child.pid)
        assert process is not None
    assert (process.exe, process.cwd, process.mark) == ("", "", "")
    assert (process.argv, process.environment, process.open_files) == ((), {}, frozenset())


def test_a_recycled_pid_is_told_nothing_of() -> None:
    stat = read_stat(os.getpid())
    assert stat is not None
    other = LiveProcess(os.getpid(), stat._replace(start_time=stat.start_time - 1))
    assert other.exe == ""
    assert other.environment == {}


def test_all_holds_those_of_this_user_and_no_threads_of_the_kernel() -> None:
    with running("sleep", "60") as child:
        processes = LiveProcesses()
        pids = {one.pid for one in processes.all()}
        assert {child.pid, os.getpid()} <= pids
        assert 2 not in pids or read_stat(2) is None or processes.get(2).comm != "kthreadd"  # type: ignore[union-attr]


def test_none_of_that_pid() -> None:
    assert LiveProcesses().get(0) is None
    assert LiveProcesses().get(-1) is None
    assert LiveProcesses().get(2**22) is None


def test_the_holder_of_a_flock_is_found_by_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino)
        assert LiveProcesses().lock_holders()[key] == os.getpid()
        fcntl.flock(file, fcntl.LOCK_UN)
        assert key not in LiveProcesses().lock_holders()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1: FLOCK  ADVISORY  WRITE 77 fe:1a:2212026 0 EOF", {(os.makedev(0xFE, 0x1A), 2212026): 77}),
        ("1: FLOCK  ADVISORY  READ 77 00:123:5 0 EOF", {(os.makedev(0, 0x123), 5): 77}),
        ("1: -> FLOCK  ADVISORY  WRITE 78 fe:1a:2212026 0 EOF", {}),
        ("2: POSIX  ADVISORY  WRITE 77 fe:1a:2212026 0 EOF", {}),
        ("3: FLOCK  ADVISORY  WRITE 0 fe:1a:2212026 0 EOF", {}),
        ("3: FLOCK  ADVISORY  WRITE -1 fe:1a:2212026 0 EOF", {}),
        ("4: FLOCK  ADVISORY  WRITE 77 <none>:0 0 EOF", {}),
        ("", {}),
    ],
)
def test_a_line_of_locks(line: str, told: dict[tuple[int, int], int]) -> None:
    assert parse_locks(line) == told


_SESSION, _AGENT = "0123456789ab4def8123456789abcdef", "a1b2c3d4e5f60718"


@pytest.mark.parametrize(
    ("cgroup", "mark"),
    [
        (f"0::/user.slice/sessiond.slice/sessiond-agent@{_SESSION}-{_AGENT}.service\n", True),
        (f"12:cpu:/x\n1:name=systemd:/sessiond-agent@{_SESSION}-{_AGENT}.service/inner\n0::/\n", True),
        (f"0::/sessiond-session@{_SESSION}.service\n", False),
        ("0::/sessiond-agent@x-y.service\n", False),
        ("0::/\n", False),
        ("", False),
    ],
)
def test_the_mark_is_that_of_our_agents_unit(cgroup: str, mark: bool) -> None:
    assert mark_of(cgroup) == (f"{_SESSION}-{_AGENT}" if mark else "")


class Proc:
    """A /proc that is what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(
        self, pid: int, *inner: int, began: int = 100, space: str = "", flags: int = 0, comm: str = "x"
    ) -> Proc:
        """A process, its pids in inner namespaces, and the innermost one where that can be read."""
        place = self.folder / str(pid)
        (place / "ns").mkdir(parents=True)
        fields = ["S", "1", "1", "1", "0", "-1", str(flags), *["0"] * 12, str(began), *["0"] * 30]
        (place / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")
        (place / "status").write_text(f"Name:\t{comm}\nNSpid:\t" + "\t".join(map(str, (pid, *inner))) + "\n")
        if space:
            (place / "ns" / "pid").symlink_to(space)
        return self

    @property
    def outermost(self) -> Proc:
        """With the first process and the kernel's own threads."""
        return self.has(1).has(2, flags=0x208040)

    @property
    def spaces(self) -> Namespaces:
        return Namespaces(str(self.folder))


GONE = "pid:[4]"


def test_a_process_of_another_namespace_is_seen_by_its_pid_there(tmp_path: Path) -> None:
    spaces = Proc(tmp_path).outermost.has(500, 7, began=33, space=GONE).spaces
    assert spaces.find(GONE, 7, 33) == 500
    assert spaces.find(GONE, 7, None) == 500
    # Another has that pid by now; and the same pid of another namespace is another process.
    assert spaces.find(GONE, 7, 34) == 0
    assert spaces.find("pid:[5]", 7, 33) == 0


def test_what_cannot_be_read_of_a_process_may_be_any_namespace(tmp_path: Path) -> None:
    spaces = Proc(tmp_path).outermost.has(500, 7, began=33).spaces
    assert spaces.find(GONE, 7, 33) == 500
    assert spaces.find(GONE, 7, 34) == 0


def test_a_namespace_that_is_not_seen_is_over_only_where_all_are_seen(tmp_path: Path) -> None:
    assert Proc(tmp_path / "machine").outermost.spaces.find(GONE, 7, 33) == 0
    container = Proc(tmp_path / "container").has(1).has(2).has(500, space="pid:[9]")
    assert container.spaces.find(GONE, 7, 33) is None
    # Of one that is seen, all processes are.
    assert container.spaces.find("pid:[9]", 7, 33) == 0
    hidden = Proc(tmp_path / "hidden").has(2, flags=0x208040).has(500, space=GONE)
    assert hidden.spaces.find(GONE, 7, 33) is None


def test_outside_are_those_that_our_own_proc_does_not_show(tmp_path: Path) -> None:
    own = read_stat(os.getpid())
    assert own is not None
    proc = Proc(tmp_path).has(1000, os.getpid(), began=own.start_time).has(1001, comm="codex")
    # Deeper than ours: in a nest beside ours, and in a container that is seen here too.
    proc.has(1002, os.getpid(), began=own.start_time + 1).has(1003, os.getpid(), 5, began=own.start_time)
    (tmp_path / "self").symlink_to("1000")
    found = {one.pid: one for one in outsiders(str(tmp_path))}
    assert found.keys() == {1001, 1002}
    assert (found[1001].comm, found[1001].start_time, found[1001].cwd) == ("codex", 100, "")


def test_without_a_nest_nothing_is_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.discovery.processes.OUTSIDE", str(tmp_path))
    processes = LiveProcesses()
    assert (list(processes.outside()), dict(processes.lock_holders_outside())) == ([], {})
    own = os.readlink("/proc/self/ns/pid")
    stat = read_stat(os.getpid())
    assert stat is not None
    assert processes.abroad(own, os.getpid(), stat.start_time) == os.getpid()
    assert processes.abroad(own, os.getpid(), stat.start_time + 1) == 0


def test_in_a_nest_its_outside_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.discovery.processes.OUTSIDE", str(tmp_path))
    Proc(tmp_path).outermost.has(1000, 7).has(1001, space="pid:[1]")
    (tmp_path / "self").symlink_to("1000")
    (tmp_path / "locks").write_text("1: FLOCK  ADVISORY  WRITE 1001 fe:1a:5 0 EOF\n")
    processes = LiveProcesses()
    assert 1001 in {one.pid for one in processes.outside()}
    assert processes.lock_holders_outside() == {(os.makedev(0xFE, 0x1A), 5): 1001}
    assert processes.abroad("pid:[1]", 1001, 100) == 1001
    assert processes.abroad(GONE, 1001, 100) == 0
