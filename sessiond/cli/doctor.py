"""`doctor`: what sessiond stands on, and what mends it."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sessiond.cli import exits, render
from sessiond.cli.app import App
from sessiond.cli.verb import verb
from sessiond.errors import InvalidArgument, PermissionDenied, SessiondError

if TYPE_CHECKING:
    from sessiond.doctor import CheckRow

_COLOURS = {"ok": render.GREEN, "warning": render.YELLOW, "failure": render.RED}
# Programs that speak to a systemd, and so are run where it is.
_OF_SYSTEMD = ("systemctl", "journalctl", "loginctl", "busctl")
# Longer than every program that hangs.
_PATIENCE = 120.0


@verb(
    "doctor",
    examples="""
sessionctl doctor
sessionctl doctor --json | jq -r '.[] | select(.status != "ok") | .fix'
""",
)
def doctor(app: App) -> None:
    """Look at what sessiond stands on; say what is not well, and the command that mends it.

    Exits with 1 when there is a failure, with 0 when there are warnings only. Needs no supervisor.
    """
    rows = _here(app) if app.host.nest is None else _in_nest(app)
    if any(row.status == "failure" for row in rows):
        app.exit_code = exits.FAILED
    if app.json:
        app.print_json([_object(row) for row in rows])
    else:
        _show(app, rows)


def _here(app: App) -> list[CheckRow]:
    """Look from this process."""
    from sessiond import config
    from sessiond.doctor import checks
    from sessiond.paths import Paths

    paths = Paths.from_environment()
    try:
        settings = config.load(paths.config_file)
    except InvalidArgument:
        # A row of its own tells it.
        settings = None
    return checks(paths, os.environ, settings, Path(app.host.socket))


def _in_nest(app: App) -> list[CheckRow]:
    """Look from inside the nest; where only root may enter it, ask the supervisor there to look."""
    from sessiond.doctor import CheckRow, Status

    words = [sys.executable, "-m", "sessiond.cli.main", "doctor", "--json"]
    try:
        done = app.host.run(words, check=False, timeout=_PATIENCE)
    except PermissionDenied:
        from sessiond.rpc._generated.v1 import system_pb2 as pb

        system = app.supervisor.system
        answer = app.supervisor.call(system.RunDoctor, pb.RunDoctorRequest(), timeout=_PATIENCE)
        return [CheckRow(one.check, Status(one.status), one.detail, one.fix) for one in answer.checks]
    try:
        found = json.loads(done.stdout)
        rows = [CheckRow(one["check"], Status(one["status"]), one["detail"], one["fix"]) for one in found]
    except (ValueError, KeyError, TypeError) as error:
        said = (done.stderr or done.stdout).strip()
        raise SessiondError("doctor_failed", f"the doctor in the nest said: {said[:500]}") from error
    return [CheckRow(row.check, row.status, row.detail, _from_outside(row.fix)) for row in rows]


def _from_outside(fix: str) -> str:
    """A command for the nest's systemd as it is given outside of the nest."""
    if not fix.startswith(_OF_SYSTEMD):
        return fix
    simple = not any(sign in fix for sign in "|&;>")
    return f"sessionctl nest exec -- {fix if simple else f'sh -c {shlex.quote(fix)}'}"


def _object(row: CheckRow) -> dict[str, str]:
    return {"check": row.check, "status": row.status, "detail": row.detail, "fix": row.fix}


def _show(app: App, rows: list[CheckRow]) -> None:
    on = render.colours()
    wide = max(len(row.check) for row in rows)
    for row in rows:
        status = render.paint(row.status.ljust(7), _COLOURS[row.status], on=on)
        app.print(f"{status}  {row.check.ljust(wide)}  {render.plain(row.detail)}")
        if row.fix:
            app.print(
                f"{' ' * (wide + 11)}{render.paint('fix:', render.BOLD, on=on)} {render.plain(row.fix)}"
            )
    counts = [(sum(row.status == word for row in rows), word) for word in ("failure", "warning")]
    told = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count]
    app.print("")
    app.print(", ".join(told) if told else "all is well")
