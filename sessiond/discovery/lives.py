"""Who lives: an adapter's evidence, our own agents and our marker, put together and held against /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, Protocol

from sessiond.adapters.reading.evidence import began_ns, executes, handed_down
from sessiond.model.agent_session import HOME, MARKER, STOPPED, Found, Life, is_proper_id
from sessiond.ports.discovery import Evidence, Possible, Process, Processes

# Times that programs write down are of clocks that go in steps.
_SLACK_NS: Final = 1_000_000_000


class Program(Protocol):
    """What is asked of an adapter."""

    name: str
    program: str


@dataclass(slots=True)
class Lives:
    """What is known of an adapter's conversations now. ``folders`` are those of the processes by id;
    ``strangers`` are rows for processes that no other row accounts for."""

    known: dict[str, Life]
    possible: Sequence[Possible] = ()
    unknown: str = ""
    holders: frozenset[tuple[int, int]] = frozenset()
    folders: dict[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    homes: Mapping[str, str] = field(default_factory=dict)
    strangers: dict[str, Found] = field(default_factory=dict)
    outside: Sequence[Possible] = ()
    _real: dict[str, str] = field(default_factory=dict)

    def of(self, found: Found) -> Life:
        """Whether this one lives."""
        if (life := self.known.get(found.id)) is not None:
            return life
        if found.id in self.strangers:
            return found.life
        for one in self.possible:
            if self.may_have(one, found):
                return Life(None, one.reason)
        home = found.native.get(HOME, "")
        unknown = self.elsewhere.get(home, "") if home else self.unknown
        if unknown:
            return Life(None, unknown)
        for one in self.outside:
            if self.may_have(one, found) or _written_since(one, found):
                return Life(None, one.reason)
        return STOPPED

    def may_have(self, one: Possible, found: Found) -> bool:
        """Whether a process may have this one open."""
        if one.home != found.native.get(HOME, ""):
            return False
        return not (one.cwd and found.cwd) or self._same_folder(one.cwd, found.cwd)

    def fileless(self, adapter: str, session: str) -> Found:
        """A conversation that lives and has no file."""
        home = self.homes.get(session, "")
        cwd = self.folders.get(session, "")
        return Found(adapter, session, cwd=cwd, native={HOME: home} if home else {})

    def processes(self) -> set[tuple[int, int]]:
        """Pids and start times of those whose end changes this."""
        pairs = {
            (life.pid, life.start_time)
            for life in self.known.values()
            if life.pid is not None and life.start_time is not None
        }
        for one in self.strangers.values():
            if one.life.pid is not None and one.life.start_time is not None:
                pairs.add((one.life.pid, one.life.start_time))
        return pairs | {(one.pid, one.start_time) for one in self.possible} | self.holders

    def _same_folder(self, one: str, other: str) -> bool:
        return one == other or self._resolved(one) == self._resolved(other)

    def _resolved(self, path: str) -> str:
        if path not in self._real:
            self._real[path] = os.path.realpath(path)
        return self._real[path]


def settle(adapter: Program, evidence: Evidence, own: Mapping[str, str], processes: Processes) -> Lives:
    """Hold evidence against the processes there are. ``own``: which of our agents has which open."""
    known: dict[str, Life] = {}
    folders: dict[str, str] = {}
    for session, life in evidence.lives.items():
        if not is_proper_id(session):
            continue
        proven = prove(life, processes)
        if proven is not None:
            known[session] = proven
            if proven.pid is not None and (process := processes.get(proven.pid)) is not None:
                folders[session] = process.cwd
    for session, process in _further(adapter, known, own, processes):
        known[session] = Life(True, pid=process.pid, start_time=process.start_time, mark=process.mark)
        folders[session] = process.cwd
    # Of whom it is known what they have open, nothing else is possible; what may be takes nobody.
    taken = {life.pid for life in known.values() if life.alive}
    for session in [one for one, life in known.items() if life.alive is None and life.pid in taken]:
        del known[session]
    return Lives(
        known,
        [
            one
            for one in evidence.possible
            if one.pid not in taken and _is(processes, one.pid, one.start_time)
        ],
        evidence.unknown,
        frozenset(pair for pair in evidence.holders if _is(processes, *pair)),
        folders,
        evidence.elsewhere,
        evidence.homes,
        outside=evidence.outside or (),
    )


def prove(life: Life, processes: Processes) -> Life | None:
    """What an adapter says of a life, with the mark of its process; None where that process is no more."""
    if life.pid is None:
        return life
    process = processes.get(life.pid)
    if process is None or life.start_time not in (None, process.start_time):
        return None
    return replace(life, start_time=process.start_time, mark=process.mark)


def _further(
    adapter: Program, known: Mapping[str, Life], own: Mapping[str, str], processes: Processes
) -> list[tuple[str, Process]]:
    """Conversations that the adapter does not know to live, and who has them open. What only may be stands in
    nobody's way, nor does what a program of an agent of ours started of its own kind."""
    alive = [life for life in known.values() if life.alive]
    pids = {life.pid for life in alive}
    marks = {
        life.mark
        for life in alive
        if life.mark and not (life.mark in own and _inner(adapter, life.pid, processes))
    }
    agents: dict[str, Process] = {}
    carriers: dict[str, Process] = {}
    # The oldest is the program itself, the others are what it started.
    for process in sorted(processes.all(), key=lambda one: (one.start_time, one.pid)):
        if own and process.mark in own:
            # Its mark may be older than what its agent went on to.
            if process.mark not in marks:
                agents.setdefault(own[process.mark], process)
            continue
        if adapter.program and process.pid not in pids and executes(process, adapter.program):
            name, _, session = process.environment.get(MARKER, "").partition(":")
            if name == adapter.name and is_proper_id(session) and not _inner(adapter, process.pid, processes):
                carriers.setdefault(session, process)
    found = {**carriers, **agents}.items()
    return [(one, by) for one, by in found if one not in known or known[one].alive is None]


def _inner(adapter: Program, pid: int | None, processes: Processes) -> bool:
    """Whether a process was started from within another of the same program, whose environment and unit it
    shares: these tell nothing of what it has open itself."""
    process = None if pid is None or not adapter.program else processes.get(pid)
    if process is None:
        return False
    if handed_down(process, adapter.name):
        return True
    mark = process.environment.get(MARKER, "")
    return any(
        executes(above, adapter.program) and above.environment.get(MARKER, "") == mark
        for above in islice(lineage(process, processes), 1, None)
    )


def lineage(process: Process, processes: Processes) -> Iterator[Process]:
    """A process and those that it comes from."""
    seen: set[int] = set()
    above: Process | None = process
    while above is not None and above.pid not in seen:
        seen.add(above.pid)
        yield above
        above = processes.get(above.parent)


def _written_since(one: Possible, found: Found) -> bool:
    """Whether one was written since a process began that may have gone on with it from another folder."""
    if found.updated_at is None or one.home != found.native.get(HOME, ""):
        return False
    return found.updated_at.timestamp() * 1e9 >= began_ns(one) - _SLACK_NS


def _is(processes: Processes, pid: int, start_time: int) -> bool:
    process = processes.get(pid)
    return process is not None and process.start_time == start_time
