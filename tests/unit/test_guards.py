"""The guards in tests/conftest.py, each provoked once in a pytest run of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parents[1]

LEAKS = """
import asyncio, os, socket, subprocess, threading
from pathlib import Path
import pytest

release = threading.Event()

async def test_task():
    asyncio.create_task(asyncio.Event().wait(), name="forgotten")

async def test_cancelled_task_is_fine():
    asyncio.create_task(asyncio.Event().wait()).cancel()

def test_process():
    subprocess.Popen(["sleep", "60"])

def test_orphan():
    subprocess.run(["sh", "-c", "sleep 61 >/dev/null 2>&1 &"], check=True)

def test_thread(request):
    request.config.add_cleanup(release.set)
    threading.Thread(target=release.wait, name="forgotten").start()

def test_network():
    with socket.socket() as client:
        client.connect(("192.0.2.1", 9))

def test_home_is_a_new_folder():
    assert Path.home() != Path(os.environ["OUTER_HOME"])
    assert not list(Path.home().iterdir())
    assert "DBUS_SESSION_BUS_ADDRESS" not in os.environ
    assert len(os.environ["XDG_RUNTIME_DIR"]) < 60
    (Path.home() / "mark").touch()

def test_home_is_new_for_each_test():
    assert not list(Path.home().iterdir())

def test_nothing_left():
    subprocess.run(["true"], check=True)
"""

SKIPS = """
import pytest

def test_runs():
    pass

def test_needs_a_host():
    pytest.skip("no host here")

@pytest.mark.may_skip("a nicety of newer systems")
def test_may_skip():
    pytest.skip("too old")
"""

SKIPPED_MODULE = """
import pytest

pytest.importorskip("a_module_that_is_not_there")
"""


def is_running(pid: int) -> bool:
    """Tell whether pid is a process that still does something; one that only awaits its parent does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on folder, which gets the guards; PYTEST_ADDOPTS and CI are only as given."""
    (folder / "tests/conftest.py").write_text((TESTS / "conftest.py").read_text())
    inherited = {k: v for k, v in os.environ.items() if k not in {"PYTEST_ADDOPTS", "CI"}}
    options = ["-q", "-rA", "-p", "no:cacheprovider", "-c", "/dev/null", "-o", "asyncio_mode=auto"]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "--rootdir",
            str(folder),
            *arguments,
            str(folder / "tests"),
        ],
        cwd=folder,
        env=inherited | {"SESSIOND_TEST_GRACE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_leaks_fail_the_test_that_made_them(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_leaks.py").write_text(LEAKS)
    run = run_pytest(
        tmp_path, OUTER_HOME=os.environ["HOME"], DBUS_SESSION_BUS_ADDRESS="unix:path=/nonexistent"
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    verdicts = set(re.findall(r"^(?:FAILED|ERROR) \S+::(\w+)", run.stdout, re.MULTILINE))
    assert verdicts == {"test_task", "test_process", "test_thread", "test_network"}, run.stdout
    assert "forgotten" in run.stdout
    left = re.findall(r"left behind: process (\d+) (sleep \d+) started in \S+::(\w+)", run.stdout)
    assert {(line, test) for _, line, test in left} == {
        ("sleep 60", "test_process"),
        ("sleep 61", "test_orphan"),
    }
    assert not [pid for pid, _, _ in left if is_running(int(pid))]


@pytest.mark.parametrize(("ci", "status"), [("", pytest.ExitCode.OK), ("true", pytest.ExitCode.TESTS_FAILED)])
def test_in_ci_a_skip_is_a_failure_in_the_system_tier_alone(
    tmp_path: Path, ci: str, status: pytest.ExitCode
) -> None:
    for tier in ("system", "unit"):
        (tmp_path / "tests" / tier).mkdir(parents=True)
        (tmp_path / f"tests/{tier}/test_skips_{tier}.py").write_text(SKIPS)
    (tmp_path / "tests/system/test_whole.py").write_text(SKIPPED_MODULE)
    (tmp_path / "tests/system/conftest.py").write_text((TESTS / "system/conftest.py").read_text())
    run = run_pytest(tmp_path, CI=ci)
    assert run.returncode == status, run.stdout
    missing = re.findall(r"^  (tests/\S+)$", run.stdout, re.MULTILINE)
    wanted = ["tests/system/test_skips_system.py::test_needs_a_host", "tests/system/test_whole.py"]
    assert missing == (wanted if ci else [])
