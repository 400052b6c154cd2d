"""`nest up`, `down`, `status` and `exec`: a private systemd where PID 1 is another program."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from sessiond.cli import exits, installation, render
from sessiond.cli.app import App
from sessiond.cli.host import Host, need_no_manager
from sessiond.cli.verb import SETTINGS, Verb, common_options, verb
from sessiond.errors import NotFound, SessiondError, Unreachable

if TYPE_CHECKING:
    from sessiond.nest import Nest


class NestGroup(click.Group):
    """The verbs below `nest`, taking the global options like every verb."""


@click.group(
    "nest",
    cls=NestGroup,
    params=common_options(),
    context_settings=SETTINGS,
    short_help="A private systemd where PID 1 is another program.",
)
def nest() -> None:
    """A private systemd where PID 1 is another program, as in containers and CI.

    It boots systemd with journal, D-Bus, logind and your user manager, in namespaces of its own over
    the same files. While it is up, all verbs find it. Where a user manager runs, it is not used.
    """


def _below(name: str, **attrs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    def decorate(function: Callable[..., Any]) -> click.Command:
        command: click.Command = verb(name, **attrs)(function)
        nest.add_command(command)
        return command

    return decorate


@_below(
    "up",
    examples="""
sessionctl nest up
sessionctl nest up --bare
""",
)
@click.option("--bare", is_flag=True, help="Only boot: no supervisor.")
def up(app: App, bare: bool) -> None:
    """Boot the nest, and the supervisor in it.

    One that is up is fine.
    """
    from sessiond import nest as library

    need_no_manager()
    before = library.status()
    living = library.up()
    info = None if bare else bring_supervisor_up(living)
    if app.json:
        app.print_json(_described(living, info))
        return
    app.print(f"nest {'was' if before else 'is'} up (pid {living.pid})")
    if info is not None:
        host = host_of(living)
        app.print(f"supervisor serves at {render.plain(host.socket)} (pid {host.pid(info.pid)})")


def host_of(living: Nest) -> Host:
    """The host whose commands go through this nest."""
    return Host(os.path.join(living.record.runtime_dir, "sessiond.sock"), nest=living, manager=False)


def bring_supervisor_up(living: Nest) -> Any:
    """Have the supervisor serve in a nest, installing its units there if none are; what it says of itself.

    Units that are not in the home already are written where only the nest sees them.
    """
    host = host_of(living)
    try:
        return installation.start_unit(host)
    except Unreachable as error:
        if error.code != "not_installed":
            raise
    installation.sessionctl(host, "install", "--runtime")
    return installation.wait_serving(host_of(living))


@_below(
    "down",
    examples="""
sessionctl nest down
""",
)
def down(app: App) -> None:
    """End the nest with all that runs in it.

    Leaves no process, mount or cgroup behind.
    """
    from sessiond import nest as library

    existed = library.down()
    if app.json:
        app.print_json({"state": "down", "existed": existed})
    else:
        app.print("nest is down" if existed else "there was no nest")


@_below(
    "status",
    examples="""
sessionctl nest status
sessionctl nest status --json | jq -r .socket
""",
)
def status(app: App) -> None:
    """Show whether a nest lives.

    And the supervisor in it. Exits with 3 when none does.
    """
    from sessiond import nest as library

    living = library.status()
    if living is None:
        state = "dead" if library.record_folder(os.getuid()).load() else "down"
        app.exit_code = exits.exit_code(NotFound("nest_missing", "", hint="sessionctl nest up"))
        if app.json:
            app.print_json(_described(None, None, state=state))
        else:
            died = "nest died; `sessionctl nest up` clears what is left and boots a new one"
            app.print(died if state == "dead" else "nest is down")
        return
    host = host_of(living)
    try:
        info = installation.wait_serving(host, 0.0)
    except SessiondError:
        info = None
    if app.json:
        app.print_json(_described(living, info))
        return
    on = render.colours()
    rows = [
        ("Nest", render.paint("up", render.GREEN, on=on)),
        ("Pid", str(living.pid)),
        ("User", living.record.user),
        ("Cgroup", living.record.cgroup),
        ("Supervisor", f"{host.socket} (pid {host.pid(info.pid)})" if info else "not running"),
    ]
    for line in render.page(rows):
        app.print(line)


def _described(living: Nest | None, info: Any, *, state: str = "up") -> dict[str, Any]:
    """A nest as an object; all keys always."""
    host = host_of(living) if living else None
    return {
        "state": state,
        "pid": living.pid if living else None,
        "user": living.record.user if living else None,
        "cgroup": living.record.cgroup if living else None,
        "socket": host.socket if host else None,
        "supervisor": (
            {"pid": host.pid(info.pid), "version": info.version} if host and info is not None else None
        ),
    }


@_below(
    "exec",
    cls=Verb,
    raw=True,
    context_settings={"allow_interspersed_args": False},
    examples="""
sessionctl nest exec -- systemctl --user list-units 'sessiond*'
sessionctl nest exec -- bash
sessionctl nest exec --root -- journalctl -b
""",
)
@click.option("--root", is_flag=True, help="As root of the nest rather than its user.")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def exec_(app: App, root: bool, words: tuple[str, ...]) -> None:
    """Run a command in the nest.

    As its user, in this folder; exits as the command does.
    """
    from sessiond import nest as library

    living = library.status()
    if living is None:
        raise NotFound("nest_missing", "no nest is up", hint="sessionctl nest up")
    argv = library.exec_argv(living, list(words), root=root)
    app.close()
    app.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - the nest's own command line, words as they were given
