"""The init system: one session's agents as units."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sessiond.model.agent import AgentUnit
from sessiond.ports.units import Lost


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
