"""Signals by name and number."""

from __future__ import annotations

import signal

from sessiond.errors import InvalidArgument


def parse_signal(word: str, default: str = "SIGKILL") -> int:
    """The number of a signal given as `9`, `KILL` or `SIGKILL`; empty means the default."""
    text = word.upper() or default
    try:
        if text.isdigit():
            return signal.Signals(int(text)).value
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"].value
    except (KeyError, ValueError) as error:
        raise InvalidArgument(
            "signal_invalid",
            f"no signal {word[:40]!r}",
            hint="for example TERM, KILL, HUP, USR1",
            fields={"signal": word[:40]},
        ) from error
