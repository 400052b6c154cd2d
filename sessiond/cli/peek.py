"""`peek`: the end of a conversation, from its own program's files."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.conversation import (
    conversation,
    conversation_line,
    conversation_object,
    message_object,
    problem_object,
    readable,
)
from sessiond.cli.verb import verb
from sessiond.errors import InvalidArgument

LARGEST_TAIL = 1000
_ROLE_COLOURS = {"user": render.BOLD, "assistant": render.GREEN, "tool": render.BLUE, "system": render.DIM}
# Lines of a tool's input or result that are shown to people.
_TOOL_LINES = 12


@verb(
    "peek",
    examples="""
sessionctl peek 3f2a91c0
sessionctl peek shop/claude -n 5
sessionctl peek codex:0198c2 --json | jq -r '.messages[-1].text'
""",
)
@conversation()
@click.option(
    "-n", "--messages", "tail", type=int, default=20, show_default=True, help="The last N messages."
)
def peek(app: App, target: str, tail: int) -> None:
    """Show the end of a conversation.

    What was said, which tools were called, and what they answered, from the program's own files.
    """
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    if not 1 <= tail <= LARGEST_TAIL:
        raise InvalidArgument(
            "count_invalid", f"not a number of messages: {tail}", hint=f"1 to {LARGEST_TAIL}"
        )
    request = pb.ReadTranscriptRequest(agent_session=target, tail=tail)
    response = app.supervisor.call(app.supervisor.discovery.ReadTranscript, request)
    one = conversation_object(app, response.agent_session)
    messages = [message_object(message) for message in response.messages]
    problems = [problem_object(problem) for problem in response.problems]
    if app.json:
        app.print_json(
            {
                "agent_session": one,
                "messages": messages,
                "has_more": response.has_more,
                "problems": problems,
            }
        )
        return
    _show(app, one, messages, has_more=response.has_more)
    for problem in problems:
        app.note(f"{render.plain(problem['path'] or problem['adapter'])}: {render.plain(problem['reason'])}")


def _show(app: App, one: dict[str, Any], messages: list[dict[str, Any]], *, has_more: bool) -> None:
    app.print(conversation_line(one))
    if has_more:
        app.print("…")
    on = render.colours()
    for message in messages:
        app.print("")
        when = f"  {render.local_time(message['time'])}" if message["time"] else ""
        role = render.paint(render.plain(message["role"]), _ROLE_COLOURS.get(message["role"], ""), on=on)
        app.print(role + render.paint(when, render.DIM, on=on))
        if message["text"]:
            app.print(readable(message["text"].strip("\n")))
        if message["cut"]:
            app.print("…")
        for tool in message["tools"]:
            for line in _tool(tool):
                app.print(render.paint(line, render.RED if tool["failed"] else render.DIM, on=on))
    if not messages:
        app.note("Nothing was said yet.")


def _tool(tool: dict[str, Any]) -> list[str]:
    lines = readable(tool["content"].strip("\n")).split("\n")
    head = "<-" if tool["result"] else f"-> {render.plain(tool['name'] or 'tool')}"
    more = [f"   … {len(lines) - _TOOL_LINES} more lines"] if len(lines) > _TOOL_LINES else []
    return [f"{head} {lines[0]}".rstrip(), *(f"   {line}" for line in lines[1:_TOOL_LINES]), *more]
