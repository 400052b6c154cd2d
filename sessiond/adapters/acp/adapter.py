"""Conversations that our own runner holds with programs that speak the Agent Client Protocol.

The runner's journals are all there is to find: what such programs are told by others (an editor) is known to
the adapters of the programs themselves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from sessiond.adapters.acp.journal import ENDING, VERSION, Line, decode, folder, good_id
from sessiond.adapters.reading.ends import (
    Ends,
    Stamp,
    head_lines,
    lines,
    malformed,
    read_ends,
    unreadable,
)
from sessiond.adapters.reading.evidence import living
from sessiond.adapters.reading.stamps import Stamps
from sessiond.adapters.reading.texts import (
    TOOL_MAX,
    absolute,
    as_amount,
    as_count,
    as_text,
    cut,
    from_iso,
    from_seconds,
    shorten,
)
from sessiond.adapters.reading.transcripts import last_messages
from sessiond.adapters.starting import model_words, plain, prompt_input, prompt_word
from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import (
    INNER,
    STOPPED,
    Found,
    Life,
    Message,
    Plan,
    Problem,
    ToolUse,
    Transcript,
    Turn,
    Wish,
)
from sessiond.paths import Paths
from sessiond.ports.discovery import Clear, Evidence, Gone, Processes, Told, Watched

# Programs, and the adapters that find the conversations of these under the id that they tell.
_KEEPERS: Final[Mapping[str, str]] = {
    "opencode": "opencode",
    "gemini": "gemini",
    "claude-agent-acp": "claude-code",
    "claude-code-acp": "claude-code",
    "codex-acp": "codex",
}
# So many words of a command line can name the program: it may be run by another.
_PROGRAM_WORDS: Final = 4

# The runner by its command line: an interpreter's options and the program's name go before.
_RUNNER: Final = "acp"
_RUNNER_WORDS: Final = 8

_Row = tuple[Found, Stamp, Problem | None]


class Adapter:
    """The journals of one user."""

    name = "acp"
    title = "Agent Client Protocol"
    program = ""
    verified = "OpenCode 1.18.33"
    abilities = frozenset({"launch", "print", "resume", "transcript", "choose-id", "model", "permission"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._folder = str(folder(environment))
        self._runner = _runner(environment)
        self._kept: Stamps[_Row] = Stamps()
        self._rows: dict[str, _Row] = {}

    def watched(self) -> Sequence[Watched]:
        """The journals' folder."""
        return [Watched(self._folder, 0, (ENDING,))]

    # ---- finding ------------------------------------------------------------------------------

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """A journal is named by its conversation; what was read of it stays where it cannot be read."""
        if changed is None or self._folder in changed:
            try:
                names = sorted(os.listdir(self._folder))
            except FileNotFoundError:
                names = []
            paths = [os.path.join(self._folder, name) for name in names if name.endswith(ENDING)]
            self._kept.only(set(paths))
            if changed is None:
                for path in self._rows.keys() - set(paths):
                    del self._rows[path]
            else:
                paths = sorted({*paths, *self._rows})
        else:
            paths = sorted(
                path for path in changed if path.endswith(ENDING) and os.path.dirname(path) == self._folder
            )
        for path in paths:
            yield from self._look(path)

    def _look(self, path: str) -> Iterator[Told]:
        try:
            read: _Row | Problem = self._kept.get(path) or self._read(path)
        except OSError as error:
            self._kept.forget(path)
            if isinstance(error, FileNotFoundError) and not os.path.islink(path):
                if self._rows.pop(path, None) is not None:
                    yield Clear(path)
                    yield Gone(_id_of(path))
                return
            read = unreadable(self.name, path, error)
        if isinstance(read, Problem):
            yield read
        else:
            self._rows[path] = read
            yield read[2] or Clear(path)
        row = self._rows.get(path)
        if row is not None:
            yield row[0]

    def _read(self, path: str) -> _Row | Problem:
        ends = read_ends(path)
        row = self._row(path, ends)
        if not isinstance(row, Problem):
            self._kept.put(path, ends.stamp, row)
        return row

    def _row(self, path: str, ends: Ends) -> _Row | Problem:
        id = _id_of(path)
        head = head_lines(ends)
        header = decode(head[0]) if head else None
        if header is None or header.type != "session" or header.id != id or not good_id(id):
            reason = "it is empty" if not ends.size else "its first line is not that of a journal of its name"
            return malformed(self.name, path, reason)
        story = _Story()
        for number, line in enumerate(lines(ends), 1):
            story.take(line, last=number)
        if not ends.whole and story.first_after(len(head)):
            story.prompt = ""
        problem = None
        version = as_count(header.version)
        if version is not None and version > VERSION:
            reason = f"its format is {version}, and {VERSION} is the latest that is known here"
            problem = Problem(self.name, "format_newer", reason, path, current=True)
        elif story.broken:
            reason = f"{story.broken} lines of it cannot be read"
            problem = malformed(self.name, path, reason, current=True)
        whole = ends.whole and not story.broken and not story.lost
        listed = header.command if isinstance(header.command, list) else []
        command = [word for word in listed if isinstance(word, str)]
        native = {
            "path": path if len(path) <= 4096 else "",
            "session": story.session,
            "program": story.program,
            "command": shorten(" ".join(_shown(command))),
            INNER: _inner(command, story.session),
        }
        found = Found(
            adapter=self.name,
            id=id,
            cwd=absolute(header.cwd),
            model=story.model,
            title=story.title,
            first_prompt=story.prompt,
            last_prompt=story.last_prompt,
            started_at=from_iso(header.time),
            updated_at=story.updated_at or from_seconds(ends.mtime_ns / 1e9),
            ended_at=story.ended_at,
            tokens_in=story.tokens_in if whole else None,
            tokens_out=story.tokens_out if whole else None,
            cost_usd=story.cost if whole else None,
            turn=story.turn,
            activity=story.activity,
            native={name: cut(value, 4096)[0] for name, value in native.items() if value},
            source=path,
        )
        return found, ends.stamp, problem

    # ---- evidence -----------------------------------------------------------------------------

    def evidence(self, processes: Processes) -> Evidence:
        """Whose journal is locked lives."""
        holders = _by_inode(processes)
        lives = {}
        for path, (found, stamp, _) in self._rows.items():
            life = _held(processes, holders, path, stamp)
            if life is not None:
                lives[found.id] = life
        return Evidence(lives)

    def is_alive(self, found: Found, processes: Processes) -> Life:
        """From its own journal's lock."""
        path = os.path.join(self._folder, found.id + ENDING)
        row = self._rows.get(path)
        if row is None:
            return STOPPED
        return _held(processes, _by_inode(processes), path, row[1]) or STOPPED

    # ---- reading, starting ----------------------------------------------------------------------

    def transcript(self, found: Found, tail: int) -> Transcript:
        """From the journal's end; of one without end the last 16 MB."""
        path = os.path.join(self._folder, found.id + ENDING)
        return last_messages(found, path, tail, _messages)

    def launch(self, wish: Wish) -> Plan:
        """The runner with the program behind it."""
        if not wish.command:
            raise InvalidArgument(
                "command_missing",
                "there is no program to talk to",
                hint="give one that speaks the Agent Client Protocol: -- opencode acp",
            )
        words = ["--id", wish.id] if wish.id else []
        plan = self._plan(wish, words)
        return Plan((*plan.argv, "--", *wish.command), plan.environment, plan.input, wish.id, plan.learn)

    def resume(self, found: Found, wish: Wish) -> Plan:
        """The runner with the journal; the program is the one of before, unless another is wished."""
        self.transcript(found, 0)
        plan = self._plan(wish, ["--resume", found.id])
        command = ("--", *wish.command) if wish.command else ()
        return Plan((*plan.argv, *command), plan.environment, plan.input, found.id)

    def identify(self, line: str) -> str | None:
        """The first line of the runner's JSON."""
        told = decode(line.encode("utf-8", "replace"))
        id = as_text(told.id) if told is not None and told.type == "session" else ""
        return id if good_id(id) else None

    def version(self, path: str) -> str:
        """The programs are many."""
        return ""

    def _plan(self, wish: Wish, words: Sequence[str]) -> Plan:
        model = model_words(wish.model, plain, "use one that the program itself shows")
        argv = (*self._runner, "acp", *words, *model)
        if wish.print:
            # The id is chosen here unless it was before; the runner tells it in JSON alone.
            learn = "" if "--id" in words or "--resume" in words else "stdout"
            json = ("--json",) if learn else ()
            return Plan((*argv, "--print", *json), input=prompt_input(wish.prompt), learn=learn)
        prompt = (prompt_word(wish.prompt, "--prompt="),) if wish.prompt else ()
        return Plan((*argv, *prompt), learn="files")


