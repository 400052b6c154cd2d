"""The screen on Ghostty's terminal core, through its C interface. Importing this loads the library."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import replace
from typing import Any

from pyghostty._ffi import ffi, lib, union_fn

from sessiond.errors import Exhausted, SessiondError
from sessiond.ports import ScreenText
from sessiond.terminal.drawing import draw
from sessiond.terminal.fallback import unknown_form
from sessiond.terminal.keys import Stroke, legacy, paste, stroke
from sessiond.terminal.plain import PlainText
from sessiond.terminal.rows import ansi_of
from sessiond.terminal.snapshot import Row, SnapshotError, TerminalState, read, text_of

CELL_WIDTH, CELL_HEIGHT = 8, 16
"""Pixels of a cell, for programs that ask: nobody knows the viewer's."""

# What the program is told of colours where it asks and nobody looks; a viewer has its own.
_FOREGROUND, _BACKGROUND = (0xD0, 0xD0, 0xD0), (0, 0, 0)

_CONTINUATION_BYTES = 64 * 1024
_PIECE = 32 * 1024
"""Less than what is kept of an unfinished sequence, so that its beginning is seen."""
_APC_BYTES = 64 * 1024

# How a hyperlink begins, with what a terminal passes over within; and the end of data that may begin one.
_ESCAPE, _IGNORED = rb"\x1b[\x00-\x17\x19\x1c-\x1f\x7f]*", rb"[\x00-\x06\x08-\x17\x19\x1c-\x1f]*"
_LINK = re.compile(_ESCAPE + rb"\]" + _IGNORED + b"8" + _IGNORED + b";")
_LINK_BEGUN = re.compile(_ESCAPE + rb"(?:\]" + _IGNORED + rb"(?:8" + _IGNORED + rb")?)?\Z")
_LONGEST_BEGINNING = 64

# What is left of a sequence that was broken off, by its first bytes: where that ends, and what has a viewer's
# terminal pass over it too.
_STRING_END, _SEQUENCE_END = re.compile(rb"[\x18\x1a\x1b]"), re.compile(rb"[\x18\x1a\x1b@-~]")
_REST = defaultdict(
    lambda: _SEQUENCE_END,
    {
        b"\x1b]": re.compile(rb"[\x07\x18\x1a\x1b]"),
        b"\x1bP": _STRING_END,
        b"\x1b_": _STRING_END,
        b"\x1b^": _STRING_END,
        b"\x1bX": _STRING_END,
    },
)
_WITHOUT_EFFECT = defaultdict(
    lambda: b"\x1b[0<",
    {
        b"\x1b]": b"\x1b]777777;",
        b"\x1bP": b"\x1bP~",
        b"\x1b_": b"\x1b_x",
        b"\x1b^": b"\x1b^",
        b"\x1bX": b"\x1bX",
    },
)


