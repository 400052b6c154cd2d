"""`ps`: the agents of one session, or of all."""

from __future__ import annotations

from shlex import join
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.agents import ENDED, not_recorded, warn_unanswered
from sessiond.cli.app import App
from sessiond.cli.choice import AGENT_STATE, Choice, selection
from sessiond.cli.verb import group_option, label_option, target, verb

# What a narrow terminal goes without, the first named first.
_DISPENSABLE = ("MEM", "CPU", "PID")
# Columns that may be cut: the command, then the name.
_SHRINK = (2, 0)


@verb(
    "ps",
    examples="""
sessionctl ps
sessionctl ps -a shop
sessionctl ps --state failed --group nightly
sessionctl ps --json | jq -r '.[] | select(.memory_bytes > 1e9).name'
""",
)
@target(required=False, metavar="[SESSION]")
@click.option("-a", "--all", "everything", is_flag=True, help="Also agents that have ended.")
@click.option(
    "--state", "states", multiple=True, type=AGENT_STATE, metavar="STATE", help="Only in this state."
)
@group_option("Only in this group.")
@label_option
def ps(
    app: App,
    target: str | None,
    everything: bool,
    states: tuple[str, ...],
    group: str,
    labels: tuple[str, ...],
) -> None:
    """List agents that have not ended, by session and age.

    Options that are given more than once: any of the states, all of the labels. A session that does
    not answer is told on stderr, and makes the exit code 1.
    """
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    wanted = selection(Choice(group=group, labels=labels, states=states), ())
    # A state asked for by name is wanted, also where listings leave it out.
    wanted.include_ended |= everything
    request = pb.ListAgentsRequest(session=target or "", selection=wanted, usage=True)
    response = app.supervisor.call(app.supervisor.agents.ListAgents, request)
    agents = [app.agent(one) for one in response.agents]
    if app.json:
        app.print_json(agents)
    elif agents:
        for line in agent_table(agents):
            app.print(line)
    elif not response.unanswered:
        filtered = bool(states or group or labels)
        ended = "" if everything or filtered else " (sessionctl ps -a shows those that have ended)"
        app.note("No agent fits." if filtered else f"No agents{ended}: sessionctl run -- COMMAND starts one.")
    warn_unanswered(app, response.unanswered)


def agent_table(agents: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of agents; what is wrong with one stands below it."""
    ended = any(one["state"] in ENDED for one in agents)
    header = ["NAME", "STATE", "COMMAND", "PID", "UPTIME" + ("/ENDED" if ended else "")]
    header += [*(["EXIT"] if ended else []), "CPU", "MEM"]
    rows = [_cells(one) for one in agents]
    colour = {
        row["STATE"]: render.AGENT_COLOURS.get(one["state"], "")
        for row, one in zip(rows, agents, strict=True)
    }
    notes = {index: _troubles(one) for index, one in enumerate(agents)}
    columns = render.terminal_width()
    for left_out in range(len(_DISPENSABLE) + 1):
        kept = [name for name in header if name not in _DISPENSABLE[:left_out]]
        cells = [[row[name] for name in kept] for row in rows]
        if columns is None or render.least_width(kept, cells, _SHRINK) <= columns:
            break
    return render.table(kept, cells, shrink=_SHRINK, colour={1: colour}, notes=notes)


def _cells(one: dict[str, Any]) -> dict[str, str]:
    over = one["state"] in ENDED
    time = f"{render.ago(one['ended_at'])} ago" if over and one["ended_at"] else render.ago(one["started_at"])
    return {
        "NAME": f"{one['session_name']}/{one['name']}",
        "STATE": one["state"] + (f" ({one['activity']})" if one["activity"] else ""),
        "COMMAND": join(one["command"]),
        "PID": "-" if one["pid"] is None else str(one["pid"]),
        "UPTIME": time,
        "UPTIME/ENDED": "-" if over and not one["ended_at"] else time,
        "EXIT": one["signal"] or ("-" if one["exit_status"] is None else str(one["exit_status"])),
        "CPU": "-" if one["cpu_seconds"] is None else render.seconds_short(one["cpu_seconds"]),
        "MEM": "-" if one["memory_bytes"] is None else render.size(one["memory_bytes"]),
    }


def _troubles(one: dict[str, Any]) -> list[str]:
    found = [not_recorded(one["recording_problem"])] if one["recording_problem"] else []
    return found + ([one["reason"]] if one["reason"] else [])
