"""One rollout of Codex: what its lines tell of the conversation, and its messages."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.reading import ends as files
from sessiond.adapters.reading import objects, texts
from sessiond.adapters.reading.objects import BROKEN
from sessiond.adapters.reading.zstd import unpacked_head
from sessiond.model.agent_session import Message, ToolUse, Turn

# The first line holds the model's instructions (22 KB as of 0.169), the first prompt comes behind them.
HEAD: Final = 64 * 1024
TAIL: Final = 64 * 1024
# Of a compressed one so much is unpacked.
UNPACKED: Final = 4 * 1024 * 1024

_NAME: Final = re.compile(
    r"rollout-.{1,40}-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.jsonl(\.zst)?"
)
_ID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# What Codex itself puts before the model as if the user had said it.
_HIDDEN: Final = (
    "<environment_context>",
    "<user_instructions>",
    "<permissions",
    "<skill",
    "<collaboration_mode>",
    "<turn_aborted>",
    "<subagent_notification>",
    "<user_shell_command>",
    "# AGENTS.md instructions",
)
# Tools that do nothing but ask the user.
_ASKING: Final = {
    "request_user_input": "waiting for an answer",
    "request_permissions": "waiting for permission",
}
# Events that begin or end a turn.
_TURN: Final = {
    "task_started": Turn.WORKING,
    "turn_started": Turn.WORKING,
    "task_complete": Turn.DONE,
    "turn_complete": Turn.DONE,
    "turn_aborted": Turn.DONE,
}
_ASKED: Final = {
    "exec_approval_request": "waiting for permission",
    "apply_patch_approval_request": "waiting for permission",
    "request_permissions": "waiting for permission",
    "request_user_input": "waiting for an answer",
    "elicitation_request": "waiting for an answer",
}


class _Meta(msgspec.Struct):
    id: str = ""
    timestamp: Any = None
    cwd: Any = None
    originator: Any = None
    cli_version: Any = None
    source: Any = None
    model_provider: Any = None
    forked_from_id: Any = None
    parent_thread_id: Any = None
    agent_nickname: Any = None
    agent_role: Any = None
    git: Any = None


class _First(msgspec.Struct):
    """The first line, in one go."""

    type: str = ""
    payload: _Meta = msgspec.field(default_factory=_Meta)


class _Payload(msgspec.Struct):
    """Fields of events and items that are looked at."""

    type: Any = None
    role: Any = None
    content: Any = None
    name: Any = None
    call_id: Any = None
    arguments: Any = None
    input: Any = None
    output: Any = None
    summary: Any = None
    message: Any = None
    info: Any = None
    item: Any = None
    model: Any = None
    cwd: Any = None
    thread_name: Any = None
    thread_token_usage: Any = None
    usage: Any = None
    action: Any = None


class _Event(msgspec.Struct):
    """Any line but the first, in one go."""

    type: str = ""
    timestamp: Any = None
    payload: _Payload = msgspec.field(default_factory=_Payload)


_FIRST: Final = msgspec.json.Decoder(_First)
_META: Final = msgspec.json.Decoder(_Meta)
_EVENT: Final = msgspec.json.Decoder(_Event)


@dataclass(slots=True)
class Rollout:
    """What the ends of a rollout tell."""

    id: str
    path: str
    compressed: bool = False
    cwd: str = ""
    model: str = ""
    title: str = ""
    first_prompt: str = ""
    last_prompt: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    parent: str = ""
    turn: Turn = Turn.UNKNOWN
    turn_at: datetime | None = None
    """When the turn that is not done began."""
    asks: str = ""
    """What it waits for, by its own word."""
    escalated: bool = False
    """A command was asked for outside of the sandbox and has no result: it runs, or waits for leave."""
    pending: dict[str, str] = field(default_factory=dict)
    """Calls without a result: id to name of the tool."""
    native: dict[str, str] = field(default_factory=dict)

    @property
    def activity(self) -> str:
        """What it does, where a turn is not done."""
        if self.asks:
            return self.asks
        if self.turn is not Turn.WORKING:
            return ""
        names = [name for name in self.pending.values() if name]
        return f"using {texts.shorten(names[-1], 60)}" if names else "thinking"


def named(path: str) -> tuple[str, bool] | None:
    """Id of the conversation and whether it is compressed, of a file whose name is a rollout's."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    return (match[1], bool(match[2])) if match else None


