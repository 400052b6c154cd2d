"""`status`: a session, an agent, or the supervisor, in the way that `systemctl status` reads."""

from __future__ import annotations

from typing import Any

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.cli.journal import last_lines, session_matches, supervisor_matches
from sessiond.cli.show import ending, limits_text, troubles
from sessiond.cli.verb import names_agent, thing, verb

LOG_LINES = 10
ACCOUNTS = ("TasksCurrent", "TasksMax", "MemoryCurrent", "CPUUsageNSec", "ControlGroup")
# What systemd shows for a number it does not have, beside "[not set]" and "infinity".
UNSET = 2**64 - 1
_DOTS = {"active": render.GREEN, "error": render.RED, "starting": render.YELLOW, "stopping": render.YELLOW}


@verb(
    "status",
    examples="""
sessionctl status
sessionctl status shop
sessionctl status . --json
sessionctl status shop/claude
""",
)
@thing(required=False)
def status(app: App, target: str | None) -> None:
    """Show how a session, an agent, or the supervisor is doing.

    With what systemd counts of it, and the last lines of its journal. An agent is named SESSION/NAME.
    """
    if target is None:
        _supervisor(app)
    elif names_agent(target):
        from sessiond.cli.agent_show import status_of_agent

        status_of_agent(app, target)
    else:
        _session(app, target)


# ---- one session ----------------------------------------------------------------------------


def _session(app: App, word: str) -> None:
    from sessiond.cli.jsonout import session_details
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.GetSessionRequest(session=word, details=True)
    response = app.supervisor.call(app.supervisor.sessions.GetSession, request)
    one = session_details(response, app.host.pid)
    one |= accounts(app.host, one["slice"]) if one["state"] != "inactive" else no_accounts()
    if app.json:
        app.print_json(one)
        return
    on = render.colours()
    dot = render.paint(
        "●" if one["state"] not in ("inactive", "archived") else "○", _colour(one["state"]), on=on
    )
    app.print(f"{dot} {render.plain(one['name'])} - {render.plain(one['path'])}")
    for line in render.page(_session_rows(one, on)):
        app.print(line)
    print_journal(app, last_lines(app.host, session_matches(one["id"]), LOG_LINES))


def _session_rows(one: dict[str, Any], on: bool) -> list[tuple[str, str]]:
    enabled = {True: "enabled", False: "disabled", None: "unknown"}[one["enabled"]]
    since = f" since {render.local_time(one['since'])}" if one["since"] else ""
    frozen = ", frozen" if one["frozen"] else ""
    rows = [
        ("Unit", f"{one['unit']} (at boot: {enabled})"),
        ("State", render.state_text(one["state"], on=on) + frozen + since),
    ]
    rows += [("Trouble", render.paint(render.plain(text), render.YELLOW, on=on)) for text in troubles(one)]
    if one["state"] == "error" or one["restarts"]:
        rows.append(("Last run", f"{ending(one)}; {one['restarts'] or 0} restarts since the start"))
    if one["state"] not in ("inactive", "archived"):
        rows += [("Main PID", _text(one["pid"])), *account_rows(one)]
        if one["limits"] != {}:
            rows.append(("Limits", limits_text(one)))
        rows.append(("Slice", one["slice"]))
    return rows


# ---- the supervisor -------------------------------------------------------------------------


def _supervisor(app: App) -> None:
    from sessiond.cli.jsonout import time_text
    from sessiond.rpc._generated.v1 import system_pb2 as pb

    info = app.supervisor.call(app.supervisor.system.GetInfo, pb.GetInfoRequest())
    one: dict[str, Any] = {
        "version": info.version,
        "pid": app.host.pid(info.pid),
        "since": time_text(info, "started_at"),
        "sessions": info.sessions,
        "active_sessions": info.active_sessions,
        "init": info.init or None,
        "init_reachable": info.init_reachable,
        "socket": app.host.socket,
        "state_dir": info.state_dir,
        "database_note": info.database_note or None,
        "nest": app.host.nest is not None,
        **accounts(app.host, SUPERVISOR_UNIT),
    }
    if app.json:
        app.print_json(one)
        return
    on = render.colours()
    app.print(f"{render.paint('●', render.GREEN, on=on)} sessiond {one['version']} - the supervisor")
    init = one["init"] if one["init_reachable"] else "does not answer; states are unknown"
    rows = [
        ("Unit", SUPERVISOR_UNIT + (" (in the nest)" if one["nest"] else "")),
        ("State", f"{render.state_text('active', on=on)} since {render.local_time(one['since'])}"),
        ("Sessions", f"{one['sessions']}, {one['active_sessions']} active"),
        ("Init", render.plain(init or "unknown")),
        ("Main PID", _text(one["pid"])),
        *account_rows(one),
        ("Socket", render.plain(one["socket"])),
        ("Data", render.plain(one["state_dir"])),
    ]
    if one["database_note"]:
        rows.append(("Note", render.paint(render.plain(one["database_note"]), render.YELLOW, on=on)))
    for line in render.page(rows):
        app.print(line)
    print_journal(app, last_lines(app.host, supervisor_matches(), LOG_LINES))


# ---- what systemd counts --------------------------------------------------------------------

_KEYS = ("tasks", "tasks_max", "memory", "cpu_seconds", "cgroup")


def accounts(host: Host, unit: str) -> dict[str, Any]:
    """Tasks, memory in bytes and CPU in seconds of a unit, as systemd counts them; None where it does not."""
    shown = host.properties(unit, *ACCOUNTS)
    cpu = _number(shown.get("CPUUsageNSec"))
    return {
        "tasks": _number(shown.get("TasksCurrent")),
        "tasks_max": _number(shown.get("TasksMax")),
        "memory": _number(shown.get("MemoryCurrent")),
        "cpu_seconds": None if cpu is None else cpu / 1e9,
        "cgroup": shown.get("ControlGroup") or None,
    }


def no_accounts() -> dict[str, Any]:
    """The same of a unit that does not run."""
    return dict.fromkeys(_KEYS)


def _number(text: str | None) -> int | None:
    if not text or not text.isdigit() or int(text) == UNSET:
        return None
    return int(text)


def account_rows(one: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of what systemd counts, unknown said as such."""
    limit = f" (limit: {one['tasks_max']})" if one["tasks_max"] is not None else ""
    tasks = "unknown" if one["tasks"] is None else f"{one['tasks']}{limit}"
    return [
        ("Tasks", tasks),
        ("Memory", render.size(one["memory"])),
        ("CPU", render.seconds(one["cpu_seconds"])),
        ("CGroup", one["cgroup"] or "unknown"),
    ]


def print_journal(app: App, lines: list[str] | None) -> None:
    """Lines of a journal below a page, or that it cannot be read."""
    app.print("")
    if lines is None:
        app.print("The journal cannot be read from here: sessionctl doctor says why.")
    for line in lines or []:
        app.print(render.plain(line))


def _colour(state: str) -> str:
    return _DOTS.get(state, render.DIM)


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
