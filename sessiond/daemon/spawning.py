"""From a wish to a program that runs: everything is checked first, and what fails half way is undone."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from sessiond.agents import command
from sessiond.agents.book import boot_id
from sessiond.config import Settings
from sessiond.daemon.roster import Entry, Roster
from sessiond.daemon.streams import Streams
from sessiond.errors import AlreadyExists, Conflict, Exhausted, InvalidArgument, SessiondError
from sessiond.log import one_line
from sessiond.model.agent import AgentEnd, AgentSpec, RestartPolicy, has_ended, new_agent_id
from sessiond.model.identity import check_count, check_label, check_name
from sessiond.model.signals import parse_signal
from sessiond.ports import AgentUnits, AgentUnitSpec

log = logging.getLogger(__name__)

CELLS_MAX = 1000
_TIMEOUT_MAX = 10 * 366 * 86400.0
_STOP_TIMEOUT_MIN, _STOP_TIMEOUT_MAX = 0.1, 3600.0
_UMASK_MAX = 0o777
INPUT_MAX = 2 << 20
_TERM = "xterm-256color"
_TERM_MAX = 64
# Long enough for a busy manager's last word on a unit that it let go of.
_GONE_DEADLINE = 10.0
_TOLD_DEADLINE = 5.0
# The master of a terminal, and the pipe behind it with its two ends, of which both are stored as one each.
_DESCRIPTORS_EACH = 2


@dataclass(frozen=True, slots=True)
class Spawn:
    """What somebody wants started; times in seconds, None for the default."""

    argv: tuple[str, ...]
    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    set_environment: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    tty: bool = False
    columns: int = 0
    rows: int = 0
    term: str = ""
    restart: RestartPolicy = RestartPolicy.NO
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    resurrect: bool = False
    stop_signal: str = ""
    stop_timeout: float | None = None
    umask: int | None = None
    timeout: float = 0.0
    input: bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session's agents run. ``program`` begins the command line of their units."""

    session: str
    store: Path
    runtime: Path
    socket: Path
    program: Sequence[str]

    @property
    def workspace(self) -> Path:
        """The folder of the session; the link follows it when it is moved."""
        return self.store / "workspace"


