"""Files and disks: whether what must be read and written can be, and has room."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sessiond import config
from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning
from sessiond.errors import InvalidArgument

KIB, MIB = 1 << 10, 1 << 20
_SQLITE = b"SQLite format 3\0"


# ---- folders --------------------------------------------------------------------------------


def runtime_folder(machine: Machine) -> Iterator[CheckRow]:
    """The folder of locks and sockets."""
    yield _folder("runtime_folder", machine, machine.paths.runtime, private=True)


def state_folder(machine: Machine) -> Iterator[CheckRow]:
    """The folder of the database and of sessions' own files."""
    yield _folder("state_folder", machine, machine.paths.state, private=True)


def data_folder(machine: Machine) -> Iterator[CheckRow]:
    """The folder of the launcher."""
    yield _folder("data_folder", machine, machine.paths.data)


def config_folder(machine: Machine) -> Iterator[CheckRow]:
    """The folder of the settings."""
    yield _folder("config_folder", machine, machine.paths.config)


def _folder(check: str, machine: Machine, folder: Path, *, private: bool = False) -> CheckRow:
    place = nearest(folder)
    quoted = shlex.quote(str(place))
    info = place.lstat() if private and place == folder else place.stat()
    if not stat.S_ISDIR(info.st_mode):
        return failure(check, f"{place} is no folder", f"mv {quoted} {shlex.quote(f'{place}.aside')}")
    if place == folder and info.st_uid != machine.uid:
        text = f"{place} belongs to uid {info.st_uid}, not to {machine.user}"
        return failure(check, text, machine.as_root(f"chown -R {machine.user} {quoted}"))
    try:
        _write(place, real=place == folder)
    except OSError as error:
        return failure(check, f"{place} cannot be written: {error.strerror}", _mend(machine, error, quoted))
    return ok(check, f"{place} can be written" + ("" if place == folder else f" ({folder} is not there yet)"))


def nearest(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


def _write(folder: Path, *, real: bool) -> None:
    """Write a file and remove it; in folders that are not ours only ask. OSError where it fails."""
    if real:
        with tempfile.TemporaryFile(dir=folder, prefix=".sessiond-doctor-") as file:
            file.write(b"x")
    elif not os.access(folder, os.W_OK | os.X_OK):
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number))


def _mend(machine: Machine, error: OSError, quoted: str) -> str:
    if error.errno == errno.EROFS:
        return machine.as_root(f'mount -o remount,rw "$(findmnt -no TARGET --target {quoted})"')
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _room(quoted)
    return f"chmod u+rwx {quoted}" if error.errno == errno.EACCES else f"ls -ld {quoted}"


def _room(quoted: str) -> str:
    return f"df -h {quoted}; df -i {quoted}; du -xhd1 {quoted}"


# ---- disks ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes and files that must be free: below ``low`` it is told, below ``none`` things break."""

    none: int
    low: int
    none_files: int = 64
    low_files: int = 1024


# In the state folder records of agents grow; the runtime folder holds sockets alone.
STATE_NEEDS = Needs(none=32 * MIB, low=512 * MIB)
RUNTIME_NEEDS = Needs(none=256 * KIB, low=4 * MIB)


def state_disk(machine: Machine) -> Iterator[CheckRow]:
    """Room for what sessiond stores."""
    yield _disk("state_disk", machine.paths.state, STATE_NEEDS)


def runtime_disk(machine: Machine) -> Iterator[CheckRow]:
    """Room for sockets."""
    yield _disk("runtime_disk", machine.paths.runtime, RUNTIME_NEEDS)


def _disk(check: str, folder: Path, needs: Needs) -> CheckRow:
    place = nearest(folder)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    # File systems without a fixed number of files say 0 of 0.
    files = room.f_favail if room.f_files else None
    text = f"{_size(free)} free at {folder}" + ("" if files is None else f", and {files} files")
    quoted = shlex.quote(str(place))
    if free < needs.none or (files is not None and files < needs.none_files):
        return failure(check, f"no room: {text}", _room(quoted))
    if free < needs.low or (files is not None and files < needs.low_files):
        return warning(check, f"little room: {text}", _room(quoted))
    return ok(check, text)


