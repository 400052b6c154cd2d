"""The record of a nest: where it is, and whether the process it names is still that process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sessiond.errors import NotFound, PermissionDenied

ROOT_RECORDS = Path("/run/sessiond-nest")
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """One boot of a nest, as written to ``record.json``.

    ``pid`` and ``start_time`` (clock ticks since the machine's boot) name its PID 1 as seen by who
    booted it; both are 0 until it exists. ``uid`` is the user it is for, ``inner_uid`` the number
    that user's manager runs under inside (0 in a user namespace).
    """

    uid: int
    user: str
    cgroup: str
    runtime_dir: str
    machine_boot_id: str
    pid: int = 0
    start_time: int = 0
    ready: bool = False
    inner_uid: int = 0
    user_namespace: bool = False
    private_net: bool = False
    overlay: str = ""
    announced: bool = True
    format: int = FORMAT

    @property
    def namespaces(self) -> list[str]:
        """nsenter's options for entering it."""
        options = ["--user", "--preserve-credentials"] if self.user_namespace else []
        options += ["--mount", "--pid", "--uts", "--ipc", "--cgroup"]
        return [*options, "--net"] if self.private_net else options

    @property
    def alive(self) -> bool:
        """Whether its PID 1 lives: same boot of the machine, same pid, same start time."""
        return (
            self.pid > 0
            and self.machine_boot_id == machine_boot_id()
            and start_time(self.pid) == self.start_time
        )


@dataclass(frozen=True)
class Folder:
    """The folder that holds a nest's record, lock, runtime folder and boot scratch."""

    path: Path

    @property
    def record(self) -> Path:
        """The record file."""
        return self.path / "record.json"

    @property
    def draft(self) -> Path:
        """The record while it is being written."""
        return self.path / "record.json.new"

    @property
    def runtime(self) -> Path:
        """The folder for sockets, seen at the same path inside and outside."""
        return self.path / "run"

    @property
    def lock(self) -> Path:
        """Locked by whoever brings the nest up or down."""
        return self.path / "lock"

    @property
    def boot(self) -> Path:
        """Scratch of the boot, entered by nobody else."""
        return self.path / "boot"

    def load(self) -> Record | None:
        """The record, or None when there is none (or one that no version of ours can read)."""
        try:
            raw = json.loads(self.record.read_text())
            return Record(**raw) if raw.get("format") == FORMAT else None
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None

    def save(self, record: Record, *, group: int = -1) -> None:
        """Write the record in one step: readers see the old one or the new one."""
        draft = self.draft
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(record), file, indent=1)
            if group >= 0:
                os.fchown(file.fileno(), -1, group)
        os.replace(draft, self.record)


@dataclass(frozen=True)
class Nest:
    """A living nest: its record, and the folder the record lies in."""

    folder: Folder
    record: Record

    @property
    def pid(self) -> int:
        """Its PID 1, as seen by who booted it."""
        return self.record.pid

    @property
    def cgroup(self) -> Path:
        """The cgroup that holds all of its processes."""
        return Path(self.record.cgroup)

    @property
    def runtime_dir(self) -> Path:
        """The folder for sockets, at the same path inside and outside."""
        return Path(self.record.runtime_dir)

    @property
    def alive(self) -> bool:
        """Whether its PID 1 still lives."""
        return self.record.alive


@contextlib.contextmanager
def locked(folder: Folder, make: Callable[[], None]) -> Iterator[None]:
    """Hold the folder against every other up and down; ``make`` makes it, again if it went away."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        make()
        try:
            descriptor = os.open(folder.lock, flags, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A down that ended meanwhile took the folder and this file with it.
            if _same_file(descriptor, folder.lock):
                yield
                return
        finally:
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def start_time(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None when it is dead or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def machine_boot_id() -> str:
    """The kernel's id of the present boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def record_folder(uid: int, base: Path | None = None) -> Folder:
    """Where the nest of a user is recorded; ``base`` replaces the default place.

    Root keeps them below /run; others in $XDG_RUNTIME_DIR or, without one, in a folder of theirs
    below /tmp whose ownership is checked.
    """
    if base is not None:
        return Folder(base)
    if os.geteuid() == 0 or os.path.exists(ROOT_RECORDS / str(uid) / "record.json"):
        return Folder(ROOT_RECORDS / str(uid))
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and _owned(Path(runtime)):
        return Folder(Path(runtime) / "sessiond-nest")
    return Folder(Path(f"/tmp/sessiond-nest-{uid}"))  # noqa: S108  # ownership is checked on use


def _owned(path: Path) -> bool:
    try:
        info = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def prepare(folder: Folder, *, uid: int, gid: int) -> None:
    """Make the folder, or check it; PermissionDenied when it is not ours."""
    if not folder.path.parent.exists():
        folder.path.parent.mkdir(parents=True)
        folder.path.parent.chmod(0o755)
    # Root's nest for a user: that user may read the record and reach the sockets, not change them.
    shared = uid != os.geteuid()
    _private(folder.path, os.geteuid(), 0o750 if shared else 0o700, gid if shared else -1)


def prepare_inner(folder: Folder, *, uid: int, gid: int) -> None:
    """Make the folders inside it: ours for the boot, the user's for the sockets."""
    _private(folder.boot, os.geteuid(), 0o700)
    _private(folder.runtime, uid, 0o700, gid if uid != os.geteuid() else -1)


def check_owner(folder: Folder) -> None:
    """Trust only a folder that root or this user made; PermissionDenied, or NotFound without one."""
    try:
        info = folder.path.lstat()
    except FileNotFoundError:
        raise NotFound("nest_not_found", "there is no nest", hint="sessionctl nest up") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (0, os.geteuid()):
        raise _unsafe(folder.path, f"it belongs to uid {info.st_uid}")


def _private(path: Path, uid: int, mode: int, gid: int = -1) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        os.chown(path, uid, gid)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode):
        raise _unsafe(path, "it is not a real folder")
    if info.st_uid != uid:
        raise _unsafe(path, f"it belongs to uid {info.st_uid}, not to {uid}")
    if stat.S_IMODE(info.st_mode) != mode:
        path.chmod(mode)


def _unsafe(path: Path, reason: str) -> PermissionDenied:
    return PermissionDenied(
        "nest_folder_unsafe",
        f"{path} cannot be used for the nest: {reason}",
        hint="remove it, then try again",
        fields={"path": str(path)},
    )


def status(uid: int | None = None, *, base: Path | None = None) -> Nest | None:
    """The living, ready nest of a user (default: the caller), or None."""
    folder = record_folder(os.getuid() if uid is None else uid, base)
    try:
        check_owner(folder)
    except NotFound:
        return None
    record = folder.load()
    return Nest(folder, record) if record and record.ready and record.alive else None
