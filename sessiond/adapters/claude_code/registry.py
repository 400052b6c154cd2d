"""The program's registry of what runs: one file for each of its processes, left behind by those killed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec

from sessiond.adapters.reading.ends import malformed, read_ends, unreadable
from sessiond.adapters.reading.evidence import is_program
from sessiond.adapters.reading.objects import decoded_file
from sessiond.adapters.reading.stamps import Stamps
from sessiond.adapters.reading.texts import absolute, from_milliseconds, shorten
from sessiond.model.agent_session import Life, Problem, Turn
from sessiond.ports.discovery import Possible, Process, Processes

# An entry is some hundred bytes.
_MOST: Final = 64 * 1024
_ID_MAX: Final = 128

_TURNS: Final[Mapping[str, Turn]] = {"busy": Turn.WORKING, "idle": Turn.DONE, "waiting": Turn.WAITING}
_WAITS: Final[Mapping[str, str]] = {
    "permission prompt": "waiting for permission",
    "sandbox request": "waiting for permission",
    "dialog open": "waiting for an answer",
    "input needed": "waiting for an answer",
}


class _Raw(msgspec.Struct):
    pid: int
    sessionId: str
    cwd: str | None = None
    procStart: str | int | None = None
    pidDomain: str | None = None
    version: str | None = None
    kind: str | None = None
    entrypoint: str | None = None
    name: str | None = None
    nameSource: str | None = None
    status: str | None = None
    waitingFor: str | None = None
    startedAt: Any = None
    updatedAt: Any = None
    spare: Any = None


_RAW: Final = msgspec.json.Decoder(_Raw)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one process says of itself."""

    path: str
    pid: int
    session: str
    cwd: str = ""
    start_time: int | None = None
    domain: str = ""
    version: str = ""
    kind: str = ""
    entrypoint: str = ""
    name: str = ""
    named: bool = False
    status: str = ""
    waiting_for: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    spare: bool = False


class Registry:
    """Entries of a folder; each is read again only when its file changed."""

    def __init__(self, adapter: str, folder: str) -> None:
        self._adapter = adapter
        self.folder = folder
        self._stamps: Stamps[Entry] = Stamps()
        self._last: dict[str, Entry] = {}
        self._blank: set[str] = set()
        self.problems: dict[str, Problem] = {}
        """By path: entries that cannot be read, and the folder itself."""
        self.entries: dict[str, Entry] = {}
        """By path, as of the last look: what can be read, and what could be read last."""

    def look(self) -> None:
        """Read what is there now. Tells no errors but in ``problems``."""
        self.problems = {}
        self._blank.clear()
        try:
            paths = [entry.path for entry in os.scandir(self.folder) if _is_entry(entry.name)]
        except FileNotFoundError:
            paths = []
        except OSError as error:
            # What was known stays: who lives is then judged by it.
            self.problems[self.folder] = unreadable(self._adapter, self.folder, error)
            return
        entries: dict[str, Entry] = {}
        for path in paths:
            entry = self._read(path)
            if entry is not None:
                entries[path] = entry
        self._stamps.only(paths)
        self.entries = entries

    def _read(self, path: str) -> Entry | None:
        try:
            known = self._stamps.get(path)
            if known is not None:
                return known
            ends = read_ends(path, head=_MOST, tail=0)
            if not ends.head.strip():
                # The program empties it to write it anew, and may be in the middle of that.
                self._blank.add(path)
                return self.entries.get(path)
            entry = _entry(path, ends.head)
        except FileNotFoundError:
            if not os.path.islink(path):
                return None
            self.problems[path] = malformed(self._adapter, path, "a link to nothing in place of an entry")
            return self.entries.get(path)
        except OSError as error:
            self.problems[path] = unreadable(self._adapter, path, error)
            return self.entries.get(path)
        if entry is None:
            self.problems[path] = malformed(self._adapter, path, "no entry of a process can be read in it")
            return self.entries.get(path)
        self._stamps.put(path, ends.stamp, entry)
        return entry

    def sessions(self) -> Mapping[str, Entry]:
        """By session, the entry that was written last; spare processes have none yet."""
        newest: dict[str, Entry] = {}
        for entry in self.entries.values():
            if entry.spare:
                continue
            other = newest.get(entry.session)
            if other is None or _later(entry, other):
                newest[entry.session] = entry
        return newest

    def lives(self, processes: Processes) -> dict[str, Life]:
        """Who lives by it, and who may."""
        lives: dict[str, Life] = {}
        chosen: dict[str, Entry] = {}
        for entry in self.entries.values():
            if entry.spare or (life := life_of(entry, processes)) is None:
                continue
            before = lives.get(entry.session)
            if before is not None and (
                (before.alive and not life.alive)
                or (before.alive == life.alive and not _later(entry, chosen[entry.session]))
            ):
                continue
            if life.pid is None and entry.path.isprintable():
                life = replace(life, entry=entry.path)
            lives[entry.session], chosen[entry.session] = life, entry
        return lives

    def unread(self, processes: Processes) -> Iterator[Possible]:
        """Processes whose entry cannot be read, and never could."""
        for path in (*self.problems, *self._blank):
            if path in self.entries or path == self.folder:
                continue
            process = processes.get(_pid_of(path))
            if process is not None and executes(process):
                yield Possible(
                    process.pid,
                    process.start_time,
                    process.cwd,
                    f"the entry of process {process.pid} in Claude Code's registry cannot be read",
                )

    def unknown(self) -> str:
        """Why nothing can be concluded from it, where that is so."""
        problem = self.problems.get(self.folder)
        if problem is None:
            return ""
        return f"Claude Code's registry cannot be read: {problem.reason}"


