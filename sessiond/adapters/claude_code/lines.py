"""What is read of one transcript: the few lines at its two ends that say what the conversation is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.reading.ends import Ends, each_head_line, read_back, read_ends
from sessiond.adapters.reading.texts import absolute, as_amount, as_count, from_iso, shorten
from sessiond.model.agent_session import Turn

# A first prompt or a last line longer than the ends is looked for so far, once.
FARTHER: Final = 1024 * 1024

# Lines longer than this are the program's own records of requests, or files shown to it.
_LINE_MAX: Final = 512 * 1024

# What the program puts into the place of a prompt by itself.
_NOT_TYPED: Final = re.compile(
    r"\s*(?:<(?:command-|local-command-|bash-|task-notification|system-reminder|user-memory-input)"
    r"|\[Request interrupted by user|Caveat: The messages below)"
)
# How lines of these types begin: looking at that alone is far cheaper than decoding them.
_TITLES: Final = (b'\n{"type":"custom-title","customTitle":"', b'\n{"type":"ai-title","aiTitle":"')
_LAST_PROMPT: Final = b'{"type":"last-prompt"'
_COST_STATE: Final = b'{"type":"cost-state"'
_RECORDS: Final = (b'{"type":"api-request', b'{"type":"file-history-snapshot"')
_MODEL_NOTE: Final = b'"attachment":{"type":"model","identity":{"modelId":"'
_INTERRUPTED: Final = "[Request interrupted by user"


class Said(msgspec.Struct):
    """The message of a line of type user or assistant."""

    role: str | None = None
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")


class Fork(msgspec.Struct):
    """Where a message was copied from."""

    sessionId: str | None = None


class Snapshot(msgspec.Struct):
    """Files as they were before a prompt."""

    timestamp: str | None = None


class Line(msgspec.Struct):
    """A line of any type; only what is used of it."""

    type: str | None = None
    subtype: str | None = None
    uuid: str | None = None
    timestamp: str | None = None
    cwd: str | None = None
    version: str | None = None
    gitBranch: str | None = None
    entrypoint: str | None = None
    agentId: str | None = None
    isMeta: bool | None = None
    isSidechain: bool | None = None
    isCompactSummary: bool | None = None
    isApiErrorMessage: bool | None = None
    messageId: str | None = None
    message: Said | None = None
    snapshot: Snapshot | None = None
    forkedFrom: Fork | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")


class Title(msgspec.Struct):
    """A title given by its user or by the program."""

    type: str | None = None
    customTitle: str | None = None
    aiTitle: str | None = None


class LastPrompt(msgspec.Struct):
    """The program's own note of the last prompt."""

    lastPrompt: str | None = None


class Cost(msgspec.Struct):
    """What the conversation took so far, of all its processes."""

    totalCostUSD: Any = None
    modelUsage: Any = None
    hasUnknownModelCost: Any = None


LINE: Final = msgspec.json.Decoder(Line)
_TITLE: Final = msgspec.json.Decoder(Title)
_LAST: Final = msgspec.json.Decoder(LastPrompt)
_COST: Final = msgspec.json.Decoder(Cost)
_ANY: Final = msgspec.json.Decoder(Any)
# Nesting deeper than the interpreter's stack is refused by msgspec as a RecursionError.
REFUSED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Read:
    """What the two ends of a transcript tell. ``first`` is the uuid of its first message, which forks share;
    ``forked`` that something before that message is later than it."""

    lines: int = 0
    cwd: str = ""
    last_cwd: str = ""
    model: str = ""
    title: str = ""
    first_prompt: str = ""
    last_prompt: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    version: str = ""
    branch: str = ""
    entrypoint: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    turn: Turn = Turn.UNKNOWN
    activity: str = ""
    first: str = ""
    forked: bool = False
    parent: str = ""


def read_transcript(path: str) -> tuple[Read, Ends]:
    """Its two ends, and a little more where these hold no message. Raises OSError."""
    ends = read_ends(path)
    read = Read()
    _read_head(read, each_head_line(ends))
    if not read.first_prompt and not ends.whole:
        # A long prompt, or much that hooks put before it.
        farther = read_ends(path, head=FARTHER, tail=0)
        _read_head(read, each_head_line(farther))
    _read_tail(read, ends.tail, ends.whole)
    if not read.model:
        read.model = _shown_model(ends.tail) or _shown_model(ends.head)
    if (read.turn is Turn.UNKNOWN or not read.model) and not ends.whole:
        # Its last lines are the program's own records, which may be longer than the tail.
        data = read_back(path, ends.size, FARTHER)
        _read_tail(read, data, len(data) == ends.size)
    return read, ends


