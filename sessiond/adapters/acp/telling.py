"""Who looks on: a person at a terminal or at a file, or a program that reads JSON."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from sessiond.adapters.acp.peer import Params
from sessiond.adapters.reading.texts import as_text, shorten

# Programs say what models say: what would steer a terminal is left away.
_CONTROLS: Final = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Telling(Protocol):
    """How a conversation is shown."""

    def begin(self, id: str) -> None:
        """It has a journal of that id."""
        ...

    def opened(self, session: str, program: str, model: str) -> None:
        """The program has it open."""
        ...

    def updated(self, update: Params) -> None:
        """The protocol's own update."""
        ...

    def turned(self, stop: str, failure: str) -> None:
        """The turn is over."""
        ...

    def note(self, text: str) -> None:
        """A word of ours."""
        ...

    def interrupt(self) -> None:
        """Whatever was asked is not asked any more."""
        ...

    async def read(self, prompt: str) -> str | None:
        """A line from the terminal; None at its end."""
        ...

    async def choose(self, title: str, text: str, options: list[Params]) -> Params | None:
        """One of the options; None for none of them."""
        ...


class _Terminal:
    """Questions on the terminal, one at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[str | None] | None = None
        self._rest = b""

    def interrupt(self) -> None:
        """Answer for who is asked: nothing."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    async def read(self, prompt: str) -> str | None:
        """A line."""
        async with self._turn:
            _write(prompt)
            loop = asyncio.get_running_loop()
            self._answer = loop.create_future()
            self._take()
            if not self._answer.done():
                # A line is there at once or not at all: the terminal keeps it until Enter.
                loop.add_reader(0, self._readable)
            try:
                return await self._answer
            finally:
                loop.remove_reader(0)
                self._answer = None

    async def choose(self, title: str, text: str, options: list[Params]) -> Params | None:
        """By number."""
        lines = [f"\n? {shorten(title)}", *(f"  {line}" for line in _clean(text).splitlines()[:20])]
        for number, option in enumerate(options, 1):
            name = as_text(option.get("name")) or as_text(option.get("kind"))
            lines.append(f"  {number}) {shorten(name)}")
        _write("\n".join(lines) + "\n")
        # What was typed before anybody was asked is no answer.
        self._rest = b""
        with suppress(termios.error):
            termios.tcflush(0, termios.TCIFLUSH)
        while True:
            answer = await self.read(f"1-{len(options)}, or Enter to refuse: ")
            if answer is None or not answer.strip():
                return None
            word = answer.strip()
            if word.isascii() and word.isdigit() and 1 <= int(word) <= len(options):
                return options[int(word) - 1]

    def _readable(self) -> None:
        try:
            data = os.read(0, 65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The terminal was hung up.
            data = b""
        if not data:
            self.interrupt()
        self._rest += data
        self._take()

    def _take(self) -> None:
        line, found, rest = self._rest.partition(b"\n")
        if found and self._answer is not None and not self._answer.done():
            self._rest = rest
            self._answer.set_result(line.decode("utf-8", "replace"))


class Text(_Terminal):
    """What is said, as it is said; tools by their titles."""

    def __init__(self) -> None:
        super().__init__()
        self._at_start = True
        self._shown: dict[str, str] = {}

    def begin(self, id: str) -> None:
        """Nothing to show."""

    def opened(self, session: str, program: str, model: str) -> None:
        """Nothing to show."""

    def updated(self, update: Params) -> None:
        """Text, and titles of tools once they run."""
        kind = update.get("sessionUpdate")
        content = update.get("content")
        if kind == "agent_message_chunk" and isinstance(content, dict):
            self._say(_clean(as_text(content.get("text"))))
        elif kind in ("tool_call", "tool_call_update"):
            self._tool(update)

    def turned(self, stop: str, failure: str) -> None:
        """On a line of its own goes what comes next."""
        self._line()
        self._shown.clear()

    def note(self, text: str) -> None:
        """On standard error: it is none of the program's words."""
        self._line()
        print(f"sessiond: {_clean(text)}", file=sys.stderr, flush=True)

    def _tool(self, update: Params) -> None:
        id, status = as_text(update.get("toolCallId")), as_text(update.get("status"))
        title = shorten(as_text(update.get("title"))) or self._shown.get(id, "")
        if status == "in_progress" and title and self._shown.get(id) != title:
            self._line()
            self._say(f"• {title}\n")
            self._shown[id] = title
        elif status == "failed":
            self._line()
            self._say(f"• failed: {title or 'a tool'}\n")

    def _line(self) -> None:
        if not self._at_start:
            self._say("\n")

    def _say(self, text: str) -> None:
        if text:
            _write(text)
            self._at_start = text.endswith("\n")


class Json(_Terminal):
    """One object a line: what began, the protocol's own updates, how turns ended."""

    def begin(self, id: str) -> None:
        """The id of the journal."""
        _dump({"type": "session", "id": id})

    def opened(self, session: str, program: str, model: str) -> None:
        """The program's own id."""
        _dump({"type": "opened", "session": session, "program": program, "model": model})

    def updated(self, update: Params) -> None:
        """As it came."""
        _dump({"type": "update", "update": update})

    def turned(self, stop: str, failure: str) -> None:
        """Why it stopped."""
        _dump({"type": "turn", "stopReason": stop, **({"error": failure} if failure else {})})

    def note(self, text: str) -> None:
        """An object too."""
        _dump({"type": "note", "text": text})


def make_telling(json: bool) -> Telling:
    """The one or the other."""
    return Json() if json else Text()


def _clean(text: str) -> str:
    return text.translate(_CONTROLS)


def _dump(value: Params) -> None:
    try:
        line = msgspec.json.encode(value)
    except UnicodeEncodeError:
        line = msgspec.json.encode({"type": value["type"], "text": "(half a character was in it)"})
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _write(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
