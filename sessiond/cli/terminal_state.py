"""The caller's own terminal: made raw, and put right again whatever a program did to it."""

from __future__ import annotations

import os
import re
import signal
import termios
import tty
from contextlib import suppress
from typing import Any

from sessiond.cli.outlet import Outlet

LARGEST = 1000

# Ends whatever sequence the last bytes left open, and what the terminal holds back until it is told.
_UNSTICK = b"\x18\x1b\\\x1b[?2026l"
# What programs switch on. The kitty keyboard has a stack of its own in either screen.
_KEYBOARD = b"\x1b[<99u\x1b[=0u"
_MODES = (
    _KEYBOARD + b"\x1b[>4m"
    b"\x1b[?9l\x1b[?1000l\x1b[?1001l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1005l\x1b[?1006l\x1b[?1015l\x1b[?1016l"
    b"\x1b[?2004l\x1b[?2031l\x1b[?2048l"
    b"\x1b[?1l\x1b>\x1b[4l\x1b[20l\x1b[?5l"
    # These send the cursor home.
    b"\x1b7\x1b[?6l\x1b[?69l\x1b[r\x1b8"
    b"\x1b[?7h\x1b[?25h\x1b[0 q"
    b"\x1b(B\x0f\x1b[0m"
)
_COLOURS = b"\x1b]8;;\x1b\\\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\"
_PUSH_TITLE, _POP_TITLE = b"\x1b[22;0t", b"\x1b[23;0t"
_CLEAR = b"\x1b[H\x1b[2J"
_LEAVE_ALTERNATE = b"\x1b[?1049l"
_ALTERNATE = (b"47", b"1047", b"1049")
_ORIGIN = b"6"
_SWITCHES = re.compile(rb"\x1b(?:\[\?([\d;]+)([hl])|c|\[!p)")
# The beginning of one of these, at the end of what was shown.
_BEGUN = re.compile(rb"\x1b(?:\[(?:\?[\d;]{0,40}|!)?)?\Z")


class _Switched:
    """Which of the modes are on that say where the cursor is when all of them are switched off."""

    def __init__(self) -> None:
        self.alternate = False
        self.origin = False
        self._held = b""

    def note(self, data: bytes) -> None:
        """So much more was shown."""
        if self._held:
            data = self._held + data
        for match in _SWITCHES.finditer(data):
            if match[1] is None:
                # All of it was reset; softly, the screen stays.
                self.origin = False
                self.alternate = self.alternate and match[0] != b"\x1bc"
                continue
            modes, on = match[1].split(b";"), match[2] == b"h"
            if _ORIGIN in modes:
                self.origin = on
            if any(one in modes for one in _ALTERNATE):
                self.alternate = on
        begun = _BEGUN.search(data, max(0, len(data) - 48))
        self._held = data[begun.start() :] if begun else b""


class CallersTerminal:
    """The terminal that a verb was called on: its mode, its size, and how it is put right."""

    def __init__(self, read: int, out: Outlet) -> None:
        self._read = read
        self.out = out
        self._saved: list[Any] | None = None
        self._typing = False
        self._drawn = False
        self._switched = _Switched()
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
        self._typing = True
        tty.setraw(self._read, termios.TCSANOW)

    def enter_to_show(self) -> None:
        """Have each byte go unchanged that is shown; what is typed is for whoever reads next."""
        self._saved = termios.tcgetattr(self._read)
        mode = [*self._saved]
        mode[1] &= ~termios.OPOST
        mode[3] &= ~(termios.ECHO | termios.ECHONL)
        termios.tcsetattr(self._read, termios.TCSANOW, mode)

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

    async def show(self, data: bytes) -> None:
        """Write what a program printed."""
        self._switched.note(data)
        await self.out.write(data)

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
                if self._typing:
                    # Answers to the program's questions about the terminal are not for the shell.
                    termios.tcflush(self._read, termios.TCIFLUSH)
                termios.tcsetattr(self._read, termios.TCSANOW, saved)
        finally:
            signal.signal(signal.SIGTTOU, before)

    def _closing(self, *, below: bool) -> bytes:
        if not self._drawn:
            return self._reset() + self._new_line()
        title = b"" if self._simple else _POP_TITLE
        # With that mode on nothing brings back the cursor and not the mode too.
        if not below and not self._switched.origin:
            return self._reset() + title + self._new_line()
        rows = (self.size() or (80, 24))[1]
        return self._reset() + title + b"\x1b[%d;1H\r\n" % rows

    def _reset(self) -> bytes:
        switched, self._switched = self._switched, _Switched()
        # To leave the alternate screen brings back a cursor that was saved long ago where it is not shown.
        screen = _LEAVE_ALTERNATE if switched.alternate else b"\x1b7" + _LEAVE_ALTERNATE + b"\x1b8"
        origin = b"\x1b[?6l" if switched.origin else b""
        return _UNSTICK + _KEYBOARD + screen + _MODES + origin + (b"" if self._simple else _COLOURS)

    def _new_line(self) -> bytes:
        """Begins a line, unless the cursor stands at the beginning of one: so many blanks wrap only then."""
        columns = (self.size() or (80, 24))[0]
        return b" " * (columns - 1) + b"\r\x1b[K"
