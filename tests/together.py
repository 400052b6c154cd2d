"""``python -m tests.together [PYTEST ARGS…]``: the tests in two pytest processes at once, told of as one run.

The tests on the private systemd mostly wait, the others mostly work. The first pytest runs the larger part of
the system tier and takes in what the second, which runs all the others, reports: one list of failures, one
closing line, one exit status. What the second prints besides is shown where it ended in a way that no report
tells of.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

_SYSTEM = sorted(map(str, Path("tests/system").glob("test_*.py")))
# Where both take about the same time.
_FIRST = [file for file in _SYSTEM if Path(file).name < "test_c"]
_SECOND = ["tests/unit", "tests/contract", "tests/agents", *(file for file in _SYSTEM if file not in _FIRST)]
# Exit statuses that reports account for.
_ACCOUNTED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
_OVER = "over"


def main(arguments: Sequence[str]) -> int:
    """Run both; the exit status is the first one's, which knows of the second's."""
    begin = [sys.executable, "-m", "pytest", "-p", "tests.together"]
    reports, told = os.pipe()
    with tempfile.NamedTemporaryFile() as printed:
        second = subprocess.Popen(
            [*begin, f"--tell-reports={told}", *_SECOND, *arguments],
            pass_fds=[told],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
        os.close(told)
        first = subprocess.Popen(
            [*begin, f"--take-reports={reports}", f"--take-output={printed.name}", *_FIRST, *arguments],
            pass_fds=[reports],
        )
        os.close(reports)
        return _wait(first, second)


def _wait(first: subprocess.Popen[bytes], second: subprocess.Popen[bytes]) -> int:
    both = (first, second)

    def hand_on(number: int, _frame: object) -> None:
        for process in both:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    status = first.wait()
    if second.poll() is None and status not in _ACCOUNTED:
        # The first was ended, or broke off: nobody takes in what the second tells.
        second.send_signal(signal.SIGINT)
    second.wait()
    return status


# --- hooks of both ------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("together")
    group.addoption("--tell-reports", type=int, metavar="FD", help="write each report to this descriptor")
    group.addoption("--take-reports", type=int, metavar="FD", help="read another's reports from this one")
    group.addoption("--take-output", metavar="FILE", help="and what it printed from this file")


def pytest_configure(config: pytest.Config) -> None:
    if (fd := config.getoption("--tell-reports")) is not None:
        os.set_inheritable(fd, False)
        config.pluginmanager.register(_Telling(config, os.fdopen(fd, "w")))
    if (fd := config.getoption("--take-reports")) is not None:
        os.set_inheritable(fd, False)
        config.pluginmanager.register(_Taking(config, os.fdopen(fd), Path(config.getoption("--take-output"))))


class _Telling:
    """The second: tells what it reports."""

    def __init__(self, config: pytest.Config, stream: IO[str]) -> None:
        self._config = config
        self._stream = stream

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell(report)

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._tell(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Left open: its end tells that this process, and what it prints last, is over.
        self._write({_OVER: int(session.exitstatus), "collected": session.testscollected})

    def _tell(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        self._write(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def _write(self, told: dict[str, Any]) -> None:
        self._stream.write(json.dumps(told) + "\n")
        self._stream.flush()


class _Taking:
    """The first: once its own tests are through, reports what the second told, as it would its own.

    Where it is broken off, nobody waits for the second: what it told until then is reported.
    """

    def __init__(self, config: pytest.Config, reports: IO[str], printed: Path) -> None:
        self._config = config
        self._printed = printed
        self._status: int | None = None
        self._broken_off = False
        self._told: list[dict[str, Any]] = []
        # A thread whose join was interrupted counts as one that has ended.
        self._ended = threading.Event()
        # Read as it comes: a pipe holds little, and the other must not wait.
        threading.Thread(target=self._read, args=[reports], name="reports", daemon=True).start()

    def _read(self, reports: IO[str]) -> None:
        try:
            with reports:
                for line in reports:
                    self._told.append(json.loads(line))
        finally:
            self._ended.set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        try:
            result = yield
            self._ended.wait()
        except BaseException:
            # Interrupted, or at the first failure by `-x`.
            self._broken_off = not self._ended.is_set()
            raise
        finally:
            self._take(session)
        return result

    def _take(self, session: pytest.Session) -> None:
        """Report what the second has told by now."""
        told = self._told.copy()
        over = told.pop() if told and _OVER in told[-1] else {}
        self._status = over.get(_OVER)
        session.testscollected += over.get("collected", sum(one.get("when") == "setup" for one in told))
        for one in told:
            self._report(one)

    def _report(self, told: dict[str, Any]) -> None:
        hook = self._config.hook
        report = hook.pytest_report_from_serializable(config=self._config, data=told)
        if isinstance(report.longrepr, list):
            # Where a test was skipped, and why: JSON knows no tuples.
            report.longrepr = tuple(report.longrepr)
        if isinstance(report, pytest.CollectReport):
            hook.pytest_collectreport(report=report)
            return
        if report.when == "setup":
            hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
        hook.pytest_runtest_logreport(report=report)
        if report.when == "teardown":
            hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._status == pytest.ExitCode.OK and not self._config.getoption("collectonly"):
            return
        # Also where each test of it passed: it may hold that some should have run and did not.
        if session.exitstatus == pytest.ExitCode.OK and self._status != pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        failed = any("failed" in stat or "error" in stat for stat in terminalreporter.stats)
        if self._status in _ACCOUNTED and (failed or self._status == pytest.ExitCode.OK):
            return
        if self._status is not None:
            ended = f"ended with status {self._status}"
        elif self._broken_off:
            ended = "were still running when all was broken off"
        else:
            ended = "ended before their end"
        terminalreporter.section(f"the other tests {ended}; they printed")
        terminalreporter.write_line(self._printed.read_text(errors="replace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
