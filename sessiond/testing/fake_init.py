"""An init system in memory: does at once what systemd does, and fails as it is told to."""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from sessiond.errors import Conflict, NotFound, SessiondError, Unreachable
from sessiond.init.systemd import properties as table
from sessiond.model.unit import (
    CLD_EXITED,
    CLD_KILLED,
    UnitStatus,
    agents_slice,
    daemon_unit,
    session_slice,
)
from sessiond.ports import (
    Connected,
    DaemonSpec,
    EnablementChanged,
    InitInfo,
    Lost,
    UnitAppeared,
    UnitChanged,
    UnitEvent,
    UnitRemoved,
)

_CLEAN = (signals.SIGHUP, signals.SIGINT, signals.SIGPIPE, signals.SIGTERM)


@dataclass(slots=True)
class Behaviour:
    """What a session's daemon does when it is started.

    It is ready at once, or with ``held`` when `FakeInit.ready` is called; with ``fault`` the start
    raises it, and with an ``exit_status`` besides 0 the process ends with that before it is ready, for good.
    """

    held: bool = False
    fault: SessiondError | None = None
    exit_status: int = 0


@dataclass(slots=True)
class FakeInit:
    """Public fields are for tests to read and to set; methods below the port's are what happens by hand."""

    units: dict[str, UnitStatus] = field(default_factory=dict)
    specs: dict[str, DaemonSpec] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    at_boot: set[str] = field(default_factory=set)
    limited: dict[str, dict[str, str]] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset({"cpu", "memory", "pids"})
    starter_installed: bool = True
    journal_readable: bool = True
    away: str = ""
    calls: int = 0
    supervisor_stops: int = 0
    agent_stops: list[str] = field(default_factory=list)
    closed: bool = False
    _watchers: list[asyncio.Queue[UnitEvent | None]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _pids: int = 1000

    # ---- the port

    async def watch(self) -> AsyncGenerator[UnitEvent, None]:
        """See the port."""
        queue: asyncio.Queue[UnitEvent | None] = asyncio.Queue()
        queue.put_nowait(Lost(self.away) if self.away else self._whole())
        self._watchers.append(queue)
        try:
            while not self.closed and (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers.remove(queue)

    async def start(self, spec: DaemonSpec, *, wait: bool = True) -> None:
        """See the port."""
        self._call()
        unit = daemon_unit(spec.session)
        found = self.units.get(unit)
        if found is not None and found.active_state == "deactivating":
            await self._until(unit, lambda now: now is None)
            found = None
        if found is not None and found.active_state in ("active", "activating"):
            if wait:
                await self._started(unit)
            return
        behaviour = self.behaviours.get(spec.session, Behaviour())
        if behaviour.fault is not None:
            raise behaviour.fault
        self.specs[spec.session] = spec
        self._begin(spec.session)
        if behaviour.exit_status:
            self.fail(spec.session, exit_status=behaviour.exit_status)
            if wait:
                raise _start_failed(unit, f"its process exited with status {behaviour.exit_status}")
            return
        if not behaviour.held:
            self.ready(spec.session)
        if wait:
            await self._started(unit)

    async def stop(self, session: str, *, wait: bool = True) -> None:
        """See the port."""
        self._call()
        await asyncio.sleep(0)
        self.hand_stop(session)

    async def stop_agents(self, session: str) -> None:
        """See the port."""
        self._call()
        await asyncio.sleep(0)
        if daemon_unit(session) not in self.units:
            self.agent_stops.append(session)

    async def restart(self, session: str, *, wait: bool = True) -> None:
        """See the port."""
        self._call()
        unit = daemon_unit(session)
        if unit not in self.units:
            raise NotFound("unit_not_loaded", f"{unit} is not loaded")
        await asyncio.sleep(0)
        self._change(unit, active_state="deactivating", sub_state="stop-sigterm")
        self._change(unit, **_running("activating", "start", self._next_pid()), n_restarts=0)
        self.ready(session)

    async def kill(self, session: str, signal: int) -> None:
        """See the port."""
        self._call()
        if self._state(daemon_unit(session)) not in ("active", "activating"):
            raise Conflict("session_not_running", f"{daemon_unit(session)} has no main process")
        await asyncio.sleep(0)
        if signal in _CLEAN:
            self.hand_stop(session)
        else:
            self.crash(session, signal)

    async def enable(self, session: str) -> None:
        """See the port."""
        self._call()
        if not self.starter_installed:
            raise Conflict("starter_not_installed", "the starter's template is not installed")
        await asyncio.sleep(0)
        self.hand_enable(session, True)

    async def disable(self, session: str) -> None:
        """See the port."""
        self._call()
        await asyncio.sleep(0)
        self.hand_enable(session, False)

    async def enabled(self, sessions: Sequence[str]) -> frozenset[str]:
        """See the port."""
        self._call(len(sessions))
        await asyncio.sleep(0)
        return frozenset(self.at_boot & set(sessions)) if self.starter_installed else frozenset()

    async def set_limits(self, session: str, properties: Mapping[str, str]) -> None:
        """See the port."""
        self._call()
        table.check(properties)
        await asyncio.sleep(0)
        kept = self.limited.setdefault(session, {})
        for name, text in properties.items():
            kept[name] = text.strip()
        self.limited[session] = {name: text for name, text in kept.items() if text}

    async def limits(self, session: str) -> dict[str, str]:
        """See the port."""
        self._call()
        await asyncio.sleep(0)
        return dict(self.limited.get(session, {}))

    async def unenforced(self, properties: Sequence[str]) -> list[str]:
        """See the port."""
        self._call()
        return [name for name in properties if table.find(name).controller not in self.controllers]

    async def forget(self, session: str) -> None:
        """See the port."""
        self._call()
        await asyncio.sleep(0)
        self._drop_failed(session)
        self.limited.pop(session, None)
        self.hand_enable(session, False)

    async def stop_supervisor(self) -> None:
        """See the port."""
        self._call()
        self.supervisor_stops += 1

    async def last_log(self, session: str, lines: int) -> list[str]:
        """See the port."""
        self.calls += 1
        if not self.journal_readable:
            raise Unreachable("journal_unreadable", "the journal cannot be read")
        return self.logs.get(session, [])[-lines:] if lines > 0 else []

    async def info(self) -> InitInfo:
        """See the port."""
        self._call()
        return InitInfo("fake", "1", self.controllers)

    async def close(self) -> None:
        """See the port."""
        self.closed = True
        for queue in self._watchers:
            queue.put_nowait(None)

    # ---- what happens by hand or by accident

    def lose(self, reason: str) -> None:
        """It no longer answers."""
        self.away = reason
        self._tell(Lost(reason))

    def recover(self) -> None:
        """It answers again."""
        self.away = ""
        self._tell(self._whole())

    def hand_start(self, session: str) -> None:
        """Somebody starts a session's daemon besides us."""
        self._begin(session)
        self.ready(session)

    def ready(self, session: str) -> None:
        """The daemon says that it is ready."""
        self._change(daemon_unit(session), active_state="active", sub_state="running")

    def hand_stop(self, session: str) -> None:
        """All of a session is stopped, and its units are gone."""
        unit = daemon_unit(session)
        if self._state(unit) in ("active", "activating"):
            self._change(unit, active_state="deactivating", sub_state="stop-sigterm")
            self._change(unit, active_state="inactive", sub_state="dead", main_pid=0)
        for name in (unit, agents_slice(session), session_slice(session)):
            if self.units.pop(name, None) is not None:
                self._tell(UnitRemoved(name))

    def hand_enable(self, session: str, enabled: bool) -> None:
        """Whether a session starts at boot is changed, by us or besides us."""
        if (session in self.at_boot) is enabled:
            return
        (self.at_boot.add if enabled else self.at_boot.discard)(session)
        self._tell(EnablementChanged())

    def crash(self, session: str, signal: int = signals.SIGKILL) -> None:
        """The daemon's process is killed, and started again."""
        unit = daemon_unit(session)
        restarts = self.units[unit].n_restarts
        ended = {"result": "signal", "exec_main_code": CLD_KILLED, "exec_main_status": int(signal)}
        self._change(unit, main_pid=0, **ended)
        self._change(unit, active_state="activating", sub_state="auto-restart")
        self._change(unit, **_running("activating", "start", self._next_pid()), n_restarts=restarts + 1)
        self.ready(session)

    def fail(self, session: str, result: str = "exit-code", exit_status: int = 1) -> None:
        """The daemon ends for good, in a failure."""
        unit = daemon_unit(session)
        ended = {"result": result, "exec_main_code": CLD_EXITED, "exec_main_status": exit_status}
        self._change(unit, active_state="failed", sub_state="failed", main_pid=0, **ended)

    def freeze(self, session: str, frozen: bool) -> None:
        """The agents' slice is frozen or thawed."""
        unit = agents_slice(session)
        if unit not in self.units:
            self._appear(UnitStatus(unit, active_state="active", sub_state="active"))
        self._change(unit, freezer_state="frozen" if frozen else "running")

    # ---- inside

    def _call(self, count: int = 1) -> None:
        if self.closed or self.away:
            raise Unreachable("init_unavailable", self.away or "the connection was closed")
        self.calls += count

    def _state(self, unit: str) -> str:
        return self.units[unit].active_state if unit in self.units else "inactive"

    def _next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def _begin(self, session: str) -> None:
        self._drop_failed(session)
        if session_slice(session) not in self.units:
            self._appear(UnitStatus(session_slice(session), active_state="active", sub_state="active"))
        status = UnitStatus(daemon_unit(session), state_changed_at=datetime.now(UTC))
        self._appear(replace(status, **_running("activating", "start", self._next_pid())))

    def _drop_failed(self, session: str) -> None:
        unit = daemon_unit(session)
        if self._state(unit) == "failed":
            del self.units[unit]
            self._tell(UnitRemoved(unit))

    def _appear(self, status: UnitStatus) -> None:
        self.units[status.name] = status
        self._tell(UnitAppeared(status))

    def _change(self, unit: str, **changes: Any) -> None:
        if "active_state" in changes:
            changes["state_changed_at"] = datetime.now(UTC)
        self.units[unit] = replace(self.units[unit], **changes)
        self._tell(UnitChanged(unit, changes))

    def _whole(self) -> Connected:
        return Connected(tuple(self.units.values()))

    def _tell(self, *events: UnitEvent) -> None:
        for queue in self._watchers:
            for event in events:
                # Who hears nothing while the bus is away learns all from the next Connected.
                if not self.away or isinstance(event, Lost):
                    queue.put_nowait(event)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _started(self, unit: str) -> None:
        await self._until(unit, lambda now: now is None or now.active_state != "activating")
        if self._state(unit) != "active":
            raise _start_failed(unit, "another request, such as a stop, cancelled it")

    async def _until(self, unit: str, test: Any) -> None:
        while not test(self.units.get(unit)):
            await self._changed.wait()


def _running(active: str, sub: str, pid: int) -> dict[str, Any]:
    """A process that was just started: what its last end left is cleared."""
    ended = {"result": "success", "exec_main_code": 0, "exec_main_status": 0}
    return {"active_state": active, "sub_state": sub, "main_pid": pid, **ended}


def _start_failed(unit: str, why: str) -> Conflict:
    return Conflict("start_failed", f"{unit} did not start: {why}", fields={"unit": unit})


def daemon_statuses(sessions: Iterable[str]) -> list[UnitStatus]:
    """Units of daemons that run, to begin with."""
    return [
        replace(UnitStatus(daemon_unit(session)), **_running("active", "running", 100 + number))
        for number, session in enumerate(sessions)
    ]
