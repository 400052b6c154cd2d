"""Keys by name, and what they and pasted text send to a program."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from sessiond.errors import InvalidArgument

SHIFT, CONTROL, ALT = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Stroke:
    """One press of a key. ``key`` is the emulator's word for it, ``text`` what it writes without Control and
    Alt, ``unshifted`` the code point of the key alone, ``consumed`` the modifiers that went into ``text``."""

    key: str
    modifiers: int = 0
    text: str = ""
    unshifted: int = 0
    consumed: int = 0

    @property
    def plain(self) -> bool:
        """Whether it writes a character, or is one of the control characters with a key of their own."""
        return bool(self.text) or self.key in ("ENTER", "TAB", "ESCAPE")


_NAMED = {
    "Enter": "ENTER",
    "Return": "ENTER",
    "Tab": "TAB",
    "Escape": "ESCAPE",
    "Esc": "ESCAPE",
    "Space": "SPACE",
    "BSpace": "BACKSPACE",
    "Backspace": "BACKSPACE",
    "Up": "ARROW_UP",
    "Down": "ARROW_DOWN",
    "Left": "ARROW_LEFT",
    "Right": "ARROW_RIGHT",
    "Home": "HOME",
    "End": "END",
    "PPage": "PAGE_UP",
    "PageUp": "PAGE_UP",
    "PgUp": "PAGE_UP",
    "NPage": "PAGE_DOWN",
    "PageDown": "PAGE_DOWN",
    "PgDn": "PAGE_DOWN",
    "IC": "INSERT",
    "Insert": "INSERT",
    "DC": "DELETE",
    "Delete": "DELETE",
    "Del": "DELETE",
    **{f"F{number}": f"F{number}" for number in range(1, 13)},
}
_BY_LOWER = {name.lower(): key for name, key in _NAMED.items()}

_PUNCTUATION = {
    "`": "BACKQUOTE",
    "\\": "BACKSLASH",
    "[": "BRACKET_LEFT",
    "]": "BRACKET_RIGHT",
    ",": "COMMA",
    "=": "EQUAL",
    "-": "MINUS",
    ".": "PERIOD",
    "'": "QUOTE",
    ";": "SEMICOLON",
    "/": "SLASH",
    " ": "SPACE",
}

# On the keyboard that terminals of old had, and programs expect.
_SHIFTED = dict(zip('~|{}<+_>":?!@#$%^&*()', "`\\[],=-.';/1234567890", strict=True))

_PREFIX = re.compile(r"([CMASc]|[mas])-(?=.)", re.DOTALL)
_MODIFIERS = {"c": CONTROL, "m": ALT, "a": ALT, "s": SHIFT}


def stroke(name: str) -> Stroke:
    """The key of a name: `Enter`, `F5`, `C-c`, `M-x`, `S-Tab`, `C-M-Left`, `^C`, one character.

    Raises InvalidArgument `key_unknown`.
    """
    rest = name
    modifiers = 0
    if len(rest) == 2 and rest[0] == "^":
        rest, modifiers = rest[1].lower(), CONTROL
    while (found := _PREFIX.match(rest)) is not None:
        modifiers |= _MODIFIERS[found[1].lower()]
        rest = rest[2:]
    if rest.lower() == "btab":
        return Stroke("TAB", modifiers | SHIFT)
    if len(rest) == 1 and rest.isprintable():
        return _character(rest, modifiers)
    key = _BY_LOWER.get(rest.lower())
    if key is None:
        raise _unknown(name, rest)
    if key == "SPACE":
        return Stroke("SPACE", modifiers, " ", 32)
    return Stroke(key, modifiers)


def _character(character: str, modifiers: int) -> Stroke:
    consumed = 0
    if modifiers & SHIFT and character.islower() and len(character.upper()) == 1:
        character = character.upper()
    base = _SHIFTED.get(character, character)
    if character.isupper() and len(character.lower()) == 1:
        base = character.lower()
    if base != character:
        modifiers |= SHIFT
        consumed = SHIFT
    return Stroke(_key_of(base), modifiers, character, ord(base), consumed)


def _key_of(base: str) -> str:
    if "a" <= base <= "z":
        return base.upper()
    if "0" <= base <= "9":
        return f"DIGIT_{base}"
    return _PUNCTUATION.get(base, "UNIDENTIFIED")


def _unknown(name: str, rest: str) -> InvalidArgument:
    prefix = name[: len(name) - len(rest)]
    near = difflib.get_close_matches(rest.lower(), _BY_LOWER, n=3, cutoff=0.5)
    proper = {known.lower(): known for known in _NAMED}
    names = ", ".join(prefix + proper[word] for word in near)
    hint = (
        f"did you mean {names}?"
        if names
        else "use Enter, Tab, Escape, Up, F5, C-c, M-x, S-Tab, or one character"
    )
    return InvalidArgument("key_unknown", f"there is no key {name!r}", hint=hint, fields={"key": name})


_CURSOR = {"ARROW_UP": "A", "ARROW_DOWN": "B", "ARROW_RIGHT": "C", "ARROW_LEFT": "D", "HOME": "H", "END": "F"}
_TILDE = {"INSERT": 2, "DELETE": 3, "PAGE_UP": 5, "PAGE_DOWN": 6} | {
    f"F{number}": code for number, code in zip(range(5, 13), (15, 17, 18, 19, 20, 21, 23, 24), strict=True)
}
_FUNCTION = {"F1": "P", "F2": "Q", "F3": "R", "F4": "S"}
_SINGLE = {"ENTER": b"\r", "TAB": b"\t", "ESCAPE": b"\x1b", "SPACE": b" ", "BACKSPACE": b"\x7f"}
_CONTROLLED = {
    **{chr(code): code & 31 for code in range(ord("a"), ord("z") + 1)},
    **dict(zip(" @23456789/?-_", (0, 0, 0, 27, 28, 29, 30, 31, 127, 57, 31, 127, 31, 31), strict=True)),
    "[": 27,
    "\\": 28,
    "]": 29,
    "^": 30,
    "~": 30,
    "`": 0,
}


def legacy(wanted: Stroke) -> bytes:
    """What a terminal sends for a key while the program has set no mode."""
    modifiers = wanted.modifiers
    parameter = 1 + (modifiers & SHIFT) + (2 if modifiers & ALT else 0) + (4 if modifiers & CONTROL else 0)
    if wanted.key in _CURSOR:
        return f"\x1b[{'' if parameter == 1 else f'1;{parameter}'}{_CURSOR[wanted.key]}".encode()
    if wanted.key in _FUNCTION:
        return f"\x1b{'O' if parameter == 1 else f'[1;{parameter}'}{_FUNCTION[wanted.key]}".encode()
    if wanted.key in _TILDE:
        return f"\x1b[{_TILDE[wanted.key]}{'' if parameter == 1 else f';{parameter}'}~".encode()
    if wanted.key == "TAB" and modifiers & SHIFT:
        return b"\x1b[Z"
    sent = _SINGLE.get(wanted.key) or wanted.text.encode()
    if modifiers & CONTROL:
        if wanted.key == "BACKSPACE":
            sent = b"\x08"
        elif (code := _CONTROLLED.get(wanted.text.lower())) is not None:
            sent = bytes([code])
    return b"\x1b" + sent if modifiers & ALT else sent


_END_MARK = re.compile(rb"(?:\x1b\[|\xc2?\x9b)20[01]~")


def paste(data: bytes, *, bracketed: bool) -> bytes:
    """What pasting sends: newlines as Enter; or as it is, between marks, where the program asked for them."""
    if not bracketed:
        return data.replace(b"\r\n", b"\r").replace(b"\n", b"\r")
    # Taking one out can make another one of what was around it.
    while _END_MARK.search(data):
        data = _END_MARK.sub(b"", data)
    return b"\x1b[200~" + data + b"\x1b[201~"