class GhosttyScreen:
    """A Screen. Not safe for use by several threads at once."""

    def __init__(self, columns: int, rows: int, scrollback: int) -> None:
        made = ffi.new("GhosttyTerminal*")
        if lib.ghostty_terminal_new(ffi.NULL, made, columns, rows) != lib.GHOSTTY_SUCCESS:
            raise _no_memory(columns, rows)
        self._terminal: Any = made[0]
        self._columns, self._rows = columns, rows
        self._scrollback = scrollback
        self._plain = PlainText()
        self._replies = bytearray()
        self._unfinished = b""
        self._broken = b""
        self._held = b""
        self._encoder: Any = None
        self._event: Any = None
        # The callbacks find their screen by it; it lives as long as the terminal.
        self._handle = ffi.new_handle(self)
        try:
            self._configure(scrollback)
        except BaseException:
            self.close()
            raise

    def _configure(self, scrollback: int) -> None:
        self._set("USERDATA", self._handle)
        self._set("WRITE_PTY", _write_pty)
        self._set("SIZE", _size)
        self._set("COLOR_SCHEME", _colour_scheme)
        self._set("DEVICE_ATTRIBUTES", _device_attributes)
        # Lines bound it, whole pages of them at a time; its bound in bytes would keep a few hundred.
        self._set("SCROLLBACK_MAX_BYTES", ffi.NULL)
        self._set("SCROLLBACK_MAX_LINES", ffi.new("size_t*", scrollback))
        self._set("KITTY_IMAGE_STORAGE_LIMIT", ffi.new("uint64_t*", 0))
        self._set("APC_MAX_BYTES", ffi.new("size_t*", _APC_BYTES))
        self._set("CONTINUATION_MAX_BYTES", ffi.new("size_t*", _CONTINUATION_BYTES))
        self._set("CLIPBOARD_WRITE_MAX_BYTES", ffi.new("size_t*", _APC_BYTES))
        self._set("GLYPH_PROTOCOL", ffi.new("bool*", False))
        for name, colour in (
            ("FOREGROUND", _FOREGROUND),
            ("BACKGROUND", _BACKGROUND),
            ("CURSOR", _FOREGROUND),
        ):
            self._set(f"COLOR_{name}", ffi.new("GhosttyColorRgb*", colour))
        # The pixels count for reports alone.
        self._fit(self._columns, self._rows)

    def feed(self, data: bytes) -> bytes:
        """Take output of the program; returns what a terminal would send back for it."""
        passed = self._without_links(data)
        # Twice the rows: those that were there before have scrolled off as well.
        lines = self._scrollback + 2 * self._rows
        passed = self._plain.shortened(passed, lines, inside=bool(self._unfinished))
        for start in range(0, len(passed), _PIECE):
            self._write(passed[start : start + _PIECE])
        if self._cells() != (self._columns, self._rows):
            # The program asked for 132 columns; its terminal keeps the size that its viewers gave it.
            self._fit(self._columns, self._rows)
        replies = bytes(self._replies)
        self._replies.clear()
        return replies

    def resize(self, columns: int, rows: int) -> None:
        """Change its size; the primary screen's lines are broken anew."""
        self._fit(columns, rows)
        self._columns, self._rows = columns, rows

    def drawing(self, scrollback: int = 0) -> bytes:
        """See the port; a drawing taken within an escape sequence ends with what there is of it."""
        return draw(self.state(scrollback), scrollback)

    def write_down(self, form: str, scrollback: int = 0) -> ScreenText:
        """See the port. Raises InvalidArgument `screen_format_unknown`."""
        state = self.state(scrollback)
        screen = state.screen
        rows = [*(screen.history[-scrollback:] if scrollback > 0 else []), *screen.rows]
        if form == "html":
            content = self._html(len(rows) - len(screen.rows))
        elif form in ("text", "ansi"):
            content = _written(rows, ansi=form == "ansi")
        else:
            raise unknown_form(form)
        return ScreenText(
            content=content,
            columns=state.columns,
            rows=state.row_count,
            cursor_column=screen.cursor.column,
            cursor_row=screen.cursor.row,
            title=state.title.decode(errors="replace"),
            alternate=state.alternate,
        )

    def encode_key(self, name: str) -> bytes:
        """See the port."""
        wanted = stroke(name)
        if self._encoder is None:
            self._encoder = _made("GhosttyKeyEncoder", lib.ghostty_key_encoder_new)
            self._event = _made("GhosttyKeyEvent", lib.ghostty_key_event_new)
        lib.ghostty_key_encoder_setopt_from_terminal(self._encoder, self._open())
        if wanted.text and wanted.modifiers == wanted.consumed and not self._keyboard_flags():
            return wanted.text.encode()
        # Where the program asked for nothing else, a modifier that a character cannot show is left out, as
        # terminals of old did; the library would send a sequence that few such programs know.
        if wanted.plain and self._encoded(stroke("C-a")) == b"\x01":
            return legacy(wanted)
        return self._encoded(wanted)

    def encode_paste(self, data: bytes) -> bytes:
        """See the port."""
        return paste(data, bracketed=self._mode(2004))

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._columns, self._rows

    def close(self) -> None:
        """Free it; idempotent."""
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            lib.ghostty_terminal_free(terminal)
        encoder, self._encoder = self._encoder, None
        event, self._event = self._event, None
        if encoder is not None:
            lib.ghostty_key_encoder_free(encoder)
        if event is not None:
            lib.ghostty_key_event_free(event)

    def __del__(self) -> None:
        if getattr(self, "_terminal", None) is not None:
            self.close()

    def state(self, history: int = sys.maxsize) -> TerminalState:
        """All that it knows, with at least so many lines of what has scrolled off, if there are."""
        if self._terminal is not None and self._unfinished and not self._continued():
            # Too long to be told to a viewer, and for any use: it is broken off here, and its rest with it.
            self._broken = self._unfinished
            self._take(b"\x18")
        try:
            found = read(self._snapshot(), history)
        except SnapshotError:
            self._mend()
            try:
                found = read(self._snapshot(), history)
            except SnapshotError as error:
                raise SessiondError("screen_unreadable", str(error)) from error
        begun = _WITHOUT_EFFECT[self._broken] if self._broken else found.continuation
        return replace(found, continuation=begun + self._held)

    # ---- inside ----

    def _snapshot(self) -> bytes:
        sink = _Sink()
        handle = ffi.new_handle(sink)
        writer = ffi.new("GhosttyWriter*", {"write": _collect, "userdata": handle})
        result = lib.ghostty_snapshot_encode(self._open(), writer[0])
        if result != lib.GHOSTTY_SUCCESS:
            raise SnapshotError(f"the terminal emulator cannot tell its state ({result})")
        return bytes(sink.data)

    def _mend(self) -> None:
        """Write the screen anew from what is seen of it: the library holds cells that it will not tell.

        It gets there by a wide character in a terminal of one column that was made wider and narrow again.
        """
        options = _sized("GhosttyFormatterTerminalOptions")
        options.emit = lib.GHOSTTY_FORMATTER_FORMAT_VT
        options.extra.modes = options.extra.screen.cursor = options.extra.screen.style = True
        seen = self._formatted(options)
        lib.ghostty_terminal_reset(self._open())
        self._fit(self._columns, self._rows)
        self._take(seen)
        self._replies.clear()

    def _without_links(self, data: bytes) -> bytes:
        """The data with hyperlinks made into sequences that nobody knows.

        Where a few thousand linked cells are moved, the library panics (0.1.0-dev: "increaseCapacity
        OutOfSpace") and ends the daemon with it, each time that the daemon reads the record.
        """
        text = self._held + data if self._held else data
        self._held = b""
        if b"\x1b" not in text:
            return text
        tail = _LINK_BEGUN.search(text, max(0, len(text) - 2 * _LONGEST_BEGINNING))
        if tail is not None:
            text = text[: tail.start()]
            if len(tail[0]) <= _LONGEST_BEGINNING:
                self._held = tail[0]
            else:
                text += b"\x18"
        return _LINK.sub(b"\x1b]777777;", text)

    def _write(self, data: bytes) -> None:
        if self._broken:
            end = _REST[self._broken].search(data)
            if end is None:
                return
            data = data[end.start() + (end[0] not in b"\x1b\x18\x1a") :]
            self._broken = b""
        self._take(data)

    def _take(self, data: bytes) -> None:
        lib.ghostty_terminal_vt_write(self._open(), ffi.from_buffer(data), len(data))
        ground = ffi.new("bool*")
        lib.ghostty_terminal_get(self._terminal, lib.GHOSTTY_TERMINAL_DATA_VT_GROUND, ground)
        if ground[0]:
            self._unfinished = b""
        elif beginning := self._continued():
            # Of a sequence longer than is kept, it is known by what it began with.
            self._unfinished = beginning[:2]

    def _continued(self) -> bytes:
        """What there is of an unfinished sequence; empty where that is more than is kept."""
        size = ffi.new("size_t*")
        lib.ghostty_terminal_continuation_buf(self._open(), ffi.NULL, 0, size)
        if not size[0]:
            return b""
        buffer = ffi.new("uint8_t[]", size[0])
        result = lib.ghostty_terminal_continuation_buf(self._open(), buffer, len(buffer), size)
        return bytes(ffi.buffer(buffer, size[0])) if result == lib.GHOSTTY_SUCCESS else b""

    def _open(self) -> Any:
        if self._terminal is None:
            raise ValueError("the screen is closed")
        return self._terminal

    def _set(self, name: str, value: Any) -> None:
        option = getattr(lib, f"GHOSTTY_TERMINAL_OPT_{name}")
        result = lib.ghostty_terminal_set(self._open(), option, value)
        if result != lib.GHOSTTY_SUCCESS:
            raise SessiondError(
                "emulator_refuses", f"the terminal emulator refuses {name.lower()} ({result})"
            )

    def _cells(self) -> tuple[int, int]:
        lib.ghostty_terminal_get(self._open(), lib.GHOSTTY_TERMINAL_DATA_COLS, _number)
        columns = int(_number[0])
        lib.ghostty_terminal_get(self._open(), lib.GHOSTTY_TERMINAL_DATA_ROWS, _number)
        return columns, int(_number[0])

    def _fit(self, columns: int, rows: int) -> None:
        result = lib.ghostty_terminal_resize(self._open(), columns, rows, CELL_WIDTH, CELL_HEIGHT)
        if result != lib.GHOSTTY_SUCCESS:
            raise _no_memory(columns, rows)

    def _keyboard_flags(self) -> int:
        flags = ffi.new("uint8_t*")
        lib.ghostty_terminal_get(self._open(), lib.GHOSTTY_TERMINAL_DATA_KITTY_KEYBOARD_FLAGS, flags)
        return int(flags[0])

    def _mode(self, number: int) -> bool:
        asked = ffi.new("GhosttyTerminalModeConfig*", {"mode": number})
        lib.ghostty_terminal_get(self._open(), lib.GHOSTTY_TERMINAL_DATA_MODE, asked)
        return bool(asked.value)

    def _encoded(self, wanted: Stroke) -> bytes:
        event = self._event
        text = ffi.new("char[]", wanted.text.encode())
        lib.ghostty_key_event_set_action(event, lib.GHOSTTY_KEY_ACTION_PRESS)
        lib.ghostty_key_event_set_key(event, getattr(lib, f"GHOSTTY_KEY_{wanted.key}"))
        lib.ghostty_key_event_set_mods(event, wanted.modifiers)
        # Shift went into the character where it made another one of it.
        lib.ghostty_key_event_set_consumed_mods(event, wanted.consumed)
        lib.ghostty_key_event_set_utf8(event, text, len(text) - 1)
        lib.ghostty_key_event_set_unshifted_codepoint(event, wanted.unshifted)
        buffer = ffi.new("char[]", 128)
        written = ffi.new("size_t*")
        result = lib.ghostty_key_encoder_encode(self._encoder, event, buffer, len(buffer), written)
        # The event keeps the address of the text.
        lib.ghostty_key_event_set_utf8(event, ffi.NULL, 0)
        if result != lib.GHOSTTY_SUCCESS:
            raise SessiondError("key_not_encoded", f"the terminal emulator cannot encode that key ({result})")
        # A key that sends nothing in the present modes is sent as terminals of old did.
        return bytes(ffi.buffer(buffer, written[0])) or legacy(wanted)

    def _html(self, history: int) -> str:
        """The last so many lines that scrolled off and the screen, as one fragment of HTML."""
        selection = _sized("GhosttySelection")
        first = self._total_rows() - self._rows - history
        selection.start = self._cell(0, first)[0]
        selection.end = self._cell(self._columns - 1, self._total_rows() - 1)[0]
        options = _sized("GhosttyFormatterTerminalOptions")
        options.emit = lib.GHOSTTY_FORMATTER_FORMAT_HTML
        # Cells name their colours by number; without what those are, a browser shows none.
        options.extra.palette = True
        options.selection = selection
        return self._formatted(options).decode(errors="replace") + "\n"

    def _formatted(self, options: Any) -> bytes:
        formatter = ffi.new("GhosttyFormatter*")
        result = lib.ghostty_formatter_terminal_new(ffi.NULL, formatter, self._open(), options[0])
        if result == lib.GHOSTTY_SUCCESS:
            sink = _Sink()
            handle = ffi.new_handle(sink)
            writer = ffi.new("GhosttyWriter*", {"write": _collect, "userdata": handle})
            result = lib.ghostty_formatter_format(formatter[0], writer[0])
            lib.ghostty_formatter_free(formatter[0])
        if result != lib.GHOSTTY_SUCCESS:
            raise SessiondError(
                "screen_unreadable", f"the terminal emulator cannot show its cells ({result})"
            )
        return bytes(sink.data)

    def _total_rows(self) -> int:
        total = ffi.new("size_t*")
        lib.ghostty_terminal_get(self._open(), lib.GHOSTTY_TERMINAL_DATA_TOTAL_ROWS, total)
        return int(total[0])

    def _cell(self, column: int, row: int) -> Any:
        point = ffi.new("GhosttyPointS*")
        point.tag = lib.GHOSTTY_POINT_TAG_SCREEN
        point.value.x, point.value.y = column, row
        reference = _sized("GhosttyGridRef")
        find = union_fn(
            "ghostty_terminal_grid_ref", "GhosttyResult(*)(GhosttyTerminal, GhosttyPointS, GhosttyGridRef*)"
        )
        result = find(self._open(), point[0], reference)
        if result != lib.GHOSTTY_SUCCESS:
            raise SessiondError("screen_unreadable", f"the terminal emulator knows no row {row} ({result})")
        return reference


