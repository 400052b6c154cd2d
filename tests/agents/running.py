"""Agent programs while they run: in print mode or in a terminal, waited for by what they print."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from struct import pack

import psutil
import pytest

from sessiond.ports import Screen
from sessiond.terminal.emulator import make_screen
from tests.agents.programs import Program

# Set for each program that a test starts, so that what it starts in turn is found and ended.
MARK = "SESSIOND_TEST_PROGRAM"
COLUMNS, ROWS = 120, 40
WAIT = 300.0


class Running:
    """One program that was started; ``output`` grows until it ends."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: str | Path, *, tty: bool, stdin: int | None
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.output = b""
        self._known: set[psutil.Process] = set()
        self._changed = threading.Condition()
        self._ended = False
        self._screen: Screen | None = None
        self._master = -1
        env = {**env, MARK: self.mark}
        if tty:
            self._master, slave = os.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, pack("HHHH", ROWS, COLUMNS, 0, 0))
            self._screen = make_screen(COLUMNS, ROWS, 1000)
            self.process = _started(argv, env, cwd, slave, slave, slave, terminal=slave)
            os.close(slave)
            self._source = self._master
        else:
            self._source, sink = os.pipe()
            given = subprocess.DEVNULL if stdin is None else stdin
            self.process = _started(argv, env, cwd, given, sink, sink, terminal=None)
            os.close(sink)
        self._reader = threading.Thread(target=self._read, name=f"reader of {argv[0]}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of what was started; programs may be children of it."""
        return self.process.pid

    def family(self) -> list[psutil.Process]:
        """All processes that live and come from it, orphans too."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.environ().get(MARK) == self.mark and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
        return found

    @property
    def text(self) -> str:
        """What it printed so far; in a terminal what is on its screen."""
        with self._changed:
            if self._screen is not None:
                return self._screen.write_down("text", 0).content
            return self.output.decode(errors="replace")

    def lines(self) -> list[str]:
        """Whole lines that it printed so far (without a terminal)."""
        with self._changed:
            return self.output.decode(errors="replace").split("\n")[:-1]

    def wait_text(self, *words: str, timeout: float = WAIT) -> str:
        """Wait until all of these are seen (in a terminal: on its screen at once); returns what is seen."""
        return self.wait_for(lambda text: all(word in text for word in words), f"{words}", timeout=timeout)

    def wait_for(self, test: Callable[[str], bool], what: str, *, timeout: float = WAIT) -> str:
        """Wait until what is seen passes a test; fails with what is seen at the end."""

        def fits() -> bool:
            return test(self._seen())

        with self._changed:
            if not self._changed.wait_for(lambda: fits() or self._ended, timeout) or not fits():
                ended = "it has ended" if self._ended else f"not within {timeout:g} s"
                pytest.fail(f"{self.process.args!r}: {what} not seen, {ended}; seen was:\n{self._seen()}")
            return self._seen()

    def wait_line(self, tells: Callable[[str], str | None]) -> str:
        """Wait until a whole line of what it prints tells something; returns that."""

        def told() -> str | None:
            return next((word for line in self.lines() if (word := tells(line))), None)

        self.wait_for(lambda _: told() is not None, "a line that tells it")
        return told() or ""

    def press_until(self, heard: Callable[[], object], key: str = "enter") -> None:
        """Press a key until it is heard: a dialog takes none that comes too soon."""
        deadline = time.monotonic() + WAIT
        pressed = 0.0
        while not heard():
            now = time.monotonic()
            if now > deadline:
                pytest.fail(f"{key} was not heard within {WAIT:g} s; seen was:\n{self.text}")
            if now - pressed > 2.0:
                self.key(key)
                pressed = now
            time.sleep(0.02)

    def wait(self, timeout: float = WAIT) -> int:
        """Wait until it ends and all was read; its exit status."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.process.args!r} has not ended within {timeout:g} s; seen was:\n{self.text}")
        with self._changed:
            self._changed.wait_for(lambda: self._ended, 5.0)
        return status

    def type(self, text: str) -> None:
        """Type into its terminal."""
        os.write(self._master, text.encode())

    def key(self, *names: str) -> None:
        """Press keys by sessionctl's names: enter, esc, ctrl-c, up, tab …"""
        for name in names:
            with self._changed:
                assert self._screen is not None, "it has no terminal"
                data = self._screen.encode_key(name)
            os.write(self._master, data)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal all that comes from it, and wait until those are gone that SIGKILL ends."""
        # What is about to end tells no environment any more, and is waited for too.
        self._known.update(self.family())
        for one in self._known:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(WAIT)
            psutil.wait_procs(self._known, WAIT)

    def close(self) -> None:
        """End it with all that it started; safe to repeat."""
        self.kill()
        if self._source >= 0:
            # Something that left its session might hold the other end.
            self._reader.join(WAIT)
            os.close(self._source)
            self._source = -1
        if self._screen is not None:
            self._screen.close()
            self._screen = None

    def _seen(self) -> str:
        if self._screen is not None:
            return self._screen.write_down("text", 0).content
        return self.output.decode(errors="replace")

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._source, 65536)
            except OSError:
                data = b""
            reply = b""
            with self._changed:
                if data:
                    self.output += data
                    if self._screen is not None:
                        reply = self._screen.feed(data)
                else:
                    self._ended = True
                self._changed.notify_all()
            if not data:
                return
            if reply and select.select([], [self._master], [], 0)[1]:
                with contextlib.suppress(OSError):
                    os.write(self._master, reply)


def _started(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str | Path,
    stdin: int,
    stdout: int,
    stderr: int,
    *,
    terminal: int | None,
) -> subprocess.Popen[bytes]:
    command = list(argv)
    if terminal is not None:
        # In a session of its own, with its standard input as the terminal that controls it; the same process.
        command = ["/usr/bin/setsid", "--ctty", *command]
    return subprocess.Popen(
        command,
        env=dict(env),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=terminal is None,
    )


class Runner:
    """Starts programs, and ends them when the test does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Running] = []

    def __call__(
        self,
        program: Program,
        *words: str,
        tty: bool = False,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> Running:
        """Start a program with these words, in print mode or (``tty``) in a terminal of its own."""
        given = {**program.env, **(env or {})}
        started = Running(program.command(*words), given, cwd or self.folder, tty=tty, stdin=stdin)
        self._started.append(started)
        return started

    def close(self) -> None:
        """End all."""
        with contextlib.ExitStack() as stack:
            for one in self._started:
                stack.callback(one.close)
        self._started.clear()


def running_in(folder: Path) -> Iterator[Runner]:
    """A runner that is closed at the end."""
    runner = Runner(folder)
    try:
        yield runner
    finally:
        runner.close()
