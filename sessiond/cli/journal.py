"""How the journal of a session, an agent or the supervisor is asked, in a way that works for every reader."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.errors import SessiondError
from sessiond.model.unit import agents_slice, daemon_unit, session_slice, starter_unit


def session_matches(session: str) -> list[str]:
    """What selects all lines of one session: of its processes, and the init system's about its units.

    By field and user, not by `--user`: that opens files of the user's own, which a volatile journal
    and root do not have.
    """
    slices = [session_slice(session), agents_slice(session)]
    units = [daemon_unit(session), starter_unit(session), *slices]
    return _alternatives(
        *(f"_SYSTEMD_USER_SLICE={one}" for one in slices),
        *(f"USER_UNIT={one}" for one in units),
        f"_SYSTEMD_USER_UNIT={starter_unit(session)}",
    )


def agent_matches(unit: str) -> list[str]:
    """What selects all lines of an agent by its unit, also those that its daemon wrote on its behalf."""
    return _alternatives(f"_SYSTEMD_USER_UNIT={unit}", f"USER_UNIT={unit}")


def supervisor_matches() -> list[str]:
    """What selects all lines of the supervisor, and the init system's about it."""
    return _alternatives(f"_SYSTEMD_USER_UNIT={SUPERVISOR_UNIT}", f"USER_UNIT={SUPERVISOR_UNIT}")


def _alternatives(*matches: str) -> list[str]:
    user = f"_UID={os.getuid()}"
    words: list[str] = []
    for match in matches:
        words += [*(["+"] if words else []), user, match]
    return words


def last_lines(host: Host, matches: Sequence[str], count: int) -> list[str] | None:
    """The last lines that match, as journalctl shows them; None where the journal cannot be read."""
    words = ["journalctl", "--no-pager", "--quiet", f"--lines={count}", *matches]
    try:
        done = host.run(words, timeout=10.0)
    except SessiondError:
        return None
    if not done.stdout and "permission" in done.stderr.lower():
        return None
    return done.stdout.splitlines()