class _Sink:
    """Collects what the library writes."""

    def __init__(self) -> None:
        self.data = bytearray()


def _written(rows: list[Row], *, ansi: bool) -> str:
    write = ansi_of if ansi else text_of
    return "".join(write(row) + "\n" for row in rows)


def _no_memory(columns: int, rows: int) -> Exhausted:
    return Exhausted(
        "screen_too_large",
        f"the terminal emulator has no memory for {columns} columns and {rows} rows",
        hint="give the terminal a smaller size",
        fields={"columns": str(columns), "rows": str(rows)},
    )


def _made(name: str, make: Any) -> Any:
    made = ffi.new(f"{name}*")
    if make(ffi.NULL, made) != lib.GHOSTTY_SUCCESS:
        raise Exhausted("out_of_memory", "the terminal emulator has no memory left")
    return made[0]


def _sized(name: str) -> Any:
    """A struct of the library, in which each struct tells its size."""
    made = ffi.new(f"{name}*")
    _tell_sizes(made)
    return made


def _tell_sizes(made: Any) -> None:
    kind = ffi.typeof(made).item
    for name, member in kind.fields:
        if name == "size":
            made.size = ffi.sizeof(kind)
        elif member.type.kind == "struct":
            _tell_sizes(ffi.addressof(made[0], name))


