"""A supervisor in this process, and session daemons that stand in for real ones on their sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sessiond import config
from sessiond.agents.book import Book
from sessiond.errors import SessiondError, Unreachable
from sessiond.model.agent import AgentEnd, AgentSpec, AgentUnit, new_agent_id
from sessiond.model.state import SessionState
from sessiond.model.unit import UnitStatus, agent_unit
from sessiond.paths import Paths, private_folder
from sessiond.ports.discovery import Finder
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from sessiond.rpc.channel import CHANNEL_OPTIONS
from sessiond.rpc.server import Server
from sessiond.rpc.status import from_rpc_error
from sessiond.supervisor import parts
from sessiond.supervisor.agent_lists import AgentLists
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.at_rest import AtRest
from sessiond.supervisor.forwarding import Daemons
from sessiond.supervisor.mirror import Mirror
from sessiond.supervisor.rest_output import RestOutput
from sessiond.terminal.emulator import make_screen
from sessiond.testing.fake_init import FakeInit

PATIENCE = 60.0


class Daemon(agents_pb2_grpc.AgentsServiceServicer):
    """A session's daemon: answers with what it was asked, and misbehaves as it is told to."""

    def __init__(self, socket: Path) -> None:
        self._server = Server(socket)
        agents_pb2_grpc.add_AgentsServiceServicer_to_server(self, self._server.grpc)
        self.requests: list[Any] = []
        self.agents: list[pb.Agent] = []
        self.deadlines: list[float | None] = []
        self.fault: SessiondError | None = None
        self.asked = asyncio.Event()
        self.held: asyncio.Event | None = None
        self.broken_off = asyncio.Event()
        self.sent = 0

    async def start(self) -> Daemon:
        await self._server.start()
        return self

    async def stop(self) -> None:
        await self._server.stop(0)

    async def _answer(self, request: Any, context: Any, response: Any) -> Any:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        self.asked.set()
        if self.fault is not None:
            raise self.fault
        try:
            if self.held is not None:
                await self.held.wait()
        except asyncio.CancelledError:
            self.broken_off.set()
            raise
        return response

    async def SpawnAgent(self, request: Any, context: Any) -> Any:
        agent = pb.Agent(id="a" * 16, session=request.session, command=request.command)
        return await self._answer(request, context, pb.SpawnAgentResponse(agent=agent))

    async def GetAgent(self, request: Any, context: Any) -> Any:
        agent = pb.Agent(id="a" * 16, session=request.session, name=request.agent)
        return await self._answer(request, context, pb.GetAgentResponse(agent=agent))

    async def WaitAgent(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context, pb.WaitAgentResponse(agent=pb.Agent(id="a" * 16)))

    async def SendInput(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context, pb.SendInputResponse(bytes=7))

    async def ListAgents(self, request: Any, context: Any) -> Any:
        return await self._answer(request, context, pb.ListAgentsResponse(agents=self.agents))

    async def BatchAgents(self, request: Any, context: Any) -> Any:
        chosen = [one for one in self.agents if one.id in request.selection.agents]
        results = [pb.BatchResult(agent=one, code="" if one.name != "bad" else "broken") for one in chosen]
        return await self._answer(request, context, pb.BatchAgentsResponse(results=results))

    async def StreamRecord(self, request: Any, context: Any) -> Any:
        await self._answer(request, context, None)
        try:
            for number in range(request.offset):
                yield pb.StreamRecordResponse(offset=number, data=bytes(32 * 1024))
                self.sent = number + 1
            ended = pb.Agent(id="a" * 16, name="last")
            yield pb.StreamRecordResponse(offset=request.offset, stream=pb.OUTPUT_STREAM_STDOUT, ended=ended)
        finally:
            self.broken_off.set()

    async def AttachAgent(self, requests: Any, context: Any) -> Any:
        try:
            async for request in requests:
                await self._answer(request, context, None)
                if request.input == b"end":
                    yield pb.AttachAgentResponse(ended=pb.Agent(id="a" * 16))
                    return
                yield pb.AttachAgentResponse(
                    output=pb.AttachOutput(data=request.input or request.start.agent.encode())
                )
        finally:
            self.broken_off.set()


@dataclass
class Units:
    """Units of one session's agents, as the init system would tell them."""

    units: list[AgentUnit] = field(default_factory=list)
    away: bool = False
    asked: int = 0
    released: list[str] = field(default_factory=list)
    closed: int = 0

    async def list(self) -> list[AgentUnit]:
        self.asked += 1
        if self.away:
            raise Unreachable("init_unavailable", "nobody is there")
        return self.units

    async def manager(self) -> str:
        return "this manager"

    async def release(self, agent: str) -> None:
        self.released.append(agent)

    async def close(self) -> None:
        self.closed += 1


