"""AgentsService of all sessions: messages stay bytes, so generated code has no part in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from sessiond.supervisor.agent_lists import AgentLists
from sessiond.supervisor.agents import METHODS, SERVICE, AgentCalls
from sessiond.supervisor.forwarding import DaemonStatus


class AgentsService:
    """Hands each call on, and a daemon's own status back as it is."""

    def __init__(self, calls: AgentCalls, lists: AgentLists) -> None:
        self._calls = calls
        self._lists = lists

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register it, before the start."""
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name))
            for name in METHODS
            if name not in ("StreamRecord", "AttachAgent")
        }
        handlers["ListAgents"] = grpc.unary_unary_rpc_method_handler(self._list)
        handlers["BatchAgents"] = grpc.unary_unary_rpc_method_handler(self._batch)
        handlers["StreamRecord"] = grpc.unary_stream_rpc_method_handler(self._record)
        handlers["AttachAgent"] = grpc.stream_stream_rpc_method_handler(self._attach)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    def _unary(self, name: str) -> Any:
        async def call(request: bytes, context: Any) -> bytes | None:
            try:
                return await self._calls.unary(name, request, context.time_remaining())
            except DaemonStatus as status:
                return await status.pass_on(context)

        return call

    async def _list(self, request: bytes, context: Any) -> bytes | None:
        try:
            return (await self._lists.listing(request, context.time_remaining())).SerializeToString()
        except DaemonStatus as status:
            return await status.pass_on(context)

    async def _batch(self, request: bytes, context: Any) -> bytes | None:
        try:
            return (await self._lists.batch(request, context.time_remaining())).SerializeToString()
        except DaemonStatus as status:
            return await status.pass_on(context)

    def _record(self, request: bytes, context: Any) -> AsyncGenerator[bytes, None]:
        return _passed(self._calls.record(request, context.time_remaining()), context)

    def _attach(self, requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes, None]:
        return _passed(self._calls.attach(requests, context.time_remaining()), context)


async def _passed(responses: AsyncGenerator[bytes, None], context: Any) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(responses):
            async for response in responses:
                yield response
    except DaemonStatus as status:
        await status.pass_on(context)