class _Story:
    """What the lines of a journal tell in their order."""

    def __init__(self) -> None:
        self.prompt = self.last_prompt = self.title = self.model = self.activity = ""
        self.session = self.program = ""
        self.turn = Turn.UNKNOWN
        self.updated_at: datetime | None = None
        self.ended_at: datetime | None = None
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.cost: float | None = None
        self.lost = False
        self._broken = 0
        self._last_broken = False
        self._first_at = 0

    @property
    def broken(self) -> int:
        """Lines that cannot be read; the last one may still be being written."""
        return self._broken - self._last_broken

    def first_after(self, number: int) -> bool:
        """Whether the first prompt that was seen stands behind so many lines."""
        return self._first_at > number

    def take(self, raw: bytes, *, last: int) -> None:
        """The next line, and its number."""
        if not raw.strip():
            return
        line = decode(raw)
        self._last_broken = line is None
        if line is None:
            self._broken += 1
            return
        self.updated_at = from_iso(line.time) or self.updated_at
        self.ended_at = None
        if line.type == "opened":
            self.session = cut(shorten(as_text(line.session)))[0]
            self.program = cut(shorten(as_text(line.program)))[0]
            self.turn, self.activity = Turn.DONE, ""
        elif line.type == "prompt":
            self.last_prompt = shorten(as_text(line.text))
            if not self._first_at:
                self.prompt, self._first_at = self.last_prompt, last
            self.turn, self.activity = Turn.WORKING, "thinking"
        elif line.type == "answered":
            self.turn, self.activity = Turn.WORKING, "thinking"
        elif line.type in ("message", "result", "tool"):
            # Other tools may go on, and tell so, while somebody is asked.
            if self.turn is not Turn.WAITING:
                running = shorten(f"running {as_text(line.title) or 'a tool'}")
                self.turn, self.activity = Turn.WORKING, running if line.type == "tool" else "thinking"
        elif line.type == "asked":
            self.turn, self.activity = Turn.WAITING, "waiting for permission"
        elif line.type == "turn":
            self._turned(line)
        elif line.type == "title":
            self.title = shorten(as_text(line.title))
        elif line.type == "lost":
            self.lost = True
        elif line.type == "end":
            self.turn, self.activity = Turn.DONE, ""
            self.ended_at = self.updated_at
        if line.type in ("opened", "turn"):
            self.model = cut(shorten(as_text(line.model)))[0] or self.model

    def _turned(self, line: Line) -> None:
        self.turn, self.activity = Turn.DONE, ""
        for name in ("tokens_in", "tokens_out"):
            count = as_count(getattr(line, name))
            if count is not None:
                setattr(self, name, as_count((getattr(self, name) or 0) + count))
        # The program tells what all of it has cost until now.
        cost = as_amount(line.cost)
        self.cost = cost if cost is not None else self.cost


