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
    """One thing looked at: its stable name, how it is, what was found, and a command that mends it."""

    check: str
    status: Status
    detail: str
    fix: str = ""


def ok(check: str, detail: str) -> CheckRow:
    """It is as it should be."""
    return CheckRow(check, Status.OK, detail)


def warning(check: str, detail: str, fix: str) -> CheckRow:
    """sessiond works, but not as well as it could, or what it needs is not known."""
    return CheckRow(check, Status.WARNING, detail, fix)


def failure(check: str, detail: str, fix: str) -> CheckRow:
    """sessiond does not work, or sessions will be lost."""
    return CheckRow(check, Status.FAILURE, detail, fix)
