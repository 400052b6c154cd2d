"""An installation for one user: unit files, launcher, the supervisor's unit, linger; made and taken away."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessiond.cli.host import SUPERVISOR_UNIT, Host, runtime_base, unit_folders
from sessiond.errors import Conflict, NotFound, SessiondError, Unreachable
from sessiond.paths import Paths

PLACEHOLDER = "@LAUNCHER@"
PROGRAM = "sessiond"
SERVING_SECONDS = 30.0

_ENVIRONMENT = "environment.conf"
_UNIT_NAME = re.compile(r"sessiond(@|-[\w-]+)?\.(service|slice|socket|target|timer)")
_INSTANCE = re.compile(r"sessiond@[0-9a-f]{32}\.service")
_LIMITS = re.compile(r"sessiond(-[0-9a-f]{32}(-agents)?\.slice|-session@[0-9a-f]{32}\.service)\.d")


# ---- units and launcher ---------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where the files of an installation lie. A ``runtime`` one is gone with the runtime folder."""

    units: Path
    launcher: Path
    runtime: bool

    @classmethod
    def of_user(cls, *, runtime: bool = False) -> Places:
        """The caller's own."""
        if runtime:
            folder = Path(runtime_base(os.environ), "systemd/user")
            return cls(folder, folder / "sessiond-launcher", runtime)
        return cls(Path(unit_folders()[0]), Paths.from_environment().launcher, runtime)


def unit_sources() -> dict[str, str]:
    """The unit files that are installed, by name, with the launcher still a placeholder."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "_units", here.parent / "units"):
        found = {
            one.name: one.read_text()
            for one in sorted(folder.glob("sessiond*"))
            if _UNIT_NAME.fullmatch(one.name)
        }
        if found:
            return found
    raise NotFound(
        "units_missing",
        f"this copy of sessiond came without its unit files ({here / '_units'})",
        hint="install it again: pip install --force-reinstall sessiond",
    )


def program() -> Path:
    """The `sessiond` console script of the interpreter that runs this."""
    import sysconfig

    beside = Path(sys.argv[0]).resolve().parent if sys.argv and sys.argv[0].endswith("sessionctl") else None
    folders = [beside, Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    with suppress(KeyError):
        folders.append(Path(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))))
    for folder in folders:
        if folder is not None and os.access(folder / PROGRAM, os.X_OK):
            return folder / PROGRAM
    raise NotFound(
        "program_missing",
        f"no `{PROGRAM}` program beside {sys.executable}",
        hint=f"{sys.executable} -m pip install --force-reinstall sessiond",
    )


def write_environment(places: Places, variables: Mapping[str, str]) -> Path:
    """Give the supervisor's unit variables of its own, in a drop-in beside it."""
    path = places.units / f"{SUPERVISOR_UNIT}.d" / _ENVIRONMENT
    words = [escaped(f"{key}={value}") for key, value in variables.items()]
    write_unit(path, "[Service]\n" + "".join(f"Environment={word}\n" for word in words))
    return path


def escaped(word: Path | str) -> str:
    """A word of a unit file: specifiers doubled, quoted where it must be."""
    text = str(word).replace("%", "%%")
    if re.fullmatch(r"[\w/.%+=:,@-]+", text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'


def write_files(places: Places) -> list[Path]:
    """Write launcher and units, each in one step; returns those that changed."""
    changed = outdated_files(places)
    for path in changed:
        if path == places.launcher:
            link(path, program())
        else:
            write_unit(path, _unit_text(places, path.name))
    return changed


def outdated_files(places: Places) -> list[Path]:
    """Launcher and units that are not as this installation would write them."""
    units = [places.units / name for name in unit_sources()]
    outdated = [] if _leads_to(places.launcher, program()) else [places.launcher]
    return outdated + [path for path in units if not _holds(path, _unit_text(places, path.name))]


def _unit_text(places: Places, name: str) -> str:
    return unit_sources()[name].replace(PLACEHOLDER, escaped(places.launcher))


def _leads_to(path: Path, target: Path) -> bool:
    with suppress(OSError):
        return os.readlink(path) == str(target)
    return False


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):
        return not path.is_symlink() and path.read_text() == text
    return False


