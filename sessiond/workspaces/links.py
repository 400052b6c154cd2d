"""`<state>/sessions/<id>/workspace`: where each session lies, found again without any database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sessiond.errors import InvalidArgument
from sessiond.model.identity import Identity, SessionType, is_id, name_from_folder
from sessiond.paths import Paths, private_folder
from sessiond.workspaces.faults import from_os
from sessiond.workspaces.removal import remove_tree

LINK = "workspace"
# Says where a session is being made; replaced by the link once its identity is on disk.
INTENT = "workspace-intended"

_DRAFTS = (f".{LINK}.", f".{INTENT}.")
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLLOW = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def point(paths: Paths, session: str, workspace: Path) -> None:
    """Have a session's own folder lead to its workspace; both made where missing.

    Raises Exhausted `disk_full`, PermissionDenied `path_denied` or `folder_unsafe`.
    """
    _link(paths, session, LINK, workspace)
    with suppress(OSError):
        (paths.session_state(session) / INTENT).unlink()


def intend(paths: Paths, session: str, workspace: Path) -> None:
    """Note where a session is about to be made, so that a crash half-way is found and settled: by
    ``point`` where its identity came to be, else by ``remove_session_state``. Raises as ``point``."""
    _link(paths, session, INTENT, workspace)


def _link(paths: Paths, session: str, name: str, workspace: Path) -> None:
    folder = paths.session_state(_checked(session))
    link = folder / name
    try:
        private_folder(paths.state)
        private_folder(paths.sessions_state)
        private_folder(folder)
        if _target(link) == workspace:
            return
        draft = folder / f".{name}.{os.urandom(8).hex()}"
        try:
            draft.symlink_to(workspace)
            draft.replace(link)
        finally:
            draft.unlink(missing_ok=True)
        _sync(folder)
        _sync(paths.sessions_state)
    except OSError as error:
        raise from_os(error, link) from error


def survey(paths: Paths) -> tuple[dict[str, Path], list[str]]:
    """The workspace of every session that has a folder of its own here, and the ids of those folders that
    lead to none: sessions that were being made, and what is left of others."""
    found: dict[str, Path] = {}
    bare: list[str] = []
    # One call for each: this is done for every session when the supervisor starts.
    with _listed(paths) as (parent, names):
        for name in names:
            target = _target(f"{name}/{LINK}", parent)
            if target is None:
                bare.append(name)
            else:
                found[name] = target
    return found, bare


def read_all(paths: Paths) -> dict[str, Path]:
    """The workspace of every session that has a folder of its own here."""
    return survey(paths)[0]


def read_intents(paths: Paths) -> dict[str, Path]:
    """Where sessions were about to be made when the one who made them ended. One that is pointed at its
    workspace was made, whatever is left beside the link."""
    folders = {session: paths.sessions_state / session / INTENT for session in survey(paths)[1]}
    return {session: target for session, link in folders.items() if (target := _target(link)) is not None}


@contextmanager
def _listed(paths: Paths) -> Iterator[tuple[int, list[str]]]:
    """The folder of sessions' own folders, open, and their ids in order; none where it is missing."""
    try:
        parent = os.open(paths.sessions_state, _FOLLOW)
    except FileNotFoundError:
        yield -1, []
        return
    except OSError as error:
        raise from_os(error, paths.sessions_state) from error
    try:
        yield parent, sorted(filter(is_id, os.listdir(parent)))
    except OSError as error:
        raise from_os(error, paths.sessions_state) from error
    finally:
        os.close(parent)


def stand_in(paths: Paths, session: str, workspace: Path) -> Identity:
    """What can be said of a session whose workspace cannot be read: its id, and a name of the folder's."""
    folder = paths.session_state(_checked(session))
    created = 0.0
    with suppress(OSError):
        created = (folder / LINK).lstat().st_mtime
    return Identity(
        id=session,
        name=name_from_folder(workspace.name),
        type=SessionType.DEVELOPMENT,
        owner=_owner(folder),
        created=datetime.fromtimestamp(int(created), UTC),
    )


def remove_session_state(paths: Paths, session: str) -> None:
    """Remove a session's own folder; links in it are removed, not followed. Absent is fine."""
    _checked(session)
    try:
        parent = os.open(paths.sessions_state, _LIST)
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os(error, paths.sessions_state) from error
    try:
        remove_tree(parent, session, paths.session_state(session), last=(LINK,))
        os.fsync(parent)
    finally:
        os.close(parent)


def sweep(paths: Paths) -> None:
    """Remove folders of sessions that hold nothing: a supervisor died before it noted where one was made,
    or after it removed all that one had. Nobody may be making a session meanwhile."""
    for name in survey(paths)[1]:
        folder = f"{paths.sessions_state}/{name}"
        # A link that leads nowhere sensible is somebody's.
        if os.path.lexists(f"{folder}/{LINK}"):
            continue
        with suppress(OSError):
            left = os.listdir(folder)
            if all(one.startswith(_DRAFTS) for one in left):
                for one in left:
                    os.unlink(f"{folder}/{one}")
                os.rmdir(folder)


def _checked(session: str) -> str:
    """The id, which becomes part of a path: never anything else."""
    if not is_id(session):
        raise InvalidArgument("id_invalid", f"not a session id: {session[:64]!r}")
    return session


def _target(link: Path | str, parent: int | None = None) -> Path | None:
    try:
        text = os.readlink(link, dir_fd=parent)
    except OSError:
        return None
    return Path(text) if text.startswith("/") else None


def _owner(folder: Path) -> str:
    import pwd

    try:
        return pwd.getpwuid(folder.stat().st_uid).pw_name
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, _LIST)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
