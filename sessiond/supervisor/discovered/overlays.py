"""What is kept beside conversations: read from the store once, held in memory, written through it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from sessiond.model.agent_session import Key, Overlay
from sessiond.model.conversation import pending_mark
from sessiond.ports import OverlayStore


class Overlays:
    """All overlays by key. Who reads one to change it holds ``lock``."""

    def __init__(self, store: OverlayStore) -> None:
        self._store = store
        self._all: dict[Key, Overlay] = {}
        self._pending: dict[tuple[str, str], Key] = {}
        self.lock = asyncio.Lock()

    async def load(self) -> None:
        """Read the store once."""
        for overlay in await self._store.overlays():
            self._keep(overlay)

    @property
    def all(self) -> Mapping[Key, Overlay]:
        """All there are."""
        return self._all

    def get(self, key: Key) -> Overlay | None:
        """What is kept of one."""
        return self._all.get(key)

    def of(self, adapter: str) -> list[Overlay]:
        """Those of one adapter."""
        return [one for one in self._all.values() if one.adapter == adapter]

    @property
    def pending(self) -> Sequence[Overlay]:
        """Those of conversations that were launched here and have not told their id."""
        return [self._all[key] for key in self._pending.values()]

    def pending_of(self, adapter: str, mark: str) -> Overlay | None:
        """The one that waits for the id of what an agent runs."""
        key = self._pending.get((adapter, mark))
        return None if key is None else self._all[key]

    def followed(self, one: Overlay) -> bool:
        """Whether its agent was seen to go on with another conversation since."""
        if pending_mark(one.id):
            return False
        same = [other for other in self.of(one.adapter) if other.mark == one.mark]
        last = owner(other for other in same if not pending_mark(other.id))
        return last is not None and last.key != one.key

    async def put(self, overlay: Overlay, *, instead_of: Key | None = None) -> None:
        """Store one, then show it; ``instead_of`` is the key that it had."""
        await self._store.put_overlay(overlay, instead_of=instead_of)
        if instead_of is not None:
            self._forget(instead_of)
        self._keep(overlay)

    async def drop(self, keys: Iterable[Key]) -> None:
        """Forget these."""
        known = [key for key in keys if key in self._all]
        if known:
            await self._store.delete_overlays(known)
        for key in known:
            self._forget(key)

    def _keep(self, overlay: Overlay) -> None:
        self._all[overlay.key] = overlay
        if mark := pending_mark(overlay.id):
            self._pending[overlay.adapter, mark] = overlay.key

    def _forget(self, key: Key) -> None:
        self._all.pop(key, None)
        if mark := pending_mark(key[1]):
            self._pending.pop((key[0], mark), None)


def owners(overlays: Iterable[Overlay]) -> dict[str, dict[str, str]]:
    """By adapter, which agent (`SESSION-AGENT`) has which conversation open: the one launched last.

    What was found missing is left out, and what has not told its id.
    """
    latest: dict[tuple[str, str], Overlay] = {}
    for one in overlays:
        if not one.agent or one.missing_since is not None or pending_mark(one.id):
            continue
        other = latest.get((one.adapter, one.mark))
        if other is None or _launched(one) >= _launched(other):
            latest[one.adapter, one.mark] = one
    told: dict[str, dict[str, str]] = {}
    for (adapter, mark), one in latest.items():
        told.setdefault(adapter, {})[mark] = one.id
    return told


def owner(overlays: Iterable[Overlay]) -> Overlay | None:
    """Of those of one agent, the one that it was launched as last."""
    return max(overlays, key=_launched, default=None)


def _launched(one: Overlay) -> float:
    return one.launched_at.timestamp() if one.launched_at is not None else 0.0
