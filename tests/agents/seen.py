"""What an adapter says of the programs that run at this moment, asked in this process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import pytest

from sessiond.adapters import make_adapter
from sessiond.discovery.lives import settle
from sessiond.discovery.processes import LiveProcess, LiveProcesses
from sessiond.discovery.strangers import strangers
from sessiond.model.agent_session import AgentSessionStatus, Found, Problem
from sessiond.ports.discovery import AgentAdapter, Clear, Gone

T = TypeVar("T")
WAIT = 300.0


class Neighbours(LiveProcesses):
    """The processes of one home folder: not what other tests or a person run beside."""

    def __init__(self, home: str) -> None:
        super().__init__()
        self._home = home

    def all(self) -> Iterator[LiveProcess]:
        return (one for one in super().all() if one.environment.get("HOME", self._home) == self._home)


class Seen:
    """One adapter over the files of one home."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self._home = environment["HOME"]
        self.adapter: AgentAdapter = make_adapter(name, environment)
        self.problems: list[Problem] = []

    def rows(self) -> dict[str, Found]:
        """All conversations now, with their lives; ``problems`` is what it told besides."""
        found: dict[str, Found] = {}
        self.problems = []
        for told in self.adapter.discover(None):
            if isinstance(told, Found):
                found[told.id] = told
            elif isinstance(told, Problem):
                self.problems.append(told)
            else:
                assert isinstance(told, Gone | Clear)
        processes = Neighbours(self._home)
        evidence = self.adapter.evidence(processes)
        if evidence.moved:
            return self.rows()
        lives = settle(self.adapter, evidence, {}, processes)
        for id, life in lives.known.items():
            # Alive, and nothing written yet.
            if life.alive:
                found.setdefault(id, lives.fileless(self.adapter.name, id))
        return {id: dataclasses.replace(one, life=lives.of(one)) for id, one in found.items()}

    def strangers(self) -> list[Found]:
        """Rows of processes that no conversation accounts for, now."""
        rows = self.rows()
        processes = Neighbours(self._home)
        evidence = self.adapter.evidence(processes)
        lives = settle(self.adapter, evidence, {}, processes)
        return list(strangers(self.adapter, lives, evidence, rows, processes).values())

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

    def until_row(self, id: str = "", **wanted: Any) -> Found:
        """Look again until one conversation (that one, if named) is so in all of these; returns it. Programs
        write what they tell of one in several places, and one after the other."""

        def found(rows: Mapping[str, Found]) -> Found | None:
            named = (one for one in rows.values() if not id or one.id == id)
            return next((one for one in named if all(getattr(one, k) == v for k, v in wanted.items())), None)

        return self.until(found, f"a conversation {id} with {wanted}")
