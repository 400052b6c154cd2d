"""A session as it is shown: identity, metadata, and what the init system says, joined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from sessiond.model.identity import Identity
from sessiond.model.state import SessionState
from sessiond.model.unit import UnitStatus, daemon_unit, session_slice


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is stored of a session besides its identity; losing it loses no session."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    archived: bool = False
    last_accessed: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One row of the list; ``unit_status`` is None where no unit is loaded or nobody answers."""

    identity: Identity
    path: Path
    metadata: Metadata
    state: SessionState
    unit_status: UnitStatus | None
    frozen: bool
    enabled: bool | None
    active: bool
    conflict: str
    problem: str
    endpoint: Path

    @property
    def id(self) -> str:
        """Its id."""
        return self.identity.id

    @property
    def unit(self) -> str:
        """Name of its daemon's unit."""
        return daemon_unit(self.identity.id)

    @property
    def slice(self) -> str:
        """Name of its slice."""
        return session_slice(self.identity.id)
