"""Codex: rollouts and an index below CODEX_HOME; who writes one holds a lock on a file named by its id."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import msgspec

from sessiond.adapters.codex import rollouts
from sessiond.adapters.codex.index import Entry, Index
from sessiond.adapters.codex.rollouts import Rollout
from sessiond.adapters.reading import ends as files
from sessiond.adapters.reading.evidence import (
    began_ns,
    executes,
    executing,
    is_program,
    life_of,
    living,
    outside,
)
from sessiond.adapters.reading.objects import decoded
from sessiond.adapters.reading.packages import VERSION_MAX, read_package
from sessiond.adapters.reading.tracking import Tracked
from sessiond.adapters.reading.zstd import unpacked_end
from sessiond.adapters.starting import model_words, prompt_input, prompt_word
from sessiond.errors import NotFound, Unsupported
from sessiond.model.agent_session import STOPPED, Found, Life, Message, Plan, Problem, Transcript, Turn, Wish
from sessiond.ports.discovery import Clear, Evidence, Gone, Possible, Process, Processes, Told, Watched

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
# Of a transcript, so much is looked through for its last messages.
_BACK: Final = 16 * 1024 * 1024
_BLOCK: Final = 256 * 1024
# Times of processes are in hundredths of a second; what Codex begins with takes longer before its first turn.
_SLACK_NS: Final = 50_000_000
_LOCK: Final = ".lock"
# Commands that begin no conversation, or those of others: who holds no lock has none.
_SERVERS: Final = frozenset({"app-server", "mcp-server", "exec-server", "mcp", "login", "logout", "sandbox"})


class _Started(msgspec.Struct):
    type: str = ""
    thread_id: str = ""


_STARTED: Final = msgspec.json.Decoder(_Started)


class Adapter:
    """The authority on Codex's conversations.

    A server that Codex's windows share holds the locks of all of them: it is the process of none, so that
    ending one conversation ends no other. What is launched here does without it: what it does is then done
    in the unit of its agent.
    """

    name = "codex"
    title = "Codex"
    program = "codex"
    verified = "0.169.0"
    abilities = frozenset({"launch", "print", "resume", "transcript", "model"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        home = environment.get("CODEX_HOME") or os.path.join(environment.get("HOME") or "/", ".codex")
        self._home = os.path.abspath(home)
        self._live = os.path.join(self._home, "sessions")
        self._archive = os.path.join(self._home, "archived_sessions")
        self._locks = os.path.join(self._home, "thread-writer-locks")
        self._index = Index(self.name, os.path.abspath(environment.get("CODEX_SQLITE_HOME") or self._home))
        self._rollouts: Tracked[Rollout] = Tracked(self.name)
        self._index_troubled = ""
        self._locks_told = False

    # ---- files ------------------------------------------------------------------------------

    def watched(self) -> Sequence[Watched]:
        """Rollouts, the archive, locks (they come and go with their writers), the index."""
        return (
            Watched(self._live, 3, (".jsonl", ".jsonl.zst")),
            Watched(self._archive, 0, (".jsonl", ".jsonl.zst")),
            Watched(self._locks, 0, (_LOCK,)),
            Watched(self._index.folder, 0, tuple(self._index.names())),
        )

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """All conversations, or those of files and folders that changed."""
        touched: set[str] = set()
        if changed is None:
            yield from self._rescan(self._home, touched)
        else:
            for path in changed:
                yield from self._look(path.rstrip("/"), touched)
        if changed is None or any(self._index.owns(path) for path in changed):
            touched |= self._index.refresh() & self._rollouts.ids.keys()
            yield from self._tell_index()
        if changed is None or any(path == self._locks for path in changed):
            yield from self._tell_locks()
        for each in sorted(self._rollouts.ids) if changed is None else sorted(touched):
            found = self._found(each)
            yield Gone(each) if found is None else found

    def _walk(self) -> tuple[list[str], dict[str, OSError]]:
        """Rollouts that are there, and folders that cannot be listed."""
        closed: dict[str, OSError] = {}
        return [*_below(self._live, 3, closed), *_below(self._archive, 0, closed)], closed

    def _look(self, path: str, touched: set[str]) -> Iterator[Told]:
        """What changed at a path: a rollout, or a folder of them."""
        inside = path == self._archive or path == self._live or path.startswith(self._live + "/")
        if rollouts.named(path) and (inside or os.path.dirname(path) == self._archive):
            yield from self._rollouts.read(path, rollouts.read, touched)
        elif inside or path == self._home:
            yield from self._rescan(path, touched)

    def _rescan(self, folder: str, touched: set[str]) -> Iterator[Told]:
        """All rollouts below a folder."""
        walked, closed = self._walk()
        below = folder.rstrip("/") + "/"
        there = [each for each in walked if each.startswith(below)]
        yield from self._rollouts.sweep(folder, there, closed, touched)
        for path in there:
            yield from self._rollouts.read(path, rollouts.read, touched)

    def _tell_index(self) -> Iterator[Told]:
        problem = self._index.problem
        if problem is not None:
            self._index_troubled = problem.path
            yield problem
        elif self._index_troubled:
            yield Clear(self._index_troubled)
            self._index_troubled = ""

    def _tell_locks(self) -> Iterator[Told]:
        told = self._locks_told
        try:
            os.listdir(self._locks)
        except (FileNotFoundError, NotADirectoryError):
            self._locks_told = False
        except OSError as error:
            self._locks_told = True
            yield files.unreadable(self.name, self._locks, error)
        else:
            self._locks_told = False
        if told and not self._locks_told:
            yield Clear(self._locks)

    def _rollout(self, session: str) -> Rollout | None:
        """The file that counts, of a conversation of which there are several."""
        paths = self._rollouts.ids.get(session)
        if not paths:
            return None
        return self._rollouts.paths[
            min(paths, key=lambda path: (path.endswith(".zst"), self._archived(path), path))
        ]

    def _archived(self, path: str) -> bool:
        return os.path.dirname(path) == self._archive

    def _found(self, session: str) -> Found | None:
        rollout = self._rollout(session)
        if rollout is None:
            return None
        entry = self._index.entries.get(session, Entry())
        native = {**rollout.native, "path": rollout.path[:4096].encode("utf-8", "replace").decode()}
        if entry.branch:
            native.setdefault("git_branch", entry.branch)
        if self._archived(rollout.path):
            native["archived"] = "true"
        first = rollout.first_prompt or entry.first_prompt
        # Until somebody names it, its title is its first prompt.
        title = entry.name or rollout.title or (entry.title if entry.title != entry.first_prompt else "")
        return Found(
            self.name,
            session,
            cwd=rollout.cwd or entry.cwd,
            model=rollout.model or entry.model,
            title=title,
            first_prompt=first,
            last_prompt=rollout.last_prompt or first,
            started_at=rollout.started_at,
            updated_at=rollout.updated_at,
            tokens_in=rollout.tokens_in,
            tokens_out=rollout.tokens_out,
            parent=rollout.parent or entry.parent,
            turn=rollout.turn,
            activity=rollout.activity,
            native=native,
            source=rollout.path,
        )

    # ---- processes --------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """Who holds the locks; of older versions, which have none, who has the rollouts open."""
        lives: dict[str, Life] = {}
        holders: dict[int, int] = {}
        unknown = ""
        try:
            for session, path in self._lock_files():
                life = self._by_lock(session, path, processes, holders)
                if life is not None:
                    lives[session] = life
        except OSError as error:
            unknown = f"the folder of Codex's locks cannot be read: {error.strerror}"
        for process in executing(processes, {"codex"}):
            if process.pid in holders:
                continue
            for path in process.open_files:
                rollout = self._rollouts.paths.get(path)
                if rollout is not None and not lives.get(rollout.id, STOPPED).alive:
                    lives[rollout.id] = self._life(rollout.id, process, processes, holders)
        shared = [
            (pid, start) for pid, start in holders.items() if all(life.pid != pid for life in lives.values())
        ]
        spare = [
            each.pid
            for each in executing(processes, {"codex"})
            if each.pid not in holders and not _SERVERS.isdisjoint(each.argv[1:2])
        ]
        abroad = list(self._open_outside(processes, lives))
        return Evidence(lives, unknown=unknown, holders=shared, spare=spare, outside=abroad)

    def _open_outside(self, processes: Processes, lives: dict[str, Life]) -> Iterator[Possible]:
        """Put in the rollouts that processes without locks have open outside of our nest; those of which not
        even that can be told."""
        running = [one for one in processes.outside() if executes(one, self.program)]
        locking = set(self._locking_outside(processes)) if running else set()
        for process in running:
            for path in process.open_files:
                rollout = self._rollouts.paths.get(path)
                if rollout is not None:
                    reason = f"process {process.pid} outside of this nest has it open"
                    lives.setdefault(rollout.id, Life(None, reason))
            if (
                not process.open_files
                and process.pid not in locking
                and _SERVERS.isdisjoint(process.argv[1:2])
            ):
                yield outside(self.program, process)

    def _locking_outside(self, processes: Processes) -> Iterator[int]:
        holders = processes.lock_holders_outside()
        # Where they cannot be looked at, what is in doubt is told of the folder, or of each.
        with suppress(OSError):
            for _, path in self._lock_files():
                with suppress(OSError):
                    status = os.stat(path)
                    if (pid := holders.get((status.st_dev, status.st_ino))) is not None:
                        yield pid

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """The same for one."""
        path = os.path.join(self._locks, found.id + _LOCK)
        if rollouts.is_id(found.id) and os.path.exists(path):
            life = self._by_lock(found.id, path, processes, {})
            if life is not None and life.alive:
                return life
        return life_of(found, self.evidence(processes))

    def _lock_files(self) -> Iterator[tuple[str, str]]:
        """Raises OSError where the folder cannot be read."""
        try:
            names = os.listdir(self._locks)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            session = name.removesuffix(_LOCK)
            if session != name and rollouts.is_id(session):
                yield session, os.path.join(self._locks, name)

    def _by_lock(self, session: str, path: str, processes: Processes, holders: dict[int, int]) -> Life | None:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Life(None, f"its lock cannot be looked at: {error.strerror}")
        pid = processes.lock_holders().get((status.st_dev, status.st_ino))
        if pid is None:
            pid = processes.lock_holders_outside().get((status.st_dev, status.st_ino))
            return None if pid is None else Life(None, f"process {pid} outside of this nest holds its lock")
        process = processes.get(pid)
        if process is None:
            return Life(None, f"its lock is held by process {pid}, which cannot be looked at from here")
        if not is_program(process, "codex"):
            reason = f"its lock is held by process {pid}, which is not shown to be Codex"
            return Life(None, reason, process.pid, process.start_time)
        return self._life(session, process, processes, holders)

    def _life(self, session: str, process: Process, processes: Processes, holders: dict[int, int]) -> Life:
        holders[process.pid] = process.start_time
        life = living(process)
        if "app-server" in process.argv:
            life = replace(
                life,
                pid=None,
                start_time=None,
                reason=f"open in a server that Codex's windows share (process {process.pid})",
            )
        rollout = self._rollout(session)
        if rollout is None:
            return life if self._begun(session, process) else replace(life, turn=Turn.DONE)
        if rollout.turn_at is not None and rollout.turn_at.timestamp() * 1e9 + _SLACK_NS < began_ns(process):
            # The one that began this turn is gone; who has it open now waits for a prompt.
            return replace(life, turn=Turn.DONE, activity="")
        if rollout.escalated and rollout.turn is Turn.WORKING and not _runs(session, process, processes):
            return replace(life, turn=Turn.WAITING, activity="waiting for permission")
        return life

    def _begun(self, session: str, process: Process) -> bool:
        """Whether there is something of a conversation, which cannot be read. Where nothing is, its window
        waits for the first prompt."""
        if session in self._index.entries:
            return True
        names = (rollouts.named(path) for path in process.open_files)
        return any(name is not None and name[0] == session for name in names)

    # ---- transcript -------------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """Its last messages, read from the end."""
        rollout = self._rollout(found.id)
        if rollout is None:
            raise NotFound(
                "transcript_missing",
                f"there is no readable rollout of {found.id}",
                hint="look again with --refresh",
                fields={"agent_session": found.id},
            )
        try:
            back = _Backwards.packed(rollout.path) if rollout.compressed else _Backwards.plain(rollout.path)
            last: list[Message] = []
            more = False
            for message in rollouts.messages(back):
                if len(last) == tail:
                    more = True
                    break
                last.append(message)
        except OSError as error:
            raise NotFound(
                "transcript_missing",
                f"the rollout of {found.id} cannot be read: {error.strerror}",
                hint="Codex compressed it: resume it once"
                if rollout.compressed
                else "look again with --refresh",
                fields={"agent_session": found.id, "path": rollout.path},
            ) from error
        problems: tuple[Problem, ...] = ()
        if back.skipped:
            problems = (files.malformed(self.name, rollout.path, "some lines of it are too long to be read"),)
        return Transcript(tuple(reversed(last)), more or back.cut, problems)

    # ---- starting ---------------------------------------------------------------------------

    def launch(self, wish: Wish) -> Plan:
        """`codex exec -` with the prompt on stdin, or the window with a prompt."""
        if wish.print:
            options = ("--json", "--skip-git-repo-check", *_model(wish))
            input = prompt_input(wish.prompt)
            return Plan(("codex", "exec", *options, "-"), input=input, learn="stdout")
        return Plan(("codex", "--no-daemon", *_model(wish), *_word(wish)), learn="files")

    def resume(self, found: Found, wish: Wish) -> Plan:
        """Go on with one, as ``launch``."""
        if not rollouts.is_id(found.id):
            raise Unsupported(
                "adapter_cannot",
                f"{found.id!r} is no id of Codex's",
                hint="wait until Codex has told the conversation's own id",
                fields={"agent_session": found.id},
            )
        if found.native.get("archived"):
            raise Unsupported(
                "adapter_cannot",
                f"Codex resumes no archived conversation, and {found.id} is one",
                hint=f"run: codex unarchive {found.id}",
                fields={"agent_session": found.id},
            )
        if wish.print:
            options = ("--json", "--skip-git-repo-check", *_model(wish))
            input = prompt_input(wish.prompt)
            return Plan(("codex", "exec", "resume", *options, found.id, "-"), input=input, id=found.id)
        folder = ("-C", wish.cwd) if wish.cwd else ()
        options = ("--no-daemon", *folder, *_model(wish))
        return Plan(("codex", "resume", *options, found.id, *_word(wish)), id=found.id)

    def identify(self, line: str) -> str | None:
        """The id in the line that `codex exec --json` begins with."""
        told = decoded(_STARTED, line.encode("utf-8", "replace"))
        if told is None or told.type != "thread.started" or not rollouts.is_id(told.thread_id):
            return None
        return told.thread_id

    def version(self, path: str) -> str:
        """From the package that the program lies in."""
        folder = os.path.dirname(os.path.realpath(path))
        for name in ("package.json", "codex-package.json"):
            package = read_package(os.path.join(os.path.dirname(folder), name))
            if package is not None and package.version:
                return package.version[:VERSION_MAX]
        # Packages of other kinds have their version in the path (/opt/homebrew/Cellar/codex/0.169.0/bin).
        match = re.search(r"/codex/(\d+\.\d+\.\d+[^/]{0,32})/", folder + "/")
        return match[1] if match else ""


class _Backwards:
    """Lines of a file from its end to its beginning; ``cut`` where it was left before the beginning."""

    def __init__(self, size: int, read: Callable[[int, int], bytes], *, cut: bool = False) -> None:
        self._size = size
        # So many bytes before an offset.
        self._read = read
        self.cut = cut
        self.skipped = False

    @classmethod
    def plain(cls, path: str) -> _Backwards:
        """Of a file as it is. Raises OSError."""
        return cls(os.stat(path).st_size, lambda end, length: files.read_back(path, end, length))

    @classmethod
    def packed(cls, path: str) -> _Backwards:
        """Of one that is compressed. Raises OSError."""
        data, whole = unpacked_end(path, _BACK)
        return cls(len(data), lambda end, length: data[end - length : end], cut=not whole)

    def __iter__(self) -> Iterator[bytes]:
        for number, line in enumerate(self._lines()):
            if number == files.LINES_MAX:
                self.cut = True
                return
            yield line

    def _lines(self) -> Iterator[bytes]:
        end, rest, dropping = self._size, b"", False
        floor = max(0, self._size - _BACK)
        while end > floor:
            length = min(_BLOCK, end - floor)
            block = self._read(end, length)
            end -= length
            first, *others = block.split(b"\n")
            if not others:
                rest = b"" if dropping else first + rest
            else:
                yield b"" if dropping else others[-1] + rest
                yield from reversed(others[:-1])
                rest, dropping = first, False
            if len(rest) > files.LINE_MAX:
                rest, dropping, self.skipped = b"", True, True
        if floor:
            self.cut = True
        elif not dropping:
            yield rest


def _below(folder: str, depth: int, closed: dict[str, OSError]) -> Iterator[str]:
    """Rollouts in a folder, and so many levels below it. What is not there has none, nor has what cannot be
    listed, which is ``closed``."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        closed[folder] = error
        return
    for entry in entries:
        if rollouts.named(entry.path):
            yield entry.path
        elif depth and os.path.isdir(entry.path):
            yield from _below(entry.path, depth - 1, closed)


def _runs(session: str, process: Process, processes: Processes) -> bool:
    """Whether a command that the conversation asked for is running."""
    return any(
        other.parent == process.pid and other.environment.get("CODEX_THREAD_ID", session) == session
        for other in processes.all()
    )


def _model(wish: Wish) -> tuple[str, ...]:
    return model_words(wish.model, _MODEL.fullmatch, "name it as Codex does, for example gpt-5", option="-m")


def _word(wish: Wish) -> tuple[str, ...]:
    """The prompt as a word of a command line, where nothing takes it for an option or a command."""
    return ("--", prompt_word(wish.prompt)) if wish.prompt else ()
