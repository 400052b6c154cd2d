"""OpenClaw: the databases of its agents, and the lock that whoever writes them holds.

One process alone writes to a state folder: a gateway, or an embedded agent for one turn. Its lock file names
it by pid and start time. Without it all are stopped for certain. With it those live that our mark names, or
that were seen to change while it held the lock; when others were written is no evidence.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sessiond.adapters.openclaw.store import ADAPTER, Store, is_id
from sessiond.adapters.reading import texts
from sessiond.adapters.reading.ends import read_small
from sessiond.adapters.reading.evidence import is_program, life_of, living, marked
from sessiond.adapters.reading.objects import file_object
from sessiond.adapters.reading.packages import packaged_version
from sessiond.adapters.reading.transcripts import no_longer
from sessiond.adapters.starting import model_words, prompt_input
from sessiond.errors import Unsupported
from sessiond.model.agent_session import Found, Life, Plan, Problem, Transcript, Turn, Wish
from sessiond.ports.discovery import Clear, Evidence, Gone, Possible, Process, Processes, Told, Watched

_DATABASE: Final = "openclaw-agent.sqlite"
_LOCK: Final = re.compile(r"gateway\.[A-Za-z0-9_-]+\.lock")
_EMBEDDED: Final = "agent-embedded"
_MODEL: Final = re.compile(r"[\w.][\w./:@+-]{0,199}")
# Bytes of a prompt, by the program's own word.
_PROMPT_MAX: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Holder:
    """Who holds the lock of the state folder."""

    process: Process
    embedded: bool


class Adapter:
    """OpenClaw's sessions, of all its agents."""

    name = ADAPTER
    title = "OpenClaw"
    program = "openclaw"
    verified = "2026.9.6"
    abilities = frozenset({"launch", "print", "resume", "transcript", "choose-id", "model"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = environment.get("OPENCLAW_HOME") or environment.get("HOME") or os.path.expanduser("~")
        given = environment.get("OPENCLAW_STATE_DIR", "")
        if given.startswith("~"):
            given = home + given[1:]
        self._folder = os.path.abspath(given) if given else os.path.join(os.path.abspath(home), ".openclaw")
        self._real = os.path.realpath(self._folder)
        self._agents = os.path.join(self._folder, "agents")
        # Beside its state; in the folder for temporary files where that cannot be written to.
        self._locks = (
            os.path.join(self._folder, "tmp", f"openclaw-{os.getuid()}"),
            os.path.join(environment.get("TMPDIR") or tempfile.gettempdir(), f"openclaw-{os.getuid()}"),
        )
        self._stores: dict[str, Store] = {}
        self._told: dict[str, str] = {}
        # Who held the lock at the last look, and what was seen to change while it did.
        self._held_by: tuple[int, int] | None = None
        self._worked_on: set[str] = set()

    def watched(self) -> Sequence[Watched]:
        """Databases with their logs, and the locks."""
        places = [Watched(self._agents, 2, (_DATABASE, f"{_DATABASE}-wal"))]
        beside, elsewhere = self._locks
        folders = [beside]
        # A folder for temporary files is changed by all: what is not there is awaited in it only where it can
        # be what the program will use.
        if os.path.isdir(elsewhere) or not os.access(_existing(beside), os.W_OK):
            folders.append(elsewhere)
        return [*places, *(Watched(folder, 0, (".lock",)) for folder in folders)]

    # ---- finding ------------------------------------------------------------------------------

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """Each agent's database is read as far as it changed."""
        if changed is None:
            self._told.clear()
        paths = self._paths()
        for path in list(self._stores.keys() - set(paths)):
            store = self._stores.pop(path)
            for id in store.rows:
                yield from self._gone(id, path)
            yield Clear(path)
        for path in paths:
            store = self._stores.setdefault(path, Store(path))
            if changed is None or any(
                each.startswith(path) or path.startswith(f"{each}/") for each in changed
            ):
                yield from store.discover(changed is None, self._tell, self._gone)

    def _tell(self, found: Found, path: str) -> Iterator[Told]:
        """Of two agents with the same id, the first."""
        if self._told.setdefault(found.id, path) == path:
            yield found

    def _gone(self, id: str, path: str) -> Iterator[Told]:
        if self._told.get(id) != path:
            return
        del self._told[id]
        for other in self._stores.values():
            if id in other.rows:
                self._told[id] = other.path
                yield other.rows[id].found
                return
        yield Gone(id)

    def _paths(self) -> list[str]:
        """Databases that are there. Raises OSError where the folder of agents cannot be read."""
        try:
            names = sorted(os.listdir(self._agents))
        except (FileNotFoundError, NotADirectoryError):
            return []
        paths = (os.path.join(self._agents, name, "agent", _DATABASE) for name in names)
        return [path for path in paths if os.path.lexists(path)]

    # ---- evidence -----------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """An embedded agent has one open, a gateway may have whatever has not come to its end."""
        holder, trouble = self._holder(processes)
        pair = (holder.process.pid, holder.process.start_time) if holder else None
        self._watch_holder(pair)
        if holder is None or pair is None:
            return Evidence(unknown=trouble)
        process = holder.process
        lives: dict[str, Life] = {}
        possible: list[Possible] = []
        if not holder.embedded:
            lives = self._in_gateway(process)
        else:
            adapter, id = marked(process)
            named = [id] if adapter == self.name and is_id(id) else []
            for id in named or sorted(self._worked_on):
                lives[id] = living(process)
            if not lives:
                reason = f"openclaw (pid {process.pid}) runs one turn and does not tell of which session"
                possible.append(Possible(process.pid, process.start_time, "", reason))
        return Evidence(lives, possible, trouble, holders=[pair])

    def _watch_holder(self, holder: tuple[int, int] | None) -> None:
        """Whoever holds the lock now and did so before wrote what changed in between."""
        changed = {id for store in self._stores.values() for id in store.written}
        for store in self._stores.values():
            store.written.clear()
        if holder is not None and holder == self._held_by:
            self._worked_on |= changed
        else:
            self._held_by, self._worked_on = holder, set()

    def _in_gateway(self, process: Process) -> dict[str, Life]:
        """Without a pid: it is the process of many."""
        runs = Life(True, f"runs in OpenClaw's gateway (pid {process.pid})")
        may = Life(None, f"not at its end: OpenClaw's gateway (pid {process.pid}) may work on it, or left it")
        rows = [row for store in self._stores.values() for row in store.rows.values()]
        return {
            row.found.id: runs if row.found.id in self._worked_on else may
            for row in rows
            if row.found.turn is not Turn.DONE
        }

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """From the same look."""
        return life_of(found, self.evidence(processes))

    def _holder(self, processes: Processes) -> tuple[_Holder | None, str]:
        """Who holds the lock, or why that cannot be told."""
        trouble = ""
        for path in self._lock_files():
            lock: Mapping[str, object] = {}
            try:
                lock = file_object(read_small(path))
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not os.path.islink(path):
                    continue
                why = f"cannot be read: {error.strerror or error}"
            else:
                why = "names no process"
            folder = texts.absolute(lock.get("stateDir"))
            if os.path.realpath(folder or os.path.dirname(path)) != self._real and (
                folder or not path.startswith(f"{self._folder}/")
            ):
                # Another state folder's, in the place that they share.
                continue
            pid, start = texts.as_count(lock.get("pid")), texts.as_count(lock.get("startTime"))
            if not pid:
                trouble = f"OpenClaw's lock {path} {why}"
                continue
            process = processes.get(pid)
            if process is None or (start is not None and process.start_time != start):
                continue
            if start is not None and not is_program(process, self.program):
                trouble = f"OpenClaw's lock {path} names process {pid}, which is not shown to be OpenClaw"
                continue
            if start is None and not process.comm.startswith("openclaw"):
                # It may be another's pid by now.
                trouble = f"OpenClaw's lock {path} does not say when its process (pid {pid}) began"
                continue
            return _Holder(process, lock.get("role") == _EMBEDDED), ""
        return None, trouble

    def _lock_files(self) -> Iterator[str]:
        for folder in self._locks:
            try:
                if folder == self._locks[1] and not _private(folder):
                    continue
                names = sorted(os.listdir(folder))
            except OSError:
                continue
            yield from (os.path.join(folder, name) for name in names if _LOCK.fullmatch(name))

    # ---- reading, starting ----------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """From the events in its agent's database."""
        for store in self._stores.values():
            if found.id in store.rows:
                try:
                    return store.transcript(found.id, max(1, tail))
                except (OSError, sqlite3.Error) as error:
                    problem = Problem(self.name, "file_unreadable", str(error), store.path)
                    return Transcript((), False, (problem,))
        raise no_longer(self.title, found.id)

    def launch(self, wish: Wish) -> Plan:
        """One turn of an embedded agent, under the caller's id."""
        return self._plan(wish, wish.id)

    def resume(self, found: Found, wish: Wish) -> Plan:
        """The same id, and the next turn."""
        return self._plan(wish, found.id)

    def identify(self, line: str) -> str | None:
        """Ids are chosen; what it prints is not read."""
        return None

    def version(self, path: str) -> str:
        """From the package that the program is in."""
        return packaged_version(path, lambda name: name == self.program)

    def _plan(self, wish: Wish, id: str) -> Plan:
        if not wish.print:
            raise Unsupported(
                "adapter_cannot",
                "OpenClaw is run here for one turn at a time, without a terminal",
                hint="use print mode: --print",
                fields={"adapter": self.name},
            )
        hint = "models are PROVIDER/MODEL; `openclaw models list` shows them"
        model = model_words(wish.model, _MODEL.fullmatch, hint)
        argv = (*(wish.command or (self.program,)), "agent", "--local", "--json", "--session-id", id, *model)
        input = prompt_input(wish.prompt, _PROMPT_MAX)
        return Plan((*argv, "--message-file", "/dev/stdin"), input=input, id=id)


def _private(folder: str) -> bool:
    """Whether nobody else can have put anything into a folder that lies among those of others. Raises
    OSError."""
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        return False
    return not status.st_mode & stat.S_IWGRP or status.st_gid == os.getegid()


def _existing(path: str) -> str:
    """It, or the nearest folder above it that is there."""
    while not os.path.lexists(path) and path != "/":
        path = os.path.dirname(path)
    return path
