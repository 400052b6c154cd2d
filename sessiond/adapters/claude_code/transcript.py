"""The end of a conversation, read from the end of its file."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

import msgspec

from sessiond.adapters.claude_code.lines import Line, decode, is_put_in, loose, text_of
from sessiond.adapters.reading.ends import LINES_MAX, read_back, read_ends, unreadable
from sessiond.adapters.reading.texts import TOOL_MAX, as_count, cut, from_iso, shorten
from sessiond.errors import NotFound
from sessiond.model.agent_session import Message, ToolUse, Transcript

# How much of a file's end is looked at: first so much, then four times as much, up to the most.
_FIRST: Final = 256 * 1024
_MOST: Final = 16 * 1024 * 1024
_TAIL_MAX: Final = 1000
# Calls of tools that are told of one message.
_TOOLS_MAX: Final = 200


def read_end(adapter: str, path: str, tail: int) -> Transcript:
    """The last ``tail`` messages. Raises NotFound `transcript_missing`."""
    wanted = max(1, min(tail, _TAIL_MAX))
    try:
        size = read_ends(path, head=0, tail=0).size
        length = min(size, _FIRST)
        while True:
            data = read_back(path, size, length)
            messages = _messages(data, whole=length >= size)
            if len(messages) > wanted or length >= min(size, _MOST):
                break
            length = min(size, length * 4, _MOST)
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        return Transcript((), problems=(unreadable(adapter, path, error),))
    has_more = len(messages) > wanted or length < size or data.count(b"\n") > LINES_MAX
    return Transcript(tuple(messages[-wanted:]), has_more)


def missing(path: str) -> NotFound:
    """What is raised for a conversation of which nothing was written."""
    return NotFound(
        "transcript_missing",
        "nothing of this conversation is on disk",
        hint="Claude Code writes it from the first prompt on",
        fields={"path": path},
    )


def _messages(data: bytes, *, whole: bool) -> list[Message]:
    lines = data.split(b"\n")
    if not whole:
        # Cut at its beginning.
        del lines[0]
    del lines[:-LINES_MAX]
    messages: list[Message] = []
    before = ""
    for raw in lines:
        if b'"message"' not in raw and b'"system"' not in raw:
            continue
        line = decode(raw)
        if line is None or line.isMeta:
            continue
        message = _message(line)
        if message is None:
            continue
        same = line.message.id if line.message is not None and line.type == "assistant" else None
        if same and same == before and messages:
            # One answer is written block by block.
            messages[-1] = (
                replace(messages[-1], cut=True)
                if len(messages[-1].tools) >= _TOOLS_MAX
                else _joined(messages[-1], message)
            )
        else:
            messages.append(message)
        before = same or ""
    return messages


def _message(line: Line) -> Message | None:
    time = from_iso(line.timestamp)
    if line.type == "system":
        text, shortened = cut(text_of(loose(line.content)))
        if not text.strip() or text.startswith("<local-command"):
            return None
        return Message("system", text, time=time, cut=shortened)
    if line.message is None or line.type not in ("user", "assistant"):
        return None
    content = loose(line.message.content)
    blocks = content if isinstance(content, list) else []
    text, shortened = cut(text_of(content))
    thinking, thought_cut = cut(_thinking(blocks))
    tools, tools_cut = _tools(blocks)
    if not text.strip() and not thinking and not tools:
        return None
    any_cut = shortened or thought_cut or tools_cut
    if line.type == "assistant":
        sent, received = _usage(line.message.usage)
        model = shorten(line.message.model or "")
        return Message("assistant", text, thinking, tools, time, model, sent, received, any_cut)
    if line.isCompactSummary or is_put_in(text):
        return Message("system", text, time=time, cut=any_cut)
    role = "tool" if tools and all(tool.result for tool in tools) else "user"
    return Message(role, text, thinking, tools, time, cut=any_cut)


def _joined(one: Message, other: Message) -> Message:
    text, text_cut = cut("\n".join(part for part in (one.text, other.text) if part))
    thinking, thinking_cut = cut("\n".join(part for part in (one.thinking, other.thinking) if part))
    # Each block carries the count of the whole answer as far as it was then.
    received = max((count for count in (one.tokens_out, other.tokens_out) if count is not None), default=None)
    return Message(
        one.role,
        text,
        thinking,
        one.tools + other.tools,
        one.time or other.time,
        one.model or other.model,
        one.tokens_in if one.tokens_in is not None else other.tokens_in,
        received,
        one.cut or other.cut or text_cut or thinking_cut,
    )


def _thinking(blocks: list[Any]) -> str:
    return "\n".join(
        block["thinking"]
        for block in blocks
        if isinstance(block, dict)
        and block.get("type") == "thinking"
        and isinstance(block.get("thinking"), str)
    )


def _tools(blocks: list[Any]) -> tuple[tuple[ToolUse, ...], bool]:
    tools: list[ToolUse] = []
    any_cut = False
    for block in blocks:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_use":
            content, shortened = cut(_as_json(block.get("input")), TOOL_MAX)
            tools.append(ToolUse(_word(block.get("id")), _word(block.get("name")), content))
        elif block.get("type") == "tool_result":
            content, shortened = cut(text_of(block.get("content")), TOOL_MAX)
            failed = block.get("is_error") is True
            tools.append(ToolUse(_word(block.get("tool_use_id")), "", content, result=True, failed=failed))
        else:
            continue
        any_cut = any_cut or shortened
        if len(tools) >= _TOOLS_MAX:
            return tuple(tools), True
    return tuple(tools), any_cut


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _word(value: Any) -> str:
    return shorten(value) if isinstance(value, str) else ""


def _usage(raw: msgspec.Raw) -> tuple[int | None, int | None]:
    usage = loose(raw)
    if not isinstance(usage, dict):
        return None, None
    sent = [
        as_count(usage.get(name))
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    ]
    total = None if sent[0] is None else as_count(sum(count or 0 for count in sent))
    return total, as_count(usage.get("output_tokens"))
