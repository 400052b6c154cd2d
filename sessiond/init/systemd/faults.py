"""What systemd and the bus answer when they refuse, turned into errors of ours, most specific first."""

from __future__ import annotations

from sessiond.errors import (
    AlreadyExists,
    Conflict,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SessiondError,
    TimedOut,
    Unreachable,
    Unsupported,
)

_SYSTEMD = "org.freedesktop.systemd1."
_ERROR = "org.freedesktop.DBus.Error."

# Error name, or its beginning where it ends in a dot; the first that fits decides.
_FAULTS: tuple[tuple[str, type[SessiondError], str], ...] = (
    (f"{_SYSTEMD}NoSuchUnit", NotFound, "unit_not_loaded"),
    (f"{_SYSTEMD}NoSuchProcess", Conflict, "no_main_process"),
    (f"{_SYSTEMD}NoSuchJob", NotFound, "job_gone"),
    (f"{_SYSTEMD}UnitExists", AlreadyExists, "unit_exists"),
    (f"{_SYSTEMD}UnitMasked", Conflict, "unit_masked"),
    (f"{_SYSTEMD}TransactionIsDestructive", Conflict, "job_in_the_way"),
    (f"{_SYSTEMD}AlreadySubscribed", Conflict, "already_subscribed"),
    (f"{_SYSTEMD}ShuttingDown", Unreachable, "init_unavailable"),
    (_SYSTEMD, Conflict, "init_refused"),
    (f"{_ERROR}FileNotFound", NotFound, "unit_file_missing"),
    (f"{_ERROR}PropertyReadOnly", InvalidArgument, "property_unknown"),
    (f"{_ERROR}UnknownProperty", InvalidArgument, "property_unknown"),
    (f"{_ERROR}InvalidArgs", InvalidArgument, "init_refused_argument"),
    (f"{_ERROR}AccessDenied", PermissionDenied, "init_denied"),
    (f"{_ERROR}AuthFailed", PermissionDenied, "init_denied"),
    (f"{_ERROR}InteractiveAuthorizationRequired", PermissionDenied, "init_denied"),
    (f"{_ERROR}NotSupported", Unsupported, "init_unsupported"),
    (f"{_ERROR}UnknownMethod", Unsupported, "init_unsupported"),
    (f"{_ERROR}UnknownObject", NotFound, "unit_not_loaded"),
    (f"{_ERROR}ServiceUnknown", Unreachable, "init_unavailable"),
    (f"{_ERROR}NameHasNoOwner", Unreachable, "init_unavailable"),
    (f"{_ERROR}NoReply", Unreachable, "init_unavailable"),
    (f"{_ERROR}Disconnected", Unreachable, "init_unavailable"),
    (f"{_ERROR}NoServer", Unreachable, "init_unavailable"),
    (f"{_ERROR}LimitsExceeded", Unreachable, "init_unavailable"),
    (f"{_ERROR}Spawn.", Unreachable, "init_unavailable"),
    (f"{_ERROR}TimedOut", TimedOut, "init_timeout"),
    (f"{_ERROR}Timeout", TimedOut, "init_timeout"),
)

_AWAY_HINT = (
    "is the user's systemd running? `systemctl --user status` says; `loginctl enable-linger` keeps it running"
)


def refusal(name: str, text: str, what: str) -> SessiondError:
    """The error of ours for an error name of the bus; ``what`` was being asked."""
    cls, code = next(
        (
            (cls, code)
            for begin, cls, code in _FAULTS
            if name == begin or (begin[-1] == "." and name.startswith(begin))
        ),
        (SessiondError, "init_failed"),
    )
    if cls is Unreachable:
        return unanswered(f"{what}: {text or name}", name)
    return cls(code, f"systemd refused {what}: {text or name}", fields={"dbus_error": name})


def unanswered(message: str, name: str = "") -> Unreachable:
    """Nobody answers."""
    fields = {"dbus_error": name} if name else {}
    return Unreachable(
        "init_unavailable", f"systemd does not answer: {message}", hint=_AWAY_HINT, fields=fields
    )


def late(what: str, seconds: float) -> Unreachable:
    """No answer came in time."""
    return unanswered(f"no answer to {what} within {seconds:g} s")