class House:
    """The supervisor; ``stub`` speaks to it as clients do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = Paths.from_environment()
        self.init = FakeInit()
        self.units: dict[str, Units] = {}
        self.daemons: list[Daemon] = []
        self.closing: list[Daemons] = []
        self.parts: Any = None
        self.stub: Any = None
        self.channel: Any = None

    async def session(self, name: str, *, start: bool = True) -> str:
        """A new session; the init system says that it runs, whether a daemon stands in or not."""
        path = self.folder / name
        path.mkdir()
        sessions = sessions_pb2_grpc.SessionsServiceStub(self.channel)
        request = sessions_pb2.CreateSessionRequest(path=str(path), name=name, start=start)
        return str((await sessions.CreateSession(request, timeout=PATIENCE)).session.id)

    async def delete(self, session: str, *, stop: bool = False) -> None:
        """Delete a session as clients do."""
        sessions = sessions_pb2_grpc.SessionsServiceStub(self.channel)
        request = sessions_pb2.DeleteSessionRequest(session=session, stop=stop)
        await sessions.DeleteSession(request, timeout=PATIENCE)

    async def daemon(self, session: str) -> Daemon:
        """A daemon that stands in on the session's socket."""
        daemon = await Daemon(self.paths.session_socket(session)).start()
        self.daemons.append(daemon)
        return daemon

    async def running(self, name: str) -> tuple[str, Daemon]:
        """A session that runs, with its daemon."""
        session = await self.session(name)
        return session, await self.daemon(session)

    def book(self, session: str) -> Book:
        return Book(session, self.paths.session_state(session), self.paths.runtime)

    def keep(self, session: str, name: str, end: AgentEnd | None = None, **fields: Any) -> str:
        """Enter an agent in a session's book; returns its id."""
        made: dict[str, Any] = {"boot": "", "manager": "", "created": datetime.now(UTC), **fields}
        program = Path("/bin/true")
        spec = AgentSpec(new_agent_id(), session, name, ("true",), program, self.folder, **made)
        self.book(session).claim(spec, {"PATH": "/bin"})
        if end is not None:
            self.book(session).write_end(spec.id, end)
        return spec.id

    def unit(self, session: str, agent: str, active: str = "active", sub: str = "running") -> None:
        """Have the init system tell a unit of an agent."""
        status = UnitStatus(agent_unit(session, agent), active_state=active, sub_state=sub, main_pid=77)
        self.of(session).units.append(AgentUnit(status))

    def of(self, session: str) -> Units:
        return self.units.setdefault(session, Units())

    @property
    def calls(self) -> AgentCalls:
        """Routing as it is."""
        return self.calls_with(patience=60)

    def calls_with(self, *, patience: float) -> AgentCalls:
        """Routing with another patience."""
        daemons = Daemons(self.paths.session_socket)
        self.closing.append(daemons)
        at_rest = AtRest(self.paths, self.of, RestOutput(make_screen, 100))  # type: ignore[arg-type]
        return AgentCalls(self.parts.directory, daemons, at_rest, patience=patience)

    def lists_with(self, *, seconds: float) -> AgentLists:
        """Listings with another bound."""
        at_rest = AtRest(self.paths, self.of, RestOutput(make_screen, 100))  # type: ignore[arg-type]
        return AgentLists(self.parts.directory, self.calls_with(patience=60), at_rest, seconds=seconds)

    async def until(self, session: str, state: SessionState) -> None:
        async with asyncio.timeout(PATIENCE):
            directory = self.parts.directory
            await directory.changed.until(lambda: True if directory.state(session) is state else None)

    async def fails(self, call: Any) -> SessiondError:
        """The error that a call ends with."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        raise AssertionError(f"answered: {answer}")


@asynccontextmanager
async def house(folder: Path, finder: Finder | None = None) -> AsyncIterator[House]:
    """A supervisor that serves, over an init system in memory, and over a finder in memory where one is
    given."""
    made = House(folder)
    private_folder(made.paths.runtime)
    private_folder(made.paths.state)
    os.environ["SESSIOND_DISCOVERY_WATCH"] = "false"
    async with AsyncExitStack() as stack:
        mirror = Mirror(made.init)
        following = asyncio.create_task(mirror.run())
        settings = config.load(made.paths.config_file)
        made.parts = await parts.build(
            stack,
            made.paths,
            settings,
            made.init,
            mirror,
            units=made.of,  # type: ignore[arg-type]
            make_finder=None if finder is None else lambda: finder,
        )
        await made.parts.load()
        await made.parts.server.start()
        async with grpc.aio.insecure_channel(
            f"unix:{made.paths.socket}", options=CHANNEL_OPTIONS
        ) as made.channel:
            made.stub = agents_pb2_grpc.AgentsServiceStub(made.channel)
            yield made
        await made.parts.server.stop(0)
        for one in made.closing:
            await one.close()
        for daemon in made.daemons:
            await daemon.stop()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
