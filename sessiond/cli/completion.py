"""`completion`, and the answers that a shell asks for: verbs, options, sessions, agents. Never an error."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from sessiond.cli import exits
from sessiond.cli.app import App
from sessiond.cli.choice import LIVING
from sessiond.cli.verb import is_path, names_agent, verb
from sessiond.errors import SessiondError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_SESSIONCTL_COMPLETE"
PROGRAM = "sessionctl"
# Somebody waits with a finger on the Tab key.
_SECONDS = 0.5
# What no shell needs quoted; other names are offered by id.
_PLAIN = re.compile(r"[\w.,@%+-]+")
_ID_DIGITS = 8
_CONVERSATIONS = 200
# The states of agents that these verbs can do something with; others are for all of them. What is unknown
# may be tried.
_STATES: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("attach", "send", "stop", "kill", "signal"), LIVING),
    "pause": ("unknown", "starting", "running"),
    "resume": ("unknown", "paused"),
}
_CONVERSATION = re.compile(r"[\w.,:@%+/-]+")


@verb(
    "completion",
    examples="""
eval "$(sessionctl completion bash)"                          # in ~/.bashrc
eval "$(sessionctl completion zsh)"                           # in ~/.zshrc, after compinit
sessionctl completion fish > ~/.config/fish/completions/sessionctl.fish
""",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(app: App, shell: str) -> None:
    """Print the script for completion in a shell.

    It completes verbs, options, names of sessions and agents, and the command after `run --`.
    """
    script = _class(shell)(click.Command(PROGRAM), {}, PROGRAM, VARIABLE)
    # ShellComplete's own method: bash's would start a bash to look at its version.
    text = ShellComplete.source(script)
    if app.json:
        app.print_json({"shell": shell, "script": text})
    else:
        app.print(text)


def _class(shell: str) -> type[ShellComplete]:
    found = get_completion_class(shell)
    assert found is not None, shell
    return found


def answer(cli: click.Command) -> int:
    """Answer a shell's question on stdout; a question that cannot be answered gets no answer."""
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    if shell not in SHELLS or instruction != "complete":
        return exits.FAILED
    app = App()
    try:
        asked = _class(shell)(cli, {"obj": app}, PROGRAM, VARIABLE)
        print(asked.complete())
    except Exception:  # noqa: BLE001 - the person is in the middle of a line; any word would tear it
        return exits.FAILED
    finally:
        app.close()
    return exits.DONE