def decode(data: bytes) -> Line | None:
    """A line, or None where it is no JSON object, or of other types than are known."""
    try:
        return LINE.decode(data)
    except REFUSED:
        return None


def loose(raw: msgspec.Raw) -> Any:
    """Whatever is there, or None where it cannot be read."""
    try:
        return _ANY.decode(raw)
    except REFUSED:
        return None


def text_of(content: Any) -> str:
    """The words of a message, whose content is a text or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [
        block["text"]
        for block in content
        if isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)
    ]
    return "\n".join(texts)


def is_put_in(text: str) -> bool:
    """Whether the program wrote it in its user's place."""
    return _NOT_TYPED.match(text) is not None


def typed(line: Line) -> str:
    """The prompt of a line of type user, as its user typed it; empty where it is none."""
    if line.message is None or line.isMeta or line.isCompactSummary:
        return ""
    text = text_of(loose(line.message.content))
    return "" if is_put_in(text) else text


def _read_head(read: Read, lines: Iterable[bytes]) -> None:
    """Who, where, when it began, and its first prompt."""
    before: list[tuple[str, str]] = []
    for data in lines:
        if len(data) > _LINE_MAX or (line := decode(data)) is None:
            continue
        read.lines += 1
        if line.uuid is None:
            # Notes of the program; in a fork there are some that are later than the first message.
            when = line.timestamp or (line.snapshot.timestamp if line.snapshot else None)
            if when and not read.first:
                before.append((line.messageId or "", when))
            continue
        if not read.first and line.type in ("user", "assistant", "attachment", "system"):
            _begin(read, line, before)
        if not read.cwd:
            read.cwd = absolute(line.cwd)
        if line.type == "user" and (prompt := shorten(typed(line))):
            read.first_prompt = prompt
            return


def _begin(read: Read, line: Line, before: list[tuple[str, str]]) -> None:
    """The first message."""
    read.first = line.uuid or ""
    read.started_at = from_iso(line.timestamp)
    read.parent = (line.forkedFrom.sessionId or "") if line.forkedFrom else ""
    if read.started_at is None:
        return
    for about, when in before:
        moment = from_iso(when)
        if about != line.uuid and moment is not None and moment > read.started_at:
            read.forked = True


def _read_tail(read: Read, tail: bytes, whole: bool) -> None:
    """What was said last, and what has been noted since; from the last line on, until all is known."""
    start = 0 if whole else tail.find(b"\n") + 1
    if start == 0 and not whole:
        return
    told = ""
    end = len(tail)
    while end > start and not (read.last_prompt and read.model):
        begin = max(tail.rfind(b"\n", start, end) + 1, start)
        if tail.startswith(_LAST_PROMPT, begin):
            told = told or _last_prompt(tail[begin:end])
            if not (read.last_prompt or read.forked or read.parent):
                # Nothing was typed since. In a fork the note is of what it was forked from.
                read.last_prompt = told
        elif tail.startswith(_COST_STATE, begin):
            if read.turn is Turn.UNKNOWN and read.cost is None and read.tokens_in is None:
                _read_cost(read, tail[begin:end])
        elif 1 < end - begin <= _LINE_MAX and not tail.startswith(_RECORDS, begin):
            _read_said(read, tail[begin:end])
        end = begin - 1
    _read_title(read, tail)
    if not read.last_prompt:
        read.last_prompt = told or read.first_prompt


def _read_said(read: Read, data: bytes) -> None:
    """A line that may be a message."""
    if b'"type":"attachment"' in data[:600]:
        return
    if read.turn is not Turn.UNKNOWN and read.model and b'"tool_result"' in data:
        # No prompt, and nothing else is asked for by now.
        return
    if (line := decode(data)) is not None:
        _read_line(read, line)


