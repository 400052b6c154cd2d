"""`new`, `adopt` and `discover`: how sessions come to be."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.show import TYPE
from sessiond.cli.verb import absolute, pair, verb


@verb(
    "new",
    examples="""
sessionctl new
sessionctl new ~/projects/shop --name shop --label team=web
sessionctl new ./trial --type test --start
sessionctl new . --enable --start
""",
)
@click.argument("path", default=".", type=click.Path())
@click.option("--name", default="", help="Its name; by default that of the folder.")
@click.option(
    "--type", "type_", type=TYPE, metavar="TYPE", help="development (default), production, test, persona."
)
@click.option("--owner", default="", help="Whose it is; by default you.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A word to select by.")
@click.option("--enable", is_flag=True, help="Start it at boot.")
@click.option("--start", is_flag=True, help="Start it now.")
def new(
    app: App,
    path: str,
    name: str,
    type_: str | None,
    owner: str,
    labels: tuple[str, ...],
    enable: bool,
    start: bool,
) -> None:
    """Make a folder a session: PATH, by default the current folder.

    The folder is created if only its last part is missing. What it holds already is left alone.
    """
    from sessiond.cli.jsonout import TYPE_NUMBERS
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.CreateSessionRequest(
        path=absolute(path),
        name=name,
        type=TYPE_NUMBERS[type_] if type_ else None,
        owner=owner,
        labels=dict(pair(word) for word in labels),
        enable=enable,
        start=start,
    )
    response = app.supervisor.call(app.supervisor.sessions.CreateSession, request, timeout=JOB_TIMEOUT)
    session = app.session(response.session)
    if app.json:
        app.print_json(session)
        return
    app.print(f"{render.plain(session['name'])}: {session['state']}, {render.plain(session['path'])}")
    if not start:
        app.note(f"Start it with: sessionctl start {_quoted(session['name'])}")


def _quoted(word: str) -> str:
    from shlex import quote

    return quote(word)


@verb(
    "adopt",
    examples="""
sessionctl adopt ~/src/kernel
sessionctl adopt . --name kernel
sessionctl adopt ~/copy-of-shop --new-id
""",
)
@click.argument("path", type=click.Path())
@click.option("--new-id", is_flag=True, help="Give it an id of its own: settles a copied workspace.")
@click.option("--name", default="", help="Name for a new identity; by default that of the folder.")
def adopt(app: App, path: str, new_id: bool, name: str) -> None:
    """Take a folder that exists as a session, whatever it holds.

    A folder that carries an identity keeps it; any other gets one.
    """
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.AdoptSessionRequest(path=absolute(path), new_id=new_id, name=name)
    response = app.supervisor.call(app.supervisor.sessions.AdoptSession, request)
    app.show_changed([app.session(response.session)], _adopted)


def _adopted(session: dict[str, Any]) -> str:
    return f"{render.plain(session['name'])}: adopted, {render.plain(session['path'])}"


@verb(
    "discover",
    examples="""
sessionctl discover
sessionctl discover ~/work /srv/projects
sessionctl discover --json | jq -r '.candidates[].path'
""",
)
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[PATH]...")
def discover(app: App, paths: tuple[str, ...]) -> None:
    """Scan folders for workspaces: those given, or the configured roots.

    Sessions found are taken in. Folders that look like projects, or that agents ran in, are offered: adopt
    them.
    """
    from sessiond.cli.jsonout import session_object
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    request = pb.ScanWorkspacesRequest(paths=[absolute(word) for word in paths])
    found = app.supervisor.call(app.supervisor.discovery.ScanWorkspaces, request)
    result = {
        "roots": list(found.roots),
        "sessions": [session_object(one, app.host.pid) for one in found.sessions],
        "candidates": [
            {
                "path": one.path,
                "markers": list(one.markers),
                "agent_sessions": dict(sorted(one.agent_sessions.items())),
            }
            for one in found.candidates
        ],
        "skipped": [{"path": one.path, "code": one.code, "reason": one.reason} for one in found.skipped],
    }
    if app.json:
        app.print_json(result)
        return
    for line in _found(result):
        app.print(line)


def _found(result: dict[str, Any]) -> list[str]:
    from sessiond.cli.show import session_table

    lines = [f"Scanned {', '.join(render.plain(one) for one in result['roots']) or 'nothing'}."]
    if result["sessions"]:
        lines += ["", *session_table(result["sessions"])]
    if result["candidates"]:
        rows = [
            [render.home_path(one["path"]), " ".join(one["markers"]), _ran(one["agent_sessions"])]
            for one in result["candidates"]
        ]
        lines += ["", "Not sessions yet (sessionctl adopt PATH):"]
        lines += render.table(["PATH", "MARKERS", "AGENTS RAN"], rows, shrink=(0,), paths=(0,))
    if result["skipped"]:
        rows = [[render.home_path(one["path"]), one["reason"]] for one in result["skipped"]]
        lines += [
            "",
            "Could not be taken:",
            *render.table(["PATH", "REASON"], rows, shrink=(1, 0), paths=(0,)),
        ]
    return lines


def _ran(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
