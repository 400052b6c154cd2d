"""`doctor`: what is well here, what is not, and the command that mends it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sessiond.cli import exits, render
from sessiond.cli.app import App
from sessiond.cli.verb import verb

if TYPE_CHECKING:
    from sessiond.doctor.row import CheckRow

_COLOURS = {"ok": render.GREEN, "warning": render.YELLOW, "failure": render.RED}
# Longer than an adapter that hangs is waited for.
_ASKING = 20.0
_MARKS = {"ok": "✓", "warning": "!", "failure": "✗"}


@verb(
    "doctor",
    examples="""
sessionctl doctor
sessionctl doctor --json | jq '.[] | select(.status != "ok")'
""",
)
def doctor(app: App) -> None:
    """Look at what sessiond stands on, and say what mends it. Exits with 1 on a failure.

    Needs no supervisor; one that answers is asked which files of agents' programs it cannot read. While a
    nest is up it looks from inside.
    """
    if app.host.nest is not None:
        _inside(app)
    rows = _rows(app)
    if app.json:
        app.print_json(rows)
    else:
        _show(app, rows)
    if any(row["status"] == "failure" for row in rows):
        app.exit_code = exits.FAILED


def _inside(app: App) -> None:
    """Become this verb in the nest: what is looked at are its systemd, its journal, its mounts."""
    words = [sys.executable, "-m", "sessiond.cli.main", "doctor", *(["--json"] if app.json else [])]
    argv = app.host.argv(words)
    app.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - words made here


def _rows(app: App) -> list[dict[str, str]]:
    from sessiond import config
    from sessiond import doctor as library
    from sessiond.errors import SessiondError
    from sessiond.paths import Paths

    paths = Paths.from_environment()
    environment = app.host.environment()
    try:
        settings = config.load(paths.config_file, environment)
    except SessiondError:
        settings = None
    found = library.checks(paths, os.environ, settings, Path(app.host.socket))
    found = [*found, *_agent_files(app)]
    return [
        {"check": row.check, "status": row.status.value, "detail": row.detail, "fix": row.fix}
        for row in found
    ]


def _agent_files(app: App) -> list[CheckRow]:
    """The row on the files of agents' programs; none where no supervisor answers, since only it can tell."""
    from sessiond.doctor.agent_files import CHECK, agent_files
    from sessiond.doctor.row import unknown
    from sessiond.errors import ErrorKind, SessiondError
    from sessiond.model.agent_session import Problem
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    request = pb.ListAgentSessionsRequest(page_size=1)
    try:
        answer = app.supervisor.call(app.supervisor.discovery.ListAgentSessions, request, timeout=_ASKING)
    except SessiondError as error:
        # One that is away has a row of its own; one of a release before adapters has nothing to tell.
        if error.kind in (ErrorKind.UNREACHABLE, ErrorKind.UNSUPPORTED):
            return []
        return [unknown(CHECK, error.message, "sessionctl discovered --errors")]
    problems = [Problem(one.adapter, one.code, one.reason, one.path) for one in answer.problems]
    return [agent_files(problems, looked=True)]


def _show(app: App, rows: list[dict[str, Any]]) -> None:
    on = render.colours()
    longest = max(len(row["check"]) for row in rows)
    for row in rows:
        mark = render.paint(_MARKS[row["status"]], _COLOURS[row["status"]], on=on)
        app.print(f"{mark} {row['check']:<{longest}}  {render.plain(row['detail'])}")
        if row["fix"] and row["status"] != "ok":
            app.print(
                f"  {'':<{longest}}  {render.paint('→ ' + render.plain(row['fix']), render.BOLD, on=on)}"
            )
    bad = [sum(row["status"] == status for row in rows) for status in ("failure", "warning")]
    app.print("")
    app.print(f"{len(rows)} checks: {bad[0]} failures, {bad[1]} warnings" if any(bad) else "All is well.")
