"""The caller's own terminal: made raw, and put right again whatever a program did to it."""

from __future__ import annotations

import os
import signal
import termios
import tty
from contextlib import suppress
from typing import Any

from sessiond.cli.outlet import Outlet

LARGEST = 1000

# Ends whatever sequence the last bytes left open, and what the terminal holds back until it is told.
_UNSTICK = b"\x18\x1b\\\x1b[?2026l"
# What programs switch on. The kitty keyboard has a stack of its own in either screen; the cursor is saved
# first, because leaving the alternate screen restores it, also where the program was not in it.
_MODES = (
    b"\x1b[<99u\x1b[=0u"
    b"\x1b[?6l\x1b7\x1b[?1049l"
    b"\x1b[<99u\x1b[=0u\x1b[>4m"
    b"\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l"
    b"\x1b[?2004l\x1b[?2031l\x1b[?2048l"
    b"\x1b[?1l\x1b>\x1b[4l\x1b[20l\x1b[?5l\x1b[?69l"
    b"\x1b7\x1b[r\x1b8"
    b"\x1b[?7h\x1b[?25h\x1b[0 q"
    b"\x1b(B\x0f\x1b[0m"
)
_COLOURS = b"\x1b]8;;\x1b\\\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\"
_PUSH_TITLE, _POP_TITLE = b"\x1b[22;0t", b"\x1b[23;0t"
_CLEAR = b"\x1b[H\x1b[2J"


class CallersTerminal:
    """The terminal that a verb was called on: its mode, its size, and how it is put right."""

    def __init__(self, read: int, out: Outlet) -> None:
        self._read = read
        self.out = out
        self._saved: list[Any] | None = None
        self._drawn = False
        kind = os.environ.get("TERM", "")
        self._plain = kind in ("", "dumb")
        # The console of the kernel shows some of what it does not know.
        self._simple = kind.startswith("linux")

    def size(self) -> tuple[int, int] | None:
        """Columns and rows; None where it does not say."""
        try:
            columns, rows = os.get_terminal_size(self.out.fd)
        except OSError:
            return None
        if columns < 1 or rows < 1:
            return None
        return min(columns, LARGEST), min(rows, LARGEST)

    def enter(self) -> None:
        """Make it raw: each byte typed comes at once and unchanged, and so goes each byte shown."""
        if self._saved is None:
            self._saved = termios.tcgetattr(self._read)
        tty.setraw(self._read, termios.TCSANOW)

    def fresh(self) -> bytes:
        """What brings it to the state that a screen is drawn on. What the caller had on it before the first
        time is scrolled away, not erased."""
        if self._plain:
            return b""
        begin = b""
        if not self._drawn:
            self._drawn = True
            rows = (self.size() or (80, 24))[1]
            begin = (b"" if self._simple else _PUSH_TITLE) + b"\x1b[%d;1H" % rows + b"\n" * rows
        return begin + self._reset() + _CLEAR

    def remark(self, text: str) -> bytes:
        """What shows a sentence in the last row, until the screen is drawn again."""
        if self._plain:
            return f"\r\n{text}\r\n".encode()
        row = (self.size() or (80, 24))[1]
        return _UNSTICK + b"\x1b7\x1b[%d;1H\x1b[0;7m%s\x1b[0m\x1b[K\x1b8" % (row, text.encode())

    def restore(self, *, below: bool) -> None:
        """Put it right: modes, colours, title, screen, and how lines are read. ``below``: the cursor goes
        below all that is shown. Idempotent; never raises."""
        if self._saved is None:
            return
        saved, self._saved = self._saved, None
        # Whoever was moved to the background must not be stopped in the middle of this.
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            if not self._plain:
                self.out.write_now(self._closing(below=below))
            with suppress(termios.error):
                # Answers to the program's questions about the terminal are not for the shell.
                termios.tcflush(self._read, termios.TCIFLUSH)
                termios.tcsetattr(self._read, termios.TCSANOW, saved)
        finally:
            signal.signal(signal.SIGTTOU, before)

    def _closing(self, *, below: bool) -> bytes:
        if not self._drawn:
            return self._reset() + self._new_line()
        title = b"" if self._simple else _POP_TITLE
        if not below:
            return self._reset() + title + self._new_line()
        rows = (self.size() or (80, 24))[1]
        return self._reset() + title + b"\x1b[%d;1H\r\n" % rows

    def _reset(self) -> bytes:
        return _UNSTICK + _MODES + (b"" if self._simple else _COLOURS)

    def _new_line(self) -> bytes:
        """Begins a line, unless the cursor stands at the beginning of one: so many blanks wrap only then."""
        columns = (self.size() or (80, 24))[0]
        return b" " * (columns - 1) + b"\r\x1b[K"
