"""The supervisor's parts, made and joined; with ``main`` the only place that names concrete backends."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health

from sessiond.adapters import ADAPTERS
from sessiond.config import Settings
from sessiond.config.kinds import split_home
from sessiond.errors import SessiondError
from sessiond.model.identity import SessionType
from sessiond.paths import Paths
from sessiond.ports import AgentUnits, InitSystem, Screen
from sessiond.ports.discovery import Finder
from sessiond.rpc._generated.v1 import (
    events_pb2_grpc,
    sessions_pb2_grpc,
    system_pb2_grpc,
)
from sessiond.rpc.health import SERVICE_NAME, add_health, set_serving
from sessiond.rpc.server import Server, enable_reflection
from sessiond.store.sqlite import SqliteStore
from sessiond.supervisor.agent_lists import AgentLists
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.at_rest import AtRest, UnitsOf
from sessiond.supervisor.changes import Changes, Defaults
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.asking import asking, waiting
from sessiond.supervisor.discovered.known import Discovered, Rules
from sessiond.supervisor.discovered.launching import Launching
from sessiond.supervisor.discovered.learning import Learning
from sessiond.supervisor.discovered.naming import Names
from sessiond.supervisor.discovered.overlays import Overlays
from sessiond.supervisor.discovered.resuming import Resuming
from sessiond.supervisor.events import EventLog
from sessiond.supervisor.forwarding import Daemons
from sessiond.supervisor.lifecycle import DaemonRules, Lifecycle
from sessiond.supervisor.mirror import Mirror
from sessiond.supervisor.registry import Registry, ScanRules
from sessiond.supervisor.rest_output import RestOutput
from sessiond.supervisor.services.agents import AgentsService
from sessiond.supervisor.services.discovery import DiscoveryService
from sessiond.supervisor.services.events import EventsService
from sessiond.supervisor.services.sessions import SessionsService
from sessiond.supervisor.services.system import SystemService
from sessiond.workspaces.watch import Rescan, WorkspaceWatch

if TYPE_CHECKING:
    from sessiond.doctor.row import CheckRow
    from sessiond.terminal.emulator import Emulator

log = logging.getLogger(__name__)

_SERVICES = tuple(
    f"sessiond.v1.{name}Service" for name in ("Sessions", "Agents", "Discovery", "Events", "System")
)
# Long enough for a busy machine's bus; without an answer the supervisor serves, and states are unknown.
_FIRST_ANSWER = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """All of a supervisor that is not yet running."""

    settings: Settings
    mirror: Mirror
    registry: Registry
    directory: Directory
    lifecycle: Lifecycle
    discovered: Discovered
    server: Server
    health: health.aio.HealthServicer

    async def load(self) -> None:
        """Read the disk, the store, and the init system's first answers: then listings are whole."""
        await self.registry.load(self.settings.discovery.roots)
        await self.directory.load()
        await self.discovered.load()
        try:
            async with asyncio.timeout(_FIRST_ANSWER):
                await self.mirror.answered.wait()
                if self.mirror.reachable:
                    await self._ask_enablement()
        except TimeoutError:
            log.warning("the init system does not answer; states are unknown until it does")
        self.registry.announce()
        self.directory.announce()

    def jobs(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What runs beside the server for as long as it serves."""
        jobs = [
            ("enablement", self._follow_enablement()),
            ("stops", self.lifecycle.follow_stops()),
            ("touches", self.directory.write_touches()),
        ]
        if self.settings.discovery.watch:
            jobs.append(("workspaces", self._follow_workspaces()))
        return jobs

    async def set_serving(self) -> None:
        """Have the health service say that all services serve."""
        await set_serving(self.health, _SERVICES)

    async def _follow_enablement(self) -> None:
        """Ask what starts at boot each time unit files or the list of sessions changed."""
        while True:
            await self.mirror.enablement_changed.wait()
            await self._ask_enablement()

    async def _ask_enablement(self) -> None:
        self.mirror.enablement_changed.clear()
        try:
            await self.lifecycle.ask_enabled()
        except SessiondError as error:
            # The mirror's next answer sets the event again.
            log.warning("what starts at boot is not known: %s", error.message)

    async def _follow_workspaces(self) -> None:
        """Look again at what changes on disk."""
        rules = self.settings.discovery
        async with WorkspaceWatch(rules.roots, depth=rules.depth) as watch, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tell_folders(watch), name="workspaces to watch")
            async for change in watch:
                if isinstance(change, Rescan):
                    await self.registry.load(rules.roots)
                else:
                    await self.registry.look(change)

    async def _tell_folders(self, watch: WorkspaceWatch) -> None:
        """Have the workspaces that are known watched, also outside the roots."""
        changed = self.registry.folders_changed
        while True:
            changed.clear()
            watch.set_workspaces(self.registry.folders())
            await changed.wait()


async def build(
    stack: AsyncExitStack,
    paths: Paths,
    settings: Settings,
    init: InitSystem,
    mirror: Mirror,
    units: UnitsOf | None = None,
    make_finder: Callable[[], Finder] | None = None,
) -> Parts:
    """Make the parts; what must be closed is closed by the stack. ``units`` is how units of a session's
    agents are asked for, ``make_finder`` makes what runs adapters when it is first needed."""
    store = await SqliteStore.open(paths.database)
    stack.push_async_callback(store.close)
    events = EventLog(settings.events.history, settings.events.reader_buffer)
    rules = ScanRules(settings.discovery.depth, settings.discovery.markers)
    registry = Registry(paths, rules, events, found=mirror.enablement_changed)
    directory = Directory(paths, registry, mirror, store, events)
    daemon_rules = DaemonRules(
        program=launch_program(paths),
        watchdog=settings.session.watchdog,
        start_timeout=settings.session.start_timeout,
        stop_timeout=settings.session.stop_timeout,
        parallel_starts=settings.supervisor.parallel_starts,
    )
    lifecycle = Lifecycle(paths, daemon_rules, init, registry, directory, events)
    defaults = Defaults(SessionType(settings.session.type), settings.session.owner)
    at_rest = AtRest(paths, units or _units, RestOutput(_LateEmulator(), settings.terminal.scrollback))
    changes = Changes(
        registry, directory, lifecycle, init, events, at_rest, defaults, settings.discovery.roots
    )
    server = Server(paths.socket)
    discovered = Discovered(
        make_finder or (lambda: _finder(settings)),
        _adapter_rules(settings),
        Overlays(store),
        Names(paths, lambda session: directory.get(session).identity.name),
        directory.resolve,
        asking(lambda: calls),
        waiting(lambda: calls),
    )
    daemons = Daemons(paths.session_socket)
    stack.push_async_callback(daemons.close)
    stack.push_async_callback(discovered.close)
    calls = AgentCalls(directory, daemons, at_rest, activities=discovered.activities)
    launching = Launching(discovered, calls, directory, Learning(discovered, calls, directory))
    resuming = Resuming(discovered, launching, calls, directory)
    sessions_pb2_grpc.add_SessionsServiceServicer_to_server(
        SessionsService(directory, lifecycle, changes, init), server.grpc
    )
    DiscoveryService(registry, directory, settings.discovery.roots, discovered, launching, resuming).add_to(
        server.grpc
    )
    events_pb2_grpc.add_EventsServiceServicer_to_server(EventsService(events, directory), server.grpc)
    system_pb2_grpc.add_SystemServiceServicer_to_server(
        SystemService(paths, directory, mirror, init, store, lambda: _examine(paths, settings, discovered)),
        server.grpc,
    )
    AgentsService(calls, AgentLists(directory, calls, at_rest)).add_to(server.grpc)
    servicer = add_health(server)
    enable_reflection(server.grpc, [*_SERVICES, SERVICE_NAME])
    return Parts(settings, mirror, registry, directory, lifecycle, discovered, server, servicer)


def _adapter_rules(settings: Settings) -> Rules:
    disabled = settings.adapters.disabled
    return Rules(
        adapters=[name for name in ADAPTERS if name not in disabled],
        disabled=[name for name in ADAPTERS if name in disabled],
        keep=timedelta(days=settings.adapters.keep_days),
    )


def _finder(settings: Settings) -> Finder:
    # Loaded when it is called: nobody waits for it on the way to READY.
    from sessiond.discovery.host import ProcessFinder

    homes: dict[str, list[str]] = {}
    for adapter, folder in map(split_home, settings.adapters.homes):
        homes.setdefault(adapter, []).append(folder)
    return ProcessFinder(_adapter_rules(settings).adapters, settings.adapters.deadline, homes=homes)


def _units(session: str) -> AgentUnits:
    # Loaded when it is called: most supervisors never need it.
    from sessiond.init.systemd.agents import SystemdAgents

    return SystemdAgents(session)


class _LateEmulator:
    """The emulator, loaded when the first screen is asked for."""

    @property
    def release(self) -> str:
        return self._emulator.release

    def __call__(self, columns: int, rows: int, scrollback: int) -> Screen:
        return self._emulator(columns, rows, scrollback)

    def plain(self, columns: int, rows: int, scrollback: int) -> Screen:
        return self._emulator.plain(columns, rows, scrollback)

    @property
    def _emulator(self) -> Emulator:
        from sessiond.terminal.emulator import make_screen

        return make_screen


def _examine(paths: Paths, settings: Settings, discovered: Discovered) -> list[CheckRow]:
    # Loaded when it is called: it is large, and most supervisors never need it.
    from sessiond.doctor import checks
    from sessiond.doctor.agent_files import agent_files

    problems = [one.problem for one in discovered.troubles()]
    return [*checks(paths, os.environ, settings), agent_files(problems, looked=discovered.running)]


def launch_program(paths: Paths) -> tuple[str, ...]:
    """What session daemons start through: the launcher, or this interpreter where none is installed."""
    if os.access(paths.launcher, os.X_OK):
        return (str(paths.launcher),)
    return (sys.executable, "-m", "sessiond")
