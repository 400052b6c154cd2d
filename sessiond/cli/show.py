"""`list` and `show`: sessions as a table, and one of them in full."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.verb import names_agent, pair, thing, verb
from sessiond.errors import InvalidArgument

STATES = ("unknown", "inactive", "starting", "active", "stopping", "error", "archived")
TYPES = ("development", "production", "test", "persona")


class Words(click.ParamType[str]):
    """One of some words; others are an invalid argument, not a mistake in the command line's form."""

    def __init__(self, name: str, words: tuple[str, ...], *, of: str = "session", plural: str = "") -> None:
        self.name = name
        self.words = words
        self.of = of
        self.plural = plural or f"{name}s"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word, checked."""
        if value not in self.words:
            raise InvalidArgument(
                f"{self.name}_invalid",
                f"no {self.of} {self.name} {value!r}",
                hint=f"{self.plural}: {', '.join(self.words)}",
                fields={self.name: str(value)},
            )
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The words that fit."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


STATE = Words("state", STATES)
TYPE = Words("type", TYPES)


@verb(
    "list",
    examples="""
sessionctl list
sessionctl list -a --label team=web --label urgent
sessionctl list --state error --state starting
sessionctl list --json | jq -r '.[] | select(.state == "active").name'
""",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also archived sessions.")
@click.option("--state", "states", multiple=True, type=STATE, metavar="STATE", help="Only in this state.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="Only with this label (and value)."
)
@click.option("--type", "types", multiple=True, type=TYPE, metavar="TYPE", help="Only of this type.")
@click.option("--owner", help="Only of this owner.")
def list_(
    app: App,
    everything: bool,
    states: tuple[str, ...],
    labels: tuple[str, ...],
    types: tuple[str, ...],
    owner: str | None,
) -> None:
    """List sessions by name.

    Options that are given more than once: any of the states and types, all of the labels.
    """
    from sessiond.cli.jsonout import STATE_NUMBERS, TYPE_NUMBERS
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.ListSessionsRequest(
        # A state asked for by name is wanted, also where listings leave it out.
        include_archived=everything or "archived" in states,
        states=[STATE_NUMBERS[word] for word in states],
        types=[TYPE_NUMBERS[word] for word in types],
        labels=dict(pair(word) for word in labels if "=" in word),
        label_keys=[word for word in labels if "=" not in word],
        owner=owner or "",
    )
    response = app.supervisor.call(app.supervisor.sessions.ListSessions, request)
    sessions = [app.session(one) for one in response.sessions]
    if app.json:
        app.print_json(sessions)
    elif sessions:
        for line in session_table(sessions):
            app.print(line)
    else:
        filtered = bool(states or labels or types or owner)
        app.note("No session fits." if filtered else "No sessions yet: sessionctl new PATH makes one.")


def session_table(sessions: list[dict[str, Any]]) -> list[str]:
    """Lines of the table of sessions; what is wrong with one stands below it."""
    labelled = any(one["labels"] for one in sessions)
    header = ["NAME", "STATE", "TYPE", "SINCE", "PATH", *(["LABELS"] if labelled else [])]
    rows, notes = [], {}
    for index, one in enumerate(sessions):
        rows.append(
            [
                one["name"] + (" *" if one["active"] else ""),
                one["state"] + (" (frozen)" if one["frozen"] else ""),
                one["type"],
                render.ago(one["since"]),
                render.home_path(one["path"]),
                *([labels_text(one["labels"])] if labelled else []),
            ]
        )
        notes[index] = troubles(one)
    return render.table(
        header,
        rows,
        shrink=(5, 4, 0) if labelled else (4, 0),
        paths=(4,),
        colour={1: render.STATE_COLOURS},
        notes=notes,
    )


def troubles(session: dict[str, Any]) -> list[str]:
    """What is wrong with a session, a line each."""
    found = []
    if session["conflict"]:
        found.append(f"conflict: {session['conflict']}")
    if session["problem"]:
        found.append(f"problem: {session['problem']}")
    return found


def labels_text(labels: dict[str, str]) -> str:
    """Labels on one line."""
    return " ".join(f"{key}={value}" for key, value in labels.items())


@verb(
    "show",
    examples="""
sessionctl show work
sessionctl show .
sessionctl show 3f2a --json
sessionctl show work/claude
""",
)
@thing()
def show(app: App, target: str) -> None:
    """Show all that is known of a session, or of an agent: SESSION/NAME."""
    if names_agent(target):
        from sessiond.cli.agent_show import show_agent

        show_agent(app, target)
        return
    from sessiond.cli.jsonout import session_details
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.GetSessionRequest(session=target, details=True)
    response = app.supervisor.call(app.supervisor.sessions.GetSession, request)
    details = session_details(response, app.host.pid)
    if app.json:
        app.print_json(details)
        return
    for line in render.page(_rows(details)):
        app.print(line)


def _rows(one: dict[str, Any]) -> list[tuple[str, str]]:
    on = render.colours()
    state = render.state_text(one["state"], on=on)
    marks = [word for word in ("frozen", "archived", "active") if one[word]]
    if "active" in marks:
        marks[marks.index("active")] = "in use"
    rows = [
        ("Name", render.plain(one["name"])),
        ("Id", one["id"]),
        ("Path", render.plain(one["path"])),
        ("State", state + (f" ({', '.join(marks)})" if marks else "")),
    ]
    rows += [("Trouble", render.paint(render.plain(text), render.YELLOW, on=on)) for text in troubles(one)]
    rows += [
        ("Since", render.local_time(one["since"])),
        ("Type", one["type"]),
        ("Owner", render.plain(one["owner"])),
        ("Labels", render.plain(labels_text(one["labels"])) or "-"),
    ]
    if one["annotations"]:
        rows.append(("Annotations", "\n".join(_pairs(one["annotations"]))))
    rows += [
        ("At boot", {True: "enabled", False: "disabled", None: "unknown"}[one["enabled"]]),
        ("Unit", one["unit"] or "-"),
        ("Slice", one["slice"] or "-"),
        ("Pid", _text(one["pid"])),
        ("Restarts", _text(one["restarts"])),
        ("Last run", ending(one)),
        ("Socket", render.plain(one["endpoint"] or "-")),
        ("Limits", limits_text(one)),
        ("Created", render.local_time(one["created_at"])),
        ("Last used", render.local_time(one["last_accessed"])),
    ]
    if one["last_log"] is None:
        rows.append(("Log", f"unknown: {render.plain(one['last_log_unknown'])}"))
    else:
        rows.append(("Log", "\n".join(render.plain(line) for line in one["last_log"]) or "-"))
    return rows


def _pairs(values: dict[str, str]) -> list[str]:
    return [f"{key}={render.plain(value)}" for key, value in values.items()]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def ending(one: dict[str, Any]) -> str:
    """How the last run ended, in a few words."""
    words = [one["result"] or ""]
    if one["signal"]:
        words.append(f"signal {one['signal']}")
    elif one["exit_status"] is not None:
        words.append(f"exit status {one['exit_status']}")
    return ", ".join(word for word in words if word) or "-"


def limits_text(one: dict[str, Any]) -> str:
    """Limits in force, and those that this machine does not enforce."""
    if one["limits"] is None:
        return f"unknown: {render.plain(one['limits_unknown'])}"
    unenforced = set(one["limits_unenforced"])
    lines = [
        f"{key}={value}" + (" (not enforced on this machine)" if key in unenforced else "")
        for key, value in sorted(one["limits"].items())
    ]
    return "\n".join(lines) or "none"
