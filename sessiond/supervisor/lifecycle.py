"""What starts, stops and limits sessions: each verb is one request to the init system."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sessiond.errors import Conflict, SessiondError
from sessiond.model.event import EventKind
from sessiond.model.session import Session
from sessiond.model.signals import parse_signal
from sessiond.model.state import SessionState
from sessiond.paths import Paths, check_socket_path
from sessiond.ports import DaemonSpec, InitSystem
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.events import EventLog
from sessiond.supervisor.registry import Registry

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DaemonRules:
    """How session daemons are registered; durations in seconds."""

    program: tuple[str, ...]
    watchdog: float
    start_timeout: float
    stop_timeout: float
    parallel_starts: int


class Lifecycle:
    """Starts, stops, restarts, kills, enables, limits. Stores nothing of it."""

    def __init__(
        self,
        paths: Paths,
        rules: DaemonRules,
        init: InitSystem,
        registry: Registry,
        directory: Directory,
        events: EventLog,
    ) -> None:
        self._paths = paths
        self._rules = rules
        self._init = init
        self._registry = registry
        self._directory = directory
        self._events = events
        # At boot all enabled sessions are asked for at once; starting them all at once would starve each.
        self._starting = asyncio.Semaphore(rules.parallel_starts)

    async def start(self, session: str, *, wait: bool = True) -> Session:
        """Start its daemon; one that runs is fine. Raises Conflict where the session cannot run."""
        spec = self._spec(self._startable(session))
        async with self._starting:
            await self._init.start(spec, wait=wait)
        self._directory.touch(session, datetime.now(UTC))
        if not wait:
            return self._directory.get(session)
        return await self._directory.settle(session, lambda state: state is SessionState.ACTIVE)

    async def stop(self, session: str, *, wait: bool = True) -> Session:
        """Stop all of it; one that is stopped is fine."""
        await self._init.stop(session, wait=wait)
        if not wait:
            return self._directory.get(session)
        return await self._directory.settle(session, lambda state: state.settled)

    async def restart(self, session: str, *, wait: bool = True) -> Session:
        """Restart its daemon, agents go on; one that is stopped or failed is started."""
        if self._directory.state(session) not in (SessionState.ACTIVE, SessionState.STARTING):
            return await self.start(session, wait=wait)
        self._startable(session)
        await self._init.restart(session, wait=wait)
        if not wait:
            return self._directory.get(session)
        return await self._directory.settle(session, lambda state: state is SessionState.ACTIVE)

    async def kill(self, session: str, word: str) -> Session:
        """Send a signal, by name or number, to its daemon."""
        await self._init.kill(session, parse_signal(word))
        return self._directory.get(session)

    async def enable(self, session: str) -> Session:
        """Have it started at boot."""
        await self._init.enable(session)
        await self.ask_enabled()
        return self._directory.get(session)

    async def disable(self, session: str) -> Session:
        """No longer start it at boot."""
        await self._init.disable(session)
        await self.ask_enabled()
        return self._directory.get(session)

    async def follow_stops(self) -> None:
        """End what daemons left running that were stopped while they were dead, for ever."""
        while True:
            session = await self._directory.stopped.get()
            try:
                await self._init.stop_agents(session)
            except SessiondError as error:
                log.warning("what %s left running goes on: %s", session, error.message)

    async def ask_enabled(self) -> None:
        """Ask the init system what starts at boot, and show it."""
        self._directory.set_enabled(await self._init.enabled(list(self._registry.entries)))

    async def limit(self, session: str, properties: Mapping[str, str]) -> dict[str, str]:
        """Set limits for good, all or none, and return those in force."""
        if properties:
            await self._init.set_limits(session, properties)
        return await self._init.limits(session)

    async def activate(self, session: str) -> Session:
        """Make it the user's active session and start it."""
        self._startable(session)
        await self._directory.set_active(session)
        return await self.start(session)

    async def deactivate(self, session: str) -> Session:
        """Stop it, and clear the mark of the active session where it has it."""
        await self.stop(session)
        if self._directory.active() == session:
            await self._directory.set_active(None)
        return self._directory.get(session)

    async def archive(self, session: str) -> Session:
        """Set a stopped session aside; raises Conflict `session_running`."""
        refuse_running(self._directory.get(session), "archived")
        await self._mark_archived(session, archived=True)
        return self._directory.get(session)

    async def unarchive(self, session: str) -> Session:
        """Take it back."""
        await self._mark_archived(session, archived=False)
        return self._directory.get(session)

    async def end(self, session: str) -> Session:
        """Stop it, set it aside, and say that it ended."""
        await self.deactivate(session)
        await self._mark_archived(session, archived=True)
        ended = self._directory.get(session)
        self._events.append(EventKind.SESSION_ENDED, session, ended.identity.name)
        return ended

    async def _mark_archived(self, session: str, *, archived: bool) -> None:
        async with self._registry.lock:
            metadata = self._directory.metadata(session)
            if metadata.archived != archived:
                await self._directory.put(session, replace(metadata, archived=archived))

    def _startable(self, session: str) -> Session:
        """The session, or Conflict where starting it would be wrong."""
        now = self._directory.get(session)
        name = now.identity.name
        if now.metadata.archived:
            raise Conflict(
                "session_archived",
                f"{name} is archived",
                hint=f"sessionctl unarchive {name}",
                fields=_named(now),
            )
        if now.problem:
            raise Conflict(
                "workspace_missing",
                f"{name} cannot run: {now.problem}",
                hint=f"put the workspace back at {now.path}, or: sessionctl delete {name}",
                fields=_named(now),
            )
        return now

    def _spec(self, session: Session) -> DaemonSpec:
        socket = check_socket_path(self._paths.session_socket(session.id))
        store = self._paths.session_state(session.id)
        return DaemonSpec(
            session=session.id,
            name=session.identity.name,
            workspace=session.path,
            folder=self._paths.workspace_link(session.id),
            argv=(
                *self._rules.program,
                "session",
                session.id,
                "--socket",
                str(socket),
                "--store",
                str(store),
                "--stop-timeout",
                f"{self._rules.stop_timeout:g}",
            ),
            watchdog=self._rules.watchdog,
            start_timeout=self._rules.start_timeout,
            stop_timeout=self._rules.stop_timeout,
        )


def refuse_running(session: Session, deed: str) -> None:
    """Raise Conflict `session_running` unless it is known to be stopped."""
    if session.state.settled:
        return
    name = session.identity.name
    raise Conflict(
        "session_running" if session.state is not SessionState.UNKNOWN else "state_unknown",
        f"{name} is {session.state} and cannot be {deed}",
        hint=f"sessionctl stop {name}",
        fields=_named(session),
    )


def _named(session: Session) -> dict[str, str]:
    return {"session": session.id, "name": session.identity.name}
