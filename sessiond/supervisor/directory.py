"""The list of sessions: identity, metadata and the mirror joined; who is meant by a word; waiting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sessiond.aio import Pulse, unbroken
from sessiond.errors import Conflict, InvalidArgument, NotFound, SessiondError, TimedOut
from sessiond.model.event import Event, EventKind
from sessiond.model.identity import ID_PREFIX_MIN, SessionType
from sessiond.model.session import Metadata, Session
from sessiond.model.state import SessionState, derive
from sessiond.model.unit import UnitStatus
from sessiond.paths import Paths
from sessiond.ports import MetadataStore
from sessiond.supervisor.events import EventLog
from sessiond.supervisor.mirror import Mirror
from sessiond.supervisor.registry import Entry, Registry

log = logging.getLogger(__name__)

_NO_METADATA = Metadata()


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listing asks for; empty means any."""

    archived: bool = False
    states: frozenset[SessionState] = frozenset()
    labels: Mapping[str, str] | None = None
    label_keys: frozenset[str] = frozenset()
    types: frozenset[SessionType] = frozenset()
    owner: str = ""

    def takes(self, session: Session) -> bool:
        """Whether the session is asked for."""
        metadata = session.metadata
        if metadata.archived and not (self.archived or SessionState.ARCHIVED in self.states):
            return False
        return (
            (not self.states or session.state in self.states)
            and (not self.types or session.identity.type in self.types)
            and (not self.owner or session.identity.owner == self.owner)
            and self.label_keys <= metadata.labels.keys()
            and all(metadata.labels.get(key) == value for key, value in (self.labels or {}).items())
        )


