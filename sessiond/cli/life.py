"""`start`, `stop`, `restart`, `kill`, `use`, `end` and `wait`: the life of sessions."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.exits import UsageFault
from sessiond.cli.show import STATE
from sessiond.cli.verb import target, targets, verb

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
""",
)
@targets()
@NO_WAIT
def stop(app: App, targets: tuple[str, ...], no_wait: bool) -> None:
    """Stop sessions with all that runs in them."""
    _each(app, "Stop", targets, no_wait=no_wait)


@verb(
    "restart",
    examples="""
sessionctl restart shop
""",
)
@targets()
@NO_WAIT
def restart(app: App, targets: tuple[str, ...], no_wait: bool) -> None:
    """Restart the daemons of sessions; what runs in them goes on."""
    _each(app, "Restart", targets, no_wait=no_wait)


@verb(
    "kill",
    examples="""
sessionctl kill shop
sessionctl kill shop --signal TERM
""",
)
@targets()
@click.option("-s", "--signal", default="", metavar="SIGNAL", help="Name or number; by default SIGKILL.")
def kill(app: App, targets: tuple[str, ...], signal: str) -> None:
    """Send a signal to the daemons of sessions.

    What runs in them goes on, and the init system has them back.
    """
    sent = signal.upper() or "SIGKILL"
    app.each_session(
        "Kill", targets, lambda one: f"{render.plain(one['name'])}: {render.plain(sent)} sent", signal=signal
    )


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


@verb(
    "wait",
    examples="""
sessionctl wait shop
sessionctl wait shop --state inactive --state error --timeout 30
sessionctl start shop --no-wait && sessionctl wait shop --timeout 1min
""",
)
@targets()
@click.option(
    "--state", "states", multiple=True, type=STATE, metavar="STATE", help="Any of these; default active."
)
@click.option("--timeout", metavar="TIME", help="Longest wait: seconds, or 500ms, 30s, 5min, 2h.")
def wait(app: App, targets: tuple[str, ...], states: tuple[str, ...], timeout: str | None) -> None:
    """Wait until all sessions named are in a state asked for."""
    from sessiond.cli.jsonout import STATE_NUMBERS
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    seconds = duration(timeout) if timeout is not None else None
    requests = []
    for word in dict.fromkeys(targets):
        request = pb.WaitSessionRequest(session=word, states=[STATE_NUMBERS[state] for state in states])
        if seconds is not None:
            request.timeout.FromNanoseconds(round(seconds * 1e9))
        requests.append(request)
    # The supervisor keeps the time; ours is only for one that no longer answers.
    deadline = seconds + 10 if seconds is not None else 0
    app.each(app.supervisor.sessions.WaitSession, requests, state_line, timeout=deadline)


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
