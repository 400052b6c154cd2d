"""What makes, alters and removes sessions: the identity on disk and the metadata beside it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from sessiond.aio import unbroken
from sessiond.errors import AlreadyExists, Conflict, InvalidArgument, PermissionDenied, SessiondError
from sessiond.model.event import EventKind
from sessiond.model.identity import (
    Identity,
    SessionType,
    check_annotation,
    check_count,
    check_label,
    check_name,
    check_owner,
    name_from_folder,
    new_id,
)
from sessiond.model.session import Metadata, Session
from sessiond.ports import InitSystem
from sessiond.supervisor.at_rest import AtRest
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.events import EventLog
from sessiond.supervisor.lifecycle import Lifecycle, refuse_running
from sessiond.supervisor.registry import Registry
from sessiond.workspaces import identity_file
from sessiond.workspaces.paths import check_workspace_path
from sessiond.workspaces.purge import check_purge, purge

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a new identity gets where nothing is given."""

    type: SessionType
    owner: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new session is to be."""

    path: str
    name: str = ""
    type: SessionType | None = None
    owner: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to change; None keeps."""

    name: str | None = None
    type: SessionType | None = None
    owner: str | None = None
    labels: Mapping[str, str] | None = None
    annotations: Mapping[str, str] | None = None
    set_labels: Mapping[str, str] = field(default_factory=dict)
    remove_labels: Sequence[str] = ()
    set_annotations: Mapping[str, str] = field(default_factory=dict)
    remove_annotations: Sequence[str] = ()


