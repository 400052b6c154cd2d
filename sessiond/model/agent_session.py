"""A conversation of an agent program: what its own files and processes tell, and what is kept beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

# What one session of a program is called: the adapter's name and the program's own id.
Key = tuple[str, str]

# Ids of those that were launched here and have not told their own yet begin so: `agent:SESSION-AGENT`.
PENDING = "agent:"

# The variable that names to a program, and to whatever it starts, the conversation it was launched for:
# `ADAPTER:ID`.
MARKER = "SESSIOND_AGENT_SESSION"

# In ``Found.native``, `ADAPTER:ID` of the conversation of another program through which this one is held:
# both are one, which is shown as this.
INNER = "inner"

# Ids of processes of which nothing tells what they have open begin so: a row for each, until it is told.
PROCESS = "process:"

# In ``Found.native``, the folder that its program keeps its files in, where that is not the usual one.
HOME = "home"

_PROPER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+~-]{0,255}")


def is_proper_id(text: str) -> bool:
    """Whether a conversation can be called so: ids come from files and environments that anybody wrote, go
    into command lines and paths, and are shown to be typed. No option, no path, nothing to a shell."""
    return _PROPER_ID.fullmatch(text) is not None


class AgentSessionStatus(StrEnum):
    """What it does, as far as evidence goes."""

    UNKNOWN = "unknown"
    RUNNING = "running"
    IDLE = "idle"
    WAITING = "waiting"
    STOPPED = "stopped"

    @property
    def live(self) -> bool:
        """Whether a process is known to have it open."""
        return self in (AgentSessionStatus.RUNNING, AgentSessionStatus.IDLE, AgentSessionStatus.WAITING)


class Turn(StrEnum):
    """Where a conversation stands by what its program last wrote; says nothing of whether that lives."""

    UNKNOWN = "unknown"
    WORKING = "working"
    WAITING = "waiting"
    """For a permission or an answer."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Life:
    """Whether a process has it open: ``alive`` None where that cannot be told, ``reason`` then says why.

    ``pid`` and ``start_time`` (field 22 of /proc/PID/stat, clock ticks since boot) name one process for
    good. ``turn`` and ``activity`` are what the process itself tells (Claude Code's registry, a control
    socket), over what the conversation's end says. ``mark`` is `SESSION-AGENT` where the process is in the
    unit of one of our agents. ``entry`` is the file by which one may live whose process cannot
    be looked at from here: who knows that this is over may remove it.
    """

    alive: bool | None
    reason: str = ""
    pid: int | None = None
    start_time: int | None = None
    turn: Turn | None = None
    activity: str = ""
    mark: str = ""
    entry: str = ""


STOPPED = Life(alive=False)


@dataclass(frozen=True, slots=True)
class Found:
    """One conversation as its program's files tell it. Texts are shortened; what is not told is empty or
    None.

    ``tokens_*`` and ``cost_usd`` are of the whole conversation or None. ``parent`` is the id of the one that
    it was spawned by or forked from. ``native`` holds what else the program tells, by its own names.
    ``source`` is the file or database that all this was read from, which nobody but the adapter's process is
    told. ``trouble`` is why that cannot be read any more: this is the last good answer then.
    """

    adapter: str
    id: str
    cwd: str = ""
    model: str = ""
    title: str = ""
    first_prompt: str = ""
    last_prompt: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    parent: str = ""
    turn: Turn = Turn.UNKNOWN
    activity: str = ""
    native: Mapping[str, str] = field(default_factory=dict)
    life: Life = Life(alive=None, reason="not looked at yet")
    source: str = ""
    trouble: str = ""

    @property
    def key(self) -> Key:
        """Adapter and id."""
        return self.adapter, self.id

    @property
    def status(self) -> AgentSessionStatus:
        """The one table of statuses."""
        return derive_status(self.life, self.turn)


def derive_status(life: Life, turn: Turn) -> AgentSessionStatus:
    """Status of a conversation from evidence of a process and, if there is one, from where it stands."""
    if life.alive is None:
        return AgentSessionStatus.UNKNOWN
    if not life.alive:
        return AgentSessionStatus.STOPPED
    return {
        Turn.WORKING: AgentSessionStatus.RUNNING,
        Turn.UNKNOWN: AgentSessionStatus.RUNNING,
        Turn.WAITING: AgentSessionStatus.WAITING,
        Turn.DONE: AgentSessionStatus.IDLE,
    }[life.turn or turn]


@dataclass(frozen=True, slots=True)
class Problem:
    """Trouble of an adapter, or of one file or folder (``path``). Codes: `adapter_failed`, `adapter_timeout`,
    `file_unreadable`, `file_malformed`, `format_newer`, `watch_limited`, `place_refused`. ``current``: what
    is told of it is what is in it now, as far as that can be read; otherwise what was read of it before."""

    adapter: str
    code: str
    reason: str
    path: str = ""
    current: bool = False


@dataclass(frozen=True, slots=True)
class Overlay:
    """What is kept beside a conversation, by adapter and id. Never a state.

    ``session`` and ``agent`` are ids of ours where it was launched here; ``spec`` is what it was launched
    with (model, print, command), as JSON. ``missing_since`` is when it was first not found any more.
    """

    adapter: str
    id: str
    session: str = ""
    agent: str = ""
    prompt: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    cwd: str = ""
    spec: str = ""
    launched_at: datetime | None = None
    missing_since: datetime | None = None

    @property
    def key(self) -> Key:
        """Adapter and id."""
        return self.adapter, self.id

    @property
    def mark(self) -> str:
        """`SESSION-AGENT` of the agent that it was last launched as, or empty."""
        return f"{self.session}-{self.agent}" if self.agent else ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that a message calls (``name``, ``content`` is its input as JSON), or the result of one."""

    id: str
    name: str = ""
    content: str = ""
    result: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; ``role`` is `user`, `assistant`, `system` or `tool`."""

    role: str
    text: str = ""
    thinking: str = ""
    tools: tuple[ToolUse, ...] = ()
    time: datetime | None = None
    model: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Transcript:
    """The end of a conversation, oldest first."""

    messages: tuple[Message, ...]
    has_more: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Wish:
    """How a conversation is to be started or gone on with. ``id`` is one that the caller chose in advance,
    for programs that allow it; ``command`` is the program to use instead of the one in PATH (``acp``);
    ``environment`` is that which it will have, as far as it says where programs keep their files: empty where
    that is not known."""

    cwd: str
    prompt: str = ""
    model: str = ""
    print: bool = False
    id: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to execute. ``id`` is the conversation's where it is certain already; otherwise ``learn`` says
    where it will be told: `stdout` (lines that ``identify`` reads) or `files` (found by its process).
    ``without`` are variables that the caller's environment must not have."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    input: bytes | None = None
    id: str = ""
    learn: str = ""
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether an adapter's program is installed, where, and which version (empty: cannot be told)."""

    adapter: str
    title: str
    installed: bool
    path: str = ""
    version: str = ""
    verified: str = ""
    abilities: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
