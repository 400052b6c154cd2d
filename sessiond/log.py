"""Logging to stderr: one record a line, with the journal's priorities where the journal reads it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping

# syslog's priorities, as systemd takes them at the start of a line (sd-daemon(3)).
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_BARE = re.compile(r"[\w./:@%+,-]+")
JOURNAL = "/run/systemd/journal/socket"


def setup(level: str, environ: Mapping[str, str] | None = None) -> None:
    """Send records of ``level`` (debug, info, warning, error) and above to stderr; may be repeated.

    An unheard-of level is taken for info: a process that cannot say so is better off talking.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal=_read_by_journal(os.environ if environ is None else environ)))
    logging.basicConfig(
        level=logging.getLevelNamesMapping().get(level.upper(), logging.INFO), handlers=[handler], force=True
    )
    logging.captureWarnings(capture=True)


def fields(**values: object) -> str:
    """`key=value key="two words"`, in the order given, for the end of a message."""
    return " ".join(f"{key}={_value(str(value))}" for key, value in values.items())


def _value(text: str) -> str:
    if _BARE.fullmatch(text):
        return text
    import json  # Late: daemons seldom log a value that needs it.

    return json.dumps(text, ensure_ascii=False)


def last_word(text: str, *, unit: str) -> bool:
    """Give the journal an error as one of a unit of the user's; False where stderr is not the journal's, or
    it takes none. Of what a process writes to stderr at its very end a busy journal cannot tell whose it was:
    it looks that up when it comes to it."""
    import socket  # Late: few have a last word.

    if not _read_by_journal(os.environ):
        return False
    fields = {"MESSAGE": text, "PRIORITY": "3", "SYSLOG_IDENTIFIER": "sessiond", "USER_UNIT": unit}
    entry = "".join(f"{name}={one_line(value)}\n" for name, value in fields.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        try:
            out.sendto(entry.encode("utf-8", "replace"), JOURNAL)
        except OSError:
            return False
    return True


def one_line(text: str) -> str:
    """The text with everything escaped that would end a line or steer a terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


class _Formatter(logging.Formatter):
    """One line a record; the lines of a traceback are indented, so that none passes for a record."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>" if self._journal else ""
        head = f"{record.name}: {one_line(record.getMessage())}"
        if not self._journal:
            head = f"{self.formatTime(record)} {record.levelname.lower()} {head}"
        lines = [head]
        if record.exc_info:
            lines += self._indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += self._indented(self.formatStack(record.stack_info))
        return "\n".join(prefix + line for line in lines)

    @staticmethod
    def _indented(text: str) -> list[str]:
        return [f"    {one_line(line)}" for line in text.splitlines()]


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _read_by_journal(environ: Mapping[str, str]) -> bool:
    """Whether stderr is the stream that JOURNAL_STREAM names; it may have been sent elsewhere since."""
    try:
        info = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"
