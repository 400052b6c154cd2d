"""Pi's session files: a header, then entries; each is read at its ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.reading.ends import (
    LINE_MAX,
    Ends,
    Stamp,
    begun,
    head_lines,
    malformed,
    read_back,
    read_ends,
    tail_lines,
)
from sessiond.adapters.reading.objects import decoded, encoded
from sessiond.adapters.reading.texts import (
    TOOL_MAX,
    absolute,
    as_amount,
    as_count,
    as_text,
    cut,
    from_iso,
    from_seconds,
    shorten,
)
from sessiond.model.agent_session import Found, Message, Problem, ToolUse, Turn

ID_MAX: Final = 200
VERSION: Final = 3
# A header may hold more than two paths; a first prompt comes behind the system's own and its tools.
_HEAD: Final = 32 * 1024
_HEAD_MORE: Final = 512 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class _Line(msgspec.Struct):
    """Any line; what other kinds of it hold is left as it is."""

    type: Any = None
    timestamp: Any = None
    id: Any = None
    version: Any = None
    cwd: Any = None
    parentSession: Any = None
    branchedFrom: Any = None
    provider: Any = None
    modelId: Any = None
    name: Any = None
    usage: Any = None
    summary: Any = None
    message: msgspec.Raw = msgspec.Raw()


class _Said(msgspec.Struct):
    """What a message line holds."""

    role: Any = None
    content: msgspec.Raw = msgspec.Raw()
    provider: Any = None
    model: Any = None
    usage: Any = None
    stopReason: Any = None
    toolCallId: Any = None
    toolName: Any = None
    isError: Any = None
    errorMessage: Any = None
    command: Any = None
    output: Any = None


_LINE: Final = msgspec.json.Decoder(_Line)
_SAID: Final = msgspec.json.Decoder(_Said)
_ANY: Final = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Header:
    """The first line. ``of_port``: it names the model, as that of the Rust port does."""

    id: str = ""
    version: int | None = None
    cwd: str = ""
    started_at: datetime | None = None
    parent: str = ""
    of_port: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One file as it was read."""

    found: Found
    header: Header
    stamp: Stamp
    mtime_ns: int
    problem: Problem | None = None


def first_header(line: bytes) -> Header | None:
    """The header that a line is; None where it is none. With an empty id it is one that cannot be used."""
    entry = decoded(_LINE, line)
    if entry is None or entry.type != "session":
        return None
    version = as_count(entry.version)
    id = as_text(entry.id)
    return Header(
        id=id if len(id) <= ID_MAX and _ID.fullmatch(id) else "",
        version=version,
        cwd=absolute(entry.cwd),
        started_at=from_iso(entry.timestamp),
        parent=absolute(entry.parentSession) or absolute(entry.branchedFrom),
        of_port=version is not None and bool(as_text(entry.provider) or as_text(entry.modelId)),
    )


def read_row(adapter: str, path: str, id_of: Callable[[str], str]) -> Row | Problem | None:
    """What a file tells; None where it is only about to be written. ``id_of`` turns the file that a header
    names as parent into an id. Raises OSError."""
    ends = read_ends(path, head=_HEAD)
    header, rest = _header(ends)
    if header is None and begun(ends):
        return None
    if header is None:
        return malformed(adapter, path, "its first line is no header of a session")
    if not header.id:
        return malformed(adapter, path, "its header has no id that can be used")
    story = _Story()
    story.read(rest)
    if not ends.whole:
        story.forget_middle()
        if not story.first:
            story.first = _first_prompt(path)
        story.read(tail_lines(ends), latest=True)
        if not story.entries_latest:
            story.read(_long_tail(path, ends), latest=True)
    found = Found(
        adapter=adapter,
        id=header.id,
        cwd=header.cwd,
        model=story.model,
        title=story.title,
        first_prompt=story.first,
        last_prompt=story.last,
        started_at=header.started_at,
        updated_at=story.updated_at or from_seconds(ends.mtime_ns / 1e9),
        tokens_in=story.tokens_in if ends.whole and not story.broken else None,
        tokens_out=story.tokens_out if ends.whole and not story.broken else None,
        cost_usd=story.cost if ends.whole and not story.broken else None,
        parent=id_of(header.parent) if header.parent else "",
        turn=story.turn,
        activity=story.activity,
        native=_native(path, header, story),
        source=path,
    )
    problem = None
    if header.version is not None and header.version > VERSION:
        reason = f"its format is {header.version}, and {VERSION} is the latest that is known here"
        problem = Problem(adapter, "format_newer", reason, path, current=True)
    elif story.broken:
        reason = f"{story.broken} lines of it cannot be read"
        problem = malformed(adapter, path, reason, current=True)
    return Row(found, header, ends.stamp, ends.mtime_ns, problem)


