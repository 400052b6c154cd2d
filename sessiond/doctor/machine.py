"""What is looked at: this user's folders and environment, and programs that are asked with a deadline."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sessiond.config import Settings
from sessiond.paths import Paths

# Seconds that a program may take; one that hangs is told as unknown.
DEADLINE = 5.0
# What is said to the process that asks, and would confuse those that it starts.
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said. ``unknown`` tells why there is no answer; it is empty where there is one."""

    status: int = 0
    out: str = ""
    err: str = ""
    unknown: str = ""

    @property
    def good(self) -> bool:
        """It answered, and with exit status 0."""
        return not self.unknown and self.status == 0

    @property
    def said(self) -> str:
        """Its complaint on one line, or its exit status."""
        words = " ".join((self.err or self.out).split())
        return self.unknown or words[:300] or f"exit status {self.status}"


@dataclass(frozen=True)
class Machine:
    """One user's view of one machine. ``settings`` is None where they cannot be read.

    ``root`` is where /proc, /sys and the system's folders are looked for, ``uid`` the user.
    """

    paths: Paths
    environ: Mapping[str, str]
    settings: Settings | None
    root: Path = Path("/")
    uid: int = field(default_factory=os.getuid)
    deadline: float = DEADLINE

    @cached_property
    def user(self) -> str:
        """The user's name, or the number where there is none."""
        import pwd

        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    @property
    def home_runtime(self) -> Path:
        """Where logind puts the runtime folder of this user."""
        return self.root / f"run/user/{self.uid}"

    @property
    def runtime(self) -> Path:
        """XDG_RUNTIME_DIR, or where it lies when nobody set it (ssh, cron, su)."""
        named = self.environ.get("XDG_RUNTIME_DIR", "")
        return Path(named) if named.startswith("/") else self.home_runtime

    def read(self, path: str) -> str:
        """A file of the system's, stripped; OSError where it cannot be read."""
        return (self.root / path.lstrip("/")).read_text(errors="replace").strip()

    def ask(self, *words: str, deadline: float | None = None) -> Answer:
        """Run a program with the way to the user's manager and bus set; never raises, never hangs."""
        program = shutil.which(words[0], path=self.environ.get("PATH", os.defpath))
        if program is None:
            return Answer(unknown=f"{words[0]} is not installed")
        seconds = self.deadline if deadline is None else deadline
        try:
            done = subprocess.run(
                [program, *words[1:]],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(unknown=f"`{shlex.join(words)}` did not answer within {seconds:g} s")
        except OSError as error:
            return Answer(unknown=f"{words[0]} cannot be run: {error.strerror}")
        return Answer(done.returncode, _text(done.stdout), _text(done.stderr))

    def _environment(self) -> dict[str, str]:
        found = {name: value for name, value in self.environ.items() if name not in _NOT_FOR_CHILDREN}
        found |= {"XDG_RUNTIME_DIR": str(self.runtime), "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        bus = self.runtime / "bus"
        if not found.get("DBUS_SESSION_BUS_ADDRESS") and bus.exists():
            found["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"
        return found


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()