class Spawning:
    """Starts agents, new ones and known ones anew. ``settle`` looks after one whose run may be over."""

    def __init__(
        self,
        place: Place,
        settings: Settings,
        units: AgentUnits,
        roster: Roster,
        streams: Streams,
        settle: Callable[[Entry], None],
    ) -> None:
        self._place = place
        self._settings = settings
        self._units = units
        self._roster = roster
        self._streams = streams
        self._settle = settle
        # Names, the cap and room for descriptors are looked at and taken by one at a time.
        self._claiming = asyncio.Lock()
        self._opening = 0

    # ---- a new one

    async def spawn(self, wish: Spawn) -> Entry:
        """Start it; answers when its command was executed. Raises what SpawnAgent tells of."""
        draft = self._draft(wish)
        environment = command.agent_environment(
            wish.environment, wish.set_environment, draft, self._place.socket
        )
        program = command.resolve(draft.argv, environment, draft.cwd)
        command.check_size([*draft.argv, str(program)], environment)
        if wish.properties:
            await self._units.check(wish.properties)
        draft = replace(draft, program=program, boot=boot_id(), manager=await self._units.manager())
        async with self._claiming:
            self._check_cap()
            await self._check_store(draft)
            spec = replace(draft, id=self._free_id(draft), name=self._free_name(draft))
            if spec.id != draft.id:
                environment = command.agent_environment(
                    wish.environment, wish.set_environment, spec, self._place.socket
                )
            kept = await asyncio.to_thread(self._roster.book.claim, spec, environment, wish.input)
            entry = Entry.of(kept)
            entry.starting = True
            self._roster.add(entry)
            self._opening += spec.tty
        async with entry.lock:
            await self._begin(entry)
        return entry

    def _draft(self, wish: Spawn) -> AgentSpec:
        """The spec of a wish, all of it checked that needs no answer of anybody; name and program aside."""
        command.check_command(wish.argv)
        _check_input(wish)
        if wish.name:
            check_name(wish.name, "an agent's name")
        if wish.group:
            check_name(wish.group, "a group's name")
        check_count(len(wish.labels))
        for key, value in wish.labels.items():
            check_label(key, value)
        given = {**(wish.environment or os.environ), **wish.set_environment}
        return AgentSpec(
            id=new_agent_id(),
            session=self._place.session,
            name=wish.name,
            argv=wish.argv,
            program=Path("/"),
            cwd=self._folder(wish.cwd),
            created=datetime.now(UTC),
            tty=wish.tty,
            columns=_cells(wish.columns, 80, "columns"),
            rows=_cells(wish.rows, 24, "rows"),
            term=_term(wish.term or given.get("TERM", "")),
            restart=wish.restart,
            stop_signal=parse_signal(wish.stop_signal, "SIGTERM"),
            stop_timeout=self._stop_timeout(wish.stop_timeout),
            timeout=_duration(wish.timeout, "timeout", 0.0, _TIMEOUT_MAX),
            umask=_umask(wish.umask),
            group=wish.group,
            labels=dict(wish.labels),
            properties=dict(wish.properties),
            resurrect=wish.resurrect,
            workspace=str(self._place.workspace.resolve()),
        )

    def _folder(self, asked: str) -> Path:
        if "\0" in asked:
            raise InvalidArgument(
                "cwd_invalid", "the folder's path holds a NUL", hint="no path holds one: leave it out"
            )
        folder = command.working_folder(asked, self._place.workspace)
        if not folder.is_dir():
            raise Conflict(
                "workspace_missing",
                f"the workspace is not there: {folder}",
                hint="put it back, or: sessionctl delete SESSION",
                fields={"path": str(folder)},
            )
        return folder

    def _stop_timeout(self, asked: float | None) -> float:
        if asked is None:
            return self._settings.agents.stop_timeout
        return _duration(asked, "stop timeout", _STOP_TIMEOUT_MIN, _STOP_TIMEOUT_MAX)

    # ---- what there is room for

    def _check_cap(self) -> None:
        most = self._settings.agents.max_per_session
        living = len(self._roster.living())
        if living >= most:
            raise Exhausted(
                "too_many_agents",
                f"{living} agents run in this session, and {most} may",
                hint="stop some, or raise agents.max_per_session and restart the session",
                fields={"running": str(living), "allowed": str(most)},
            )

    async def _check_store(self, spec: AgentSpec) -> None:
        if not spec.tty:
            return
        kept, most = await self._units.store_room()
        # What was pushed a moment ago may not be counted yet.
        held = max(kept, (self._streams.open_terminals + self._opening) * _DESCRIPTORS_EACH)
        if held + _DESCRIPTORS_EACH > most:
            raise Exhausted(
                "descriptor_store_full",
                f"systemd keeps {most} descriptors for this session's daemon, and {held} are taken",
                hint="end some agents that have a terminal, or start this one with --no-tty",
                fields={"kept": str(held), "allowed": str(most)},
            )

    def _free_id(self, spec: AgentSpec) -> str:
        agent = spec.id
        while agent in self._roster.entries:
            agent = new_agent_id()
        return agent

    def _free_name(self, spec: AgentSpec) -> str:
        living = {one.spec.name for one in self._roster.living()}
        if not spec.name:
            # Also those that have ended: a number that was used names two in the list.
            return command.default_name(spec.argv, {one.spec.name for one in self._roster.entries.values()})
        if spec.name in living:
            raise AlreadyExists(
                "agent_name_taken",
                f"an agent called {spec.name} runs in this session",
                hint="give another --name, or stop that one first",
                fields={"name": spec.name},
            )
        return spec.name

    # ---- a known one

    async def start_again(self, entry: Entry) -> None:
        """Start one that has ended with what it was started with. The caller holds its lock.

        Raises as ``check_again``, and what spawning raises; its end stays what it was then.
        """
        self.check_again(entry)
        manager = await self._units.manager()
        async with self._claiming:
            if any(one is not entry and one.spec.name == entry.spec.name for one in self._roster.living()):
                self._free_name(entry.spec)
            self._check_cap()
            await self._check_store(entry.spec)
            entry.starting = True
            self._opening += entry.spec.tty
        end, asked = entry.end, entry.asked
        try:
            await self._forgotten(entry)
            spec = replace(self._at_home(entry.spec), boot=boot_id(), manager=manager)
            await asyncio.to_thread(self._forget_end, entry, spec)
        except BaseException:
            self._opening -= entry.spec.tty
            entry.starting = False
            raise
        entry.spec, entry.end, entry.lost = spec, None, None
        entry.asked = entry.stop_seen = entry.settled = False
        entry.sent, entry.pid = frozenset(), 0
        self._roster.changed.fire()
        await self._begin(entry, before=(end, asked))

    def check_again(self, entry: Entry) -> None:
        """Raise where it cannot be started again: Conflict `environment_gone` or `folder_missing`, NotFound
        `command_not_found`, InvalidArgument `command_not_executable`."""
        if not self._roster.book.has_environment(entry.id):
            name = entry.spec.name
            raise Conflict(
                "environment_gone",
                f"what {name} was started with is gone with the machine's memory",
                hint="run it anew; an agent that is to come back after a reboot is run with --resurrect",
                fields={"agent": entry.id, "name": name},
            )
        spec = self._at_home(entry.spec)
        if not spec.cwd.is_dir():
            raise Conflict(
                "folder_missing",
                f"the folder that {spec.name} runs in is not there: {spec.cwd}",
                hint="put it back, or run it anew in another",
                fields={"agent": entry.id, "path": str(spec.cwd)},
            )
        command.resolve([str(spec.program)], {}, spec.cwd)

    def _at_home(self, spec: AgentSpec) -> AgentSpec:
        """The spec with what lay in the workspace where it lies now, should that have been moved since."""
        home = self._place.workspace.resolve()
        if not spec.workspace or home == Path(spec.workspace):
            return spec

        def moved(path: Path) -> Path:
            return home / path.relative_to(spec.workspace) if path.is_relative_to(spec.workspace) else path

        return replace(spec, cwd=moved(spec.cwd), program=moved(spec.program), workspace=str(home))

    def _forget_end(self, entry: Entry, spec: AgentSpec) -> None:
        if spec.workspace != entry.spec.workspace:
            # First, so that a kill in between has it done again.
            self._roster.book.relocate(spec)
        self._roster.book.rewrite(spec)
        self._roster.book.clear_end(entry.id)

    async def _forgotten(self, entry: Entry) -> None:
        """Wait until the init system has told that the unit of the last run is gone."""
        try:
            async with asyncio.timeout(_GONE_DEADLINE):
                await self._roster.until(lambda: entry.unit is None or None)
        except TimeoutError as error:
            raise Conflict(
                "start_failed",
                f"{entry.spec.unit} of its last run is still loaded",
                hint=f"systemctl --user status {entry.spec.unit}",
                fields={"unit": entry.spec.unit},
            ) from error

    # ---- both

    async def _begin(self, entry: Entry, *, before: tuple[AgentEnd | None, bool] | None = None) -> None:
        """Open what it prints into, and have its unit started; on failure nothing of either is left.

        ``before`` is the end of its last run and whether that was asked for; None for a new agent.
        """
        spec = entry.spec
        try:
            try:
                terminal = await self._streams.open(spec, entry.folder)
            finally:
                self._opening -= spec.tty
            await self._units.start(self._unit_spec(entry, terminal))
        except BaseException as error:
            await self._undo(entry, error, before)
            raise
        self._streams.started(spec.id)
        await self._told(entry)
        self._begun(entry)

    async def _told(self, entry: Entry) -> None:
        """Wait until its unit was told of, so that its state is known when its start is answered."""
        try:
            async with asyncio.timeout(_TOLD_DEADLINE):
                await self._roster.changed.until(lambda: entry.unit or self._roster.left or None)
        except TimeoutError:
            log.warning("%s was started, and the init system does not tell of it", entry.spec.unit)

    def _begun(self, entry: Entry) -> None:
        entry.starting = False
        self._roster.changed.fire()
        if entry.unit is None or has_ended(entry.unit):
            self._settle(entry)

    async def _undo(
        self, entry: Entry, error: BaseException, before: tuple[AgentEnd | None, bool] | None
    ) -> None:
        if not await self._nothing_runs(entry, error):
            # Nobody can tell: it is followed like any other, and has an end if there is no unit.
            self._begun(entry)
            return
        self._streams.close(entry.id)
        entry.starting = False
        if before is not None:
            await self._restore(entry, *before)
            return
        self._roster.drop(entry)
        try:
            await asyncio.to_thread(self._roster.book.remove, entry.id)
        except SessiondError as fault:
            log.warning("%s is not removed: %s", entry.folder.path, fault.message)

    async def _restore(self, entry: Entry, end: AgentEnd | None, asked: bool) -> None:
        """It stays ended as it was."""
        entry.end, entry.asked, entry.settled = end, asked, end is not None
        self._roster.changed.fire()
        if end is None:
            return
        try:
            await asyncio.to_thread(self._roster.book.write_end, entry.id, end)
        except SessiondError as fault:
            log.warning("the end of %s is not written down again: %s", entry.spec.name, fault.message)

    async def _nothing_runs(self, entry: Entry, error: BaseException) -> bool:
        """Whether there is no unit, after a start that failed; one that half came to be is ended."""
        if isinstance(error, Conflict | InvalidArgument):
            return True
        try:
            await self._units.kill(entry.id)
            await self._units.release(entry.id)
        except SessiondError as fault:
            log.warning("%s may run: %s", entry.spec.unit, fault.message)
            return False
        return True

    def _unit_spec(self, entry: Entry, terminal: str) -> AgentUnitSpec:
        spec, rules = entry.spec, self._settings.agents
        return AgentUnitSpec(
            session=spec.session,
            agent=spec.id,
            description=f"{spec.name} in {one_line(str(self._place.workspace.resolve()))}",
            argv=(*self._place.program, "agent", str(entry.folder.path), str(self._place.runtime)),
            folder=entry.folder.path,
            terminal=terminal,
            stdout=None if terminal else entry.folder.stdout,
            stderr=None if terminal else entry.folder.stderr,
            restart=spec.restart.value,
            restart_limit=rules.restart_limit,
            restart_window=rules.restart_window,
            stop_signal=spec.stop_signal,
            stop_timeout=spec.stop_timeout,
            timeout=spec.timeout,
            properties=dict(spec.properties),
            identifier=spec.name,
        )


