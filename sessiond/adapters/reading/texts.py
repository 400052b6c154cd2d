"""Values of foreign files as they are, or nothing: no number, date or text in them may be trusted."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

SHORT: Final = 200
TEXT_MAX: Final = 20_000
TOOL_MAX: Final = 4_000

# What SQLite and the wire can hold.
_COUNT_MAX: Final = 2**63 - 1


def shorten(text: str, most: int = SHORT) -> str:
    """On one line, without control characters, and no longer than that; the end of what is longer is `…`."""
    begin = text[:most]
    if begin.isprintable() and "  " not in begin:
        # Nearly all are so.
        return begin.strip() if len(text) <= most else begin[:-1].rstrip() + "…"
    # Far more than can be left after runs of blanks became one, far less than a prompt may hold.
    line = " ".join(text[: most * 8].split())
    if not line.isprintable():
        line = "".join(character for character in line if character.isprintable())
    if len(line) > most:
        return line[: most - 1] + "…"
    return line if len(text) <= most * 8 or not line else line[: most - 1] + "…"


def cut(text: str, most: int = TEXT_MAX) -> tuple[str, bool]:
    """The text, no longer than that, and whether it was; what no UTF-8 can hold is replaced."""
    kept = text[:most]
    if not kept.isascii():
        kept = kept.encode("utf-8", "replace").decode("utf-8")
    return kept, len(text) > most


def as_text(value: object) -> str:
    """It, if it is text."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int | None:
    """It, if it counts something."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value <= _COUNT_MAX else None


def as_amount(value: object) -> float | None:
    """It, if it is a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def from_iso(value: object) -> datetime | None:
    """A moment written as ISO 8601, in UTC where it does not say."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def from_seconds(value: object) -> datetime | None:
    """A moment given in seconds since 1970."""
    amount = as_amount(value)
    if not amount:
        return None
    try:
        return datetime.fromtimestamp(amount, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def from_milliseconds(value: object) -> datetime | None:
    """A moment given in milliseconds since 1970."""
    amount = as_amount(value)
    return from_seconds(amount / 1000) if amount else None


def absolute(value: object) -> str:
    """It, if it is an absolute path that can exist."""
    return value if isinstance(value, str) and value.startswith("/") and _whole(value) else ""


def _whole(text: str) -> bool:
    return "\0" not in text and len(text) <= 4096 and (text.isascii() or _encodes(text))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