_number = ffi.new("uint16_t*")


def _on_write_pty(_terminal: Any, userdata: Any, data: Any, size: int) -> None:
    screen: GhosttyScreen = ffi.from_handle(userdata)
    screen._replies += ffi.buffer(data, size)


def _on_size(_terminal: Any, userdata: Any, out: Any) -> bool:
    screen: GhosttyScreen = ffi.from_handle(userdata)
    out.columns, out.rows = screen.size
    out.cell_width, out.cell_height = CELL_WIDTH, CELL_HEIGHT
    return True


def _on_colour_scheme(_terminal: Any, _userdata: Any, out: Any) -> bool:
    out[0] = lib.GHOSTTY_COLOR_SCHEME_DARK
    return True


def _on_device_attributes(_terminal: Any, _userdata: Any, out: Any) -> bool:
    # A VT220 with colours.
    out.primary.conformance_level = 62
    out.primary.features[0] = 22
    out.primary.num_features = 1
    out.secondary.device_type = 1
    out.secondary.firmware_version = 10
    out.secondary.rom_cartridge = 0
    out.tertiary.unit_id = 0
    return True


def _on_collect(userdata: Any, data: Any, size: int) -> bool:
    sink: _Sink = ffi.from_handle(userdata)
    sink.data += ffi.buffer(data, size)
    return True


# One of each for all screens.
_write_pty = ffi.callback("GhosttyTerminalWritePtyFn", _on_write_pty)
_size = ffi.callback("GhosttyTerminalSizeFn", _on_size)
_colour_scheme = ffi.callback("GhosttyTerminalColorSchemeFn", _on_colour_scheme)
_device_attributes = ffi.callback("GhosttyTerminalDeviceAttributesFn", _on_device_attributes)
_collect = ffi.callback("GhosttyWriterFn", _on_collect)
