"""`show` and `status` of an agent."""

from __future__ import annotations

from shlex import join
from typing import Any

from sessiond.cli import render
from sessiond.cli.agents import ENDED, ending, get_agent, not_recorded, shown_name
from sessiond.cli.app import App
from sessiond.cli.show import labels_text


def show_agent(app: App, word: str) -> None:
    """Print all that is known of an agent."""
    one = app.agent(get_agent(app, word))
    if app.json:
        app.print_json(one)
        return
    for line in render.page(_rows(one)):
        app.print(line)


def _rows(one: dict[str, Any]) -> list[tuple[str, str]]:
    terminal = f"{one['columns']}x{one['rows']}, {_clients(one)}" if one["tty"] else "none"
    held = one["record_bytes"] - one["record_start"]
    record = f"{render.size(one['record_bytes'])}, of which {render.size(held)} are held"
    return [
        ("Name", shown_name(one)),
        ("Id", one["id"]),
        ("Session", one["session"]),
        ("State", state_text(one)),
        *trouble_rows(one),
        ("Command", render.plain(join(one["command"]))),
        ("Folder", render.plain(one["cwd"])),
        ("Unit", one["unit"]),
        ("Pid", "-" if one["pid"] is None else str(one["pid"])),
        ("Started", render.local_time(one["started_at"])),
        ("Ended", render.local_time(one["ended_at"])),
        ("Last run", ", ".join(word for word in (one["result"], ending(one)) if word) or "-"),
        ("Restarts", f"{one['restarts']} (policy: {one['restart']})"),
        ("At boot", "started again with its session" if one["resurrect"] else "not started again"),
        ("Group", render.plain(one["group"] or "-")),
        ("Labels", render.plain(labels_text(one["labels"])) or "-"),
        ("Terminal", terminal),
        ("Output", record if one["record_start"] else render.size(one["record_bytes"])),
        ("CPU", render.seconds(one["cpu_seconds"])),
        ("Memory", "-" if one["state"] in ENDED else render.size(one["memory_bytes"])),
        ("Created", render.local_time(one["created_at"])),
    ]


def _clients(one: dict[str, Any]) -> str:
    return {0: "nobody attached", 1: "1 client attached"}.get(
        one["clients"], f"{one['clients']} clients attached"
    )


def state_text(one: dict[str, Any]) -> str:
    """The state in its colour, with the activity and the exit beside it."""
    on = render.colours()
    besides = ", ".join(word for word in (one["activity"], ending(one)) if word)
    painted = render.paint(one["state"], render.AGENT_COLOURS.get(one["state"], ""), on=on)
    return painted + (f" ({render.plain(besides)})" if besides else "")


def trouble_rows(one: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows of why it is as it is, and of what is wrong with its record."""
    on = render.colours()
    texts = [one["reason"] or ""]
    if one["recording_problem"]:
        texts.append(not_recorded(one["recording_problem"]))
    return [("Reason", render.paint(render.plain(text), render.YELLOW, on=on)) for text in texts if text]


# ---- status ---------------------------------------------------------------------------------


def status_of_agent(app: App, word: str) -> None:
    """Print how an agent is doing, what systemd counts of it, and the last lines of its journal."""
    from sessiond.cli.journal import agent_matches, last_lines
    from sessiond.cli.status import LOG_LINES, account_rows, accounts, no_accounts, print_journal

    one = app.agent(get_agent(app, word))
    living = one["state"] not in ENDED
    counted = accounts(app.host, one["unit"]) if living else no_accounts()
    # What the API tells of an agent that has ended is what its unit said last.
    shown = {**one, **counted, "cpu_seconds": counted["cpu_seconds"] or one["cpu_seconds"]}
    if app.json:
        app.print_json(shown)
        return
    on = render.colours()
    dot = render.paint("●" if living else "○", render.AGENT_COLOURS.get(one["state"], ""), on=on)
    app.print(f"{dot} {shown_name(one)} - {render.plain(join(one['command']))}")
    since = one["started_at"] if living else one["ended_at"]
    rows = [
        ("Unit", one["unit"]),
        ("State", state_text(one) + (f" since {render.local_time(since)}" if since else "")),
        *trouble_rows(one),
    ]
    if one["restarts"]:
        rows.append(("Restarts", f"{one['restarts']} since it was started"))
    if living:
        rows.append(("Main PID", "unknown" if one["pid"] is None else str(one["pid"])))
        rows += account_rows(shown)
        rows.append(
            ("Terminal", f"{one['columns']}x{one['rows']}, {_clients(one)}" if one["tty"] else "none")
        )
    else:
        rows.append(("CPU", render.seconds(one["cpu_seconds"])))
    rows.append(("Output", render.size(one["record_bytes"])))
    for line in render.page(rows):
        app.print(line)
    print_journal(app, last_lines(app.host, agent_matches(one["unit"]), LOG_LINES))
