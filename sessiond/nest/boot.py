"""One boot: start the stage, hand it the plan, wait until systemd and the user's manager serve."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sessiond.errors import PermissionDenied, SessiondError, TimedOut, Unsupported
from sessiond.nest import stage
from sessiond.nest.plan import BootPlan

NOTIFY = "notify"
_TAIL = 4000
_CONTAINED = (
    "a container needs CAP_SYS_ADMIN and a writable cgroup: docker run --privileged --cgroupns=private"
)
_UNPRIVILEGED = (
    "without root it takes user namespaces, a delegated cgroup, and in a container an unmasked /proc "
    "(docker run --security-opt systempaths=unconfined); or run it as root"
)
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_STAGE = (
    "import sys; sys.path.append(sys.argv[1]); from sessiond.nest.stage import main; main()",
    _PACKAGE_ROOT,
)


class Boot:
    """A boot under way; ``pid`` is its PID 1 as seen here once ``start`` returned."""

    def __init__(self, boot_folder: Path, deadline: float) -> None:
        self._folder = boot_folder
        self._deadline = deadline
        self._stack = contextlib.ExitStack()
        self._console = bytearray()
        self.pid = 0

    def __enter__(self) -> Boot:
        with contextlib.ExitStack() as stack:
            self._master, slave = os.openpty()
            stack.callback(os.close, self._master)
            stack.callback(os.close, slave)
            os.set_blocking(self._master, False)
            self.console = os.ttyname(slave)
            path = self._folder / NOTIFY
            path.unlink(missing_ok=True)
            self._notify = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            )
            self._notify.bind(str(path))
            stack.callback(path.unlink, missing_ok=True)
            self._control, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self._control)
            stack.enter_context(self._theirs)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def start(self, plan: BootPlan) -> None:
        """Fork the nest's first process; it waits for ``go`` before it does anything."""
        number = self._theirs.fileno()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", *_STAGE, str(number)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(number,),
            cwd="/",
            start_new_session=True,
        )
        self._theirs.close()
        packet = plan.to_json()
        try:
            self._control.settimeout(self._left())
            self._control.send(packet)
            answer = self._control.recv(stage.PACKET)
        except TimeoutError:
            process.kill()
            raise self._failed("the boot did not begin in time", timed_out=True) from None
        finally:
            # The stage's parent half leaves at once; the nest itself keeps no stderr of ours.
            errors = process.communicate()[1].decode(errors="replace")
        if not answer:
            raise self._failed(f"the boot stage failed: {errors.strip()[-_TAIL:]}")
        self.pid = int(self._message(answer)["pid"])
        self._init = os.pidfd_open(self.pid)
        self._stack.callback(os.close, self._init)

    def go(self) -> None:
        """Let it boot, and return when PID 1 and the user's manager have said that they serve."""
        self._control.send(stage.GO)
        self._control.settimeout(None)
        self._await_ready()

    def _left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _await_ready(self) -> None:
        waiting = {"READY=1", "SESSIOND_USER=ready"}
        handlers: dict[int, Callable[[], set[str]]] = {
            self._notify.fileno(): self._read_notify,
            self._master: self._read_console,
            self._control.fileno(): self._read_control,
        }
        poll = select.poll()
        for number in (*handlers, self._init):
            poll.register(number, select.POLLIN)
        while waiting:
            ready = dict(poll.poll(self._left() * 1000))
            if not ready:
                missing = " and ".join(sorted(waiting))
                raise self._failed(f"the nest did not say {missing} in time", timed_out=True)
            for number, handler in handlers.items():
                if number in ready:
                    said = handler()
                    waiting -= said
                    if "SESSIOND_USER=stopped" in said:
                        raise self._failed("the user's manager in the nest failed to start")
            if self._control.fileno() in ready and self._control.fileno() in handlers:
                # The stage's end closed at exec: from here on only systemd speaks.
                poll.unregister(self._control.fileno())
                del handlers[self._control.fileno()]
            if self._init in ready:
                self._read_console()
                raise self._failed("the nest's systemd ended while it booted")

    def _read_notify(self) -> set[str]:
        return set(self._notify.recv(1 << 16).decode(errors="replace").splitlines())

    def _read_console(self) -> set[str]:
        # EIO: nobody has the terminal open at this moment.
        with contextlib.suppress(BlockingIOError, OSError):
            self._console += os.read(self._master, 1 << 16)
            del self._console[: -4 * _TAIL]
        return set()

    def _read_control(self) -> set[str]:
        packet = self._control.recv(stage.PACKET)
        if packet:
            self._message(packet)
        return set()

    def _message(self, packet: bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(packet)
        if "error" not in message:
            return message
        step, number = message["step"], message["errno"]
        if number in (errno.EPERM, errno.EACCES):
            raise PermissionDenied(
                "nest_needs_privilege",
                f"the kernel refused: {step or 'the namespaces'} ({os.strerror(number)})",
                hint=_UNPRIVILEGED if os.geteuid() != 0 else _CONTAINED,
                fields={"step": step},
            )
        raise Unsupported(
            "nest_boot_failed",
            f"the nest could not be built: {message['error']}",
            hint=self.console_tail(),
            fields={"step": step},
        )

    def console_tail(self) -> str:
        """The last lines that the boot printed."""
        return self._console.decode(errors="replace").replace("\r", "")[-_TAIL:].strip()

    def _failed(self, message: str, *, timed_out: bool = False) -> SessiondError:
        kind = TimedOut if timed_out else SessiondError
        journal = _journal_tail(self.pid)
        hint = "\n".join(part for part in (self.console_tail(), journal) if part)
        return kind("nest_boot_failed", message, hint=hint or "it printed nothing")


def _journal_tail(pid: int) -> str:
    """The last lines of the nest's journal, read from outside while its PID 1 lives."""
    for place in ("run/log/journal", "var/log/journal"):
        folder = f"/proc/{pid}/root/{place}"
        if pid and os.path.isdir(folder):
            shown = subprocess.run(
                ["journalctl", "-D", folder, "-n", "40", "-o", "short-monotonic", "--no-pager"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
            if shown.stdout.strip():
                return shown.stdout[-_TAIL:].strip()
    return ""
