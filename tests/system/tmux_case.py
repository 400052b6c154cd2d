"""A private tmux server in a test host: windows of a fixed size, typed at and looked at."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.system.product import HOME, PATIENCE, Product, until

SOCKET = f"{HOME}/tmux.sock"
# What tmux knows of the modes that a program set on its terminal.
MODES = (
    "alternate_on",
    "cursor_flag",
    "insert_flag",
    "keypad_cursor_flag",
    "keypad_flag",
    "mouse_any_flag",
    "mouse_button_flag",
    "mouse_sgr_flag",
    "mouse_standard_flag",
    "origin_flag",
    "scroll_region_upper",
    "scroll_region_lower",
    "wrap_flag",
)
_WRITTEN = re.compile(r"\x1b\[(?P<codes>[\d;:]*)m|(?P<shift>[\x0e\x0f])|[^\x1b]", re.S)
_LINES = str.maketrans("`afgjklmnopqrstuvwx~", "◆▒°±┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│·")
# What ends which attributes.
_OFF = {
    22: "12",
    23: "3",
    24: "4",
    25: "5",
    27: "7",
    28: "8",
    29: "9",
    39: ["foreground"],
    49: ["background"],
}
# Underlined, reversed, struck through.
_INK = {"4", "7", "9"}


def need(program: str) -> None:
    """Skip where a program is missing; CI makes a failure of that."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: packaging/bootstrap installs it")


# A character, with what is combined with it, and how it is shown.
Cell = tuple[str, frozenset[str]]


def read_cells(captured: str) -> list[list[Cell]]:
    """What capture-pane wrote down, in one spelling: it may put the same in several ways."""
    look: dict[str, str] = {}
    lines = False
    rows: list[list[Cell]] = [[]]
    for match in _WRITTEN.finditer(captured):
        if match["codes"] is not None:
            _select(look, re.findall(r"[34]8[;:][\d;:]+|[\d:]+", match["codes"] or "0"))
        elif match["shift"]:
            lines = match["shift"] == "\x0e"
        elif match[0] == "\n":
            rows.append([])
        elif unicodedata.combining(match[0]) and rows[-1]:
            rows[-1][-1] = (rows[-1][-1][0] + match[0], rows[-1][-1][1])
        else:
            shown = match[0].translate(_LINES) if lines else match[0]
            rows[-1].append((shown, _visible(shown, look)))
    for row in rows:
        while row and row[-1] == (" ", frozenset()):
            row.pop()
    return rows[:-1]


def _select(look: dict[str, str], codes: Sequence[str]) -> None:
    for code in codes:
        number = int(re.split("[;:]", code)[0])
        if number == 0:
            look.clear()
        elif number in _OFF:
            for name in _OFF[number]:
                look.pop(name, None)
        elif number in range(30, 39) or number in range(90, 98):
            look["foreground"] = code
        elif number in range(40, 49) or number in range(100, 108):
            look["background"] = code
        else:
            look[str(number)] = code


def _visible(shown: str, look: dict[str, str]) -> frozenset[str]:
    """Of how it is shown, what can be seen: a blank has no colour, unless it is of something."""
    inked = shown != " " or look.keys() & _INK
    return frozenset(f"{name} {value}" for name, value in look.items() if inked or name == "background")


class Tmux:
    """One server; it is started with the first window."""

    def __init__(self, product: Product) -> None:
        need("tmux")
        self._product = product
        # From out here a client of tmux starts in a tenth of the time.
        self._client = ["tmux", "-S", str(product.host.path(SOCKET))]

    def window(
        self, name: str, command: list[str], *, columns: int = 80, rows: int = 24, cwd: str = HOME
    ) -> Window:
        """A window in which a command runs."""
        words = ["new-session", "-d", "-s", name, "-x", str(columns), "-y", str(rows), "-c", cwd]
        server = ["tmux", "-u", "-S", SOCKET, "-f", "/dev/null"]
        self._product.host.run([*server, *words, shlex.join(command)], cwd=cwd)
        return Window(self, name)

    def do(self, *words: str) -> str:
        """One command of tmux; returns what it prints."""
        done = subprocess.run(
            [*self._client, *words], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, f"tmux {shlex.join(words)}: {done.stderr}"
        return done.stdout

    def close(self) -> None:
        """End the server and all that runs in it."""
        subprocess.run([*self._client, "kill-server"], capture_output=True, check=False)


class Window:
    """One window with one pane."""

    def __init__(self, tmux: Tmux, name: str) -> None:
        self._tmux = tmux
        self._name = name

    def keys(self, *names: str) -> None:
        """Press keys, as tmux names them; other words are typed."""
        self._tmux.do("send-keys", "-t", self._name, "--", *names)

    def type(self, text: str) -> None:
        """Type exactly this, escape sequences too."""
        self._tmux.do("send-keys", "-t", self._name, "-l", "--", text)

    def resize(self, columns: int, rows: int) -> None:
        """Give it another size."""
        self._tmux.do("resize-window", "-t", self._name, "-x", str(columns), "-y", str(rows))

    def screen(self) -> list[list[Cell]]:
        """The cells of each row of its screen, without blank ones at the end."""
        return read_cells(self._tmux.do("capture-pane", "-p", "-e", "-t", self._name))

    def text(self, *, history: bool = False) -> str:
        """Its screen as plain text, with ``history`` what scrolled off it too."""
        words = ["-S", "-"] if history else []
        return self._tmux.do("capture-pane", "-p", "-t", self._name, *words)

    def tell(self, *formats: str) -> list[str]:
        """What tmux knows of it."""
        asked = "\n".join(f"#{{{one}}}" for one in formats)
        return self._tmux.do("display-message", "-p", "-t", self._name, asked).split("\n")[: len(formats)]

    def modes(self) -> dict[str, str]:
        """The modes of its terminal, and where the cursor is."""
        names = (*MODES, "cursor_x", "cursor_y")
        return dict(zip(names, self.tell(*names), strict=True))

    def shows(self, wanted: str) -> None:
        """Wait until a text is on its screen."""
        until(lambda: wanted in self.text(), f"{wanted!r} on the screen of {self._name}")


def same(
    one: Window, other: Window, wanted: str, look: Callable[[Window], Any] = lambda window: window.screen()
) -> None:
    """Wait until two windows look alike, modes and cursor too, and show a text."""
    seen: list[Any] = []

    def alike() -> bool:
        seen[:] = [(look(window), window.modes(), wanted in window.text()) for window in (one, other)]
        return bool(seen[0] == seen[1] and seen[0][2])

    try:
        until(alike, "two windows that look alike")
    except pytest.fail.Exception:
        (rows, modes, shown), (others, modes_other, shown_other) = seen
        told = [f"{wanted!r} is shown: alone {shown}, attached {shown_other}"]
        for number in range(max(len(rows), len(others))):
            pair = [part[number] if number < len(part) else None for part in (rows, others)]
            if pair[0] != pair[1]:
                told += [f"row {number} alone:    {pair[0]!r}", f"row {number} attached: {pair[1]!r}"]
        told += [
            f"{name} alone {value}, attached {modes_other[name]}"
            for name, value in modes.items()
            if modes_other[name] != value
        ]
        pytest.fail("they do not look alike:\n" + "\n".join(told))
