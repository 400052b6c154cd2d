"""`upgrade`: this installation takes the place of the one that runs, and no agent notices."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from sessiond import __version__
from sessiond.cli import exits, installation, render
from sessiond.cli.app import App
from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.cli.installation import Places
from sessiond.cli.verb import verb
from sessiond.errors import Conflict, SessiondError, Unreachable

# Longer than all that a nest's inner run may wait for.
_NEST_SECONDS = 3600.0
_ASKING = 10.0


@verb(
    "upgrade",
    examples="""
sessionctl upgrade --dry-run
~/.venvs/newer/bin/sessionctl upgrade
""",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--force", is_flag=True, help="Also go back to an older release.")
def upgrade(app: App, dry_run: bool, force: bool) -> None:
    """Have this installation run everything; agents go on untouched.

    Moves the launcher and the unit files to the installation that sessionctl runs from, then restarts the
    supervisor, and the daemons of sessions that run one after another. Where the supervisor does not come up,
    what was installed before is put back.
    """
    host = app.host
    host.need_manager()
    if host.nest is not None:
        _inside(app, dry_run=dry_run, force=force)
        return
    places = _installed()
    before = _version(host)
    _refuse_older(before, force=force)
    if dry_run:
        _tell_plan(app, places, before)
        return
    kept = _Kept.of(places)
    changed, info = _move(host, places, kept)
    if not app.json:
        for path in changed:
            app.print(f"wrote {render.plain(str(path))}")
        app.print(f"supervisor: {_from_to(before, info.version)} (pid {host.pid(info.pid)})")
        app.flush()
    sessions = [_restart(app, session) for session in _running(host)]
    if app.json:
        app.print_json(
            {
                "program": os.readlink(places.launcher),
                "changed": [str(path) for path in changed],
                "supervisor": {"from": before, "to": info.version, "pid": host.pid(info.pid)},
                "sessions": sessions,
            }
        )
    elif not sessions:
        app.print("no session runs")
    if not all(one["ok"] for one in sessions):
        app.exit_code = exits.FAILED


def _inside(app: App, *, dry_run: bool, force: bool) -> None:
    """The same where the nest's manager and its files are."""
    words = [sys.executable, "-m", "sessiond.cli.main", "upgrade"]
    flags = {"--dry-run": dry_run, "--force": force, "--json": app.json, "--debug": app.debug}
    words += [flag for flag, given in flags.items() if given]
    done = app.host.run(words, check=False, timeout=_NEST_SECONDS)
    if done.stdout:
        app.print(done.stdout.rstrip("\n"))
    if done.stderr:
        app.note(done.stderr.rstrip("\n"))
    app.exit_code = done.returncode


# ---- files and the supervisor ---------------------------------------------------------------


def _installed() -> Places:
    """Where it is installed; raises Unreachable `not_installed`."""
    for places in (Places.of_user(), Places.of_user(runtime=True)):
        if (places.units / SUPERVISOR_UNIT).exists():
            return places
    raise Unreachable("not_installed", "there is no installation here to upgrade", hint="sessionctl install")


def _version(host: Host) -> str | None:
    """The release of the supervisor that runs; None where none does."""
    try:
        version: str = installation.wait_serving(host, 0.0).version
    except Unreachable:
        return None
    return version


