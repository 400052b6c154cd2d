"""`logs`: the journal of a session or an agent, by journalctl itself."""

from __future__ import annotations

import os

import click

from sessiond.cli.app import App
from sessiond.cli.journal import agent_matches, session_matches, supervisor_matches
from sessiond.cli.verb import names_agent, thing, verb
from sessiond.errors import InvalidArgument, SessiondError


@verb(
    "logs",
    examples="""
sessionctl logs shop
sessionctl logs shop -f
sessionctl logs . -n 500 --since "1 hour ago"
sessionctl logs shop/server -f
sessionctl logs --supervisor -f
sessionctl logs shop --json | jq -r .MESSAGE
""",
)
@thing(required=False)
@click.option("--supervisor", is_flag=True, help="The supervisor's own, also while it is down.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-n", "--lines", default=None, metavar="N", help="The last N lines, or all; default 100.")
@click.option("--since", metavar="TIME", help="From this time on, as journalctl takes it.")
def logs(
    app: App, target: str | None, supervisor: bool, follow: bool, lines: str | None, since: str | None
) -> None:
    """Show the journal of a session or an agent.

    What a session's daemon and all that runs in it wrote, and what the init system did to them. Of an
    agent, named SESSION/NAME, what it wrote, and what the init system did to it; what one with a
    terminal printed is shown by `sessionctl output`.

    With --json one object a line, with the journal's own fields.
    """
    if supervisor == bool(target):
        raise click.UsageError("name a session or an agent, or give --supervisor")
    words = ["journalctl", "--no-pager", *_count(lines, since)]
    if follow:
        words.append("--follow")
    if since is not None:
        words.append(f"--since={since}")
    if app.json:
        words.append("--output=json")
    words += _matches(app, target) if target else supervisor_matches()
    argv = app.host.argv(words)
    app.close()
    app.flush()
    try:
        os.execvpe(argv[0], argv, app.host.environment())  # noqa: S606 - words made here
    except FileNotFoundError as error:
        raise SessiondError(
            "program_missing", f"{argv[0]} is not installed", hint="install systemd"
        ) from error


def _count(lines: str | None, since: str | None) -> list[str]:
    if lines is None:
        # Whoever names a time wants all since then.
        return ["--lines=all" if since is not None else "--lines=100"]
    if lines != "all" and not (lines.isdigit() and lines.isascii() and len(lines) < 10):
        raise InvalidArgument("count_invalid", f"not a number of lines: {lines!r}", hint="a number, or all")
    return [f"--lines={lines}"]


def _matches(app: App, word: str) -> list[str]:
    if not names_agent(word):
        return session_matches(_resolved(app, word))
    from sessiond.cli.agents import get_agent, shown_name

    agent = get_agent(app, word)
    if agent.tty and not app.json:
        name = shown_name(app.agent(agent))
        app.note(f"{name} has a terminal; what it printed there is shown by: sessionctl output {name}")
    return agent_matches(agent.unit)


def _resolved(app: App, word: str) -> str:
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.GetSessionRequest(session=word)
    session: str = app.supervisor.call(app.supervisor.sessions.GetSession, request).session.id
    return session
