"""The init system: sessions as units, and what it tells of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sessiond.model.unit import UnitStatus


@dataclass(frozen=True, slots=True)
class Asked:
    """The init system was asked for all units of ours; it answers with Connected."""


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


UnitEvent = Asked | Connected | Lost | UnitAppeared | UnitChanged | UnitRemoved | EnablementChanged


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
        """Connect, yield Connected, then every change; reconnects by itself, yielding Lost between. Asked may
        come before Connected."""
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