def messages_of(line: bytes) -> Iterator[Message] | None:
    """What is said in a line; None where it is broken."""
    entry = decoded(_LINE, line)
    return None if entry is None else _message(entry)


class _Story:
    """What entries tell in their order."""

    def __init__(self) -> None:
        self.first = self.last = self.title = self.model = self.activity = ""
        self.updated_at: datetime | None = None
        self.turn = Turn.UNKNOWN
        self.tokens_in = self.tokens_out = 0
        self.cost = 0.0
        self.broken = 0
        self.entries_latest = 0

    def forget_middle(self) -> None:
        """What stands at the end of the head is not how the conversation stands."""
        self.turn, self.activity, self.updated_at, self.last = Turn.UNKNOWN, "", None, ""

    def read(self, lines: Sequence[bytes], latest: bool = False) -> None:
        """Take the next lines."""
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            entry = decoded(_LINE, line)
            if entry is None:
                # The last one may still be being written.
                self.broken += number < len(lines)
                continue
            self.entries_latest += latest
            self._take(entry)

    def _take(self, entry: _Line) -> None:
        self.updated_at = from_iso(entry.timestamp) or self.updated_at
        if entry.type == "model_change":
            self.model = _model(entry.provider, entry.modelId) or self.model
        elif entry.type == "session_info":
            self.title = shorten(as_text(entry.name))
        elif entry.type == "message":
            said = decoded(_SAID, entry.message)
            if said is None:
                self.broken += 1
            else:
                self._say(said)
        if isinstance(entry.usage, dict):
            self._count(entry.usage)

    def _say(self, said: _Said) -> None:
        role = said.role
        if role == "user":
            prompt = shorten(_texts(said.content)[0])
            self.first = self.first or prompt
            self.last = prompt or self.last
            self.turn, self.activity = Turn.WORKING, "thinking"
        elif role == "toolResult":
            self.turn, self.activity = Turn.WORKING, "thinking"
        elif role == "assistant":
            self.model = _model(said.provider, said.model) or self.model
            if said.stopReason in ("toolUse", "pending"):
                tools = [tool.name for tool in _texts(said.content)[2] if tool.name]
                self.turn = Turn.WORKING
                self.activity = shorten(f"running {tools[-1]}") if tools else "thinking"
            else:
                self.turn, self.activity = Turn.DONE, ""
            if isinstance(said.usage, dict):
                self._count(said.usage)

    def _count(self, usage: dict[str, object]) -> None:
        for name in ("input", "cacheRead", "cacheWrite"):
            self.tokens_in += as_count(usage.get(name)) or 0
        self.tokens_out += as_count(usage.get("output")) or 0
        cost = usage.get("cost")
        if isinstance(cost, dict):
            self.cost += as_amount(cost.get("total")) or 0.0


def _header(ends: Ends) -> tuple[Header | None, Sequence[bytes]]:
    """The header, and the lines of the head behind it. Blank and broken lines before it are skipped, as Pi
    does."""
    lines = head_lines(ends)
    for number, line in enumerate(lines):
        if line.strip() and decoded(_LINE, line) is not None:
            return first_header(line), lines[number + 1 :]
    return None, ()


