"""Claude Code: its transcripts tell what was said, its registry of processes who lives.

A process is known by its pid and its start time, which the registry holds; `/clear` and `/branch` change the
session under it. Subagents live in the process of the conversation that they are of; what one writes while
that process is watched shows that it does, when it wrote before does not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from sessiond.adapters.claude_code import starting, transcript
from sessiond.adapters.claude_code.finding import AGENT, Transcripts, below
from sessiond.adapters.claude_code.registry import Entry, Registry
from sessiond.adapters.reading.evidence import executing, outside
from sessiond.adapters.reading.packages import read_package
from sessiond.model.agent_session import STOPPED, Found, Life, Plan, Problem, Transcript, Turn, Wish
from sessiond.ports.discovery import Clear, Evidence, Gone, Possible, Process, Processes, Told, Watched

# The oldest version known to keep the registry: what a process of an older one has open cannot be told.
_REGISTERS: Final = (2, 1, 197)
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?")
# Commands that begin no conversation.
_COMMANDS: Final = frozenset(
    {"mcp", "doctor", "update", "install", "plugin", "setup-token", "auth", "config"}
)
_PACKAGE: Final = re.compile(r"@anthropic-ai/claude-code(?:-[a-z0-9-]+)?")


class Adapter:
    """See AgentAdapter."""

    name = "claude-code"
    title = "Claude Code"
    program = starting.PROGRAM
    verified = "2.1.329"
    abilities = frozenset({"launch", "print", "resume", "transcript", "choose-id", "model", "permission"})

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._home = _config_folder(environment) or os.path.expanduser("~/.claude")
        self._transcripts = Transcripts(self.name, os.path.join(self._home, "projects"))
        self._registry = Registry(self.name, os.path.join(self._home, "sessions"))
        self._registered: dict[str, Entry] = {}
        self._reported: dict[str, Problem] = {}
        self._versions: dict[str, str] = {}
        # By conversation, the process that had it open at the last look; by subagent, the one it was seen to
        # write in.
        self._open_in: dict[str, tuple[int, int]] = {}
        self._wrote_in: dict[str, tuple[int, int]] = {}

    def watched(self) -> Sequence[Watched]:
        return (
            # A project, its conversations with subagents, the folder of these, and of their workflows.
            Watched(self._transcripts.folder, 5, (".jsonl", ".meta.json")),
            Watched(self._registry.folder, 0, (".json",)),
        )

    # ---- what there is

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        if changed is None or any(self._above(path) for path in changed):
            yield from self._all(whole=changed is None)
            return
        if any(below(path, self._registry.folder) for path in changed):
            yield from self._look_at_registry()
        for told in self._transcripts.look_at(changed):
            yield self._lost(told) if isinstance(told, str) else told

    def _above(self, path: str) -> bool:
        """Whether both places may have come or gone with it."""
        return below(self._home, path)

    def _all(self, *, whole: bool) -> Iterator[Told]:
        before = set(self._transcripts.paths) | set(self._registered)
        cleared = set(self._reported)
        self._registry.look()
        self._reported = dict(self._registry.problems)
        yield from self._reported.values()
        yield from self._transcripts.look()
        self._registered = dict(self._registry.sessions())
        rows = self._transcripts.rows
        yield from (_row_of(entry) for id, entry in self._registered.items() if id not in rows)
        if not whole:
            yield from (Clear(path) for path in cleared - self._reported.keys())
            yield from (Gone(id) for id in before - set(self._transcripts.paths) - set(self._registered))

    def _look_at_registry(self) -> Iterator[Told]:
        """Conversations without a transcript are known by it alone."""
        self._registry.look()
        reported, self._reported = self._reported, dict(self._registry.problems)
        yield from (Clear(path) for path in reported if path not in self._reported)
        yield from (each for path, each in self._reported.items() if reported.get(path) != each)
        before, self._registered = self._registered, dict(self._registry.sessions())
        rows = self._transcripts.rows
        for id, entry in self._registered.items():
            if id not in rows and before.get(id) != entry:
                yield _row_of(entry)
        yield from (Gone(id) for id in before if id not in self._registered and id not in rows)

    def _lost(self, id: str) -> Told:
        """What remains of a conversation whose transcript is gone."""
        entry = self._registered.get(id)
        return Gone(id) if entry is None else _row_of(entry)

    # ---- who lives

    def evidence(self, processes: Processes) -> Evidence:
        self._registry.look()
        lives = self._registry.lives(processes)
        self._watch_subagents(lives)
        for found in self._transcripts.subagents(lives.keys()):
            lives[found.id] = self._life_in(found, lives[found.parent])
        possible = (*self._registry.unread(processes), *self._unregistered(processes))
        return Evidence(
            lives,
            possible,
            self._registry.unknown(),
            spare=list(self._spare(processes)),
            # The registry tells of those who keep it.
            outside=[outside(self.program, one) for one in processes.outside() if self._is_older(one)],
        )

    def is_alive(self, found: Found, processes: Processes) -> Life:
        self._registry.look()
        lives = self._registry.lives(processes)
        if found.id in lives:
            return lives[found.id]
        if found.id.startswith(AGENT) and found.parent in lives:
            return self._life_in(found, lives[found.parent])
        for possible in (*self._registry.unread(processes), *self._unregistered(processes)):
            if not possible.cwd or not found.cwd or possible.cwd == found.cwd:
                return Life(None, possible.reason, possible.pid, possible.start_time)
        unknown = self._registry.unknown()
        return Life(None, unknown) if unknown else STOPPED

    def _watch_subagents(self, lives: Mapping[str, Life]) -> None:
        """What was written while one process had the conversation open, at the last look and now, was written
        in it."""
        open_in = {
            id: (life.pid, life.start_time)
            for id, life in lives.items()
            if life.alive and life.pid is not None and life.start_time is not None
        }
        for id in self._transcripts.written:
            row = self._transcripts.rows.get(id)
            parent = row.found.parent if row else ""
            if parent in open_in and open_in[parent] == self._open_in.get(parent):
                self._wrote_in[id] = open_in[parent]
        self._transcripts.written.clear()
        self._open_in = open_in
        self._wrote_in = {id: pair for id, pair in self._wrote_in.items() if pair in open_in.values()}

    def _life_in(self, found: Found, parent: Life) -> Life:
        """Whether a subagent works in the process of its conversation."""
        if parent.alive is not True:
            return parent
        if found.native.get("finished") == "true" or found.turn is Turn.DONE:
            return STOPPED
        if (parent.pid, parent.start_time) != self._wrote_in.get(found.id):
            return Life(None, f"process {parent.pid} has its conversation open and may still run it")
        turn = Turn.WORKING if found.turn is Turn.UNKNOWN else None
        return Life(True, "", parent.pid, parent.start_time, turn, mark=parent.mark)

    def _unregistered(self, processes: Processes) -> Iterator[Possible]:
        """Processes of versions that kept no registry."""
        known = {entry.pid for entry in self._registry.entries.values()}
        for process in processes.all():
            if not process.comm.startswith("claude") or process.pid in known:
                continue
            version = self._version_of(process.exe)
            if version and _numbers(version) >= _REGISTERS:
                # It has none open, not yet, or another folder of settings.
                continue
            if self._is_of_others(process):
                continue
            yield Possible(
                process.pid,
                process.start_time,
                process.cwd,
                f"process {process.pid} is Claude Code {version or 'of an unknown version'},"
                " which does not tell what it has open",
            )

    def _is_older(self, process: Process) -> bool:
        """Whether it is of a version that is known to keep no registry, for files of ours."""
        version = self._version_of(process.exe) if process.comm.startswith("claude") and process.exe else ""
        return bool(version) and _numbers(version) < _REGISTERS and not self._is_of_others(process)

    def _spare(self, processes: Processes) -> Iterator[int]:
        """Processes that say of themselves that they have none, and those of commands that have none."""
        yield from (entry.pid for entry in self._registry.entries.values() if entry.spare)
        for process in executing(processes, {"claude"}):
            if not _COMMANDS.isdisjoint(process.argv[1:2]):
                yield process.pid

    def _is_of_others(self, process: Process) -> bool:
        folder = _config_folder(process.environment)
        return bool(folder) and os.path.realpath(folder) != os.path.realpath(self._home)

    def _version_of(self, exe: str) -> str:
        if exe not in self._versions:
            self._versions[exe] = self.version(exe)
        return self._versions[exe]

    # ---- what one does with them

    def transcript(self, found: Found, tail: int) -> Transcript:
        path = self._transcripts.paths.get(found.id) or found.native.get("transcript", "")
        if not path:
            raise transcript.missing(self._transcripts.folder)
        return transcript.read_end(self.name, path, tail)

    def launch(self, wish: Wish) -> Plan:
        return starting.plan_launch(wish)

    def resume(self, found: Found, wish: Wish) -> Plan:
        return starting.plan_resume(found.id, found.parent, wish)

    def identify(self, line: str) -> str | None:
        return starting.identify(line)

    def version(self, path: str) -> str:
        """From the package that the program is in, or the name that its own installer gives its file."""
        real = os.path.realpath(path)
        name = os.path.basename(real)
        if _VERSION.fullmatch(name):
            return name
        folder = os.path.dirname(real)
        for _ in range(3):
            version = _package_version(os.path.join(folder, "package.json"))
            if version:
                return version
            folder = os.path.dirname(folder)
        return ""


def _row_of(entry: Entry) -> Found:
    """A conversation of which nothing was written yet."""
    native = {
        name: value
        for name, value in (
            ("version", entry.version),
            ("entrypoint", entry.entrypoint),
            ("kind", entry.kind),
        )
        if value and value.isprintable()
    }
    return Found(
        Adapter.name,
        entry.session,
        cwd=entry.cwd,
        title=entry.name if entry.named else "",
        started_at=entry.started_at,
        updated_at=entry.updated_at or entry.started_at,
        turn=Turn.UNKNOWN,
        native=native,
    )


def _config_folder(environment: Mapping[str, str]) -> str:
    """Where the program of that environment keeps its files; empty where it does not say."""
    chosen = environment.get("CLAUDE_CONFIG_DIR", "")
    home = environment.get("HOME", "")
    return os.path.normpath(chosen or os.path.join(home, ".claude")) if chosen or home else ""


def _package_version(path: str) -> str:
    package = read_package(path)
    if package is None or not (_PACKAGE.fullmatch(package.name) and _VERSION.fullmatch(package.version)):
        return ""
    return package.version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.split(r"[-+]", version)[0].split("."))
