"""Programs that use the whole screen look the same attached in tmux as they do in tmux alone."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.product import Product, until
from tests.system.tmux_case import Tmux, Window, need, same

FULLSCREEN = Path(__file__).with_name("fullscreen.py")
SESSIONCTL = str(Path(sys.executable).parent / "sessionctl")
# Runs a command, and tells how it ended.
TELLING = ["sh", "-c", '"$@"; echo "it ended: exit status $?"; exec sleep 999', "sh"]
SHELL = ["bash", "--norc", "--noprofile"]


@pytest.fixture
def tmux(product: Product) -> Iterator[Tmux]:
    made = Tmux(product)
    try:
        yield made
    finally:
        made.close()


class Pair:
    """A program alone in one window, and the same through sessionctl in a shell in the other."""

    def __init__(self, product: Product, tmux: Tmux, command: list[str], files: dict[str, str]) -> None:
        self._product = product
        session = product.started()
        self.session = session["id"]
        for name, text in files.items():
            product.write(f"{session['path']}/{name}", text)
        self.alone = tmux.window("alone", [*TELLING, *command], cwd=session["path"])
        self.attached = tmux.window("attached", SHELL, cwd=session["path"])
        self.attached.keys("PS1='$? ready> '; clear; stty -g | md5sum", "Enter")
        self.attached.shows("  -\n0 ready>")
        self.modes_before = self.attached.modes()
        self._settings = self.attached.text().split()[0]
        self.shell("run", "--name", "it", "--", *command)

    def shell(self, *words: str) -> None:
        """Type a command of sessionctl in the shell."""
        self.attached.keys(shlex.join([SESSIONCTL, *words]), "Enter")

    def both(self, do: Callable[[Window], Any]) -> None:
        """The same in both windows."""
        for window in (self.alone, self.attached):
            do(window)

    def same(self, wanted: str, look: Callable[[Window], Any] = Window.screen) -> None:
        """Wait until both show this, and look alike."""
        same(self.alone, self.attached, wanted, look)

    def detach_and_attach(self) -> None:
        """Leave it, and come back."""
        self.attached.keys("C-\\")
        self.attached.shows("[detached from ")
        self.put_right()
        self.shell("attach", "it")

    def kill_daemon(self) -> None:
        """SIGKILL of the session's daemon, and a new one."""
        pid = self._product.pid(self.session)
        self._product.kill(pid)
        self._product.new_pid(self.session, besides=pid)

    def ended(self, status: int) -> None:
        """Both have ended, with this status, and the shell's terminal is as it was."""
        self.alone.shows(f"it ended: exit status {status}")
        self.attached.shows(f"it ended: exit status {status}]\n0 ready>")
        self.put_right()

    def put_right(self) -> None:
        """The shell's terminal is as it was."""
        self.attached.keys("clear; stty -g | md5sum", "Enter")

        def modes() -> dict[str, str]:
            found = self.attached.modes()
            return {name: value for name, value in found.items() if not name.startswith("cursor_")}

        def right() -> bool:
            return self.attached.text().split()[:3] == [self._settings, "-", "0"]

        until(right, "the terminal's settings to be those before")
        rows = int(self.attached.tell("window_height")[0])
        before = self.modes_before | {"scroll_region_lower": str(rows - 1)}
        assert modes() == {name: value for name, value in before.items() if not name.startswith("cursor_")}


def drive(pair: Pair, steps: list[tuple[Callable[[Window], Any], str]], look: Any = Window.screen) -> None:
    """Do each step in both windows; after each they look alike."""
    for do, wanted in steps:
        pair.both(do)
        pair.same(wanted, look)


def keys(*names: str) -> Callable[[Window], Any]:
    """Keys to press."""
    return lambda window: window.keys(*names)


def text(what: str) -> Callable[[Window], Any]:
    """A text to type."""
    return lambda window: window.type(what)


def size(columns: int, rows: int) -> Callable[[Window], Any]:
    """A size to take."""
    return lambda window: window.resize(columns, rows)


