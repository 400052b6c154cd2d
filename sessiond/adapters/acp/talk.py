"""What is said in a conversation: into the journal, and to who looks on."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sessiond.adapters.acp.journal import Journal
from sessiond.adapters.acp.peer import Params
from sessiond.adapters.acp.telling import Telling
from sessiond.adapters.reading.texts import TEXT_MAX, TOOL_MAX, as_amount, as_count, as_text

# Characters of a message that may be lost with this process.
_PIECE: Final = 4096
_ENDED: Final = {"completed", "failed"}
_REFUSING: Final = ("reject_once", "reject_always")


class Talk:
    """Takes each update once; ``replaying`` while the program tells again what the journal has."""

    def __init__(self, journal: Journal, telling: Telling) -> None:
        self.replaying = False
        self.cancelling = False
        self._journal = journal
        self._telling = telling
        self._said: dict[str, list[str]] = {"text": [], "thinking": []}
        self._tools: dict[str, Params] = {}
        self._model = ""
        self._cost: float | None = None

    def opened(self, session: str, program: str, version: str, model: str) -> None:
        """The conversation is open."""
        self._model = model
        name = f"{program} {version}".strip()
        self._journal.write("opened", session=session, program=name, model=model)
        self._telling.opened(session, name, model)

    def prompted(self, prompt: str) -> None:
        """A prompt goes to the program."""
        self.cancelling = False
        self._journal.write("prompt", text=prompt[:TEXT_MAX])

    def turned(self, stop: str, usage: Params, failure: str = "") -> None:
        """The program has come to an end of its turn."""
        self.flush()
        self._journal.write(
            "turn",
            stop=stop,
            text=failure[:TEXT_MAX],
            model=self._model,
            tokens_in=_tokens_in(usage),
            tokens_out=as_count(usage.get("outputTokens")),
            cost=self._cost,
        )
        self._telling.turned(stop, failure)

    def updated(self, update: Params) -> None:
        """Something happens in the program's turn."""
        if self.replaying:
            return
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._chunk("text", update)
        elif kind == "agent_thought_chunk":
            self._chunk("thinking", update)
        elif kind in ("tool_call", "tool_call_update"):
            self.flush()
            self._tool(update)
        elif kind == "usage_update":
            self._spent(update)
        elif kind == "session_info_update" and as_text(update.get("title")):
            self._journal.write("title", title=as_text(update.get("title"))[:TEXT_MAX])
        self._telling.updated(update)

    def flush(self) -> None:
        """Write down what was said until now."""
        text, thinking = ("".join(self._said[name]) for name in ("text", "thinking"))
        for pieces in self._said.values():
            pieces.clear()
        if text or thinking:
            self._journal.write("message", text=text, thinking=thinking, model=self._model)

    async def permit(self, params: Params, ask: bool) -> Params:
        """What is answered where the program wants a permission."""
        self.flush()
        listed = params.get("options")
        options = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        call = params.get("toolCall")
        call = call if isinstance(call, dict) else {}
        title = as_text(call.get("title")) or as_text(self._known(call).get("title")) or "a tool"
        chosen: Params | None = None
        if ask and not self.cancelling:
            self._journal.write("asked", title=title[:TOOL_MAX], kind=as_text(call.get("kind")))
            chosen = await self._telling.choose(title, _text_of(call), options)
        if self.cancelling:
            self._journal.write("answered", title=title[:TOOL_MAX], status="cancelled")
            return {"outcome": {"outcome": "cancelled"}}
        if chosen is None:
            chosen = next((one for kind in _REFUSING for one in options if one.get("kind") == kind), None)
            if not ask:
                self._telling.note(f"refused: {title} (there is no terminal to ask on)")
        kind = as_text(chosen.get("kind")) if chosen else "cancelled"
        self._journal.write("answered", title=title[:TOOL_MAX], status=kind)
        if chosen is None:
            return {"outcome": {"outcome": "cancelled"}}
        return {"outcome": {"outcome": "selected", "optionId": chosen.get("optionId")}}

    def _chunk(self, name: str, update: Params) -> None:
        content = update.get("content")
        text = as_text(content.get("text")) if isinstance(content, dict) else ""
        other = "thinking" if name == "text" else "text"
        if self._said[other]:
            self.flush()
        self._said[name].append(text)
        if sum(map(len, self._said[name])) >= _PIECE:
            self.flush()

    def _known(self, update: Params) -> Params:
        return self._tools.get(as_text(update.get("toolCallId")), {})

    def _tool(self, update: Params) -> None:
        """A call is written down when it begins to run and when it has ended."""
        id = as_text(update.get("toolCallId"))
        before = self._tools.get(id, {})
        call = {**before, **{name: value for name, value in update.items() if value is not None}}
        status = as_text(call.get("status"))
        began = bool(before.get("_began"))
        if status in _ENDED:
            if not began:
                self._began(id, call)
            output = _output(call)[:TOOL_MAX]
            self._journal.write("result", id=id, title=_title(call), status=status, output=output)
            self._tools.pop(id, None)
            return
        if not began and status == "in_progress":
            self._began(id, call)
            call["_began"] = True
        self._tools[id] = call

    def _began(self, id: str, call: Params) -> None:
        told = _json(call.get("rawInput"))[:TOOL_MAX]
        self._journal.write("tool", id=id, title=_title(call), kind=as_text(call.get("kind")), input=told)

    def _spent(self, update: Params) -> None:
        cost = update.get("cost")
        if isinstance(cost, dict) and cost.get("currency") == "USD":
            self._cost = as_amount(cost.get("amount"))


def _title(call: Params) -> str:
    return (as_text(call.get("title")) or as_text(call.get("kind")) or "tool")[:TOOL_MAX]


def _output(call: Params) -> str:
    text = _text_of(call)
    return text or _json(call.get("rawOutput"))


def _text_of(call: Params) -> str:
    """The texts among a call's content."""
    content = call.get("content")
    texts: list[str] = []
    for each in content if isinstance(content, list) else ():
        inner = each.get("content") if isinstance(each, dict) else None
        if isinstance(inner, dict):
            texts.append(as_text(inner.get("text")))
        elif isinstance(each, dict) and each.get("type") == "diff":
            texts.append(f"changes {as_text(each.get('path'))}")
    return "\n".join(filter(None, texts))


def _json(value: Any) -> str:
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value).decode()
    except (UnicodeError, msgspec.EncodeError):
        return ""


def _tokens_in(usage: Params) -> int | None:
    names = ("inputTokens", "cachedReadTokens", "cachedWriteTokens")
    counts = [count for count in (as_count(usage.get(name)) for name in names) if count is not None]
    return as_count(sum(counts)) if counts else None
