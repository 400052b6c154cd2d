"""What a check answers: one row that a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How it is, in the words of the wire and of the CLI."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One thing looked at: its stable name, how it is, what was found, and a command that mends it.

    Where something is not known, the status is a warning and the command is the one that was asked.
    """

    check: str
    status: Status
    detail: str
    fix: str = ""


def ok(check: str, detail: str) -> CheckRow:
    """It is as it should be."""
    return CheckRow(check, Status.OK, _sendable(detail))


def warning(check: str, detail: str, fix: str) -> CheckRow:
    """sessiond works, but not as well as it could, or what it needs is not known."""
    return CheckRow(check, Status.WARNING, _sendable(detail), _sendable(fix))


def failure(check: str, detail: str, fix: str) -> CheckRow:
    """sessiond does not work, or sessions will be lost."""
    return CheckRow(check, Status.FAILURE, _sendable(detail), _sendable(fix))


def unknown(check: str, reason: str, fix: str) -> CheckRow:
    """Nobody can say, which is never well."""
    return warning(check, f"not known: {reason}", fix)


def _sendable(text: str) -> str:
    """The text as the wire carries it; names of files may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
