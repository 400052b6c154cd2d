"""`start`, `stop`, `restart`, `kill`, `use`, `end` and `wait`: the life of sessions, and some of agents."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import exits, render
from sessiond.cli.agents import STATES as AGENT_STATES
from sessiond.cli.agents import agent_exit_code
from sessiond.cli.app import App
from sessiond.cli.choice import AGENT_STATE, LIVING, Choice, Deed, Result, SessionDeed, carry_out, choosing
from sessiond.cli.exits import UsageFault
from sessiond.cli.show import STATE, STATES, Words
from sessiond.cli.verb import Verb, anything, names_agent, target, targets, verb

NO_WAIT = click.option("--no-wait", is_flag=True, help="Return when the job is queued, before it is done.")


def state_line(session: dict[str, Any]) -> str:
    """One line on a session: its name and the state it is in."""
    on = render.colours()
    pid = f" (pid {session['pid']})" if session["pid"] is not None else ""
    return f"{render.plain(session['name'])}: {render.state_text(session['state'], on=on)}{pid}"


def _each(app: App, name: str, words: tuple[str, ...], **fields: Any) -> None:
    """Call `<name>Session` for every session named, and show the states they are in then."""
    from sessiond.client.sync import JOB_TIMEOUT

    app.each_session(name, words, state_line, timeout=JOB_TIMEOUT, **fields)


@verb(
    "start",
    examples="""
sessionctl start shop
sessionctl start . ~/projects/blog
sessionctl start shop --no-wait
""",
)
@targets()
@NO_WAIT
def start(app: App, targets: tuple[str, ...], no_wait: bool) -> None:
    """Start sessions; those that run are left alone."""
    _each(app, "Start", targets, no_wait=no_wait)


@verb(
    "stop",
    examples="""
sessionctl stop shop
sessionctl stop shop blog --no-wait
sessionctl stop shop/claude blog/server
sessionctl stop --group workers
""",
)
@anything(required=False)
@NO_WAIT
@choosing()
def stop(app: App, targets: tuple[str, ...], no_wait: bool, choice: Choice) -> None:
    """Stop sessions with all that runs in them, or agents.

    An agent is named SESSION/NAME. It gets its stop signal, and SIGKILL after its time to end.
    """
    fields = {"no_wait": no_wait}
    agents = Deed("Stop", fields=fields, batch=None if no_wait else {})
    carry_out(app, targets, choice, agents, _job("Stop", fields))


@verb(
    "restart",
    examples="""
sessionctl restart shop
sessionctl restart shop/server
sessionctl restart --session shop --state failed
""",
)
@anything(required=False)
@NO_WAIT
@choosing()
def restart(app: App, targets: tuple[str, ...], no_wait: bool, choice: Choice) -> None:
    """Restart agents, or the daemons of sessions.

    What runs in a session goes on while its daemon is restarted. An agent is named SESSION/NAME; it is
    started with what it was started with, also where it has ended.
    """
    if no_wait and (choice.given or any(map(names_agent, targets))):
        raise UsageFault("usage", "--no-wait is for sessions alone", hint="sessionctl restart --help")
    carry_out(app, targets, choice, Deed("Restart"), _job("Restart", {"no_wait": no_wait}))


@verb(
    "kill",
    examples="""
sessionctl kill shop
sessionctl kill shop --signal TERM
sessionctl kill shop/claude
sessionctl kill --group workers --fail-fast
""",
)
@anything(required=False)
@click.option("-s", "--signal", default="", metavar="SIGNAL", help="Name or number; by default SIGKILL.")
@choosing()
def kill(app: App, targets: tuple[str, ...], signal: str, choice: Choice) -> None:
    """Send a signal to the daemons of sessions, or kill agents.

    What runs in a session goes on, and the init system has its daemon back. An agent, named
    SESSION/NAME, is killed with all of its processes and not started again; with --signal its main
    process gets that signal, as with `sessionctl signal`.
    """
    from sessiond.cli.agent_life import signal_deed
    from sessiond.client.sync import JOB_TIMEOUT

    sent = signal.upper() or "SIGKILL"
    agents = signal_deed(signal) if signal else Deed("Kill", timeout=JOB_TIMEOUT)
    sessions = SessionDeed(
        "Kill", lambda one: f"{render.plain(one['name'])}: {render.plain(sent)} sent", {"signal": signal}
    )
    carry_out(app, targets, choice, agents, sessions)


def _job(name: str, fields: dict[str, Any]) -> SessionDeed:
    """What has the init system do something to a session, and takes as long as that takes."""
    from sessiond.client.sync import JOB_TIMEOUT

    return SessionDeed(name, state_line, fields, JOB_TIMEOUT)


@verb(
    "use",
    examples="""
