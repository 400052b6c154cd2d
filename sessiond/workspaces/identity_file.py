"""`<workspace>/.sessiond/session.json`: who the session is, in a file that travels with its folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from sessiond.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SessiondError,
    Unsupported,
)
from sessiond.model.identity import Identity, check_name, check_owner, check_type, parse_id
from sessiond.workspaces.faults import from_os

FOLDER = ".sessiond"
FILE = "session.json"
FORMAT = 1
SIZE_MAX = 64 * 1024

_IGNORE = ".gitignore"
_TEMPORARY = f".{FILE}."
_KEYS = ("format", "id", "name", "type", "owner", "created")
# A folder that may be entered but not listed is enough to reach the file in it.
_ENTER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# File systems without hard links (FAT, some network ones) refuse them with one of these.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


# ---- reading --------------------------------------------------------------------------------


def read(workspace: Path) -> Identity:
    """The identity that a folder holds; never waits, never reads more than 64 KiB.

    Raises NotFound `path_missing` (no such folder) or `identity_missing` (no session),
    InvalidArgument `identity_invalid`, Unsupported `identity_newer`, PermissionDenied `path_denied`.
    """
    with _folder(workspace, _ENTER) as folder:
        return read_at(folder, workspace)


def read_at(folder: int, workspace: Path) -> Identity:
    """The identity in an open folder; ``workspace`` is its path, for messages. Raises as ``read``."""
    with _own(folder, workspace) as own:
        content = _content(own, workspace)
    # As text: at the start of the supervisor all are read, and making paths is most of that work.
    path = f"{workspace}/{FOLDER}/{FILE}"
    return _parse(_decode(content, path), path)


def exists(workspace: Path) -> bool:
    """Whether something lies where an identity would, readable or not."""
    try:
        _shown(workspace).lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _folder(workspace: Path, flags: int) -> Iterator[int]:
    try:
        descriptor = os.open(workspace, flags)
    except OSError as error:
        raise from_os(error, workspace) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _own(folder: int, workspace: Path) -> Iterator[int]:
    """The open `.sessiond` of a workspace: a real folder, never a link to elsewhere."""
    try:
        descriptor = os.open(FOLDER, _ENTER, dir_fd=folder)
    except FileNotFoundError as error:
        raise _missing(workspace) from error
    except OSError as error:
        _refuse_no_folder(folder, workspace)
        raise from_os(error, workspace / FOLDER) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_no_folder(folder: int, workspace: Path) -> None:
    """Raise InvalidArgument where the `.sessiond` that cannot be opened is no folder."""
    with contextlib.suppress(OSError):
        mode = os.stat(FOLDER, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISDIR(mode):
            _invalid(workspace / FOLDER, f"it is {_kind(mode)}, not a folder")


def _content(own: int, workspace: Path) -> bytes:
    try:
        # Looked at before it is opened: opening a device can do things.
        _check_file(os.stat(FILE, dir_fd=own, follow_symlinks=False), workspace)
        descriptor = os.open(FILE, _READ, dir_fd=own)
    except FileNotFoundError as error:
        raise _missing(workspace) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            _invalid(_shown(workspace), "it is not a regular file")
        raise from_os(error, _shown(workspace)) from error
    try:
        _check_file(os.fstat(descriptor), workspace)
        content = os.read(descriptor, SIZE_MAX + 1)
    except OSError as error:
        raise from_os(error, _shown(workspace)) from error
    finally:
        os.close(descriptor)
    if len(content) > SIZE_MAX:
        _invalid(_shown(workspace), f"it holds more than {SIZE_MAX} bytes")
    return content


def _check_file(info: os.stat_result, workspace: Path) -> None:
    if not stat.S_ISREG(info.st_mode):
        _invalid(_shown(workspace), f"it is {_kind(info.st_mode)}, not a regular file")
    if info.st_size > SIZE_MAX:
        _invalid(_shown(workspace), f"it holds {info.st_size} bytes, more than {SIZE_MAX}")


_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "a file")


def _decode(content: bytes, path: str) -> dict[str, Any]:
    if not content.strip():
        _invalid(path, "it is empty")
    try:
        value = json.loads(content.decode())
    except UnicodeDecodeError as error:
        _invalid(path, f"byte {error.start} is not UTF-8", error)
    except json.JSONDecodeError as error:
        _invalid(path, f"it is not JSON: {error}", error)
    except (RecursionError, ValueError) as error:
        _invalid(path, "it is not JSON that can be read: nested too deeply, or a number too long", error)
    if not isinstance(value, dict):
        _invalid(path, "it is not an object")
    version = value.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        _invalid(path, f"$.format must be {FORMAT}")
    if version > FORMAT:
        raise Unsupported(
            "identity_newer",
            f"{path} has format {version}, and this release reads up to {FORMAT}",
            hint="upgrade sessiond",
            fields={"path": path, "format": str(version)[:20]},
        )
    return value


def _parse(value: Mapping[str, Any], path: str) -> Identity:
    def take(key: str, check: Callable[[str], Any]) -> Any:
        text = value.get(key)
        if not isinstance(text, str):
            _invalid(path, f"$.{key} is missing" if text is None else f"$.{key} must be a string")
        try:
            return check(text)
        except InvalidArgument as error:
            _invalid(path, f"$.{key}: {error.message}", error)

    return Identity(
        id=take("id", parse_id),
        name=take("name", check_name),
        type=take("type", check_type),
        owner=take("owner", check_owner),
        created=take("created", _time),
    )


def _time(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
        utc = when.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _no_time(text) from error
    if when.tzinfo is None:
        raise _no_time(text)
    return utc


def _no_time(text: str) -> InvalidArgument:
    return InvalidArgument("time_invalid", f"not an RFC 3339 time with a zone: {text[:64]!r}")


# ---- writing --------------------------------------------------------------------------------


def create(workspace: Path, identity: Identity) -> None:
    """Give a folder an identity that it does not have; of two who try, one wins.

    Raises AlreadyExists `session_exists`, NotFound `path_missing`, PermissionDenied `path_denied`,
    Exhausted `disk_full`, InvalidArgument `identity_invalid` where `.sessiond` is no folder.
    """
    with _prepared(workspace) as own, _temporary(own, _encode(identity, {})) as name:
        try:
            os.link(name, FILE, src_dir_fd=own, dst_dir_fd=own, follow_symlinks=False)
        except FileExistsError as error:
            raise _exists(workspace) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _create_plainly(own, workspace, _encode(identity, {}))
        os.fsync(own)


def write(workspace: Path, identity: Identity) -> None:
    """Make a folder hold this identity, whatever it held. Keys of others in the file are kept; a file
    that cannot be read is kept beside it as `session.json.replaced-TIME`. Raises as ``create``."""
    with _prepared(workspace) as own:
        readable = True
        try:
            others = _others(_decode(_content(own, workspace), str(_shown(workspace))))
        except NotFound:
            others = {}
        except (InvalidArgument, Unsupported, PermissionDenied):
            others, readable = {}, False
        with _temporary(own, _encode(identity, others)) as name:
            if not readable:
                _keep_aside(own)
            os.rename(name, FILE, src_dir_fd=own, dst_dir_fd=own)
            os.fsync(own)


def _keep_aside(own: int) -> None:
    """Give the present file a second name; only a folder loses its first one by that."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    try:
        os.link(FILE, f"{FILE}.replaced-{stamp}", src_dir_fd=own, dst_dir_fd=own, follow_symlinks=False)
    except OSError:
        os.rename(FILE, f"{FILE}.replaced-{stamp}", src_dir_fd=own, dst_dir_fd=own)