def link(path: Path, target: Path | str) -> None:
    """Have a link lead to a target, in one step."""
    draft = _draft(path)
    draft.symlink_to(target)
    draft.replace(path)


def write_unit(path: Path, text: str) -> None:
    """Write a unit file in one step."""
    draft = _draft(path)
    draft.write_text(text)
    draft.chmod(0o644)
    draft.replace(path)


def _draft(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def sessionctl(host: Host, verb: str, *words: str) -> str:
    """Run sessionctl where the user manager is, in its mounts, and return what it printed as JSON.

    Raises the SessiondError it ended with.
    """
    done = host.run([sys.executable, "-m", "sessiond.cli.main", verb, "--json", *words], check=False)
    if done.returncode == 0:
        return done.stdout
    try:
        told = json.loads(done.stderr.splitlines()[-1])["error"]
    except (ValueError, KeyError, IndexError, TypeError):
        said = (done.stderr or done.stdout).strip()
        raise SessiondError("setup_failed", f"sessionctl {verb} failed: {said}") from None
    raise SessiondError(told["code"], told["message"], hint=told["hint"], fields=told["fields"])


# ---- the supervisor's unit ------------------------------------------------------------------


def wait_serving(host: Host, seconds: float = SERVING_SECONDS) -> Any:
    """What the supervisor says of itself, once it serves; Unreachable when it does not in time."""
    from sessiond.cli.starter import patiently
    from sessiond.client.sync import Supervisor
    from sessiond.rpc._generated.v1 import system_pb2 as pb

    def ask() -> Any:
        with Supervisor(Path(host.socket)) as supervisor:
            return supervisor.call(supervisor.system.GetInfo, pb.GetInfoRequest(), timeout=10.0)

    return patiently(ask, Path(host.socket), time.monotonic() + seconds)


def start_unit(host: Host, *, restart: bool = False) -> Any:
    """Start (or restart) the supervisor's unit and return what it says of itself when it serves."""
    host.need_manager()
    shown = host.properties(SUPERVISOR_UNIT, "LoadState", "ActiveState")
    if shown.get("LoadState") in ("not-found", None):
        raise Unreachable(
            "not_installed",
            "the supervisor is not installed here",
            hint="sessionctl nest up" if host.nest else "sessionctl install",
        )
    # A start limit that was hit is no reason to refuse a person who asks.
    if shown.get("ActiveState") == "failed":
        host.systemctl("reset-failed", SUPERVISOR_UNIT, check=False)
    done = host.systemctl("restart" if restart else "start", SUPERVISOR_UNIT, check=False)
    if done.returncode != 0:
        raise SessiondError(
            "supervisor_failed",
            "the supervisor did not start:\n" + _last_words(host, done.stderr),
            hint="journalctl --user-unit=sessiond -n 50",
        )
    return wait_serving(host)


def _last_words(host: Host, otherwise: str) -> str:
    words = ["journalctl", "--quiet", "--no-pager", "--output=cat", "-n", "5", f"_UID={os.getuid()}"]
    with suppress(SessiondError):
        said = host.run([*words, f"_SYSTEMD_USER_UNIT={SUPERVISOR_UNIT}"], check=False).stdout.strip()
        return said or otherwise.strip()
    return otherwise.strip()


def stop_unit(host: Host) -> bool:
    """Stop the supervisor's unit; whether it ran. Conflict where one serves outside the unit."""
    from sessiond.cli.starter import listening

    state = host.properties(SUPERVISOR_UNIT, "LoadState", "ActiveState")
    ran = state.get("ActiveState") in ("active", "activating", "reloading")
    if state.get("LoadState") == "loaded":
        host.systemctl("stop", SUPERVISOR_UNIT)
    if listening(Path(host.socket)):
        raise Conflict(
            "supervisor_foreign",
            f"a supervisor that is not {SUPERVISOR_UNIT} serves at {host.socket}",
            hint="it was started by hand: end it where it runs",
            fields={"socket": host.socket},
        )
    return ran


# ---- linger ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linger:
    """Whether the user manager runs without a login; else the command for an administrator."""

    on: bool
    changed: bool = False
    command: str = ""


def turn_linger_on(host: Host) -> Linger:
    """Have the user manager run without a login, if that is allowed."""
    user = user_name()
    if lingers(host):
        return Linger(True)
    done = host.run(["loginctl", "--no-ask-password", "enable-linger"], check=False)
    if done.returncode == 0 and lingers(host):
        return Linger(True, changed=True)
    return Linger(False, command=f"sudo loginctl enable-linger {user}")


def lingers(host: Host) -> bool:
    """Whether logind keeps this user's manager without a login."""
    words = ["loginctl", "show-user", "--property=Linger", "--value", str(os.getuid())]
    with suppress(SessiondError):
        return host.run(words, check=False).stdout.strip() == "yes"
    return False


def user_name() -> str:
    """This user's name, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


# ---- taking away ----------------------------------------------------------------------------


def live_sessions(host: Host) -> list[str]:
    """Descriptions of session daemons whose units are loaded and not inactive."""
    words = ["list-units", "--plain", "--no-legend", "--state=active,activating,deactivating"]
    done = host.systemctl(*words, "sessiond-session@*.service", check=False)
    return [line.split(None, 4)[-1] for line in done.stdout.splitlines() if line.strip()]


def stop_all(host: Host) -> None:
    """Stop the supervisor and all sessions, and forget what failed of them."""
    for unit in (SUPERVISOR_UNIT, "sessiond.slice"):
        if host.properties(unit, "LoadState").get("LoadState") == "loaded":
            host.systemctl("stop", unit, timeout=180.0)
    host.systemctl("stop", "sessiond@*.service", check=False)
    host.systemctl("reset-failed", "sessiond*", check=False)


def remove_files(places: Places) -> list[Path]:
    """Take away units, their enablement, limits and the launcher; returns what was there."""
    removed = [one for one in _enablement(places.units) if _unlink(one)]
    removed += [one for one in sorted(places.units.glob("sessiond*")) if _ours(one) and _unlink(one)]
    drop_in = places.units / f"{SUPERVISOR_UNIT}.d" / _ENVIRONMENT
    if places.runtime and _unlink(drop_in):
        removed.append(drop_in)
        with suppress(OSError):
            drop_in.parent.rmdir()
    for folder in (
        places.units.parent / "user.control",
        Path(runtime_base(os.environ), "systemd/user.control"),
    ):
        for one in sorted(folder.glob("sessiond*.d")):
            if _LIMITS.fullmatch(one.name) and one.is_dir():
                shutil.rmtree(one)
                removed.append(one)
    if _unlink(places.launcher):
        removed.append(places.launcher)
    return removed


def _ours(path: Path) -> bool:
    return _UNIT_NAME.fullmatch(path.name) is not None and path.name in unit_sources()


def _enablement(units: Path) -> Iterator[Path]:
    for link in sorted(units.glob("*.wants/sessiond*")):
        if link.is_symlink() and (_INSTANCE.fullmatch(link.name) or link.name == SUPERVISOR_UNIT):
            yield link


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def clear_runtime(folder: Path) -> None:
    """Take away what a supervisor that ended leaves in its runtime folder, unless daemons serve there."""
    from sessiond.agents.folder import LAUNCHES

    for name in ("sessions", LAUNCHES):
        with suppress(OSError):
            (folder / name).rmdir()
    if not (folder / "sessions").exists():
        (folder / "sessiond.lock").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def remove_folder(path: Path) -> bool:
    """Remove a folder of ours with all it holds, links themselves and never what they point to."""
    if path.is_symlink() or not path.is_dir():
        return False
    shutil.rmtree(path)
    return True
