"""What `run --adapter`, `continue` and `takeover` have in common: a prompt, a model, and who is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sessiond.cli.exits import UsageFault
from sessiond.cli.verb import check_words
from sessiond.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from sessiond.cli.app import App

F = TypeVar("F", bound=Callable[..., Any])

# The adapter whose program is not its own: it is named on the command line.
_FOREIGN = "acp"


@dataclass(frozen=True, slots=True)
class Prompted:
    """What an agent program is asked, and how."""

    model: str
    print: bool
    file: str | None

    def check(self, adapter: str | None, words: Sequence[str]) -> None:
        """Raise UsageFault for what does not go together."""
        if adapter is None:
            given = [
                name
                for name, value in (
                    ("--model", self.model),
                    ("--print", self.print),
                    ("--prompt-file", self.file),
                )
                if value
            ]
            if given:
                raise UsageFault(
                    "usage", f"{given[0]} is for --adapter", hint="sessionctl adapters lists them"
                )
            if not words:
                raise UsageFault("usage", "Missing argument: COMMAND", hint="sessionctl run --help")
        elif adapter != _FOREIGN and len(words) > (0 if self.file else 1):
            what = "--prompt-file is the prompt" if self.file else "a prompt is one word: quote it"
            if (late := next((word for word in words[1:] if word.startswith("-")), None)) is not None:
                what = f"options go before the prompt: {late}"
            raise UsageFault("usage", f"too many words: {what}", hint="sessionctl run --help")

    def split(self, adapter: str, words: Sequence[str]) -> tuple[str, list[str]]:
        """The prompt, and the program that was named besides."""
        if self.file is not None:
            return read_prompt(self.file), list(words)
        check_words(words[:1])
        return (words[0] if words else ""), list(words[1:])


def prompted(function: F) -> F:
    """Give a verb the options of a prompt, and its function a ``prompt``."""

    @wraps(function)
    def asked(app: App, *, model: str, print_: bool, prompt_file: str | None, **rest: Any) -> Any:
        return function(app, prompt=Prompted(model, print_, prompt_file), **rest)

    verb_function: Any = asked
    for option in (
        click.option(
            "--prompt-file",
            metavar="FILE",
            type=click.Path(),
            help="The prompt is in it; - for what you pipe.",
        ),
        click.option(
            "--print", "print_", is_flag=True, help="Answer the prompt and end, without a terminal."
        ),
        click.option(
            "-m", "--model", default="", metavar="MODEL", help="Model, as the agent program names it."
        ),
    ):
        verb_function = option(verb_function)
    return verb_function  # type: ignore[no-any-return]


def read_prompt(source: str) -> str:
    """The text of a file, or of standard input for `-`."""
    from sessiond.cli.run import read_input

    raw = read_input(source)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            "prompt_not_utf8",
            f"{source} holds bytes that are no UTF-8, at {error.start}",
            hint="a prompt is text",
            fields={"path": source},
        ) from error


def launch(app: App, adapter: str, spawn: Any, prompt: Prompted, words: Sequence[str], *, tell: bool) -> Any:
    """Start a new conversation; returns what LaunchAgentSession answered."""
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    text, program = prompt.split(adapter, words)
    spawn.command.extend(program)
    request = pb.LaunchAgentSessionRequest(
        adapter=adapter, spawn=spawn, model=prompt.model, prompt=text, print=prompt.print
    )
    service = app.supervisor.discovery
    made = app.supervisor.call(service.LaunchAgentSession, request, timeout=JOB_TIMEOUT)
    if tell:
        tell_started(app, made)
    return made


def tell_started(app: App, made: Any) -> None:
    """Name the agent that was started, and with --json its conversation."""
    from sessiond.cli.agents import shown_name
    from sessiond.cli.conversation import conversation_object

    agent = app.agent(made.agent)
    if app.json:
        app.print_json({"agent": agent, "agent_session": conversation_object(app, made.agent_session)})
    else:
        app.print(shown_name(agent))


def folder_of(one: Any, target: str) -> str:
    """The folder that a conversation works in; raises NotFound `path_missing` where it does not tell, or is
    gone."""
    if not one.cwd:
        raise NotFound(
            "path_missing",
            f"the folder that {target} works in is not known",
            hint="name a session with -s",
            fields={"agent_session": target},
        )
    if not os.path.isdir(one.cwd):
        # Making a session of it would make the folder.
        raise NotFound(
            "path_missing",
            f"the folder that {target} works in is gone: {one.cwd}",
            hint="put it back: programs find a conversation by its folder",
            fields={"agent_session": target, "path": one.cwd},
        )
    return str(one.cwd)
