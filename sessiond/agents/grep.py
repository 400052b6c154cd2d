"""A regular expression that is given up when it takes too long."""

from __future__ import annotations

import re
import time
from typing import Any

from sessiond.errors import InvalidArgument, TimedOut

DEADLINE = 2.0
PATTERN_MAX = 4096

# What no line needs longer for unless the expression goes astray; only what is longer is counted. All in the
# time that this thread works: on a busy machine a good search must not be given up for others' work.
_USUAL = 50e-6
# The whole of a search, however simple, in deadlines.
_WHOLE = 10
_LITERAL = re.compile(r"[\w \-:/,;@=\"'<>%&~`!#]*")


class Grep:
    """Finds a pattern in lines; all lines together may take it ``deadline`` seconds beyond the usual.
    To be made and used in one thread."""

    def __init__(self, pattern: str, deadline: float = DEADLINE) -> None:
        self._pattern = pattern
        self._deadline = deadline
        self._left = deadline
        self._until = time.thread_time() + _WHOLE * deadline
        self._literal = pattern if _LITERAL.fullmatch(pattern) else None
        self._compiled: Any = None if self._literal is not None else _compile(pattern)

    def finds(self, text: str) -> bool:
        """Whether it is found. Raises TimedOut `grep_timeout`."""
        if self._literal is not None:
            return self._literal in text
        began = time.thread_time()
        try:
            # It lets other threads run meanwhile, and looks at the clock now and then.
            found = self._compiled.search(text, timeout=self._left, concurrent=True) is not None
        except TimeoutError as error:
            raise self._timed_out() from error
        except MemoryError as error:
            raise self._timed_out() from error
        ended = time.thread_time()
        self._left -= max(0.0, ended - began - _USUAL)
        if self._left <= 0 or ended > self._until:
            raise self._timed_out()
        return bool(found)

    def _timed_out(self) -> TimedOut:
        return TimedOut(
            "grep_timeout",
            f"the regular expression took longer than {self._deadline:g} s",
            hint="write it without repetitions of repetitions, or read fewer lines",
            fields={"grep": self._pattern},
        )


def _compile(pattern: str) -> Any:
    if len(pattern) > PATTERN_MAX:
        raise InvalidArgument(
            "grep_invalid",
            f"the regular expression has {len(pattern)} characters",
            hint=f"at most {PATTERN_MAX} are taken",
        )
    # Late: most who read output look for nothing.
    import regex

    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError, MemoryError) as error:
        raise InvalidArgument(
            "grep_invalid",
            f"{pattern!r} is no regular expression: {error}",
            hint="escape what is meant literally, for example `\\(`",
            fields={"grep": pattern},
        ) from error
