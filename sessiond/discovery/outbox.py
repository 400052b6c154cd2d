"""What was found and not yet read: however slow the reader is, never more than one state of all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field

from sessiond.aio import Pulse
from sessiond.model.agent_session import Found, Problem
from sessiond.ports.discovery import Checked, FinderEvent, Problems, Rows


@dataclass(slots=True)
class _Unread:
    """News of one adapter, the later over the earlier."""

    found: dict[str, Found] = field(default_factory=dict)
    gone: dict[str, None] = field(default_factory=dict)
    whole: bool = False
    problems: Sequence[Problem] | None = None
    checked: bool = False


class Outbox:
    """Takes what runners find, for one reader."""

    def __init__(self) -> None:
        self._unread: dict[str, _Unread] = {}
        self._reading = ""
        self._reader = False
        self._closed = False
        self._changed = Pulse()

    def rows(self, adapter: str, found: Sequence[Found], gone: Collection[str], *, whole: bool) -> None:
        """Conversations changed; with ``whole`` there are no others."""
        unread = self._of(adapter)
        if whole:
            unread.found, unread.gone, unread.whole = {}, {}, True
        for one in found:
            unread.gone.pop(one.id, None)
            unread.found[one.id] = one
        for session in gone:
            unread.found.pop(session, None)
            if not unread.whole:
                unread.gone[session] = None
        self._changed.fire()

    def problems(self, adapter: str, problems: Sequence[Problem]) -> None:
        """All its trouble."""
        self._of(adapter).problems = problems
        self._changed.fire()

    def checked(self, adapter: str) -> None:
        """It looked at files and processes just now."""
        self._of(adapter).checked = True
        self._changed.fire()

    async def read(self) -> AsyncIterator[FinderEvent]:
        """All there is and will be."""
        if self._reader:
            raise RuntimeError("a finder has one reader")
        self._reader = True
        try:
            while not self._closed:
                while self._unread:
                    adapter = next(iter(self._unread))
                    unread = self._unread.pop(adapter)
                    self._reading = adapter
                    if unread.whole or unread.found or unread.gone:
                        yield Rows(adapter, list(unread.found.values()), list(unread.gone), unread.whole)
                    if unread.problems is not None:
                        yield Problems(adapter, unread.problems)
                    if unread.checked:
                        yield Checked(adapter)
                    self._reading = ""
                    self._changed.fire()
                waiting = self._changed.next
                if not self._unread and not self._closed:
                    await waiting.wait()
        finally:
            self._reader, self._reading = False, ""
            self._changed.fire()

    async def taken(self, adapter: str) -> None:
        """Return when the reader, if there is one, has taken what there is of this adapter, and came back for
        more."""
        await self._changed.until(
            lambda: (
                self._closed
                or not self._reader
                or (adapter not in self._unread and self._reading != adapter)
                or None
            )
        )

    def close(self) -> None:
        """Nothing more is told."""
        self._closed = True
        self._changed.fire()

    def _of(self, adapter: str) -> _Unread:
        return self._unread.setdefault(adapter, _Unread())
