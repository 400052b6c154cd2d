"""The finder as the supervisor sees it: all adapters, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec

from sessiond.adapters import ADAPTERS
from sessiond.adapters.homes import SETTING
from sessiond.adapters.places import VARIABLES, places_of
from sessiond.discovery import wire
from sessiond.discovery.conversation import Conversation, Fault, read_answer
from sessiond.discovery.nursery import PROGRAM, Nursery, kill, readable
from sessiond.discovery.orders import FACTORY
from sessiond.discovery.outbox import Outbox
from sessiond.discovery.processes import read_stat
from sessiond.discovery.runner import PAUSE, Runner
from sessiond.errors import Conflict, InvalidArgument, PermissionDenied, SessiondError, TimedOut, Unreachable
from sessiond.model.agent_session import Found, Plan, Probe, Transcript, Wish
from sessiond.ports.discovery import FinderEvent

log = logging.getLogger(__name__)

# Seconds that a process may take to end after SIGKILL: longer only where the kernel itself waits for a disk.
_AFTER_KILL = 5.0


class ProcessFinder:
    """See the port `Finder`. ``adapters`` are those that are enabled, in the order of their list;
    ``deadline`` is in seconds; ``environment`` decides where programs' files are; ``program`` is sessiond's
    own command. ``factory`` (`module:function`) makes adapters by name in their processes. ``homes`` are
    further folders that programs keep their files in, by the adapters' names."""

    def __init__(
        self,
        adapters: Sequence[str],
        deadline: float,
        environment: Mapping[str, str] | None = None,
        *,
        program: Sequence[str] = PROGRAM,
        factory: str = FACTORY,
        pause: float = PAUSE,
        homes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._deadline = deadline
        self._environment = os.environ if environment is None else environment
        self._nursery = Nursery(
            {**self._environment, SETTING: msgspec.json.encode(homes or {}).decode()},
            deadline,
            program,
            factory,
        )
        self._outbox = Outbox()
        self._runners = {one: Runner(one, self._nursery, self._outbox, deadline, pause) for one in adapters}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def processes(self) -> dict[str, int]:
        """Pids: of the finder by an empty name, of adapters by theirs."""
        pids = {"": self._nursery.pid, **{name: one.pid for name, one in self._runners.items()}}
        return {name: pid for name, pid in pids.items() if pid is not None}

    # ---- the port

    async def prepare(self) -> None:
        """See the port."""
        if self._closing is not None:
            return
        there = [one for one in self._runners if one in ADAPTERS and self._has_files(one)]
        if there:
            await self._nursery.prepare([ADAPTERS[one] for one in there])

    def watch(self) -> AsyncIterator[FinderEvent]:
        """See the port."""
        self._start()
        return self._outbox.read()

    async def refresh(self, adapters: Collection[str]) -> None:
        """See the port."""
        runners = [self._runner(one) for one in adapters]
        async with asyncio.TaskGroup() as tasks:
            for runner in runners:
                tasks.create_task(runner.refresh(), name=f"refresh of {runner.adapter}")

    async def look(self, adapter: str) -> None:
        """See the port."""
        await self._runner(adapter).look()

    async def is_alive(self, adapter: str, session: str) -> Found | None:
        """See the port."""
        found: Found | None = await self._runner(adapter).ask(wire.IsAlive(session), Found | None)
        return found

    async def own(self, adapter: str, agents: Mapping[str, str]) -> None:
        """See the port."""
        await self._runner(adapter).own(agents)

    async def transcript(self, adapter: str, session: str, tail: int) -> Transcript:
        """See the port."""
        read: Transcript = await self._runner(adapter).ask(wire.ReadTranscript(session, tail), Transcript)
        return read

    async def launch(self, adapter: str, wish: Wish) -> Plan:
        """See the port."""
        plan: Plan = await self._ask_plainly(adapter, wire.Launch(_of_places(adapter, wish)), Plan)
        return plan

    async def resume(self, adapter: str, session: str, wish: Wish) -> Plan:
        """See the port."""
        plan: Plan = await self._runner(adapter).ask(wire.Resume(session, _of_places(adapter, wish)), Plan)
        return plan

    async def identify(self, adapter: str, line: str) -> str | None:
        """See the port."""
        session: str | None = await self._ask_plainly(adapter, wire.Identify(line), str | None)
        return session

    async def probe(self, adapters: Collection[str], search_path: str) -> Sequence[Probe]:
        """See the port. Of an adapter that fails nothing is known but its name."""
        for one in adapters:
            self._runner(one)
        self._start()
        asked = [one for one in self._runners if not adapters or one in adapters]
        return await asyncio.gather(*(self._probe(one, search_path) for one in asked))

    async def end(self, adapter: str, found: Found, timeout: float) -> bool:
        """See the port. Raises Conflict `agent_session_unknown` where no process is known, PermissionDenied
        `process_denied`, TimedOut `process_stays`."""
        self._runner(adapter)
        pid, start_time = found.life.pid, found.life.start_time
        if found.life.alive is False:
            return False
        if pid is None or start_time is None or not found.life.alive:
            raise Conflict(
                "agent_session_unknown",
                f"which process has {found.id} open is not known",
                hint="end its program by hand",
                fields={"adapter": adapter, "id": found.id},
            )
        if pid <= 1 or pid == os.getpid() or pid in self.processes.values():
            raise _denied(pid, f"process {pid} is not the program of {found.id}")
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            stat = read_stat(pid)
            if stat is None or stat.start_time != start_time:
                return False
            if _owner(pid) not in (None, os.geteuid()):
                raise _denied(pid, f"process {pid} belongs to another user")
            await _end(pidfd, pid, timeout)
        finally:
            os.close(pidfd)
        return True

    async def close(self) -> None:
        """See the port."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="closing the finder")
        await asyncio.shield(self._closing)

    # ---- inside

    def _has_files(self, adapter: str) -> bool:
        return any(map(os.path.lexists, places_of(adapter, self._environment)))

    async def _close(self) -> None:
        self._outbox.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._nursery.close()

    def _runner(self, adapter: str) -> Runner:
        runner = self._runners.get(adapter)
        if runner is None:
            known = adapter in ADAPTERS
            raise InvalidArgument(
                "adapter_disabled" if known else "adapter_unknown",
                f"the adapter {adapter} is disabled" if known else f"there is no adapter {adapter!r}",
                hint="the setting adapters.disabled names it"
                if known
                else f"there are {', '.join(ADAPTERS)}",
                fields={"adapter": adapter},
            )
        self._start()
        return runner

    def _start(self) -> None:
        """Start all, at the first call."""
        if self._closing is not None:
            raise Unreachable("finder_closed", "the supervisor is ending", hint="ask again when it is back")
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(runner.run(), name=f"adapter {name}")
                for name, runner in self._runners.items()
            ]

    async def _ask_plainly(self, adapter: str, question: wire.Question, kind: Any) -> Any:
        """Ask what needs nothing that was found: its own process where that is well, otherwise another, so
        that a program can be launched though its files give trouble."""
        runner = self._runner(adapter)
        if runner.well:
            return await runner.ask(question, kind)
        return await self._ask_another(adapter, question, kind)

    async def _ask_another(self, adapter: str, question: wire.Question, kind: Any) -> Any:
        """Ask a process that is there for this one question."""
        child = await self._nursery.fork(adapter, plain=True)
        talk = Conversation(adapter, child, self._deadline)
        listening = asyncio.create_task(talk.listen(None, _ignore, _ignore), name=f"question to {adapter}")
        try:
            return read_answer(adapter, await talk.ask(question), kind)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening

    async def _probe(self, adapter: str, search_path: str) -> Probe:
        try:
            probe: Probe = await self._ask_another(adapter, wire.Search(search_path), Probe)
        except SessiondError as error:
            log.warning("adapter %s cannot be asked what is installed: %s", adapter, error.message)
            return Probe(adapter, adapter, installed=False)
        return probe


def _of_places(adapter: str, wish: Wish) -> Wish:
    """The wish with nothing of the caller's environment but what says where files are: it has keys in it."""
    named = ("HOME", *VARIABLES.get(adapter, ()))
    return replace(wish, environment={one: wish.environment[one] for one in named if one in wish.environment})


def _ignore(_: wire.Told | Fault) -> None:
    """What is told besides the answer."""


def _denied(pid: int, reason: str) -> PermissionDenied:
    return PermissionDenied("process_denied", reason, hint="end it by hand", fields={"pid": str(pid)})


def _owner(pid: int) -> int | None:
    """Whose a process is; None where it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


async def _end(pidfd: int, pid: int, timeout: float) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise _denied(pid, f"process {pid} belongs to another user") from error
    try:
        async with asyncio.timeout(timeout):
            await readable(pidfd)
            return
    except TimeoutError:
        kill(pidfd)
    try:
        async with asyncio.timeout(_AFTER_KILL):
            await readable(pidfd)
    except TimeoutError:
        raise TimedOut(
            "process_stays",
            f"process {pid} did not end by SIGKILL",
            hint="the kernel keeps it; see what it waits for in /proc/PID/wchan",
            fields={"pid": str(pid)},
        ) from None
