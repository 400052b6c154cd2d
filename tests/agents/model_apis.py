"""The four model APIs that agent programs speak: what a request asks for, and how an answer is written."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Body = dict[str, Any]

# How each program calls its shell, most telling first.
_SHELL_TOOLS = (
    "exec_command",
    "shell_command",
    "shell",
    "local_shell",
    "run_shell_command",
    "Bash",
    "bash",
    "exec",
)
_AGENT_TOOLS = ("Agent", "Task", "task", "spawn_agent")
# What programs put before a person's words by themselves begins so.
_NOT_A_PROMPT = ("<", "# AGENTS.md", "Caveat:", "This is the Gemini CLI")
# What they put around them: OpenClaw the time before and the machine after; OpenCode quotes, too.
_WRAPPING = re.compile(r"\A\[[A-Z][a-z]{2} [^]]*UTC\] |\n\nRuntime: agent=.*\Z")
_HELD = re.compile(r"\bslow\b(?:\s+(\d+(?:\.\d+)?))?")
_FAIL = re.compile(r"\bfail\b(?:\s+(\d{3}))?")
_LONG = re.compile(r"\blong\b")
_TOOL = re.compile(r"\b(tool|ask):[ \t]*(.+)")
_AGENT = re.compile(r"\bagent:[ \t]*(.+)")
_CALL = re.compile(r"\bcall:[ \t]*(\w+)[ \t]*(\{.*\})?")
_SIDE = re.compile(r"\b(?:titles?|topic|summari[sz]e|summary|suggest)\b", re.IGNORECASE)
LONG_LINES = 400
TITLE = "A title"


@dataclass(frozen=True)
class Tool:
    """A tool that is offered; ``kind`` is the API's own word where it has several."""

    name: str
    schema: Mapping[str, Any]
    kind: str = "function"


@dataclass(frozen=True)
class Ask:
    """What a request asks for, in any API. ``result`` is what a tool said since the prompt, if one did."""

    api: str
    model: str
    prompt: str
    system: str
    result: str | None
    stream: bool
    tools: Mapping[str, Tool] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None

    @property
    def side(self) -> bool:
        """Whether the program asks on its own account: a title, a summary, a topic."""
        if self.schema is not None:
            return True
        return not self.tools and bool(_SIDE.search(self.system) or _SIDE.search(self.prompt[:400]))


@dataclass(frozen=True)
class Call:
    """A call of a tool."""

    tool: Tool
    arguments: Mapping[str, Any]
    id: str


@dataclass(frozen=True)
class Answer:
    """What is answered: text, then at most one call. ``hold``: stop after the first piece, until released
    or for so many seconds; ``status``: an HTTP error in place of all."""

    text: str
    call: Call | None = None
    hold: bool = False
    hold_seconds: float | None = None
    status: int = 0

    @property
    def pieces(self) -> list[str]:
        """The text in pieces of a stream."""
        return [self.text[at : at + 256] for at in range(0, len(self.text), 256)] or [""]

    @property
    def tokens(self) -> int:
        """A count of tokens that is the same each time."""
        return len(self.text.split()) + (10 if self.call else 0)


TOKENS_IN = 120


# ---- what to answer --------------------------------------------------------------------------


def answer(ask: Ask) -> Answer:
    """The prompt's words decide: `slow [SECONDS]`, `fail [STATUS]`, `long`, `tool: COMMAND`, `ask: COMMAND`
    (one that a person must allow, where the model says so), `agent: PROMPT`, `call: TOOL {JSON}`; anything
    else is echoed."""
    if ask.schema is not None:
        return Answer(json.dumps(filled(ask.schema)))
    if ask.side:
        return Answer(TITLE)
    if ask.result is not None:
        return Answer(f"The tool said: {ask.result[:2000]}")
    failing = _FAIL.search(_outside_calls(ask.prompt))
    if failing:
        return Answer("", status=int(failing[1] or 400))
    held = _HELD.search(_outside_calls(ask.prompt))
    seconds = float(held[1]) if held and held[1] else None
    call = _call(ask)
    text = "I call a tool." if call else f"You said: {ask.prompt}"
    if _LONG.search(_outside_calls(ask.prompt)):
        text = "\n".join(f"line {number} of a long answer" for number in range(1, LONG_LINES + 1))
    return Answer(text, call, hold=held is not None, hold_seconds=seconds)