class Changes:
    """Creates, adopts, edits and deletes; all checks come before the first write."""

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        lifecycle: Lifecycle,
        init: InitSystem,
        events: EventLog,
        at_rest: AtRest,
        defaults: Defaults,
        roots: Sequence[Path],
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._lifecycle = lifecycle
        self._init = init
        self._events = events
        self._at_rest = at_rest
        self._defaults = defaults
        self._roots = roots

    # ---- making

    @unbroken
    async def create(self, wish: Wish) -> Session:
        """Make a folder a session. Raises AlreadyExists where it is one, registered or not."""
        _check_labels(wish.labels)
        identity = self._identity(wish)
        path = await asyncio.to_thread(check_workspace_path, wish.path, create=True)
        async with self._registry.lock:
            identity = self._named(identity, wish.name, path)
            try:
                await self._registry.create(path, identity)
            except AlreadyExists as error:
                raise await self._existing(path, error) from error
            if wish.labels:
                metadata = replace(self._directory.metadata(identity.id), labels=dict(wish.labels))
                await self._directory.put(identity.id, metadata)
        return self._created(identity, path)

    @unbroken
    async def adopt(self, path_text: str, *, new: bool, name: str) -> Session:
        """Take a folder as it is: with the identity it holds, or, where asked or bare, a new one."""
        path = await asyncio.to_thread(check_workspace_path, path_text, create=False)
        if name:
            check_name(name)
        async with self._registry.lock:
            held = await self._held(path, replaceable=new)
            if held is None or new:
                return await self._give_new(path, held, name)
            if self._registry.copy_at(path) is not None:
                raise self._copy_conflict(path, held)
        await self._registry.look([path])
        if self._registry.at(path) != held.id:
            raise self._copy_conflict(path, held)
        return self._directory.get(held.id)

    async def _held(self, path: Path, *, replaceable: bool) -> Identity | None:
        """The identity in a folder; None for none, and for one that cannot be read but may go."""
        if not await asyncio.to_thread(identity_file.exists, path):
            return None
        try:
            return await asyncio.to_thread(identity_file.read, path)
        except SessiondError:
            if replaceable:
                return None
            raise

    async def _give_new(self, path: Path, held: Identity | None, name: str) -> Session:
        """Write a new identity into a folder; one that is known under its present id cannot change it."""
        known = self._registry.at(path)
        if held is not None and known is not None:
            refuse_running(self._directory.get(known), "given a new id")
            await self._at_rest.leave(self._directory.get(known), "given a new id")
            metadata = self._directory.metadata(known)
            await self._init.forget(known)
            await self._at_rest.forget(known)
            await self._registry.forget_folder(known)
            await self._directory.forget(known)
        else:
            metadata = Metadata()
        base = self._identity(Wish(str(path))) if held is None else replace(held, id=new_id(), created=_now())
        identity = self._named(base, name, path)
        await self._registry.give(path, identity)
        if metadata.labels or metadata.annotations:
            await self._directory.put(identity.id, replace(metadata, archived=False))
        return self._created(identity, path)

    def _created(self, identity: Identity, path: Path) -> Session:
        self._events.append(EventKind.SESSION_CREATED, identity.id, identity.name, {"path": str(path)})
        return self._directory.get(identity.id)

    def _identity(self, wish: Wish) -> Identity:
        name = check_name(wish.name) if wish.name else ""
        owner = check_owner(wish.owner) if wish.owner else self._defaults.owner
        return Identity(new_id(), name, wish.type or self._defaults.type, owner, _now())

    def _named(self, identity: Identity, asked: str, path: Path) -> Identity:
        """The identity with the name asked for, which must be free, or one made of the folder's."""
        if asked:
            self._registry.check_free(asked)
            return replace(identity, name=asked)
        return replace(identity, name=self._registry.free_name(identity.name or name_from_folder(path.name)))

    async def _existing(self, path: Path, error: AlreadyExists) -> SessiondError:
        """Say which session a folder is, and take it in where that was not known yet."""
        try:
            held = await asyncio.to_thread(identity_file.read, path)
        except SessiondError as unreadable:
            return unreadable
        await self._registry.take(path, held)
        return AlreadyExists(
            error.code,
            f"{path} is session {held.name} already",
            hint=f"sessionctl start {held.name}",
            fields={"session": held.id, "name": held.name, "path": str(path)},
        )

    def _copy_conflict(self, path: Path, held: Identity) -> Conflict:
        original = self._registry.entries[held.id].path
        return Conflict(
            "session_conflict",
            f"{path} carries the same id as {original}",
            hint=f"sessionctl adopt {path} --new-id",
            fields={"session": held.id, "path": str(path), "original": str(original)},
        )

    # ---- altering

    @unbroken
    async def update(self, session: str, edit: Edit) -> Session:
        """Change what the owner chose; all checks first, then the identity, then the metadata."""
        async with self._registry.lock:
            before = self._directory.get(session)
            identity = self._edited_identity(before.identity, edit)
            metadata = _edited_metadata(before, edit)
            changed = []
            if identity != before.identity:
                await self._registry.rewrite(session, identity)
                changed += [
                    word
                    for word in ("name", "type", "owner")
                    if getattr(identity, word) != getattr(before.identity, word)
                ]
            if metadata != before.metadata:
                await self._put_or_restore(session, before, identity, metadata)
                changed += [
                    word
                    for word in ("labels", "annotations")
                    if getattr(metadata, word) != getattr(before.metadata, word)
                ]
        if changed:
            self._events.append(
                EventKind.SESSION_UPDATED, session, identity.name, {"fields": ",".join(changed)}
            )
        return self._directory.get(session)

    async def _put_or_restore(
        self, session: str, before: Session, identity: Identity, metadata: Metadata
    ) -> None:
        """Store the metadata; where that fails the identity goes back to what it was."""
        try:
            await self._directory.put(session, metadata)
        except SessiondError:
            if identity != before.identity:
                await self._registry.rewrite(session, before.identity)
            raise

    def _edited_identity(self, identity: Identity, edit: Edit) -> Identity:
        if edit.name is not None:
            self._registry.check_free(check_name(edit.name), but=identity.id)
            identity = replace(identity, name=edit.name)
        if edit.type is not None:
            identity = replace(identity, type=edit.type)
        if edit.owner is not None:
            identity = replace(identity, owner=check_owner(edit.owner))
        return identity

    # ---- removing

    @unbroken
    async def delete(self, session: str, *, purge_path: str | None, stop: bool) -> Session:
        """Remove the identity and the session's own state; the workspace too where its path is given."""
        before = self._directory.get(session)
        if stop:
            before = await self._lifecycle.stop(session)
        refuse_running(before, "deleted")
        if purge_path is not None:
            await self._check_purge(before, purge_path)
        await self._at_rest.leave(before, "deleted")
        await self._init.forget(session)
        async with self._registry.lock:
            refuse_running(self._directory.get(session), "deleted")
            if purge_path is not None:
                # The identity goes last, so that a removal that fails half-way can be tried again.
                await asyncio.to_thread(purge, before.path, session, *self._kept(session))
            await self._directory.forget(session)
            await self._at_rest.forget(session)
            await self._registry.remove(session)
        self._events.append(
            EventKind.SESSION_DELETED, session, before.identity.name, {"path": str(before.path)}
        )
        return before

    async def _check_purge(self, session: Session, confirmed: str) -> None:
        if confirmed != str(session.path):
            raise PermissionDenied(
                "purge_refused",
                f"the path confirmed is not the session's own: {session.path}",
                hint="confirm the path that `sessionctl show` tells",
                fields={"path": str(session.path)},
            )
        await asyncio.to_thread(check_purge, session.path, session.id, *self._kept(session.id))

    def _kept(self, session: str) -> tuple[Sequence[Path], Sequence[Path]]:
        """What a purge must not take with it: roots of discovery, and other sessions' workspaces."""
        entry = self._registry.entries[session]
        return self._roots, sorted(self._registry.folders() - {entry.path})


def _check_labels(labels: Mapping[str, str]) -> None:
    check_count(len(labels))
    for key, value in labels.items():
        check_label(key, value)


def _edited_metadata(before: Session, edit: Edit) -> Metadata:
    labels = _merge(before.metadata.labels, edit.labels, edit.set_labels, edit.remove_labels)
    annotations = _merge(
        before.metadata.annotations, edit.annotations, edit.set_annotations, edit.remove_annotations
    )
    _check_labels(labels)
    check_count(len(annotations))
    for key, value in annotations.items():
        check_annotation(key, value)
    return replace(before.metadata, labels=labels, annotations=annotations)


def _merge(
    held: Mapping[str, str],
    whole: Mapping[str, str] | None,
    add: Mapping[str, str],
    remove: Sequence[str],
) -> dict[str, str]:
    both = add.keys() & set(remove)
    if both:
        raise InvalidArgument(
            "label_invalid",
            f"{sorted(both)[0]} is to be set and removed at once",
            hint="do one of them",
        )
    base = held if whole is None else whole
    return {key: value for key, value in {**base, **add}.items() if key not in remove}


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
