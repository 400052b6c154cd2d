"""A screen answers its program, is written down, encodes keys, and bears whatever it is fed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

import pytest

from sessiond.errors import InvalidArgument
from sessiond.ports import Screen
from sessiond.terminal import emulator
from sessiond.terminal.emulator import make_screen
from sessiond.terminal.fallback import DegradedScreen
from sessiond.terminal.keys import legacy, stroke

Make = Callable[..., Screen]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes screens of 20 by 5, or another size, and frees them."""
    made: list[Screen] = []

    def one(columns: int = 20, rows: int = 5, scrollback: int = 0) -> Screen:
        made.append(make_screen(columns, rows, scrollback))
        return made[-1]

    yield one
    for screen in made:
        screen.close()
        screen.close()


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (b"\x1b[5n", b"\x1b[0n"),
        (b"ab\x1b[6n", b"\x1b[1;3R"),
        (b"\x1b[c", b"\x1b[?62;22c"),
        (b"\x1b[>c", b"\x1b[>1;10;0c"),
        (b"\x1b[=c", b"\x1bP!|00000000\x1b\\"),
        (b"\x1b[?2004$p", b"\x1b[?2004;2$y"),
        (b"\x1b[?2004h\x1b[?2004$p", b"\x1b[?2004;1$y"),
        (b"\x1b[4$p", b"\x1b[4;2$y"),
        (b"\x1b[?9999$p", b"\x1b[?9999;0$y"),
        (b"\x1b[>q", b"\x1bP>|libghostty\x1b\\"),
        (b"\x1b]10;?\x07", b"\x1b]10;rgb:d0d0/d0d0/d0d0\x07"),
        (b"\x1b]11;?\x1b\\", b"\x1b]11;rgb:0000/0000/0000\x1b\\"),
        (b"\x1b]12;?\x07", b"\x1b]12;rgb:d0d0/d0d0/d0d0\x07"),
        (b"\x1b]11;#102030\x07\x1b]11;?\x07", b"\x1b]11;rgb:1010/2020/3030\x07"),
        (b"\x1b]4;1;?\x07", b"\x1b]4;1;rgb:cccc/6666/6666\x07"),
        (b"\x1b[?u", b"\x1b[?0u"),
        (b"\x1b[>5u\x1b[?u", b"\x1b[?5u"),
        (b"\x1bP$qr\x1b\\", b"\x1bP1$r1;5r\x1b\\"),
        (b"\x1bP$q q\x1b\\", b"\x1bP1$r2 q\x1b\\"),
        (b"\x1b[14t", b"\x1b[4;80;160t"),
        (b"\x1b[16t", b"\x1b[6;16;8t"),
        (b"\x1b[18t", b"\x1b[8;5;20t"),
        (b"\x1b[?996n", b"\x1b[?997;1n"),
        (b"\x1b[?2048h", b"\x1b[48;5;20;80;160t"),
        # What is not told: its title, its clipboard, images.
        (b"\x1b]0;secret\x07\x1b[21t", b""),
        (b"\x1b]52;c;?\x07", b""),
        (b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\", b""),
        (b"\x05", b""),
    ],
)
def test_a_program_is_answered(make: Make, asked: bytes, answer: bytes) -> None:
    assert make().feed(asked) == answer
    screen = make()
    assert b"".join(screen.feed(bytes([byte])) for byte in asked) == answer


def test_a_screen_is_written_down(make: Make) -> None:
    screen = make()
    screen.feed("\x1b]0;a title\x07one\r\n\x1b[1;31mt<&w\x1b[0mo 好\r\n\r\n\x1b[44m  x".encode())
    text = screen.write_down("text")
    assert text.content == "one\nt<&wo 好\n\n  x\n\n"
    assert (text.columns, text.rows, text.cursor_column, text.cursor_row) == (20, 5, 3, 3)
    assert (text.title, text.alternate, text.degraded) == ("a title", False, False)
    assert screen.write_down("ansi").content == ("one\n\x1b[0;1;31mt<&w\x1b[mo 好\n\n\x1b[0;44m  x\x1b[m\n\n")
    page = screen.write_down("html").content
    assert "t&lt;&amp;w" in page
    assert "<w" not in page
    # A page that names colours says what they are.
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) == {"--vt-palette-1", "--vt-palette-4"}
    assert {"--vt-palette-1", "--vt-palette-4"} <= set(re.findall(r"(--[\w-]+): #[0-9a-f]{6};", page))
    with pytest.raises(InvalidArgument) as caught:
        screen.write_down("pdf")
    assert caught.value.code == "screen_format_unknown"


def test_scrollback_is_written_before_the_screen(make: Make) -> None:
    screen = make(20, 3, 100)
    screen.feed(b"\r\n".join(b"line %d" % number for number in range(10)))
    assert screen.write_down("text", 2).content == "line 5\nline 6\nline 7\nline 8\nline 9\n"
    page = screen.write_down("html", 2).content
    assert "line 5" in page
    assert "line 4" not in page


