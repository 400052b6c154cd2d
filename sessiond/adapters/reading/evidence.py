"""What shows that a process has a conversation open: what it executes, marks it carries, when it began."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from sessiond.model.agent_session import MARKER, STOPPED, Found, Life, Turn
from sessiond.ports.discovery import Evidence, Possible, Process, Processes

# What programs put into the environment of the tools that they run, by their adapters' names: who carries it
# at its own start was started by such a program, and has every mark of that one from it.
HANDED_DOWN: Final[Mapping[str, str]] = {
    "claude-code": "CLAUDECODE",
    "codex": "CODEX_THREAD_ID",
    "gemini": "GEMINI_CLI",
    "opencode": "OPENCODE",
    "pi": "PI_CODING_AGENT",
    "pi-rust": "PI_CODING_AGENT",
}


def handed_down(process: Process, adapter: str) -> bool:
    """Whether another process of the adapter's program started it as a tool: our mark in its environment is
    then of that one."""
    name = HANDED_DOWN.get(adapter, "")
    return bool(name) and name in process.environment


_INTERPRETERS: Final = ("node", "bun", "deno", "python")
# What these programs are installed as: a script of another language only has the same name.
_SCRIPTS: Final = ("", ".js", ".cjs", ".mjs", ".ts")
# So many words of an interpreter's command line can name what it runs: it may be given options before.
_WORDS: Final = 6


def is_program(process: Process, word: str) -> bool:
    """Whether a process is shown to be a program, by what it is called, what it executes, or what its
    interpreter does: what files say of a pid may be meant to have somebody else's process ended."""
    name = process.exe.rpartition("/")[2]
    if process.comm.startswith(word) or name.startswith(word) or f"/{word}/" in process.exe:
        return True
    interpreted = name.startswith(_INTERPRETERS) or process.comm.startswith(_INTERPRETERS)
    return interpreted and any(word in each for each in process.argv[1:_WORDS])


def executes(process: Process, program: str) -> bool:
    """Whether a process runs a program of that name, by what it is called and executes; of an interpreter by
    the script that its command line names."""
    name = process.exe.rpartition("/")[2]
    if program in (process.comm, name):
        return True
    interpreted = process.comm.startswith(_INTERPRETERS) or name.startswith(_INTERPRETERS)
    if interpreted and any(_is_script(word, program) for word in _scripts(process.argv)):
        return True
    # Programs that are installed by version are known by what they were called by.
    return bool(process.argv) and process.argv[0].rpartition("/")[2] == program


def _scripts(argv: Sequence[str]) -> Iterator[str]:
    """Words that may be the script of an interpreter's command line: the first that is no option, and paths
    near it, since options may have taken the first."""
    given = [word for word in argv[1:_WORDS] if not word.startswith("-")]
    yield from given[:1]
    yield from (word for word in given[1:] if word.startswith("/"))


def _is_script(word: str, program: str) -> bool:
    stem, ending = os.path.splitext(word.rpartition("/")[2])
    return stem == program and ending in _SCRIPTS


def living(process: Process, turn: Turn | None = None, activity: str = "", reason: str = "") -> Life:
    """That this process has it open."""
    return Life(True, reason, process.pid, process.start_time, turn, activity)


def executing(processes: Processes, names: Collection[str]) -> Iterator[Process]:
    """Those whose name or file of execution is one of these, whatever their command line says."""
    for process in processes.all():
        if process.comm in names or process.exe.rpartition("/")[2] in names:
            yield process


def marked(process: Process) -> tuple[str, str]:
    """The adapter and the conversation that our mark in its environment names, or nothing twice. Who was
    started as another's tool has it from that one."""
    adapter, _, session = process.environment.get(MARKER, "").partition(":")
    return (adapter, session) if session else ("", "")


def began_ns(process: Process | Possible) -> int:
    """When a process began, by the clock that files are dated by; true to a hundredth of a second."""
    booted = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return booted + process.start_time * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))


def outside(program: str, process: Process, cwd: str | None = None) -> Possible:
    """That a process outside of our nest may have open what is in its folder, or in this one (empty: any)."""
    reason = (
        f"{program} (process {process.pid}) runs outside of this nest, and from inside it cannot be told "
        "what it has open"
    )
    return Possible(process.pid, process.start_time, process.cwd if cwd is None else cwd, reason)


def life_of(found: Found, evidence: Evidence) -> Life:
    """What evidence says of one conversation."""
    if found.id in evidence.lives:
        return evidence.lives[found.id]
    for each in evidence.possible:
        if not (each.cwd and found.cwd) or os.path.realpath(each.cwd) == os.path.realpath(found.cwd):
            return Life(None, each.reason, each.pid, each.start_time)
    return Life(None, evidence.unknown) if evidence.unknown else STOPPED
