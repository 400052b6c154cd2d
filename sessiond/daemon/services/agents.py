"""AgentsService: one session's agents over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from sessiond.daemon import batch
from sessiond.daemon.agents import Agents
from sessiond.daemon.services.session import check_session
from sessiond.daemon.spawning import Spawn
from sessiond.errors import InvalidArgument
from sessiond.model.signals import parse_signal
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc
from sessiond.rpc.agent_codec import (
    agent_states_from_wire,
    agent_to_wire,
    restart_from_wire,
    seconds,
    selection_from_wire,
)


class ViewsLike(Protocol):
    """What looks at agents' output and types into their terminals, in messages of the wire."""

    def attach(
        self, requests: AsyncIterator[pb.AttachAgentRequest], context: Any
    ) -> AsyncGenerator[pb.AttachAgentResponse, None]: ...

    async def send_input(self, request: pb.SendInputRequest) -> pb.SendInputResponse: ...

    async def get_screen(self, request: pb.GetScreenRequest) -> pb.GetScreenResponse: ...

    async def read_output(self, request: pb.ReadOutputRequest) -> pb.ReadOutputResponse: ...

    def stream_record(
        self, request: pb.StreamRecordRequest
    ) -> AsyncGenerator[pb.StreamRecordResponse, None]: ...