def test_the_alternate_screen_is_told(make: Make) -> None:
    screen = make()
    screen.feed(b"shell\x1b[?1049h\x1b[Heditor")
    assert screen.write_down("text").alternate
    assert screen.write_down("text").content.startswith("editor\n")
    screen.feed(b"\x1b[?1049l")
    assert screen.write_down("text").content.startswith("shell\n")


def test_its_size_is_what_its_viewers_gave_it(make: Make) -> None:
    screen = make()
    screen.resize(30, 10)
    assert screen.size == (30, 10)
    screen.feed(b"\x1b[?40h\x1b[?3h")
    assert screen.size == (30, 10)
    assert screen.write_down("text").columns == 30


PLAIN_KEYS = {
    "Enter": b"\r",
    "Tab": b"\t",
    "BTab": b"\x1b[Z",
    "S-Tab": b"\x1b[Z",
    "Escape": b"\x1b",
    "Space": b" ",
    "BSpace": b"\x7f",
    "Up": b"\x1b[A",
    "Home": b"\x1b[H",
    "End": b"\x1b[F",
    "PPage": b"\x1b[5~",
    "PageDown": b"\x1b[6~",
    "IC": b"\x1b[2~",
    "Delete": b"\x1b[3~",
    "F1": b"\x1bOP",
    "F5": b"\x1b[15~",
    "F12": b"\x1b[24~",
    "C-c": b"\x03",
    "^C": b"\x03",
    "c-x": b"\x18",
    "C-A": b"\x01",
    "C-Space": b"\x00",
    "C-@": b"\x00",
    "C-[": b"\x1b",
    "C-\\": b"\x1c",
    "C-/": b"\x1f",
    "C-Enter": b"\r",
    "C-Up": b"\x1b[1;5A",
    "C-M-Left": b"\x1b[1;7D",
    "M-x": b"\x1bx",
    "C-M-x": b"\x1b\x18",
    "M-Enter": b"\x1b\r",
    "S-F5": b"\x1b[15;2~",
    "a": b"a",
    "A": b"A",
    "S-a": b"A",
    "!": b"!",
    "é": "é".encode(),
    "好": "好".encode(),
    "-": b"-",
    "^": b"^",
}


@pytest.mark.parametrize(("name", "sent"), PLAIN_KEYS.items())
def test_keys_send_what_terminals_always_sent(make: Make, name: str, sent: bytes) -> None:
    assert make().encode_key(name) == sent
    assert legacy(stroke(name)) == sent


def test_keys_follow_the_modes_of_the_program(make: Make) -> None:
    screen = make()
    screen.feed(b"\x1b[?1h")
    assert screen.encode_key("Up") == b"\x1bOA"
    assert screen.encode_key("C-Up") == b"\x1b[1;5A"
    screen.feed(b"\x1b[?1l\x1b[?67h")
    assert screen.encode_key("Up") == b"\x1b[A"
    assert screen.encode_key("BSpace") == b"\x08"
    screen.feed(b"\x1b[?67l\x1b[>1u")
    assert screen.encode_key("Escape") == b"\x1b[27u"
    assert screen.encode_key("C-c") == b"\x1b[99;5u"
    assert screen.encode_key("S-Enter") == b"\x1b[13;2u"
    assert screen.encode_key("a") == b"a"
    screen.feed(b"\x1b[<u\x1b[>4;2m")
    assert screen.encode_key("C-a") == b"\x1b[27;5;97~"
    assert screen.encode_key("A") == b"A"
    screen.feed(b"\x1b[>4;0m")
    assert screen.encode_key("C-a") == b"\x01"


@pytest.mark.parametrize(("name", "near"), [("Entr", "Enter"), ("C-pgeup", "C-PageUp"), ("F13", "F1")])
def test_an_unknown_key_gets_near_names(make: Make, name: str, near: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make().encode_key(name)
    assert caught.value.code == "key_unknown"
    assert near in caught.value.hint


@pytest.mark.parametrize("name", ["", "C-", "ab", "\x07", "C-\n", "nonsense", "M-C-"])
def test_what_is_no_key_is_refused(make: Make, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make().encode_key(name)
    assert caught.value.code == "key_unknown"
    assert caught.value.hint


def test_pasting(make: Make) -> None:
    screen = make()
    assert screen.encode_paste(b"one\ntwo\r\n") == b"one\rtwo\r"
    screen.feed(b"\x1b[?2004h")
    assert screen.encode_paste(b"one\ntwo") == b"\x1b[200~one\ntwo\x1b[201~"
    hostile = b"a\x1b[20\x1b[201~1~rm\xc2\x9b201~b"
    assert screen.encode_paste(hostile) == b"\x1b[200~armb\x1b[201~"


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (1000, 1000), (2, 2)])
def test_sizes_at_the_edge(make: Make, size: tuple[int, int]) -> None:
    screen = make(80, 24, 100)
    huge = b"\x1b[99999;99999Hx\x1b[4294967296;1H\x1b[99999999999999999999b\x1b[99999@\x1b[99999L"
    for columns, rows in (size, (80, 24), size):
        screen.resize(columns, rows)
        screen.feed("hello 好 world\r\n".encode() * 50 + huge)
        other = make(columns, rows, 100)
        other.feed(screen.drawing())
        assert other.write_down("text") == screen.write_down("text")


