"""Session daemons that know agents, in memory, behind the real supervisor of `cli_case`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sessiond.errors import Conflict, SessiondError
from sessiond.model.agent import AgentState
from sessiond.model.agent_selection import find
from sessiond.paths import Paths
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc
from sessiond.rpc.server import Server
from tests.unit.cli_case import StandIn, ctl

ENDED = (pb.AGENT_STATE_COMPLETED, pb.AGENT_STATE_FAILED, pb.AGENT_STATE_TERMINATED)


@dataclass
class _Row:
    """A message as the rule on words sees an agent."""

    message: Any

    @property
    def id(self) -> str:
        return str(self.message.id)

    @property
    def spec(self) -> Any:
        return self.message

    @property
    def state(self) -> AgentState:
        return AgentState(pb.AgentState.Name(self.message.state).removeprefix("AGENT_STATE_").lower())


@dataclass
class Daemon(agents_pb2_grpc.AgentsServiceServicer):
    """One session's daemon: does what it is told to its agents, and keeps what it was asked.

    ``faults`` are raised by method, ``codes`` told of agents by their name in a batch. What agents print
    is in ``printed``; one whose record is followed ends with ``exit_status`` when all of it was read, and
    ``at_end`` is called before.
    """

    session: str
    agents: list[Any] = field(default_factory=list)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    faults: dict[str, SessiondError] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    printed: dict[Any, bytes] = field(default_factory=dict)
    exit_status: int = 0
    at_end: Callable[[Any], None] = lambda _agent: None
    # What is followed goes on until a signal comes.
    held: asyncio.Event | None = None

    def add(self, name: str, state: str = "running", **fields: Any) -> Any:
        """One agent more; ids count from 1."""
        fields.setdefault("id", f"{len(self.agents) + 1:04x}{self.session[:12]}")
        fields.setdefault("command", ["sleep", "1"])
        number = f"AGENT_STATE_{state.upper()}"
        one = pb.Agent(name=name, session=self.session, state=number, **fields)
        one.unit = f"sessiond-agent@{self.session}-{one.id}.service"
        one.created_at.FromSeconds(1_700_000_000 + len(self.agents))
        one.started_at.FromSeconds(1_700_000_000 + len(self.agents))
        if one.state in ENDED:
            one.ended_at.FromSeconds(1_700_000_100)
        self.agents.append(one)
        return one

    def requests(self, method: str) -> list[Any]:
        """What was asked of a method."""
        return [request for name, request in self.asked if name == method]

    def _find(self, word: str) -> Any:
        return find(word, [_Row(one) for one in self.agents]).message  # type: ignore[misc,attr-defined]

    def _note(self, method: str, request: Any) -> None:
        self.asked.append((method, request))
        if method in self.faults:
            raise self.faults[method]

    def _one(self, method: str, request: Any, state: int | None = None) -> Any:
        self._note(method, request)
        one = self._find(request.agent)
        if state is not None:
            if one.state in ENDED and state in (pb.AGENT_STATE_PAUSED, pb.AGENT_STATE_RUNNING):
                raise Conflict("agent_not_running", f"{one.name} does not run", hint="restart it")
            one.state = state
        return one

    # ---- the service

    async def SpawnAgent(self, request: Any, context: Any) -> Any:
        self._note("SpawnAgent", request)
        one = self.add(request.name or "new", command=list(request.command), tty=request.tty)
        return pb.SpawnAgentResponse(agent=one)

    async def ListAgents(self, request: Any, context: Any) -> Any:
        self._note("ListAgents", request)
        return pb.ListAgentsResponse(agents=[one for one in self.agents if _takes(request.selection, one)])

    async def GetAgent(self, request: Any, context: Any) -> Any:
        return pb.GetAgentResponse(agent=self._one("GetAgent", request))

    async def SignalAgent(self, request: Any, context: Any) -> Any:
        one = self._one("SignalAgent", request)
        if self.held is not None:
            self.held.set()
        return pb.SignalAgentResponse(agent=one)

    async def StopAgent(self, request: Any, context: Any) -> Any:
        return pb.StopAgentResponse(agent=self._one("StopAgent", request, pb.AGENT_STATE_TERMINATED))

    async def KillAgent(self, request: Any, context: Any) -> Any:
        return pb.KillAgentResponse(agent=self._one("KillAgent", request, pb.AGENT_STATE_TERMINATED))

    async def PauseAgent(self, request: Any, context: Any) -> Any:
        return pb.PauseAgentResponse(agent=self._one("PauseAgent", request, pb.AGENT_STATE_PAUSED))

    async def ResumeAgent(self, request: Any, context: Any) -> Any:
        return pb.ResumeAgentResponse(agent=self._one("ResumeAgent", request, pb.AGENT_STATE_RUNNING))

    async def RestartAgent(self, request: Any, context: Any) -> Any:
        one = self._one("RestartAgent", request)
        one.state = pb.AGENT_STATE_RUNNING
        return pb.RestartAgentResponse(agent=one)

    async def RemoveAgent(self, request: Any, context: Any) -> Any:
        one = self._one("RemoveAgent", request)
        if one.state not in ENDED and not request.force:
            raise Conflict("agent_running", f"{one.name} runs", hint="stop it")
        self.agents.remove(one)
        return pb.RemoveAgentResponse(agent=one)

    async def WaitAgent(self, request: Any, context: Any) -> Any:
        return pb.WaitAgentResponse(agent=self._one("WaitAgent", request))

    async def SendInput(self, request: Any, context: Any) -> Any:
        self._one("SendInput", request)
        return pb.SendInputResponse(bytes=1)

    async def StreamRecord(self, request: Any, context: Any) -> Any:
        one = self._one("StreamRecord", request)
        both = request.stream == pb.OUTPUT_STREAM_BOTH
        for stream, data in self.printed.items():
            if both or stream == request.stream:
                yield pb.StreamRecordResponse(stream=stream, data=data)
        if request.follow:
            if self.held is not None:
                await self.held.wait()
            if one.state not in ENDED:
                self.at_end(one)
                one.state = pb.AGENT_STATE_FAILED if self.exit_status else pb.AGENT_STATE_COMPLETED
                one.exit_status = self.exit_status
                one.ended_at.GetCurrentTime()
            yield pb.StreamRecordResponse(ended=one)

    async def BatchAgents(self, request: Any, context: Any) -> Any:
        self._note("BatchAgents", request)
        chosen = [one for one in self.agents if _takes(request.selection, one)]
        results = []
        for one in chosen:
            code = self.codes.get(one.name, "")
            results.append(pb.BatchResult(agent=one, code=code, message=f"it is {code}" if code else ""))
        return pb.BatchAgentsResponse(results=results)


def _takes(selection: Any, one: Any) -> bool:
    if selection.agents:
        return one.id in selection.agents or one.name in selection.agents
    return (
        (one.state not in ENDED or selection.include_ended or one.state in selection.states)
        and (not selection.states or one.state in selection.states)
        and (not selection.group or one.group == selection.group)
        and all(one.labels.get(key) == value for key, value in selection.labels.items())
        and all(key in one.labels for key in selection.label_keys)
    )


class Daemons:
    """Sessions that run, each with a daemon of this module."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self._stand_in = stand_in
        self._folder = folder
        self._servers: list[Server] = []
        self.of: dict[str, Daemon] = {}

    def start(self, name: str) -> Daemon:
        """A new session that runs; its workspace is the folder of its name."""
        made = ctl("new", str(self._folder / name), "--start", "--json").json
        return self.serve(made["id"], name)

    def serve(self, session: str, name: str) -> Daemon:
        """A daemon for a session."""
        paths = Paths.from_environment()
        # The supervisor asks those that hold agents.
        (paths.session_state(session) / "agents" / "0000000000000000").mkdir(parents=True)
        daemon = self.of[name] = Daemon(session)

        async def serve() -> None:
            server = Server(paths.session_socket(session))
            agents_pb2_grpc.add_AgentsServiceServicer_to_server(daemon, server.grpc)
            await server.start()
            self._servers.append(server)

        self._stand_in.wait(serve())
        return daemon

    def do(self, deed: Callable[[], Any]) -> Any:
        """Do something where the daemons live."""
        return self._stand_in.do(deed)

    def stop(self) -> None:
        """End them."""
        for server in self._servers:
            self._stand_in.wait(server.stop(0))
