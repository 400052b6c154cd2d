"""A session daemon's parts for agents, made when needed; like ``main`` it names concrete backends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sessiond.daemon.descriptors import Descriptors
from sessiond.daemon.leaving import leaving
from sessiond.errors import SessiondError
from sessiond.paths import Paths

if TYPE_CHECKING:
    from sessiond.agents.outputs import Forward, Outputs
    from sessiond.config import Settings
    from sessiond.daemon.agents import Agents
    from sessiond.daemon.services.agents import AgentsService
    from sessiond.daemon.terminals import Terminals

log = logging.getLogger(__name__)

SERVICE = "sessiond.v1.AgentsService"


@dataclass(frozen=True, slots=True)
class Home:
    """Where one session's daemon is at home."""

    session: str
    store: Path
    paths: Paths


class AgentsRoom:
    """All that has to do with agents. While there are none, nothing of it is loaded and no bus connected."""

    def __init__(self, home: Home, descriptors: Descriptors) -> None:
        self._home = home
        self._descriptors = descriptors
        self._made: tuple[Agents, AgentsService] | None = None
        self._begun = False
        self._stopped = False

    @property
    def agents(self) -> Agents | None:
        """The agents, if they were needed."""
        return self._made[0] if self._made else None

    def open_if_needed(self) -> None:
        """Load what is known of agents, where there are any; before serving, so that listings are right."""
        from sessiond.agents.folder import AGENTS

        try:
            with os.scandir(self._home.store / AGENTS) as found:
                needed = any(found)
        except FileNotFoundError:
            needed = False
        if needed or any(name.startswith(("tty-", "pipe-")) for name in self._descriptors.names):
            self._open()

    def begin(self) -> None:
        """It serves, and the init system knows: follow what runs, and start what is to come back."""
        self._begun = True
        if self._made is not None:
            self._made[0].begin()

    async def service(self) -> AgentsService:
        """The service, made when it is first called. Raises Unreachable `daemon_restarting` once stopped: who
        calls then is too late for this process, and made anew here agents would find no terminals."""
        if self._stopped:
            raise leaving()
        return self._open()[1]

    def _open(self) -> tuple[Agents, AgentsService]:
        if self._made is None:
            self._made = _build(self._home, self._descriptors)
            self._made[0].load()
            if self._begun:
                self._made[0].begin()
        return self._made

    async def stop(self) -> None:
        """Let go of all of it and leave what runs; idempotent."""
        self._stopped = True
        made, self._made = self._made, None
        if made is not None:
            await made[0].stop()


def register_service() -> Callable[[Any, Any], None]:
    """What registers the service with a server, imported now."""
    from sessiond.rpc._generated.v1 import agents_pb2_grpc

    register: Callable[[Any, Any], None] = agents_pb2_grpc.add_AgentsServiceServicer_to_server
    return register


def _build(home: Home, descriptors: Descriptors) -> tuple[Agents, AgentsService]:
    from sessiond.agents.book import Book
    from sessiond.agents.bounds import RecordLimits
    from sessiond.agents.reading import RecordReader
    from sessiond.daemon.agents import Agents, Wiring
    from sessiond.daemon.services.agents import AgentsService
    from sessiond.daemon.spawning import Place
    from sessiond.daemon.streams import Streams
    from sessiond.daemon.views import Views
    from sessiond.init.systemd.agents.backend import SystemdAgents
    from sessiond.init.systemd.going_down import going_down
    from sessiond.terminal.emulator import make_screen

    settings = _settings(home.paths)
    limits = RecordLimits(settings.recording.limit, settings.recording.total, settings.recording.low_disk)

    @cache
    def terminals() -> Terminals:
        from sessiond.daemon.terminals import Terminals

        return Terminals(descriptors, limits, settings.terminal, make_screen)

    @cache
    def outputs() -> Outputs:
        from sessiond.agents.outputs import Outputs

        return Outputs(limits, _forward(home.session, name_of))

    def name_of(agent: str) -> str:
        entry = agents.roster.entries.get(agent)
        return entry.spec.name if entry is not None else "sessiond-agent"

    streams = Streams(terminals, outputs, lambda folder, tty: RecordReader(folder, tty).facts())
    paths = home.paths
    place = Place(home.session, home.store, paths.runtime, paths.socket, _program(paths))
    wiring = Wiring(place, settings, SystemdAgents(home.session), streams, going_down)
    agents = Agents(wiring, Book(home.session, home.store, paths.runtime))
    views = Views(agents.roster, terminals, outputs, settings.terminal, make_screen)
    return agents, AgentsService(home.session, agents, views)


def _forward(session: str, name_of: Callable[[str], str]) -> Forward:
    """What passes lines of agents without a terminal on to the journal, under the agents' names."""
    from sessiond.daemon.journal import INFO, WARNING, JournalForwarder
    from sessiond.model.unit import agent_unit

    journal = JournalForwarder()

    def forward(agent: str, stream: str, line: bytes) -> bool:
        priority = WARNING if stream == "stderr" else INFO
        return journal(
            agent_unit(session, agent), name_of(agent), priority, line, session=session, agent=agent
        )

    return forward


def _program(paths: Paths) -> tuple[str, ...]:
    """What agents are started through: the launcher, or this interpreter where none is installed."""
    if os.access(paths.launcher, os.X_OK):
        return (str(paths.launcher),)
    return (sys.executable, "-m", "sessiond")


def _settings(paths: Paths) -> Settings:
    """Settings in force; a file that cannot be used must not keep a daemon from its agents."""
    from sessiond import config

    try:
        return config.load(paths.config_file)
    except SessiondError as error:
        log.warning("settings are ignored: %s (%s)", error.message, error.hint or error.code)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SESSIOND_")}
    return config.load(paths.config / "there-is-none", plain)
