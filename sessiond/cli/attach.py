"""`attach`: an agent's terminal on this one."""

from __future__ import annotations

import click

from sessiond.cli.agents import agent, agent_target
from sessiond.cli.app import App
from sessiond.cli.verb import verb

# The most lines that can be asked for; a setting of the daemon bounds what there is.
SCROLLBACK = 100_000
POLICIES = ("last-active", "smallest", "fixed")


@verb(
    "attach",
    examples="""
sessionctl attach shop/claude
sessionctl attach claude --read-only
sessionctl attach claude --scrollback 2000
sessionctl attach claude --detach-key ctrl-]
sessionctl attach claude --size-policy smallest
""",
)
@agent()
@click.option("--read-only", is_flag=True, help="Only look: nothing is typed, no size is changed.")
@click.option(
    "--scrollback",
    type=click.IntRange(0, SCROLLBACK),
    default=0,
    metavar="N",
    help="Show so many lines first that left the screen.",
)
@click.option(
    "--size-policy",
    type=click.Choice(POLICIES),
    help="From now on, whose size the terminal gets where several look at it.",
)
@click.option(
    "--detach-key", metavar="KEY", help=r"Key to leave with: ctrl- and a letter or one of @ [ \ ] ^ _."
)
def attach(
    app: App, target: str, read_only: bool, scrollback: int, size_policy: str | None, detach_key: str | None
) -> None:
    r"""Join the terminal of an agent.

    Its screen is drawn here, and what is typed goes to it. ctrl-\ (or the key set as terminal.detach_key)
    leaves it running; pressed twice at once it goes to the agent. Closing this terminal leaves it running
    too. When the session's daemon restarts, the screen comes back by itself; up to 4 KiB typed meanwhile
    are delivered then, more is refused with a bell. A key typed in the very moment of a crash can be lost.
    """
    from sessiond.cli import terminal

    session, session_name, found = agent_target(app, target)
    outcome = terminal.attach(
        app,
        session,
        found,
        read_only=read_only,
        scrollback=scrollback,
        size_policy=size_policy or "",
        detach_key=detach_key,
    )
    if app.json:
        ended = outcome.agent
        from sessiond.cli.jsonout import agent_object

        if ended is not None:
            ended.session_name = ended.session_name or session_name
        app.print_json(
            {
                "detached": outcome.detached,
                "agent": agent_object(ended, app.host.pid) if ended is not None else None,
            }
        )
    if outcome.signal:
        app.exit_code = 128 + outcome.signal
