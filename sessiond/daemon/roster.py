"""One session's agents as they are now: what the book holds and what the init system says, joined."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sessiond.agents.book import Book, Kept
from sessiond.agents.folder import AgentFolder
from sessiond.aio import Pulse
from sessiond.daemon.leaving import leaving
from sessiond.daemon.streams import Streams
from sessiond.errors import NotFound, SessiondError
from sessiond.model.agent import (
    Agent,
    AgentEnd,
    AgentSpec,
    AgentState,
    AgentUnit,
    derive_agent,
    ended_by,
    has_ended,
)
from sessiond.model.agent_selection import find

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class Entry:
    """One agent. All that changes it holds ``lock``, but for ``unit``, which is what was last told.

    ``stop_seen``: somebody had the init system stop it. ``sent``: the signals that this run was sent by us.
    ``lost``: how it ended, where its unit is gone and there was no room to write that down yet.
    ``pid``: its last main process. ``settled``: its end is written down and its record whole.
    """

    spec: AgentSpec
    folder: AgentFolder
    end: AgentEnd | None = None
    asked: bool = False
    stop_seen: bool = False
    unit: AgentUnit | None = None
    starting: bool = False
    settled: bool = False
    sent: frozenset[int] = frozenset()
    pid: int = 0
    removed: bool = False
    lost: AgentEnd | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of(cls, kept: Kept) -> Entry:
        """What the book holds."""
        return cls(kept.spec, kept.folder, kept.end, kept.asked, settled=kept.end is not None, sent=kept.sent)

    @property
    def id(self) -> str:
        """Its id."""
        return self.spec.id

    @property
    def known_end(self) -> AgentEnd | None:
        """How it ended, where that need not be asked of its unit."""
        return self.end or (self.lost if self.unit is None else None)

    @property
    def wished(self) -> bool:
        """Whether somebody wants it to end or, where it has, wanted that."""
        if self.asked or self.stop_seen:
            return True
        return self.unit is not None and ended_by(self.unit, self.sent, self.spec.stop_signal)

    @property
    def over(self) -> bool:
        """Whether its unit's run is over, written down or not."""
        if self.starting:
            return False
        return self.known_end is not None or (self.unit is not None and has_ended(self.unit))


class Roster:
    """Every agent of the session by id, oldest first."""

    def __init__(self, book: Book, streams: Streams) -> None:
        self.book = book
        self._streams = streams
        self.entries: dict[str, Entry] = {}
        # Whether the init system answers; until then nothing is known of what runs.
        self.reachable = False
        self.changed = Pulse()
        # Whether this daemon ends, and is told nothing any more.
        self.left = False

    def load(self) -> None:
        """Read the book; what cannot be read is told in the log."""
        kept, skipped = self.book.load()
        for one in skipped:
            log.warning("%s holds no agent that can be read: %s", one.path, one.reason)
        self.entries = {agent: Entry.of(one) for agent, one in kept.items()}
        # It may run: without its terminal it would be hung up on.
        self._streams.spare({one.path.name for one in skipped})

    def add(self, entry: Entry) -> None:
        """One more."""
        self.entries[entry.id] = entry
        self.changed.fire()

    def drop(self, entry: Entry) -> None:
        """It is removed."""
        entry.removed = True
        self.entries.pop(entry.id, None)
        self.changed.fire()

    def leave(self) -> None:
        """This daemon ends: whoever waits for news need not wait until it is gone."""
        self.left = True
        self.changed.fire()

    # ---- waiting

    def stay(self) -> None:
        """Raise Unreachable `daemon_restarting` once this daemon ends."""
        if self.left:
            raise leaving()

    async def until(self, test: Callable[[], _T | None]) -> _T:
        """The first answer of ``test`` that is not None, now or after a change; raises as ``stay``."""

        def asked() -> _T | None:
            answer = test()
            if answer is None:
                self.stay()
            return answer

        return await self.changed.until(asked)

    # ---- reading

    def state(self, entry: Entry) -> AgentState:
        """Its state."""
        if entry.starting and entry.unit is None:
            return AgentState.STARTING
        return derive_agent(entry.unit, entry.known_end, reachable=self.reachable, asked=entry.wished)

    def bare(self, entry: Entry) -> Agent:
        """The row without what is held of its output."""
        end = entry.known_end
        return Agent(entry.spec, self.state(entry), unit=entry.unit if end is None else None, end=end)

    def row(self, entry: Entry, measured: AgentUnit | None = None) -> Agent:
        """The whole row; ``measured`` is its unit asked for CPU time and memory just now."""
        bare = self.bare(entry)
        unit = bare.unit
        if unit is not None:
            told = measured or AgentUnit(unit.status)
            unit = replace(unit, cpu_seconds=told.cpu_seconds, memory_bytes=told.memory_bytes)
        row = replace(bare, unit=unit, columns=entry.spec.columns, rows=entry.spec.rows)
        if not entry.spec.tty:
            row = replace(row, columns=0, rows=0)
        try:
            facts = self._streams.facts(entry.spec, entry.folder)
        except SessiondError as error:
            # A record that is gone or cannot be read must not take the agent out of the list.
            log.debug("the record of %s: %s", entry.id, error.message)
            return row
        row = replace(row, record_start=facts.start, record_bytes=facts.end, recording_problem=facts.problem)
        screen = self._streams.screen(entry.id)
        if screen is None:
            return row
        return replace(row, clients=screen.clients, columns=screen.columns, rows=screen.rows)

    def all_bare(self) -> list[Agent]:
        """Rows without outputs."""
        return [self.bare(entry) for entry in self.entries.values()]

    def find(self, word: str) -> Entry:
        """The agent that a word means. Raises NotFound `agent_not_found`, InvalidArgument."""
        return self.entries[find(word, self.all_bare()).id]

    def living(self) -> list[Entry]:
        """Those that have not ended, for all that is known."""
        return [entry for entry in self.entries.values() if not entry.over]

    def unfinished(self) -> Iterable[Entry]:
        """Those whose end is not written down."""
        return [entry for entry in self.entries.values() if entry.end is None]

    def present(self, entry: Entry) -> Entry:
        """The entry; raises NotFound where it was removed meanwhile, and as ``stay``."""
        self.stay()
        if entry.removed:
            raise NotFound(
                "agent_not_found",
                f"{entry.spec.name} was removed",
                hint="sessionctl ps -a",
                fields={"agent": entry.id},
            )
        return entry
