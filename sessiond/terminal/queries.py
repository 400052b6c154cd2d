"""Device queries in what a program prints: found, and taken out for those who are not to answer them.

An ESC begins a new sequence wherever it stands, so each is looked at without what came before it.
"""

from __future__ import annotations

import re

HELD = 64
"""A sequence that is not a query within so many bytes is none."""

# In a string: neither its end nor what breaks it off.
_STRING = rb"[^\x05\x07\x18\x1a\x1b]"
# ST, BEL, or the ESC of what follows, which ends a string too.
_END = rb"(?:\x07|\x1b\\|(?=\x1b[^\\]))"

_CSI = (
    rb"\??[0-9;]{0,40}n"  # DSR: status, cursor position, colour scheme
    rb"|[>=]?[0-9;]{0,40}c"  # DA
    rb"|\??[0-9;]{0,40}\$p"  # DECRQM
    rb"|>[0-9;]{0,40}q"  # XTVERSION
    rb"|\?u"  # flags of Kitty's keyboard protocol
    rb"|\?[0-9;]{0,40}m"  # XTQMODKEYS
    rb"|\?[0-9;]{0,40}S"  # XTSMGRAPHICS
    rb"|(?:1[1345689]|2[01])(?:;[0-9;]{0,40})?t"  # reports of the window: size, place, title
    rb"|[01]?x"  # DECREQTPARM
    rb"|[0-9;]{0,40}\$w"  # DECRQPSR
    rb"|[0-9;]{0,40}\*y"  # DECRQCRA
    rb"|&u"  # DECRQUPSS
    rb'|"v'  # DECRQDE
    rb"|#R|[0-9;]{0,40}#\|"  # XTREPORTCOLORS, XTREPORTSGR
)
_OSC_CODES = rb"(?:4|5|1[0-9]|21|22|50|52|99|702|1337|5522)"


def _pattern(most: int) -> re.Pattern[bytes]:
    """Queries, of which strings are at most so long without their ends."""
    room = _STRING + b"{0,%d}" % (most - 8)
    # A `?` where a value would stand, or iTerm2's and Kitty's words for it.
    asks = rb"(?=" + _STRING + rb"{0,%d}(?:\?|Report|Capabilities|type=read))" % most
    return re.compile(
        rb"\x05|\x1bZ"
        rb"|\x1b\[(?:" + _CSI + rb")"
        # Colours, pointer, fonts, clipboard.
        rb"|\x1b\]" + _OSC_CODES + rb";" + asks + room + _END
        # DECRQSS, XTGETTCAP, XTGETXRES.
        + rb"|\x1bP[0-9;]{0,8}(?:\$q|\+[qQ])" + room + _END
        # Kitty's graphics, asked whether they are there.
        + rb"|\x1b_G(?=" + _STRING + rb"{0,%d}a=q)" % most + room + _END
    )  # fmt: skip


# How each query but ENQ begins, and of those that are short their ends: almost all output has none of it, and
# this is told ten times as fast as what a query is.
_LIKELY = re.compile(
    rb"\x1b(?:"
    rb"\[(?:[>=?]?[0-9;]{0,40}+(?:[nctx]|\$[pw]|\*y|#[R|])|\?[0-9;]{0,40}+[mSu]|>[0-9;]{0,40}+q|&u|\"v)"
    rb"|\](?=[0-9])" + _OSC_CODES + rb";|P[0-9;]{0,8}+[$+]|_G|Z)"
)

# An escape that does not set colours, which most of them do.
_NO_COLOUR = re.compile(rb"\x1b(?!\[[0-9;:]*+m)")


def _unfinished(most: int) -> re.Pattern[bytes]:
    """A sequence at the end of a chunk that may yet become a query."""
    return re.compile(
        rb"\x1b(?:\[[<-?]?[0-9;]{0,40}[ -/]{0,2}|[\]P_]" + _STRING + rb"{0,%d}\x1b?)?\Z" % (most - 3)
    )


_MOST_SCANNED = 4096

_SHORT, _SHORT_UNFINISHED = _pattern(HELD), _unfinished(HELD)
_LONG, _LONG_UNFINISHED = _pattern(_MOST_SCANNED), _unfinished(_MOST_SCANNED)

_COLOURS = re.compile(rb"\x1b\]([0-9]+);(" + _STRING + rb"*)")


def _may_ask(text: bytes) -> bool:
    """Whether there may be a query in it: False where there is none."""
    other = _NO_COLOUR.search(text)
    return (other is not None and _LIKELY.search(text, other.start()) is not None) or b"\x05" in text


def _begun(unfinished: re.Pattern[bytes], text: bytes, most: int) -> re.Match[bytes] | None:
    """What has begun at the end of a chunk: with its last escape, or the one before where that may end it."""
    last = text.rfind(b"\x1b", -most)
    if last < 0:
        return None
    before = text.rfind(b"\x1b", max(0, len(text) - most), last) if last == len(text) - 1 else -1
    return unfinished.search(text, last if before < 0 else before)


class QueryScanner:
    """Whether a program asks its terminal something; keeps no more than an unfinished sequence."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Whether a whole query is in what came last, with what was unfinished before it."""
        text = self._tail + data if self._tail else data
        self._tail = b""
        if b"\x1b" not in text:
            return b"\x05" in text
        tail = _begun(_LONG_UNFINISHED, text, _MOST_SCANNED)
        if tail is not None:
            self._tail = tail[0]
        return _may_ask(text) and _LONG.search(text) is not None


class QueryFilter:
    """Takes device queries out of what a program prints; all else passes byte for byte."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """The data without queries. What may become one is held back, at most ``HELD`` bytes."""
        text = self._held + data if self._held else data
        self._held = b""
        if b"\x1b" not in text:
            return text.replace(b"\x05", b"")
        tail = _begun(_SHORT_UNFINISHED, text, HELD)
        passed = _SHORT.sub(_without_query, text) if _may_ask(text) else text
        if tail is None:
            return passed
        # It is no query yet, and so it is still there; what it ends may be one.
        self._held = tail[0]
        return passed[: -len(tail[0])]

    def flush(self) -> bytes:
        """What is held back."""
        held, self._held = self._held, b""
        return held


def _without_query(found: re.Match[bytes]) -> bytes:
    """What is left of a query: colours that it sets besides, each in a sequence of its own."""
    match = _COLOURS.match(found[0])
    if match is None:
        return b""
    code, values = int(match[1]), match[2].split(b";")
    end = found[0][match.end() :] or b"\x1b\\"
    if code in (4, 5):
        pairs = zip(values[::2], values[1::2], strict=False)
        kept = [b"%d;%s;%s" % (code, index, value) for index, value in pairs if value != b"?"]
    elif 10 <= code <= 19:
        kept = [
            b"%d;%s" % (code + place, value) for place, value in enumerate(values) if value not in (b"?", b"")
        ]
    else:
        return b""
    return b"".join(b"\x1b]" + one + end for one in kept)
