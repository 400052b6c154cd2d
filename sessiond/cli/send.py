"""`send`: typing into an agent's terminal without looking at it."""

from __future__ import annotations

import sys
from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.agents import agent, agent_target
from sessiond.cli.app import App
from sessiond.cli.verb import verb
from sessiond.errors import InvalidArgument

# What one message of gRPC holds, with room for the rest of it.
LARGEST = 3 * 1024 * 1024
LONGEST_PAUSE = 60_000


@verb(
    "send",
    examples="""
sessionctl send shop/claude "fix the tests" --key Enter
sessionctl send claude "fix the tests" --enter-after 300
sessionctl send claude --key C-c --key Up --key Enter
sessionctl send claude --stdin --paste < prompt.md
sessionctl send claude -- -v --key
""",
)
@agent()
@click.argument("text", nargs=-1)
@click.option("--key", "keys", multiple=True, metavar="NAME", help="Press a key: Enter, Tab, C-c, M-x, Up.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Type what standard input holds.")
@click.option("--paste", is_flag=True, help="As if pasted: no line of it is entered by itself.")
@click.option(
    "--enter-after",
    type=click.IntRange(0, LONGEST_PAUSE),
    metavar="MS",
    help="Press Enter last, after so many milliseconds.",
)
def send(
    app: App,
    target: str,
    text: tuple[str, ...],
    keys: tuple[str, ...],
    from_stdin: bool,
    paste: bool,
    enter_after: int | None,
) -> None:
    """Type into the terminal of an agent.

    First TEXT, its words joined by blanks, then what standard input holds, then the keys in their order,
    and Enter last with --enter-after. Nothing is pressed that was not asked for. Answers when the
    agent's terminal has taken all of it.
    """
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    parts: list[Any] = []
    for data in (" ".join(text).encode(), _typed() if from_stdin else b""):
        if data:
            parts.append(pb.InputPart(paste=_text(data)) if paste else pb.InputPart(data=data))
    parts += [pb.InputPart(key=key) for key in keys]
    pause = 0.0
    if enter_after is not None:
        waiting = pb.InputPart()
        waiting.pause.FromMilliseconds(enter_after)
        pause = enter_after / 1000
        parts += [waiting, pb.InputPart(key="Enter")]
    if not parts:
        raise click.UsageError("nothing to send: give TEXT, --key, --stdin or --enter-after")
    session, name, found = agent_target(app, target)
    request = pb.SendInputRequest(session=session, agent=found, parts=parts)
    sent = app.supervisor.call(app.supervisor.agents.SendInput, request, timeout=60.0 + pause).bytes
    if app.json:
        app.print_json({"session": session, "session_name": name, "agent": found, "bytes": sent})
    else:
        app.note(render.plain(f"{target}: {sent} bytes typed"))


def _typed() -> bytes:
    data = sys.stdin.buffer.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise InvalidArgument(
            "input_too_large",
            f"standard input holds more than {LARGEST} bytes",
            hint="send it in parts, or have the agent read a file",
        )
    return data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            "input_not_utf8",
            f"what is pasted must be UTF-8; byte {error.start} is not",
            hint="leave --paste away to send bytes as they are",
        ) from error
