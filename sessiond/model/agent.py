"""An agent: what it was started with, what its unit says, how it ended; and the table of its states."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from signal import Signals

from sessiond.model.state import RESTARTING
from sessiond.model.unit import UnitStatus, agent_unit


class AgentState(StrEnum):
    """The state of an agent: derived from its unit while there is one, from the record of its end after."""

    UNKNOWN = "unknown"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"

    @property
    def ended(self) -> bool:
        """Whether it is over, for all that is known."""
        return self in (AgentState.COMPLETED, AgentState.FAILED, AgentState.TERMINATED)


class RestartPolicy(StrEnum):
    """What the init system does when an agent ends by itself, in its own words."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Cause(StrEnum):
    """Why an agent is no more where its unit cannot tell: nobody looked when it went."""

    REBOOT = "reboot"
    """The machine went down, orderly or not, while it ran."""
    MANAGER = "manager"
    """The user's manager went down while it ran."""
    UNSEEN = "unseen"
    """Its unit was stopped and forgotten while neither daemon nor supervisor looked."""
    UNREADABLE = "unreadable"
    """How it ended was written down, and what is there now cannot be read."""

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return {
            Cause.REBOOT: "the machine went down while it ran",
            Cause.MANAGER: "the user's service manager went down while it ran",
            Cause.UNSEEN: "its unit was stopped while nobody was looking; its exit status is not known",
            Cause.UNREADABLE: "it has ended; how cannot be told, since what was written of that is damaged",
        }[self]


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """What an agent was started with; kept until it is removed. Its environment lies in a file of its own.

    ``program`` is the absolute path that the first word led to; ``stop_timeout`` and ``timeout`` are in
    seconds (``timeout`` 0: none); ``boot`` and ``manager`` name the run of the kernel and of the user's
    manager that it was last started under, to tell a reboot from a stop; ``workspace`` is where that was
    when it was started.
    """

    id: str
    session: str
    name: str
    argv: tuple[str, ...]
    program: Path
    cwd: Path
    created: datetime
    tty: bool = False
    columns: int = 80
    rows: int = 24
    term: str = "xterm-256color"
    restart: RestartPolicy = RestartPolicy.NO
    stop_signal: int = 15
    stop_timeout: float = 10.0
    timeout: float = 0.0
    umask: int = 0o022
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    resurrect: bool = False
    boot: str = ""
    manager: str = ""
    workspace: str = ""

    @property
    def unit(self) -> str:
        """Name of its unit."""
        return agent_unit(self.session, self.id)


@dataclass(frozen=True, slots=True)
class AgentUnit:
    """An agent's unit as the init system tells it. ``job`` is the type of the job it waits for, or empty.

    ``cpu_seconds`` and ``memory_bytes`` are of all its processes; None where it does not know.
    """

    status: UnitStatus
    started_at: datetime | None = None
    ended_at: datetime | None = None
    job: str = ""
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def name(self) -> str:
        """Name of the unit."""
        return self.status.name


@dataclass(frozen=True, slots=True)
class AgentEnd:
    """How a run of an agent ended: what its unit said before it was released, or why nobody could ask.

    ``asked`` says that somebody wanted it to end; ``signal`` is a name (``SIGKILL``) or empty; ``result``
    is the init system's word. ``cause`` is given where the unit was gone; times may be unknown then.
    """

    exit_status: int | None = None
    signal: str = ""
    result: str = ""
    asked: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    restarts: int = 0
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    cause: Cause | None = None

    @classmethod
    def of(cls, unit: AgentUnit, *, asked: bool) -> AgentEnd:
        """What a unit that has ended says; ``asked`` says that somebody wanted it to."""
        status = unit.status
        return cls(
            exit_status=status.exit_status,
            signal=status.exit_signal,
            result=status.result,
            asked=asked,
            started_at=unit.started_at,
            ended_at=unit.ended_at,
            restarts=status.n_restarts,
            cpu_seconds=unit.cpu_seconds,
            memory_bytes=unit.memory_bytes,
        )

    @property
    def state(self) -> AgentState:
        """What such an end makes of an agent."""
        if self.cause is Cause.UNSEEN:
            return AgentState.TERMINATED
        if self.cause is not None:
            return AgentState.FAILED
        # Its own time limit ended it: nobody asked for that but who set it, and it did not complete.
        if self.result == "timeout" and not self.asked:
            return AgentState.FAILED
        if self.exit_status == 0:
            return AgentState.COMPLETED
        return AgentState.TERMINATED if self.asked else AgentState.FAILED

    @property
    def reason(self) -> str:
        """One sentence on it, or empty where exit status or signal tell."""
        if self.cause is not None:
            return self.cause.sentence
        if self.result == "timeout" and self.asked:
            return "it did not end in time when it was asked to, and was killed"
        if self.restarts and not self.asked and self.result in _RESTARTED:
            # The limit is the one reason not to restart it once more; the result stays that of the last run.
            return _REASONS["start-limit-hit"]
        return _REASONS.get(self.result, "")


