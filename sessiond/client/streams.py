"""Conversations with a session's daemon, or through the supervisor: an event loop's channel for streams."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from functools import cached_property
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio

from sessiond.errors import SessiondError, Unreachable
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from sessiond.rpc.status import from_rpc_error

TIMEOUT: Final = 30.0
# What gRPC itself says of a call whose other side went away in the middle of it.
_BROKEN = frozenset({"rpc_cancelled", "rpc_internal", "rpc_unknown", "rpc_aborted"})


class Lost(Exception):
    """Nobody answers any more; ``error`` says how that looked. Once somebody does, call again."""

    def __init__(self, error: SessiondError) -> None:
        super().__init__(error.message)
        self.error = error


class Line:
    """A channel to one process, for one life of it."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._channel = grpc.aio.insecure_channel(unix_address(socket), options=CHANNEL_OPTIONS)

    @cached_property
    def agents(self) -> Any:
        """Stub of AgentsService."""
        from sessiond.rpc._generated.v1 import agents_pb2_grpc

        return agents_pb2_grpc.AgentsServiceStub(self._channel)

    @cached_property
    def sessions(self) -> Any:
        """Stub of SessionsService; the supervisor's alone."""
        from sessiond.rpc._generated.v1 import sessions_pb2_grpc

        return sessions_pb2_grpc.SessionsServiceStub(self._channel)

    async def call(self, method: Any, request: Any, *, timeout: float | None = TIMEOUT) -> Any:
        """The response of one call. Raises Lost, or the SessiondError that the other side told."""
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise told(error) from error

    async def stream(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        """The responses of a call; raises as ``call``. Closing the iterator ends the call."""
        call = method(request)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise told(error) from error
        finally:
            call.cancel()

    def converse(self, method: Any) -> Conversation:
        """A call in both directions."""
        return Conversation(method())

    async def close(self) -> None:
        """Close it, and end its calls."""
        await self._channel.close()


class Conversation:
    """A call in which both sides speak; ``hear`` raises as ``Line.call``."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def say(self, message: Any) -> bool:
        """Send a message; False where the call is over, of which ``hear`` tells why."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return False
        return True

    async def hear(self) -> Any | None:
        """The next message; None where the other side has said its last."""
        try:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                # Where the call failed, its status says why.
                if await self._call.code() is not grpc.StatusCode.OK:
                    raise told(await _failure(self._call))
                return None
        except grpc.aio.AioRpcError as error:
            raise told(error) from error
        return message

    async def leave(self) -> None:
        """Say no more, and wait until the other side has taken what was said."""
        try:
            await self._call.done_writing()
            while await self.hear() is not None:
                pass
        except (Lost, SessiondError, grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            return

    def end(self) -> None:
        """Break it off; idempotent."""
        self._call.cancel()


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


def told(error: grpc.aio.AioRpcError) -> SessiondError | Lost:
    """What a failed call means: an error that the other side told, or that nobody is there any more."""
    found = from_rpc_error(error)
    if isinstance(found, Unreachable) or found.code in _BROKEN or _restarts(found):
        return Lost(found)
    return found


def _restarts(error: SessiondError) -> bool:
    """Whether the daemon is on its way down or up: another may be there soon."""
    return error.code == "session_not_running" and error.fields.get("state") in ("stopping", "starting")
