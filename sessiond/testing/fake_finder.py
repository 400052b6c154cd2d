"""A finder in memory: tells what tests put into it, and answers and fails as they tell it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sessiond.aio import Pulse
from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.agent_session import STOPPED, Found, Key, Life, Plan, Probe, Problem, Transcript, Wish
from sessiond.ports.discovery import Checked, FinderEvent, Problems, Rows


@dataclass(slots=True)
class FakeFinder:
    """Public fields are for tests to read and to set; methods below the port's are what happens by hand.

    ``rows`` are all conversations there are, with their lives; change them by ``put`` and ``remove``, which
    tell the watcher, or by hand for what only a ``refresh``, a ``look`` or ``is_alive`` is to notice.
    Adapters in ``held`` tell nothing and answer nothing until they are ``release``d; one in ``faults`` fails:
    its questions raise that error.
    """

    adapters: Sequence[str] = ("claude-code", "codex", "opencode", "pi")
    rows: dict[Key, Found] = field(default_factory=dict)
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    faults: dict[str, SessiondError] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    plans: dict[str, Plan | SessiondError] = field(default_factory=dict)
    """What launches and resumptions answer; without one, `[ADAPTER, PROMPT]` with the id that was wished for,
    to be learnt from `stdout` where none was."""
    transcripts: dict[Key, Transcript | SessiondError] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    """Lines of output that tell an id."""
    probes: dict[str, Probe] = field(default_factory=dict)
    search_paths: list[str] = field(default_factory=list)
    owned: dict[str, dict[str, str]] = field(default_factory=dict)
    """What ``own`` said last, by adapter."""
    wishes: list[tuple[str, str, Wish]] = field(default_factory=list)
    """Adapter, id of the conversation to go on with (or empty), wish."""
    ended: list[tuple[str, str, float]] = field(default_factory=list)
    """Adapter, id, seconds given to end."""
    survives: bool = False
    """What is ended goes on living."""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Name of each method called, with its adapter (empty for those of all)."""
    watched: bool = False
    closed: bool = False
    _events: asyncio.Queue[FinderEvent | None] = field(default_factory=asyncio.Queue)
    _released: Pulse = field(default_factory=Pulse)
    _took: Pulse = field(default_factory=Pulse)
    _told: int = 0
    _done: int = 0

    # ---- the port

    async def prepare(self) -> None:
        """See the port."""
        self.calls.append(("prepare", ""))

    async def watch(self) -> AsyncIterator[FinderEvent]:
        """See the port."""
        if self.watched:
            raise RuntimeError("a finder has one reader")
        self.watched = True
        for adapter in self.adapters:
            if adapter not in self.held:
                self._tell_whole(adapter)
        while not self.closed and (event := await self._events.get()) is not None:
            yield event
            self._done += 1
            self._took.fire()

    async def refresh(self, adapters: Collection[str]) -> None:
        """See the port."""
        for adapter in adapters:
            self._known(adapter)
            self.calls.append(("refresh", adapter))
            await self._until_released(adapter)
            self._tell_whole(adapter)
        await self._taken()

    async def look(self, adapter: str) -> None:
        """See the port."""
        self._known(adapter)
        self.calls.append(("look", adapter))
        await self._until_released(adapter)
        if adapter in self.faults:
            self._tell_whole(adapter)
        else:
            self._tell(Rows(adapter, [one for one in self.rows.values() if one.adapter == adapter]))
            self._tell(Checked(adapter))
        await self._taken()

    async def is_alive(self, adapter: str, session: str) -> Found | None:
        """See the port."""
        await self._ask("is_alive", adapter)
        return self.rows.get((adapter, session))

    async def own(self, adapter: str, agents: Mapping[str, str]) -> None:
        """See the port."""
        self._known(adapter)
        self.calls.append(("own", adapter))
        self.owned[adapter] = dict(agents)

    async def transcript(self, adapter: str, session: str, tail: int) -> Transcript:
        """See the port."""
        await self._ask("transcript", adapter)
        told = self.transcripts.get((adapter, session))
        if isinstance(told, SessiondError):
            raise told
        if told is None:
            raise NotFound(
                "transcript_missing",
                f"{adapter} has no transcript of {session}",
                fields={"adapter": adapter, "id": session},
            )
        kept = told.messages[-tail:]
        return replace(told, messages=kept, has_more=told.has_more or len(kept) < len(told.messages))

    async def launch(self, adapter: str, wish: Wish) -> Plan:
        """See the port."""
        await self._ask("launch", adapter)
        self.wishes.append((adapter, "", wish))
        return self._plan(adapter, wish.id, wish)

    async def resume(self, adapter: str, session: str, wish: Wish) -> Plan:
        """See the port."""
        await self._ask("resume", adapter)
        self.wishes.append((adapter, session, wish))
        return self._plan(adapter, session, wish)

    async def identify(self, adapter: str, line: str) -> str | None:
        """See the port."""
        await self._ask("identify", adapter)
        return self.lines.get(line)

    async def probe(self, adapters: Collection[str], search_path: str) -> Sequence[Probe]:
        """See the port."""
        self.calls.append(("probe", ""))
        self.search_paths.append(search_path)
        for adapter in adapters:
            self._known(adapter)
        asked = adapters or self.adapters
        return [
            self.probes.get(one, Probe(one, one, installed=False)) for one in self.adapters if one in asked
        ]

    async def end(self, adapter: str, found: Found, timeout: float) -> bool:
        """See the port."""
        self._known(adapter)
        self.calls.append(("end", adapter))
        self.ended.append((adapter, found.id, timeout))
        now = self.rows.get(found.key)
        if now is None or now.life.pid is None or now.life.pid != found.life.pid:
            return False
        if not self.survives:
            self.put(replace(now, life=STOPPED))
        return True

    async def close(self) -> None:
        """See the port."""
        self.closed = True
        self._events.put_nowait(None)
        self._took.fire()

    # ---- what happens by hand

    def put(self, *found: Found) -> None:
        """Conversations appear or change."""
        for one in found:
            self.rows[one.key] = one
            self._tell(Rows(one.adapter, [one]))

    def set_life(self, adapter: str, session: str, life: Life) -> None:
        """A conversation's process comes, does something else, or ends."""
        self.put(replace(self.rows[adapter, session], life=life))

    def remove(self, adapter: str, session: str) -> None:
        """A conversation's file is deleted."""
        del self.rows[adapter, session]
        self._tell(Rows(adapter, gone=[session]))

    def tell_problems(self, adapter: str, *problems: Problem) -> None:
        """An adapter has this trouble now, and no other."""
        self.problems[adapter] = list(problems)
        self._tell(Problems(adapter, list(problems)))

    def fail(self, adapter: str, error: SessiondError) -> None:
        """An adapter fails from now on: its rows are stale, its questions raise the error."""
        self.faults[adapter] = error
        self._tell(self._problems_of(adapter))

    def mend(self, adapter: str) -> None:
        """It works again, and has looked at all."""
        self.faults.pop(adapter, None)
        self._tell_whole(adapter)

    def release(self, adapter: str) -> None:
        """It goes on after it was held."""
        self.held.discard(adapter)
        self._released.fire()
        self._tell_whole(adapter)

    def tell(self, event: FinderEvent) -> None:
        """Anything else that a finder may tell."""
        self._tell(event)

    async def read(self) -> None:
        """Return when the watcher has taken all that was told, and has come back for more."""
        await self._taken()

    # ---- inside

    def _known(self, adapter: str) -> None:
        if adapter not in self.adapters:
            raise InvalidArgument(
                "adapter_unknown", f"there is no adapter {adapter!r}", fields={"adapter": adapter}
            )

    async def _ask(self, what: str, adapter: str) -> None:
        self._known(adapter)
        self.calls.append((what, adapter))
        await self._until_released(adapter)
        if adapter in self.faults:
            raise self.faults[adapter]

    async def _until_released(self, adapter: str) -> None:
        while adapter in self.held:
            await self._released.wait()

    def _tell(self, event: FinderEvent) -> None:
        self._told += 1
        self._events.put_nowait(event)

    async def _taken(self) -> None:
        # A reader that was started a moment ago begins.
        await asyncio.sleep(0)
        told = self._told
        await self._took.until(lambda: self._done >= told or not self.watched or self.closed or None)

    def _plan(self, adapter: str, session: str, wish: Wish) -> Plan:
        plan = self.plans.get(adapter)
        if isinstance(plan, SessiondError):
            raise plan
        return plan or Plan((adapter, wish.prompt), id=session, learn="" if session else "stdout")

    def _problems_of(self, adapter: str) -> Problems:
        told = list(self.problems.get(adapter, ()))
        if fault := self.faults.get(adapter):
            told.append(Problem(adapter, fault.code, fault.message))
        return Problems(adapter, told)

    def _tell_whole(self, adapter: str) -> None:
        if adapter not in self.faults:
            rows = [one for one in self.rows.values() if one.adapter == adapter]
            self._tell(Rows(adapter, rows, whole=True))
        self._tell(self._problems_of(adapter))
