"""Stand-ins for the processes that adapters look at, and what every row that an adapter tells must be."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from sessiond.model.agent_session import STOPPED, Found, Life, Message, Problem
from sessiond.ports.discovery import AgentAdapter, Clear, Evidence, Gone, Told

TEXT_MAX = 20_000
TOOL_MAX = 4_000
COUNT_MAX = 2**63 - 1
CODES = {
    "adapter_failed",
    "adapter_timeout",
    "file_unreadable",
    "file_malformed",
    "format_newer",
    "place_refused",
}


@dataclass
class FakeProcess:
    """A process that is what the test says."""

    pid: int
    start_time: int = 1000
    comm: str = ""
    exe: str = ""
    argv: Sequence[str] = ()
    cwd: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    open_files: Collection[str] = ()
    mark: str = ""
    parent: int = 1


class FakeProcesses:
    """The processes given, and who holds which flock."""

    def __init__(
        self,
        *processes: FakeProcess,
        locks: Mapping[tuple[int, int], int] | None = None,
        outside: Sequence[FakeProcess] = (),
        locks_outside: Mapping[tuple[int, int], int] | None = None,
        abroad: int | None = None,
    ) -> None:
        self._outside, self._locks_outside, self._abroad = outside, dict(locks_outside or {}), abroad
        self._processes = {process.pid: process for process in processes}
        self._locks = dict(locks or {})
        self.looks = 0
        """How often all of them were asked for."""

    def get(self, pid: int) -> FakeProcess | None:
        return self._processes.get(pid)

    def all(self) -> Iterable[FakeProcess]:
        self.looks += 1
        return tuple(self._processes.values())

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        return self._locks

    def outside(self) -> Sequence[FakeProcess]:
        return self._outside

    def lock_holders_outside(self) -> Mapping[tuple[int, int], int]:
        return self._locks_outside

    def abroad(self, space: str, pid: int, start_time: int | None) -> int | None:
        return self._abroad


NOBODY = FakeProcesses()


def found_by(adapter: AgentAdapter, changed: Collection[str] | None = None) -> dict[str, Found]:
    """What it finds, by id; each must be a good row."""
    told = list(adapter.discover(changed))
    check_told(adapter, told)
    return {each.id: each for each in told if isinstance(each, Found)}


def problems_of(told: Iterable[Told]) -> list[Problem]:
    """The trouble in what was told."""
    return [each for each in told if isinstance(each, Problem)]


def life_of(found: Found, evidence: Evidence) -> Life:
    """What the evidence makes of a conversation that is none of our own agents'."""
    if found.id in evidence.lives:
        return evidence.lives[found.id]
    for possible in evidence.possible:
        if not possible.cwd or possible.cwd == found.cwd:
            return Life(alive=None, reason=possible.reason, pid=possible.pid, start_time=possible.start_time)
    if evidence.unknown:
        return Life(alive=None, reason=evidence.unknown)
    return STOPPED


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a file gives, from now on."""
    given: list[int] = []
    really = os.pread

    def read(descriptor: int, length: int, offset: int) -> bytes:
        data = really(descriptor, length, offset)
        given.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", read)
    return given


def check_told(adapter: AgentAdapter, told: Iterable[Told]) -> None:
    """Rows and problems are what the model promises, whatever was in the files."""
    ids: list[str] = []
    for each in told:
        if isinstance(each, Found):
            check_found(adapter, each)
            ids.append(each.id)
        elif isinstance(each, Problem):
            assert each.adapter == adapter.name
            assert each.code in CODES
            assert each.reason
            assert each.path, "trouble of one file names it"
        else:
            assert isinstance(each, Gone | Clear)
    assert len(ids) == len(set(ids)), "each conversation is told once"


def check_found(adapter: AgentAdapter, found: Found) -> None:
    """One row."""
    assert found.adapter == adapter.name
    assert found.id
    assert len(found.id) <= 200
    assert "/" not in found.id or adapter.name in {"openclaw", "acp"}
    assert found.id.isprintable()
    assert found.cwd == "" or found.cwd.startswith("/")
    for text in (found.title, found.first_prompt, found.last_prompt, found.activity):
        assert len(text) <= 200
        assert text.isprintable()
    for moment in (found.started_at, found.updated_at, found.ended_at):
        assert moment is None or (isinstance(moment, datetime) and moment.tzinfo is not None)
    for count in (found.tokens_in, found.tokens_out):
        assert count is None or (isinstance(count, int) and 0 <= count <= COUNT_MAX)
    assert found.cost_usd is None or (math.isfinite(found.cost_usd) and found.cost_usd >= 0)
    for name, value in found.native.items():
        assert isinstance(name, str)
        assert isinstance(value, str)
        assert len(value) <= 4096
        value.encode()
    for text in (found.id, found.cwd, found.model, found.parent):
        text.encode()
    assert found.life == Life(alive=None, reason="not looked at yet"), "the life is not the adapter's to say"


def check_evidence(evidence: Evidence) -> None:
    """Who lives is told whole."""
    for life in evidence.lives.values():
        check_life(life)
    for possible in evidence.possible:
        assert possible.reason
        assert possible.pid > 0


def check_life(life: Life) -> None:
    """One of them."""
    if life.alive:
        assert life.pid is None or life.start_time is not None, "a pid alone names nobody for good"
    elif life.alive is None:
        assert life.reason, "what cannot be told says why"


def check_message(message: Message) -> None:
    """One message of a transcript."""
    assert message.role in {"user", "assistant", "system", "tool"}
    for text in (message.text, message.thinking):
        assert len(text) <= TEXT_MAX
        text.encode()
    for tool in message.tools:
        assert len(tool.content) <= TOOL_MAX
        for text in (tool.id, tool.name, tool.content):
            text.encode()
    assert message.time is None or message.time.tzinfo is not None
    for count in (message.tokens_in, message.tokens_out):
        assert count is None or 0 <= count <= COUNT_MAX
