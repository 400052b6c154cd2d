"""What OpenCode writes of a conversation, whichever store it is in: sessions, messages and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.adapters.reading import texts
from sessiond.adapters.reading.objects import Json, encoded, inner
from sessiond.model.agent_session import Found, Message, ToolUse, Turn

ADAPTER: Final = "opencode"
_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
_FORK: Final = re.compile(r"(?s)(.*) \(fork #([0-9]{1,6})\)")
_RUNNING: Final = ("running", "pending")
# An assistant message that ends so is followed by another.
_GOES_ON: Final = ("tool-calls", "unknown")


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation, and what is needed to find whom it was forked from: the time of its first message,
    which a fork takes over, beside the time of its own beginning."""

    found: Found
    title: str
    created: int
    updated: int
    first_message: int


def is_id(value: object) -> bool:
    """Whether it can be an id of the program's: it becomes part of paths and command lines."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def model_of(*told: Json) -> str:
    """PROVIDER/MODEL from the first of these that tells both."""
    for one in told:
        for each in (one, inner(one, "model")):
            provider = texts.as_text(each.get("providerID"))
            model = texts.as_text(each.get("modelID")) or texts.as_text(each.get("id"))
            if provider and model and not model.startswith("msg_"):
                return texts.shorten(f"{provider}/{model}")
    return ""


def prompt_of(part: Json) -> str:
    """The prompt that a part of a user's message is; empty for what the program put in."""
    if part.get("type") != "text" or part.get("synthetic") or part.get("ignored"):
        return ""
    return texts.shorten(texts.as_text(part.get("text")))


def turn_of(last: Json, parts: Iterable[Json]) -> tuple[Turn, str]:
    """Where a conversation stands, and what it does, by its last message and that one's parts, the newest
    first."""
    role = last.get("role")
    if not last:
        return Turn.DONE, ""
    if role == "user":
        return Turn.WORKING, "thinking"
    if role != "assistant":
        return Turn.UNKNOWN, ""
    if last.get("error"):
        return Turn.DONE, ""
    if inner(last, "time").get("completed") and last.get("finish") not in _GOES_ON:
        return Turn.DONE, ""
    for part in parts:
        if part.get("type") == "tool" and inner(part, "state").get("status") in _RUNNING:
            tool = texts.shorten(texts.as_text(part.get("tool")), 80)
            if tool == "question":
                return Turn.WAITING, "waiting for an answer"
            return Turn.WORKING, f"using {tool}" if tool else "using a tool"
    return Turn.WORKING, "thinking"


def origin_of(row: Row, same: Iterable[Row]) -> str:
    """Id of the conversation that one was forked from, or empty: it took over the messages, their times too,
    and counts forks in its title."""
    if row.first_message >= row.created:
        return ""
    older = [each for each in same if each.created < row.created and each.found.id != row.found.id]
    if len(older) > 1:
        fork = _FORK.fullmatch(row.title)
        if fork is None:
            return ""
        number = int(fork[2])
        title = fork[1] if number <= 1 else f"{fork[1]} (fork #{number - 1})"
        older = [each for each in older if each.title == title]
    return older[0].found.id if len(older) == 1 else ""


def message_of(data: Json, parts: Sequence[Json]) -> Message | None:
    """One message of a transcript; None for what is none."""
    role = data.get("role")
    if role not in ("user", "assistant"):
        return None
    said: list[str] = []
    thought: list[str] = []
    tools: list[ToolUse] = []
    was_cut = False
    for part in parts:
        kind = part.get("type")
        if kind == "text" and not part.get("ignored"):
            said.append(texts.as_text(part.get("text")))
        elif kind == "reasoning":
            thought.append(texts.as_text(part.get("text")))
        elif kind == "tool":
            uses, cut = _tool(part)
            tools.extend(uses)
            was_cut |= cut
    error = inner(data, "error")
    if error:
        reason = texts.as_text(inner(error, "data").get("message")) or texts.as_text(error.get("name"))
        said.append(f"[{reason or 'failed'}]")
    text, cut_text = texts.cut("\n".join(one for one in said if one))
    thinking, cut_thinking = texts.cut("\n".join(one for one in thought if one))
    tokens = inner(data, "tokens")
    return Message(
        role=role,
        text=text,
        thinking=thinking,
        tools=tuple(tools),
        time=texts.from_milliseconds(inner(data, "time").get("created")),
        model=model_of(data),
        tokens_in=sent(tokens.get("input"), *_cached(tokens)) if tokens else None,
        tokens_out=sent(tokens.get("output"), tokens.get("reasoning")) if tokens else None,
        cut=was_cut or cut_text or cut_thinking,
    )


def sent(first: object, *more: object) -> int | None:
    """A sum of counts of tokens; None where the first is none."""
    count = texts.as_count(first)
    if count is None:
        return None
    return texts.as_count(count + sum(texts.as_count(each) or 0 for each in more))


def _cached(tokens: Json) -> tuple[object, object]:
    cache = inner(tokens, "cache")
    return cache.get("read"), cache.get("write")


def _tool(part: Json) -> tuple[list[ToolUse], bool]:
    """The call, and its result once there is one: OpenCode keeps both in one part."""
    state = inner(part, "state")
    call = texts.cut(texts.as_text(part.get("callID")), texts.SHORT)[0]
    name = texts.shorten(texts.as_text(part.get("tool")))
    given, was_cut = texts.cut(encoded(state.get("input")), texts.TOOL_MAX)
    uses = [ToolUse(id=call, name=name, content=given)]
    status = state.get("status")
    if status in ("completed", "error"):
        failed = status == "error"
        got, cut = texts.cut(texts.as_text(state.get("error" if failed else "output")), texts.TOOL_MAX)
        uses.append(ToolUse(id=call, content=got, result=True, failed=failed))
        was_cut |= cut
    return uses, was_cut
