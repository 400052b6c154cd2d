"""What the product asks of an init system, a store and a terminal emulator, as Protocols.

Backends are named by composition roots alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from sessiond.model.agent import AgentUnit
from sessiond.model.session import Metadata
from sessiond.model.unit import UnitStatus

# ---- init system: what it tells -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connected:
    """The init system answers: all units of ours that it has loaded, whole. Replaces what was known."""

    units: Sequence[UnitStatus]


@dataclass(frozen=True, slots=True)
class Lost:
    """It no longer answers; nothing may be concluded until the next Connected."""

    reason: str


@dataclass(frozen=True, slots=True)
class UnitAppeared:
    """A unit of ours was loaded, or is told whole again."""

    unit: UnitStatus


@dataclass(frozen=True, slots=True)
class UnitChanged:
    """Fields of UnitStatus that have new values; the others keep theirs."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UnitRemoved:
    """A unit of ours is no longer loaded."""

    name: str


@dataclass(frozen=True, slots=True)
class EnablementChanged:
    """What starts at boot may have changed: ask again."""


UnitEvent = Connected | Lost | UnitAppeared | UnitChanged | UnitRemoved | EnablementChanged


@dataclass(frozen=True, slots=True)
class DaemonSpec:
    """What a session daemon is registered with. Durations in seconds.

    ``folder`` leads to the workspace and is where it runs, as long as it leads anywhere: a link that
    follows a workspace that is moved. Without one it runs in the workspace itself, which must exist.
    """

    session: str
    name: str
    workspace: Path
    argv: Sequence[str]
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    watchdog: float = 180.0
    start_timeout: float = 60.0
    stop_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class InitInfo:
    """Name and version of the init system, and what of it is usable."""

    name: str
    version: str
    controllers: frozenset[str]


class InitSystem(Protocol):
    """Sessions as units of an init system.

    Every call raises Unreachable (`init_unavailable`) when it gives no answer, and waits for the job's
    result unless told not to. ``calls`` counts requests made, for the tests of the mirror.
    """

    @property
    def calls(self) -> int:
        """Requests made so far."""
        ...

    def watch(self) -> AsyncIterator[UnitEvent]:
        """Connect, yield Connected, then every change; reconnects by itself, yielding Lost between."""
        ...

    async def start(self, spec: DaemonSpec, *, wait: bool = True) -> None:
        """Register and start a session daemon; one that runs is fine. Raises Conflict `start_failed`,
        TimedOut `start_timeout`. A failed unit left over under the name is reset first."""
        ...

    async def stop(self, session: str, *, wait: bool = True) -> None:
        """Stop all of a session through its slice, and free failed units; absent is fine."""
        ...

    async def stop_agents(self, session: str) -> None:
        """Stop what a stopped daemon left running in its session; nothing is done where the daemon runs,
        or is about to."""
        ...

    async def restart(self, session: str, *, wait: bool = True) -> None:
        """Restart the daemon's unit. Raises NotFound `unit_not_loaded` where there is none."""
        ...

    async def kill(self, session: str, signal: int) -> None:
        """Signal the daemon's main process. Raises Conflict `session_not_running`."""
        ...

    async def enable(self, session: str) -> None:
        """Have the session started at boot."""
        ...

    async def disable(self, session: str) -> None:
        """No longer start it at boot; nothing is stopped."""
        ...

    async def enabled(self, sessions: Sequence[str]) -> frozenset[str]:
        """Those of the sessions that start at boot."""
        ...

    async def set_limits(self, session: str, properties: Mapping[str, str]) -> None:
        """Set resource-control properties of the agents' slice, for good; an empty value resets.
        Raises InvalidArgument `property_unknown` or `property_invalid`, before anything is set."""
        ...

    async def limits(self, session: str) -> dict[str, str]:
        """Limits in force on the agents' slice that differ from the default, in unit files' notation."""
        ...

    async def unenforced(self, properties: Sequence[str]) -> list[str]:
        """Those of the properties whose controller this machine does not delegate."""
        ...

    async def forget(self, session: str) -> None:
        """Take away what is kept of a session that is stopped: failed units, limits, start at boot."""
        ...

    async def stop_supervisor(self) -> None:
        """Have the init system stop the supervisor's own unit; answers when it took the job."""
        ...

    async def last_log(self, session: str, lines: int) -> list[str]:
        """Last journal lines of all of a session, oldest first. Raises Unreachable `journal_unreadable`."""
        ...

    async def info(self) -> InitInfo:
        """Name and version."""
        ...

    async def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...


# ---- init system: one session's agents ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AgentsListed:
    """The init system answers: all units of the session's agents, whole. Replaces what was known."""

    units: Sequence[AgentUnit]


@dataclass(frozen=True, slots=True)
class AgentTold:
    """One agent's unit as it is now, whole."""

    unit: AgentUnit


@dataclass(frozen=True, slots=True)
class AgentGone:
    """The unit of an agent, by the agent's id, is no longer loaded."""

    agent: str


AgentEvent = AgentsListed | AgentTold | AgentGone | Lost


