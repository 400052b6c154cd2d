"""What every test is held to: a home of its own, no network, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

RUN_MARK = "SESSIOND_TEST_RUN"
# Seconds that things already ending are given to end, on a machine that is busy with others.
GRACE = float(os.environ.get("SESSIOND_TEST_GRACE", "60"))
# Variables through which a test, or what it starts, would reach the session it is run from.
OUTSIDE = ("DBUS_SESSION_BUS_ADDRESS", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC")

# How long an example takes tells how busy the machine is, and nothing of what is tried. The same examples
# each time, as in CI: others are searched for with --hypothesis-profile=default and a --hypothesis-seed.
settings.register_profile(
    "any-machine", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")

_run_id = uuid.uuid4().hex
_run_folder: Path | None = None


# --- a home of its own --------------------------------------------------------------------------


def _point_home_at(folder: Path) -> None:
    """Make folder the home, with every XDG folder below it; only those that must exist are made."""
    for name in OUTSIDE:
        os.environ.pop(name, None)
    for name in [name for name in os.environ if name.startswith("SESSIOND_") and "_TEST_" not in name]:
        del os.environ[name]
    places = {
        "HOME": folder / "home",
        "XDG_CONFIG_HOME": folder / "home/.config",
        "XDG_DATA_HOME": folder / "home/.local/share",
        "XDG_STATE_HOME": folder / "home/.local/state",
        "XDG_CACHE_HOME": folder / "home/.cache",
        "XDG_RUNTIME_DIR": folder / "run",
    }
    for made in ("HOME", "XDG_RUNTIME_DIR"):
        places[made].mkdir(mode=0o700, parents=True)
    os.environ.update({name: str(place) for name, place in places.items()})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-agents", action="store_true", help="run the agent programs that CI does not run, too"
    )


def pytest_configure() -> None:
    # Also for fixtures that outlive one test. Short, because a socket's path holds 107 bytes.
    global _run_folder  # noqa: PLW0603
    _run_folder = Path(tempfile.mkdtemp(prefix="sd-"))
    _point_home_at(_run_folder)
    os.environ[RUN_MARK] = _run_id
    sys.addaudithook(_refuse_network)


@pytest.fixture(autouse=True)
def isolated_home() -> Iterator[Path]:
    """A new, empty home and runtime folder for each test; yields the home."""
    saved = dict(os.environ)
    folder = Path(tempfile.mkdtemp(prefix="sd-", dir=_run_folder))
    _point_home_at(folder)
    yield folder / "home"
    current = os.environ.get("PYTEST_CURRENT_TEST")
    os.environ.clear()
    os.environ.update(saved)
    if current is not None:
        os.environ["PYTEST_CURRENT_TEST"] = current
    shutil.rmtree(folder, ignore_errors=True)


# --- no network ---------------------------------------------------------------------------------


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: let only Unix sockets, netlink and the loopback be connected to."""
    if event not in {"socket.connect", "socket.sendto"}:
        return
    address = arguments[1]
    if not isinstance(address, tuple) or not isinstance(address[0], str):
        return
    try:
        allowed = ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        allowed = address[0] == "localhost"
    if not allowed and _run_folder is not None:
        raise PermissionError(f"tests have no network: connection to {address[0]} refused")


# --- nothing left behind, test by test ----------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest, isolated_home: Path) -> Iterator[None]:
    """Fail a test that ends with tasks, threads or child processes it started and did not end."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("no_tasks_left_behind")
    children = _children()
    threads = set(threading.enumerate())
    yield
    left = [f"process {_describe(process)}" for process in _alive(_children() - children)]
    for thread in set(threading.enumerate()) - threads:
        # Daemon threads are the pollers of libraries, which live as long as the interpreter; the workers
        # behind asyncio.to_thread end with the loop, which waits for them, after this.
        if not thread.daemon and not thread.name.startswith("asyncio_"):
            thread.join(GRACE)
            if thread.is_alive():
                left.append(f"thread {thread.name}")
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
async def no_tasks_left_behind() -> AsyncIterator[None]:
    """Fail an asynchronous test that ends with pending tasks, which the loop's end would hide."""
    before = asyncio.all_tasks()
    yield
    pending = asyncio.all_tasks() - before - {asyncio.current_task()}
    if pending:
        # A task that was cancelled a moment ago still needs a turn of the loop.
        _, pending = await asyncio.wait(pending, timeout=GRACE)
    if pending:
        lines = "\n  ".join(f"{task.get_name()}: {task.get_coro()}" for task in pending)
        pytest.fail(f"asyncio tasks left behind by this test:\n  {lines}", pytrace=False)


def _children() -> set[psutil.Process]:
    """Return the direct children of this process; read from procfs, far faster than a scan."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            pids = (thread / "children").read_text().split()
        except OSError:
            continue
        for pid in pids:
            try:
                found.add(psutil.Process(int(pid)))
            except psutil.NoSuchProcess:
                continue
    return found


def _alive(processes: set[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run after a moment."""
    return list(psutil.wait_procs(processes, timeout=GRACE)[1]) if processes else []


def _describe(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            line = " ".join(process.cmdline()) or process.name()
            test = process.environ().get("PYTEST_CURRENT_TEST", "")
    except psutil.Error:
        line, test = "(gone)", ""
    return f"{process.pid} {line[:120]}" + (f" started in {test}" if test else "")


# --- nothing left behind, at the end of the run -------------------------------------------------


def _left_by_the_run() -> list[str]:
    """Return what carries this run's mark, or lies in its folders, after every fixture has ended.

    Such processes are then killed: they are reported, and need not outlive the report.
    """
    suspects = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_MARK) == _run_id:
                suspects.add(process)
        except psutil.Error:
            continue
    alive = _alive(suspects)
    left = [f"process {_describe(process)}" for process in alive]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=GRACE)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return left + [f"mount {line.split()[4]}" for line in mounts if str(_run_folder) in line]


_problems: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn an otherwise good run into a failed one where something was left behind."""
    _problems.extend(f"left behind: {what}" for what in _left_by_the_run())
    if _problems and exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if _run_folder is not None:
        shutil.rmtree(_run_folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _problems:
        terminalreporter.section("the run as a whole", red=True)
        for problem in _problems:
            terminalreporter.line(problem)
