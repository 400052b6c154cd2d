"""How conversations of agent programs are named on a command line, and told: as objects and in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
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
# So much of an id is shown where there is little room. Ids that begin with their time need more than others.
_SHORT = 13


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

    pid = app.host.pid(message.pid) if message.HasField("pid") else None
    reason = message.reason
    if pid not in (None, message.pid) and re.search(rf"\bprocess {message.pid}\b", reason):
        # It is the supervisor's word, and that lives in a nest.
        reason += f" (process {message.pid} of the nest is {pid} here)"
    return {
        "id": message.id,
        "adapter": message.adapter,
        "status": status_word(message.status),
        "reason": reason or None,
        "activity": message.activity or None,
        "cwd": message.cwd or None,
        "model": message.model or None,
        "title": message.title or None,
        "first_prompt": message.first_prompt or None,
        "last_prompt": message.last_prompt or None,
        "started_at": time_text(message, "started_at"),
        "updated_at": time_text(message, "updated_at"),
        "ended_at": time_text(message, "ended_at"),
        "pid": pid,
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


def message_object(message: Any) -> dict[str, Any]:
    """One message of a conversation."""
    from sessiond.cli.jsonout import time_text

    return {
        "role": message.role,
        "text": message.text,
        "thinking": message.thinking or None,
        "tools": [
            {
                "id": tool.id or None,
                "name": tool.name or None,
                "content": tool.content,
                "result": tool.result,
                "failed": tool.failed,
            }
            for tool in message.tools
        ],
        "time": time_text(message, "time"),
        "model": message.model or None,
        "tokens_in": message.tokens_in if message.HasField("tokens_in") else None,
        "tokens_out": message.tokens_out if message.HasField("tokens_out") else None,
        "cut": message.cut,
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
    """What people type for one: its id, or where it has none yet, its agent."""
    if one["id"].startswith("agent:"):
        return shown_agent(one) or str(one["id"])
    return str(one["id"])


def short_ids(found: list[dict[str, Any]]) -> list[str]:
    """The same, as short as tells those apart that are listed."""
    ids = sorted({str(one["id"]) for one in found})
    # What has most in common with an id stands beside it.
    shared = dict.fromkeys(ids, 0)
    for before, after in pairwise(ids):
        length = next(
            (i for i, (one, other) in enumerate(zip(before, after, strict=False)) if one != other),
            len(before),
        )
        shared[before] = max(shared[before], length)
        shared[after] = max(shared[after], length)
    words = []
    for one in found:
        word = shown_id(one)
        words.append(word[: max(_SHORT, shared[word] + 1)] if word in shared else word)
    return words


def shown_agent(one: dict[str, Any]) -> str:
    """`SESSION/AGENT` of one that runs, or last ran, in a session; else empty."""
    if not one["agent"]:
        return ""
    return f"{one['session_name'] or one['session']}/{one['agent_name'] or one['agent']}"


def shown_status(one: dict[str, Any]) -> str:
    """Status and, beside it, what it does."""
    return str(one["status"]) + (f" ({activity})" if (activity := _besides(one)) else "")


def _besides(one: dict[str, Any]) -> str:
    """What it does, where that is not what the status says."""
    return str(one["activity"] or "") if one["activity"] != one["status"] else ""


def readable(text: str) -> str:
    """A text of many lines as it can be shown on a terminal: nothing in it moves the cursor."""
    return "\t".join(render.plain(part, keep_newlines=True) for part in text.split("\t"))


def conversation_line(one: dict[str, Any]) -> str:
    """One line on a conversation."""
    status = render.paint(one["status"], COLOURS.get(one["status"], ""), on=render.colours())
    besides = [word for word in (_besides(one), one["reason"]) if word]
    if one["stale"]:
        besides.append("an old answer")
    if one["pid"] is not None:
        besides.append(f"pid {one['pid']}")
    text = f"{one['adapter']} {shown_id(one)}: "
    return render.plain(text) + status + (f" ({render.plain(', '.join(besides))})" if besides else "")