def remove(workspace: Path) -> None:
    """Take the identity out of a folder; `.sessiond` itself stays where it holds anything else.

    Absent is fine. Raises PermissionDenied `path_denied`.
    """
    try:
        with _folder(workspace, _ENTER) as folder, _own(folder, workspace) as own:
            os.unlink(FILE, dir_fd=own)
            if set(_leftovers(own)) <= {_IGNORE}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(_IGNORE, dir_fd=own)
                os.rmdir(FOLDER, dir_fd=folder)
    except (NotFound, FileNotFoundError):
        return
    except OSError as error:
        raise from_os(error, workspace / FOLDER) from error
    _sync_folder(workspace)


def _leftovers(own: int) -> list[str]:
    """What is in `.sessiond`, once the temporary files of writers that were killed are gone."""
    descriptor = os.open(".", _LIST, dir_fd=own)
    try:
        names = os.listdir(descriptor)
        for name in names:
            if name.startswith(_TEMPORARY):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    return [name for name in names if not name.startswith(_TEMPORARY)]


@contextmanager
def _prepared(workspace: Path) -> Iterator[int]:
    """The workspace's own `.sessiond`, made where it is missing, open for writing in it."""
    try:
        with _folder(workspace, _ENTER) as folder:
            with contextlib.suppress(FileExistsError):
                os.mkdir(FOLDER, 0o700, dir_fd=folder)
            with _own(folder, workspace):
                pass
            own = os.open(FOLDER, _LIST, dir_fd=folder)
            try:
                _ignore(own)
                yield own
            finally:
                os.close(own)
        _sync_folder(workspace)
    except OSError as error:
        raise from_os(error, workspace / FOLDER) from error


