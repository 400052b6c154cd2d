"""`tag`: words and a group for a conversation, also for one that was started elsewhere."""

from __future__ import annotations

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.change import edits
from sessiond.cli.conversation import conversation, conversation_object, shown_id
from sessiond.cli.exits import UsageFault
from sessiond.cli.show import labels_text
from sessiond.cli.verb import completed_by, verb


@verb(
    "tag",
    examples="""
sessionctl tag 3f2a91c0 team=web urgent=
sessionctl tag 3f2a91c0 urgent- --group nightly
sessionctl tag shop/claude --note ticket=https://example.org/1
""",
)
@conversation()
@click.argument("labels", nargs=-1, metavar="[KEY=VALUE|KEY-]...")
@click.option(
    "--group",
    metavar="GROUP",
    help="Put it in this group; with '' take it out of its group.",
    shell_complete=completed_by("complete_conversation_groups"),
)
@click.option("--note", "notes", multiple=True, metavar="KEY=VALUE|KEY-", help="An annotation, for programs.")
def tag(app: App, target: str, labels: tuple[str, ...], group: str | None, notes: tuple[str, ...]) -> None:
    """Set or remove labels and the group of a conversation.

    They are kept beside it, by adapter and id, and follow it when it is resumed. `discovered --label` and
    `--group` select by them.
    """
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    if not labels and not notes and group is None:
        raise UsageFault("usage", "nothing to change", hint="sessionctl tag --help")
    changed, removed = edits(labels)
    noted, dropped = edits(notes)
    request = pb.LabelAgentSessionRequest(
        agent_session=target,
        set_labels=changed,
        remove_labels=removed,
        set_annotations=noted,
        remove_annotations=dropped,
        group=group,
    )
    response = app.supervisor.call(app.supervisor.discovery.LabelAgentSession, request)
    one = conversation_object(app, response.agent_session)
    if app.json:
        app.print_json(one)
        return
    told = labels_text(one["labels"]) or "no labels"
    grouped = f", group {one['group']}" if one["group"] else ""
    app.print(render.plain(f"{one['adapter']} {shown_id(one)}: {told}{grouped}"))