def _outside_calls(prompt: str) -> str:
    """Without the words that are a tool's own."""
    return _CALL.sub("", _AGENT.sub("", _TOOL.sub("", prompt)))


def _call(ask: Ask) -> Call | None:
    called = _CALL.search(ask.prompt)
    if called:
        tool = ask.tools.get(called[1])
        return Call(tool, json.loads(called[2] or "{}"), _id("call")) if tool else None
    shell, agent = _TOOL.search(ask.prompt), _AGENT.search(ask.prompt)
    if shell and (tool := _first(ask.tools, _SHELL_TOOLS)):
        arguments = shell_arguments(tool, shell[2].strip(), asks=shell[1] == "ask")
        return Call(tool, arguments, _id("call"))
    if agent and (tool := _first(ask.tools, _AGENT_TOOLS)):
        return Call(tool, agent_arguments(tool, agent[1].strip()), _id("call"))
    return None


def _first(tools: Mapping[str, Tool], names: Iterable[str]) -> Tool | None:
    return next((tools[name] for name in names if name in tools), None)


def shell_arguments(tool: Tool, command: str, *, asks: bool = False) -> Body:
    """A shell tool's arguments by its schema; ``asks``: outside of its sandbox."""
    properties = tool.schema.get("properties", {})
    name = next((one for one in ("command", "cmd", "script") if one in properties), "command")
    listed = properties.get(name, {}).get("type") == "array"
    arguments = filled(tool.schema)
    arguments[name] = ["bash", "-c", command] if listed else command
    if asks and "sandbox_permissions" in properties:
        arguments |= {"sandbox_permissions": "require_escalated", "justification": "May I?"}
    return arguments


def agent_arguments(tool: Tool, prompt: str) -> Body:
    """A subagent tool's arguments by its schema."""
    arguments = filled(tool.schema)
    properties = tool.schema.get("properties", {})
    for name in ("prompt", "message"):
        if name in properties:
            arguments[name] = prompt
    if "subagent_type" in properties:
        arguments["subagent_type"] = "general" if tool.name == "task" else "general-purpose"
    return arguments


def filled(schema: Mapping[str, Any]) -> Body:
    """An object with all that a schema requires."""
    properties = schema.get("properties", {})
    return {name: _example(properties.get(name, {})) for name in schema.get("required", ())}


