"""What a failure looks like outside: one place from errors to exit codes, stderr lines and JSON."""

from __future__ import annotations

from sessiond.errors import ErrorKind, SessiondError

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130

# Of `run` and `wait`, whose exit code is otherwise that of a program: as env, timeout and shells have them.
TIMED_OUT = 124
ITSELF = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127

_CODES = {
    ErrorKind.FAILED: FAILED,
    ErrorKind.DENIED: FAILED,
    ErrorKind.EXHAUSTED: FAILED,
    ErrorKind.UNSUPPORTED: FAILED,
    ErrorKind.NOT_FOUND: 3,
    ErrorKind.EXISTS: 4,
    ErrorKind.CONFLICT: 4,
    ErrorKind.UNREACHABLE: 5,
    ErrorKind.TIMED_OUT: 6,
    ErrorKind.INVALID: 7,
}


class UsageFault(SessiondError):
    """The command line itself is wrong, or asks for something that needs a person to confirm."""


def exit_code(error: SessiondError) -> int:
    """The exit code of a failure."""
    return USAGE if isinstance(error, UsageFault) else _CODES[error.kind]


def exit_code_beside_programs(error: SessiondError) -> int:
    """The exit code of a failure where other codes are a program's: 124 to 127."""
    return _BESIDE_PROGRAMS.get(error.code, ITSELF)


_BESIDE_PROGRAMS = {
    "wait_timeout": TIMED_OUT,
    "command_not_executable": NOT_EXECUTABLE,
    "command_not_found": NOT_FOUND,
    "adapter_not_installed": NOT_FOUND,
}


def as_text(error: SessiondError) -> str:
    """Message and hint, a line each."""
    from sessiond.cli.render import plain

    lines = [f"sessionctl: {plain(error.message, keep_newlines=True)}"]
    if error.hint:
        lines.append(f"  hint: {plain(error.hint, keep_newlines=True)}")
    return "\n".join(lines)


def as_object(error: SessiondError) -> dict[str, object]:
    """The shape that programs read from stderr."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "fields": dict(error.fields),
        }
    }
