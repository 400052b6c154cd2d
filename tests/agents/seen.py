"""What an adapter says of the programs that run at this moment, asked in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from sessiond.adapters import make_adapter
from sessiond.model.agent_session import STOPPED, AgentSessionStatus, Found, Life, Problem
from sessiond.ports.discovery import AgentAdapter, Clear, Evidence, Gone, Process, Processes

T = TypeVar("T")
WAIT = 60.0


class StandInProcess:
    """A process as psutil tells it: an opinion besides the product's."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.pid = process.pid
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        self.start_time = int(stat.rpartition(")")[2].split()[19])
        self.comm = stat.partition("(")[2].rpartition(")")[0]

    def _asked(self, question: Callable[[], T], empty: T) -> T:
        try:
            return question()
        except (psutil.Error, OSError):
            return empty

    @property
    def exe(self) -> str:
        """What it executes."""
        return self._asked(self._process.exe, "")

    @property
    def argv(self) -> Sequence[str]:
        """Its command line."""
        return self._asked(self._process.cmdline, [])

    @property
    def cwd(self) -> str:
        """Its folder."""
        return self._asked(self._process.cwd, "")

    @property
    def environment(self) -> Mapping[str, str]:
        """What it was started with."""
        return self._asked(self._process.environ, {})

    @property
    def open_files(self) -> Collection[str]:
        """Files that it has open."""
        return self._asked(lambda: [one.path for one in self._process.open_files()], [])

    @property
    def mark(self) -> str:
        """None of these is in a unit of ours."""
        return ""

    @property
    def parent(self) -> int:
        """Its parent's pid."""
        return self._asked(self._process.ppid, 0)


class StandInProcesses:
    """The processes of the machine as psutil tells them."""

    def get(self, pid: int) -> Process | None:
        """One that lives."""
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                return StandInProcess(process)
        return None

    def all(self) -> Iterable[Process]:
        """All of this user that live."""
        mine = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}").st_uid == os.getuid() and (found := self.get(pid)):
                    mine.append(found)
        return mine

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        """Device and inode to pid."""
        holders = {}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) >= 8 and words[1] == "FLOCK" and int(words[4]) > 0:
                major, minor, inode = words[5].split(":")
                holders[os.makedev(int(major, 16), int(minor, 16)), int(inode)] = int(words[4])
        return holders


def processes() -> Processes:
    """The processes at this moment."""
    return StandInProcesses()


class Seen:
    """One adapter over the files of one home."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.adapter: AgentAdapter = make_adapter(name, environment)
        self.problems: list[Problem] = []

    def evidence(self) -> Evidence:
        """What it concludes from processes now."""
        return self.adapter.evidence(processes())

    def rows(self) -> dict[str, Found]:
        """All conversations on disk now, with their lives; ``problems`` is what it told besides."""
        found: dict[str, Found] = {}
        self.problems = []
        for told in self.adapter.discover(None):
            if isinstance(told, Found):
                found[told.id] = told
            elif isinstance(told, Problem):
                self.problems.append(told)
            else:
                assert isinstance(told, Gone | Clear)
        evidence = self.evidence()
        missing = set(evidence.lives) - set(found)
        for id in missing:  # alive, and nothing written yet
            found[id] = Found(self.adapter.name, id)
        return {id: dataclasses.replace(one, life=_life(one, evidence)) for id, one in found.items()}

    def one(self) -> Found:
        """The only conversation."""
        rows = self.rows()
        assert len(rows) == 1, f"{len(rows)} conversations: {rows}, problems: {self.problems}"
        return next(iter(rows.values()))

    def until(self, test: Callable[[Mapping[str, Found]], T | None], what: str) -> T:
        """Look again until a test of the rows gives something: for what no signal tells, a file that a
        program is about to write."""
        deadline = time.monotonic() + WAIT
        while True:
            rows = self.rows()
            answer = test(rows)
            if answer:
                return answer
            if time.monotonic() > deadline:
                pytest.fail(f"{what}: not within {WAIT:g} s; rows: {rows}, problems: {self.problems}")
            time.sleep(0.02)

    def until_status(self, status: AgentSessionStatus | str, id: str = "") -> Found:
        """Look again until one conversation (that one, if named) has a status; returns it."""

        def found(rows: Mapping[str, Found]) -> Found | None:
            fits = (one for one in rows.values() if one.status == status and (not id or one.id == id))
            return next(fits, None)

        return self.until(found, f"a conversation {id} that is {status}")


def _life(found: Found, evidence: Evidence) -> Life:
    """As the engine concludes, without our own agents and marks."""
    if found.id in evidence.lives:
        return evidence.lives[found.id]
    for one in evidence.possible:
        if not one.cwd or one.cwd == found.cwd:
            return Life(alive=None, reason=one.reason)
    return Life(alive=None, reason=evidence.unknown) if evidence.unknown else STOPPED