def _example(schema: Mapping[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    match str(kind).lower():
        case "object":
            return filled(schema)
        case "array":
            return []
        case "boolean":
            return False
        case "integer" | "number":
            return 1
        case _:
            return TITLE


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


# ---- requests --------------------------------------------------------------------------------

# Who spoke: a person, a tool, or anybody else.
_Turn = tuple[Literal["user", "tool", "other"], str]


def _last(turns: Sequence[_Turn]) -> tuple[str, str | None]:
    """The last words of a person, and what a tool said after them."""
    result = None
    for who, text in reversed(turns):
        if who == "tool" and result is None:
            result = text
        if who == "user" and text.strip() and not text.lstrip().startswith(_NOT_A_PROMPT):
            return _WRAPPING.sub("", text.strip()).strip('"'), result
    return "", result


def _text(content: Any) -> str:
    """Text of a string, or of a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else json.dumps(content)


def _turns(role: str, content: Any) -> Iterator[_Turn]:
    """Each part by itself: programs put their own beside a person's."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": _text(content)}]
    for part in parts:
        kind = part.get("type", "text")
        if kind == "tool_result":
            yield "tool", _text(part.get("content"))
        elif kind in ("text", "input_text"):
            yield "user" if role == "user" else "other", str(part.get("text", ""))


def _tools(offered: Iterable[tuple[str, Any, str]]) -> dict[str, Tool]:
    return {name: Tool(name, schema or {}, kind) for name, schema, kind in offered}


def ask_anthropic(body: Body, path: str) -> Ask:
    """Anthropic Messages."""
    turns = [turn for one in body.get("messages", ()) for turn in _turns(one["role"], one.get("content"))]
    prompt, result = _last(turns)
    wanted = body.get("output_config", {}).get("format") or body.get("output_format") or {}
    offered = [(one["name"], one.get("input_schema"), "function") for one in body.get("tools", ())]
    return Ask(
        "anthropic",
        body.get("model", ""),
        prompt,
        _text(body.get("system")),
        result,
        bool(body.get("stream")),
        _tools(offered),
        wanted.get("schema"),
    )


def _responses_tools(tools: Iterable[Body]) -> Iterator[tuple[str, Any, str]]:
    for one in tools:
        if one.get("type") == "namespace":
            yield from _responses_tools(one.get("tools", ()))
        elif one.get("type") in ("function", "custom"):
            yield one["name"], one.get("parameters"), one["type"]
        elif one.get("type") == "local_shell":
            yield "local_shell", {}, "local_shell"


def ask_responses(body: Body, path: str) -> Ask:
    """OpenAI Responses."""
    given = body.get("input", "")
    items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given
    turns: list[_Turn] = []
    for item in items:
        if str(item.get("type", "message")) == "message":
            turns += _turns(item.get("role", ""), item.get("content"))
        elif str(item.get("type")).endswith("_output"):
            turns.append(("tool", _text(item.get("output"))))
    prompt, result = _last(turns)
    return Ask(
        "responses",
        body.get("model", ""),
        prompt,
        _text(body.get("instructions")),
        result,
        bool(body.get("stream")),
        _tools(_responses_tools(body.get("tools", ()))),
        (body.get("text") or {}).get("format", {}).get("schema"),
    )


def ask_chat(body: Body, path: str) -> Ask:
    """OpenAI chat completions."""
    turns: list[_Turn] = []
    system = ""
    for one in body.get("messages", ()):
        if one["role"] == "tool":
            turns.append(("tool", _text(one.get("content"))))
        elif one["role"] in ("system", "developer"):
            system += _text(one.get("content"))
        else:
            turns += _turns(one["role"], one.get("content"))
    prompt, result = _last(turns)
    functions = [one["function"] for one in body.get("tools") or () if "function" in one]
    return Ask(
        "chat",
        body.get("model", ""),
        prompt,
        system,
        result,
        bool(body.get("stream")),
        _tools((one["name"], one.get("parameters"), "function") for one in functions),
        ((body.get("response_format") or {}).get("json_schema") or {}).get("schema"),
    )


def ask_gemini(body: Body, path: str) -> Ask:
    """Gemini generateContent; the model and whether it streams stand in the path."""
    turns: list[_Turn] = []
    for one in body.get("contents", ()):
        for part in one.get("parts", ()):
            if "functionResponse" in part:
                said = part["functionResponse"].get("response", {})
                turns.append(("tool", str(said.get("output", said))))
            elif "text" in part:
                turns.append(("user" if one.get("role", "user") == "user" else "other", part["text"]))
    prompt, result = _last(turns)
    declared = [one for tool in body.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    offered = [
        (one["name"], one.get("parametersJsonSchema") or one.get("parameters"), "function")
        for one in declared
    ]
    settings = body.get("generationConfig", {})
    return Ask(
        "gemini",
        path.rpartition("/")[2].partition(":")[0],
        prompt,
        _text(body.get("systemInstruction", {}).get("parts")),
        result,
        "streamGenerateContent" in path,
        _tools(offered),
        settings.get("responseJsonSchema") or settings.get("responseSchema"),
    )


# ---- answers ---------------------------------------------------------------------------------

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
        "id": _id("msg"),
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
        {"type": "message", "id": _id("msg"), "role": "assistant", "status": "completed", "content": content}
    ]
    if said.call:
        called, arguments = said.call, said.call.arguments
        item: Body = {"id": _id("fc"), "call_id": called.id, "status": "completed"}
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
        "id": _id("resp"),
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
        "id": _id("chatcmpl"),
        "object": "chat.completion",
        "created": 0,
        "model": ask.model,
        "choices": [choice],
        "usage": _chat_usage(said),
    }


def stream_chat(ask: Ask, said: Answer) -> Stream:
    """A completion, chunk by chunk."""
    frame = {"id": _id("chatcmpl"), "object": "chat.completion.chunk", "created": 0, "model": ask.model}

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
