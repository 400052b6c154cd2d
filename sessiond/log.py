"""Log lines on stderr: with the journal's priorities where the journal reads them, plain otherwise."""

from __future__ import annotations

import logging
import os
import sys

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# syslog's numbers, as sd-daemon(3) has them at the beginning of a line.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _Formatter(logging.Formatter):
    """One record is one entry: a line break inside it becomes a marked continuation of the same priority."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(name)s: %(message)s" if journal else "%(levelname)s %(name)s: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The lines of a record, each with its priority, so that no text can forge an entry."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>" if self._journal else ""
        first, *rest = super().format(record).splitlines() or [""]
        return "\n".join([prefix + first, *(f"{prefix}  {line}" for line in rest)])


def setup(level: str) -> None:
    """Send this process's log to stderr, from ``level`` (debug, info, warning, error) upward."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(journal=_journal_reads_stderr()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS.get(level, logging.INFO))


def _journal_reads_stderr() -> bool:
    """Whether stderr is the stream that the journal announced: device and inode as it told them."""
    told = os.environ.get("JOURNAL_STREAM", "")
    try:
        info = os.fstat(2)
    except OSError:
        return False
    return told == f"{info.st_dev}:{info.st_ino}"
