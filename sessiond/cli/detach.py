"""The key that leaves a terminal, told apart from what is typed for the program, in each form it comes in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A terminal whose program asked for it sends keys as
# `CSI code[:shifted[:base]] ; modifiers[:event] [; text] u` (kitty), or
# `CSI 27 ; modifiers ; code ~` (xterm).
_CODED = (
    rb"\x1b\[(?P<code>\d+)(?::(?P<shifted>\d*))?(?::(?P<base>\d*))?"
    rb"(?:;(?P<mods>\d*)(?::(?P<event>\d+))?(?:;[\d:]*)?)?u"
    rb"|\x1b\[27;(?P<xmods>\d+);(?P<xcode>\d+)~"
)
# The beginning of one of these, at the end of what was read.
_BEGUN = re.compile(rb"\x1b\[\d[\d:;]{0,40}\Z")
_SHIFT, _CONTROL = 1, 4
_LOCKS = 64 | 128
# Keys that are held with others; they say nothing by themselves.
_MODIFIER_KEYS = range(57441, 57455)
# Where a key needs shift on most keyboards, the key without it.
_UNSHIFTED = {"@": "2", "^": "6", "_": "-"}


@dataclass(frozen=True, slots=True)
class Typed:
    """Bytes for the program. ``silent``: the press or release of a modifier alone."""

    data: bytes
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Pressed:
    """The detach key was pressed; ``data`` is how it came."""

    data: bytes


class Keyboard:
    """What is typed, cut at the detach key (`ctrl-\\` and the like, as settings spell it)."""

    def __init__(self, key: str) -> None:
        letter = key[-1]
        self._byte = ord(letter.upper()) & 0x1F
        self._codes = {ord(letter), ord(letter.upper()), ord(_UNSHIFTED.get(letter, letter))}
        self._pattern = re.compile(b"(?P<plain>" + re.escape(bytes([self._byte])) + b")|" + _CODED)
        self._held = b""

    @property
    def held(self) -> bool:
        """Whether the beginning of a key is held back until the rest of it comes."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[Typed | Pressed]:
        """What was typed, in order."""
        data, self._held = self._held + data, b""
        if begun := _BEGUN.search(data):
            data, self._held = data[: begun.start()], data[begun.start() :]
        done = 0
        for match in self._pattern.finditer(data):
            kind = self._kind(match)
            if kind is None:
                continue
            if match.start() > done:
                yield Typed(data[done : match.start()])
            done = match.end()
            if kind == "press":
                yield Pressed(match[0])
            elif kind == "modifier":
                yield Typed(match[0], silent=True)
        if done < len(data):
            yield Typed(data[done:])

    def flush(self) -> bytes:
        """What was held back: the rest did not come."""
        held, self._held = self._held, b""
        return held

    def _kind(self, match: re.Match[bytes]) -> str | None:
        """`press` or `release` of the detach key, `modifier` for such a key; None for all others."""
        if match["plain"] is not None:
            return "press"
        if match["xcode"] is not None:
            return "press" if self._is_key({int(match["xcode"])}, int(match["xmods"])) else None
        codes = {int(match[name]) for name in ("code", "shifted", "base") if match[name]}
        if int(match["code"]) in _MODIFIER_KEYS:
            return "modifier"
        if not self._is_key(codes, int(match["mods"] or 1)):
            return None
        return "press" if match["event"] in (None, b"1") else "release"

    def _is_key(self, codes: set[int], modifiers: int) -> bool:
        held = (modifiers - 1) & ~_LOCKS
        return bool(codes & self._codes) and held & _CONTROL != 0 and held & ~_SHIFT == _CONTROL
