"""`adapters`: which agent programs can be found, launched and read, and which are installed."""

from __future__ import annotations

import os
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.conversation import ADAPTER, problem_object
from sessiond.cli.verb import verb

# Below an adapter; each may have thousands.
_TROUBLES = 3


@verb(
    "adapters",
    examples="""
sessionctl adapters
sessionctl adapters --json | jq -r '.[] | select(.installed).name'
""",
)
@click.argument("names", nargs=-1, type=ADAPTER, metavar="[NAME]...")
def adapters(app: App, names: tuple[str, ...]) -> None:
    """List adapters: one for each agent program that sessiond knows.

    TESTED is the version of the real program that the adapter was last tested with; one without is
    `unverified`. Programs are looked for in your PATH.
    """
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    request = pb.ProbeAdaptersRequest(adapters=names, search_path=os.environ.get("PATH", ""))
    response = app.supervisor.call(app.supervisor.discovery.ProbeAdapters, request)
    found = [_object(one) for one in response.adapters]
    if app.json:
        app.print_json(found)
        return
    rows = [_cells(one) for one in found]
    header = ["NAME", "PROGRAM", "VERSION", "TESTED", "KNOWN", "LIVE", "PATH"]
    notes = {index: _troubles(one["problems"]) for index, one in enumerate(found)}
    colour = {2: {"not installed": render.DIM}, 3: {"unverified": render.YELLOW}}
    for line in render.table(header, rows, shrink=(6,), paths=(6,), colour=colour, notes=notes):
        app.print(line)


def _object(message: Any) -> dict[str, Any]:
    # One that is switched off is not asked: nothing is known of its program.
    return {
        "name": message.name,
        "title": message.title,
        "installed": None if message.disabled else message.installed,
        "path": message.path or None,
        "version": message.version or None,
        "verified": message.verified or None,
        "abilities": list(message.abilities),
        "places": list(message.places),
        "agent_sessions": message.agent_sessions,
        "live": message.live,
        "disabled": message.disabled,
        "problems": [problem_object(one) for one in message.problems],
    }


def _troubles(problems: list[dict[str, Any]]) -> list[str]:
    """The first few, each with its file."""
    told = [
        f"{render.home_path(one['path'])}: {one['reason']}" if one["path"] else one["reason"]
        for one in problems[:_TROUBLES]
    ]
    more = len(problems) - len(told)
    return [*told, f"{more} more: sessionctl discovered --errors"] if more else told


def _cells(one: dict[str, Any]) -> list[str]:
    off = one["disabled"]
    return [
        one["name"] + (" (off)" if off else ""),
        one["title"],
        "-" if off else (one["version"] or "unknown") if one["installed"] else "not installed",
        "-" if off else one["verified"] or "unverified",
        str(one["agent_sessions"]),
        str(one["live"]),
        render.home_path(one["path"]) if one["path"] else "-",
    ]
