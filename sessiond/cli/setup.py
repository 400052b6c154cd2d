"""`install`, `uninstall`, `up` and `down`: sessiond on this machine, for this user."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from sessiond import __version__
from sessiond.cli import installation, render
from sessiond.cli.app import App
from sessiond.cli.exits import UsageFault
from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.cli.installation import Linger, Places
from sessiond.cli.verb import interactive, pair, verb
from sessiond.errors import Unreachable
from sessiond.paths import Paths


@verb(
    "install",
    examples="""
sessionctl install
sessionctl install --runtime     # until the next boot, nothing in your home
""",
)
@click.option(
    "--runtime", is_flag=True, help="Only until the user manager ends: units in its runtime folder."
)
@click.option("--no-linger", is_flag=True, help="Leave linger as it is.")
@click.option("--environment", multiple=True, hidden=True, help="Of the supervisor, with --runtime.")
def install(app: App, runtime: bool, no_linger: bool, environment: tuple[str, ...]) -> None:
    """Install for this user, start the supervisor, turn on linger.

    Writes and enables the units and the launcher, for the interpreter that sessionctl runs from. Run it
    again after an upgrade.
    """
    host = app.host
    host.need_manager()
    places = Places.of_user(runtime=runtime)
    changed = installation.write_files(places)
    if runtime and environment:
        changed.append(installation.write_environment(places, dict(pair(word) for word in environment)))
    if changed:
        host.systemctl("daemon-reload")
    if not runtime:
        host.systemctl("enable", SUPERVISOR_UNIT)
    info = installation.start_unit(host, restart=_outdated(host, changed))
    linger = Linger(False) if runtime or no_linger else installation.turn_linger_on(host)
    if app.json:
        app.print_json(_installed(host, places, changed, info, linger))
        return
    for path in changed:
        app.print(f"wrote {render.plain(str(path))}")
    if not changed:
        app.print("units and launcher are as they should be")
    app.print(f"supervisor serves at {render.plain(host.socket)} (pid {host.pid(info.pid)})")
    if not (runtime or no_linger):
        app.print(_linger_text(linger))


def _outdated(host: Host, changed: list[Path]) -> bool:
    """Whether a supervisor that runs is not the one just installed; sessions go on over its restart."""
    if host.properties(SUPERVISOR_UNIT, "ActiveState").get("ActiveState") != "active":
        return False
    try:
        info = installation.wait_serving(host, 5.0)
    except Unreachable:
        return True
    return bool(changed) or info.version != __version__


def _installed(host: Host, places: Places, changed: list[Path], info: Any, linger: Linger) -> dict[str, Any]:
    return {
        "units": [str(places.units / name) for name in installation.unit_sources()],
        "launcher": str(places.launcher),
        "program": os.readlink(places.launcher),
        "changed": [str(path) for path in changed],
        "linger": linger.on,
        "linger_command": linger.command or None,
        **_supervisor(host, info),
    }


def _supervisor(host: Host, info: Any) -> dict[str, Any]:
    from sessiond.cli.jsonout import time_text

    return {
        "running": True,
        "socket": host.socket,
        "pid": host.pid(info.pid),
        "version": info.version,
        "since": time_text(info, "started_at"),
    }


def _linger_text(linger: Linger) -> str:
    if linger.changed:
        return "linger turned on: sessions live on when you log out, and start at boot"
    if linger.on:
        return "linger is on"
    return (
        "linger is off and may not be turned on from here: sessions end when you log out, and none starts at "
        f"boot.\nAn administrator turns it on with: {linger.command}"
    )


@verb(
    "uninstall",
    examples="""
sessionctl uninstall
sessionctl uninstall --keep-data
sessionctl uninstall --yes
""",
)
@click.option("--keep-data", is_flag=True, help="Keep labels, annotations, marks and sessions' own state.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--runtime", is_flag=True, help="Only what `install --runtime` wrote; nothing is stopped.")
def uninstall(app: App, keep_data: bool, yes: bool, runtime: bool) -> None:
    """Stop all sessions and take sessiond away.

    Workspaces, and the identities in them, stay.
    """
    host, paths, places = app.host, Paths.from_environment(), Places.of_user()
    if runtime:
        _remove_runtime(app)
        return
    reachable = host.manager or host.nest is not None
    if not yes:
        _ask(app, installation.live_sessions(host) if reachable else [])
    if reachable:
        installation.stop_all(host)
    removed = installation.remove_files(places)
    if host.manager:
        removed += installation.remove_files(Places.of_user(runtime=True))
    if reachable:
        host.systemctl("daemon-reload")
        host.systemctl("reset-failed", "sessiond*", check=False)
    folders = [Path(os.path.dirname(host.socket))] if host.nest is None else []
    if not keep_data:
        folders.append(paths.state)
    removed += [folder for folder in folders if installation.remove_folder(folder)]
    with suppress(OSError):
        paths.data.rmdir()
    kept = [path for path in (paths.state, paths.config) if path.exists()]
    if app.json:
        app.print_json({"removed": [str(one) for one in removed], "kept": [str(one) for one in kept]})
        return
    for one in removed:
        app.print(f"removed {render.plain(str(one))}")
    if not removed:
        app.print("nothing was installed")
    for one in kept:
        app.print(f"kept {render.plain(str(one))}")
    if host.nest is not None:
        app.print("the nest is still up; end it with: sessionctl nest down")
    elif reachable and installation.lingers(host):
        app.print("linger is still on; turn it off with: loginctl disable-linger")


def _remove_runtime(app: App) -> None:
    app.host.need_manager()
    removed = installation.remove_files(Places.of_user(runtime=True))
    app.host.systemctl("daemon-reload")
    if app.json:
        app.print_json({"removed": [str(one) for one in removed], "kept": []})
        return
    for one in removed:
        app.print(f"removed {render.plain(str(one))}")


def _ask(app: App, live: list[str]) -> None:
    if not interactive():
        raise UsageFault(
            "confirmation_needed",
            "uninstall stops all sessions and asks first, and there is no terminal to ask on",
            hint="sessionctl uninstall --yes",
        )
    for line in live:
        app.note(f"runs: {render.plain(line)}")
    stopped = f"Stop {len(live)} running session{'s'[: len(live) != 1]} and take" if live else "Take"
    click.confirm(f"{stopped} sessiond away?", abort=True, err=True)


@verb(
    "up",
    examples="""
sessionctl up
""",
)
def up(app: App) -> None:
    """Start the supervisor, and return when it serves."""
    info = installation.start_unit(app.host)
    if app.json:
        app.print_json(_supervisor(app.host, info))
    else:
        app.print(f"supervisor serves at {render.plain(app.host.socket)} (pid {app.host.pid(info.pid)})")


@verb(
    "down",
    examples="""
sessionctl down
""",
)
def down(app: App) -> None:
    """Stop the supervisor; sessions go on."""
    app.host.need_manager()
    ran = installation.stop_unit(app.host)
    if app.json:
        app.print_json(
            {"running": False, "socket": app.host.socket, "pid": None, "version": None, "since": None}
        )
    else:
        app.print("supervisor stopped; sessions go on" if ran else "supervisor was not running")
