"""How agents are named on a command line, found, stayed with, and told in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sessiond.cli import exits, render
from sessiond.cli.app import App
from sessiond.cli.verb import AgentName, split_agent
from sessiond.errors import InvalidArgument, NotFound, SessiondError, Unreachable

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = 5


class AgentTarget(click.ParamType[str]):
    """An agent: `SESSION/NAME`, or its name or id alone where that is unambiguous."""

    name = "agent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word, checked for its form."""
        return str(split_agent(str(value)))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Agents as `SESSION/NAME`, or by name alone."""
        from sessiond.cli.completion import complete_agents

        return complete_agents(ctx, incomplete, alone=True)


AGENT = AgentTarget()


def agents(required: bool = True, metavar: str = "AGENT...") -> Callable[[F], F]:
    """The argument that names one agent or more."""
    return click.argument("targets", nargs=-1, required=required, type=AGENT, metavar=metavar)


def agent() -> Callable[[F], F]:
    """The argument that names one agent."""
    return click.argument("target", type=AGENT, metavar="AGENT")


# ---- finding --------------------------------------------------------------------------------


def whole_name(app: App, word: str) -> AgentName:
    """Session and agent to ask for: those that the word names, or those that a name alone leads to.

    Raises NotFound `agent_not_found`, InvalidArgument `agent_ambiguous`, and Unreachable where a session
    that does not answer may have an agent of that name too.
    """
    name = split_agent(word)
    if name.session:
        return name
    living = [one for one in _listed(app, name.agent, ended=False) if one.name == name.agent]
    found = living or _meant(name.agent, _listed(app, name.agent, ended=True))
    if found:
        return _only(name.agent, found)
    raise NotFound(
        "agent_not_found",
        f"no session has an agent {name.agent}",
        hint="sessionctl ps -a",
        fields={"agent": name.agent},
    )


def agent_target(app: App, word: str) -> tuple[str, str, str]:
    """Session's id, session's name and agent's id of the agent that a word names. Raises as `whole_name`."""
    one = get_agent(app, word)
    return one.session, one.session_name, one.id


def get_agent(app: App, word: str) -> Any:
    """The agent that a word names, as the API tells it. Raises as `whole_name`."""
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    name = whole_name(app, word)
    request = pb.GetAgentRequest(session=name.session, agent=name.agent)
    return app.supervisor.call(app.supervisor.agents.GetAgent, request).agent


def _listed(app: App, word: str, *, ended: bool) -> list[Any]:
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    request = pb.ListAgentsRequest(selection=pb.AgentSelection(include_ended=ended))
    response = app.supervisor.call(app.supervisor.agents.ListAgents, request)
    if response.unanswered:
        # Explicit identity: the session that is silent may be the one that is meant.
        silent = ", ".join(one.session_name or one.session for one in response.unanswered)
        raise Unreachable(
            "sessions_unanswered",
            f"which agent {word} is cannot be told while {silent} does not answer",
            hint=f"name it with its session: SESSION/{word}",
            fields={"agent": word, "sessions": silent},
        )
    return list(response.agents)


def _meant(word: str, known: list[Any]) -> list[Any]:
    """Those that a word means, as sessions find their agents: by name, by id, by its beginning."""
    from sessiond.model.identity import ID_PREFIX_MIN

    prefix = word.lower()
    return (
        [one for one in known if one.name == word]
        or [one for one in known if one.id == prefix]
        or [one for one in known if len(prefix) >= ID_PREFIX_MIN and one.id.startswith(prefix)]
    )


def _only(word: str, found: list[Any]) -> AgentName:
    """The one that is meant; of ended namesakes of one session the youngest."""
    exact = found
    if len({one.session for one in found}) == 1 and all(one.name == word for one in found):
        exact = [max(found, key=lambda one: one.created_at.ToNanoseconds())]
    if len(exact) == 1:
        return AgentName(exact[0].session, exact[0].id)
    shown = [f"{one.session_name}/{one.name} ({one.id})" for one in exact[:_SHOWN]]
    more = f", and {len(exact) - _SHOWN} more" if len(exact) > _SHOWN else ""
    raise InvalidArgument(
        "agent_ambiguous",
        f"{word} means more than one agent: {', '.join(shown)}{more}",
        hint=f"name it with its session: {exact[0].session_name}/{exact[0].name}",
        fields={"agent": word},
    )


# ---- telling --------------------------------------------------------------------------------


def shown_name(one: dict[str, Any]) -> str:
    """`SESSION/NAME` of an agent's object, for people."""
    return render.plain(f"{one['session_name']}/{one['name']}")


def agent_line(one: dict[str, Any]) -> str:
    """One line on an agent: its name, its state, and its process or how it ended."""
    on = render.colours()
    besides = [word for word in (one["activity"], ending(one)) if word]
    if one["pid"] is not None:
        besides.append(f"pid {one['pid']}")
    state = render.paint(one["state"], render.AGENT_COLOURS.get(one["state"], ""), on=on)
    return f"{shown_name(one)}: {state}" + (f" ({render.plain(', '.join(besides))})" if besides else "")


def ending(one: dict[str, Any]) -> str:
    """How the last run ended, in a few words, or empty."""
    if one["signal"]:
        return str(one["signal"])
    if one["exit_status"] is not None:
        return f"exit status {one['exit_status']}"
    return ""


_PROBLEMS = {
    "disk_low": "the disk is nearly full, see recording.low_disk",
    "disk_full": "the disk is full",
    "write_failed": "its record cannot be written, see the journal of its session",
    "limit_reached": "it holds as much as recording.limit allows",
}


def not_recorded(problem: str) -> str:
    """Why nothing of an agent's output is recorded now, for people."""
    return f"output is not recorded: {_PROBLEMS.get(problem, problem)}"


def agent_exit_code(one: dict[str, Any]) -> int:
    """The exit code that an agent's end makes of `run` and `wait`; 0 for one that has not ended."""
    from sessiond.model.agent import exit_code

    if one["ended_at"] is None and one["state"] not in ENDED:
        return 0
    timed_out = one["state"] == "failed" and one["result"] == "timeout"
    return exit_code(one["exit_status"], one["signal"] or "", timed_out=timed_out)


def stay_until_end(app: App, agent: Any, follow: Callable[[], Any]) -> dict[str, Any] | None:
    """Take the exit code of an agent that ``follow`` stays with; its object at its end, or None where it was
    left before."""
    name = shown_name(app.agent(agent))
    try:
        outcome = follow()
    except SessiondError:
        app.note(f"{name} was started: sessionctl show {name}")
        raise
    if outcome.agent is None:
        app.exit_code = 128 + outcome.signal if outcome.signal else exits.DONE
        return None
    # Its daemon, which told of its end, does not know what its session is called.
    outcome.agent.session_name = outcome.agent.session_name or agent.session_name
    one = app.agent(outcome.agent)
    app.exit_code = agent_exit_code(one)
    return one


STATES = ("unknown", "starting", "running", "paused", "completed", "failed", "terminated")
ENDED = ("completed", "failed", "terminated")


def warn_unanswered(app: App, unanswered: Any) -> None:
    """Tell of sessions that gave no answer, and have it exit with 1: what is shown is not all."""
    for one in unanswered:
        error = SessiondError(
            "session_unanswered",
            f"{one.session_name or one.session} gave no answer: {one.reason}",
            hint=f"sessionctl status {one.session_name or one.session}",
            fields={"session": one.session, "reason": one.code},
        )
        app.warn(error)
        app.exit_code = app.exit_code or app.exit_of(error)
