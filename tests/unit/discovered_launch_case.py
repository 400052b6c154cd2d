"""Launches over a finder in memory and daemons that stand in: they know agents, and what these printed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sessiond.adapters import ADAPTERS
from sessiond.aio import Pulse
from sessiond.errors import NotFound, SessiondError
from sessiond.model.agent import AgentSpec, new_agent_id
from sessiond.model.agent_session import STOPPED, Found, Key, Overlay
from sessiond.rpc._generated.v1 import agents_pb2, discovery_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.testing.fake_finder import FakeFinder
from tests.unit.supervisor_agents_case import PATIENCE, Daemon, House, house

RUNNING = agents_pb2.AGENT_STATE_RUNNING
ENDED = agents_pb2.AGENT_STATE_COMPLETED


class Living(Daemon):
    """A daemon with agents: it spawns what it is asked for, and tells what was printed."""

    def __init__(self, made: House, socket: Path, session: str) -> None:
        super().__init__(socket)
        self.made = made
        self.session = session
        self.known: dict[str, agents_pb2.Agent] = {}
        self.spawned: list[Any] = []
        self.typed: list[Any] = []
        self.output: dict[str, bytes] = {}
        self.changed = Pulse()
        self.readers = 0
        self.dies = False
        # What is done once an agent is there, and before that is answered.
        self.between: Any = None
        self.refusal: SessiondError | None = None

    async def SpawnAgent(self, request: Any, context: Any) -> Any:
        self.spawned.append(request)
        if self.refusal is not None:
            raise self.refusal
        answer = agents_pb2.SpawnAgentResponse(agent=self._spawn(request))
        if self.between is not None:
            await self.between()
        return await self._answer(request, context, answer)

    def _spawn(self, request: Any) -> agents_pb2.Agent:
        name = f"one-{len(self.known)}"
        spec = AgentSpec(
            new_agent_id(),
            self.session,
            name,
            tuple(request.command),
            Path("/bin/true"),
            self.made.folder,
            boot="",
            manager="",
            created=datetime.now(UTC),
            tty=request.tty,
        )
        self.made.book(self.session).claim(spec, {"PATH": "/bin"})
        agent = spec.id
        self.known[agent] = agents_pb2.Agent(
            id=agent, session=self.session, name=name, tty=request.tty, state=RUNNING, pid=77
        )
        return self.known[agent]

    async def GetAgent(self, request: Any, context: Any) -> Any:
        if request.agent not in self.known:
            raise NotFound("agent_not_found", "none")
        return agents_pb2.GetAgentResponse(agent=self.known[request.agent])

    async def SendInput(self, request: Any, context: Any) -> Any:
        self.typed.append(request)
        return await super().SendInput(request, context)

    async def StreamRecord(self, request: Any, context: Any) -> Any:
        if request.agent not in self.known:
            raise NotFound("agent_not_found", "none")
        sent = 0
        self.readers += 1
        self.changed.fire()
        try:
            while True:
                news = self.changed.next
                data = self.output.get(request.agent, b"")[sent:]
                piece = max(7, len(data) // 100)
                for at in range(0, len(data), piece):
                    yield agents_pb2.StreamRecordResponse(offset=sent, data=data[at : at + piece])
                sent += len(data)
                if self.known[request.agent].state == ENDED:
                    yield agents_pb2.StreamRecordResponse(offset=sent, ended=self.known[request.agent])
                    return
                await news.wait()
        finally:
            self.readers -= 1
            self.changed.fire()

    async def read(self, readers: int) -> None:
        """Return once so many follow what is printed."""
        async with asyncio.timeout(PATIENCE):
            await self.changed.until(lambda: self.readers == readers or None)

    def print(self, agent: str, data: bytes) -> None:
        """An agent prints this."""
        self.output[agent] = self.output.get(agent, b"") + data
        self.changed.fire()

    def end(self, agent: str) -> None:
        """An agent ends."""
        self.known[agent].state = ENDED
        self.changed.fire()


class Base:
    """A supervisor with a session that runs, and its daemon."""

    def __init__(self, made: House, finder: FakeFinder) -> None:
        self.made = made
        self.finder = finder
        self.session = ""
        self.daemon: Living = None  # type: ignore[assignment]
        self.stub: Any = discovery_pb2_grpc.DiscoveryServiceStub(made.channel)

    @property
    def discovered(self) -> Any:
        return self.made.parts.discovered

    @property
    def workspace(self) -> Path:
        return Path(self.made.parts.directory.get(self.session).path)

    async def run(self, name: str) -> Living:
        """Another session with its daemon."""
        session = await self.made.session(name)
        daemon = Living(self.made, self.made.paths.session_socket(session), session)
        self.made.daemons.append(await daemon.start())
        return daemon

    def spawn(self, **fields: Any) -> agents_pb2.SpawnAgentRequest:
        return agents_pb2.SpawnAgentRequest(**{"session": self.session, **fields})

    async def launch(self, adapter: str = "claude-code", prompt: str = "do it", **fields: Any) -> Any:
        spawn = fields.pop("spawn", None) or self.spawn()
        request = pb.LaunchAgentSessionRequest(adapter=adapter, spawn=spawn, prompt=prompt, **fields)
        return await self.stub.LaunchAgentSession(request, timeout=PATIENCE)

    async def resume(self, word: str, prompt: str = "go on", **fields: Any) -> Any:
        spawn = fields.pop("spawn", None) or agents_pb2.SpawnAgentRequest()
        request = pb.ResumeAgentSessionRequest(agent_session=word, spawn=spawn, prompt=prompt, **fields)
        return await self.stub.ResumeAgentSession(request, timeout=PATIENCE)

    async def rows(self) -> dict[str, Any]:
        """All rows by id."""
        request = pb.ListAgentSessionsRequest(filter=pb.AgentSessionFilter(include_stopped=True))
        answer = await self.stub.ListAgentSessions(request, timeout=PATIENCE)
        return {one.id: one for one in answer.agent_sessions}

    async def label(self, word: str, **labels: str) -> None:
        request = pb.LabelAgentSessionRequest(agent_session=word, set_labels=labels)
        await self.stub.LabelAgentSession(request, timeout=PATIENCE)

    async def until(self, test: Any) -> None:
        """Return once what is known is so."""
        async with asyncio.timeout(PATIENCE):
            await self.discovered.changed.until(lambda: test() or None)

    def kept(self) -> dict[Key, Overlay]:
        """What the supervisor keeps."""
        return dict(self.discovered._overlays.all)

    def put(self, conversation: str, adapter: str = "claude-code", **fields: Any) -> Found:
        """A conversation in the workspace."""
        one = Found(adapter, conversation, **{"cwd": str(self.workspace), "life": STOPPED, **fields})
        self.finder.put(one)
        return one


@asynccontextmanager
async def launching(
    folder: Path, finder: FakeFinder | None = None, *, before: Living | None = None
) -> AsyncIterator[Base]:
    """A supervisor with one session that runs; with the daemon of ``before``, the next life of that one."""
    finder = finder or FakeFinder(adapters=tuple(ADAPTERS))
    async with house(folder, finder) as made:
        base = Base(made, finder)
        if before is None:
            base.daemon = await base.run("work")
        else:
            sessions = sessions_pb2_grpc.SessionsServiceStub(made.channel)
            request = sessions_pb2.StartSessionRequest(session=before.session)
            await sessions.StartSession(request, timeout=PATIENCE)
            base.daemon = Living(made, made.paths.session_socket(before.session), before.session)
            base.daemon.known, base.daemon.output = before.known, before.output
            made.daemons.append(await base.daemon.start())
        base.session = base.daemon.session
        yield base
