"""One root error with a stable code; its kind decides the gRPC status and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ErrorKind(StrEnum):
    """What sort of failure it is, in the words of the wire."""

    FAILED = "failed"
    INVALID = "invalid_argument"
    NOT_FOUND = "not_found"
    EXISTS = "already_exists"
    CONFLICT = "conflict"
    UNREACHABLE = "unreachable"
    TIMED_OUT = "timed_out"
    DENIED = "permission_denied"
    UNSUPPORTED = "unsupported"
    EXHAUSTED = "resource_exhausted"


class SessiondError(Exception):
    """A failure that a person can act on.

    ``code`` is stable snake_case for scripts, ``message`` says what is wrong,
    ``hint`` what to do about it, ``fields`` names the values concerned (never secrets).
    """

    kind: ErrorKind = ErrorKind.FAILED

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.fields: dict[str, str] = dict(fields or {})


class InvalidArgument(SessiondError):
    """The request itself is wrong; repeating it cannot help."""

    kind = ErrorKind.INVALID


class NotFound(SessiondError):
    """What was named does not exist."""

    kind = ErrorKind.NOT_FOUND


class AlreadyExists(SessiondError):
    """What was to be made exists."""

    kind = ErrorKind.EXISTS


class Conflict(SessiondError):
    """The present state forbids it; the message says which state."""

    kind = ErrorKind.CONFLICT


class Unreachable(SessiondError):
    """A process that must answer does not."""

    kind = ErrorKind.UNREACHABLE


class TimedOut(SessiondError):
    """It did not happen within the time given; it may still happen."""

    kind = ErrorKind.TIMED_OUT


class PermissionDenied(SessiondError):
    """The operating system or a guard of ours refuses."""

    kind = ErrorKind.DENIED


class Unsupported(SessiondError):
    """This machine or this version cannot do it."""

    kind = ErrorKind.UNSUPPORTED


class Exhausted(SessiondError):
    """A bound was reached: disk, buffer, number of sessions."""

    kind = ErrorKind.EXHAUSTED


BY_KIND: dict[ErrorKind, type[SessiondError]] = {
    cls.kind: cls
    for cls in (
        SessiondError,
        InvalidArgument,
        NotFound,
        AlreadyExists,
        Conflict,
        Unreachable,
        TimedOut,
        PermissionDenied,
        Unsupported,
        Exhausted,
    )
}