def _first_prompt(path: str) -> str:
    """The first prompt where much stands before it."""
    story = _Story()
    story.read(head_lines(read_ends(path, head=_HEAD_MORE, tail=0)))
    return story.first


def _long_tail(path: str, ends: Ends) -> Sequence[bytes]:
    """Lines at the end where the last one is longer than what was read."""
    raw = read_back(path, ends.size, LINE_MAX)
    lines = raw.split(b"\n")
    return lines[1:] if len(raw) < ends.size else lines


def _native(path: str, header: Header, story: _Story) -> dict[str, str]:
    native = {"path": path if len(path) <= 4096 and _sound(path) else ""}
    if header.version is not None:
        native["version"] = str(header.version)
    if header.parent:
        native["parentSession"] = header.parent
    return {name: value for name, value in native.items() if value}


def _sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _model(provider: object, model: object) -> str:
    """Provider and model as `--model` takes them."""
    name = as_text(model)
    full = f"{as_text(provider)}/{name}" if name and as_text(provider) else name
    return cut(shorten(full))[0]


def _texts(raw: msgspec.Raw) -> tuple[str, str, tuple[ToolUse, ...]]:
    """Text, thoughts and called tools of a message's content: a text, or blocks."""
    content = decoded(_ANY, raw)
    if isinstance(content, str):
        return content, "", ()
    texts: list[str] = []
    thoughts: list[str] = []
    tools: list[ToolUse] = []
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        if kind == "text":
            texts.append(as_text(block.get("text")))
        elif kind == "thinking":
            thoughts.append(as_text(block.get("thinking")))
        elif kind == "toolCall":
            tools.append(_called(block))
    return "\n".join(texts), "\n".join(thoughts), tuple(tools)


def _called(block: dict[str, object]) -> ToolUse:
    told = encoded(block.get("arguments"))
    id, name = shorten(as_text(block.get("id"))), shorten(as_text(block.get("name")))
    return ToolUse(cut(id)[0], cut(name)[0], cut(told, TOOL_MAX)[0])


def _message(entry: _Line) -> Iterator[Message]:
    """The message that a line is, if it is one that was said: the system's own prompts are not."""
    time = from_iso(entry.timestamp)
    if entry.type in ("compaction", "branch_summary"):
        text, was_cut = cut(as_text(entry.summary))
        if text:
            yield Message("system", text, time=time, cut=was_cut)
        return
    said = decoded(_SAID, entry.message) if entry.type == "message" else None
    if said is None:
        return
    text, thinking, tools = _texts(said.content)
    if said.role == "user":
        text, was_cut = cut(text)
        yield Message("user", text, time=time, cut=was_cut)
    elif said.role == "toolResult":
        result, was_cut = cut(text, TOOL_MAX)
        id, name = (cut(shorten(as_text(value)))[0] for value in (said.toolCallId, said.toolName))
        use = ToolUse(id, name, result, result=True, failed=said.isError is True)
        yield Message("tool", tools=(use,), time=time, cut=was_cut)
    elif said.role == "bashExecution":
        text, was_cut = cut(f"! {as_text(said.command)}\n{as_text(said.output)}", TOOL_MAX)
        yield Message("user", text, time=time, cut=was_cut)
    elif said.role == "assistant":
        failure = as_text(said.errorMessage)
        text, was_cut = cut("\n".join(filter(None, (text, failure and f"Error: {failure}"))))
        thought, thought_cut = cut(thinking)
        usage = said.usage if isinstance(said.usage, dict) else {}
        yield Message(
            "assistant",
            text,
            thought,
            tools,
            time,
            _model(said.provider, said.model),
            _sum(usage, ("input", "cacheRead", "cacheWrite")),
            _sum(usage, ("output",)),
            was_cut or thought_cut,
        )


def _sum(usage: dict[str, object], names: Iterable[str]) -> int | None:
    counts = [count for count in (as_count(usage.get(name)) for name in names) if count is not None]
    return as_count(sum(counts)) if counts else None
