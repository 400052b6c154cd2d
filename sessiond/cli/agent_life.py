"""`pause`, `resume`, `signal` and `rm`: what is done to agents alone."""

from __future__ import annotations

import click

from sessiond.cli.agents import ENDED, STATES, agents, shown_name
from sessiond.cli.app import App
from sessiond.cli.choice import Choice, Deed, carry_out, choosing
from sessiond.cli.verb import completed_by, verb


@verb(
    "pause",
    examples="""
sessionctl pause shop/claude
sessionctl pause claude
sessionctl pause --group workers
sessionctl pause --session shop --all --json
""",
)
@agents(required=False, metavar="[AGENT]...")
@choosing()
def pause(app: App, targets: tuple[str, ...], choice: Choice) -> None:
    """Freeze agents with all their processes; `resume` has them go on.

    AGENT is SESSION/NAME, or a name alone that only one agent has.
    """
    carry_out(app, targets, choice, Deed("Pause"))


@verb(
    "resume",
    examples="""
sessionctl resume shop/claude
sessionctl resume --all
sessionctl resume --state paused --label team=web
""",
)
@agents(required=False, metavar="[AGENT]...")
@choosing()
def resume(app: App, targets: tuple[str, ...], choice: Choice) -> None:
    """Have agents go on that were paused.

    AGENT is SESSION/NAME, or a name alone that only one agent has.
    """
    carry_out(app, targets, choice, Deed("Resume"))


@verb(
    "signal",
    examples="""
sessionctl signal -s HUP shop/server
sessionctl signal -s USR1 server --tree
sessionctl signal -s INT --group workers
""",
)
@agents(required=False, metavar="[AGENT]...")
@click.option(
    "-s",
    "--signal",
    required=True,
    metavar="SIGNAL",
    help="Name or number.",
    shell_complete=completed_by("complete_signals"),
)
@click.option("--tree", is_flag=True, help="To all of its processes, not the main one alone.")
@choosing()
def signal(app: App, targets: tuple[str, ...], signal: str, tree: bool, choice: Choice) -> None:
    """Send a signal to the main process of agents.

    AGENT is SESSION/NAME, or a name alone that only one agent has.
    """
    carry_out(app, targets, choice, signal_deed(signal, tree=tree))


def signal_deed(signal: str, *, tree: bool = False) -> Deed:
    """Sending a signal, to the main process or to all."""
    from sessiond.model.signals import parse_signal

    parse_signal(signal)  # wrong for one, wrong for all: nothing is sent
    sent = signal.upper()
    return Deed(
        "Signal",
        line=lambda one: f"{shown_name(one)}: {sent} sent",
        fields={"signal": signal, "all": tree},
        batch=None if tree else {"signal": signal},
    )


@verb(
    "rm",
    examples="""
sessionctl rm shop/claude
sessionctl rm shop/build --force
sessionctl rm --session shop --all
sessionctl rm --state completed --label nightly
""",
)
@agents(required=False, metavar="[AGENT]...")
@click.option("-f", "--force", is_flag=True, help="Kill those that run first.")
@choosing()
def rm(app: App, targets: tuple[str, ...], force: bool, choice: Choice) -> None:
    """Remove agents that have ended, with the record of their output.

    Options choose among those that have ended, and with --force among all.

    AGENT is SESSION/NAME, or a name alone that only one agent has.
    """
    from sessiond.client.sync import JOB_TIMEOUT

    deed = Deed(
        "Remove",
        line=lambda one: f"{shown_name(one)}: removed",
        fields={"force": force},
        batch=None if force else {},
        states=STATES if force else ENDED,
        timeout=JOB_TIMEOUT,
    )
    carry_out(app, targets, choice, deed)
