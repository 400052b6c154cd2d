"""What the measurements stand on: an installed supervisor, a client connected to it, bare units."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc.aio
from dbus_fast import Variant

from sessiond.model.unit import daemon_unit, session_slice
from sessiond.paths import Paths
from sessiond.rpc._generated.v1 import (
    daemon_pb2,
    daemon_pb2_grpc,
    discovery_pb2_grpc,
    sessions_pb2,
    sessions_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    types_pb2,
)
from sessiond.rpc.channel import CHANNEL_OPTIONS
from tests.benchmarks.bus import Bus

_BARE = Path(__file__).with_name("bare.py")
SUPERVISOR = "sessiond.service"
DEADLINE = 60.0

Measure = Callable[[], Awaitable[float]]


def progress(text: str) -> None:
    """Tell whoever waits."""
    print(f"  {text}", file=sys.stderr, flush=True)


async def interleave(runs: int, *measures: Measure) -> list[list[float]]:
    """Samples of each measure, taken A B A B; the first round is not counted."""
    samples: list[list[float]] = [[] for _ in measures]
    for count in range(runs + 1):
        for kept, measure in zip(samples, measures, strict=True):
            taken = await measure()
            if count:
                kept.append(taken)
    return samples


async def timed(wait: Awaitable[Any]) -> float:
    """Milliseconds until it is done."""
    began = time.perf_counter()
    await wait
    return (time.perf_counter() - began) * 1000


class Stage:
    """The supervisor under systemd, as `sessionctl install` leaves it; all of it ends with the host."""

    def __init__(self) -> None:
        self.paths = Paths.from_environment()
        self._stack = AsyncExitStack()
        self._numbers = itertools.count(1)
        self.home = Path.home()
        self.bus: Bus
        self._channel: grpc.aio.Channel

    async def __aenter__(self) -> Self:
        sessionctl("install")
        self.bus = await self._stack.enter_async_context(await Bus.connect())
        self._connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()
        await self._stack.aclose()

    def _connect(self) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{self.paths.socket}", options=CHANNEL_OPTIONS)

    async def reconnect(self) -> None:
        """Drop the connection, as a supervisor that ended did, and make another."""
        await self._channel.close()
        self._connect()

    @property
    def sessions(self) -> Any:
        """Stub of SessionsService on the connection there is."""
        return sessions_pb2_grpc.SessionsServiceStub(self._channel)

    @property
    def discovery(self) -> Any:
        """Stub of DiscoveryService on the connection there is."""
        return discovery_pb2_grpc.DiscoveryServiceStub(self._channel)

    @property
    def system(self) -> Any:
        """Stub of SystemService on the connection there is."""
        return system_pb2_grpc.SystemServiceStub(self._channel)

    # ---- sessions

    async def create(self) -> str:
        """Id of a new session, stopped."""
        folder = self.home / "work" / f"session-{next(self._numbers):04}"
        folder.mkdir(parents=True)
        request = sessions_pb2.CreateSessionRequest(path=str(folder))
        return str((await self.sessions.CreateSession(request)).session.id)

    async def start(self, session: str) -> None:
        """Start a session; returns when its daemon serves."""
        answer = await self.sessions.StartSession(sessions_pb2.StartSessionRequest(session=session))
        assert answer.session.state == types_pb2.SESSION_STATE_ACTIVE, answer

    async def active(self, session: str) -> None:
        """Return when the supervisor says that it is active."""
        await self.sessions.WaitSession(sessions_pb2.WaitSessionRequest(session=session), timeout=DEADLINE)

    async def stop(self, session: str) -> None:
        """Stop a session; returns when all of it is stopped."""
        await self.sessions.StopSession(sessions_pb2.StopSessionRequest(session=session))

    async def delete(self, session: str) -> None:
        """Remove a session, stopped first."""
        await self.sessions.DeleteSession(sessions_pb2.DeleteSessionRequest(session=session, stop=True))

    async def rows(self) -> Sequence[Any]:
        """All sessions, as one call of a connected client answers."""
        return list((await self.sessions.ListSessions(sessions_pb2.ListSessionsRequest())).sessions)

    async def init_calls(self) -> int:
        """Requests that the supervisor has made of systemd so far."""
        return int((await self.system.GetInfo(system_pb2.GetInfoRequest())).init_calls)

    async def daemon_pid(self, session: str) -> int:
        """What a session's daemon answers on its own socket, asked over a new connection."""
        target = f"unix:{self.paths.session_socket(session)}"
        async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            stub = daemon_pb2_grpc.SessionDaemonServiceStub(channel)
            request = daemon_pb2.GetDaemonInfoRequest(session=session)
            return int((await stub.GetDaemonInfo(request, timeout=DEADLINE)).pid)

    # ---- many sessions

    def write_identities(self, count: int) -> list[str]:
        """Ids of sessions that are made on disk alone, below a root that the supervisor scans."""
        made = []
        for number in range(count):
            session = secrets.token_hex(16)
            own = self.home / "projects" / f"project-{number:04}" / ".sessiond"
            own.mkdir(parents=True)
            identity = {
                "format": 1,
                "id": session,
                "name": own.parent.name,
                "type": "development",
                "owner": "tester",
                "created": datetime.now(UTC).isoformat(),
            }
            (own / "session.json").write_text(json.dumps(identity))
            made.append(session)
        return made

    async def start_stand_in(self, session: str) -> None:
        """A unit of a session daemon's name, slice and restart policy whose process only sleeps."""
        await self.bus.start(
            daemon_unit(session),
            ["/bin/sleep", "infinity"],
            Type=Variant("s", "exec"),
            Slice=Variant("s", session_slice(session)),
            Restart=Variant("s", "on-failure"),
            KillMode=Variant("s", "mixed"),
            Description=Variant("s", f"Stand-in for the daemon of session {session}"),
        )

    # ---- bare units

    def bare_name(self) -> str:
        """A name for a bare unit."""
        return f"bare-{next(self._numbers)}.service"

    async def start_bare(self, unit: str, **more: Variant) -> None:
        """Start a bare grpc.aio daemon; returns at its READY, as the end of its job tells."""
        socket = self.paths.runtime.parent / f"{unit}.sock"
        argv = [sys.executable, str(_BARE), str(socket)]
        await self.bus.start(unit, argv, Type=Variant("s", "notify"), **more)

    async def bare_start(self) -> float:
        """Milliseconds from the call to READY of a bare daemon, stopped again afterwards."""
        unit = self.bare_name()
        took = await timed(self.start_bare(unit))
        await self.bus.stop(unit)
        return took

    # ---- the supervisor

    async def all_active(self, count: int) -> None:
        """Return at the first listing with so many sessions that are all active; raises TimeoutError."""
        async with asyncio.timeout(DEADLINE):
            while True:
                rows = await self.rows()
                if len(rows) == count and all(row.state == types_pb2.SESSION_STATE_ACTIVE for row in rows):
                    return


def program(name: str) -> str:
    """Path of a program installed beside this interpreter."""
    return os.path.join(os.path.dirname(sys.executable), name)


def sessionctl(*words: str) -> str:
    """Run sessionctl; returns what it printed."""
    done = subprocess.run([program("sessionctl"), *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"sessionctl {' '.join(words)}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout
