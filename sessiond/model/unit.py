"""What the init system says of one unit, in its own words, and the names of our units."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from signal import Signals

from sessiond.model.identity import is_agent_id, is_id

SUPERVISOR_UNIT = "sessiond.service"
ROOT_SLICE = "sessiond.slice"

_DAEMON_PREFIX = "sessiond-session@"
_AGENT_PREFIX = "sessiond-agent@"
_SLICE_PREFIX = "sessiond-"
_AGENTS_SUFFIX = "-agents"
_NAMES_KEPT = 8192

# Values of ExecMainCode: the si_code of the SIGCHLD (CLD_*).
CLD_EXITED, CLD_KILLED, CLD_DUMPED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One unit as the init system tells it; times in UTC, None where it tells none.

    The fields keep systemd's words and are what a mirror replaces one by one. ``result`` is
    ``success``, ``exit-code``, ``signal``, ``core-dump``, ``watchdog``, ``start-limit-hit``,
    ``oom-kill``, ``resources``, ``timeout``, or empty where the unit type has none.
    """

    name: str
    load_state: str = "loaded"
    active_state: str = "inactive"
    sub_state: str = "dead"
    freezer_state: str = "running"
    main_pid: int = 0
    result: str = ""
    exec_main_code: int = 0
    exec_main_status: int = 0
    n_restarts: int = 0
    state_changed_at: datetime | None = None

    @property
    def frozen(self) -> bool:
        """Whether its processes are frozen or about to be."""
        return self.freezer_state in (
            "frozen",
            "freezing",
            "frozen-by-parent",
            "freezing-by-parent",
        )

    @property
    def exit_status(self) -> int | None:
        """Exit status of the last main process; None while it runs, never ran, or a signal ended it."""
        return self.exec_main_status if self.exec_main_code == CLD_EXITED else None

    @property
    def exit_signal(self) -> str:
        """Name of the signal that ended the last main process (``SIGKILL``), or empty."""
        if self.exec_main_code not in (CLD_KILLED, CLD_DUMPED):
            return ""
        try:
            return Signals(self.exec_main_status).name
        except ValueError:
            return f"SIG{self.exec_main_status}"


def daemon_unit(session: str) -> str:
    """Name of the session daemon's unit."""
    return f"{_DAEMON_PREFIX}{session}.service"


def starter_unit(session: str) -> str:
    """Name of the starter's unit: what `systemctl --user enable` and `start` take."""
    return f"sessiond@{session}.service"


def session_slice(session: str) -> str:
    """Name of the slice that holds all of one session."""
    return f"{_SLICE_PREFIX}{session}.slice"


def agents_slice(session: str) -> str:
    """Name of the slice inside it that holds the agents, and that limits bear on."""
    return f"{_SLICE_PREFIX}{session}{_AGENTS_SUFFIX}.slice"


# Asked many times of each unit; there are some for each session.
@lru_cache(maxsize=_NAMES_KEPT)
def session_of_daemon(unit: str) -> str | None:
    """Id of the session whose daemon's unit this is, or None."""
    return _between(unit, _DAEMON_PREFIX, ".service")


@lru_cache(maxsize=_NAMES_KEPT)
def session_of_slice(unit: str) -> str | None:
    """Id of the session whose slice or agents' slice this is, or None."""
    return _between(unit, _SLICE_PREFIX, ".slice") or _between(unit, _SLICE_PREFIX, f"{_AGENTS_SUFFIX}.slice")


def agent_unit(session: str, agent: str) -> str:
    """Name of an agent's unit."""
    return f"{_AGENT_PREFIX}{session}-{agent}.service"


def agents_pattern(session: str) -> str:
    """Pattern that the names of all units of a session's agents match, and no others."""
    return f"{_AGENT_PREFIX}{session}-*.service"


@lru_cache(maxsize=_NAMES_KEPT)
def agent_of_unit(unit: str) -> tuple[str, str] | None:
    """Ids of the session and of the agent whose unit this is, or None."""
    if not (unit.startswith(_AGENT_PREFIX) and unit.endswith(".service")):
        return None
    session, _, agent = unit[len(_AGENT_PREFIX) : -len(".service")].partition("-")
    return (session, agent) if is_id(session) and is_agent_id(agent) else None


def _between(text: str, prefix: str, suffix: str) -> str | None:
    if not (text.startswith(prefix) and text.endswith(suffix)):
        return None
    middle = text[len(prefix) : -len(suffix)]
    return middle if is_id(middle) else None
