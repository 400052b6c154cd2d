"""Where output may be cut: what is drawn ends between sequences, whatever the kernel handed out together."""

from __future__ import annotations

# Looked back so far; a longer string (a clipboard, a picture) that is cut shows as text once.
LOOK_BACK = 4096

_ESC = 0x1B
_CSI, _OSC, _STRINGS = 0x5B, 0x5D, b"PX^_"
_BEL, _CAN, _SUB = 0x07, 0x18, 0x1A


def unfinished(tail: bytes) -> int:
    """Length of the escape sequence or character that has begun at the end of some output and not ended."""
    begin = tail.rfind(_ESC)
    if begin >= 0 and begin == len(tail) - 1:
        # It may be half of what ends a string.
        before = tail.rfind(_ESC, 0, begin)
        return len(tail) - (before if before >= 0 and _open(tail[:begin], before) else begin)
    if begin >= 0 and _open(tail, begin):
        return len(tail) - begin
    return _unfinished_character(tail)


def _open(tail: bytes, begin: int) -> bool:
    """Whether the sequence that the last escape begins has no end."""
    kind, rest = tail[begin + 1], tail[begin + 2 :]
    if _CAN in rest or _SUB in rest:
        return False
    if kind == _OSC:
        return _BEL not in rest
    if kind in _STRINGS:
        # Only another escape would end it.
        return True
    if kind == _CSI:
        return all(byte <= 0x3F for byte in rest)
    return 0x20 <= kind <= 0x2F and all(byte <= 0x2F for byte in rest)


def _unfinished_character(tail: bytes) -> int:
    for back in range(1, min(4, len(tail)) + 1):
        byte = tail[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return back if wanted > back else 0
    return 0
