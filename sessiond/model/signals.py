"""Signals by name and number."""

from __future__ import annotations

import re
import signal

from sessiond.errors import InvalidArgument

_NUMBER = re.compile("[0-9]{1,3}")


def parse_signal(word: str, default: str = "SIGKILL") -> int:
    """The number of a signal given as `9`, `KILL`, `SIGKILL` or `RTMIN+1`; empty means the default."""
    text = word.upper() or default
    number = _number(text.removeprefix("SIG"))
    if number not in signal.valid_signals():
        raise InvalidArgument(
            "signal_invalid",
            f"no signal {word[:40]!r}",
            hint="for example TERM, KILL, HUP, USR1",
            fields={"signal": word[:40]},
        )
    return number


def _number(name: str) -> int:
    """The number that a name without `SIG` means, or a number itself; 0 for neither."""
    if _NUMBER.fullmatch(name):
        return int(name)
    base, sign, more = name.partition("+") if "+" in name else name.partition("-")
    found = signal.Signals.__members__.get(f"SIG{base}")
    if found is None or not sign:
        return int(found or 0)
    # Only those in between have no name of their own.
    if (base, sign) not in (("RTMIN", "+"), ("RTMAX", "-")) or not _NUMBER.fullmatch(more):
        return 0
    number = found + int(sign + more)
    return number if signal.SIGRTMIN <= number <= signal.SIGRTMAX else 0
