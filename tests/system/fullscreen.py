"""A program that uses a terminal to the full: it draws, tells what is typed, and ends at q."""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import sys
import termios
import tty

_ENTER = "\x1b[?1049h\x1b[2J\x1b[?1h\x1b=\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b]2;full screen\x1b\\"
_LEAVE = "\x1b[?1006l\x1b[?1002l\x1b[?2004l\x1b[?1l\x1b>\x1b[?25h\x1b[r\x1b[?1049l"
# One thing typed: a sequence, or a character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.S)
# What may yet become a sequence: the rest comes with the next bytes.
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")


class Program:
    """Draws a frame, keeps a region that scrolls, and writes down there what happens."""

    def __init__(self) -> None:
        self._count = 0
        self._hidden = False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._kept = ""

    def keys(self, data: bytes) -> list[str]:
        """What was typed, as far as it is whole."""
        text = self._kept + self._decoder.decode(data)
        begun = _BEGUN.search(text)
        self._kept = begun[0] if begun else ""
        return _KEY.findall(text.removesuffix(self._kept))

    def draw(self) -> None:
        """All of it, in the size that the terminal has now."""
        columns, rows = os.get_terminal_size()
        out = ["\x1b[0m\x1b[r\x1b[2J\x1b[H"]
        out.append(f"\x1b[1;37;44m full screen {columns}x{rows}\x1b[K\x1b[0m")
        out.append(
            "\x1b[2;1H\x1b[3mitalic\x1b[0m \x1b[4munder\x1b[24m \x1b[7mreverse\x1b[27m \x1b[9mstruck\x1b[0m"
        )
        out.append(" \x1b[2mdim\x1b[0m \x1b[38;5;208morange\x1b[48;2;10;60;90mtrue\x1b[0m")
        out.append("\x1b[3;1H漢字 한글 e\u0301 a\u0308 \x1b[31m界\x1b[0m|")
        out.append("\x1b[4;1H\x1b(0lqqwqqk\x1b(B \x1b(0`afgjx\x1b(B box")
        # Wide, and cut by the edge of the screen.
        out.append(f"\x1b[5;{columns - 2}H\x1b[42m界界\x1b[0m")
        out.append(f"\x1b[{rows};1H\x1b[30;46m footer \x1b[K\x1b[{rows};{columns - 4}Hlast\x1b[0m")
        out.append(f"\x1b[6;{rows - 2}r")
        for number in range(rows):
            out.append(f"\x1b[{rows - 2};1H\n\x1b[3{number % 8}mline {number}\x1b[0m")
        # Within the region: lines out, lines in, scrolled back.
        out.append("\x1b[8;1H\x1b[2M\x1b[9;1H\x1b[L\x1b[45minserted\x1b[K\x1b[0m\x1b[6;1H\x1bMtop")
        out.append("\x1b[7;3H\x1b[4@ins\x1b[10;2H\x1b[3P\x1b[11;4H\x1b[2X")
        self._show(out)

    def told(self, key: str) -> None:
        """Write down what was typed, at the end of the region."""
        self._count += 1
        rows = os.get_terminal_size().lines
        out = [f"\x1b[{rows - 2};1H\n\x1b[33m{self._count}\x1b[0m {key!r}"]
        if key == "h":
            self._hidden = not self._hidden
            out.append("\x1b[?25l" if self._hidden else "\x1b[?25h")
        elif key == "o":
            # Rows count from the region's first: the mode stays on.
            out.append("\x1b[?6h\x1b[2;5Horigin")
        elif key == "O":
            out.append("\x1b[?6l\x1b[3;20Habsolute")
        elif key == "w":
            out.append("\x1b[?7l\x1b[6;70H" + "n" * 60)
        elif key == "W":
            out.append("\x1b[?7h")
        self._show(out)

    def _show(self, out: list[str]) -> None:
        sys.stdout.write("".join(out))
        sys.stdout.flush()


def main() -> int:
    """Run until q is typed; returns 7."""
    before = termios.tcgetattr(0)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    program = Program()
    try:
        tty.setraw(0)
        sys.stdout.write(_ENTER)
        program.draw()
        while True:
            for ready in select.select([0, woken], [], [])[0]:
                if ready == woken:
                    os.read(woken, 64)
                    program.draw()
                    continue
                for key in program.keys(os.read(0, 4096)):
                    if key == "q":
                        return 7
                    program.told(key)
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(0, termios.TCSADRAIN, before)


if __name__ == "__main__":
    sys.exit(main())
