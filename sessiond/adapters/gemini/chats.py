"""One conversation's file of Gemini CLI: what its lines tell, and its messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.reading import texts
from sessiond.adapters.reading.objects import BROKEN, decoded, encoded
from sessiond.model.agent_session import Found, Message, ToolUse, Turn

_HIDDEN: Final = ("<session_context>", "This is the Gemini CLI.", "<state_snapshot>")


class Record(msgspec.Struct):
    """One line: the head, a message, a change of the head, or a step back."""

    sessionId: Any = None
    projectHash: Any = None
    startTime: Any = None
    lastUpdated: Any = None
    kind: Any = None
    summary: Any = None
    messages: Any = None
    id: Any = None
    timestamp: Any = None
    type: Any = None
    content: Any = None
    thoughts: Any = None
    tokens: Any = None
    model: Any = None
    toolCalls: Any = None
    set_: Any = msgspec.field(default=None, name="$set")
    rewind: Any = msgspec.field(default=None, name="$rewindTo")


_RECORD: Final = msgspec.json.Decoder(Record)


@dataclass(slots=True)
class Chat:
    """What the ends of a conversation's file tell."""

    path: str
    id: str
    cwd: str
    kind: str = ""
    parent: str = ""
    model: str = ""
    title: str = ""
    first_prompt: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    whole: bool = True
    turns: dict[str, Record] = field(default_factory=dict)
    """Messages by their ids: one that is written again takes the place of the earlier."""
    spent: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tokens by message, also of those that were taken back."""


def record_of(line: bytes) -> Record | None:
    """A line decoded; None where it is none of Gemini CLI's."""
    return decoded(_RECORD, line) if line else None


def take(chat: Chat, record: Record) -> None:
    """What one more line changes."""
    if isinstance(record.rewind, str):
        _rewind(chat, record.rewind)
    elif isinstance(record.set_, dict):
        _take_head(chat, record.set_)
    elif isinstance(record.id, str) and isinstance(record.type, str):
        _add(chat, record)
    elif record.sessionId is not None:
        names = ("startTime", "lastUpdated", "kind", "summary", "messages")
        _take_head(chat, {name: getattr(record, name) for name in names})


def _take_head(chat: Chat, told: dict[Any, Any]) -> None:
    # A head is written anew when one goes on.
    chat.started_at = chat.started_at or texts.from_iso(told.get("startTime"))
    chat.updated_at = texts.from_iso(told.get("lastUpdated")) or chat.updated_at
    chat.kind = texts.shorten(texts.as_text(told.get("kind"))) or chat.kind
    chat.title = texts.shorten(texts.as_text(told.get("summary"))) or chat.title
    if isinstance(told.get("messages"), list):
        chat.turns.clear()
        for each in told["messages"]:
            try:
                record = msgspec.convert(each, Record)
            except BROKEN:
                continue
            if isinstance(record.id, str) and isinstance(record.type, str):
                _add(chat, record)


def _rewind(chat: Chat, to: str) -> None:
    """A message and all after it are taken back; where it is not known, all that is."""
    ids = list(chat.turns)
    for each in ids[ids.index(to) :] if to in chat.turns else ids:
        del chat.turns[each]


def _add(chat: Chat, record: Record) -> None:
    chat.turns[record.id] = record
    chat.updated_at = texts.from_iso(record.timestamp) or chat.updated_at
    if record.type == "user" and not chat.first_prompt:
        chat.first_prompt = _prompt(record)
    if record.type == "gemini":
        chat.model = texts.shorten(texts.as_text(record.model)) or chat.model
        tokens = record.tokens if isinstance(record.tokens, dict) else {}
        tokens_in, tokens_out = texts.as_count(tokens.get("input")), texts.as_count(tokens.get("output"))
        if tokens_in is not None and tokens_out is not None:
            chat.spent[record.id] = tokens_in, tokens_out


def _text(content: object) -> str:
    """The texts of a message's parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    found = (
        texts.as_text(part.get("text")) if isinstance(part, dict) else texts.as_text(part) for part in parts
    )
    return "\n".join(text for text in found if text)


def _hidden(text: str) -> bool:
    """Whether the program said it in the user's place."""
    return text.lstrip().startswith(_HIDDEN)