def is_id(text: object) -> bool:
    """Whether it is what Codex calls a conversation."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def read(path: str) -> tuple[Rollout, files.Stamp] | str | None:
    """What a rollout tells, or what is wrong with it; None where it is only about to be written. Raises
    OSError."""
    name = named(path)
    assert name is not None
    try:
        ends = _unpacked(path) if name[1] else files.read_ends(path, HEAD, TAIL)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        # What it is called is known, and what the index tells of it.
        return Rollout(name[0], path, compressed=True), files.stamp(os.stat(path))
    end = ends.head.find(b"\n")
    complete = ends.whole or end >= 0
    if end < 0:
        end = len(ends.head)
    # Of a first line that is longer than what was read, what precedes the instructions is enough.
    meta = (_meta(memoryview(ends.head)[:end]) if complete else None) or _meta(
        _before_instructions(ends.head[:end])
    )
    if meta is None:
        begun = not name[1] and files.begun(ends)
        return None if begun else "its first line is not that of a rollout"
    rollout = Rollout(name[0], path, compressed=name[1])
    _begin(rollout, meta)
    if ends.whole:
        blocks = [(ends.head, end + 1, len(ends.head))]
    else:
        blocks = [
            (ends.head, end + 1, ends.head.rfind(b"\n") + 1),
            (ends.tail, ends.tail.find(b"\n") + 1 or len(ends.tail), len(ends.tail)),
        ]
    _read_lines(rollout, [block for block in blocks if block[1] < block[2]])
    return rollout, ends.stamp


def _unpacked(path: str) -> files.Ends:
    """Of one that Codex compressed: all of it, or its beginning where it is long. Raises OSError."""
    status = os.stat(path)
    data, whole = unpacked_head(path, UNPACKED)
    head = data if whole else data[:HEAD]
    size = len(data)
    stamp = files.stamp(status)
    tail = head if whole else b""
    return files.Ends(path, head, tail, size, status.st_mtime_ns, status.st_ino, whole, stamp)


# Part of what was read that begins and ends with whole lines.
_Block = tuple[bytes, int, int]

# Words in lines that begin or end a turn, and in those that tell of one thing: nearly all others are not
# decoded. Which lines these are is told by decoding them.
_TURNS: Final = (b"task_complete", b"turn_aborted", b"task_started", b"turn_complete", b"turn_started")
_CONTEXT: Final = (b"turn_context",)
_TOKENS: Final = (b'"token_',)
_TITLE: Final = (b"thread_name_updated",)
_USER: Final = (b'"role":"user"', b'"UserMessage"', b'"user_message"', b'"role": "user"')


def _read_lines(rollout: Rollout, blocks: list[_Block]) -> None:
    """What all the lines tell: those of its last turn one by one, of those before it the last that tell what
    these do not, and the first prompt."""
    at, begin = _last_turn(blocks)
    cwd, rollout.cwd = rollout.cwd, ""
    for number, (data, start, end) in enumerate(blocks[at:]):
        for line in data[start if number else begin : end].split(b"\n"):
            _take(rollout, line)
    before = [*blocks[:at], (blocks[at][0], blocks[at][1], begin)] if blocks else []
    if not (rollout.model and rollout.cwd):
        for one in _told_by(before, _CONTEXT):
            model, folder = _context_of(one)
            rollout.model, rollout.cwd = rollout.model or model, rollout.cwd or folder
            if rollout.model and rollout.cwd:
                break
    rollout.cwd = rollout.cwd or cwd
    if rollout.tokens_in is None:
        counts = (_tokens(_usage_of(one)) for one in _told_by(before, _TOKENS))
        told = next((each for each in counts if None not in each), (None, None))
        rollout.tokens_in, rollout.tokens_out = told
    rollout.title = rollout.title or _first_of(map(_title_of, _told_by(before, _TITLE)))
    rollout.last_prompt = rollout.last_prompt or _first_of(map(_prompt_of, _told_by(before, _USER)))
    rollout.first_prompt = _first_prompt(before) or rollout.first_prompt


def _first_of(told: Iterator[str]) -> str:
    """The first that is not empty."""
    return next(filter(None, told), "")


def _last_turn(blocks: list[_Block]) -> tuple[int, int]:
    """Block and place of the last line that begins or ends a turn; of the first line where there is none."""
    for at in range(len(blocks) - 1, -1, -1):
        for begin, line in _lines_with(blocks[at], _TURNS):
            event = _decoded(line)
            if event is not None and event.type == "event_msg" and _turn_of(event.payload) is not None:
                return at, begin
    return 0, blocks[0][1] if blocks else 0


def _told_by(blocks: list[_Block], words: tuple[bytes, ...]) -> Iterator[_Event]:
    """Each line with one of these words, from the last to the first."""
    for block in reversed(blocks):
        for _, line in _lines_with(block, words):
            if (event := _decoded(line)) is not None:
                yield event


def _lines_with(block: _Block, words: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    """Place and text of each line with one of these words, from the last to the first."""
    data, start, end = block
    while True:
        found = -1
        for word in words:
            found = max(found, data.rfind(word, max(found, start), end))
        if found < 0:
            return
        begin = max(data.rfind(b"\n", start, found) + 1, start)
        over = data.find(b"\n", found, end)
        yield begin, data[begin : end if over < 0 else over]
        end = begin


def _first_prompt(blocks: list[_Block]) -> str:
    for data, place, end in blocks:
        begin = place
        while True:
            found = end
            for word in _USER:
                earlier = data.find(word, begin, found)
                found = found if earlier < 0 else earlier
            if found == end:
                break
            start = max(data.rfind(b"\n", begin, found) + 1, begin)
            over = data.find(b"\n", found, end)
            over = end if over < 0 else over
            event = _decoded(data[start:over])
            if event is not None and (prompt := _prompt_of(event)):
                return prompt
            begin = min(over + 1, end)
    return ""


def _before_instructions(line: bytes) -> bytes:
    place = line.find(b',"base_instructions"')
    return line[:place] + b"}}" if place > 0 else b""


def _meta(line: bytes | memoryview) -> _Meta | None:
    first = objects.decoded(_FIRST, line)
    # The oldest have no envelope.
    meta = (
        first.payload if first is not None and first.type == "session_meta" else objects.decoded(_META, line)
    )
    return meta if meta is not None and is_id(meta.id) else None


def _begin(rollout: Rollout, meta: _Meta) -> None:
    rollout.cwd = texts.absolute(meta.cwd)
    rollout.started_at = rollout.updated_at = texts.from_iso(meta.timestamp)
    for parent in (meta.parent_thread_id, _spawner(meta.source), meta.forked_from_id):
        if is_id(parent) and parent != rollout.id:
            rollout.parent = str(parent)
            break
    git = meta.git if isinstance(meta.git, dict) else {}
    source = meta.source if isinstance(meta.source, str) else "subagent" if meta.source else ""
    told = {
        "originator": meta.originator,
        "cli_version": meta.cli_version,
        "source": source,
        "model_provider": meta.model_provider,
        "agent_nickname": meta.agent_nickname,
        "agent_role": meta.agent_role,
        "git_branch": git.get("branch"),
    }
    rollout.native = {
        name: texts.shorten(value) for name, value in told.items() if isinstance(value, str) and value
    }


def _spawner(source: object) -> object:
    """Who spawned it, in the form that subagents have it."""
    for step in ("subagent", "thread_spawn", "parent_thread_id"):
        source = source.get(step) if isinstance(source, dict) else None
    return source


def _decoded(line: bytes) -> _Event | None:
    if not line:
        return None
    try:
        return _EVENT.decode(line)
    except BROKEN:
        return None


# ---- what one line tells by itself


def _context_of(event: _Event) -> tuple[str, str]:
    """Model and folder of the turns that follow."""
    if event.type != "turn_context":
        return "", ""
    return texts.shorten(texts.as_text(event.payload.model)), texts.absolute(event.payload.cwd)


def _usage_of(event: _Event) -> object:
    """Tokens of the whole conversation."""
    if event.type == "token_usage_record":
        return event.payload.thread_token_usage
    if event.type == "event_msg" and event.payload.type == "token_count":
        info = event.payload.info
        return info.get("total_token_usage") if isinstance(info, dict) else None
    return None


def _title_of(event: _Event) -> str:
    """What somebody called it."""
    named = event.type == "event_msg" and event.payload.type == "thread_name_updated"
    return texts.shorten(texts.as_text(event.payload.thread_name)) if named else ""


def _prompt_of(event: _Event) -> str:
    """What its user said, shortened; empty where nothing was, or Codex said it."""
    payload = event.payload
    text = ""
    if event.type == "response_item":
        if payload.type == "message" and payload.role == "user":
            text = _joined(payload.content)
    elif event.type == "event_msg":
        if payload.type == "user_message":
            text = texts.as_text(payload.message)
        elif payload.type == "item_completed" and isinstance(item := payload.item, dict):
            text = _joined(item.get("content")) if item.get("type") == "UserMessage" else ""
    return "" if not text or hidden(text) else texts.shorten(text)


def _turn_of(payload: _Payload) -> Turn | None:
    """Where the conversation stands by an event that begins or ends a turn."""
    return _TURN.get(payload.type) if isinstance(payload.type, str) else None


# ---- line after line


def _take(rollout: Rollout, line: bytes) -> None:
    """What one more line changes."""
    event = _decoded(line)
    if event is None:
        return
    moment = texts.from_iso(event.timestamp)
    if moment is not None:
        rollout.updated_at = moment
    if event.type == "turn_context":
        model, cwd = _context_of(event)
        rollout.model, rollout.cwd = model or rollout.model, cwd or rollout.cwd
        return
    if prompt := _prompt_of(event):
        rollout.first_prompt = rollout.first_prompt or prompt
        rollout.last_prompt = prompt
    tokens_in, tokens_out = _tokens(_usage_of(event))
    if tokens_in is not None and tokens_out is not None:
        rollout.tokens_in, rollout.tokens_out = tokens_in, tokens_out
    rollout.title = _title_of(event) or rollout.title
    if event.type == "event_msg":
        _take_event(rollout, event.payload, moment)
    elif event.type == "response_item":
        _take_item(rollout, event.payload)


def _take_event(rollout: Rollout, payload: _Payload, moment: datetime | None) -> None:
    if (turn := _turn_of(payload)) is not None:
        rollout.turn, rollout.turn_at = turn, moment if turn is Turn.WORKING else None
        _settle(rollout)
    elif isinstance(payload.type, str) and payload.type in _ASKED:
        rollout.turn, rollout.asks = Turn.WAITING, _ASKED[payload.type]


def _take_item(rollout: Rollout, payload: _Payload) -> None:
    kind, call = payload.type, payload.call_id
    if not isinstance(kind, str) or not isinstance(call, str) or len(call) > texts.SHORT:
        return
    if kind.endswith("_call"):
        name = texts.as_text(payload.name) or ("shell" if kind == "local_shell_call" else "")
        rollout.pending[call] = name
        if name in _ASKING:
            rollout.turn, rollout.asks = Turn.WAITING, _ASKING[name]
        elif '"require_escalated"' in texts.as_text(payload.arguments):
            rollout.escalated = True
    elif kind.endswith("_call_output"):
        rollout.pending.pop(call, None)
        if rollout.turn is Turn.WAITING:
            rollout.turn = Turn.WORKING
        rollout.asks, rollout.escalated = "", False


def _settle(rollout: Rollout) -> None:
    rollout.pending.clear()
    rollout.asks, rollout.escalated = "", False


def hidden(text: str) -> bool:
    """Whether Codex said it in the user's place."""
    return text.lstrip().startswith(_HIDDEN)


