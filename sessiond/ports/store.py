"""What is kept of sessions and of conversations beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sessiond.model.agent_session import Key, Overlay
from sessiond.model.session import Metadata


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


class OverlayStore(Protocol):
    """What is kept beside conversations. Raises as MetadataStore does."""

    async def overlays(self) -> Sequence[Overlay]:
        """All of them."""
        ...

    async def put_overlay(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Replace one whole; ``instead_of`` is the key that it had until now, forgotten in the same step."""
        ...

    async def delete_overlays(self, keys: Sequence[Key]) -> None:
        """Forget these, all or none; unknown ones are fine."""
        ...