# What each policy but `no` restarts after.
_RESTARTED = ("exit-code", "signal", "core-dump")

_REASONS = {
    "timeout": "its time was up",
    "oom-kill": "a process of it was killed for memory",
    "start-limit-hit": "it was restarted too often in a short time",
    "resources": "systemd could not get what it needs to start it",
    "watchdog": "its watchdog ran out",
}


@dataclass(frozen=True, slots=True)
class Agent:
    """One row of the list. ``unit`` is None where none is loaded or nobody answers, ``end`` while it runs."""

    spec: AgentSpec
    state: AgentState
    unit: AgentUnit | None = None
    end: AgentEnd | None = None
    session_name: str = ""
    activity: str = ""
    record_start: int = 0
    record_bytes: int = 0
    recording_problem: str = ""
    clients: int = 0
    columns: int = 0
    rows: int = 0

    @property
    def id(self) -> str:
        """Its id."""
        return self.spec.id


def new_agent_id() -> str:
    """A fresh agent id: 16 hexadecimal digits, random; who uses it checks that it is free."""
    return secrets.token_hex(8)


_TABLE = {
    "activating": AgentState.STARTING,
    "active": AgentState.RUNNING,
    "reloading": AgentState.RUNNING,
    "refreshing": AgentState.RUNNING,
    # It is being ended and has not.
    "deactivating": AgentState.RUNNING,
}


def has_ended(unit: AgentUnit) -> bool:
    """Whether the unit's run is over and will not be followed by another: its end can be written down."""
    status = unit.status
    if status.sub_state in RESTARTING or unit.job in ("start", "restart"):
        return False
    return status.active_state in ("failed", "inactive") or (status.active_state, status.sub_state) == (
        "active",
        "exited",
    )


def ended_by(unit: AgentUnit, sent: frozenset[int], stop_signal: int) -> bool:
    """Whether a unit that has ended did so by a signal that somebody sent: of it, or as asked to by it.

    One that is told of a signal that ends others (SIGHUP: read your settings again) may live on, and end by
    something else that nobody asked for.
    """
    status = unit.status
    if status.exit_signal:
        return any(status.exit_signal == _signal_name(number) for number in sent)
    shells = {128 + number for number in sent}
    return status.exit_status in shells or not sent.isdisjoint((Signals.SIGTERM, stop_signal))


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"SIG{number}"


def derive_agent(
    unit: AgentUnit | None, end: AgentEnd | None, *, reachable: bool, asked: bool = False
) -> AgentState:
    """The state of an agent. ``end`` is what was written down; ``asked``, that somebody wanted it to end.

    Without a unit and without an end nobody can tell: who finds that out writes an end with its cause.
    """
    if end is not None:
        return end.state
    if not reachable or unit is None:
        return AgentState.UNKNOWN
    if has_ended(unit):
        return AgentEnd.of(unit, asked=asked).state
    status = unit.status
    if status.sub_state in RESTARTING:
        return AgentState.STARTING
    state = _TABLE.get(status.active_state, AgentState.UNKNOWN)
    return AgentState.PAUSED if state is AgentState.RUNNING and status.frozen else state


def exit_code(exit_status: int | None, signal: str, *, timed_out: bool = False) -> int:
    """What a shell would say: the exit status, or 128 and the signal; 124 for a time limit, 125 unknown."""
    if timed_out:
        return 124
    if exit_status is not None:
        return exit_status
    try:
        return 128 + Signals[signal].value
    except KeyError:
        number = signal.removeprefix("SIG")
        return 128 + int(number) if number.isdigit() else 125
