"""`run`: starts a program as an agent of a session, and stays with it until it ends."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli import environment, exits, render
from sessiond.cli.agents import shown_name, stay_until_end
from sessiond.cli.app import App
from sessiond.cli.conversation import ADAPTER
from sessiond.cli.exits import UsageFault
from sessiond.cli.launching import Prompted, launch, prompted
from sessiond.cli.show import Words
from sessiond.cli.verb import TARGET, Verb, absolute, check_words, completed_by, group_option, pair, verb
from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_SIZE = 1000
# As much as a daemon takes.
_INPUT_MAX = 2 << 20
POLICY = Words("policy", ("no", "on-failure", "always"), of="restart", plural="policies")


class Run(Verb):
    """`run`: its exit codes are the program's, and so is all that follows the first word of the command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; from here on failures of sessionctl exit with 125."""
        if (app := ctx.find_object(App)) is not None:
            app.exit_of = exits.exit_code_beside_programs
        return super().parse_args(ctx, args)


class CommandWord(click.ParamType[str]):
    """A word of the program's command line."""

    name = "command"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word, unchanged."""
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Programs for the first word, files for the others."""
        from sessiond.cli.completion import complete_command

        return complete_command(incomplete, ctx.params.get("command") or ())


@dataclass(frozen=True, slots=True)
class Caller:
    """What a program takes from who starts it; ``columns`` and ``rows`` are 0 where there is no terminal."""

    environment: dict[str, str]
    columns: int
    rows: int
    umask: int
    terminal: bool

    @classmethod
    def here(cls, app: App) -> Caller:
        """This process. Names on stderr what of its environment cannot be sent."""
        own, left = environment.own_environment(environment.environ_bytes())
        if left:
            names = ", ".join(render.plain(name) for name in left)
            app.note(f"Not passed on, since no UTF-8: {names}")
        columns, rows = _size()
        # There is no way to read it but to set it.
        mask = os.umask(0o077)
        os.umask(mask)
        return cls(own, columns, rows, mask, _on_terminal())