def _cells(asked: int, default: int, what: str) -> int:
    if asked > CELLS_MAX:
        raise InvalidArgument(
            "size_invalid",
            f"a terminal of {asked} {what}",
            hint=f"1 to {CELLS_MAX}",
            fields={"value": str(asked)},
        )
    return asked or default


def _term(asked: str) -> str:
    term = asked or _TERM
    if len(term) > _TERM_MAX or not term.isprintable() or "/" in term or " " in term:
        raise InvalidArgument(
            "term_invalid", f"no terminal is called {term[:_TERM_MAX]!r}", hint="for example xterm-256color"
        )
    return term


def _duration(asked: float, what: str, least: float, most: float) -> float:
    if not least <= asked <= most:
        raise InvalidArgument(
            "duration_invalid", f"a {what} of {asked:.15g} s", hint=f"{least:.15g} s to {most:.15g} s"
        )
    return asked


def _check_input(wish: Spawn) -> None:
    if wish.input is None:
        return
    if wish.tty:
        raise InvalidArgument(
            "input_with_terminal",
            "an agent with a terminal reads from that, and from nothing else",
            hint="run it with --no-tty, or type into its terminal: sessionctl send",
        )
    if len(wish.input) > INPUT_MAX:
        raise InvalidArgument(
            "input_too_large",
            f"an input of {len(wish.input)} bytes, and {INPUT_MAX} are taken",
            hint="put it in a file that the program opens",
            fields={"bytes": str(len(wish.input)), "allowed": str(INPUT_MAX)},
        )


def _umask(asked: int | None) -> int:
    if asked is None:
        return 0o022
    if asked > _UMASK_MAX:
        raise InvalidArgument("umask_invalid", f"a mask of {asked:o}", hint="0 to 777, octal")
    return asked
