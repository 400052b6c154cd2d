"""The modes of a terminal that its emulator knows, and the bits that its snapshots keep them in."""

from __future__ import annotations

from dataclasses import dataclass

_KEYPAD = 66


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode. ``simple``: setting it changes nothing else, so that a drawing may set it at its end."""

    bit: int
    number: int
    default: bool = False
    ansi: bool = False
    simple: bool = True

    def on(self, modes: int) -> bool:
        """Whether it is set in a set of modes."""
        return bool(modes >> self.bit & 1)

    def sequence(self, on: bool) -> bytes:
        """What sets or resets it."""
        if self.number == _KEYPAD:
            # Older than the mode's number, and known to terminals that do not know that.
            return b"\x1b=" if on else b"\x1b>"
        return b"\x1b[%s%d%s" % (b"" if self.ansi else b"?", self.number, b"h" if on else b"l")

    def save(self) -> bytes:
        """What has the terminal keep its value; there is none for ANSI modes."""
        return b"" if self.ansi else b"\x1b[?%ds" % self.number

    def restore(self) -> bytes:
        """What brings the value back that was kept."""
        return b"" if self.ansi else b"\x1b[?%dr" % self.number


MODES = (
    Mode(0, 2, ansi=True),
    Mode(1, 4, ansi=True),
    Mode(2, 12, default=True, ansi=True),
    Mode(3, 20, ansi=True),
    Mode(4, 1),
    # Sets the width of the terminal, which is its viewer's own.
    Mode(5, 3, simple=False),
    Mode(6, 4),
    Mode(7, 5),
    Mode(8, 6, simple=False),
    Mode(9, 7, default=True),
    Mode(10, 8),
    Mode(11, 9, simple=False),
    Mode(12, 12),
    Mode(13, 25, default=True),
    Mode(14, 40),
    Mode(15, 45),
    Mode(16, 47, simple=False),
    Mode(17, _KEYPAD),
    Mode(18, 67),
    Mode(19, 69, simple=False),
    Mode(20, 1000, simple=False),
    Mode(21, 1002, simple=False),
    Mode(22, 1003, simple=False),
    Mode(23, 1004),
    Mode(24, 1005, simple=False),
    Mode(25, 1006, simple=False),
    Mode(26, 1007, default=True),
    Mode(27, 1015, simple=False),
    Mode(28, 1016, simple=False),
    Mode(29, 1035, default=True),
    Mode(30, 1036, default=True),
    Mode(31, 1039),
    Mode(32, 1045),
    Mode(33, 1047, simple=False),
    Mode(34, 1048, simple=False),
    Mode(35, 1049, simple=False),
    Mode(36, 2004),
    # Holds back what is drawn until the program resets it, which may be never: not for who begins to look.
    Mode(37, 2026, simple=False),
    Mode(38, 2027),
    Mode(39, 2031),
    Mode(40, 2033),
    Mode(41, 2048),
    Mode(42, 5522),
)

_BY_NUMBER = {mode.number: mode for mode in MODES if not mode.ansi}


def mode(number: int) -> Mode:
    """The DEC private mode of a number."""
    return _BY_NUMBER[number]


ALTERNATE_SCREEN = (mode(47), mode(1047), mode(1049))
MOUSE_EVENTS = (mode(9), mode(1000), mode(1002), mode(1003))
MOUSE_FORMATS = (mode(1005), mode(1006), mode(1015), mode(1016))