def _size(number: int) -> str:
    return f"{number // MIB} MiB" if number >= MIB else f"{number // KIB} KiB"


# ---- what is in them ------------------------------------------------------------------------


def settings(machine: Machine) -> Iterator[CheckRow]:
    """Whether the settings can be read and mean something."""
    check, path = "config", machine.paths.config_file
    try:
        found = config.load(path, machine.environ)
    except InvalidArgument as error:
        text = f"{error.message}; {error.hint}" if error.hint else error.message
        yield failure(check, text, f"${{EDITOR:-vi}} {shlex.quote(str(path))}")
        return
    given = sum(found.given(row.key) for row in found.rows())
    where = f"{path}" if path.exists() else f"there is no {path}"
    yield ok(check, f"{where}; settings given: {given or 'none'}, the rest is default")


def discovery_roots(machine: Machine) -> Iterator[CheckRow]:
    """Whether the folders below which workspaces are looked for can be read."""
    check = "discovery_roots"
    if machine.settings is None:
        yield unknown(check, "the settings cannot be read", "sessionctl config")
        return
    roots = machine.settings.discovery.roots
    given = machine.settings.given("discovery.roots")
    faults = 0
    for root in roots:
        quoted = shlex.quote(str(root))
        fault = ""
        if not os.path.lexists(root):
            # The defaults are where people usually have them.
            fault, fix = ("is not there", f"mkdir -p {quoted}") if given else ("", "")
        elif not root.is_dir():
            fault, fix = "is no folder", "sessionctl config"
        elif not os.access(root, os.R_OK | os.X_OK):
            fault, fix = "cannot be read", f"chmod u+rx {quoted}"
        if fault:
            faults += 1
            yield warning(check, f"{root} {fault}: no workspace below it is found", fix)
    if not faults:
        present = [str(root) for root in roots if root.is_dir()]
        yield ok(check, f"searched: {', '.join(present) or 'none, for none exists'}")


def database(machine: Machine) -> Iterator[CheckRow]:
    """Whether the database is one, ours alone, and never was found damaged."""
    check, path = "database", machine.paths.database
    quoted = shlex.quote(str(path))
    if not os.path.lexists(path):
        yield ok(check, f"there is none yet at {path}")
    else:
        yield _database_fault(check, machine, path, quoted) or ok(check, f"{path} is a database")
    if aside := _kept_aside(path):
        names = ", ".join(one.name for one in aside)
        text = f"labels, annotations and marks were lost: a damaged database is kept aside: {names}"
        yield warning("database_aside", text, "rm " + " ".join(shlex.quote(str(one)) for one in aside))


def _kept_aside(path: Path) -> list[Path]:
    found = path.parent.glob(f"{path.name}.corrupt-*")
    return sorted(one for one in found if not one.name.endswith(("-wal", "-shm")))


def _database_fault(check: str, machine: Machine, path: Path, quoted: str) -> CheckRow | None:
    info = path.lstat()
    if not stat.S_ISREG(info.st_mode):
        return failure(check, f"{path} is no regular file", f"mv {quoted} {shlex.quote(f'{path}.aside')}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        fix = f"chmod 0600 {quoted}" if error.errno == errno.EACCES else _mend(machine, error, quoted)
        return failure(check, f"{path} cannot be read and written: {error.strerror}", fix)
    try:
        head = os.read(descriptor, len(_SQLITE))
    finally:
        os.close(descriptor)
    if head not in (b"", _SQLITE):
        text = f"{path} is damaged: at the supervisor's next start it is kept aside, and a new one made"
        return warning(check, text, "systemctl --user restart sessiond.service")
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o077:
        return warning(check, f"{path} can be read by others (mode {mode:04o})", f"chmod 0600 {quoted}")
    return None