class Directory:
    """Every session as it is now. Reads memory alone; writes to the store go through here."""

    def __init__(
        self, paths: Paths, registry: Registry, mirror: Mirror, store: MetadataStore, events: EventLog
    ) -> None:
        self._paths = paths
        self._registry = registry
        self._mirror = mirror
        self._store = store
        self._events = events
        self._metadata: dict[str, Metadata] = {}
        self._active: str | None = None
        self._enabled: frozenset[str] | None = None
        self._states: dict[str, SessionState] = {}
        self._announcing = False
        self._touched: asyncio.Queue[tuple[str, datetime]] = asyncio.Queue()
        self._views: dict[str, Session] = {}
        # All of them and their copies in the order of listings; None once one of them changed.
        self._rows: list[Session] | None = None
        self.changed = Pulse()
        # Sessions whose daemon was just seen to stop; taken by who ends what it left running.
        self.stopped: asyncio.Queue[str] = asyncio.Queue()
        mirror.listen(self.refresh)
        registry.listen(self.refresh)

    async def load(self) -> None:
        """Read the store once."""
        self._metadata = await self._store.all()
        self._active = await self._store.active()
        self.refresh(None)

    # ---- reading

    def get(self, session: str) -> Session:
        """The session with this id; raises NotFound `session_not_found`."""
        view = self._views.get(session)
        if view is None:
            entry = self._registry.entries.get(session)
            if entry is None:
                raise _not_found(session)
            view = self._views[session] = self._join(entry)
        return view

    def list(self, wanted: Filter) -> list[Session]:
        """Those asked for by name; a copied workspace has a row of its own."""
        if self._rows is None:
            rows = [self.get(session) for session in self._registry.entries]
            rows += [row for entry in self._registry.entries.values() for row in self._copies(entry)]
            self._rows = sorted(rows, key=lambda row: (row.identity.name, str(row.path)))
        return list(filter(wanted.takes, self._rows))

    def resolve(self, word: str) -> str:
        """Id of the session that a word means: an id, a name, a prefix of an id, or a path.

        Raises NotFound `session_not_found`, InvalidArgument `session_ambiguous`, and Conflict
        `session_conflict` for the path of a copy.
        """
        if not word:
            raise InvalidArgument("session_missing", "no session named", hint="give a name, an id or a path")
        if word.startswith("/"):
            return self._by_path(Path(word))
        entries = self._registry.entries
        if word in entries:
            return word
        found = list(self._registry.named(word))
        if not found:
            prefix = word.replace("-", "").lower()
            if len(prefix) >= ID_PREFIX_MIN:
                found = [session for session in entries if session.startswith(prefix)]
        if not found:
            raise _not_found(word)
        if len(found) > 1:
            shown = ", ".join(sorted(found)[:5])
            raise InvalidArgument(
                "session_ambiguous",
                f"{word} means more than one session: {shown}",
                hint="give more of the id, or the path",
                fields={"session": word},
            )
        return found[0]

    def _by_path(self, path: Path) -> str:
        session = self._registry.at(path)
        if session is not None:
            return session
        copied = self._registry.copy_at(path)
        if copied is None:
            raise NotFound(
                "session_not_found",
                f"{path} is no session",
                hint=f"sessionctl new {path}",
                fields={"session": str(path)},
            )
        raise Conflict(
            "session_conflict",
            f"{path} is a copy of session {copied}",
            hint=f"sessionctl adopt {path} --new-id",
            fields={"session": copied, "path": str(path)},
        )

    def active(self) -> str | None:
        """Id of the user's active session, where it still exists."""
        return self._active if self._active in self._registry.entries else None

    def state(self, session: str) -> SessionState:
        """Its state now."""
        return self.get(session).state

    def _join(self, entry: Entry) -> Session:
        session = entry.identity.id
        metadata = self._metadata.get(session, _NO_METADATA)
        reachable = self._mirror.reachable
        unit = self._mirror.daemon(session) if reachable else None
        agents = self._mirror.agents(session) if reachable else None
        return Session(
            identity=entry.identity,
            path=entry.path,
            metadata=metadata,
            state=derive(unit, reachable=reachable, archived=metadata.archived),
            unit_status=unit,
            frozen=_frozen(unit) or _frozen(agents),
            enabled=None if self._enabled is None or not reachable else session in self._enabled,
            active=session == self._active,
            conflict=self._conflict(entry),
            problem=entry.problem,
            endpoint=self._paths.session_socket(session),
        )

    def _conflict(self, entry: Entry) -> str:
        """Who else carries its id or its name."""
        faults = []
        if entry.copies:
            faults.append("also at " + ", ".join(map(str, sorted(entry.copies))))
        others = self._registry.named(entry.identity.name) - {entry.identity.id}
        if others:
            faults.append("the name is also that of session " + ", ".join(sorted(others)))
        return "; ".join(faults)

    def _copies(self, entry: Entry) -> Iterable[Session]:
        """Rows for the folders that carry the same id; nothing of ours runs in them."""
        for path in entry.copies:
            yield replace(
                self._join(entry),
                path=path,
                state=SessionState.INACTIVE,
                unit_status=None,
                frozen=False,
                enabled=False,
                active=False,
                conflict=f"copy of {entry.path}",
                problem="",
            )

    # ---- waiting

    async def wait(self, session: str, states: frozenset[SessionState], timeout: float | None) -> Session:
        """Answer once it is in one of the states; raises TimedOut, Conflict or NotFound."""

        def reached() -> Session | None:
            now = self.get(session)
            if now.state in states:
                return now
            if now.state is SessionState.ERROR and SessionState.ACTIVE in states:
                raise Conflict(
                    "session_error",
                    f"{now.identity.name} failed: {why(now)}",
                    hint=f"sessionctl status {now.identity.name}",
                    fields={"session": session, "state": now.state},
                )
            return None

        try:
            async with asyncio.timeout(timeout):
                return await self.changed.until(reached)
        except TimeoutError as error:
            now = self.get(session)
            raise TimedOut(
                "wait_timeout",
                f"{now.identity.name} is still {now.state} after {timeout:g} s",
                hint=f"give it more time, or look: sessionctl status {now.identity.name}",
                fields={"session": session, "state": now.state},
            ) from error

    async def settle(self, session: str, test: Callable[[SessionState], bool]) -> Session:
        """Give the mirror the moment it needs to hear what a job's result has told already."""
        try:
            async with asyncio.timeout(5):
                return await self.changed.until(
                    lambda: now if test((now := self.get(session)).state) else None
                )
        except TimeoutError:
            return self.get(session)

    # ---- writing

    @unbroken
    async def put(self, session: str, metadata: Metadata) -> None:
        """Store a session's metadata, then show it. Who reads it to change it holds the registry's lock."""
        await self._store.put(session, metadata)
        # It may have been used meanwhile.
        self._metadata[session] = replace(metadata, last_accessed=self.metadata(session).last_accessed)
        self.refresh(frozenset({session}))

    def metadata(self, session: str) -> Metadata:
        """What is stored of it."""
        return self._metadata.get(session, _NO_METADATA)

    def touch(self, session: str, when: datetime) -> None:
        """Note that somebody used it; `write_touches` stores it, so that nobody waits for a disk."""
        self._metadata[session] = replace(self.metadata(session), last_accessed=when)
        self._touched.put_nowait((session, when))
        self.refresh(frozenset({session}))

    async def write_touches(self) -> None:
        """Store what was noted, for ever; a store that cannot be written is no reason not to run."""
        while True:
            session, when = await self._touched.get()
            if session not in self._registry.entries:
                continue
            try:
                await self._store.touch(session, when)
            except SessiondError as error:
                log.warning("the last access of %s is not stored: %s", session, error.message)

    @unbroken
    async def set_active(self, session: str | None) -> None:
        """Mark the user's active session, or clear the mark."""
        await self._store.set_active(session)
        concerned = frozenset(one for one in (self._active, session) if one)
        self._active = session
        self.refresh(concerned)

    @unbroken
    async def forget(self, session: str) -> None:
        """Drop what is stored of a session that was deleted."""
        await self._store.delete(session)
        self._metadata.pop(session, None)
        if self._active == session:
            await self.set_active(None)

    def set_enabled(self, enabled: frozenset[str]) -> None:
        """Show what starts at boot, as the init system just told."""
        if enabled != self._enabled:
            self._enabled = enabled
            self.refresh(None)

    # ---- hearing

    def refresh(self, sessions: frozenset[str] | None) -> None:
        """Look again at some sessions, or at all: note changes of state, wake those who wait."""
        self._rows = None
        if not self._announcing:
            # Looked at once, when all is known: until then the same news comes for each session many times.
            self._views.clear()
            self.changed.fire()
            return
        if sessions is None:
            self._views.clear()
            sessions = frozenset(self._registry.entries) | frozenset(self._states)
        for session in sessions:
            self._views.pop(session, None)
            self._note_state(session)
        self.changed.fire()

    def announce(self) -> None:
        """From now on a change of state is news; what a restarted supervisor finds again is none."""
        self._announcing = True
        self.refresh(None)

    def _note_state(self, session: str) -> None:
        if session not in self._registry.entries:
            self._states.pop(session, None)
            return
        now = self.get(session)
        before = self._states.get(session)
        self._states[session] = now.state
        if before is None or before is now.state:
            return
        if before.runs and now.state in (SessionState.INACTIVE, SessionState.ARCHIVED):
            self.stopped.put_nowait(session)
        fields = {"from": before.value, "to": now.state.value, "reason": self._reason(now)}
        self._event(EventKind.SESSION_STATE_CHANGED, now, fields)
        if now.state is SessionState.ACTIVE and before is not SessionState.UNKNOWN:
            self._event(EventKind.SESSION_STARTED, now, {})

    def _event(self, kind: EventKind, session: Session, fields: Mapping[str, str]) -> Event:
        return self._events.append(kind, session.id, session.identity.name, fields)

    def _reason(self, session: Session) -> str:
        return why(session) if self._mirror.reachable else self._mirror.lost_reason


def why(session: Session) -> str:
    """How its daemon's last run ended, in a few words; empty where it did not end badly."""
    unit = session.unit_status
    if unit is None:
        return ""
    if unit.exit_signal:
        return f"{unit.result or 'signal'}: {unit.exit_signal}"
    if unit.exit_status:
        return f"{unit.result or 'exit-code'}: exit status {unit.exit_status}"
    return "" if unit.result in ("", "success") else unit.result


def _frozen(unit: UnitStatus | None) -> bool:
    return unit is not None and unit.frozen


def _not_found(word: str) -> NotFound:
    return NotFound(
        "session_not_found",
        f"no session {word!r}",
        hint="`sessionctl list -a` shows all; `sessionctl discover` looks for more",
        fields={"session": word},
    )