def test_garbage_is_borne(make: Make) -> None:
    generator = random.Random(7)
    screen = make(40, 10, 50)
    for _ in range(100):
        screen.feed(generator.randbytes(5000))
        screen.drawing(10)
    for form in ("text", "ansi", "html"):
        screen.write_down(form, 10).content.encode()


def test_a_screen_that_the_library_will_not_tell_is_mended(make: Make) -> None:
    screen = make(1, 1, 200)
    screen.feed("\x1b[?40h\x1b[?3h\x1b[?1049h\x1bJ😀".encode())
    assert screen.drawing()
    screen.resize(20, 5)
    screen.feed(b"\x1b[Hgoes on")
    assert screen.write_down("text").content.startswith("goes on")


def test_links_are_left_out_and_cannot_end_the_process(make: Make) -> None:
    fill = b"\x1b]8;;http://a/\x07" + b"\x1b[H" + b"x" * (250 * 250)
    for link in (fill, fill.replace(b"]8", b"]\x028"), fill.replace(b"\x1b]", b"\x1b\x00]")):
        screen = make(250, 250, 200)
        screen.feed(link + b"\x1b[H\x1b[M\x1b[L\x1b[5S\x1b[5T")
        screen.feed(b"\n" * 100 + link + b"\x1b[125;1H\x1b[M\x1b[L\x1bM")
    bytewise = make()
    for byte in b"\x1b]8;;http://a/\x1b\\text\x1b]8;;\x07 and \x1b]0;t\x1b\\more\x1b":
        bytewise.feed(bytes([byte]))
    assert bytewise.write_down("text").content.startswith("text and more\n")
    assert bytewise.write_down("text").title == "t"
    assert b"http" not in bytewise.drawing()
    assert bytewise.drawing().endswith(b"\x1b")
    bytewise.feed(b"]8;" + b"\x00" * 500)
    bytewise.feed(b"\x1b" + b"\x00" * 500)
    assert len(bytewise.drawing()) < 300


def test_a_closed_screen_is_not_used(make: Make) -> None:
    screen = make()
    screen.close()
    with pytest.raises(ValueError, match="closed"):
        screen.feed(b"x")


# ---- without an emulator ----


def test_without_the_library_the_plain_end_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator._maker.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "sessiond.terminal.ghostty", None)
    try:
        screen = make_screen(20, 3, 10)
    finally:
        emulator._maker.cache_clear()
    assert isinstance(screen, DegradedScreen)
    assert screen.write_down("text").degraded


def test_the_degraded_screen_shows_the_last_lines() -> None:
    screen = DegradedScreen(10, 3, 10)
    for piece in (
        b"\x1b]0;ti",
        b"tle\x07one\r\n\x1b[3",
        b"1mtwo\x1b[0m\r\nthree is long\r\n10%\r20%\r\n\xe5",
        b"\xa5\xbdend",
    ):
        assert screen.feed(piece) == b""
    shown = screen.write_down("text")
    assert shown.content == "ong\n20%\n好end\n"
    assert screen.write_down("text", 2).content == "two\nthree is l\nong\n20%\n好end\n"
    assert screen.drawing() == "ong\r\n20%\r\n好end".encode()
    assert (shown.cursor_column, shown.cursor_row) == (4, 2)
    screen.resize(40, 2)
    assert screen.size == (40, 2)
    assert screen.write_down("ansi").content == "20%\n好end\n"
    assert "&lt;" not in screen.write_down("html").content
    assert screen.encode_key("C-c") == b"\x03"
    assert screen.encode_paste(b"a\nb") == b"a\rb"
    with pytest.raises(InvalidArgument):
        screen.write_down("pdf")
    screen.close()


def test_the_degraded_screen_keeps_little() -> None:
    screen = DegradedScreen(80, 24, 0)
    for _ in range(50):
        screen.feed(b"\x1b]0;" + b"x" * 100_000)
        screen.feed(b"y" * 100_000)
    assert len(screen.drawing()) < 80 * 24 * 2
    assert len(screen._held) <= 4096
    assert len(screen._line) <= 4096
    screen.close()