def life_of(entry: Entry, processes: Processes) -> Life | None:
    """Whether the process of an entry lives; None where it does not."""
    if entry.domain and entry.domain != own_domain():
        return _life_abroad(entry, processes)
    process = processes.get(entry.pid)
    if process is None:
        return _life_outside(entry, processes)
    if entry.start_time is None:
        if not executes(process):
            return None
        return Life(
            None,
            f"process {entry.pid} may be the one that has it open: its entry has no start time",
            process.pid,
            process.start_time,
        )
    if entry.start_time != process.start_time:
        # Somebody else's by now.
        return _life_outside(entry, processes)
    if not executes(process):
        # Whoever can write there must not have another's process taken for it, and ended.
        return Life(
            None,
            f"its entry names process {process.pid}, which is not shown to be Claude Code",
            process.pid,
            process.start_time,
        )
    activity = ""
    if entry.status == "waiting":
        activity = _WAITS.get(entry.waiting_for, f"waiting for {entry.waiting_for or 'an answer'}")
    return Life(True, "", process.pid, process.start_time, _TURNS.get(entry.status), shorten(activity))


def _life_abroad(entry: Entry, processes: Processes) -> Life | None:
    """Of a process that another PID namespace, or machine, calls by that pid."""
    place, _, space = own_domain().rpartition(":pid:")
    known = bool(place.partition(":")[2]) and bool(space)
    there, _, other = entry.domain.rpartition(":pid:")
    seen = processes.abroad(f"pid:{other}", entry.pid, entry.start_time) if known and there == place else None
    if seen == 0:
        return None
    if seen is None:
        reason = (
            f"process {entry.pid} of another PID namespace or machine ({entry.domain}) has it open, or had"
        )
    else:
        reason = f"process {seen}, which runs in another PID namespace, has it open, or had"
    return Life(None, reason)


def _life_outside(entry: Entry, processes: Processes) -> Life | None:
    """Of a process of a version that does not say in which PID namespace it is, and that is not here."""
    for process in () if entry.domain else processes.outside():
        if (process.pid, process.start_time) == (entry.pid, entry.start_time) and executes(process):
            return Life(None, f"process {process.pid}, which runs outside of this nest, has it open, or had")
    return None


def executes(process: Process) -> bool:
    """Whether it is this program, by what it executes: its own binary, or one that names itself so."""
    return "claude" in process.exe.rpartition("/")[2] or is_program(process, "claude")


def own_domain() -> str:
    """What the program writes as the place in which its pids are valid."""
    global _domain  # noqa: PLW0603
    if _domain is None:
        try:
            with open("/etc/machine-id") as file:
                machine = file.read().strip()
        except OSError:
            machine = ""
        try:
            space = os.readlink("/proc/self/ns/pid")
        except OSError:
            space = ""
        _domain = f"linux:{machine}:{space}"
    return _domain


_domain: str | None = None


def _is_entry(name: str) -> bool:
    return name.endswith(".json") and name[:-5].isdecimal() and len(name) < 24


def _pid_of(path: str) -> int:
    return int(path.rpartition("/")[2][:-5])


def _later(one: Entry, other: Entry) -> bool:
    if one.updated_at and other.updated_at and one.updated_at != other.updated_at:
        return one.updated_at > other.updated_at
    return one.path > other.path


def _entry(path: str, data: bytes) -> Entry | None:
    raw = decoded_file(_RAW, data)
    if raw is None or raw.pid != _pid_of(path) or not is_id(raw.sessionId):
        return None
    try:
        start_time = None if raw.procStart is None else int(raw.procStart)
    except ValueError:
        return None
    return Entry(
        path,
        raw.pid,
        raw.sessionId,
        absolute(raw.cwd),
        start_time,
        (raw.pidDomain or "")[:200],
        (raw.version or "")[:64],
        (raw.kind or "")[:64],
        (raw.entrypoint or "")[:64],
        shorten(raw.name or ""),
        raw.nameSource == "user",
        raw.status or "",
        shorten(raw.waitingFor or ""),
        from_milliseconds(raw.startedAt),
        from_milliseconds(raw.updatedAt),
        raw.spare is True,
    )


def is_id(text: str) -> bool:
    """Whether it can be the id of a session: what names a file, and nothing more; and no option."""
    return (
        0 < len(text) <= _ID_MAX
        and text.isascii()
        and text[0] != "-"
        and text.replace("-", "").replace("_", "").isalnum()
    )