@dataclass(frozen=True, slots=True)
class AgentUnitSpec:
    """What an agent's unit is registered with. Durations in seconds, 0 for none.

    ``argv`` is the launcher's and survives in a unit as it stands; with ``terminal``, the path of a
    terminal's slave, all three streams are that terminal and it becomes the controlling one, otherwise
    input is empty and both outputs are appended to the files named. At most ``restart_limit`` starts
    in ``restart_window`` seconds, then it stays ended. ``identifier`` is what logs call it.
    """

    session: str
    agent: str
    description: str
    argv: Sequence[str]
    folder: Path
    terminal: str = ""
    stdout: Path | None = None
    stderr: Path | None = None
    restart: str = "no"
    restart_delay: float = 0.1
    restart_limit: int = 5
    restart_window: float = 10.0
    stop_signal: int = 15
    stop_timeout: float = 10.0
    timeout: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)
    identifier: str = ""


class AgentUnits(Protocol):
    """The units of one session's agents. Agents are named by their ids.

    Every call raises Unreachable (`init_unavailable`) when the init system gives no answer.
    """

    def watch(self) -> AsyncIterator[AgentEvent]:
        """Connect, yield AgentsListed, then every change of a unit; reconnects by itself, with Lost between.

        A unit is told once all of what it says in one turn of the init system is in: never an end that an
        automatic restart follows at once. One that the watch has told of stays loaded after it was
        stopped until ``release``, for as long as the connection lives.
        """
        ...

    async def list(self) -> Sequence[AgentUnit]:
        """All units of the session's agents that are loaded, with CPU time and memory."""
        ...

    async def start(self, spec: AgentUnitSpec) -> None:
        """Register and start it; returns once its command was executed. Raises Conflict `start_failed`
        (nothing is left then), InvalidArgument `property_unknown`, `property_invalid`."""
        ...

    async def check(self, properties: Mapping[str, str]) -> None:
        """Raise InvalidArgument `property_unknown` or `property_invalid` for what ``start`` would refuse."""
        ...

    async def stop(self, agent: str, *, wait: bool = True) -> None:
        """Stop signal to all of its processes, SIGKILL after its timeout; no restart follows.
        Absent is fine."""
        ...

    async def kill(self, agent: str) -> None:
        """SIGKILL to all of its processes, and no restart follows; returns when it has ended.
        Absent is fine."""
        ...

    async def signal(self, agent: str, number: int, *, whole: bool) -> None:
        """Signal its main process, or all. Raises Conflict `agent_not_running`."""
        ...

    async def freeze(self, agent: str) -> None:
        """Freeze all of its processes. Raises Conflict `agent_not_running`. One that is frozen is fine."""
        ...

    async def thaw(self, agent: str) -> None:
        """Thaw it. Raises Conflict `agent_not_running`. One that is not frozen is fine."""
        ...

    async def restart(self, agent: str) -> None:
        """Restart a unit that is loaded. Raises NotFound `unit_not_loaded`, Conflict `start_failed`."""
        ...

    async def release(self, agent: str) -> None:
        """Let go of a unit whose end was written down: end what is left of its processes, and forget it."""
        ...

    async def manager(self) -> str:
        """A word that names this run of the user's manager, and no other."""
        ...

    async def store_room(self) -> tuple[int, int]:
        """Descriptors that the daemon's own unit keeps now, and how many it may."""
        ...

    async def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...


# ---- terminal emulator ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScreenText:
    """A screen written down: ``content`` as asked for, the cursor from 0, and what else is known of it."""

    content: str
    columns: int
    rows: int
    cursor_column: int
    cursor_row: int
    title: str = ""
    alternate: bool = False
    degraded: bool = False


class Screen(Protocol):
    """A terminal without a window: fed with what a program prints, it knows what would be seen."""

    def feed(self, data: bytes) -> bytes:
        """Take output of the program; returns what a terminal would send back for it (device queries)."""
        ...

    def resize(self, columns: int, rows: int) -> None:
        """Change its size, reflowing as terminals do."""
        ...

    def drawing(self, scrollback: int = 0) -> bytes:
        """Escape sequences that bring a cleared terminal of its size to the same state: cells, cursor, modes,
        alternate screen, title, colours; before them so many lines of scrollback."""
        ...

    def write_down(self, form: str, scrollback: int = 0) -> ScreenText:
        """The screen as `text`, `ansi` or `html`."""
        ...

    def encode_key(self, name: str) -> bytes:
        """What a key sends in the present modes. Raises InvalidArgument `key_unknown`."""
        ...

    def encode_paste(self, data: bytes) -> bytes:
        """What pasting sends: between marks where the program asked for them, without the end mark inside."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        ...

    def close(self) -> None:
        """Free it; idempotent."""
        ...


# ---- store ----------------------------------------------------------------------------------


class MetadataStore(Protocol):
    """Labels, annotations, marks and last access by session id, and the user's active session.

    Writes are durable when the call returns. Raises Exhausted `disk_full`, Unreachable `database_locked`.
    """

    note: str
    """Why the database was set aside and made anew when it was opened, or empty."""

    async def all(self) -> dict[str, Metadata]:
        """Every session's metadata."""
        ...

    async def put(self, session: str, metadata: Metadata) -> None:
        """Replace one session's metadata whole."""
        ...

    async def touch(self, session: str, when: datetime) -> None:
        """Set the last access."""
        ...

    async def delete(self, session: str) -> None:
        """Forget a session."""
        ...

    async def active(self) -> str | None:
        """Id of the user's active session."""
        ...

    async def set_active(self, session: str | None) -> None:
        """Set or clear the user's active session."""
        ...

    async def close(self) -> None:
        """Write what is pending and close; idempotent."""
        ...
