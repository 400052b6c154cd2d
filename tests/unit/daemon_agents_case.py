"""Agents of a session on a fake systemd: what the tests of their life share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from sessiond import config
from sessiond.agents.book import Book
from sessiond.agents.folder import AgentFolder
from sessiond.daemon.agents import Agents, Wiring
from sessiond.daemon.spawning import Place, Spawn
from sessiond.daemon.streams import Streams
from sessiond.errors import SessiondError
from sessiond.model.agent import Agent, AgentSpec
from sessiond.testing.fake_agents import FakeAgents

SESSION = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Facts:
    """Nothing printed, nobody looking."""

    start: int = 0
    end: int = 0
    problem: str = ""
    clients: int = 0
    columns: int = 80
    rows: int = 24


@dataclass
class Side:
    """Terminals or outputs that note what they are asked."""

    calls: list[str] = field(default_factory=list)
    fault: SessiondError | None = None
    gate: asyncio.Event | None = None

    async def take(self, spec: AgentSpec) -> str:
        self.calls.append(f"open {spec.name}")
        if self.fault is not None:
            raise self.fault
        return "/dev/pts/9"

    async def drained(self, agent: str) -> None:
        self.calls.append("drained")
        if self.gate is not None:
            await self.gate.wait()

    def restore(self, spec: AgentSpec, folder: AgentFolder) -> bool:
        self.calls.append(f"restore {spec.name}")
        return True

    def started(self, agent: str) -> None:
        self.calls.append("started")

    def rearm(self, agent: str) -> None:
        self.calls.append("rearm")

    def restarted(self, agent: str) -> None:
        self.calls.append("restarted")

    def close(self, agent: str) -> None:
        self.calls.append("close")

    def facts(self, agent: str) -> Facts:
        return Facts()

    def sweep(self, spared: Collection[str]) -> None:
        pass

    async def stop(self) -> None:
        pass


class Terminals(Side):
    """With a terminal."""

    async def open(self, spec: AgentSpec, folder: AgentFolder) -> str:
        return await self.take(spec)

    def ended(self, agent: str, message: Agent) -> None:
        self.calls.append(f"told {message.state}")


class Outputs(Side):
    """Without one."""

    def open(self, spec: AgentSpec, folder: AgentFolder) -> None:
        self.calls.append(f"open {spec.name}")

    def ended(self, agent: str) -> None:
        self.calls.append("ended")


@dataclass
class Stage:
    """One session's agents on fakes; ``another`` is the daemon's next life."""

    home: Path
    units: FakeAgents
    terminals: Terminals = field(default_factory=Terminals)
    outputs: Outputs = field(default_factory=Outputs)
    leaving: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    settings: config.Settings = field(default_factory=lambda: config.load(Path("/none"), {"HOME": "/none"}))

    @property
    def store(self) -> Path:
        return self.home / SESSION

    def book(self) -> Book:
        return Book(SESSION, self.store, self.home / "run")

    def limit(self, **rules: int) -> None:
        self.settings = replace(self.settings, agents=replace(self.settings.agents, **rules))

    async def going_down(self) -> bool:
        self.asked.set()
        return self.leaving

    @asynccontextmanager
    async def agents(self) -> AsyncIterator[Agents]:
        """A life of the daemon."""
        units = self.units.another()
        streams = Streams(lambda: self.terminals, lambda: self.outputs, lambda _folder, _tty: Facts())
        place = Place(SESSION, self.store, self.home / "run", self.home / "socket", ("sessiond",))
        made = Agents(Wiring(place, self.settings, units, streams, self.going_down), self.book())
        made.load()
        made.begin()
        try:
            yield made
        finally:
            await made.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Nothing runs."""
    made = Stage(tmp_path, FakeAgents(SESSION))
    made.store.mkdir(parents=True)
    (tmp_path / "workspace").mkdir()
    (made.store / "workspace").symlink_to(tmp_path / "workspace")
    return made


def wish(**fields: object) -> Spawn:
    """Something to start."""
    return replace(Spawn(("/bin/true",), environment={"PATH": "/bin"}), **fields)  # type: ignore[arg-type]
