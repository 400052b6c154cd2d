"""What a request of an agent program asks for, in any of four model APIs, and what to answer."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        return Call(tool, json.loads(called[2] or "{}"), made_id("call")) if tool else None
    shell, agent = _TOOL.search(ask.prompt), _AGENT.search(ask.prompt)
    if shell and (tool := _first(ask.tools, _SHELL_TOOLS)):
        arguments = shell_arguments(tool, shell[2].strip(), asks=shell[1] == "ask")
        return Call(tool, arguments, made_id("call"))
    if agent and (tool := _first(ask.tools, _AGENT_TOOLS)):
        return Call(tool, agent_arguments(tool, agent[1].strip()), made_id("call"))
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


def made_id(kind: str) -> str:
    """One that no other has."""
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
