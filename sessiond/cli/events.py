"""`events`: what happened to sessions, and what happens."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.verb import targets, verb
from sessiond.errors import InvalidArgument

DEFAULT_COUNT = 100
LARGEST_COUNT = 10_000


@verb(
    "events",
    examples="""
sessionctl events
sessionctl events -f
sessionctl events shop -n 20 --kind session_state_changed
sessionctl events -f --json | jq -r 'select(.fields.to == "error").session_name'
""",
)
@targets(required=False, metavar="[SESSION]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.option("-n", "--lines", type=int, metavar="N", help="The last N events; default 100, with -f none.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only of this kind.")
def events(
    app: App, targets: tuple[str, ...], follow: bool, lines: int | None, kinds: tuple[str, ...]
) -> None:
    """Show events, oldest first. With --json one object a line."""
    from sessiond.rpc._generated.v1 import events_pb2 as pb

    if lines is not None and not 0 <= lines <= LARGEST_COUNT:
        raise InvalidArgument(
            "count_invalid", f"not a number of events: {lines}", hint=f"0 to {LARGEST_COUNT}"
        )
    count = lines if lines is not None else 0 if follow else DEFAULT_COUNT
    request = pb.WatchEventsRequest(sessions=targets, kinds=kinds)
    if count:
        ask = pb.FetchEventsRequest(sessions=targets, kinds=kinds, limit=count)
        fetched = app.supervisor.call(app.supervisor.events.FetchEvents, ask)
        for event in fetched.events:
            _show(app, event)
        request.after.CopyFrom(fetched.cursor)
    if not follow:
        return
    app.flush()
    for response in app.supervisor.stream(app.supervisor.events.WatchEvents, request):
        if response.HasField("event"):
            _show(app, response.event)
            # Whoever follows reads each as it comes, through a pipe too.
            app.flush()


def _show(app: App, event: Any) -> None:
    from sessiond.cli.jsonout import event_object

    one = event_object(event)
    if app.json:
        app.print_json(one, indent=None)
        return
    moment = render.parse_time(one["time"])
    shown = f"{moment.astimezone():%Y-%m-%d %H:%M:%S.%f}"[:-3] if moment else "-"
    fields = " ".join(f"{key}={render.plain(value)}" for key, value in one["fields"].items() if value)
    on = render.colours()
    name = render.paint(render.plain(one["session_name"]), render.BOLD, on=on)
    app.print(f"{render.paint(shown, render.DIM, on=on)}  {one['kind']:<21}  {name}  {fields}".rstrip())
