"""Two pytest processes that are told of as one run: what is said where one of them ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 120

PASSES = "def test_passes(): pass\n"
SECOND = PASSES + "def test_passes_too(): pass\n"
# Where the second has ended, all that it told is read before the interruption comes.
BROKEN_OFF = """
import threading

def test_is_broken_off():
    for thread in threading.enumerate():
        if thread.name == "reports" and {ended}:
            thread.join()
    {how}
"""
INTERRUPTED = "raise KeyboardInterrupt"


def begin(folder: Path, tests: str, *options: str, fd: int) -> subprocess.Popen[str]:
    """Start a pytest with the hooks of both, and the other's descriptor, on one module of tests."""
    folder.mkdir()
    (folder / f"test_{folder.name}.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.together", "-p", "no:cacheprovider"]
    return subprocess.Popen(
        [*command, "-c", "/dev/null", "--rootdir", str(folder), *options, str(folder)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in {"PYTEST_ADDOPTS", "CI"}},
        pass_fds=[fd],
        stdout=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; returns its exit status and what it printed."""
    printed, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, printed


def second(folder: Path, tests: str = SECOND) -> Path:
    """Run the second to its end; returns what it told."""
    reports = folder / "reports"
    with reports.open("w") as told:
        fd = told.fileno()
        _, printed = end(begin(folder / "second", tests, f"--tell-reports={fd}", fd=fd))
    (folder / "printed").write_text(printed)
    return reports


def first(folder: Path, tests: str, fd: int, *options: str) -> subprocess.Popen[str]:
    """Start the first, which takes in what can be read there."""
    take = (f"--take-reports={fd}", f"--take-output={folder / 'printed'}")
    return begin(folder / "first", tests, *take, *options, fd=fd)


def test_both_are_counted_in_one_closing_line(tmp_path: Path) -> None:
    with second(tmp_path).open() as reports:
        status, printed = end(first(tmp_path, PASSES, reports.fileno()))
    assert status == pytest.ExitCode.OK
    assert "3 passed in" in printed
    assert "the other tests" not in printed


def test_where_the_first_is_broken_off_one_that_has_ended_is_taken_in(tmp_path: Path) -> None:
    tests = PASSES + BROKEN_OFF.format(ended=True, how=INTERRUPTED)
    with second(tmp_path).open() as reports:
        status, printed = end(first(tmp_path, tests, reports.fileno()))
    assert status == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in printed
    assert "3 passed in" in printed
    assert "the other tests" not in printed


def test_where_the_first_stops_at_a_failure_those_of_the_second_are_told(tmp_path: Path) -> None:
    tests = BROKEN_OFF.format(ended=True, how="assert not 'of the first'") + PASSES
    with second(tmp_path, "def test_fails(): assert not 'of the second'").open() as reports:
        status, printed = end(first(tmp_path, tests, reports.fileno(), "-x"))
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "2 failed in" in printed
    assert "of the first" in printed
    assert "of the second" in printed
    assert "the other tests" not in printed


@pytest.mark.parametrize("waiting", [False, True])
def test_one_that_still_runs_is_not_said_to_have_ended(tmp_path: Path, waiting: bool) -> None:
    """Broken off in a test of the first, or once these are through, when it waits for the second."""
    *told, _over = second(tmp_path).read_bytes().splitlines(keepends=True)
    reading, writing = os.pipe()
    try:
        os.write(writing, b"".join(told))
        tests = PASSES if waiting else BROKEN_OFF.format(ended=False, how=INTERRUPTED)
        process = first(tmp_path, tests, reading)
        if waiting:
            assert process.stdout is not None
            assert process.stdout.read(1) == "."
            process.send_signal(signal.SIGINT)
        status, printed = end(process)
    finally:
        os.close(writing)
        os.close(reading)
    assert status == pytest.ExitCode.INTERRUPTED
    assert "the other tests were still running when all was broken off; they printed" in printed


def test_one_that_ended_without_a_word_is_told_of_with_what_it_printed(tmp_path: Path) -> None:
    reports = second(tmp_path)
    *told, _over = reports.read_text().splitlines(keepends=True)
    reports.write_text("".join(told))
    with reports.open() as cut:
        status, printed = end(first(tmp_path, PASSES, cut.fileno()))
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "the other tests ended before their end; they printed" in printed
    assert "3 passed in" in printed
    assert "2 passed in" in printed
