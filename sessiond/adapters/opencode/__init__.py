"""OpenCode: its database, the files of its older releases, and the processes that have the database open.

Nothing says which process has which conversation open, but for a control port where it was started with one.
Without any process that has the database open all are stopped for certain; a process that does not tell may
have any of its folder open.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from sessiond.adapters.opencode import control
from sessiond.adapters.opencode.database import Database
from sessiond.adapters.opencode.rows import ADAPTER, is_id
from sessiond.adapters.opencode.storage import Storage
from sessiond.adapters.reading.evidence import began_ns, handed_down, life_of, living, marked
from sessiond.adapters.reading.objects import decode_object
from sessiond.adapters.reading.packages import packaged_version
from sessiond.adapters.reading.transcripts import no_longer
from sessiond.adapters.starting import model_words, prompt_input, prompt_word
from sessiond.model.agent_session import (
    Found,
    Life,
    Plan,
    Problem,
    Transcript,
    Turn,
    Wish,
)
from sessiond.ports.discovery import Clear, Evidence, Gone, Possible, Process, Processes, Told, Watched

_DATABASE: Final = re.compile(r"opencode(-[A-Za-z0-9._-]+)?\.db")
_MODEL: Final = re.compile(r"\w[\w.-]*/[^\s\x00]{1,200}")
_NAMES: Final = ("opencode", ".opencode")
# What runs it where it is no program of its own.
_INTERPRETERS: Final = ("bun", "node", "nodejs", "deno")
_PACKAGES: Final = ("opencode-ai", "opencode-linux", "opencode-darwin", "@opencode-ai/")
# The clock of the program and start times of processes, which go in hundredths of a second.
_SLACK_NS: Final = 1_000_000_000


class Adapter:
    """OpenCode's conversations, in all of its databases and in the files of its older releases."""

    name = ADAPTER
    title = "OpenCode"
    program = "opencode"
    verified = "1.18.33"
    abilities = frozenset({"launch", "print", "resume", "transcript", "model", "permission"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = environment.get("HOME") or os.path.expanduser("~")
        base = environment.get("XDG_DATA_HOME", "")
        if not base.startswith("/"):
            base = os.path.join(home, ".local", "share")
        self._folder = os.path.join(os.path.abspath(base), "opencode")
        given = environment.get("OPENCODE_DB", "")
        self._given = os.path.join(self._folder, given) if given not in ("", ":memory:") else ""
        self._databases: dict[str, Database] = {}
        self._storage = Storage(os.path.join(self._folder, "storage"))
        self._old: dict[str, Found] = {}
        # Files of those that could not be read.
        self._odd: set[str] = set()
        self._told: dict[str, str] = {}
        self._round: set[str] = set()

    def watched(self) -> Sequence[Watched]:
        """Databases with their logs, sessions of older releases, and the program's own log: nothing else is
        written when it asks for a permission."""
        places = [
            Watched(self._folder, 0, (".db", ".db-wal")),
            Watched(os.path.join(self._folder, "log"), 0, (".log",)),
            Watched(self._storage.sessions, 1, (".json",)),
        ]
        if self._given and os.path.dirname(self._given) != self._folder:
            name = os.path.basename(self._given)
            places.append(Watched(os.path.dirname(self._given), 0, (name, f"{name}-wal")))
        return places

    # ---- finding ------------------------------------------------------------------------------

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """Databases are read as far as they changed. A conversation that is in several places is told from
        the first of them: the usual database, others, files of older releases."""
        self._round.clear()
        if changed is None:
            self._told.clear()
        paths = self._paths()
        for path in list(self._databases.keys() - set(paths)):
            yield from self._lost(path)
        for path in paths:
            database = self._databases.setdefault(path, Database(path))
            if changed is None or path in changed or f"{path}-wal" in changed or self._folder in changed:
                yield from database.discover(changed is None, self._tell, self._gone)
        if changed is None or any(each.startswith(self._storage.sessions) for each in changed):
            yield from self._files(None if changed is None else set(changed))

    def _files(self, changed: set[str] | None) -> Iterator[Told]:
        """The files of older releases: those that changed, or all of them."""
        sessions = self._storage.sessions
        if changed is not None and all(each.endswith(".json") for each in changed):
            for path in sorted(each for each in changed if each.startswith(sessions)):
                told = self._storage.one(path)
                if told is None:
                    yield from self._gone_file(path)
                else:
                    yield from self._file(path, told)
            return
        seen = set()
        for path, told in self._storage.all():
            seen.add(path)
            yield from self._file(path, told)
        for path in [each for each in self._old if each not in seen]:
            yield from self._gone_file(path)

    def _file(self, path: str, told: Found | Problem) -> Iterator[Told]:
        if isinstance(told, Found):
            self._old[path] = told
            yield from self._tell(told, path)
            if path in self._odd:
                self._odd.discard(path)
                yield Clear(path)
            return
        # What was read of it before stays.
        if path in self._old:
            yield from self._tell(self._old[path], path)
        self._odd.add(path)
        yield told

    def _gone_file(self, path: str) -> Iterator[Told]:
        self._odd.discard(path)
        found = self._old.pop(path, None)
        if found is not None:
            yield from self._gone(found.id, path)
        yield Clear(path)

    def _tell(self, found: Found, path: str) -> Iterator[Told]:
        """Unless a better place has it, or had it in this round."""
        owner = self._told.get(found.id)
        if owner is not None and owner != path and self._rank(owner) <= self._rank(path):
            return
        self._told[found.id] = path
        if found.id not in self._round:
            self._round.add(found.id)
            yield found

    def _gone(self, id: str, path: str) -> Iterator[Told]:
        if self._told.get(id) != path:
            return
        del self._told[id]
        for database in self._databases.values():
            if id in database.rows:
                yield from self._tell(database.rows[id].found, database.path)
                return
        for other, found in self._old.items():
            if found.id == id:
                yield from self._tell(found, other)
                return
        yield Gone(id)

    def _lost(self, path: str) -> Iterator[Told]:
        """A database that is no longer there."""
        database = self._databases.pop(path)
        for id in list(database.rows):
            yield from self._gone(id, path)
        yield Clear(path)

    def _rank(self, path: str) -> int:
        paths = list(self._databases)
        return paths.index(path) if path in self._databases else len(paths)

    def _paths(self) -> list[str]:
        """Databases that are there: the one that is named, the usual one, and those of other channels."""
        try:
            names = os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            names = []
        found = sorted(os.path.join(self._folder, name) for name in names if _DATABASE.fullmatch(name))
        found.sort(key=lambda path: os.path.basename(path) != "opencode.db")
        if self._given and self._given not in found and os.path.lexists(self._given):
            found.insert(0, self._given)
        return found

    def _found(self) -> dict[str, Found]:
        rows = {found.id: found for found in self._old.values()}
        for database in reversed(self._databases.values()):
            rows.update((id, row.found) for id, row in database.rows.items())
        return rows

    # ---- evidence -----------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """What control ports tell, of processes that have a database open. The others may have any of their
        folder open, or what was written elsewhere since they began."""
        opened = self._opened()
        lives: dict[str, Life] = {}
        silent: list[tuple[Process, str]] = []
        holders = [process for process in _executing(processes) if opened & set(process.open_files)]
        for process in holders:
            told = control.ask(process)
            for id, activity in told.busy.items() if told else ():
                waits = told.waiting.get(id, "") if told else ""
                turn = Turn.WAITING if waits else Turn.WORKING
                lives[id] = living(process, turn, waits or activity)
            marked = _marked(process, holders)
            if marked:
                lives.setdefault(marked, living(process))
            elif not (told and told.busy):
                why = "has no conversation that it works on" if told else "does not tell which it has open"
                silent.append((process, f"opencode (pid {process.pid}) runs in this folder and {why}"))
        for process, _ in silent:
            if not process.mark:
                self._may_have(process, lives)
        possible = [Possible(each.pid, each.start_time, each.cwd, reason) for each, reason in silent]
        return Evidence(lives, possible, holders=[(process.pid, process.start_time) for process in holders])

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """From the same look."""
        return life_of(found, self.evidence(processes))

    def _opened(self) -> set[str]:
        """Databases by the paths that processes have them open by."""
        paths = {self._given, *self._databases} - {""}
        return paths | {os.path.realpath(path) for path in paths}

    def _may_have(self, process: Process, lives: dict[str, Life]) -> None:
        """Conversations of other folders that were written since a process began: it can resume those too.
        Not of earlier ones: else each OpenCode would put all in doubt."""
        began = began_ns(process) - _SLACK_NS
        for id, found in self._found().items():
            if id in lives or found.updated_at is None or found.cwd == process.cwd:
                continue
            if found.updated_at.timestamp() * 1e9 >= began:
                reason = (
                    f"written since opencode (pid {process.pid}) began, which runs in "
                    f"{process.cwd or 'some folder'} but can have conversations of other folders open"
                )
                # Without a pid: it is the process of many, or of none.
                lives[id] = Life(None, reason)

    # ---- reading, starting ----------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """Messages with their parts. One that runs is among them."""
        tail = max(1, tail)
        problems: list[Problem] = []
        for database in self._databases.values():
            if found.id not in database.rows:
                continue
            try:
                messages, more = database.messages(found.id, tail)
            except (OSError, sqlite3.Error) as error:
                problems.append(Problem(self.name, "file_unreadable", str(error), database.path))
                continue
            return Transcript(tuple(messages), more)
        if found.id in self._storage.paths:
            messages, more = self._storage.messages(found.id, tail)
            return Transcript(tuple(messages), more, tuple(problems))
        if problems:
            return Transcript((), False, tuple(problems))
        raise no_longer(self.title, found.id)

    def launch(self, wish: Wish) -> Plan:
        """Its id cannot be chosen. In print mode the first line tells it; in its terminal the control port
        does, which nobody else can ask."""
        return self._plan(wish, ())

    def resume(self, found: Found, wish: Wish) -> Plan:
        """By its id; the folder is that of the conversation, whatever folder it runs in."""
        return replace(self._plan(wish, ("--session", found.id)), id=found.id, learn="")

    def identify(self, line: str) -> str | None:
        """Every event in its output names the conversation."""
        id = decode_object(line).get("sessionID")
        return id if isinstance(id, str) and is_id(id) else None

    def version(self, path: str) -> str:
        """From the package that the program is in."""
        return packaged_version(path, lambda name: name.startswith(_PACKAGES))

    def _plan(self, wish: Wish, words: Sequence[str]) -> Plan:
        hint = "models are PROVIDER/MODEL; `opencode models` shows them"
        model = model_words(wish.model, _MODEL.fullmatch, hint)
        program = wish.command or (self.program,)
        if wish.print:
            # As a word of the command line it would be recorded with quotes around it.
            argv = (*program, "run", "--format", "json", *model, *words)
            return Plan(argv, input=prompt_input(wish.prompt), learn="stdout")
        prompt = (prompt_word(wish.prompt, "--prompt="),) if wish.prompt else ()
        import secrets  # Late: it loads more than the rest of this, for what is seldom asked.

        # A port that the system chooses, for who knows the password: us.
        password = control.OURS + secrets.token_urlsafe(24)
        return Plan(
            (*program, "--port", "0", *model, *words, *prompt), {control.PASSWORD: password}, learn="files"
        )


def _executing(processes: Processes) -> Iterator[Process]:
    """Processes that can be OpenCode: its own program, or an interpreter."""
    for process in processes.all():
        name = process.exe.rpartition("/")[2]
        if name.startswith(_NAMES) or process.comm.startswith(_NAMES) or name in _INTERPRETERS:
            yield process


def _marked(process: Process, holders: Sequence[Process]) -> str:
    """Id that our mark names. Who has it from another OpenCode that started it has another conversation."""
    mark = adapter, id = marked(process)
    if adapter != ADAPTER or not is_id(id) or handed_down(process, ADAPTER):
        return ""
    first = min(
        (each for each in holders if marked(each) == mark),
        key=lambda each: (each.start_time, each.pid),
    )
    return id if first.pid == process.pid else ""