def _refuse_older(before: str | None, *, force: bool) -> None:
    if before is not None and not force and _numbers(__version__) < _numbers(before):
        raise Conflict(
            "installation_older",
            f"this sessionctl is {__version__}, and the supervisor that runs is {before}",
            hint="run the newer installation's sessionctl, or go back with: sessionctl upgrade --force",
            fields={"version": __version__, "supervisor": before},
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a release begins with; what follows them does not count."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


@dataclass(frozen=True)
class _Kept:
    """An installation's files as they were."""

    launcher: str | None
    units: dict[Path, str | None]

    @classmethod
    def of(cls, places: Places) -> _Kept:
        launcher = os.readlink(places.launcher) if places.launcher.is_symlink() else None
        paths = [places.units / name for name in installation.unit_sources()]
        return cls(launcher, {path: path.read_text() if path.exists() else None for path in paths})

    def put_back(self, places: Places) -> None:
        if self.launcher is not None:
            installation.link(places.launcher, self.launcher)
        for path, text in self.units.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                installation.write_unit(path, text)


def _move(host: Host, places: Places, kept: _Kept) -> tuple[list[Path], Any]:
    """Have this installation's supervisor serve; what was changed, and what it says of itself."""
    try:
        changed = installation.write_files(places)
        if changed:
            host.systemctl("daemon-reload")
        info = installation.start_unit(host, restart=True)
        if info.version != __version__:
            raise Conflict(
                "version_unchanged",
                f"the supervisor was restarted and is {info.version}, not {__version__}",
                hint=f"systemctl --user cat {SUPERVISOR_UNIT}",
            )
    except (SessiondError, OSError) as error:
        kept.put_back(places)
        host.systemctl("daemon-reload", check=False)
        host.systemctl("reset-failed", SUPERVISOR_UNIT, check=False)
        host.systemctl("restart", SUPERVISOR_UNIT, check=False)
        said = error.message if isinstance(error, SessiondError) else str(error)
        raise SessiondError(
            "upgrade_failed",
            f"{said}\nWhat was installed before was put back ({kept.launcher}); sessions went on.",
            hint=error.hint if isinstance(error, SessiondError) else "",
        ) from error
    return changed, info


# ---- sessions -------------------------------------------------------------------------------


def _running(host: Host) -> Sequence[Any]:
    """Sessions whose daemon runs or is about to."""
    from sessiond.client.sync import Supervisor
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb
    from sessiond.rpc._generated.v1 import types_pb2 as types

    states = [types.SESSION_STATE_ACTIVE, types.SESSION_STATE_STARTING]
    with Supervisor(host.socket) as supervisor:
        request = pb.ListSessionsRequest(states=states)
        return list(supervisor.call(supervisor.sessions.ListSessions, request).sessions)


def _restart(app: App, session: Any) -> dict[str, Any]:
    """Restart one session's daemon and tell how it went; what fails is told and stops nothing."""
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    told: dict[str, Any] = {"id": session.id, "name": session.name, "ok": False, "from": None, "to": None}
    told |= {"pid": None, "code": None, "message": None}
    try:
        told["from"] = _daemon_version(app.host, session, missing_ok=True)
        request = pb.RestartSessionRequest(session=session.id)
        app.supervisor.call(app.supervisor.sessions.RestartSession, request, timeout=JOB_TIMEOUT)
        told["to"] = _daemon_version(app.host, session)
        now = app.supervisor.call(
            app.supervisor.sessions.GetSession, pb.GetSessionRequest(session=session.id)
        )
        told["pid"] = app.session(now.session)["pid"]
        if told["to"] != __version__:
            raise Conflict(
                "version_unchanged",
                f"{session.name} was restarted and is {told['to']}: its unit does not start by the launcher",
                hint=f"when its agents have ended: sessionctl stop {session.name}; "
                f"sessionctl start {session.name}",
                fields={"session": session.id},
            )
    except SessiondError as error:
        told |= {"code": error.code, "message": error.message}
        app.warn(error)
        return told
    told["ok"] = True
    if not app.json:
        app.print(f"{render.plain(session.name)}: {_from_to(told['from'], told['to'])} (pid {told['pid']})")
        app.flush()
    return told


def _daemon_version(host: Host, session: Any, *, missing_ok: bool = False) -> str | None:
    """The release of a session's daemon, as it says itself."""
    from sessiond.client.sync import Supervisor
    from sessiond.rpc._generated.v1 import daemon_pb2 as pb

    beside = os.path.join(os.path.dirname(host.socket), "sessions", f"{session.id}.sock")
    try:
        with Supervisor(beside if os.path.exists(beside) else session.endpoint) as daemon:
            request = pb.GetDaemonInfoRequest(session=session.id)
            version: str = daemon.call(daemon.daemon.GetDaemonInfo, request, timeout=_ASKING).version
            return version
    except Unreachable as error:
        if missing_ok:
            return None
        raise Unreachable(
            "daemon_unreachable",
            f"{session.name} was restarted and its daemon does not answer: {error.message}",
            hint=f"sessionctl status {session.name}",
            fields={"session": session.id},
        ) from error


# ---- words ----------------------------------------------------------------------------------


def _tell_plan(app: App, places: Places, before: str | None) -> None:
    changed = installation.outdated_files(places)
    sessions = _running(app.host) if before is not None else []
    if app.json:
        app.print_json(
            {
                "program": str(installation.program()),
                "changed": [str(path) for path in changed],
                "supervisor": {"from": before, "to": __version__, "pid": None},
                "sessions": [{"id": one.id, "name": one.name} for one in sessions],
            }
        )
        return
    for path in changed:
        app.print(f"would write {render.plain(str(path))}")
    app.print(f"would restart the supervisor: {_from_to(before, __version__)}")
    for one in sessions:
        app.print(f"would restart the daemon of {render.plain(one.name)}")


def _from_to(before: str | None, after: str | None) -> str:
    if before == after:
        return f"{after}, restarted"
    return f"{before or 'not running'} → {after}"
