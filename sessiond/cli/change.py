"""`enable` to `delete`: what the owner chooses about sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.exits import UsageFault
from sessiond.cli.show import labels_text, limits_text
from sessiond.cli.verb import interactive, pair, target, targets, verb
from sessiond.errors import SessiondError


def _said(text: str) -> Callable[[dict[str, Any]], str]:
    return lambda session: f"{render.plain(session['name'])}: {text}"


@verb("enable", examples="sessionctl enable shop blog")
@targets()
def enable(app: App, targets: tuple[str, ...]) -> None:
    """Start sessions at boot; does not start them now."""
    app.each_session("Enable", targets, _said("starts at boot"))


@verb("disable", examples="sessionctl disable shop")
@targets()
def disable(app: App, targets: tuple[str, ...]) -> None:
    """No longer start sessions at boot; does not stop them."""
    app.each_session("Disable", targets, _said("does not start at boot"))


@verb("archive", examples="sessionctl archive shop")
@targets()
def archive(app: App, targets: tuple[str, ...]) -> None:
    """Set stopped sessions aside: `list` leaves them out."""
    app.each_session("Archive", targets, _said("archived"))


@verb("unarchive", examples="sessionctl unarchive shop")
@targets()
def unarchive(app: App, targets: tuple[str, ...]) -> None:
    """Take sessions back that were set aside."""
    app.each_session("Unarchive", targets, _said("no longer archived"))


@verb(
    "limit",
    examples="""
sessionctl limit shop
sessionctl limit shop MemoryMax=2G CPUQuota=150% TasksMax=500
sessionctl limit shop MemoryMax=
""",
)
@target()
@click.argument("properties", nargs=-1, metavar="[PROPERTY=VALUE]...")
def limit(app: App, target: str, properties: tuple[str, ...]) -> None:
    """Limit what runs in a session, for good.

    Takes any resource-control property of systemd (systemd.resource-control(5)); an empty value lifts
    a limit. Without a property, shows the limits in force.
    """
    from sessiond.cli.jsonout import limits_object
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.LimitSessionRequest(session=target, properties=dict(pair(word) for word in properties))
    response = app.supervisor.call(app.supervisor.sessions.LimitSession, request)
    session = app.session(response.session) | {
        "limits": limits_object(response.limits),
        "limits_unenforced": list(response.unenforced),
    }
    app.show_changed([session], lambda one: f"{render.plain(one['name'])}: {_limits(one)}")


def _limits(one: dict[str, Any]) -> str:
    return limits_text(one).replace("\n", "\n  ") if one["limits"] else "no limits"


@verb("rename", examples="sessionctl rename shop web-shop")
@target()
@click.argument("name")
def rename(app: App, target: str, name: str) -> None:
    """Give a session another name; its id and its folder stay."""
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.UpdateSessionRequest(session=target, name=name)
    request.update_mask.paths.append("name")
    _update(app, request, _said("that is its name now"))


@verb(
    "label",
    examples="""
sessionctl label shop team=web urgent=
sessionctl label shop urgent-
""",
)
@target()
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
def label(app: App, target: str, labels: tuple[str, ...]) -> None:
    """Set or remove labels, the words that sessions are selected by."""
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    changed, removed = edits(labels)
    request = pb.UpdateSessionRequest(session=target, set_labels=changed, remove_labels=removed)
    _update(app, request, lambda one: f"{render.plain(one['name'])}: {_texts(one['labels']) or 'no labels'}")


@verb(
    "annotate",
    examples="""
sessionctl annotate shop ticket=https://example.org/1
sessionctl annotate shop ticket-
""",
)
@target()
@click.argument("annotations", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
def annotate(app: App, target: str, annotations: tuple[str, ...]) -> None:
    """Set or remove annotations, free text for programs."""
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    changed, removed = edits(annotations)
    request = pb.UpdateSessionRequest(session=target, set_annotations=changed, remove_annotations=removed)
    _update(app, request, lambda one: f"{render.plain(one['name'])}: {_texts(one['annotations']) or 'none'}")


def _texts(values: dict[str, str]) -> str:
    return render.plain(labels_text(values))


def _update(app: App, request: Any, line: Callable[[dict[str, Any]], str]) -> None:
    response = app.supervisor.call(app.supervisor.sessions.UpdateSession, request)
    app.show_changed([app.session(response.session)], line)


def edits(words: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """What `key=value` sets and `key-` removes; raises UsageFault."""
    changed: dict[str, str] = {}
    removed: list[str] = []
    for word in words:
        if "=" not in word and word.endswith("-") and len(word) > 1:
            removed.append(word[:-1])
            continue
        try:
            key, value = pair(word)
        except UsageFault as error:
            error.message = f"expected key=value or key-, got {word!r}"
            raise
        changed[key] = value
    if both := sorted(changed.keys() & set(removed)):
        raise UsageFault(
            "usage", f"{both[0]} is both set and removed", hint="do one of them", fields={"key": both[0]}
        )
    return changed, removed


@verb(
    "delete",
    examples="""
sessionctl delete trial
sessionctl delete trial --stop
sessionctl delete trial --purge
sessionctl delete ./trial --purge --yes
""",
)
@targets()
@click.option("--purge", is_flag=True, help="Also delete the workspace folder with all that it holds.")
@click.option("--stop", is_flag=True, help="Stop it first if it runs.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a purge.")
def delete(app: App, targets: tuple[str, ...], purge: bool, stop: bool, yes: bool) -> None:
    """Make sessions plain folders again.

    Removes identity, labels and what sessiond keeps of them, not the files. With --purge the folder
    goes too, after the session's name was typed.
    """
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    if purge and not yes and not interactive():
        raise UsageFault(
            "confirmation_needed",
            "--purge deletes whole folders and asks first, and there is no terminal to ask on",
            hint="sessionctl delete --purge --yes SESSION, if you mean it",
        )
    stub, call = app.supervisor.sessions, app.supervisor.call
    deleted = []
    for word in dict.fromkeys(targets):
        try:
            request = pb.DeleteSessionRequest(session=word, purge=purge, stop=stop)
            if purge:
                session = call(stub.GetSession, pb.GetSessionRequest(session=word)).session
                if not yes:
                    _confirm(app, session)
                # The supervisor compares: the word may mean another session by now.
                request.confirm_path = session.path
            deleted.append(app.session(call(stub.DeleteSession, request, timeout=300.0).session))
        except SessiondError as error:
            app.fail(error)
    gone = "deleted, with its folder" if purge else "deleted; its files stay in"
    app.show_changed(deleted, lambda one: f"{render.plain(one['name'])}: {gone} {render.plain(one['path'])}")


def _confirm(app: App, session: Any) -> None:
    app.note(f"This deletes {render.plain(session.path)} with all that it holds.")
    typed = click.prompt(f"Type the session's name ({render.plain(session.name)}) to go on", err=True)
    if typed != session.name:
        raise UsageFault(
            "confirmation_wrong", "that is not its name; nothing was deleted", hint="try again, or give --yes"
        )