def test_a_program_that_uses_all_of_a_terminal(product: Product, tmux: Tmux) -> None:
    pair = Pair(product, tmux, [sys.executable, str(FULLSCREEN)], {})
    pair.same("full screen 80x24")
    drive(
        pair,
        [
            (keys("a", "Up", "F5"), "3 "),
            (text("\x1b[<0;10;12M"), "<0;10;12M"),
            (text("äß漢"), "漢"),
            (keys("h"), "8 'h'"),
            (keys("w"), "nnnn"),
        ],
    )
    assert pair.attached.modes()["mouse_button_flag"] == "1"
    pair.detach_and_attach()
    pair.same("nnnn")
    drive(pair, [(keys("o"), "origin"), (size(100, 30), "full screen 100x30"), (keys("W"), "'W'")])
    pair.kill_daemon()
    drive(pair, [(keys("b", "c"), "'c'"), (keys("O"), "absolute"), (keys("h"), "'h'")])
    pair.detach_and_attach()
    drive(pair, [(size(61, 20), "full screen 61x20"), (keys("z"), "'z'")])
    pair.both(keys("q"))
    pair.ended(7)


def test_vim(product: Product, tmux: Tmux) -> None:
    need("vim")
    source = "".join(f"def f{n}(x):\n    return '漢字 {n}'  # e\u0301\n\n" for n in range(40))
    command = ["vim", "-N", "-u", "NONE", "-i", "NONE", "-n", "-c", "syntax on | set laststatus=2", "it.py"]
    pair = Pair(product, tmux, command, {"it.py": source})
    pair.same("def f0(x)")
    drive(
        pair,
        [
            (keys(":set number hlsearch", "Enter"), "  1 "),
            (keys("/return", "Enter"), "return"),
            (keys("20", "C-e", "oéß new line", "Escape"), "new line"),
            (keys(":split", "Enter"), "it.py [+]"),
            (keys("C-w", "j", "G"), "f39"),
        ],
    )
    pair.detach_and_attach()
    pair.same("f39")
    drive(pair, [(size(100, 30), "f39"), (keys("C-b"), "def f")])
    pair.kill_daemon()
    drive(
        pair,
        [
            (keys("gg", "V", "jj"), "VISUAL"),
            (size(70, 20), "VISUAL"),
            (keys("Escape", "oüber", "Escape"), "über"),
        ],
    )
    pair.both(keys(":q!", "Enter", ":q!", "Enter"))
    pair.ended(0)


def test_less(product: Product, tmux: Tmux) -> None:
    need("less")
    body = "".join(f"\x1b[3{n % 8}mline {n}\x1b[0m of a long file, 漢字\n" for n in range(1000))
    pair = Pair(product, tmux, ["less", "-R", "long.txt"], {"long.txt": body})
    pair.same("line 22 ")
    drive(
        pair,
        [
            (keys("Space", "j", "j"), "line 47 "),
            (keys("/line 5.5", "Enter"), "line 505 "),
            (keys("G"), "line 999 "),
            (keys("k"), "line 976 "),
        ],
    )
    pair.detach_and_attach()
    pair.same("line 976 ")
    drive(pair, [(size(90, 35), "line 976 "), (keys("k"), "line 975 ")])
    pair.kill_daemon()
    drive(pair, [(keys("g"), "line 0 "), (keys("-N", "Enter"), "      1 ")])
    pair.both(keys("q"))
    pair.ended(0)


def frame(window: Window) -> list[Any]:
    """What of htop does not change by itself: labels of its meters, its tabs, head and foot."""
    found: list[Any] = []
    rows = window.screen()
    for row in rows:
        plain = "".join(text for text, _ in row)
        if row is rows[-1] or "PID" in plain.split():
            found.append(row)
        elif "[" in plain and "]" in plain:
            found.append(plain.split("[")[0])
    return found


def test_htop(product: Product, tmux: Tmux) -> None:
    need("htop")
    pair = Pair(product, tmux, ["htop", "-d", "5"], {})

    def alike(wanted: str) -> None:
        pair.same(wanted, frame)

    # Its foot, which reads Done in its settings: a key typed before it has left them means another there.
    alike("F10Quit")
    drive(pair, [(keys("F2"), "Categories"), (keys("Escape"), "F10Quit"), (keys("F5"), "List")], frame)
    pair.detach_and_attach()
    alike("List")
    pair.both(size(110, 30))
    alike("List")
    pair.kill_daemon()
    drive(pair, [(keys("F3"), "Search"), (keys("Escape"), "F10Quit")], frame)
    pair.both(keys("q"))
    pair.ended(0)