def _prompt(record: Record) -> str:
    text = _text(record.content)
    return "" if _hidden(text) else texts.shorten(text)


def found_of(chat: Chat) -> Found:
    """The row of a conversation, without its life."""
    prompts = [text for record in chat.turns.values() if record.type == "user" and (text := _prompt(record))]
    native = {"path": chat.path[:4096].encode("utf-8", "replace").decode()}
    if chat.kind:
        native["kind"] = chat.kind
    tokens_in, tokens_out = _tokens(chat) if chat.whole else (None, None)
    turn = _turn(chat)
    return Found(
        "gemini",
        chat.id,
        cwd=chat.cwd,
        model=chat.model,
        title=chat.title,
        first_prompt=chat.first_prompt,
        last_prompt=prompts[-1] if prompts else chat.first_prompt,
        started_at=chat.started_at,
        updated_at=chat.updated_at,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        parent=chat.parent if chat.parent != chat.id else "",
        turn=turn,
        activity="thinking" if turn is Turn.WORKING else "",
        native=native,
        source=chat.path,
    )


def _turn(chat: Chat) -> Turn:
    """After a prompt, and after tools, the model is asked; its word alone ends a turn, as does an error."""
    for record in reversed(chat.turns.values()):
        if record.type == "user":
            if _hidden(_text(record.content)):
                continue
            return Turn.WORKING
        if record.type == "gemini":
            return Turn.WORKING if record.toolCalls else Turn.DONE
        if record.type == "error":
            return Turn.DONE
    return Turn.UNKNOWN


def _tokens(chat: Chat) -> tuple[int | None, int | None]:
    """Sums over all messages that tell."""
    if not chat.spent:
        return None, None
    sums = (sum(each) for each in zip(*chat.spent.values(), strict=True))
    tokens_in, tokens_out = (texts.as_count(each) for each in sums)
    return tokens_in, tokens_out


def messages_of(record: Record) -> Iterator[Message]:
    """One record as messages: its text, the tools it calls, what these said."""
    role = {"user": "user", "gemini": "assistant"}.get(texts.as_text(record.type), "system")
    said = _text(record.content)
    if role == "user" and _hidden(said):
        return
    moment = texts.from_iso(record.timestamp)
    text, shortened = texts.cut(said)
    thinking, also = texts.cut(_thoughts(record.thoughts))
    calls = (
        [call for call in record.toolCalls if isinstance(call, dict)]
        if isinstance(record.toolCalls, list)
        else []
    )
    tokens = record.tokens if isinstance(record.tokens, dict) else {}
    tools = tuple(_call(call) for call in calls)
    if text or thinking or tools:
        yield Message(
            role,
            text,
            thinking,
            tools,
            moment,
            texts.shorten(texts.as_text(record.model)),
            texts.as_count(tokens.get("input")),
            texts.as_count(tokens.get("output")),
            shortened or also,
        )
    results = tuple(_result(call) for call in calls if call.get("result") is not None)
    if results:
        yield Message("tool", tools=results, time=moment)


def _thoughts(thoughts: object) -> str:
    parts = [each for each in thoughts if isinstance(each, dict)] if isinstance(thoughts, list) else []
    words = (texts.as_text(each.get(name)) for each in parts for name in ("subject", "description"))
    return "\n".join(word for word in words if word)


def _call(call: dict[Any, Any]) -> ToolUse:
    content, _ = texts.cut(encoded(call.get("args")), texts.TOOL_MAX)
    return ToolUse(_short(call.get("id")), _short(call.get("name")), content)


def _result(call: dict[Any, Any]) -> ToolUse:
    shown = call.get("resultDisplay")
    content, _ = texts.cut(shown if isinstance(shown, str) else encoded(call["result"]), texts.TOOL_MAX)
    return ToolUse(_short(call.get("id")), content=content, result=True, failed=call.get("status") == "error")


def _short(value: object) -> str:
    return texts.shorten(texts.as_text(value))
