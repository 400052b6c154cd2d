"""Which session a request to a session daemon is about: its own, or it came to the wrong one."""

from __future__ import annotations

from sessiond.errors import InvalidArgument


def check_session(asked: str, served: str) -> None:
    """Raise InvalidArgument `wrong_session` for another than the one that is served here."""
    if asked != served:
        raise InvalidArgument(
            "wrong_session",
            f"this is the daemon of session {served}",
            hint="ask the supervisor for the session's endpoint",
            fields={"session": asked[:80], "serves": served},
        )
