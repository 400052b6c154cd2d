"""What is common to all verbs: global options before and after them, examples in their help, targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from sessiond.cli.app import App
from sessiond.cli.exits import UsageFault
from sessiond.errors import InvalidArgument, NotFound

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def common_options() -> list[click.Parameter]:
    """The options that are taken before the verb and after it."""
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_set_json,
            help="Print JSON; errors too, on stderr.",
        ),
        click.Option(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            callback=_set_socket,
            help="Speak to the supervisor on this socket.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_set_debug,
            help="Show a traceback with an error.",
        ),
    ]


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.find_object(App).json |= value  # type: ignore[union-attr]


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    ctx.find_object(App).debug |= value  # type: ignore[union-attr]


def _set_socket(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    app = ctx.find_object(App)
    if value is not None and app is not None:
        if not value:
            raise click.UsageError("--socket needs a path", ctx)
        app.socket = os.path.abspath(value)


class Verb(click.Command):
    """One verb. ``raw`` lets through words that are no UTF-8, for a verb that only passes them on."""

    raw = False

    def __init__(self, *args: Any, examples: str = "", raw: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.raw = raw
        self.params += common_options()
        self.context_settings = {**SETTINGS, **self.context_settings}
        if examples:
            self.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after refusing what cannot be sent: the wire carries UTF-8 alone."""
        if not self.raw:
            check_words(args)
        rest = super().parse_args(ctx, args)
        if (app := ctx.find_object(App)) is not None:
            app.read = True
        return rest


def check_words(words: Sequence[str]) -> None:
    """Raise InvalidArgument for a word of the command line that is no UTF-8."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(word).decode("utf-8", "backslashreplace")
            raise InvalidArgument(
                "argument_not_utf8",
                f"not valid UTF-8: {shown}",
                hint="sessiond takes UTF-8 alone: rename what is named so, or pass such bytes in a file",
                fields={"argument": shown},
            ) from None


def verb(
    name: str, *, examples: str = "", cls: type[click.Command] = Verb, **attrs: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a verb; its first parameter is the App."""

    def decorate(function: Callable[..., Any]) -> Any:
        return click.command(name, cls=cls, examples=examples, **attrs)(click.pass_obj(function))

    return decorate


# ---- targets --------------------------------------------------------------------------------


def absolute(word: str) -> str:
    """The absolute path that a word means; symbolic links are resolved only where `..` crosses them."""
    path = os.path.expanduser(word)
    try:
        path = os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        raise NotFound(
            "path_missing", "the current folder is gone", hint="change to one that exists"
        ) from None
    if ".." in path.split("/"):
        return os.path.realpath(path)
    return os.path.normpath(path)


def is_path(word: str) -> bool:
    """Whether a word means a path rather than a name."""
    return word.startswith((".", "/", "~"))


def session_word(word: str) -> str:
    """What a TARGET is sent as: a path made absolute, or the word itself for the supervisor to resolve."""
    if is_path(word):
        return absolute(word)
    if "/" in word:
        raise InvalidArgument(
            "session_expected",
            f"{word} names an agent, and a session is wanted here",
            hint="name the session alone, or begin a path with ./",
            fields={"target": word},
        )
    if not word:
        raise InvalidArgument("session_invalid", "an empty word names no session", hint="sessionctl list")
    return word


class Target(click.ParamType[str]):
    """A session: its name, a prefix of its id, or a path."""

    name = "session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word to send."""
        return session_word(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Names of sessions, and folders for a word that is a path."""
        from sessiond.cli.completion import complete_targets

        return complete_targets(ctx, incomplete)


TARGET = Target()


def targets(required: bool = True, metavar: str = "SESSION...") -> Callable[[F], F]:
    """The argument that names one session or more."""
    return click.argument("targets", nargs=-1, required=required, type=TARGET, metavar=metavar)


def target(required: bool = True, metavar: str = "SESSION") -> Callable[[F], F]:
    """The argument that names one session."""
    return click.argument("target", required=required, type=TARGET, metavar=metavar)


# ---- agents ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentName:
    """The two halves of a word that names an agent; ``session`` is empty where only the agent is named."""

    session: str
    agent: str

    def __str__(self) -> str:
        return f"{self.session}/{self.agent}" if self.session else self.agent


def names_agent(word: str) -> bool:
    """Whether a word that may mean either means an agent: `SESSION/NAME`; a path means a session."""
    return "/" in word and not is_path(word)


def split_agent(word: str) -> AgentName:
    """The halves of `SESSION/NAME`, or `NAME` alone; raises InvalidArgument `agent_invalid`."""
    if is_path(word):
        raise _invalid(word, f"{word} is a path, and a path means a session", "sessionctl ps lists agents")
    session, slash, agent = word.rpartition("/")
    if not agent or (slash and not session):
        raise _invalid(word, f"no agent is named by {word!r}", "name it SESSION/NAME")
    if "/" in session:
        raise _invalid(word, f"{word} has more than one '/'", "name it SESSION/NAME")
    return AgentName(session, agent)


def _invalid(word: str, message: str, hint: str) -> InvalidArgument:
    return InvalidArgument("agent_invalid", message, hint=hint, fields={"agent": word})


class AnyTarget(click.ParamType[str]):
    """A session, or an agent as `SESSION/NAME`."""

    name = "target"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word: an absolute path, a session's name, or `SESSION/NAME`."""
        word = str(value)
        if names_agent(word):
            return str(split_agent(word))
        if not is_path(word) and ctx is not None and (app := ctx.find_object(App)) is not None:
            app.either = True
        return session_word(word)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Sessions, their agents, and folders for a word that is a path."""
        from sessiond.cli.completion import complete_anything

        return complete_anything(ctx, incomplete)


ANY = AnyTarget()


def anything(required: bool = True) -> Callable[[F], F]:
    """The argument that names sessions and agents."""
    metavar = "SESSION|AGENT..." if required else "[SESSION|AGENT]..."
    return click.argument("targets", nargs=-1, required=required, type=ANY, metavar=metavar)


def thing(required: bool = True) -> Callable[[F], F]:
    """The argument that names a session or an agent."""
    metavar = "SESSION|AGENT" if required else "[SESSION|AGENT]"
    return click.argument("target", required=required, type=ANY, metavar=metavar)


# ---- other words ----------------------------------------------------------------------------


def completed_by(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """What completes an option: a function of the module `completion`, loaded when a shell asks."""

    def ask(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
        from sessiond.cli import completion

        found: list[Any] = getattr(completion, name)(ctx, incomplete)
        return found

    return ask


def group_option(help: str, *, completed: str = "complete_groups") -> Callable[[F], F]:
    """`--group`, of agents or, ``completed`` by the groups of these, conversations."""
    return click.option(
        "--group", default="", metavar="GROUP", help=help, shell_complete=completed_by(completed)
    )


def label_option(function: F) -> F:
    """`--label`, in filters."""
    return click.option(
        "--label", "labels", multiple=True, metavar="KEY[=VALUE]", help="Only with this label (and value)."
    )(function)


def pair(word: str) -> tuple[str, str]:
    """Key and value of `key=value`; raises UsageFault."""
    key, separator, value = word.partition("=")
    if not separator or not key:
        raise UsageFault(
            "usage",
            f"expected key=value, got {word!r}",
            hint="write it as key=value",
            fields={"argument": word},
        )
    return key, value


def interactive() -> bool:
    """Whether a person can be asked: both ends are a terminal."""
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()
