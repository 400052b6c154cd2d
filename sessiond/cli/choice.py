"""Doing one thing to sessions and agents named on the command line, or to all agents that options choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import click

from sessiond.cli.agents import ENDED, STATES, agent_line, shown_name, warn_unanswered, whole_name
from sessiond.cli.app import App
from sessiond.cli.show import Words
from sessiond.cli.verb import TARGET, group_option, label_option, names_agent, pair
from sessiond.errors import BY_KIND, ErrorKind, SessiondError

F = TypeVar("F", bound=Callable[..., Any])

LIVING = tuple(state for state in STATES if state not in ENDED)
AGENT_STATE = Words("state", STATES, of="agent")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which agents options choose; those that fit all that is given."""

    session: str = ""
    group: str = ""
    labels: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    everything: bool = False
    fail_fast: bool = False

    @property
    def given(self) -> bool:
        """Whether agents are chosen by what they are, rather than named."""
        return bool(self.session or self.group or self.labels or self.states or self.everything)


def choosing(*, states: bool = True) -> Callable[[F], F]:
    """Give a verb the options that choose agents, and its function a ``choice``."""
    options = [
        click.option(
            "--all", "everything", is_flag=True, help="All agents, of --session or of every session."
        ),
        click.option("--session", type=TARGET, metavar="SESSION", help="Only agents of this one."),
        group_option("Only agents in this group."),
        label_option,
        click.option("--fail-fast", is_flag=True, help="After the first failure begin no more."),
    ]
    if states:
        options.insert(
            -1,
            click.option(
                "--state",
                "agent_states",
                multiple=True,
                type=AGENT_STATE,
                metavar="STATE",
                help="Only agents in this state.",
            ),
        )

    def decorate(function: F) -> F:
        @wraps(function)
        def chosen(
            app: App,
            *,
            everything: bool,
            session: str | None,
            group: str,
            labels: tuple[str, ...],
            fail_fast: bool,
            agent_states: tuple[str, ...] = (),
            **rest: Any,
        ) -> Any:
            choice = Choice(session or "", group, labels, agent_states, everything, fail_fast)
            return function(app, choice=choice, **rest)

        verb_function: Any = chosen
        for option in reversed(options):
            verb_function = option(verb_function)
        return verb_function  # type: ignore[no-any-return]

    return decorate


# ---- what is done ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deed:
    """What is done to agents: the call `<name>Agent` with these fields, or BatchAgents with ``batch``.

    ``batch`` is None where a batch cannot carry the fields: those chosen are then done one by one.
    ``states`` are those that agents are chosen in where no state is asked for; ``timeout`` is each call's
    deadline in seconds, 0 for none.
    """

    name: str
    line: Callable[[dict[str, Any]], str] = agent_line
    fields: Mapping[str, Any] = field(default_factory=dict)
    batch: Mapping[str, Any] | None = field(default_factory=dict)
    states: tuple[str, ...] = LIVING
    timeout: float = 0


