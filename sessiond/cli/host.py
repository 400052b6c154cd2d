"""Where am I: which socket is the supervisor's, and how its systemctl and journalctl are run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sessiond.errors import Conflict, SessiondError, Unreachable

if TYPE_CHECKING:
    import subprocess

    from sessiond.nest import Nest

SUPERVISOR_UNIT = "sessiond.service"


class Host:
    """The place that sessions live in: this machine's user manager, or a nest.

    ``nest`` is the living nest that commands go through, or None. Plain strings instead of Path,
    since every sessionctl pays for what it imports.
    """

    def __init__(self, socket: str, *, nest: Nest | None, manager: bool) -> None:
        self.socket = socket
        self.nest = nest
        self.manager = manager
        self._outer: dict[int, int] = {}

    # ---- pids -------------------------------------------------------------------------------

    def pid(self, inner: int) -> int | None:
        """A pid that the supervisor or its systemd told, as seen from here; None where it is not seen."""
        if self.nest is None or os.path.dirname(self.socket) != self.nest.record.runtime_dir:
            return inner
        if inner not in self._outer:
            from sessiond import nest

            self._outer = nest.outer_pids(self.nest)
        return self._outer.get(inner)

    # ---- programs ---------------------------------------------------------------------------

    def argv(self, words: Sequence[str]) -> list[str]:
        """The command line that runs words where the user's manager is."""
        if self.nest is None:
            return list(words)
        from sessiond import nest

        return nest.exec_argv(self.nest, words, cwd="/")

    def environment(self) -> dict[str, str]:
        """This process's environment, completed with the way to the user's manager and bus."""
        found = dict(os.environ)
        if self.nest is None:
            complete(found)
        return found

    def run(
        self, words: Sequence[str], *, timeout: float = 90.0, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there and return what it printed; SessiondError where it fails and check is set."""
        import subprocess

        try:
            done = subprocess.run(
                self.argv(words),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise SessiondError(
                "program_missing", f"{error.filename} is not installed", hint="install systemd"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SessiondError(
                "program_timeout", f"{' '.join(words[:4])} took longer than {timeout:g} s"
            ) from error
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise SessiondError(
                "program_failed",
                f"{' '.join(words)}: {said or f'exit status {done.returncode}'}",
                fields={"program": words[0]},
            )
        return done

    def systemctl(
        self, *words: str, check: bool = True, timeout: float = 90.0
    ) -> subprocess.CompletedProcess[str]:
        """Run systemctl --user; Unreachable where there is no user manager."""
        self.need_manager()
        return self.run(["systemctl", "--user", "--no-pager", *words], check=check, timeout=timeout)

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a user unit as systemctl shows them; empty where it cannot be asked."""
        try:
            shown = self.systemctl("show", f"--property={','.join(names)}", "--", unit, timeout=10.0)
        except SessiondError:
            return {}
        return dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)

    def need_manager(self) -> None:
        """Raise Unreachable, with what brings it up, where no user manager serves."""
        if not self.manager and self.nest is None:
            raise Unreachable(
                "manager_unreachable",
                "no user manager of systemd runs here",
                hint=manager_remedy(),
            )

    # ---- remedies ---------------------------------------------------------------------------

    def remedy(self) -> str:
        """The command that brings the supervisor up here."""
        if not self.manager and self.nest is None:
            return manager_remedy()
        if self.nest is not None:
            return "sessionctl nest up"
        return "sessionctl up" if installed() else "sessionctl install"


def find_host(socket: str | None, environ: Mapping[str, str] | None = None) -> Host:
    """The socket by precedence (option, SESSIOND_SOCKET, runtime folders, nest), and its place."""
    env = os.environ if environ is None else environ
    manager = manager_runs(env)
    nest = None if manager else living_nest()
    named = socket or env.get("SESSIOND_SOCKET", "")
    if not named and (nest is None or env.get("SESSIOND_RUNTIME_DIR", "").startswith("/")):
        named = os.path.join(runtime_folder(env), "sessiond.sock")
    if not named and nest is not None:
        named = os.path.join(nest.record.runtime_dir, "sessiond.sock")
    return Host(os.path.abspath(named), nest=nest, manager=manager)


def runtime_base(env: Mapping[str, str]) -> str:
    """XDG_RUNTIME_DIR, or where it lies when nobody set it (ssh, cron, su)."""
    named = env.get("XDG_RUNTIME_DIR", "")
    return named if named.startswith("/") else f"/run/user/{os.getuid()}"


def runtime_folder(env: Mapping[str, str]) -> str:
    """The supervisor's runtime folder outside a nest."""
    named = env.get("SESSIOND_RUNTIME_DIR", "")
    return named if named.startswith("/") else os.path.join(runtime_base(env), "sessiond")


def manager_runs(env: Mapping[str, str]) -> bool:
    """Whether a user manager of systemd serves this user."""
    return os.path.exists(os.path.join(runtime_base(env), "systemd/private"))


def complete(env: dict[str, str]) -> None:
    """Set what a login would have set for systemctl and journalctl to find the user's manager."""
    base = runtime_base(env)
    env["XDG_RUNTIME_DIR"] = base
    bus = os.path.join(base, "bus")
    if not env.get("DBUS_SESSION_BUS_ADDRESS") and os.path.exists(bus):
        env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"


def living_nest() -> Nest | None:
    """This user's nest, if one lives."""
    # Most machines never had one: a look at two places spares them the import.
    if not any(os.path.exists(folder) for folder in _nest_folders()):
        return None
    from sessiond import nest

    return nest.status()


def _nest_folders() -> list[str]:
    uid = os.getuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return [
        f"/run/sessiond-nest/{uid}",
        f"/tmp/sessiond-nest-{uid}",  # noqa: S108 - only looked at; the nest checks whose it is
        os.path.join(runtime, "sessiond-nest") if runtime.startswith("/") else f"/run/sessiond-nest/{uid}",
    ]


def manager_remedy() -> str:
    """What brings a user manager up: a login where systemd is PID 1, a nest elsewhere."""
    if os.path.isdir("/run/systemd/system"):
        user = _user_name()
        return f"log in, or let an administrator run: loginctl enable-linger {user}"
    return "sessionctl nest up"


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def unit_folders(env: Mapping[str, str] | None = None) -> list[str]:
    """Where the user manager looks for installed units, those a person may write first."""
    env = os.environ if env is None else env
    home = env.get("HOME") or os.path.expanduser("~")
    config = env.get("XDG_CONFIG_HOME", "")
    data = env.get("XDG_DATA_HOME", "")
    return [
        os.path.join(config if config.startswith("/") else f"{home}/.config", "systemd/user"),
        "/etc/systemd/user",
        os.path.join(runtime_base(env), "systemd/user"),
        os.path.join(data if data.startswith("/") else f"{home}/.local/share", "systemd/user"),
        "/usr/local/lib/systemd/user",
        "/usr/lib/systemd/user",
        "/lib/systemd/user",
    ]


def installed(env: Mapping[str, str] | None = None) -> bool:
    """Whether the supervisor's unit file lies where the user manager finds it."""
    return any(os.path.exists(os.path.join(folder, SUPERVISOR_UNIT)) for folder in unit_folders(env))


def need_no_manager() -> None:
    """Raise Conflict where a user manager runs: no nest is used there."""
    if manager_runs(os.environ):
        raise Conflict(
            "manager_running",
            "a user manager of systemd runs here, so no nest is needed",
            hint="sessionctl install",
        )
