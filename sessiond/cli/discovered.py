"""`discovered`: every conversation of an agent program on this machine, wherever it was started."""

from __future__ import annotations

import sys
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.conversation import (
    ADAPTER,
    COLOURS,
    LIVE,
    STATUS,
    conversation_line,
    conversation_object,
    problem_object,
    short_ids,
    shown_agent,
    shown_id,
    shown_status,
    status_number,
)
from sessiond.cli.exits import UsageFault
from sessiond.cli.verb import TARGET, absolute, group_option, label_option, verb
from sessiond.errors import InvalidArgument

LARGEST_LIMIT = 10_000
# What a narrow terminal goes without, the first named first.
_DISPENSABLE = ("AGENT", "MODEL", "PID", "UPDATED")
# Columns that may be cut: the folder, what it is about, the id.
_SHRINK = (5, 6, 0)
_HEADER = ["ID", "ADAPTER", "STATUS", "UPDATED", "PID", "FOLDER", "ABOUT", "MODEL", "AGENT"]


@verb(
    "discovered",
    examples="""
sessionctl discovered
sessionctl discovered -a --since 7d --limit 20
sessionctl discovered --adapter codex --status waiting --cwd .
sessionctl discovered -f
sessionctl discovered -a --json | jq -r '.[] | select(.cost_usd > 1) | .id'
sessionctl discovered --errors
""",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Also stopped ones: all that is on disk.")
@click.option("--adapter", "adapters", multiple=True, type=ADAPTER, metavar="NAME", help="Only of this one.")
@click.option(
    "--status", "statuses", multiple=True, type=STATUS, metavar="STATUS", help="Only in this status."
)
@click.option("--cwd", metavar="FOLDER", type=click.Path(), help="Only those working in it or below it.")
@label_option
@group_option("Only in this group.", completed="complete_conversation_groups")
@click.option("-s", "--session", type=TARGET, metavar="SESSION", help="Only those launched in this session.")
@click.option("--since", metavar="TIME", help="Only updated since: 30min, 2h, 7d, or a date.")
@click.option("--limit", type=int, default=0, metavar="N", help="At most N.")
@click.option("--page", default="", metavar="TOKEN", help="Go on where a listing with --limit ended.")
@click.option("--refresh", is_flag=True, help="Look at everything anew before answering.")
@click.option("--errors", is_flag=True, help="Show what could not be read, and nothing else.")
@click.option("-f", "--follow", is_flag=True, help="Go on with every change. With --json one object a line.")
def discovered(
    app: App, *, limit: int, page: str, refresh: bool, errors: bool, follow: bool, **filters: Any
) -> None:
    """List conversations of agent programs, started here or by hand.

    Whether one runs is told by evidence alone: its unit, a lock it holds, its program's own registry.
    What cannot be told is `unknown`, with the reason. The list answers at once from what is known, and
    --json says how old that is (age_ms) and whether its file or its adapter failed since (stale).

    Without -a stopped ones are left out. Options that are given more than once: any of the adapters and
    statuses, all of the labels. On a terminal ids are shown shortened, as they can be typed. Where --limit
    leaves some out, stderr says how to go on; with --json as an object with next_page_token and total.
    """
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    if follow and (limit or page or refresh or errors):
        raise UsageFault(
            "usage",
            "--follow goes with none of --limit, --page, --refresh, --errors",
            hint="sessionctl discovered --help",
        )
    if not 0 <= limit <= LARGEST_LIMIT:
        raise InvalidArgument("limit_invalid", f"not a limit: {limit}", hint=f"1 to {LARGEST_LIMIT}")
    wanted = _filter(**filters)
    if follow:
        _follow(app, pb.WatchAgentSessionsRequest(filter=wanted))
        return
    request = pb.ListAgentSessionsRequest(filter=wanted, page_size=limit, page_token=page, refresh=refresh)
    response = app.supervisor.call(app.supervisor.discovery.ListAgentSessions, request)
    if errors:
        _show_problems(app, [problem_object(one) for one in response.problems])
        return
    found = [conversation_object(app, one) for one in response.agent_sessions]
    if app.json:
        app.print_json(found)
    elif found:
        for line in conversation_table(found):
            app.print(line)
    _note(app, response, found, wanted)


def _filter(
    *,
    everything: bool,
    adapters: tuple[str, ...],
    statuses: tuple[str, ...],
    cwd: str | None,
    labels: tuple[str, ...],
    group: str,
    session: str | None,
    since: str | None,
) -> Any:
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    pairs = dict(word.split("=", 1) for word in labels if "=" in word)
    wanted = pb.AgentSessionFilter(
        adapters=adapters,
        statuses=[status_number(word) for word in statuses],
        cwd=absolute(cwd) if cwd else "",
        labels=pairs,
        label_keys=[word for word in labels if "=" not in word],
        group=group,
        session=session or "",
        include_stopped=everything,
    )
    if since is not None:
        wanted.since.FromDatetime(moment(since))
    return wanted


def moment(text: str) -> Any:
    """The moment that a time ago (`2h`, `7d`) or a date means; raises InvalidArgument `since_invalid`."""
    import re
    from datetime import UTC, datetime, timedelta

    from sessiond.cli.life import duration

    days = re.fullmatch(r"([0-9]{1,6})d", text)
    try:
        if days is not None:
            return datetime.now(UTC) - timedelta(days=int(days[1]))
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except ValueError:
            return datetime.now(UTC) - timedelta(seconds=duration(text))
    except (InvalidArgument, OverflowError) as error:
        raise InvalidArgument(
            "since_invalid",
            f"not a time: {text!r}",
            hint="30min, 2h, 7d, or a date such as 2026-01-31 or 2026-01-31T12:00",
            fields={"since": text},
        ) from error


def _note(app: App, response: Any, found: list[Any], wanted: Any) -> None:
    """What the list leaves out, on stderr."""
    if not found and not app.json:
        stopped = wanted.include_stopped or status_number("stopped") in wanted.statuses
        narrowed = any(field.name != "include_stopped" for field, _ in wanted.ListFields())
        told = "None fits" if narrowed else "None was found" if stopped else "None runs"
        app.note(told + ("." if stopped else ": sessionctl discovered -a shows stopped ones too."))
    if response.next_page_token and app.json:
        rest = {"next_page_token": response.next_page_token, "total": response.total}
        app.flush()
        app.print_json(rest, indent=None, file=sys.stderr)
    elif response.next_page_token:
        app.note(f"{response.total} in all; go on with: --page {response.next_page_token}")
    if response.problems and not app.json:
        count = len(response.problems)
        what = "One file or adapter" if count == 1 else f"{count} files or adapters"
        app.note(f"{what} could not be read: sessionctl discovered --errors")


def conversation_table(found: list[dict[str, Any]]) -> list[str]:
    """Lines of the table; why a status is what it is stands below its row."""
    columns = render.terminal_width()
    ids = [shown_id(one) for one in found] if columns is None else short_ids(found)
    rows = [_cells(one) | {"ID": word} for one, word in zip(found, ids, strict=True)]
    colour = {row["STATUS"]: COLOURS.get(one["status"], "") for row, one in zip(rows, found, strict=True)}
    notes = {index: _troubles(one) for index, one in enumerate(found)}
    header = [name for name in _HEADER if name != "AGENT" or any(one["agent"] for one in found)]
    for left_out in range(len(_DISPENSABLE) + 1):
        kept = [name for name in header if name not in _DISPENSABLE[:left_out]]
        shrink = tuple(kept.index(_HEADER[one]) for one in _SHRINK)
        cells = [[row[name] for name in kept] for row in rows]
        if columns is None or render.least_width(kept, cells, shrink) <= columns:
            break
    paths = (kept.index("FOLDER"),)
    return render.table(kept, cells, shrink=shrink, paths=paths, colour={2: colour}, notes=notes)


def _cells(one: dict[str, Any]) -> dict[str, str]:
    return {
        "ADAPTER": one["adapter"],
        "STATUS": shown_status(one),
        "UPDATED": f"{render.ago(one['updated_at'])} ago" if one["updated_at"] else "-",
        "PID": "-" if one["pid"] is None else str(one["pid"]),
        "FOLDER": render.home_path(one["cwd"]) if one["cwd"] else "-",
        "ABOUT": one["title"] or one["first_prompt"] or "-",
        "MODEL": one["model"] or "-",
        "AGENT": shown_agent(one) or "-",
    }


def _troubles(one: dict[str, Any]) -> list[str]:
    told = [one["reason"]] if one["reason"] and one["status"] not in LIVE else []
    old = "this is an old answer: its file cannot be read, or its adapter fails (--errors)"
    return told + ([old] if one["stale"] else [])


def _show_problems(app: App, problems: list[dict[str, Any]]) -> None:
    if app.json:
        app.print_json(problems)
    elif problems:
        rows = [
            [
                one["adapter"],
                one["code"],
                render.home_path(one["path"]) if one["path"] else "-",
                one["reason"],
            ]
            for one in problems
        ]
        for line in render.table(["ADAPTER", "CODE", "FILE", "REASON"], rows, shrink=(3, 2), paths=(2,)):
            app.print(line)
    else:
        app.note("Everything could be read.")


def _problem_line(trouble: dict[str, Any]) -> str:
    words = [trouble["path"], trouble["reason"] if trouble["code"] else "well again"]
    return f"{trouble['adapter']}: {' '.join(word for word in words if word)}"


def _follow(app: App, request: Any) -> None:
    for response in app.supervisor.stream(app.supervisor.discovery.WatchAgentSessions, request):
        kind = response.WhichOneof("change")
        if kind == "agent_session":
            one = conversation_object(app, response.agent_session)
            told, line = {"agent_session": one}, conversation_line(one)
        elif kind == "removed":
            gone = {"adapter": response.removed.adapter, "id": response.removed.id}
            told, line = {"removed": gone}, render.plain(f"{gone['adapter']} {gone['id']}: gone")
        elif kind == "problem":
            trouble = problem_object(response.problem)
            told = {"problem": trouble}
            line = render.plain(_problem_line(trouble))
        else:
            continue
        if app.json:
            app.print_json(told, indent=None)
        else:
            app.print(line)
        # Whoever follows reads each as it comes, through a pipe too.
        app.flush()