def _on_terminal() -> bool:
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _size() -> tuple[int, int]:
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        try:
            found = os.get_terminal_size(stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue
        if found.columns and found.lines:
            return min(found.columns, _LARGEST_SIZE), min(found.lines, _LARGEST_SIZE)
    return 0, 0


@verb(
    "run",
    cls=Run,
    context_settings={"allow_interspersed_args": False},
    examples="""
sessionctl run -- claude
sessionctl run -s shop --name server --restart on-failure -d -- npm start
sessionctl run --no-tty -- make -j4 2>errors
sessionctl run -d --group nightly --label team=web -p MemoryMax=2G -- ./crawl
git diff | sessionctl run --input - -- claude -p "Review this"
sessionctl run --adapter claude-code "Fix the failing test"
sessionctl run --adapter codex -m gpt-5 --print --prompt-file task.md > answer
sessionctl run --env-file .env --env DISPLAY --timeout 10min -- ./check
""",
)
@click.option("-s", "--session", type=TARGET, metavar="SESSION", help="In this session; see above.")
@click.option("--name", default="", help="Its name; by default that of the command.")
@click.option("-d", "--detach", is_flag=True, help="Only start it, and print SESSION/NAME.")
@click.option("--tty/--no-tty", default=None, help="With or without a terminal; by default as you have one.")
@click.option(
    "--restart", type=POLICY, metavar="POLICY", help="When it ends: no (default), on-failure, always."
)
@click.option("--resurrect", is_flag=True, help="Start it again when its session comes back at boot.")
@group_option("A group to put it in.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A word to select by.")
@click.option(
    "--env", "variables", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or pass it on."
)
@click.option("--env-file", "files", multiple=True, metavar="FILE", help="Variables as lines of NAME=VALUE.")
@click.option(
    "-p",
    "--property",
    "properties",
    multiple=True,
    metavar="PROPERTY=V",
    help="A limit, as systemd names it.",
)
@click.option(
    "--input",
    "source",
    metavar="FILE",
    type=click.Path(),
    help="What it reads; - for what you pipe in. Without a terminal.",
)
@click.option(
    "--timeout",
    metavar="TIME",
    help="End it after so long, with --restart each run of it: 30, 500ms, 5min, 2h.",
)
@click.option(
    "--stop-signal",
    default="",
    metavar="SIGNAL",
    help="What asks it to end; default SIGTERM.",
    shell_complete=completed_by("complete_signals"),
)
@click.option("--stop-timeout", metavar="TIME", help="How long it may take to end before it is killed.")
@click.option(
    "--cwd", type=click.Path(), metavar="FOLDER", help="Where to run it; default the current folder."
)
@click.option(
    "--adapter", type=ADAPTER, metavar="NAME", help="A new conversation of this agent program; see adapters."
)
@prompted
@click.argument("command", nargs=-1, type=CommandWord(), metavar="[--] COMMAND [WORD]... | PROMPT")
def run(
    app: App,
    session: str | None,
    detach: bool,
    command: tuple[str, ...],
    adapter: str | None,
    prompt: Prompted,
    **wishes: Any,
) -> None:
    """Run a program as an agent of a session.

    It runs in a unit of its own, with a terminal that outlives you and sessiond.

    Without -s it runs in the session of the current folder (or --cwd) or of the nearest folder above; if
    there is none, the current folder (or --cwd) becomes a session. The session is started where it is
    stopped. Outside of the session's workspace the program runs in the workspace.

    It is given your environment, but for what belongs to your terminal or desktop; --env and --env-file
    pass on anything. In a file `#` begins a comment, and values may be quoted.

    You are attached to its terminal, or, with --no-tty, see what it prints while its input is empty, or
    what --input says. Ctrl-C goes to the program; without a terminal a second one within a second leaves it
    running. In a terminal ctrl-\\ does. It also goes on when your terminal closes: `sessionctl attach` brings
    you back.

    With --adapter the program is the adapter's, and what is given is the first prompt: one word, so quote it.
    The program talks to you in a terminal; with --print it answers and ends, and you get its answer as text
    once it has, with --json as an object with agent, agent_session and messages. Where no answer can be read
    you get what the program printed, which `sessionctl output` shows in any case. After
    `--adapter acp PROMPT` comes the program that speaks the Agent Client Protocol.

    `sessionctl stop` sends it SIGTERM, and SIGKILL after --stop-timeout. An interactive shell ignores
    SIGTERM; with --stop-signal HUP it ends at once.

    The exit code is the program's, or 128 and the number of the signal that ended it; 124 where --timeout
    ended it, 126 where the command cannot be executed, 127 where it is not found; 125 where sessionctl
    itself failed. With --detach, or once you left, it is 0. With --json the agent is printed: with --detach
    on stdout, otherwise when it has ended on stderr.
    """
    caller = Caller.here(app)
    prompt.check(adapter, command)
    if prompt.print and wishes["tty"]:
        raise UsageFault("usage", "--print needs no terminal: leave out --tty", hint="sessionctl run --help")
    if adapter is not None and wishes["tty"] is None:
        wishes["tty"] = not prompt.print
    request = spawn_request(caller, () if adapter else command, **wishes)
    given = wishes["cwd"]
    folder = absolute(given) if given else _here(needed=session is None)
    if session is not None and not given and adapter is None:
        agent = _spawned(app, request, session, folder)
    else:
        found = session_for(app, session, folder)
        request.session = found.id
        request.cwd = _folder(folder, found.path, chosen=bool(given))
        if adapter is not None:
            made = launch(app, adapter, request, prompt, command, tell=detach)
            agent = made.agent
        else:
            agent = _spawn(app, request)
    if detach and adapter is None:
        _tell(app, app.agent(agent))
    if detach:
        return
    if prompt.print:
        from sessiond.cli.answering import stay_for_answer

        stay_for_answer(app, made)
        return
    stay(app, agent, terminal=agent.tty and caller.terminal)


def _spawned(app: App, request: Any, session: str, folder: str) -> Any:
    """The agent, started in a session that most often runs: it is asked about where that fails alone."""
    request.session = session
    # Outside of the workspace it is the daemon that chooses the workspace.
    request.cwd = _real(folder)
    try:
        return _spawn(app, request)
    except (Conflict, Unreachable) as error:
        if not _left_undone(error):
            raise
        found = session_now(app, session)
        if _runs(found) and error.code != "session_not_running":
            raise
    request.session = started(app, found).id
    return _spawn(app, request)


def _left_undone(error: SessiondError) -> bool:
    """Whether nothing was done for want of a daemon."""
    return error.code == "session_not_running" or (
        error.code == "daemon_unreachable" and error.fields.get("effect") == "none"
    )


def _spawn(app: App, request: Any) -> Any:
    return app.supervisor.call(app.supervisor.agents.SpawnAgent, request, timeout=_spawning()).agent


def _spawning() -> float:
    from sessiond.client.sync import JOB_TIMEOUT

    return JOB_TIMEOUT


def _tell(app: App, one: dict[str, Any]) -> None:
    if app.json:
        app.print_json(one)
    else:
        app.print(shown_name(one))


# ---- what is asked for ----------------------------------------------------------------------


def spawn_request(
    caller: Caller,
    command: Sequence[str],
    *,
    name: str,
    tty: bool | None,
    restart: str | None,
    resurrect: bool,
    group: str,
    labels: Sequence[str],
    variables: Sequence[str],
    files: Sequence[str],
    properties: Sequence[str],
    source: str | None,
    timeout: str | None,
    stop_signal: str,
    stop_timeout: str | None,
    cwd: str | None,
) -> Any:
    """What is asked of SpawnAgent, but for the session and the folder."""
    from sessiond.cli.jsonout import restart_number
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    chosen = environment.chosen_environment(files, variables, caller.environment)
    terminal = (caller.terminal and source is None) if tty is None else tty
    request = pb.SpawnAgentRequest(
        command=command,
        name=name,
        environment=caller.environment,
        set_environment=chosen,
        tty=terminal,
        columns=caller.columns if terminal else 0,
        rows=caller.rows if terminal else 0,
        term=(chosen.get("TERM") or caller.environment.get("TERM", "")) if terminal else "",
        restart=restart_number(restart or "no"),
        resurrect=resurrect,
        group=group,
        labels=dict(pair(word) for word in labels),
        properties=dict(pair(word) for word in properties),
        stop_signal=stop_signal,
        umask=caller.umask,
    )
    if source is not None:
        request.input = read_input(source)
    if timeout is not None:
        request.timeout.FromNanoseconds(_nanoseconds(timeout))
    if stop_timeout is not None:
        request.stop_timeout.FromNanoseconds(_nanoseconds(stop_timeout))
    return request


def read_input(source: str) -> bytes:
    """What a file, or standard input for `-`, holds: all of it or an error."""
    try:
        if source == "-":
            found = sys.stdin.buffer.read(_INPUT_MAX + 1)
        else:
            with open(source, "rb") as file:
                found = file.read(_INPUT_MAX + 1)
    except OSError as error:
        raise NotFound(
            "input_unreadable",
            f"cannot read {source}: {error.strerror}",
            hint="name a file, or - and pipe something in",
            fields={"path": source},
        ) from error
    if len(found) > _INPUT_MAX:
        raise InvalidArgument(
            "input_too_large",
            f"{source} holds more than the {_INPUT_MAX} bytes that are taken",
            hint="put it in a file that the program opens",
            fields={"allowed": str(_INPUT_MAX)},
        )
    return found


def _nanoseconds(text: str) -> int:
    from sessiond.cli.life import duration

    found = round(duration(text) * 1e9)
    if found <= 0:
        raise InvalidArgument(
            "duration_invalid",
            f"not a time that anything can take: {text!r}",
            hint="leave it out, or give more than 0",
            fields={"duration": text},
        )
    return found


# ---- where ----------------------------------------------------------------------------------


def _here(*, needed: bool) -> str:
    """The current folder; empty where it is gone and is not needed to find the session."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        if not needed:
            return ""
        raise NotFound(
            "path_missing", "the current folder is gone", hint="name a session with -s, or change folder"
        ) from None


def _folder(folder: str, workspace: str, *, chosen: bool) -> str:
    """The folder to run in, empty for the workspace; one that was chosen must exist inside of it."""
    if not folder:
        return ""
    real, inside = os.path.realpath(folder), os.path.realpath(workspace)
    within = real == inside or real.startswith(inside.rstrip("/") + "/")
    if chosen and not os.path.isdir(real):
        raise NotFound(
            "path_missing", f"there is no folder {folder}", hint="--cwd FOLDER", fields={"path": folder}
        )
    if chosen and not within:
        raise InvalidArgument(
            "cwd_outside",
            f"{folder} lies outside of the session's workspace {workspace}",
            hint="choose a folder in it, or another session with -s",
            fields={"path": folder, "workspace": workspace},
        )
    check_words([real])
    return real if within else ""


def _real(folder: str) -> str:
    """The folder without symbolic links; empty stays so."""
    if not folder:
        return ""
    real = os.path.realpath(folder)
    check_words([real])
    return real


def session_for(app: App, word: str | None, folder: str) -> Any:
    """The session to run in, started."""
    if word is None:
        check_words([folder])
        found = session_of(app, folder)
    else:
        found = session_now(app, word)
    return found if _runs(found) else started(app, found)


def session_now(app: App, word: str) -> Any:
    """A session as it is; answered from memory, unlike a start of one that runs."""
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    return app.supervisor.call(app.supervisor.sessions.GetSession, pb.GetSessionRequest(session=word)).session


def started(app: App, session: Any) -> Any:
    """The same session, once its daemon serves."""
    from sessiond.client.sync import JOB_TIMEOUT
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    request = pb.StartSessionRequest(session=session.id)
    return app.supervisor.call(app.supervisor.sessions.StartSession, request, timeout=JOB_TIMEOUT).session


def _runs(session: Any) -> bool:
    from sessiond.rpc._generated.v1 import types_pb2

    return bool(session.state == types_pb2.SESSION_STATE_ACTIVE)


def session_of(app: App, folder: str) -> Any:
    """The session of a folder or the nearest above; makes the folder one where there is none."""
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    folders = [folder]
    while (parent := os.path.dirname(folders[-1])) != folders[-1]:
        folders.append(parent)
    stub = app.supervisor.sessions
    answers = app.supervisor.call_all(stub.GetSession, [pb.GetSessionRequest(session=one) for one in folders])
    for one, answer in zip(folders, answers, strict=True):
        if not isinstance(answer, SessiondError):
            return answer.session
        if answer.code != "session_not_found":
            raise answer
        # An identity that nobody looked at yet: the folder was moved here, or lies where none are looked for.
        if os.path.lexists(os.path.join(one, ".sessiond", "session.json")):
            return _made(app, stub.AdoptSession, pb.AdoptSessionRequest(path=one), "Took in")
    try:
        return _made(app, stub.CreateSession, pb.CreateSessionRequest(path=folder), "Made")
    except SessiondError as error:
        # Somebody was quicker: two of these in a new folder, say.
        if error.code == "session_exists" and error.fields.get("session"):
            return session_now(app, error.fields["session"])
        raise


def _made(app: App, method: Any, request: Any, verb_: str) -> Any:
    session = app.supervisor.call(method, request).session
    app.note(f"{verb_} session {render.plain(session.name)} of {render.plain(session.path)}")
    return session


# ---- staying --------------------------------------------------------------------------------


def stay(app: App, agent: Any, *, terminal: bool) -> None:
    """Stay with an agent until it ends or is left, and take its exit code."""
    from sessiond.cli.attach import SCROLLBACK
    from sessiond.cli.terminal import attach, stream_plain

    def follow() -> Any:
        if terminal:
            # All that it printed before we were there, as if we had been.
            return attach(app, agent.session, agent.id, ended_too=True, scrollback=SCROLLBACK)
        return stream_plain(app, agent.session, agent.id)

    one = stay_until_end(app, agent, follow)
    if one is None:
        return
    if app.json:
        app.print_json(one, indent=None, file=sys.stderr)
    elif one["reason"] and not terminal:
        app.note(f"{shown_name(one)}: {render.plain(one['reason'])}")