class AgentsService(agents_pb2_grpc.AgentsServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(self, session: str, agents: Agents, views: ViewsLike) -> None:
        self._session = session
        self._agents = agents
        self._views = views

    # ---- life

    async def SpawnAgent(self, request: pb.SpawnAgentRequest, context: Any) -> pb.SpawnAgentResponse:
        self._check(request)
        return pb.SpawnAgentResponse(agent=agent_to_wire(await self._agents.spawn(_wish(request))))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        self._check(request)
        agents = await self._agents.list(selection_from_wire(request.selection), usage=request.usage)
        return pb.ListAgentsResponse(agents=map(agent_to_wire, agents))

    async def GetAgent(self, request: pb.GetAgentRequest, context: Any) -> pb.GetAgentResponse:
        self._check(request)
        return pb.GetAgentResponse(agent=agent_to_wire(await self._agents.measured(request.agent)))

    async def SignalAgent(self, request: pb.SignalAgentRequest, context: Any) -> pb.SignalAgentResponse:
        self._check(request)
        agent = await self._agents.signal(request.agent, request.signal, whole=request.all)
        return pb.SignalAgentResponse(agent=agent_to_wire(agent))

    async def StopAgent(self, request: pb.StopAgentRequest, context: Any) -> pb.StopAgentResponse:
        self._check(request)
        agent = await self._agents.stop_agent(request.agent, wait=not request.no_wait)
        return pb.StopAgentResponse(agent=agent_to_wire(agent))

    async def KillAgent(self, request: pb.KillAgentRequest, context: Any) -> pb.KillAgentResponse:
        self._check(request)
        return pb.KillAgentResponse(agent=agent_to_wire(await self._agents.kill(request.agent)))

    async def PauseAgent(self, request: pb.PauseAgentRequest, context: Any) -> pb.PauseAgentResponse:
        self._check(request)
        return pb.PauseAgentResponse(agent=agent_to_wire(await self._agents.pause(request.agent)))

    async def ResumeAgent(self, request: pb.ResumeAgentRequest, context: Any) -> pb.ResumeAgentResponse:
        self._check(request)
        return pb.ResumeAgentResponse(agent=agent_to_wire(await self._agents.resume(request.agent)))

    async def RestartAgent(self, request: pb.RestartAgentRequest, context: Any) -> pb.RestartAgentResponse:
        self._check(request)
        return pb.RestartAgentResponse(agent=agent_to_wire(await self._agents.restart(request.agent)))

    async def RemoveAgent(self, request: pb.RemoveAgentRequest, context: Any) -> pb.RemoveAgentResponse:
        self._check(request)
        agent = await self._agents.remove(request.agent, force=request.force)
        return pb.RemoveAgentResponse(agent=agent_to_wire(agent))

    async def WaitAgent(self, request: pb.WaitAgentRequest, context: Any) -> pb.WaitAgentResponse:
        self._check(request)
        states = agent_states_from_wire(request.states)
        agent = await self._agents.wait(request.agent, states, _timeout(request))
        return pb.WaitAgentResponse(agent=agent_to_wire(agent))

    async def BatchAgents(self, request: pb.BatchAgentsRequest, context: Any) -> pb.BatchAgentsResponse:
        if request.session:
            self._check(request)
        selection = selection_from_wire(request.selection)
        if selection.empty and not request.session:
            raise InvalidArgument(
                "selection_empty",
                "nothing says which agents are meant",
                hint="name agents, a session, a group, a label or a state",
            )
        results = await batch.run(
            self._agents,
            selection,
            self._deed(request),
            fail_fast=request.fail_fast,
            all_at_once=request.action == pb.BATCH_ACTION_WAIT,
        )
        return pb.BatchAgentsResponse(results=map(self._result, results))

    def _deed(self, request: pb.BatchAgentsRequest) -> batch.Deed:
        agents = self._agents
        if request.action == pb.BATCH_ACTION_SIGNAL:
            # What no agent could take is refused before any is touched.
            parse_signal(request.signal, "")
            return partial(agents.signal, signal=request.signal)
        if request.action == pb.BATCH_ACTION_WAIT:
            return partial(agents.wait, timeout=_timeout(request))
        deeds: dict[int, batch.Deed] = {
            pb.BATCH_ACTION_STOP: agents.stop_agent,
            pb.BATCH_ACTION_KILL: agents.kill,
            pb.BATCH_ACTION_PAUSE: agents.pause,
            pb.BATCH_ACTION_RESUME: agents.resume,
            pb.BATCH_ACTION_RESTART: agents.restart,
            pb.BATCH_ACTION_REMOVE: agents.remove,
        }
        try:
            return deeds[request.action]
        except KeyError as error:
            raise InvalidArgument(
                "action_invalid",
                f"no action has the number {request.action}",
                hint="signal, stop, kill, pause, resume, restart, wait, remove",
            ) from error

    def _result(self, result: batch.Result) -> pb.BatchResult:
        if result.agent is None:
            agent = pb.Agent(name=result.word, session=self._session)
        else:
            agent = agent_to_wire(result.agent)
        return pb.BatchResult(agent=agent, code=result.code, message=result.message)

    # ---- output and input

    async def AttachAgent(
        self, requests: AsyncIterator[pb.AttachAgentRequest], context: Any
    ) -> AsyncGenerator[pb.AttachAgentResponse, None]:
        async with aclosing(self._views.attach(requests, context)) as messages:
            async for message in messages:
                yield message

    async def SendInput(self, request: pb.SendInputRequest, context: Any) -> pb.SendInputResponse:
        self._check(request)
        return await self._views.send_input(request)

    async def GetScreen(self, request: pb.GetScreenRequest, context: Any) -> pb.GetScreenResponse:
        self._check(request)
        return await self._views.get_screen(request)

    async def ReadOutput(self, request: pb.ReadOutputRequest, context: Any) -> pb.ReadOutputResponse:
        self._check(request)
        return await self._views.read_output(request)

    async def StreamRecord(
        self, request: pb.StreamRecordRequest, context: Any
    ) -> AsyncGenerator[pb.StreamRecordResponse, None]:
        self._check(request)
        async with aclosing(self._views.stream_record(request)) as messages:
            async for message in messages:
                yield message

    def _check(self, request: Any) -> None:
        check_session(request.session, self._session)


def _wish(request: pb.SpawnAgentRequest) -> Spawn:
    return Spawn(
        argv=tuple(request.command),
        name=request.name,
        environment=dict(request.environment),
        set_environment=dict(request.set_environment),
        cwd=request.cwd,
        tty=request.tty,
        columns=request.columns,
        rows=request.rows,
        term=request.term,
        restart=restart_from_wire(request.restart),
        group=request.group,
        labels=dict(request.labels),
        properties=dict(request.properties),
        resurrect=request.resurrect,
        stop_signal=request.stop_signal,
        stop_timeout=seconds(request.stop_timeout) if request.HasField("stop_timeout") else None,
        umask=request.umask if request.HasField("umask") else None,
        timeout=seconds(request.timeout) if request.HasField("timeout") else 0.0,
        input=request.input if request.HasField("input") else None,
    )


def _timeout(request: pb.WaitAgentRequest | pb.BatchAgentsRequest) -> float | None:
    duration: Duration = request.timeout
    return seconds(duration) if request.HasField("timeout") else None
