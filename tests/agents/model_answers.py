"""How an answer is written in each of the four model APIs that agent programs speak."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.agents.model_apis import (
    TOKENS_IN,
    Answer,
    Ask,
    Body,
    ask_anthropic,
    ask_chat,
    ask_gemini,
    ask_responses,
    made_id,
)

# Pieces of a stream; None is where a held one waits.
Stream = Iterator[str | None]


def _event(data: Body, name: str = "") -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data)}\n\n"


def _typed(data: Body) -> str:
    return _event(data, data["type"])


def _anthropic_content(said: Answer) -> list[Body]:
    content: list[Body] = [{"type": "text", "text": said.text}]
    if said.call:
        content.append(
            {
                "type": "tool_use",
                "id": said.call.id,
                "name": said.call.tool.name,
                "input": said.call.arguments,
            }
        )
    return content


def _anthropic_usage(said: Answer) -> Body:
    return {
        "input_tokens": TOKENS_IN,
        "output_tokens": said.tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def whole_anthropic(ask: Ask, said: Answer) -> Body:
    """A message."""
    return {
        "id": made_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": _anthropic_content(said),
        "stop_reason": "tool_use" if said.call else "end_turn",
        "stop_sequence": None,
        "usage": _anthropic_usage(said),
    }


def stream_anthropic(ask: Ask, said: Answer) -> Stream:
    """A message, event by event."""
    empty = {**whole_anthropic(ask, said), "content": [], "stop_reason": None}
    yield _typed({"type": "message_start", "message": empty})
    for index, block in enumerate(_anthropic_content(said)):
        deltas: list[Body]
        if block["type"] == "text":
            started = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in said.pieces]
        else:
            started = block | {"input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield _typed({"type": "content_block_start", "index": index, "content_block": started})
        for delta in deltas:
            yield _typed({"type": "content_block_delta", "index": index, "delta": delta})
            if index == 0:
                yield None
        yield _typed({"type": "content_block_stop", "index": index})
    reason = "tool_use" if said.call else "end_turn"
    yield _typed(
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": _anthropic_usage(said),
        }
    )
    yield _typed({"type": "message_stop"})


def _responses_items(said: Answer) -> list[Body]:
    content = [{"type": "output_text", "text": said.text, "annotations": []}]
    items: list[Body] = [
        {
            "type": "message",
            "id": made_id("msg"),
            "role": "assistant",
            "status": "completed",
            "content": content,
        }
    ]
    if said.call:
        called, arguments = said.call, said.call.arguments
        item: Body = {"id": made_id("fc"), "call_id": called.id, "status": "completed"}
        match called.tool.kind:
            case "custom":
                said_words = str(next(iter(arguments.values()), ""))
                item |= {"type": "custom_tool_call", "name": called.tool.name, "input": said_words}
            case "local_shell":
                command = ["bash", "-c", str(arguments.get("command", ""))]
                item |= {"type": "local_shell_call", "action": {"type": "exec", "command": command}}
            case _:
                item |= {
                    "type": "function_call",
                    "name": called.tool.name,
                    "arguments": json.dumps(arguments),
                }
        items.append(item)
    return items


def whole_responses(ask: Ask, said: Answer) -> Body:
    """A response."""
    return {
        "id": made_id("resp"),
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": ask.model,
        "output": _responses_items(said),
        "usage": {
            "input_tokens": TOKENS_IN,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": said.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": TOKENS_IN + said.tokens,
        },
    }


def stream_responses(ask: Ask, said: Answer) -> Stream:
    """A response, event by event."""
    whole = whole_responses(ask, said)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}
    yield _typed({"type": "response.created", "response": begun})
    for index, item in enumerate(whole["output"]):
        started = {**item, "status": "in_progress"}
        if item["type"] == "message":
            started["content"] = []
        yield _typed({"type": "response.output_item.added", "output_index": index, "item": started})
        if item["type"] == "message":
            place = {"item_id": item["id"], "output_index": index, "content_index": 0}
            part = {"type": "output_text", "text": "", "annotations": []}
            yield _typed({"type": "response.content_part.added", **place, "part": part})
            for piece in said.pieces:
                yield _typed({"type": "response.output_text.delta", **place, "delta": piece})
                yield None
            yield _typed({"type": "response.output_text.done", **place, "text": said.text})
        yield _typed({"type": "response.output_item.done", "output_index": index, "item": item})
    yield _typed({"type": "response.completed", "response": whole})


def _chat_call(said: Answer) -> list[Body]:
    if not said.call:
        return []
    function = {"name": said.call.tool.name, "arguments": json.dumps(said.call.arguments)}
    return [{"index": 0, "id": said.call.id, "type": "function", "function": function}]


def _chat_usage(said: Answer) -> Body:
    total = TOKENS_IN + said.tokens
    return {"prompt_tokens": TOKENS_IN, "completion_tokens": said.tokens, "total_tokens": total}


def whole_chat(ask: Ask, said: Answer) -> Body:
    """A completion."""
    message: Body = {"role": "assistant", "content": said.text}
    if said.call:
        message["tool_calls"] = _chat_call(said)
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if said.call else "stop"}
    return {
        "id": made_id("chatcmpl"),
        "object": "chat.completion",
        "created": 0,
        "model": ask.model,
        "choices": [choice],
        "usage": _chat_usage(said),
    }


def stream_chat(ask: Ask, said: Answer) -> Stream:
    """A completion, chunk by chunk."""
    frame = {"id": made_id("chatcmpl"), "object": "chat.completion.chunk", "created": 0, "model": ask.model}

    def chunk(delta: Body, reason: str | None = None) -> str:
        return _event({**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in said.pieces:
        yield chunk({"content": piece})
        yield None
    if said.call:
        yield chunk({"tool_calls": _chat_call(said)})
    yield chunk({}, "tool_calls" if said.call else "stop")
    yield _event({**frame, "choices": [], "usage": _chat_usage(said)})
    yield "data: [DONE]\n\n"


def _gemini_usage(said: Answer) -> Body:
    total = TOKENS_IN + said.tokens
    return {
        "promptTokenCount": TOKENS_IN,
        "candidatesTokenCount": said.tokens,
        "totalTokenCount": total,
    }


def _gemini_part(ask: Ask, said: Answer, parts: list[Body], *, last: bool) -> Body:
    candidate: Body = {"index": 0, "content": {"role": "model", "parts": parts}}
    if last:
        candidate["finishReason"] = "STOP"
    return {"candidates": [candidate], "modelVersion": ask.model, "usageMetadata": _gemini_usage(said)}


def _gemini_call(said: Answer) -> list[Body]:
    if not said.call:
        return []
    return [{"functionCall": {"name": said.call.tool.name, "args": said.call.arguments}}]


def whole_gemini(ask: Ask, said: Answer) -> Body:
    """A generated content."""
    return _gemini_part(ask, said, [{"text": said.text}, *_gemini_call(said)], last=True)


def stream_gemini(ask: Ask, said: Answer) -> Stream:
    """Generated content, piece by piece."""
    for piece in said.pieces:
        yield _event(_gemini_part(ask, said, [{"text": piece}], last=False))
        yield None
    yield _event(_gemini_part(ask, said, _gemini_call(said) or [{"text": ""}], last=True))


@dataclass(frozen=True)
class Api:
    """One API: how its requests are read, and its answers written."""

    ask: Callable[[Body, str], Ask]
    whole: Callable[[Ask, Answer], Body]
    stream: Callable[[Ask, Answer], Stream]


ANTHROPIC = Api(ask_anthropic, whole_anthropic, stream_anthropic)
RESPONSES = Api(ask_responses, whole_responses, stream_responses)
CHAT = Api(ask_chat, whole_chat, stream_chat)
GEMINI = Api(ask_gemini, whole_gemini, stream_gemini)


def api_of(path: str) -> Api | None:
    """The API that a path belongs to, whatever stands before it."""
    if path.endswith("/messages"):
        return ANTHROPIC
    if path.endswith("/responses"):
        return RESPONSES
    if path.endswith("/chat/completions"):
        return CHAT
    if ":generateContent" in path or ":streamGenerateContent" in path:
        return GEMINI
    return None


def failure(api: str, status: int) -> Body:
    """The body of an error."""
    message = "the prompt asked for a failure"
    if api == "anthropic":
        kind = (
            "overloaded_error" if status == 529 else "invalid_request_error" if status < 500 else "api_error"
        )
        return {"type": "error", "error": {"type": kind, "message": message}}
    if api == "gemini":
        return {"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}
    return {"error": {"message": message, "type": "invalid_request_error", "code": "asked_for"}}
