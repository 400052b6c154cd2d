"""DiscoveryService: workspaces and agents' conversations over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import Wish
from sessiond.model.conversation import AgentSession, Choice, Trouble
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc._generated.v1 import discovery_pb2_grpc
from sessiond.rpc.agent_codec import seconds
from sessiond.rpc.codec import session_to_wire
from sessiond.rpc.discovery_codec import (
    Rows,
    adapter_to_wire,
    agent_session_to_wire,
    choice_from_wire,
    message_to_wire,
    problem_to_wire,
    trouble_to_wire,
)
from sessiond.supervisor.directory import Directory, Filter
from sessiond.supervisor.discovered.candidates import candidates
from sessiond.supervisor.discovered.editing import Edit, editing
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.discovered.launching import Launching
from sessiond.supervisor.discovered.paging import Page
from sessiond.supervisor.discovered.resuming import Resuming, Wanted
from sessiond.supervisor.discovered.watching import Change, Current
from sessiond.supervisor.registry import Registry

_SERVICE = pb.DESCRIPTOR.services_by_name["DiscoveryService"].full_name
_TAIL, _TAIL_MAX = 20, 1_000
# Bytes of an answer, below what clients take; so many rows are never more, whatever programs wrote.
_PAGE_MAX, _PAGE_SURE = 48 * 1024 * 1024, 500
# Rows that are encoded in one turn of the event loop: a few milliseconds.
_SLICE = 200


class DiscoveryService(discovery_pb2_grpc.DiscoveryServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        roots: Sequence[Path],
        discovered: Discovered,
        launching: Launching,
        resuming: Resuming,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._roots = roots
        self._discovered = discovered
        self._launching = launching
        self._resuming = resuming
        self._rows = Rows()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register it, before the start."""
        discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server(self, server)
        # In place of the generated handler, whose answers are messages.
        listing: Any = grpc.unary_unary_rpc_method_handler(
            self._list, request_deserializer=pb.ListAgentSessionsRequest.FromString
        )
        server.add_registered_method_handlers(_SERVICE, {"ListAgentSessions": listing})

    # ---- workspaces

    async def ScanWorkspaces(
        self, request: pb.ScanWorkspacesRequest, context: Any
    ) -> pb.ScanWorkspacesResponse:
        for text in request.paths:
            if not text.startswith("/"):
                raise InvalidArgument(
                    "path_invalid",
                    f"not an absolute path: {text!r}",
                    hint="begin it with /",
                    fields={"path": text},
                )
        roots = [Path(text) for text in request.paths] or list(self._roots)
        found = await self._registry.scan(roots, explicit=bool(request.paths))
        places = {path for path, _ in found.workspaces}
        rows = [row for row in self._directory.list(Filter(archived=True)) if row.path in places]
        await self._discovered.ready()
        ran = await asyncio.to_thread(
            candidates,
            found.candidates,
            self._discovered.folders(),
            self._registry.folders(),
            found.roots if request.paths else None,
        )
        return pb.ScanWorkspacesResponse(
            sessions=map(session_to_wire, rows),
            candidates=[
                pb.Candidate(path=str(one.path), markers=one.markers, agent_sessions=one.agent_sessions)
                for one in ran
            ],
            skipped=[
                pb.Skipped(path=str(one.path), code=one.code, reason=one.reason) for one in found.skipped
            ],
            roots=map(str, roots),
        )

    # ---- conversations

    async def _list(self, request: pb.ListAgentSessionsRequest, context: Any) -> bytes:
        """ListAgentSessions: of thousands of rows nearly all are what they were at the last answer."""
        choice = self._choice(request.filter)
        async with aclosing(self._discovered.early(choice)) as told:
            async for rows in told:
                await self._encoded(rows)
        page = await self._discovered.listing(
            choice, request.page_size, request.page_token, refresh=request.refresh
        )
        answer = await self._listed(page, choice)
        while len(page.rows) > _PAGE_SURE and len(answer) > _PAGE_MAX:
            page = await self._discovered.listing(choice, len(page.rows) // 2, request.page_token)
            answer = await self._listed(page, choice)
        return answer

    async def _listed(self, page: Page, choice: Choice) -> bytes:
        rest = pb.ListAgentSessionsResponse(
            next_page_token=page.token,
            total=page.total,
            problems=map(trouble_to_wire, self._discovered.troubles(choice.adapters)),
        )
        return b"".join([*await self._encoded(page.rows), rest.SerializeToString()])

    async def _encoded(self, rows: Sequence[AgentSession]) -> list[bytes]:
        parts = []
        for count, row in enumerate(rows, 1):
            parts.append(self._rows.encode(row))
            if not count % _SLICE:
                # Others get their turn.
                await asyncio.sleep(0)
        return parts

    async def GetAgentSession(
        self, request: pb.GetAgentSessionRequest, context: Any
    ) -> pb.GetAgentSessionResponse:
        row = await self._discovered.get(request.agent_session)
        return pb.GetAgentSessionResponse(agent_session=agent_session_to_wire(row))

    async def ReadTranscript(
        self, request: pb.ReadTranscriptRequest, context: Any
    ) -> pb.ReadTranscriptResponse:
        row = await self._discovered.find(request.agent_session)
        told = await self._discovered.transcript(row, min(request.tail or _TAIL, _TAIL_MAX))
        [named] = await self._discovered.named([row])
        return pb.ReadTranscriptResponse(
            agent_session=agent_session_to_wire(named),
            messages=map(message_to_wire, told.messages),
            has_more=told.has_more,
            problems=map(problem_to_wire, told.problems),
        )

    async def WatchAgentSessions(
        self, request: pb.WatchAgentSessionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchAgentSessionsResponse]:
        async with aclosing(self._discovered.follow(self._choice(request.filter))) as changes:
            async for change in changes:
                yield _change_to_wire(change)

    async def LabelAgentSession(
        self, request: pb.LabelAgentSessionRequest, context: Any
    ) -> pb.LabelAgentSessionResponse:
        change = editing(
            Edit(
                set_labels=dict(request.set_labels),
                remove_labels=list(request.remove_labels),
                set_annotations=dict(request.set_annotations),
                remove_annotations=list(request.remove_annotations),
                group=request.group if request.HasField("group") else None,
            )
        )
        row = await self._discovered.find(request.agent_session)
        changed = await self._discovered.edit(row, change)
        return pb.LabelAgentSessionResponse(agent_session=agent_session_to_wire(changed))

    async def LaunchAgentSession(
        self, request: pb.LaunchAgentSessionRequest, context: Any
    ) -> pb.LaunchAgentSessionResponse:
        wish = Wish("", request.prompt, request.model, request.print, command=tuple(request.spawn.command))
        launched = await self._launching.launch(request.adapter, request.spawn, wish)
        return pb.LaunchAgentSessionResponse(
            agent=launched.agent, agent_session=agent_session_to_wire(launched.row)
        )

    async def ResumeAgentSession(
        self, request: pb.ResumeAgentSessionRequest, context: Any
    ) -> pb.ResumeAgentSessionResponse:
        wanted = Wanted(request.prompt, request.model, request.print, request.take_over)
        if request.HasField("stop_timeout"):
            wanted = replace(wanted, stop_timeout=seconds(request.stop_timeout))
        launched = await self._resuming.resume(request.agent_session, request.spawn, wanted)
        return pb.ResumeAgentSessionResponse(
            agent=launched.agent,
            agent_session=agent_session_to_wire(launched.row),
            typed=launched.typed,
            ended_pid=launched.ended_pid,
        )

    # ---- adapters

    async def ProbeAdapters(self, request: pb.ProbeAdaptersRequest, context: Any) -> pb.ProbeAdaptersResponse:
        response = pb.ProbeAdaptersResponse()
        for probe, disabled in await self._discovered.probe(request.adapters, request.search_path):
            known, live = self._discovered.count(probe.adapter)
            troubles = self._discovered.troubles([probe.adapter])
            response.adapters.append(
                adapter_to_wire(probe, known=known, live=live, disabled=disabled, troubles=troubles)
            )
        return response

    def _choice(self, message: pb.AgentSessionFilter) -> Choice:
        session = self._directory.resolve(message.session) if message.session else ""
        return choice_from_wire(message, session)


def _change_to_wire(change: Change) -> pb.WatchAgentSessionsResponse:
    match change:
        case AgentSession():
            return pb.WatchAgentSessionsResponse(agent_session=agent_session_to_wire(change))
        case Trouble():
            return pb.WatchAgentSessionsResponse(problem=trouble_to_wire(change))
        case Current():
            return pb.WatchAgentSessionsResponse(current=pb.AgentSessionsCurrent())
    adapter, conversation = change.key
    removed = pb.AgentSessionRemoved(adapter=adapter, id=conversation)
    return pb.WatchAgentSessionsResponse(removed=removed)
