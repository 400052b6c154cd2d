"""The screen without an emulator: the plain end of what was fed. It answers nothing and knows no modes."""

from __future__ import annotations

import codecs
import html
import re
from collections import deque

from sessiond.errors import InvalidArgument
from sessiond.ports import ScreenText
from sessiond.terminal.keys import legacy, paste, stroke

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x18\x1a\x1b]*(?:\x07|\x1b\\|[\x18\x1a])"
    r"|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ`-~\\]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x18\x1a\x1b]*\x1b?|[ -/]*)\Z")
_CONTROLS = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")

_MOST_HELD = 4096
_LONGEST_LINE = 4096


class DegradedScreen:
    """A Screen that shows the last lines as they were printed, without what escape sequences made of them."""

    def __init__(self, columns: int, rows: int, scrollback: int) -> None:
        self._columns, self._rows = columns, rows
        self._scrollback = scrollback
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._lines: deque[str] = deque(maxlen=scrollback + 1000)
        self._line = ""

    def feed(self, data: bytes) -> bytes:
        """Take output of the program; there is nobody to answer it."""
        text = self._held + self._decoder.decode(data)
        tail = _UNFINISHED.search(text)
        self._held = ""
        if tail is not None and len(text) - tail.start() <= _MOST_HELD:
            self._held = text[tail.start() :]
            text = text[: tail.start()]
        for piece in _CONTROLS.sub("", _SEQUENCE.sub("", text)).splitlines(keepends=True):
            self._take(piece)
        return b""

    def _take(self, piece: str) -> None:
        ended = piece.endswith("\n")
        for part in re.split("(\r+|\b)", piece.rstrip("\n")):
            if part == "\b":
                self._line = self._line[:-1]
            elif part.startswith("\r"):
                # Its line is written anew, unless the line ends here.
                self._line += "\r"
            elif part:
                self._line = (part if self._line.endswith("\r") else self._line + part)[-_LONGEST_LINE:]
        if ended:
            self._lines.append(self._line.rstrip("\r"))
            self._line = ""

    def resize(self, columns: int, rows: int) -> None:
        """Change its size."""
        self._columns, self._rows = columns, rows

    def drawing(self, scrollback: int = 0) -> bytes:
        """The last lines, from the top of the screen on."""
        return "\r\n".join(self._shown(scrollback)).encode()

    def write_down(self, form: str, scrollback: int = 0) -> ScreenText:
        """The last lines; all forms are plain. Raises InvalidArgument `screen_format_unknown`."""
        lines = self._shown(scrollback)
        content = "".join(line + "\n" for line in lines)
        if form == "html":
            content = f'<div style="font-family: monospace; white-space: pre;">{html.escape(content)}</div>\n'
        elif form not in ("text", "ansi"):
            raise unknown_form(form)
        return ScreenText(
            content=content,
            columns=self._columns,
            rows=self._rows,
            cursor_column=min(len(lines[-1]), self._columns - 1),
            cursor_row=min(len(lines), self._rows) - 1,
            degraded=True,
        )

    def _shown(self, scrollback: int) -> list[str]:
        width = self._columns
        rows: list[str] = []
        for line in reversed([*self._lines, self._line.rstrip("\r")]):
            rows[:0] = [line[start : start + width] for start in range(0, max(len(line), 1), width)]
            if len(rows) >= self._rows + scrollback:
                break
        return rows[-(self._rows + scrollback) :]

    def encode_key(self, name: str) -> bytes:
        """What a key sends to a program that set no mode. Raises InvalidArgument `key_unknown`."""
        return legacy(stroke(name))

    def encode_paste(self, data: bytes) -> bytes:
        """What pasting sends to a program that set no mode."""
        return paste(data, bracketed=False)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._columns, self._rows

    def close(self) -> None:
        """Forget what it holds; idempotent."""
        self._lines.clear()
        self._line = self._held = ""


def unknown_form(form: str) -> InvalidArgument:
    """A form that no screen can be written down in."""
    return InvalidArgument(
        "screen_format_unknown",
        f"a screen cannot be written down as {form!r}",
        hint="use text, ansi or html",
        fields={"format": form},
    )
