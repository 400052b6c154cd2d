"""What shows that a process has a conversation open: locks it holds, what it executes, marks it carries."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from sessiond.model.agent_session import Life, Turn
from sessiond.ports.discovery import Process, Processes

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


def living(process: Process, turn: Turn | None = None, activity: str = "", reason: str = "") -> Life:
    """That this process has it open."""
    return Life(True, reason, process.pid, process.start_time, turn, activity)


def lock_holder(processes: Processes, path: str) -> Process | None:
    """Who holds the flock of a file; None where nobody does, or the file is gone. Raises OSError."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    pid = processes.lock_holders().get((status.st_dev, status.st_ino))
    return None if pid is None else processes.get(pid)


def executing(processes: Processes, names: Collection[str]) -> Iterator[Process]:
    """Those whose name or file of execution is one of these, whatever their command line says."""
    for process in processes.all():
        if process.comm in names or process.exe.rpartition("/")[2] in names:
            yield process


def descends(processes: Processes, pid: int, from_pid: int) -> bool:
    """Whether a process is another's child, or a child of such."""
    seen: set[int] = set()
    while pid > 1 and pid not in seen:
        if pid == from_pid:
            return True
        seen.add(pid)
        process = processes.get(pid)
        if process is None:
            return False
        pid = process.parent
    return False