def _runner(environment: Mapping[str, str]) -> tuple[str, ...]:
    """This program: through the launcher, which an upgrade moves, or this interpreter where there is none."""
    launcher = str(Paths.from_environment(environment).launcher)
    return (launcher,) if os.access(launcher, os.X_OK) else (sys.executable, "-m", "sessiond")


def _shown(command: Sequence[str]) -> Sequence[str]:
    """The program in a command line: behind it, and in variables before it, there may be keys."""
    end = next((i for i, word in enumerate(command) if word.startswith("-") or "=" in word), len(command))
    return command[:end]


def _inner(command: Sequence[str], session: str) -> str:
    """`ADAPTER:ID` of the conversation as the program itself keeps it, where an adapter finds it there."""
    for word in command[:_PROGRAM_WORDS]:
        # A package may be named with its scope and its release.
        name = word.rpartition("/")[2].partition("@")[0]
        if name in _KEEPERS and session:
            return f"{_KEEPERS[name]}:{session}"
    return ""


def _id_of(path: str) -> str:
    return os.path.basename(path).removesuffix(ENDING)


def _by_inode(processes: Processes) -> Mapping[int, Sequence[tuple[int, int]]]:
    """Who holds locks: inode to devices and pids."""
    holders: dict[int, list[tuple[int, int]]] = {}
    for (device, inode), pid in processes.lock_holders().items():
        holders.setdefault(inode, []).append((device, pid))
    return holders


def _held(
    processes: Processes, holders: Mapping[int, Sequence[tuple[int, int]]], path: str, stamp: Stamp
) -> Life | None:
    """The life that a lock shows. Some file systems give a file another device than its lock: there the
    process must have the file open."""
    for device, pid in holders.get(stamp[1], ()):
        process = processes.get(pid)
        if process is None:
            if device == stamp[0]:
                return Life(None, f"its journal is locked by process {pid}, which cannot be seen from here")
            continue
        if device != stamp[0] and path not in process.open_files:
            continue
        if _RUNNER not in process.argv[1:_RUNNER_WORDS]:
            reason = f"its journal is locked by process {pid}, which is not shown to be its runner"
            return Life(None, reason, process.pid, process.start_time)
        return living(process)
    return None


def _messages(raw: bytes) -> Iterable[Message] | None:
    """What is said in a line; None where it is broken."""
    line = decode(raw)
    if line is None:
        return None
    message = _message(line)
    return () if message is None else (message,)


def _message(line: Line) -> Message | None:
    time = from_iso(line.time)
    if line.type == "prompt":
        text, was_cut = cut(as_text(line.text))
        return Message("user", text, time=time, cut=was_cut)
    if line.type == "message":
        text, was_cut = cut(as_text(line.text))
        thinking, thought_cut = cut(as_text(line.thinking))
        model = cut(shorten(as_text(line.model)))[0]
        return Message("assistant", text, thinking, time=time, model=model, cut=was_cut or thought_cut)
    if line.type in ("tool", "result"):
        called = line.type == "tool"
        content, was_cut = cut(as_text(line.input if called else line.output), TOOL_MAX)
        id, name = (cut(shorten(as_text(value)))[0] for value in (line.id, line.title))
        use = ToolUse(id, name, content, result=not called, failed=not called and line.status == "failed")
        return Message("assistant" if called else "tool", tools=(use,), time=time, cut=was_cut)
    if line.type == "turn" and as_text(line.text):
        return Message("system", cut(f"Error: {as_text(line.text)}")[0], time=time)
    if line.type == "answered":
        text = f"{as_text(line.title) or 'a tool'}: {as_text(line.status) or 'no answer'}"
        return Message("system", cut(shorten(text))[0], time=time)
    return None
