"""Pi: its session files, and the processes that can have one of them open.

Pi holds no lock and keeps no register, and it wipes its command line. A process names its conversation only
by our own mark in its environment, or by what it gives to a tool that runs. Any other may have any
conversation open, also of another folder: these are told as possible.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from sessiond.adapters.pi.files import ID_MAX, Header, Row, first_header, messages_of, read_row
from sessiond.adapters.reading.ends import malformed, read_small, unreadable
from sessiond.adapters.reading.evidence import (
    began_ns,
    executes,
    handed_down,
    life_of,
    living,
    marked,
    outside,
)
from sessiond.adapters.reading.objects import decoded_file
from sessiond.adapters.reading.packages import packaged_version
from sessiond.adapters.reading.stamps import Stamps
from sessiond.adapters.reading.transcripts import last_messages
from sessiond.adapters.starting import model_words, plain, prompt_input, prompt_word
from sessiond.errors import NotFound
from sessiond.model.agent_session import Found, Life, Plan, Problem, Transcript, Wish
from sessiond.ports.discovery import (
    Clear,
    Evidence,
    Gone,
    Possible,
    Process,
    Processes,
    Told,
    Watched,
)

# Its Rust port.
_PORT: Final = "pi-rust"
# What runs Pi: its own file of execution, or an interpreter that it renames its process in.
_INTERPRETERS: Final = {"node", "nodejs", "bun", "deno"}
_NAMES: Final = {"pi", "pi-rpc", _PORT}
# Names of the adapters that share the tree.
_BOTH: Final = ("pi", _PORT)
_PACKAGE: Final = "pi-coding-agent"
_FILE_NAME: Final = re.compile(r"[^_]*_(.+)\.jsonl")
# The clock of file systems goes in steps, and start times are counted in hundredths of a second.
_SLACK_NS: Final = 1_000_000_000


class _Settings(msgspec.Struct):
    sessionDir: str = ""


_SETTINGS: Final = msgspec.json.Decoder(_Settings)


class Adapter:
    """Pi's conversations. Its Rust port shares the tree, and takes those whose header it wrote."""

    name = "pi"
    title = "Pi"
    program = "pi"
    verified = "0.87.1"
    abilities = frozenset({"launch", "print", "resume", "transcript", "choose-id", "model"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._tree, self._flat = _places(environment)
        self._kept: Stamps[Row] = Stamps()
        self._rows: dict[str, Row] = {}
        self._paths: dict[str, set[str]] = {}
        self._others: set[str] = set()
        self._told: dict[str, str] = {}
        self._closed: set[str] = set()
        # By process, what its last tool named: newer than our mark, which is of its start.
        self._went_on: dict[tuple[int, int], str] = {}
        # What was written since the last look at processes; who had a mark then, and what lived.
        self._written: set[str] = set()
        self._marks: set[tuple[int, int]] = set()
        self._lived: set[str] = set()
        # What one of those may have gone on to.
        self._doubted: dict[str, tuple[int, int]] = {}

    def watched(self) -> Sequence[Watched]:
        """The tree with a folder for each folder worked in, and the one folder of who asked for one."""
        flat = [Watched(self._flat, 0, (".jsonl",))] if self._flat else []
        return [Watched(self._tree, 1, (".jsonl",)), *flat]

    # ---- finding ------------------------------------------------------------------------------

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """Each file is read at its ends; of two with one id that which was written last is told."""
        if changed is None:
            yield from self._all()
            return
        paths: set[str] = set()
        closed: dict[str, OSError] = {}
        for path in changed:
            if path.endswith(".jsonl"):
                paths.add(path)
            else:
                paths.update(self._below(path, closed))
                paths.update(known for known in self._rows if known.startswith(path.rstrip("/") + "/"))
                yield from self._tell_closed(closed, path.rstrip("/"))
        paths = {path for path in paths if os.path.dirname(path) not in closed}
        ids: set[str] = set()
        for path in sorted(paths):
            before = self._rows.get(path)
            if before is not None:
                ids.add(before.found.id)
            row, problem = self._take(path)
            if row is not None:
                ids.add(row.found.id)
            if problem is not None:
                yield problem
            else:
                yield Clear(path)
        for session in sorted(ids):
            yield from self._tell(session)

    def _all(self) -> Iterator[Told]:
        """Every file. A row is told as soon as no other file can have its id by its name."""
        closed: dict[str, OSError] = {}
        paths = [*self._below(self._tree, closed), *(_files(self._flat, closed) if self._flat else ())]
        yield from self._tell_closed(closed, self._tree)
        for path in self._rows.keys() - set(paths):
            # What was known of what is in a closed folder stays.
            if self._tree not in closed and os.path.dirname(path) not in closed:
                self._drop(path)
        names = Counter(self._id_of(path) for path in paths)
        self._told.clear()
        for path in paths:
            row, problem = self._take(path)
            if problem is not None:
                yield problem
            if row is None:
                continue
            session = row.found.id
            if session not in self._told and names[session] == 1 and self._id_of(path) == session:
                self._told[session] = path
                yield row.found
        for session in sorted(self._paths.keys()):
            same = self._paths[session]
            if self._told.get(session) not in same or len(same) > 1:
                yield from self._tell(session)
        self._kept.only({*paths, *self._rows})

    def _tell_closed(self, closed: Mapping[str, OSError], below: str) -> Iterator[Told]:
        """Folders that cannot be listed, and those that can be again."""
        opened = {folder for folder in self._closed - closed.keys() if f"{folder}/".startswith(f"{below}/")}
        self._closed = (self._closed | closed.keys()) - opened
        for folder, error in closed.items():
            yield unreadable(self.name, folder, error)
        for folder in opened:
            yield Clear(folder)

    def mine(self, header: Header) -> bool:
        """Whether a conversation is this program's. A header of the Rust port names the model; Pi's own did
        so only before its headers had a version."""
        return not header.of_port

    def _take(self, path: str) -> tuple[Row | None, Problem | None]:
        """Read one file. What was read of it before stays where it cannot be read any more."""
        before = self._rows.get(path)
        row, problem, gone = self._read(path)
        if row is None and not gone and problem is not None:
            return self._rows.get(path), problem
        self._drop(path)
        if row is not None:
            self._rows[path] = row
            self._paths.setdefault(row.found.id, set()).add(path)
            if before is None or before.mtime_ns != row.mtime_ns:
                self._written.add(row.found.id)
        return row, problem

    def _drop(self, path: str) -> None:
        before = self._rows.pop(path, None)
        if before is not None:
            self._paths[before.found.id].discard(path)
            if not self._paths[before.found.id]:
                del self._paths[before.found.id]

    def _tell(self, session: str) -> Iterator[Told]:
        """The one of its files that was written last, and trouble of the others."""
        same = self._paths.get(session)
        if not same:
            if self._told.pop(session, None) is not None:
                yield Gone(session)
            return
        latest = max(same, key=lambda path: (self._rows[path].mtime_ns, path))
        told = self._told.get(session)
        self._told[session] = latest
        yield self._rows[latest].found
        for path in sorted(same - {latest}):
            reason = f"its id {session} is that of {latest} too, which was written later"
            yield malformed(self.name, path, reason)
        if told != latest and len(same) > 1 and self._rows[latest].problem is None:
            yield Clear(latest)

    def _read(self, path: str) -> tuple[Row | None, Problem | None, bool]:
        """Its row, its trouble, and whether it is gone, or somebody else's."""
        try:
            kept = self._kept.get(path) or self._reread(path)
        except OSError as error:
            self._kept.forget(path)
            if isinstance(error, FileNotFoundError) and not os.path.islink(path):
                return None, None, True
            return None, unreadable(self.name, path, error), False
        if kept is None and path in self._rows:
            return None, malformed(self.name, path, "nothing is left of what was in it"), False
        if kept is None:
            return None, None, True
        if isinstance(kept, Problem):
            return None, kept, False
        if not self.mine(kept.header):
            self._others.add(kept.found.id)
            return None, None, True
        return kept, kept.problem, False

    def _reread(self, path: str) -> Row | Problem | None:
        row = read_row(self.name, path, self._id_of)
        if isinstance(row, Row):
            self._kept.put(path, row.stamp, row)
        return row

    def _id_of(self, path: str) -> str:
        """Id of the conversation in a file that another names as its parent."""
        known = self._rows.get(path)
        if known is not None:
            return known.found.id
        name = _FILE_NAME.fullmatch(os.path.basename(path))
        return name[1][:ID_MAX] if name else ""

    def _below(self, folder: str, closed: dict[str, OSError]) -> Iterator[str]:
        if folder == self._tree:
            for name in _names(folder, closed):
                yield from _files(os.path.join(folder, name), closed)
        elif os.path.dirname(folder) == self._tree or folder == self._flat:
            yield from _files(folder, closed)

    # ---- evidence -----------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """A tool that runs carries the id; our mark does, in a process that no other Pi started, until one of
        its tools named another: it was told to go on with that (`/new`, `/resume`). Any other
        process may have open what lies in its folder, or was written since it began."""
        running = {process.pid: process for process in processes.all() if self._runs(process)}
        lives: dict[str, Life] = {}
        shown: set[int] = set()
        if running:
            for process in processes.all():
                parent = running.get(process.parent)
                if parent is None:
                    continue
                session = process.environment.get("PI_SESSION_ID", "")
                if session and session != parent.environment.get("PI_SESSION_ID"):
                    shown.add(parent.pid)
                    self._went_on[parent.pid, parent.start_time] = session
                    if self._tells(session, parent):
                        lives[session] = living(parent)
        possible = []
        for process in running.values():
            if process.pid in shown:
                continue
            session = self._marked(process)
            if session:
                session = self._went_on.get((process.pid, process.start_time), session)
                if self._tells(session, process):
                    lives.setdefault(session, living(process))
                continue
            possible.append(process)
        self._went_on = {
            pair: session
            for pair, session in self._went_on.items()
            if pair[0] in running and running[pair[0]].start_time == pair[1]
        }
        for process in possible:
            self._may_have(process, lives)
        self._doubt([one for pid, one in running.items() if pid not in shown and self._marked(one)], lives)
        # Either program may have any of the tree's open; a process itself is told by its own adapter.
        others = [pid for pid, process in running.items() if executes(process, _PORT) is (self.name != _PORT)]
        abroad = [outside("pi", process) for process in processes.outside() if self._runs(process)]
        return Evidence(lives, [_possible(process) for process in possible], spare=others, outside=abroad)

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """From the same look."""
        return life_of(found, self.evidence(processes))

    def _doubt(self, marked_ones: Sequence[Process], lives: dict[str, Life]) -> None:
        """What nobody was seen to have open was written while a process with a mark was there: it may have
        been told to go on with that, which its mark does not say."""
        now = {(one.pid, one.start_time): one for one in marked_ones}
        for session in self._written - lives.keys() - self._lived:
            cwds = {self._rows[path].found.cwd for path in self._paths.get(session, ())}
            for pair in now.keys() & self._marks:
                if now[pair].cwd in cwds:
                    self._doubted[session] = pair
        self._written.clear()
        self._marks, self._lived = set(now), set(lives)
        self._doubted = {session: pair for session, pair in self._doubted.items() if pair in now}
        for session, (pid, _) in self._doubted.items():
            reason = f"written while pi (pid {pid}) worked in its folder, which may have gone on to it"
            lives.setdefault(session, Life(None, reason))

    def _may_have(self, process: Process, lives: dict[str, Life]) -> None:
        """Conversations of other folders: resumed by their file they leave the process in its own folder.
        What was not written since it began is not called possible: else each Pi would put all in doubt."""
        began = began_ns(process) - _SLACK_NS
        for row in self._rows.values():
            if row.found.cwd != process.cwd and row.mtime_ns >= began and row.found.id not in lives:
                reason = (
                    f"written since pi (pid {process.pid}) began, which works in {process.cwd or 'a folder'} "
                    "but can have conversations of other folders open"
                )
                lives[row.found.id] = Life(None, reason, process.pid, process.start_time)

    def _runs(self, process: Process) -> bool:
        """Whether it is Pi (or its port: they read each other's files) on this tree."""
        if process.comm in _NAMES:
            program = os.path.basename(process.exe).removesuffix(" (deleted)")
            if program and program not in _INTERPRETERS and not program.startswith("pi"):
                return False
        elif not (process.comm in _INTERPRETERS and _executes_package(process.argv)):
            return False
        environment = process.environment
        return not environment.get("HOME") or self._tree == _places(environment)[0]

    def _marked(self, process: Process) -> str:
        """Id that our mark names; one that another agent handed down says nothing of this process."""
        adapter, session = marked(process)
        return session if adapter in _BOTH and not handed_down(process, adapter) else ""

    def _tells(self, session: str, process: Process) -> bool:
        """Whether a conversation is this adapter's: the port shares the tree, and one of both tells of it.
        What is in no file yet is of whom our mark names, or Pi's."""
        if session in self._paths or session in self._others:
            return session in self._paths
        named, _ = marked(process)
        return self.name == (named if named in _BOTH else "pi")

    # ---- reading, starting ----------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """Read backwards from its end."""
        return last_messages(found, self._path(found), tail, messages_of)

    def launch(self, wish: Wish) -> Plan:
        """The id is the caller's; a prompt goes to standard input in print mode, so that it may be large."""
        words = ["--session-id", wish.id] if wish.id and "choose-id" in self.abilities else []
        plan = self._plan(wish, words)
        return replace(plan, id=wish.id, learn="") if words else plan

    def resume(self, found: Found, wish: Wish) -> Plan:
        """By its file: by its id Pi asks a question where it runs in another folder, and ends without a word
        where nobody answers."""
        return replace(self._plan(wish, ["--session", self._path(found)]), id=found.id, learn="")

    def identify(self, line: str) -> str | None:
        """The first line of its output is the header."""
        header = first_header(line.encode("utf-8", "replace"))
        return header.id if header and header.id else None

    def version(self, path: str) -> str:
        """From the package that the program is in."""
        return packaged_version(path, lambda name: name.endswith(_PACKAGE))

    def _path(self, found: Found) -> str:
        path = self._told.get(found.id) or found.native.get("path", "")
        if not path or not os.path.isfile(path):
            raise NotFound(
                "transcript_missing",
                f"the file of {self.name} session {found.id} is gone",
                hint="sessionctl discovered --refresh shows what there is",
                fields={"id": found.id, "path": path},
            )
        return path

    def _plan(self, wish: Wish, words: Sequence[str]) -> Plan:
        hint = "`pi --list-models` shows them; PROVIDER/MODEL is a full name"
        argv = (*(wish.command or (self.program,)), *words, *model_words(wish.model, plain, hint))
        if wish.print:
            input = prompt_input(wish.prompt)
            return Plan((*argv, "-p", "--mode", "json"), input=input, learn="stdout")
        # A word that begins with @ would be taken for the name of a file.
        before = " " if wish.prompt.startswith("@") else ""
        prompt = ("--", prompt_word(wish.prompt, before)) if wish.prompt else ()
        return Plan((*argv, *prompt), learn="files")


def _places(environment: Mapping[str, str]) -> tuple[str, str]:
    """The tree of session files, and a folder that takes all of them where one is set."""
    home = environment.get("HOME") or os.path.expanduser("~")
    agent = _expand(environment.get("PI_CODING_AGENT_DIR", ""), home) or os.path.join(home, ".pi", "agent")
    flat = _expand(environment.get("PI_CODING_AGENT_SESSION_DIR", ""), home)
    if not flat:
        try:
            settings = decoded_file(_SETTINGS, read_small(os.path.join(agent, "settings.json")))
        except OSError:
            settings = None
        # What is not there or broken is not for us to judge: Pi itself says what is wrong with it.
        flat = _expand(settings.sessionDir, home) if settings else ""
    return os.path.join(os.path.abspath(agent), "sessions"), flat


def _expand(path: str, home: str) -> str:
    """An absolute path with the home folder put in; empty where it is relative to who knows what."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    return os.path.normpath(path) if path.startswith("/") and "\0" not in path else ""


def _names(folder: str, closed: dict[str, OSError]) -> Sequence[str]:
    """What is in a folder; ``closed`` takes one that cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        closed[folder] = error
        return ()


def _files(folder: str, closed: dict[str, OSError]) -> Iterator[str]:
    for name in _names(folder, closed):
        if name.endswith(".jsonl"):
            yield os.path.join(folder, name)


def _possible(process: Process) -> Possible:
    reason = f"pi (pid {process.pid}) works in this folder and does not tell which conversation it has open"
    return Possible(process.pid, process.start_time, process.cwd, reason)


def _executes_package(argv: Sequence[str]) -> bool:
    """Whether an interpreter runs Pi and has not named itself so yet."""
    script = next((word for word in argv[1:] if not word.startswith("-")), "")
    return os.path.basename(script) == "pi" or f"/{_PACKAGE}/" in script
