"""Homes: places in which a program keeps its files. Besides the usual one there are those that a setting
names, those that its processes name in their environment, and those that were seen before.

What is seen is written down beside sessiond's own state, so that conversations stay in the list once nobody
runs there any more. Nothing here loads an adapter.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from sessiond.adapters.places import PROGRAMS, VARIABLES, places_of
from sessiond.adapters.reading.ends import read_small
from sessiond.adapters.reading.evidence import executes
from sessiond.ports.discovery import Process, Processes

# What the setting adapters.homes says: folders by the names of adapters, as JSON.
SETTING: Final = "SESSIOND_FINDER_HOMES"
# So many besides the usual one are known of each program.
HOMES_MAX: Final = 16
_PATH_MAX: Final = 1024
_MEMORY_MAX: Final = 256 * 1024

_FOLDERS: Final = msgspec.json.Decoder(dict[str, list[str]])
_MEMORY: Final = msgspec.json.Decoder(list[dict[str, str]])

# The real paths of a place's folders: the same files by whatever path.
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Home:
    """One place: the variables that lead a program to it, HOME among them, and its folders, by the first of
    which it is called."""

    variables: Mapping[str, str]
    folders: tuple[str, ...]
    key: Key

    @property
    def folder(self) -> str:
        """What it is called by."""
        return self.folders[0]


def home_of(name: str, environment: Mapping[str, str]) -> Home | None:
    """Where a program of that environment keeps its files; None where that cannot be told."""
    variables = {
        one: environment[one] for one in ("HOME", *VARIABLES.get(name, ())) if environment.get(one, "")
    }
    try:
        folders = places_of(name, variables)
        if not all(folder.isprintable() for folder in folders):
            return None
        return Home(variables, folders, tuple(map(os.path.realpath, folders))) if folders else None
    except (ValueError, OSError):
        # No path: a NUL in it, or half a character.
        return None


def objection(home: Home, usual: str) -> str:
    """Why a home cannot be one, empty where it can: in a folder that people's own files are in, all of these
    would be read. ``usual`` is the person's own home folder."""
    for folder, real in zip(home.folders, home.key, strict=True):
        if len(folder) > _PATH_MAX:
            return "its path is too long"
        for each in (usual, home.variables.get("HOME", "")):
            if real == "/" or (each and f"{os.path.realpath(each)}/".startswith(f"{real}/")):
                return "home folders lie in it, and no program's files are looked for there"
        try:
            if not stat.S_ISDIR(os.stat(folder).st_mode):
                return "it is no folder"
        except FileNotFoundError:
            # It will be made.
            continue
        except OSError as error:
            return error.strerror or str(error)
    return ""


def named(name: str, environment: Mapping[str, str]) -> Iterator[Home]:
    """Homes that the setting names."""
    variables = VARIABLES.get(name, ())
    told = environment.get(SETTING, "")
    for folder in _FOLDERS.decode(told).get(name, ()) if told and variables else ():
        home = home_of(name, {"HOME": environment.get("HOME", ""), variables[0]: folder})
        if home is not None:
            yield home


def remembered(name: str, environment: Mapping[str, str]) -> Iterator[Home]:
    """Homes that were seen before, some of which may be gone, or not made yet."""
    try:
        noted = _MEMORY.decode(read_small(_memory(name, environment), _MEMORY_MAX))
    except (OSError, ValueError):
        # None yet, or no longer what was written: they are learnt anew.
        return
    for variables in noted[:HOMES_MAX]:
        home = home_of(name, variables)
        if home is not None:
            yield home


def notes_stamp(name: str, environment: Mapping[str, str]) -> tuple[int, ...]:
    """What tells whether something was written down since."""
    try:
        status = os.stat(_memory(name, environment))
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def remember(name: str, environment: Mapping[str, str], homes: Sequence[Home]) -> None:
    """Write down which there are, in place of what was. Raises OSError."""
    path = _memory(name, environment)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode([dict(one.variables) for one in homes]))
        os.rename(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise


def all_places(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Folders of all homes that are known; none at all where the usual one cannot be told."""
    usual = places_of(name, environment)
    others = (*named(name, environment), *remembered(name, environment)) if usual else ()
    return (*usual, *(folder for one in others for folder in one.folders))


def processes_of(name: str, processes: Processes) -> Iterator[Process]:
    """Those that run the program, or are called by its name."""
    program = PROGRAMS.get(name, "")
    for process in processes.all() if program else ():
        if executes(process, program):
            yield process


def runs_elsewhere(name: str, environment: Mapping[str, str], processes: Processes) -> bool:
    """Whether a process of the program keeps its files where nothing is known to be."""
    usual = home_of(name, environment)
    known = {one.key for one in (usual, *named(name, environment), *remembered(name, environment)) if one}
    homes = (home_of(name, one.environment) for one in processes_of(name, processes))
    return any(one.key not in known and os.path.isdir(one.folder) for one in homes if one is not None)


def unlike(homes: Iterable[Home], known: Iterable[Key]) -> Iterator[Home]:
    """Each place once, without those that are known."""
    seen = set(known)
    for one in homes:
        if one.key not in seen:
            seen.add(one.key)
            yield one


def _memory(name: str, environment: Mapping[str, str]) -> str:
    base = environment.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "sessiond", "homes", f"{name}.json")