def complete_targets(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Sessions by name (by id where a shell would have to quote the name), or folders for a path."""
    if is_path(incomplete):
        return [CompletionItem(incomplete, type="dir")]
    app = ctx.find_object(App)
    named = _named(ctx)
    found = []
    for one in _sessions(app) if app else []:
        word = _typed(one.name, one.id)
        if word.startswith(incomplete) and word not in named:
            found.append(CompletionItem(word, help=one.path if word == one.name else one.name))
    return found


def complete_agents(ctx: click.Context, incomplete: str, *, alone: bool = False) -> list[CompletionItem]:
    """Agents as `SESSION/NAME` that the verb can do something with; what runs goes before what has ended,
    and hides it where it has its name. ``alone``: once a name is begun, also those that one session has."""
    app = ctx.find_object(App)
    named = _named(ctx)
    states = _STATES.get(ctx.command.name or "", ())
    found: dict[str, CompletionItem] = {}
    known = _agents(app, states) if app else []
    sessions: dict[str, set[str]] = {}
    for one in known:
        sessions.setdefault(one.name, set()).add(one.session)
    for one in known:
        name = _typed(one.name, one.id)
        words = [f"{_typed(one.session_name, one.session)}/{name}"]
        if alone and incomplete and name == one.name and len(sessions[name]) == 1:
            words.append(name)
        for word in words:
            if word.startswith(incomplete) and word not in named:
                found.setdefault(word, CompletionItem(word, help=" ".join(one.command)))
    return list(found.values())


def complete_groups(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Groups that agents are in."""
    app = ctx.find_object(App)
    return _completed({one.group for one in _agents(app)} if app else set(), incomplete)


def complete_conversation_groups(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Groups that conversations are in."""
    app = ctx.find_object(App)
    return _completed({one.group for one in _conversations(app)} if app else set(), incomplete)


def complete_signals(_ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Names of signals, with `SIG` where that is how the word begins."""
    start = "SIG" if incomplete.upper().startswith("SIG") else ""
    names = (one.name.removeprefix("SIG") for one in signal.Signals)
    return [CompletionItem(start + one) for one in names if (start + one).startswith(incomplete.upper())]


def complete_anything(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Sessions and agents; sessions alone where agents cannot be asked for."""
    if names_agent(incomplete):
        return complete_agents(ctx, incomplete)
    found = complete_targets(ctx, incomplete)
    if is_path(incomplete):
        return found
    try:
        return found + complete_agents(ctx, incomplete)
    except SessiondError:
        return found


def complete_conversations(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Conversations by id, `ADAPTER:ID` or `SESSION/AGENT`, the latest first; as many as a person looks
    through."""
    app = ctx.find_object(App)
    if app is None:
        return []
    found = []
    for one in _conversations(app, _CONVERSATIONS):
        agent = f"{one.session_name}/{one.agent_name}" if one.agent_name else ""
        for word in (one.id, f"{one.adapter}:{one.id}", agent):
            if word.startswith(incomplete) and _CONVERSATION.fullmatch(word):
                found.append(CompletionItem(word, help=one.title or one.first_prompt))
                break
    return found


def complete_adapters(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """Names of adapters: those of this release, for which nobody needs to be asked."""
    from sessiond.adapters import ADAPTERS

    named = ctx.params.get("names") or ()
    return [CompletionItem(one) for one in ADAPTERS if one.startswith(incomplete) and one not in named]


def complete_command(incomplete: str, words: Sequence[str]) -> list[CompletionItem]:
    """The command that `run` is given: a program on PATH first, files from then on."""
    if words or "/" in incomplete or incomplete.startswith("~"):
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name) for name in sorted(_programs(incomplete))]


def _programs(beginning: str) -> set[str]:
    found: set[str] = set()
    for folder in os.get_exec_path():
        try:
            with os.scandir(folder) as entries:
                names = [one.name for one in entries if one.name.startswith(beginning)]
        except OSError:
            continue  # PATH may name folders that are not there
        found.update(name for name in names if os.access(os.path.join(folder, name), os.X_OK))
    return {name for name in found if _PLAIN.fullmatch(name)}


def _named(ctx: click.Context) -> set[str]:
    return {word for word in ctx.params.get("targets") or () if isinstance(word, str)}


def _typed(name: str, identity: str) -> str:
    """What is typed for a name: the beginning of the id where a shell would have to quote the name."""
    return name if _is_plain(name) else identity[:_ID_DIGITS]


def _is_plain(word: str) -> bool:
    return _PLAIN.fullmatch(word) is not None


def _completed(words: set[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(one) for one in sorted(words) if one.startswith(incomplete) and _is_plain(one)]


def _conversations(app: App, most: int = 0) -> Sequence[Any]:
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    wanted = pb.AgentSessionFilter(include_stopped=True)
    request = pb.ListAgentSessionsRequest(filter=wanted, page_size=most)
    service = app.supervisor.discovery
    response = app.supervisor.call(service.ListAgentSessions, request, timeout=_SECONDS)
    found: Sequence[Any] = response.agent_sessions
    return found


def _agents(app: App, states: Sequence[str] = ()) -> list[Any]:
    from sessiond.cli.jsonout import agent_state_number
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    wanted = [agent_state_number(one) for one in states]
    request = pb.ListAgentsRequest(selection=pb.AgentSelection(states=wanted, include_ended=True))
    response = app.supervisor.call(app.supervisor.agents.ListAgents, request, timeout=_SECONDS)
    return sorted(response.agents, key=lambda one: one.HasField("ended_at"))


def _sessions(app: App) -> list[Any]:
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.ListSessionsRequest(include_archived=True)
    response = app.supervisor.call(app.supervisor.sessions.ListSessions, request, timeout=_SECONDS)
    return list(response.sessions)
