"""Scans: which folders below some roots are workspaces, and which look as if they could be."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.identity import Identity
from sessiond.workspaces import identity_file
from sessiond.workspaces.faults import from_os
from sessiond.workspaces.paths import check_form

# Directory entries looked at below one root, so that a huge folder cannot hold up the start.
ENTRIES_MAX = 500_000

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Candidate:
    """A folder with the marks of a project that is no session."""

    path: Path
    markers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A folder that could not be taken: a stable code, and the reason for people."""

    path: Path
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a scan found, each part sorted by path; ``roots`` are the real paths of those scanned."""

    workspaces: tuple[tuple[Path, Identity], ...]
    candidates: tuple[Candidate, ...]
    skipped: tuple[Skipped, ...]
    roots: tuple[Path, ...]


def scan(
    roots: Iterable[Path],
    *,
    depth: int,
    markers: Sequence[str],
    explicit: bool = False,
    entries_max: int = ENTRIES_MAX,
    known: Mapping[Path, Identity] | None = None,
) -> Found:
    """Look at the roots and ``depth`` levels below them. Blocks: call it in a thread.

    A workspace ends its branch (a root that is one does not); folders that begin with a dot, symbolic links
    and other file systems are not entered. A root that is missing is nothing, or where ``explicit``
    NotFound `path_missing`; one that is a file InvalidArgument `path_invalid`. Identities in ``known``, by
    folder, are not read again.
    """
    run = _Scan(depth, frozenset(markers), entries_max, known or {})
    for given in roots:
        root = _real(given, run, explicit=explicit)
        if root is not None and root not in run.roots:
            run.roots.append(root)
            run.below(root)
    # A root inside another is looked at twice, and may be reached where the first one stopped.
    return Found(
        workspaces=tuple(sorted(run.workspaces.items())),
        candidates=tuple(
            Candidate(path, marks)
            for path, marks in sorted(run.candidates.items())
            if path not in run.workspaces
        ),
        skipped=tuple(run.skipped[path] for path in sorted(run.skipped) if path not in run.workspaces),
        roots=tuple(run.roots),
    )


def _real(given: Path, run: _Scan, *, explicit: bool) -> Path | None:
    """The real path of a root that is a folder, or None where it need not be one."""
    try:
        check_form(str(given))
        root = given.resolve(strict=True)
        if not root.is_dir():
            raise InvalidArgument("path_invalid", f"{given} is not a folder", fields={"path": str(given)})
    except FileNotFoundError as error:
        if explicit:
            raise from_os(error, given) from error
    except (OSError, RuntimeError, SessiondError) as error:
        if explicit:
            raise _as_ours(error, given) from error
        run.skip(given, _as_ours(error, given))
    else:
        return root
    return None


def _as_ours(error: OSError | RuntimeError | SessiondError, path: Path) -> SessiondError:
    if isinstance(error, SessiondError):
        return error
    if isinstance(error, OSError):
        return from_os(error, path)
    return InvalidArgument("path_invalid", f"{path}: its symbolic links go round in circles")


@dataclass(slots=True)
class _Scan:
    """One scan as it goes on."""

    depth: int
    markers: frozenset[str]
    entries_max: int
    known: Mapping[Path, Identity]
    roots: list[Path] = field(default_factory=list)
    workspaces: dict[Path, Identity] = field(default_factory=dict)
    candidates: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    skipped: dict[Path, Skipped] = field(default_factory=dict)

    def skip(self, path: Path, error: SessiondError) -> None:
        """Note why a folder was not taken."""
        self.skipped[path] = Skipped(path, error.code, error.message)

    def below(self, root: Path) -> None:
        """Look at one root, the folders near it first."""
        try:
            device = root.stat().st_dev
        except OSError as error:
            self.skip(root, from_os(error, root))
            return
        left = self.entries_max
        waiting = deque([(root, 0)])
        while waiting:
            path, level = waiting.popleft()
            if level and (identity := self.known.get(path)) is not None:
                # It ends its branch, and nothing in it is asked for.
                self.workspaces[path] = identity
                continue
            listed = self._list(path, device, left)
            if listed is None:
                continue
            left -= len(listed)
            if left <= 0:
                reason = f"more than {self.entries_max} entries below {root}: the rest was not looked at"
                self.skipped[path] = Skipped(path, "scan_too_large", reason)
                return
            stop = self._judge(path, listed.keys())
            if level < self.depth and (not stop or level == 0):
                waiting.extend((below, level + 1) for below in self._folders(path, listed))

    def _list(self, path: Path, device: int, left: int) -> dict[str, bool] | None:
        """Names in a folder, and whether each is one itself; None where it is not to be looked at."""
        try:
            descriptor = os.open(path, _OPEN)
        except (FileNotFoundError, NotADirectoryError):
            # Gone, or a link by now: it changed while the scan went on.
            return None
        except OSError as error:
            self.skip(path, from_os(error, path))
            return None
        try:
            if os.fstat(descriptor).st_dev != device:
                self.skipped[path] = Skipped(
                    path, "path_other_device", "it is on another file system; make it a root of its own"
                )
                return None
            listed: dict[str, bool] = {}
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    listed[entry.name] = entry.is_dir(follow_symlinks=False)
                    if len(listed) >= left:
                        break
        except OSError as error:
            self.skip(path, from_os(error, path))
            return None
        else:
            return listed
        finally:
            os.close(descriptor)

    def _judge(self, path: Path, names: Iterable[str]) -> bool:
        """Note what a folder is; whether it ends its branch."""
        present = set(names)
        if identity_file.FOLDER in present:
            try:
                self.workspaces[path] = self.known.get(path) or identity_file.read(path)
            except NotFound:
                # A `.sessiond` without an identity: what a session that was deleted left.
                pass
            except SessiondError as error:
                self.skip(path, error)
                return True
            else:
                return True
        if marks := self.markers & present:
            self.candidates[path] = tuple(sorted(marks))
        return False

    def _folders(self, path: Path, listed: dict[str, bool]) -> list[Path]:
        """The folders to enter, in the order of their names."""
        names = sorted(name for name, folder in listed.items() if folder and not name.startswith("."))
        # Joined as text, and made a path once: there may be thousands.
        parent = str(path).rstrip("/")
        usable = []
        for name in names:
            try:
                usable.append(check_form(f"{parent}/{name}"))
            except InvalidArgument as error:
                shown = Path(f"{parent}/{name}".encode(errors="backslashreplace").decode())
                self.skipped[shown] = Skipped(shown, error.code, error.message)
        return usable