sessionctl use shop
sessionctl use --none
""",
)
@target(required=False, metavar="[SESSION]")
@click.option("--none", is_flag=True, help="Stop the session in use, and use none.")
def use(app: App, target: str | None, none: bool) -> None:
    """Make a session the one in use, and start it.

    Without a word, show which it is.
    """
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    if target and none:
        raise UsageFault("usage", "name a session or give --none, not both", hint="sessionctl use --help")
    stub, call = app.supervisor.sessions, app.supervisor.call
    if target:
        activate = pb.ActivateSessionRequest(session=target)
        response = call(stub.ActivateSession, activate, timeout=JOB_TIMEOUT)
    else:
        response = call(stub.GetActiveSession, pb.GetActiveSessionRequest())
    if none:
        deactivate = pb.DeactivateSessionRequest(session=response.session.id)
        response = call(stub.DeactivateSession, deactivate, timeout=JOB_TIMEOUT)
    app.show_changed([app.session(response.session)], state_line)


@verb(
    "end",
    examples="""
sessionctl end shop
""",
)
@targets()
def end(app: App, targets: tuple[str, ...]) -> None:
    """Stop sessions and set them aside; `unarchive` takes them back."""
    _each(app, "End", targets)


class Wait(Verb):
    """`wait`: once an agent is waited for, its exit code is a program's, and failures are told apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, after looking whether agents are meant."""
        app = ctx.find_object(App)
        chosen = ("--all", "--session", "--group", "--label", "--ended")
        if app and any(names_agent(word) or word.split("=")[0] in chosen for word in args):
            app.exit_of = exits.exit_code_beside_programs
        return super().parse_args(ctx, args)


ANY_STATE = Words("state", (*STATES, *(word for word in AGENT_STATES if word not in STATES)))


@verb(
    "wait",
    cls=Wait,
    examples="""
sessionctl wait shop
sessionctl wait shop --state inactive --state error --timeout 30
sessionctl start shop --no-wait && sessionctl wait shop --timeout 1min
sessionctl wait shop/build shop/tests
sessionctl wait --group workers --ended
""",
)
@anything(required=False)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=ANY_STATE,
    metavar="STATE",
    help="Any of these; default active, for agents that they have ended.",
)
@click.option("--timeout", metavar="TIME", help="Longest wait: seconds, or 500ms, 30s, 5min, 2h.")
@click.option("--ended", is_flag=True, help="Choose also agents that have ended already.")
@choosing(states=False)
def wait(
    app: App,
    targets: tuple[str, ...],
    states: tuple[str, ...],
    timeout: str | None,
    ended: bool,
    choice: Choice,
) -> None:
    """Wait until all sessions and agents named are in a state asked for.

    The exit code is that of the agent, named SESSION/NAME, once it has ended; of several the highest:
    its exit status, or 128 and the number of the signal that ended it, or 124 where its --timeout or
    that of this wait ran out. 125 means that sessionctl itself failed. Of sessions alone the exit
    codes are those of every verb.
    """
    seconds = duration(timeout) if timeout is not None else None
    if ended and not choice.given:
        raise UsageFault("usage", "--ended is for agents that options choose", hint="sessionctl wait --help")
    agents = choice.given or any(map(names_agent, targets))
    sessions = choice.given or not all(map(names_agent, targets))
    for word in states:
        if agents and word not in AGENT_STATES:
            AGENT_STATE.convert(word, None, None)
        if sessions and not choice.given:
            STATE.convert(word, None, None)
    results = carry_out(app, targets, choice, *_waits(states, seconds, ended=ended))
    if agents:
        app.exit_code = max([app.exit_code, *(_code(app, one) for one in results)])


def _waits(states: tuple[str, ...], seconds: float | None, *, ended: bool) -> tuple[Deed, SessionDeed]:
    from google.protobuf.duration_pb2 import Duration

    from sessiond.cli.jsonout import STATE_NUMBERS, agent_state_number

    fields: dict[str, Any] = {}
    if seconds is not None:
        longest = Duration()
        longest.FromNanoseconds(round(seconds * 1e9))
        fields["timeout"] = longest
    # Who answers keeps the time; ours is only for one that no longer does.
    deadline = seconds + 10 if seconds is not None else 0
    of_agents = {"states": [agent_state_number(word) for word in states if word in AGENT_STATES]}
    of_sessions = {"states": [STATE_NUMBERS[word] for word in states if word in STATE_NUMBERS]}
    deed = Deed(
        "Wait",
        fields={**fields, **of_agents},
        batch=None if states else fields,
        states=AGENT_STATES if ended else LIVING,
        timeout=deadline,
    )
    return deed, SessionDeed("Wait", state_line, {**fields, **of_sessions}, deadline)


def _code(app: App, one: Result) -> int:
    """The exit code that one result makes of a wait in which agents are."""
    if one.error is not None:
        return app.exit_of(one.error)
    return agent_exit_code(one.shown) if one.agent and one.shown else exits.DONE


_UNITS = {"ms": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Seconds of `90`, `1.5s`, `500ms`, `5min`, `2h`, `1d`; raises InvalidArgument."""
    import re

    from sessiond.errors import InvalidArgument

    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([a-z]*)", text.strip())
    unit = _UNITS.get(match[2] or "s") if match else None
    if not match or unit is None:
        raise InvalidArgument(
            "duration_invalid",
            f"not a duration: {text!r}",
            hint="seconds, or a number with ms, s, min, h or d",
            fields={"duration": text},
        )
    return float(match[1]) * unit