def _read_line(read: Read, line: Line) -> None:
    """One line of the tail, from the last on: what is told already is later."""
    read.lines += 1
    if line.uuid is None and line.type not in ("user", "assistant"):
        return
    if read.updated_at is None:
        read.updated_at = from_iso(line.timestamp)
        read.version = (line.version or "")[:64]
        read.branch = (line.gitBranch or "")[:200]
        read.entrypoint = (line.entrypoint or "")[:64]
    if not read.last_cwd:
        read.last_cwd = absolute(line.cwd)
    if line.type == "assistant" and line.message is not None:
        model = line.message.model or ""
        if not read.model and model != "<synthetic>":
            read.model = shorten(model)
        if read.turn is Turn.UNKNOWN:
            _turn_of_assistant(read, line, line.message)
    elif line.type == "user" and line.message is not None:
        prompt = shorten(typed(line))
        if not read.last_prompt:
            read.last_prompt = prompt
        if read.turn is Turn.UNKNOWN:
            _turn_of_user(read, line, prompt)
    elif line.type == "system" and line.subtype == "turn_duration" and read.turn is Turn.UNKNOWN:
        read.turn = Turn.DONE


def _turn_of_assistant(read: Read, line: Line, said: Said) -> None:
    if said.stop_reason == "end_turn":
        read.turn = Turn.DONE
        return
    content = loose(said.content)
    last = content[-1] if isinstance(content, list) and content and isinstance(content[-1], dict) else {}
    if last.get("type") == "tool_use" and not line.isApiErrorMessage:
        name = last.get("name")
        read.turn = Turn.WORKING
        read.activity = shorten(f"using {name}") if isinstance(name, str) and name else "using a tool"
    elif last.get("type") in ("thinking", "redacted_thinking") and not line.isApiErrorMessage:
        read.turn, read.activity = Turn.WORKING, "thinking"
    elif said.stop_reason in ("tool_use", "pause_turn"):
        # A call follows its words in a line of its own.
        read.turn, read.activity = Turn.WORKING, "using a tool"
    else:
        read.turn = Turn.DONE


def _turn_of_user(read: Read, line: Line, prompt: str) -> None:
    content = loose(line.message.content) if line.message else None
    if text_of(content).startswith(_INTERRUPTED):
        read.turn = Turn.DONE
    elif prompt or (isinstance(content, list) and not line.isMeta):
        read.turn, read.activity = Turn.WORKING, "thinking"


def _shown_model(data: bytes) -> str:
    """The model that it was last told it is, in a note that no text of a message can look like."""
    at = data.rfind(_MODEL_NOTE)
    if at < 0:
        return ""
    begin = at + len(_MODEL_NOTE)
    end = data.find(b'"', begin, begin + 200)
    return shorten(data[begin:end].decode("utf-8", "replace")) if end > begin else ""


def _last_prompt(data: bytes) -> str:
    try:
        return shorten(_LAST.decode(data).lastPrompt or "")
    except REFUSED:
        return ""


def _read_title(read: Read, tail: bytes) -> None:
    """The user's before the program's, the last before others. It may be far before the end."""
    for mark in _TITLES:
        at = tail.rfind(mark)
        if at < 0:
            continue
        end = tail.find(b"\n", at + 1)
        try:
            title = _TITLE.decode(tail[at + 1 : end if end >= 0 else len(tail)])
        except REFUSED:
            continue
        if text := shorten(title.customTitle or title.aiTitle or ""):
            read.title = text
            return


def _read_cost(read: Read, data: bytes) -> None:
    """Totals, if nothing was said since; so it is only called before a message was met."""
    try:
        cost = _COST.decode(data)
    except REFUSED:
        return
    if cost.hasUnknownModelCost is not True:
        read.cost = as_amount(cost.totalCostUSD)
    usage: Mapping[Any, Any] = cost.modelUsage if isinstance(cost.modelUsage, dict) else {}
    sent = received = 0
    for each in usage.values():
        if not isinstance(each, dict):
            return
        counts = [
            as_count(each.get(name, 0))
            for name in ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens", "outputTokens")
        ]
        if None in counts:
            return
        known = [count or 0 for count in counts]
        sent += sum(known[:3])
        received += known[3]
    if usage:
        read.tokens_in, read.tokens_out = as_count(sent), as_count(received)
