"""A metadata store in memory, which fails as it is told to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sessiond.errors import SessiondError, Unreachable
from sessiond.model.agent_session import Key, Overlay
from sessiond.model.session import Metadata


@dataclass(slots=True)
class Disk:
    """What outlives a store: hand the same one to the next."""

    sessions: dict[str, Metadata] = field(default_factory=dict)
    active: str | None = None
    overlays: dict[Key, Overlay] = field(default_factory=dict)


class MemoryStore:
    """Implements ``MetadataStore`` and ``OverlayStore``. While ``broken`` is set every call but ``close``
    raises it."""

    def __init__(self, disk: Disk | None = None, note: str = "") -> None:
        self._disk = disk or Disk()
        self._closed = False
        self.note = note
        self.broken: SessiondError | None = None

    async def all(self) -> dict[str, Metadata]:
        """Every session's metadata."""
        return dict(self._open().sessions)

    async def put(self, session: str, metadata: Metadata) -> None:
        """Replace one session's metadata whole."""
        copy = replace(metadata, labels=dict(metadata.labels), annotations=dict(metadata.annotations))
        self._open().sessions[session] = copy

    async def touch(self, session: str, when: datetime) -> None:
        """Set the last access."""
        sessions = self._open().sessions
        sessions[session] = replace(sessions.get(session, Metadata()), last_accessed=when)

    async def delete(self, session: str) -> None:
        """Forget a session."""
        disk = self._open()
        disk.sessions.pop(session, None)
        if disk.active == session:
            disk.active = None

    async def active(self) -> str | None:
        """Id of the user's active session."""
        return self._open().active

    async def set_active(self, session: str | None) -> None:
        """Set or clear the user's active session."""
        self._open().active = session

    async def overlays(self) -> Sequence[Overlay]:
        """All that is kept beside conversations."""
        return list(self._open().overlays.values())

    async def put_overlay(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Replace one whole, and forget the key that it had."""
        copy = replace(overlay, labels=dict(overlay.labels), annotations=dict(overlay.annotations))
        overlays = self._open().overlays
        if instead_of is not None:
            overlays.pop(instead_of, None)
        overlays[overlay.key] = copy

    async def delete_overlays(self, keys: Sequence[Key]) -> None:
        """Forget these."""
        overlays = self._open().overlays
        for key in keys:
            overlays.pop(key, None)

    async def close(self) -> None:
        """Close; idempotent."""
        self._closed = True

    def _open(self) -> Disk:
        if self._closed:
            raise Unreachable("database_closed", "the store is closed already")
        if self.broken is not None:
            raise self.broken
        return self._disk
