"""One program's conversations wherever its files are: an adapter for each place, told as one.

A conversation that several places have is told once: by the place that has it open, or wrote to it last. Each
process is asked about in the place that its own environment names; trouble of one place is that place's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from sessiond.adapters.homes import (
    HOMES_MAX,
    Home,
    home_of,
    named,
    notes_stamp,
    objection,
    processes_of,
    remember,
    remembered,
    unlike,
)
from sessiond.adapters.places import VARIABLES
from sessiond.adapters.reading.ends import unreadable
from sessiond.adapters.reading.evidence import executes, outside
from sessiond.model.agent_session import HOME, Found, Life, Plan, Problem, Transcript, Wish
from sessiond.ports.discovery import (
    AgentAdapter,
    Clear,
    Evidence,
    Gone,
    Possible,
    Process,
    Processes,
    Told,
    Watched,
)

Make = Callable[[Mapping[str, str]], AgentAdapter]

_REFUSED_MAX: Final = 16
_EARLY: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class _Place:
    """One home, what reads it, and what that told of it. ``label`` is empty for the usual one."""

    adapter: AgentAdapter
    home: Home | None
    label: str
    rows: dict[str, Found] = field(default_factory=dict)
    trouble: bool = False


class Everywhere:
    """See AgentAdapter. ``make`` makes the program's own adapter for one environment."""

    def __init__(self, name: str, environment: Mapping[str, str], make: Make) -> None:
        usual = make(environment)
        self.name = usual.name
        self.title = usual.title
        self.program = usual.program
        self.verified = usual.verified
        self.abilities = usual.abilities
        self._make = make
        self._environment = environment
        self._usual = _Place(usual, home_of(name, environment), "")
        self._places = [self._usual]
        self._told: dict[str, Found] = {}
        self._refused: dict[str, Problem] = {}
        # Whether there are places that nobody has been told of, and whether some are to be written down.
        self._moved = False
        self._unwritten = False
        self._noted: tuple[int, ...] = ()
        if self._usual.home is not None:
            self._add(named(name, environment), "the setting adapters.homes names it")
            self._recall()
        self._moved = self._unwritten = False

    def watched(self) -> Sequence[Watched]:
        """Of all places."""
        return [one for place in self._places for one in place.adapter.watched()]

    # ---- places

    def _add(self, homes: Iterable[Home], why: str) -> None:
        """Know these from now on, as far as they can be places and there is room."""
        known = [one.home.key for one in self._places if one.home is not None]
        usual = self._environment.get("HOME", "")
        for home in unlike(homes, known):
            if home.folder in self._refused:
                continue
            reason = objection(home, usual)
            if not reason and len(self._places) > HOMES_MAX:
                self._leave_what_is_gone()
            if not reason and len(self._places) > HOMES_MAX:
                reason = f"{HOMES_MAX} other places are known already"
            if reason:
                if len(self._refused) < _REFUSED_MAX:
                    told = Problem(self.name, "place_refused", f"{reason}; {why}", home.folder)
                    self._refused[home.folder] = told
                    self._moved = True
                continue
            adapter = self._make({**self._bare, **home.variables})
            self._places.append(_Place(adapter, home, home.folder))
            self._moved = self._unwritten = True

    def _leave_what_is_gone(self) -> None:
        """Make room: of folders that were made for a while, as tests do, nothing is left."""
        there = [one for one in self._places if not one.label or os.path.lexists(one.label)]
        if len(there) < len(self._places):
            self._places = there
            # They are told anew where they still cannot be.
            self._refused.clear()

    @property
    def _bare(self) -> dict[str, str]:
        """The usual environment without what leads to the usual place."""
        ours = VARIABLES.get(self.name, ())
        return {name: value for name, value in self._environment.items() if name not in ours}

    def _recall(self) -> None:
        """Know what was written down, also by another process that was asked to launch something."""
        noted = notes_stamp(self.name, self._environment)
        if noted != self._noted:
            homes = list(remembered(self.name, self._environment))
            there = [one for one in homes if os.path.isdir(one.folder)]
            # What is not there may be about to be made, by what was launched.
            self._noted = noted if len(there) == len(homes) else ()
            unwritten = self._unwritten
            self._add(there, "it was seen before")
            self._unwritten = unwritten

    def _notice(self, processes: Processes) -> None:
        """Know of places in which a process of the program works. What is not there for us (a container's)
        is left to a later look."""
        if self._usual.home is None:
            return
        self._recall()
        for process in processes_of(self.name, processes):
            home = home_of(self.name, process.environment)
            if home is not None and os.path.lexists(home.folder):
                self._add([home], f"process {process.pid} keeps its files there")

    def _write_down(self) -> None:
        """Once they were read without harm, or something is launched there: none that holds us up is come
        back to."""
        self._unwritten = False
        others = [one.home for one in self._places[1:] if one.home is not None]
        try:
            remember(self.name, self._environment, others)
            self._noted = notes_stamp(self.name, self._environment)
        except OSError as error:
            path = error.filename if isinstance(error.filename, str) else self._places[-1].label
            reason = f"places cannot be noted there: {error.strerror}"
            self._refused[path] = Problem(self.name, "file_unreadable", reason, path, current=True)

    def _place_of(self, found: Found) -> _Place:
        label = found.native.get(HOME, "")
        return next((one for one in self._places if one.label == label), self._usual)

    # ---- what there is

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """See AgentAdapter."""
        if len(self._places) == 1:
            yield from self._usual.adapter.discover(changed)
        else:
            touched: set[str] = set()
            for place in self._places:
                yield from self._read(place, changed, touched)
            if changed is None:
                self._told.clear()
                for place in self._places:
                    touched |= place.rows.keys()
            for session in sorted(touched):
                yield from self._tell(session)
        if changed is None:
            if self._unwritten:
                self._write_down()
            yield from self._refused.values()

    def _read(self, place: _Place, changed: Collection[str] | None, touched: set[str]) -> Iterator[Told]:
        """Have one place read. What cannot be read at all of another than the usual one keeps its rows."""
        before, seen = place.rows, set[str]()
        place.rows = dict(before)
        try:
            for told in place.adapter.discover(changed):
                if isinstance(told, Found):
                    native = {**told.native, HOME: place.label} if place.label else told.native
                    place.rows[told.id] = replace(told, native=native)
                    seen.add(told.id)
                elif isinstance(told, Gone):
                    place.rows.pop(told.id, None)
                    seen.add(told.id)
                else:
                    yield told
        except OSError as error:
            if not place.label:
                raise
            place.rows, place.trouble = before, True
            yield unreadable(self.name, place.label, error)
            return
        if changed is None:
            place.rows = {one: found for one, found in place.rows.items() if one in seen}
        if place.trouble:
            place.trouble = False
            yield Clear(place.label)
        touched |= seen

    def _tell(self, session: str) -> Iterator[Told]:
        """The one that was written last; of equals that of the place that was known first."""
        found = [one for place in self._places if (one := place.rows.get(session)) is not None]
        if not found:
            self._told.pop(session, None)
            yield Gone(session)
            return
        latest = max(found, key=lambda one: one.updated_at or _EARLY)
        if self._told.get(session) != latest:
            self._told[session] = latest
            yield latest

    # ---- who lives

    def evidence(self, processes: Processes) -> Evidence:
        """Of all places; ``moved`` where there are more of them than before."""
        self._notice(processes)
        moved, self._moved = self._moved, False
        if len(self._places) == 1:
            told = self._usual.adapter.evidence(processes)
            told = replace(told, outside=self._outside(self._usual, told, processes))
            return replace(told, moved=True) if moved else told
        lives: dict[str, Life] = {}
        possible: list[Possible] = []
        holders: list[tuple[int, int]] = []
        unknown: dict[str, str] = {}
        homes: dict[str, str] = {}
        spare: list[int] = []
        abroad: list[Possible] = []
        for place in self._places:
            within = _Within(self.name, processes, self._known, place.home)
            try:
                told = place.adapter.evidence(within)
            except OSError as error:
                if not place.label:
                    raise
                told = Evidence(unknown=f"{place.label} cannot be read: {error.strerror}")
            for session, life in told.lives.items():
                if session not in lives or (life.alive and not lives[session].alive):
                    lives[session], homes[session] = life, place.label
            possible += [replace(one, home=place.label) for one in told.possible]
            holders += told.holders
            spare += told.spare
            abroad += self._outside(place, told, within)
            if told.unknown:
                unknown[place.label] = told.unknown
        usual = unknown.pop("", "")
        return Evidence(lives, possible, usual, holders, moved, unknown, homes, spare, abroad)

    def _outside(self, place: _Place, told: Evidence, processes: Processes) -> Sequence[Possible]:
        """Who may have something of a place open outside of our nest. Where a process keeps its files may be
        hidden from us: it may be anywhere then."""
        if told.outside is not None:
            return [replace(one, home=place.label) for one in told.outside]
        key = place.home.key if place.home is not None else None
        found = []
        for process in processes.outside():
            home = home_of(self.name, process.environment) if executes(process, self.program) else None
            if executes(process, self.program) and (home is None or key in (None, home.key)):
                found.append(replace(outside(self.program, process), home=place.label))
        return found

    @property
    def _known(self) -> set[tuple[str, ...]]:
        return {one.home.key for one in self._places if one.home is not None}

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """See AgentAdapter."""
        place = self._place_of(found)
        if len(self._places) > 1:
            processes = _Within(self.name, processes, self._known, place.home)
        return place.adapter.is_alive(found, processes)

    # ---- what one does with them

    def transcript(self, found: Found, tail: int) -> Transcript:
        """See AgentAdapter."""
        return self._place_of(found).adapter.transcript(found, tail)

    def launch(self, wish: Wish) -> Plan:
        """In the place that the caller's environment names, which is known from then on."""
        plan = self._usual.adapter.launch(wish)
        home = home_of(self.name, wish.environment)
        if home is not None and self._usual.home is not None:
            self._add([home], "a conversation is launched there")
            if self._unwritten:
                self._write_down()
        return plan

    def resume(self, found: Found, wish: Wish) -> Plan:
        """In the place that has it, whichever the caller's environment names."""
        place = self._place_of(found)
        plan = place.adapter.resume(found, wish)
        home = place.home
        if home is None:
            return plan
        given = wish.environment or self._environment
        if (there := home_of(self.name, given)) is not None and there.key == home.key:
            return plan
        ours = VARIABLES.get(self.name, ())
        leading = {one: home.variables[one] for one in ours if one in home.variables}
        kept = {one: value for one, value in given.items() if one not in ours}
        same = home_of(self.name, {**kept, **leading})
        if same is None or same.key != home.key:
            leading["HOME"] = home.variables.get("HOME", "")
        without = tuple(one for one in ours if one not in leading)
        return replace(plan, environment={**leading, **plan.environment}, without=without)

    def identify(self, line: str) -> str | None:
        """See AgentAdapter."""
        return self._usual.adapter.identify(line)

    def version(self, path: str) -> str:
        """See AgentAdapter."""
        return self._usual.adapter.version(path)


class _Within:
    """The processes without those of the program that keep its files in another known place."""

    def __init__(
        self, name: str, processes: Processes, known: Collection[tuple[str, ...]], home: Home | None
    ) -> None:
        self._name = name
        self._processes = processes
        self._others = set(known) - ({home.key} if home is not None else set())

    def get(self, pid: int) -> Process | None:
        """See Processes."""
        return self._processes.get(pid)

    def all(self) -> Iterator[Process]:
        """See Processes."""
        hidden = {one.pid for one in processes_of(self._name, self._processes) if self._is_of_others(one)}
        return (one for one in self._processes.all() if one.pid not in hidden)

    def _is_of_others(self, process: Process) -> bool:
        home = home_of(self._name, process.environment)
        return home is not None and home.key in self._others

    def outside(self) -> Sequence[Process]:
        """See Processes."""
        return [one for one in self._processes.outside() if not self._is_of_others(one)]

    def lock_holders_outside(self) -> Mapping[tuple[int, int], int]:
        """See Processes."""
        return self._processes.lock_holders_outside()

    def abroad(self, space: str, pid: int, start_time: int | None) -> int | None:
        """See Processes."""
        return self._processes.abroad(space, pid, start_time)

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        """See Processes."""
        return self._processes.lock_holders()
