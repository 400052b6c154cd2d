"""Which sessions there are: identities on disk, where they lie, and what is wrong with them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sessiond.errors import AlreadyExists, NotFound, SessiondError
from sessiond.model.event import EventKind
from sessiond.model.identity import Identity, numbered
from sessiond.paths import Paths
from sessiond.supervisor.events import EventLog
from sessiond.workspaces import identity_file, links
from sessiond.workspaces.scan import Found, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One session on disk; ``copies`` are other folders that carry its id, ``problem`` what is amiss."""

    identity: Identity
    path: Path
    problem: str = ""
    copies: frozenset[Path] = frozenset()


@dataclass(frozen=True, slots=True)
class ScanRules:
    """How folders are scanned: levels below a root, and the marks of a project."""

    depth: int
    markers: Sequence[str]


class Registry:
    """The identities. Every change goes through one lock; disk is read and written in threads."""

    def __init__(self, paths: Paths, rules: ScanRules, events: EventLog, found: asyncio.Event) -> None:
        """``found`` is set when a session was found that may have a history in the init system."""
        self._paths = paths
        self._rules = rules
        self._events = events
        self._found = found
        # What a restarted supervisor finds again is no news.
        self._announcing = False
        self._by_path: dict[Path, str] = {}
        self._by_name: dict[str, set[str]] = {}
        self._listener: Callable[[frozenset[str] | None], None] = lambda sessions: None
        # Set when the set of workspaces changed; cleared by who watches them.
        self.folders_changed = asyncio.Event()
        self.entries: dict[str, Entry] = {}
        self.lock = asyncio.Lock()

    def listen(self, listener: Callable[[frozenset[str] | None], None]) -> None:
        """Have the ids whose entry changed told to ``listener``."""
        self._listener = listener

    def at(self, path: Path) -> str | None:
        """Id of the session whose workspace this is; copies are none."""
        return self._by_path.get(path)

    def copy_at(self, path: Path) -> str | None:
        """Id that a copied workspace carries."""
        return next((one for one, entry in self.entries.items() if path in entry.copies), None)

    def folders(self) -> frozenset[Path]:
        """Every workspace known, copies among them."""
        return frozenset(self._by_path).union(*(entry.copies for entry in self.entries.values()))

    def named(self, name: str) -> frozenset[str]:
        """Ids of the sessions that have this name: more than one only where folders came with it."""
        return frozenset(self._by_name.get(name, ()))

    def check_free(self, name: str, but: str = "") -> None:
        """Raise AlreadyExists `name_taken` where another session than ``but`` has the name."""
        holder = min(self.named(name) - {but}, default=None)
        if holder is not None:
            raise AlreadyExists(
                "name_taken",
                f"the name {name!r} is that of session {holder} at {self.entries[holder].path}",
                hint="choose another with --name",
                fields={"name": name, "session": holder},
            )

    def free_name(self, name: str) -> str:
        """The name, or where it is taken the first free one with a number behind it."""
        taken = self._by_name.keys()
        if name not in taken:
            return name
        return next(one for n in range(2, len(taken) + 3) if (one := numbered(name, n)) not in taken)

    # ---- reading the disk

    def announce(self) -> None:
        """From now on a session that is found is news."""
        self._announcing = True

    async def load(self, roots: Iterable[Path]) -> Found:
        """Find all sessions: those linked from the state folder, and those below the roots."""
        async with self.lock:
            # All in one thread: a hop into another for each costs more than the reading.
            linked = await asyncio.to_thread(self._read_linked)
            for session, path, found in linked:
                await self._saw(path, session, found)
        known = {path: found for _, path, found in linked if isinstance(found, Identity)}
        result = await self.scan(roots, known=known)
        # A copy has no link: one that a scan no longer finds is looked at by itself.
        copies = frozenset().union(*(entry.copies for entry in self.entries.values()))
        await self.look(copies - {path for path, _ in result.workspaces})
        return result

    def _read_linked(self) -> list[tuple[str, Path, Identity | SessiondError]]:
        """Every session that the state folder leads to, and what its workspace holds."""
        linked, bare = links.survey(self._paths)
        if bare:
            self._settle_intents()
            linked = links.read_all(self._paths)
        return [(session, path, _read(path)) for session, path in linked.items()]

    def _settle_intents(self) -> None:
        """Sessions that were being made when a supervisor died: whole where the identity is, else none."""
        for session, path in links.read_intents(self._paths).items():
            try:
                held = identity_file.read(path).id
            except NotFound as error:
                if error.code != "identity_missing":
                    # The folder is not there, perhaps only for now: this can wait.
                    continue
                held = ""
            except SessiondError:
                continue
            if held == session:
                links.point(self._paths, session, path)
            else:
                links.remove_session_state(self._paths, session)
        links.sweep(self._paths)

    async def scan(
        self, roots: Iterable[Path], *, explicit: bool = False, known: Mapping[Path, Identity] | None = None
    ) -> Found:
        """Scan folders and take in what is found; ``explicit`` ones must exist, ``known`` were just read."""
        found = await asyncio.to_thread(
            scan,
            list(roots),
            depth=self._rules.depth,
            markers=self._rules.markers,
            explicit=explicit,
            known=known,
        )
        async with self.lock:
            for path, identity in found.workspaces:
                await self._take(path, identity)
        await self.look(await asyncio.to_thread(self._missed, roots, {path for path, _ in found.workspaces}))
        return found

    def _missed(self, roots: Iterable[Path], found: Set[Path]) -> list[Path]:
        """Workspaces known to lie below the roots that a scan did not find: gone, or no longer readable."""
        missing = self.folders() - found
        below = [root.resolve() for root in roots] if missing else []
        return [path for path in missing if any(path.is_relative_to(root) for root in below)]

    async def look(self, folders: Iterable[Path]) -> None:
        """Read the identity in each folder again."""
        async with self.lock:
            for path in folders:
                await self._look(path, self.at(path) or self.copy_at(path))

    async def _look(self, path: Path, session: str | None) -> None:
        """One folder; ``session`` is the id that was last known to lie there. The lock is held."""
        await self._saw(path, session, await asyncio.to_thread(_read, path))

    async def _saw(self, path: Path, session: str | None, found: Identity | SessiondError) -> None:
        """Take in what was read from a folder. The lock is held."""
        if isinstance(found, SessiondError):
            if session is not None:
                await self._lose(path, session, found.message)
            return
        if session is not None and found.id != session:
            await self._lose(path, session, f"{path} now holds session {found.id}")
        await self._take(path, found, linked=found.id == session)

    async def _take(self, path: Path, identity: Identity, *, linked: bool = False) -> None:
        """A folder holds this identity: new, the same, moved, or a copy. ``linked``: its link led here."""
        entry = self.entries.get(identity.id)
        if entry is None:
            await self._register(path, identity, linked=linked)
            self._found.set()
            if self._announcing:
                fields = {"path": str(path), "reason": "found"}
                self._events.append(EventKind.SESSION_CREATED, identity.id, identity.name, fields)
                for other in sorted(self.named(identity.name) - {identity.id}):
                    fields = {"path": str(path), "name": identity.name, "other": other}
                    self._events.append(EventKind.SESSION_CONFLICT, identity.id, identity.name, fields)
        elif entry.path == path:
            self._same(entry, identity)
        elif await asyncio.to_thread(self._holds, entry.path, identity.id):
            self._copied(entry, path)
        else:
            await self._moved(entry, path, identity)

    def _same(self, entry: Entry, identity: Identity) -> None:
        fresh = replace(entry, identity=identity, problem="")
        if fresh == entry:
            return
        self._put(fresh)
        if identity != entry.identity:
            self._events.append(
                EventKind.SESSION_UPDATED,
                identity.id,
                identity.name,
                {"fields": "identity", "reason": "file"},
            )

    def _copied(self, entry: Entry, path: Path) -> None:
        if path in entry.copies:
            return
        session = entry.identity.id
        self._put(replace(entry, copies=entry.copies | {path}))
        fields = {"path": str(path), "original": str(entry.path)}
        self._events.append(EventKind.SESSION_CONFLICT, session, entry.identity.name, fields)

    async def _moved(self, entry: Entry, path: Path, identity: Identity) -> None:
        await asyncio.to_thread(links.point, self._paths, identity.id, path)
        self._leave(entry)
        self._put(Entry(identity, path, copies=entry.copies - {path}))
        fields = {"from": str(entry.path), "to": str(path)}
        self._events.append(EventKind.SESSION_MOVED, identity.id, identity.name, fields)

    async def _lose(self, path: Path, session: str, problem: str) -> None:
        """A folder no longer holds the identity it held."""
        entry = self.entries.get(session)
        if entry is None:
            await self._lost_before_seen(path, session, problem)
        elif path in entry.copies:
            self._put(replace(entry, copies=entry.copies - {path}))
        elif heir := await asyncio.to_thread(self._heir, entry):
            await self._moved(entry, heir, entry.identity)
        elif entry.problem != problem:
            self._put(replace(entry, problem=problem))

    async def _lost_before_seen(self, path: Path, session: str, problem: str) -> None:
        """The state folder knows a session whose workspace cannot be read: shown, not dropped."""
        identity = await asyncio.to_thread(links.stand_in, self._paths, session, path)
        self._put(Entry(identity, path, problem))

    def _heir(self, entry: Entry) -> Path | None:
        """A copy that still holds the identity, once the original is gone."""
        return next((one for one in sorted(entry.copies) if self._holds(one, entry.identity.id)), None)

    @staticmethod
    def _holds(path: Path, session: str) -> bool:
        try:
            return identity_file.read(path).id == session
        except SessiondError:
            return False

    # ---- writing the disk; the lock is the caller's to hold

    async def create(self, path: Path, identity: Identity) -> None:
        """Write a new identity into a workspace and know it. Raises AlreadyExists `session_exists`."""
        await self._make(path, identity, identity_file.create)
        await self._register(path, identity)

    async def _make(self, path: Path, identity: Identity, write: Callable[[Path, Identity], None]) -> None:
        """Have an identity come to be so that a death at any moment leaves a session or none."""
        await asyncio.to_thread(links.intend, self._paths, identity.id, path)
        try:
            await asyncio.to_thread(write, path, identity)
        except SessiondError:
            await asyncio.to_thread(links.remove_session_state, self._paths, identity.id)
            raise

    async def rewrite(self, session: str, identity: Identity) -> None:
        """Replace what the workspace says of the session; the id may be a new one."""
        entry = self.entries[session]
        await asyncio.to_thread(identity_file.write, entry.path, identity)
        self._put(replace(entry, identity=identity))

    async def give(self, path: Path, identity: Identity) -> None:
        """Write a new identity into a folder, whatever it holds: a copy, something unreadable, none."""
        holder = self.copy_at(path)
        await self._make(path, identity, identity_file.write)
        if holder is not None:
            entry = self.entries[holder]
            self._put(replace(entry, copies=entry.copies - {path}))
        await self._register(path, identity)

    async def take(self, path: Path, identity: Identity) -> None:
        """Know the identity that a folder was found to hold."""
        await self._take(path, identity)

    async def remove(self, session: str) -> None:
        """Take the identity out of the workspace, and drop the session's own state."""
        entry = self.entries[session]
        if await asyncio.to_thread(self._holds, entry.path, session):
            await asyncio.to_thread(identity_file.remove, entry.path)
        await self.forget_folder(session)

    async def forget_folder(self, session: str) -> None:
        """Drop the session's own state; the identity in the workspace is left."""
        entry = self.entries[session]
        await asyncio.to_thread(links.remove_session_state, self._paths, session)
        await asyncio.to_thread(self._remove_socket, session)
        self._leave(entry)
        del self.entries[session]
        self._unname(entry)
        self._tell(session, *self.named(entry.identity.name))

    def _remove_socket(self, session: str) -> None:
        """Remove what a daemon that was killed left in the runtime folder."""
        socket = self._paths.session_socket(session)
        for left in (socket, socket.with_suffix(".lock")):
            # What cannot be removed harms nobody: it is replaced when needed, and gone after a reboot.
            with suppress(OSError):
                left.unlink()

    async def _register(self, path: Path, identity: Identity, *, linked: bool = False) -> None:
        if not linked:
            await asyncio.to_thread(links.point, self._paths, identity.id, path)
        self._put(Entry(identity, path))

    # ---- the indexes

    def _put(self, entry: Entry) -> None:
        """Know an entry, in place of what was known under its id, and tell all whom that concerns."""
        session, name = entry.identity.id, entry.identity.name
        before = self.entries.get(session)
        self.entries[session] = entry
        # One whose folder is lost does not take the folder from who holds it now.
        if not entry.problem or entry.path not in self._by_path:
            self._by_path[entry.path] = session
        concerned = {session}
        if before is None or before.identity.name != name:
            if before is not None:
                self._unname(before)
                concerned |= self.named(before.identity.name)
            self._by_name.setdefault(name, set()).add(session)
            concerned |= self.named(name)
        self._tell(*concerned)

    def _leave(self, entry: Entry) -> None:
        if self._by_path.get(entry.path) == entry.identity.id:
            del self._by_path[entry.path]

    def _unname(self, entry: Entry) -> None:
        holders = self._by_name[entry.identity.name]
        holders.discard(entry.identity.id)
        if not holders:
            del self._by_name[entry.identity.name]

    def _tell(self, *sessions: str) -> None:
        self._listener(frozenset(sessions))
        self.folders_changed.set()


def _read(path: Path) -> Identity | SessiondError:
    """The identity in a folder, or why it cannot be read. Blocks."""
    try:
        return identity_file.read(path)
    except SessiondError as error:
        return error
