"""How conversations of agent programs are named on a command line, and told: as objects and in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sessiond.cli import render
from sessiond.cli.show import Words
from sessiond.cli.verb import is_path
from sessiond.errors import InvalidArgument

if TYPE_CHECKING:
    from sessiond.cli.app import App

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = ("unknown", "running", "idle", "waiting", "stopped")
LIVE = ("running", "idle", "waiting")
STATUS = Words("status", STATUSES, of="agent session", plural="statuses")
COLOURS = {
    "running": render.GREEN,
    "idle": render.BLUE,
    "waiting": render.YELLOW,
    "unknown": render.YELLOW,
    "stopped": render.DIM,
}
# What tells most apart, and is short enough to type.
SHORT_ID = 8


class ConversationTarget(click.ParamType[str]):
    """A conversation: its id or the beginning of it, `ADAPTER:ID`, or `SESSION/AGENT`."""

    name = "agent session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word to send."""
        word = str(value)
        if not word or is_path(word):
            raise InvalidArgument(
                "agent_session_invalid",
                f"no agent session is named by {word!r}",
                hint="sessionctl discovered -a shows their ids",
                fields={"agent_session": word},
            )
        return word

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Ids of those that are known."""
        from sessiond.cli.completion import complete_conversations

        return complete_conversations(ctx, incomplete)


class AdapterName(click.ParamType[str]):
    """The name of an adapter; the supervisor knows which there are."""

    name = "adapter"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Those that the supervisor has."""
        from sessiond.cli.completion import complete_adapters

        return complete_adapters(ctx, incomplete)


CONVERSATION = ConversationTarget()
ADAPTER = AdapterName()


def conversation() -> Callable[[F], F]:
    """The argument that names one conversation."""
    return click.argument("target", type=CONVERSATION, metavar="ID")


# ---- objects --------------------------------------------------------------------------------


def conversation_object(app: App, message: Any) -> dict[str, Any]:
    """One conversation as --json shows it: always the same keys, null where one does not apply."""
    from sessiond.cli.jsonout import time_text

    def told(field: str) -> Any:
        return getattr(message, field) if message.HasField(field) else None

    return {
        "id": message.id,
        "adapter": message.adapter,
        "status": status_word(message.status),
        "reason": message.reason or None,
        "activity": message.activity or None,
        "cwd": message.cwd or None,
        "model": message.model or None,
        "title": message.title or None,
        "first_prompt": message.first_prompt or None,
        "last_prompt": message.last_prompt or None,
        "started_at": time_text(message, "started_at"),
        "updated_at": time_text(message, "updated_at"),
        "ended_at": time_text(message, "ended_at"),
        "pid": app.host.pid(message.pid) if message.HasField("pid") else None,
        "tokens_in": told("tokens_in"),
        "tokens_out": told("tokens_out"),
        "cost_usd": told("cost_usd"),
        "parent": message.parent or None,
        "native": dict(sorted(message.native.items())),
        "session": message.session or None,
        "session_name": message.session_name or None,
        "agent": message.agent or None,
        "agent_name": message.agent_name or None,
        "labels": dict(sorted(message.labels.items())),
        "annotations": dict(sorted(message.annotations.items())),
        "group": message.group or None,
        "launched_at": time_text(message, "launched_at"),
        "age_ms": message.age_ms,
        "stale": message.stale,
    }


def problem_object(message: Any) -> dict[str, Any]:
    """Trouble of an adapter or of a file of it."""
    from sessiond.cli.jsonout import time_text

    return {
        "adapter": message.adapter,
        "path": message.path or None,
        "code": message.code,
        "reason": message.reason,
        "since": time_text(message, "since"),
    }


def status_word(number: int) -> str:
    """A status of the wire; one that this release does not know is shown by number."""
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    known = pb.AgentSessionStatus
    if number not in known.values():
        return str(number)
    return known.Name(number).removeprefix("AGENT_SESSION_STATUS_").lower()


def status_number(word: str) -> Any:
    """The number on the wire of a status."""
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    return pb.AgentSessionStatus.Value(f"AGENT_SESSION_STATUS_{word.upper()}")


# ---- people ---------------------------------------------------------------------------------


def shown_id(one: dict[str, Any]) -> str:
    """As much of an id as people type; what has none yet is named by its agent."""
    if one["id"].startswith("agent:"):
        return shown_agent(one) or str(one["id"])
    return str(one["id"])


def shown_agent(one: dict[str, Any]) -> str:
    """`SESSION/AGENT` of one that runs, or last ran, in a session; else empty."""
    if not one["agent"]:
        return ""
    return f"{one['session_name'] or one['session']}/{one['agent_name'] or one['agent']}"


def shown_status(one: dict[str, Any]) -> str:
    """Status and, beside it, what it does."""
    return str(one["status"]) + (f" ({one['activity']})" if one["activity"] else "")


def conversation_line(one: dict[str, Any]) -> str:
    """One line on a conversation."""
    status = render.paint(one["status"], COLOURS.get(one["status"], ""), on=render.colours())
    besides = [word for word in (one["activity"], one["reason"]) if word]
    if one["pid"] is not None:
        besides.append(f"pid {one['pid']}")
    text = f"{one['adapter']} {shown_id(one)}: "
    return render.plain(text) + status + (f" ({render.plain(', '.join(besides))})" if besides else "")
