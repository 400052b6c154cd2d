"""A terminal emulator: what would be seen of what a program prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ScreenText:
    """A screen written down: ``content`` as asked for, the cursor from 0, and what else is known of it."""

    content: str
    columns: int
    rows: int
    cursor_column: int
    cursor_row: int
    title: str = ""
    alternate: bool = False
    degraded: bool = False


class Screen(Protocol):
    """A terminal without a window: fed with what a program prints, it knows what would be seen."""

    def feed(self, data: bytes) -> bytes:
        """Take output of the program; returns what a terminal would send back for it (device queries)."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Change its size, reflowing as terminals do."""
        ...

    def drawing(self, scrollback: int = 0) -> bytes:
        """Escape sequences that bring a cleared terminal of its size to the same state: cells, cursor, modes,
        alternate screen, title, colours; before them so many lines of scrollback."""
        ...

    def write_down(self, form: str, scrollback: int = 0) -> ScreenText:
        """The screen as `text`, `ansi` or `html`."""
        ...

    def encode_key(self, name: str) -> bytes:
        """What a key sends in the present modes. Raises InvalidArgument `key_unknown`."""
        ...

    def encode_paste(self, data: bytes) -> bytes:
        """What pasting sends: between marks where the program asked for them, without the end mark inside."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        ...

    def close(self) -> None:
        """Free it; idempotent."""
        ...
