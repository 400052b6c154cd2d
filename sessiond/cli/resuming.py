"""`continue` and `takeover`: going on with a conversation, wherever it was started."""

from __future__ import annotations

from typing import Any

import click

from sessiond.cli import render
from sessiond.cli.app import App
from sessiond.cli.conversation import conversation, conversation_line, conversation_object
from sessiond.cli.exits import UsageFault
from sessiond.cli.launching import Prompted, folder_of, prompted, read_prompt, tell_started
from sessiond.cli.run import Caller, Run, session_for, spawn_request, stay
from sessiond.cli.verb import TARGET, interactive, verb
from sessiond.errors import NotFound

_WISHES: dict[str, Any] = {
    "restart": None,
    "resurrect": False,
    "group": "",
    "labels": (),
    "properties": (),
    "source": None,
    "timeout": None,
    "stop_signal": "",
    "stop_timeout": None,
    "cwd": None,
}


def _common(function: Any) -> Any:
    for option in (
        click.option("-d", "--detach", is_flag=True, help="Only start it, and print SESSION/NAME."),
        click.option("--name", default="", help="Name of the agent; by default that of the command."),
        click.option("--env-file", "files", multiple=True, metavar="FILE", help="Lines of NAME=VALUE."),
        click.option(
            "--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or pass it on."
        ),
        click.option("-s", "--session", type=TARGET, metavar="SESSION", help="In this session."),
    ):
        function = option(function)
    return function


@verb(
    "continue",
    cls=Run,
    examples="""
sessionctl continue 3f2a91c0 "Now write the tests"
sessionctl continue codex:0198c2 --print "Summarise what you did"
sessionctl continue shop/claude "Yes, go on"
sessionctl continue 3f2a91c0 --prompt-file next.md -d
""",
)
@conversation()
@click.argument("text", required=False, metavar="[PROMPT]")
@prompted
@_common
def continue_(
    app: App, *, target: str, text: str | None, prompt: Prompted, detach: bool, **wishes: Any
) -> None:
    """Go on with a conversation.

    One that runs in a session and waits for a prompt is typed to. One that is stopped is resumed as an agent
    of a session: that of --session, or of the folder it works in, which becomes one if it is none. One that
    runs elsewhere is left alone: see takeover.

    With --print it answers the prompt and ends, and the answer is printed; otherwise you are attached to its
    terminal. The exit code is the program's. Both are as with `run`.
    """
    if text is not None and prompt.file is not None:
        raise UsageFault("usage", "the prompt is given twice", hint="leave out PROMPT or --prompt-file")
    words = read_prompt(prompt.file) if prompt.file is not None else text or ""
    _resume(app, target, words, prompt, take_over=False, detach=detach, **wishes)


@verb(
    "takeover",
    cls=Run,
    examples="""
sessionctl takeover 3f2a91c0
sessionctl takeover claude-code:3f2a91c0 --yes --detach
""",
)
@conversation()
@prompted
@_common
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a process is ended.")
def takeover(app: App, *, target: str, prompt: Prompted, detach: bool, yes: bool, **wishes: Any) -> None:
    """Bring a conversation that was started by hand into a session.

    If its process runs it is ended, after asking: SIGTERM, and SIGKILL 10 s later. Then the conversation is
    resumed in a unit and a terminal that outlive you: in --session, or in that of the folder it works in,
    which becomes one if it is none. One that runs in a session already is only attached to.
    """
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    service = app.supervisor.discovery
    message = app.supervisor.call(
        service.GetAgentSession, pb.GetAgentSessionRequest(agent_session=target)
    ).agent_session
    one = conversation_object(app, message)
    # Of what cannot be told nothing is ended: the supervisor says why.
    told = yes or message.status != pb.AGENT_SESSION_STATUS_UNKNOWN
    if message.HasField("pid") and told and not yes and not _runs_here(app, message):
        _ask(app, one, message.pid)
    words = read_prompt(prompt.file) if prompt.file is not None else ""
    _resume(app, target, words, prompt, take_over=told, detach=detach, **wishes)


def _runs_here(app: App, message: Any) -> bool:
    """Whether what runs is an agent of a session: nothing is ended then. That one is named says nothing: it
    may be the one that it ran as before somebody went on with it by hand."""
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    if not message.agent:
        return False
    request = pb.GetAgentRequest(session=message.session, agent=message.agent)
    try:
        agent = app.supervisor.call(app.supervisor.agents.GetAgent, request).agent
    except NotFound:
        return False
    return not agent.HasField("ended_at")


def _ask(app: App, one: dict[str, Any], pid: int) -> None:
    if not interactive():
        raise UsageFault(
            "confirmation_needed",
            f"process {one['pid'] or pid} has it open and would be ended, and there is no terminal to ask on",
            hint="sessionctl takeover --yes",
        )
    app.note(conversation_line(one))
    click.confirm(f"End process {one['pid'] or pid} and resume it in a session?", abort=True, err=True)


def _resume(
    app: App,
    target: str,
    words: str,
    prompt: Prompted,
    *,
    take_over: bool,
    detach: bool,
    session: str | None,
    **wishes: Any,
) -> None:
    from sessiond.cli.answering import said_so_far, stay_for_answer
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    caller = Caller.here(app)
    service = app.supervisor.discovery
    spawn = spawn_request(caller, (), tty=not prompt.print, **_WISHES, **wishes)
    found = app.supervisor.call(
        service.GetAgentSession, pb.GetAgentSessionRequest(agent_session=target)
    ).agent_session
    # The same one from here on, whatever else comes to be called so.
    target = f"{found.adapter}:{found.id}"
    stopped, unknown = pb.AGENT_SESSION_STATUS_STOPPED, pb.AGENT_SESSION_STATUS_UNKNOWN
    if found.status == stopped or (take_over and found.status != unknown):
        spawn.session = session_for(app, session, "" if session else folder_of(found, target)).id
    else:
        # It is typed to where it runs, or left alone: no folder becomes a session for that.
        spawn.session = session or ""
    spawn.cwd = found.cwd
    request = pb.ResumeAgentSessionRequest(
        agent_session=target,
        spawn=spawn,
        model=prompt.model,
        prompt=words,
        print=prompt.print,
        take_over=take_over,
    )
    answers = prompt.print and not detach
    before = said_so_far(app, target) if answers else None
    made = app.supervisor.call(service.ResumeAgentSession, request, timeout=JOB_TIMEOUT)
    if made.HasField("ended_pid"):
        app.note(f"Ended process {app.host.pid(made.ended_pid) or made.ended_pid}.")
    if detach or (made.typed and not caller.terminal):
        if made.typed and not app.json:
            app.print(f"typed to {render.plain(f'{made.agent.session_name}/{made.agent.name}')}")
        else:
            tell_started(app, made)
        return
    if answers:
        stay_for_answer(app, made, before)
        return
    stay(app, made.agent, terminal=made.agent.tty and caller.terminal)
