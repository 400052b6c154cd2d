"""What is looked at: this user's folders and environment, and programs that are asked with a deadline."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cached_property
from pathlib import Path

from sessiond.config import Settings
from sessiond.paths import Paths

# Seconds that a program may take; one that hangs is told as unknown.
DEADLINE = 5.0
# What is said to the process that asks, and would confuse those that it starts.
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC")
# The word that a nest boots with, in place of a container's.
_NEST = "sessiond-nest"


class Silence(Enum):
    """Why a program said nothing."""

    MISSING = auto()
    BROKEN = auto()
    HUNG = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said; ``silence`` where it did not run to its end, with ``err`` telling more."""

    command: str
    status: int = 0
    out: str = ""
    err: str = ""
    silence: Silence | None = None

    @property
    def good(self) -> bool:
        """It answered, and with exit status 0."""
        return self.silence is None and self.status == 0

    @property
    def said(self) -> str:
        """Its complaint on one line, or its exit status."""
        words = " ".join((self.err or self.out).split())
        return words[:300] or f"`{self.command}` exited with {self.status}"

    def blocks(self) -> list[dict[str, str]]:
        """What `systemctl show` printed: properties by name, for each unit that was named."""
        return [
            dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in self.out.split("\n\n")
        ]

    def properties(self) -> dict[str, str]:
        """What `systemctl show` printed about one thing."""
        return self.blocks()[0]


@dataclass(frozen=True)
class Machine:
    """One user's view of one machine. ``settings`` is None where they cannot be read.

    ``socket`` is the supervisor's, where it is not the usual one. ``root`` is where /proc, /sys and
    the system's folders are looked for, ``now`` the clock in seconds since 1970, ``python`` runs sessiond.
    """

    paths: Paths
    environ: Mapping[str, str]
    settings: Settings | None
    socket: Path
    root: Path = Path("/")
    uid: int = field(default_factory=os.getuid)
    now: float = field(default_factory=time.time)
    deadline: float = DEADLINE
    python: str = sys.executable

    @cached_property
    def user(self) -> str:
        """The user's name, or the number where there is none."""
        import pwd

        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    # ---- places -----------------------------------------------------------------------------

    @property
    def usual_runtime(self) -> Path:
        """Where logind puts the runtime folder of this user."""
        return self.root / f"run/user/{self.uid}"

    @property
    def runtime(self) -> Path:
        """XDG_RUNTIME_DIR, or where it lies when nobody set it (ssh, cron, su)."""
        named = self.environ.get("XDG_RUNTIME_DIR", "")
        return Path(named) if named.startswith("/") else self.usual_runtime

    @property
    def bus(self) -> Path:
        """The socket of the bus that the user's manager is on."""
        return self.runtime / "bus"

    def system(self, path: str) -> Path:
        """A place of the system's, by its absolute path."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """A file of the system's, stripped; OSError where it cannot be read."""
        return self.system(path).read_text(errors="replace").strip()

    @property
    def systemd_runs(self) -> bool:
        """Whether PID 1 is systemd."""
        return self.system("/run/systemd/system").is_dir()

    @property
    def in_nest(self) -> bool:
        """Whether PID 1 is a nest's, which also says where its sockets belong."""
        try:
            return self.read("/run/systemd/container") == _NEST and "SESSIOND_RUNTIME_DIR" in self.environ
        except OSError:
            return False

    # ---- commands that mend -----------------------------------------------------------------

    def as_root(self, command: str) -> str:
        """A command line for an administrator."""
        if self.uid == 0:
            return command
        simple = not any(sign in command for sign in "|&;>")
        return f"sudo {command}" if simple else f"sudo sh -c {shlex.quote(command)}"

    @property
    def manager_remedy(self) -> str:
        """What brings a user manager up: linger where systemd is PID 1, a nest elsewhere."""
        if not self.systemd_runs:
            return "sessionctl nest up"
        start = f"systemctl start user@{self.uid}.service"
        return self.as_root(f"loginctl enable-linger {self.user} && {start}")

    # ---- programs ---------------------------------------------------------------------------

    @cached_property
    def manager(self) -> Answer:
        """What the user's manager says of itself; asked once."""
        return self.systemctl("show", "--property=Version,ControlGroup,SystemState")

    def systemctl(self, *words: str) -> Answer:
        """Ask the user's manager."""
        return self.ask("systemctl", "--user", "--no-pager", "--no-ask-password", *words)

    def ask(self, *words: str, deadline: float | None = None) -> Answer:
        """Run a program with the way to the user's manager and bus set; never raises, never hangs."""
        command = shlex.join(words)
        program = shutil.which(words[0], path=self.environ.get("PATH") or os.defpath)
        if program is None:
            return Answer(command, err=f"{words[0]} is not installed", silence=Silence.MISSING)
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
            text = f"`{command}` did not answer within {seconds:g} s"
            return Answer(command, err=text, silence=Silence.HUNG)
        except OSError as error:
            text = f"{words[0]} cannot be run: {error.strerror}"
            return Answer(command, err=text, silence=Silence.BROKEN)
        return Answer(command, done.returncode, _text(done.stdout), _text(done.stderr))

    def _environment(self) -> dict[str, str]:
        found = {name: value for name, value in self.environ.items() if name not in _NOT_FOR_CHILDREN}
        found |= {"XDG_RUNTIME_DIR": str(self.runtime), "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
        # The manager's own bus goes before the one that a login names, as in the product.
        if self.bus.exists():
            found["DBUS_SESSION_BUS_ADDRESS"] = bus_address(self.bus)
        return found


def bus_address(socket: Path) -> str:
    """A bus address that names a socket."""
    from urllib.parse import quote

    return f"unix:path={quote(os.fsencode(socket), safe='/-_.*')}"


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()
