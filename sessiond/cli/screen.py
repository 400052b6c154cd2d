"""`screen`: what is on an agent's screen now."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.agents import agent, agent_target
from sessiond.cli.app import App
from sessiond.cli.verb import verb


@verb(
    "screen",
    examples="""
sessionctl screen shop/claude
sessionctl screen claude --ansi --scrollback 200 | less -R
sessionctl screen claude --html > screen.html
sessionctl screen claude --json | jq -r .content
""",
)
@agent()
@click.option("--ansi", is_flag=True, help="With colours and attributes.")
@click.option("--html", is_flag=True, help="As a fragment of HTML.")
@click.option(
    "--scrollback",
    type=click.IntRange(0, 100_000),
    default=0,
    metavar="N",
    help="So many lines before it that left the screen.",
)
def screen(app: App, target: str, ansi: bool, html: bool, scrollback: int) -> None:
    """Show the screen of an agent as it is now, or was when it ended.

    Without --ansi or --html it is plain text.
    """
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    if ansi and html:
        raise click.UsageError("--ansi and --html exclude each other")
    form = "html" if html else "ansi" if ansi else "text"
    session, name, found = agent_target(app, target)
    wire: Any = pb.ScreenFormat.Value(f"SCREEN_FORMAT_{form.upper()}")
    request = pb.GetScreenRequest(session=session, agent=found, format=wire, scrollback=scrollback)
    shown = app.supervisor.call(app.supervisor.agents.GetScreen, request)
    if app.json:
        app.print_json(
            {
                "session": session,
                "session_name": name,
                "agent": found,
                "format": form,
                "content": shown.content,
                "columns": shown.size.columns,
                "rows": shown.size.rows,
                "cursor": {"column": shown.cursor_column, "row": shown.cursor_row},
                "title": shown.title or None,
                "alternate": shown.alternate,
                "offset": shown.offset,
                "degraded": shown.degraded,
            }
        )
        return
    content = shown.content.removesuffix("\n")
    app.print(render.plain(content, keep_newlines=True) if form == "text" else content)
    if shown.degraded:
        app.note("No terminal emulator is installed: this is the plain end of its record.")