@dataclass(frozen=True, slots=True)
class SessionDeed:
    """What the same verb does to sessions: the call `<name>Session` with these fields."""

    name: str
    line: Callable[[dict[str, Any]], str]
    fields: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one: its object for --json (None where there is none), its line, or its failure."""

    shown: dict[str, Any] | None
    line: str = ""
    error: SessiondError | None = None
    agent: bool = True


def carry_out(
    app: App, words: Sequence[str], choice: Choice, deed: Deed, sessions: SessionDeed | None = None
) -> list[Result]:
    """Do it to those named, each once, or to those chosen; show what became of each, and return that.

    ``sessions`` is what is done to words that name a session; without it all words name agents.
    """
    check(words, choice)
    if choice.given:
        results = _chosen(app, choice, deed)
    else:
        results = _named(app, list(dict.fromkeys(words)), choice, deed, sessions)
    _show(app, results, choice)
    return results


def check(words: Sequence[str], choice: Choice) -> None:
    """Raise UsageError unless those meant are either named or chosen."""
    if words and choice.given:
        raise click.UsageError("name them, or choose agents by options: not both")
    if not words and not choice.given:
        raise click.UsageError("name what is meant, or choose agents by --all, --session, --group …")


def _named(
    app: App, words: list[str], choice: Choice, deed: Deed, sessions: SessionDeed | None
) -> list[Result]:
    calls: list[tuple[str, _Call | SessiondError]] = []
    for word in words:
        try:
            if sessions is not None and not names_agent(word):
                calls.append((word, _session_call(app, sessions, word)))
            else:
                name = whole_name(app, word)
                calls.append((word, _agent_call(app, deed, name.session, name.agent)))
        except SessiondError as error:
            calls.append((word, error))
    # A session's job takes its own time; an agent may be given any to end.
    only = sessions is not None and not any(map(names_agent, words))
    timeout = sessions.timeout if sessions is not None and only else deed.timeout
    return _made(app, calls, fail_fast=choice.fail_fast, timeout=timeout)


@dataclass(frozen=True, slots=True)
class _Call:
    method: Any
    request: Any
    take: Callable[[Any], Result]


def _session_call(app: App, deed: SessionDeed, word: str) -> _Call:
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    def take(response: Any) -> Result:
        shown = app.session(response.session)
        return Result(shown, deed.line(shown), agent=False)

    request = getattr(pb, f"{deed.name}SessionRequest")(session=word, **deed.fields)
    return _Call(getattr(app.supervisor.sessions, f"{deed.name}Session"), request, take)


def _agent_call(app: App, deed: Deed, session: str, agent: str) -> _Call:
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    def take(response: Any) -> Result:
        shown = app.agent(response.agent)
        return Result(shown, deed.line(shown))

    request = getattr(pb, f"{deed.name}AgentRequest")(session=session, agent=agent, **deed.fields)
    return _Call(getattr(app.supervisor.agents, f"{deed.name}Agent"), request, take)


def _made(
    app: App,
    calls: Sequence[tuple[str, _Call | SessiondError]],
    *,
    fail_fast: bool,
    timeout: float | None,
) -> list[Result]:
    """Results of calls made at once, or one after another until one fails; in their order."""
    several = len(calls) > 1
    if not fail_fast:
        made = [(one.method, one.request) for _, one in calls if isinstance(one, _Call)]
        answers = iter(app.supervisor.call_each(made, timeout=timeout) if made else ())
        return [
            _result(word, one, next(answers) if isinstance(one, _Call) else one, several=several)
            for word, one in calls
        ]
    results: list[Result] = []
    for word, one in calls:
        if any(result.error for result in results):
            results.append(Result(None, error=_error("skipped", f"{word}: skipped, since another failed")))
            continue
        answer: Any = one
        if isinstance(one, _Call):
            [answer] = app.supervisor.call_each([(one.method, one.request)], timeout=timeout)
        results.append(_result(word, one, answer, several=several))
    return results


def _result(word: str, call: _Call | SessiondError, answer: Any, *, several: bool) -> Result:
    if isinstance(answer, SessiondError):
        if several and word not in answer.message:
            # A daemon knows its agents' names, and two sessions may have one of the same.
            answer.message = f"{word}: {answer.message}"
        return Result(None, error=answer)
    assert isinstance(call, _Call)
    return call.take(answer)


# ---- those chosen ---------------------------------------------------------------------------


def selection(choice: Choice, states: Sequence[str]) -> Any:
    """The selection of the wire; ``states`` where none is asked for."""
    from sessiond.cli.jsonout import agent_state_number
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    wanted = choice.states or tuple(states)
    return pb.AgentSelection(
        states=[agent_state_number(word) for word in wanted],
        group=choice.group,
        labels=dict(pair(word) for word in choice.labels if "=" in word),
        label_keys=[word for word in choice.labels if "=" not in word],
        include_ended=any(word in ENDED for word in wanted),
    )


def _chosen(app: App, choice: Choice, deed: Deed) -> list[Result]:
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    wanted = selection(choice, deed.states)
    if deed.batch is None:
        listing = pb.ListAgentsRequest(session=choice.session, selection=wanted)
        listed = app.supervisor.call(app.supervisor.agents.ListAgents, listing)
        warn_unanswered(app, listed.unanswered)
        calls = [
            (f"{one.session_name}/{one.name}", _agent_call(app, deed, one.session, one.id))
            for one in listed.agents
        ]
        return _made(app, calls, fail_fast=choice.fail_fast, timeout=deed.timeout)
    request = pb.BatchAgentsRequest(
        session=choice.session,
        selection=wanted,
        action=f"BATCH_ACTION_{deed.name.upper()}",
        fail_fast=choice.fail_fast,
        **deed.batch,
    )
    response = app.supervisor.call(app.supervisor.agents.BatchAgents, request, timeout=deed.timeout)
    results = []
    for one in response.results:
        shown = app.agent(one.agent)
        if one.code:
            message = one.message or one.code
            results.append(Result(shown, error=_error(one.code, f"{shown_name(shown)}: {message}")))
        else:
            results.append(Result(shown, deed.line(shown)))
    warn_unanswered(app, response.unanswered)
    return results


_KINDS = {
    ErrorKind.NOT_FOUND: ("agent_not_found", "session_not_found", "command_not_found", "record_gone"),
    ErrorKind.CONFLICT: (
        "agent_not_running",
        "agent_running",
        "agent_ended",
        "environment_gone",
        "session_not_running",
        "start_failed",
    ),
    ErrorKind.TIMED_OUT: ("wait_timeout", "start_timeout", "call_timeout"),
    ErrorKind.UNREACHABLE: ("daemon_unreachable", "init_unavailable"),
    ErrorKind.INVALID: ("signal_invalid", "command_not_executable"),
}


def _error(code: str, message: str) -> SessiondError:
    """The error of a result in a batch, which tells its code and no kind."""
    kind = next((kind for kind, codes in _KINDS.items() if code in codes), ErrorKind.FAILED)
    return BY_KIND[kind](code, message, hint=_HINTS.get(code, "sessionctl ps -a"))


_HINTS = {
    "agent_running": "stop it first, or give --force",
    "session_not_running": "start its session first",
    "skipped": "without --fail-fast each is tried",
}


# ---- showing --------------------------------------------------------------------------------


def _show(app: App, results: Sequence[Result], choice: Choice) -> None:
    """Objects or a line of each that was done, then the failures; of those chosen each has its object."""
    if app.json and choice.given:
        app.print_json([_with_error(one) for one in results if one.shown is not None])
    elif app.json:
        app.print_json([one.shown for one in results if one.error is None])
    else:
        for one in results:
            if one.error is None:
                app.print(one.line)
    if choice.given and not results:
        app.note("No agent fits.")
    for one in results:
        if one.error is not None:
            app.fail(one.error)


def _with_error(one: Result) -> dict[str, Any]:
    told = {"code": one.error.code, "message": one.error.message} if one.error else None
    return {**(one.shown or {}), "error": told}