def _sync_folder(workspace: Path) -> None:
    # A folder that may not be listed cannot be synced either; its entry then is as durable as it gets.
    with contextlib.suppress(SessiondError, PermissionError), _folder(workspace, _LIST) as folder:
        os.fsync(folder)


def _ignore(own: int) -> None:
    """Keep all of `.sessiond` out of git."""
    with contextlib.suppress(FileExistsError):
        _write(os.open(_IGNORE, _MAKE, 0o600, dir_fd=own), b"*\n")


@contextmanager
def _temporary(own: int, content: bytes) -> Iterator[str]:
    """Name of a file beside the real one that holds ``content``, on disk; gone afterwards."""
    name = _TEMPORARY + os.urandom(8).hex()
    try:
        _write(os.open(name, _MAKE, 0o600, dir_fd=own), content)
        yield name
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=own)


def _create_plainly(own: int, workspace: Path, content: bytes) -> None:
    """As ``create`` where there are no hard links: a reader may see the file before it is whole."""
    try:
        descriptor = os.open(FILE, _MAKE, 0o600, dir_fd=own)
    except FileExistsError as error:
        raise _exists(workspace) from error
    try:
        _write(descriptor, content)
    except OSError:
        os.unlink(FILE, dir_fd=own)
        raise


def _write(descriptor: int, content: bytes) -> None:
    """Write all and have it on disk; closes the descriptor."""
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(identity: Identity, others: dict[str, Any]) -> bytes:
    created = identity.created.astimezone(UTC).isoformat().replace("+00:00", "Z")
    values = (FORMAT, identity.id, identity.name, identity.type.value, identity.owner, created)
    text = json.dumps(dict(zip(_KEYS, values, strict=True)) | others, indent=2)
    return text.encode() + b"\n"


def _others(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key not in _KEYS}


# ---- errors ---------------------------------------------------------------------------------


def _shown(workspace: Path) -> Path:
    return workspace / FOLDER / FILE


def _invalid(path: Path | str, reason: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidArgument(
        "identity_invalid",
        f"{path} is no session's identity: {reason}",
        hint="repair the file, or replace it: `sessionctl adopt PATH --new-id`",
        fields={"path": str(path)},
    ) from cause


def _missing(workspace: Path) -> NotFound:
    return NotFound("identity_missing", f"{workspace} holds no session", fields={"path": str(workspace)})


def _exists(workspace: Path) -> AlreadyExists:
    return AlreadyExists(
        "session_exists",
        f"{workspace} is a session already",
        hint=f"`sessionctl adopt {workspace}` takes it as it is",
        fields={"path": str(workspace)},
    )
