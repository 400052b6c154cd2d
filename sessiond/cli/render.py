"""Text for people: tables that fit the terminal, pages of keys and values, colours where they are wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from datetime import datetime

GREEN, RED, YELLOW, BLUE, DIM, BOLD = "32", "31", "33", "34", "2", "1"

STATE_COLOURS = {
    "active": GREEN,
    "starting": YELLOW,
    "stopping": YELLOW,
    "error": RED,
    "unknown": YELLOW,
    "inactive": DIM,
    "archived": DIM,
}
AGENT_COLOURS = {
    "running": GREEN,
    "starting": YELLOW,
    "paused": BLUE,
    "failed": RED,
    "unknown": YELLOW,
    "completed": DIM,
    "terminated": DIM,
}
GAP = "  "
# A column that is cut keeps so many.
_LEAST = 8
ELLIPSIS = "…"


def colours(stream: TextIO | None = None) -> bool:
    """Whether colours are wanted: a terminal, and neither NO_COLOR nor a dumb one."""
    stream = stream or sys.stdout
    return (
        stream is not None
        and stream.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )


def paint(text: str, *codes: str, on: bool) -> str:
    """The text in a colour, where colours are on."""
    return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if on and codes and text else text


def state_text(state: str, *, on: bool) -> str:
    """A state in its colour."""
    return paint(state, STATE_COLOURS.get(state, ""), on=on and state in STATE_COLOURS)


def plain(text: str, *, keep_newlines: bool = False) -> str:
    """Text as it can be shown on one line: what would move the cursor or change the terminal is escaped."""
    if text.isprintable():
        return text
    return "".join(_shown(c) if not (keep_newlines and c == "\n") else c for c in text)


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def terminal_width() -> int | None:
    """Columns of the terminal that is printed on; None where it is no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return 80


def cut(text: str, columns: int, *, front: bool = False) -> str:
    """The text in at most so many columns, with an ellipsis at the end (or the front) where it was cut."""
    if width(text) <= columns:
        return text
    if columns <= 1:
        return ELLIPSIS[:columns]
    rest = list(reversed(text)) if front else list(text)
    kept: list[str] = []
    used = 1
    for char in rest:
        used += width(char)
        if used > columns:
            break
        kept.append(char)
    return ELLIPSIS + "".join(reversed(kept)) if front else "".join(kept) + ELLIPSIS


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    shrink: Sequence[int] = (),
    paths: Sequence[int] = (),
    colour: dict[int, dict[str, str]] | None = None,
    notes: dict[int, list[str]] | None = None,
) -> list[str]:
    """Lines of a table that fit the terminal.

    ``shrink`` are the columns that may be cut, the first named first; ``paths`` those cut at their
    front; ``colour`` maps a column's words to colours; ``notes`` are lines to put below a row.
    """
    on = colours()
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max([width(name), *(width(row[i]) for row in cells)]) for i, name in enumerate(header)]
    _fit(widths, header, shrink)
    lines = [paint(_line(header, widths).rstrip(), BOLD, on=on)]
    for index, row in enumerate(cells):
        fitted = [cut(cell, widths[i], front=i in paths) for i, cell in enumerate(row)]
        padded = [_pad(cell, widths[i]) for i, cell in enumerate(fitted)]
        for column, words in (colour or {}).items():
            code = words.get(row[column])
            if code:
                padded[column] = paint(padded[column], code, on=on)
        lines.append(GAP.join(padded).rstrip())
        lines += [paint(f"{GAP}! {plain(note)}", YELLOW, on=on) for note in (notes or {}).get(index, [])]
    return lines


def least_width(header: Sequence[str], rows: Sequence[Sequence[str]], shrink: Sequence[int]) -> int:
    """Columns that a table takes at least, with the columns that may be cut as narrow as they become."""
    total = len(GAP) * (len(header) - 1)
    for i, name in enumerate(header):
        widest = max([width(name), *(width(plain(row[i])) for row in rows)])
        total += min(widest, max(width(name), _LEAST)) if i in shrink else widest
    return total


def _fit(widths: list[int], header: Sequence[str], shrink: Sequence[int]) -> None:
    columns = terminal_width()
    if columns is None:
        return
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - columns
    for column in shrink:
        if excess <= 0:
            return
        least = max(width(header[column]), _LEAST)
        taken = min(excess, max(0, widths[column] - least))
        widths[column] -= taken
        excess -= taken


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return GAP.join(_pad(cell, widths[i]) for i, cell in enumerate(cells))


def _pad(text: str, columns: int) -> str:
    return text + " " * (columns - width(text))


def page(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of keys and values; values of several lines are indented below each other."""
    on = colours()
    longest = max((len(key) for key, _ in rows), default=0)
    lines = []
    for key, value in rows:
        first, *more = value.split("\n")
        lines.append(f"{paint(key.rjust(longest), BOLD, on=on)}: {first}")
        lines += [" " * (longest + 2) + line for line in more]
    return lines


def home_path(path: str) -> str:
    """A path as a person on a terminal writes it, with ~ for the home folder."""
    home = os.path.expanduser("~")
    if terminal_width() is not None and home not in ("/", "") and path.startswith(home + "/"):
        return "~" + path[len(home) :]
    return path


def ago(when: str | None, *, now: float | None = None) -> str:
    """How long ago a time was, in one or two words; `-` for none."""
    seconds = age(when, now=now)
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{int(seconds)}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}min"
    if seconds < 86400:
        return f"{int(seconds // 3600)}h"
    return f"{int(seconds // 86400)}d"


def age(when: str | None, *, now: float | None = None) -> float | None:
    """Seconds since an RFC 3339 time; None for none."""
    moment = parse_time(when)
    if moment is None:
        return None
    import time

    return max(0.0, (time.time() if now is None else now) - moment.timestamp())


def parse_time(when: str | None) -> datetime | None:
    """The datetime of an RFC 3339 time in UTC, or None."""
    if not when:
        return None
    from datetime import datetime

    text = when.removesuffix("Z")
    head, dot, fraction = text.partition(".")
    return datetime.fromisoformat(f"{head}{dot}{fraction[:6].ljust(6, '0') if dot else ''}+00:00")


def local_time(when: str | None) -> str:
    """A time as a person reads it, in the local zone, with how long ago; `-` for none."""
    moment = parse_time(when)
    if moment is None:
        return "-"
    return f"{moment.astimezone():%a %Y-%m-%d %H:%M:%S %Z}; {ago(when)} ago"


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in ("B", "K", "M", "G", "T"):
        if amount < 1024 or unit == "T":
            return f"{int(amount)}B" if unit == "B" else f"{amount:.1f}{unit}"
        amount /= 1024
    raise AssertionError("unreachable")


def seconds(amount: float | None) -> str:
    """A duration for people, as systemctl writes CPU time."""
    if amount is None:
        return "unknown"
    if amount < 1:
        return f"{amount * 1000:.0f}ms"
    if amount < 60:
        return f"{amount:.3f}s"
    minutes, rest = divmod(int(amount), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}min {rest}s" if hours else f"{minutes}min {rest}s"


def seconds_short(amount: float) -> str:
    """A duration for a column: `12ms`, `3.2s`, `5min`, `2h`, `3d`."""
    if amount < 1:
        return f"{amount * 1000:.0f}ms"
    if amount < 60:
        return f"{amount:.1f}s"
    if amount < 3600:
        return f"{int(amount // 60)}min"
    return f"{int(amount // 3600)}h" if amount < 86400 else f"{int(amount // 86400)}d"