def _joined(content: object) -> str:
    """The texts of a message's parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    found = (texts.as_text(part.get("text")) for part in parts if isinstance(part, dict))
    return "\n".join(text for text in found if text)


# ---- messages -------------------------------------------------------------------------------


def messages(lines: Iterable[bytes]) -> Iterator[Message]:
    """Messages of lines that are given from the end to the beginning: the last first."""
    usage: object = None
    for line in lines:
        head = _decoded(line)
        if head is None:
            continue
        payload = head.payload
        if head.type == "token_usage_record":
            usage = payload.usage
        elif head.type == "event_msg" and payload.type == "token_count" and usage is None:
            usage = payload.info.get("last_token_usage") if isinstance(payload.info, dict) else None
        elif head.type == "response_item":
            message = _message(payload, texts.from_iso(head.timestamp), usage)
            if message is not None:
                if message.role == "assistant":
                    usage = None
                yield message


def _message(payload: _Payload, moment: datetime | None, usage: object) -> Message | None:
    kind = payload.type
    if kind == "message":
        said = _joined(payload.content)
        if not said or hidden(said) or payload.role not in ("user", "assistant"):
            return None
        text, shortened = texts.cut(said)
        tokens_in, tokens_out = _tokens(usage) if payload.role == "assistant" else (None, None)
        return Message(
            payload.role, text, time=moment, tokens_in=tokens_in, tokens_out=tokens_out, cut=shortened
        )
    if kind == "reasoning":
        thought, shortened = texts.cut(_joined(payload.summary))
        return Message("assistant", thinking=thought, time=moment, cut=shortened) if thought else None
    if isinstance(kind, str) and kind.endswith("_call"):
        content, shortened = texts.cut(
            _written(payload.arguments, payload.input, payload.action), texts.TOOL_MAX
        )
        name = texts.as_text(payload.name) or kind.removesuffix("_call")
        call = ToolUse(_short(payload.call_id), _short(name), content)
        tokens_in, tokens_out = _tokens(usage)
        return Message(
            "assistant", tools=(call,), time=moment, tokens_in=tokens_in, tokens_out=tokens_out, cut=shortened
        )
    if isinstance(kind, str) and kind.endswith("_call_output"):
        content, shortened = texts.cut(_written(payload.output), texts.TOOL_MAX)
        failed = isinstance(payload.output, dict) and payload.output.get("success") is False
        result = ToolUse(_short(payload.call_id), content=content, result=True, failed=failed)
        return Message("tool", tools=(result,), time=moment, cut=shortened)
    return None


def _tokens(usage: object) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    return texts.as_count(usage.get("input_tokens")), texts.as_count(usage.get("output_tokens"))


def _short(value: object) -> str:
    return texts.shorten(texts.as_text(value))


def _written(*values: object) -> str:
    """The first that is there, as text."""
    for value in values:
        if isinstance(value, str):
            return value
        if value is not None:
            joined = _joined(value.get("content") if isinstance(value, dict) else value)
            if joined:
                return joined
            try:
                return msgspec.json.encode(value).decode()
            except BROKEN:
                return ""
    return ""
