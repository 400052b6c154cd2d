"""A gRPC server on a Unix socket that is ours alone: locked, private, with one mapping of errors."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sessiond.errors import SessiondError, Unreachable
from sessiond.paths import check_socket_path, private_folder
from sessiond.rpc.channel import unix_address
from sessiond.rpc.status import abort

log = logging.getLogger(__name__)

# One process is behind each socket, so nothing is gained by sharing ports or compressing.
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
)

# Seconds from the last connection to the end, in which whoever has just connected learns that it has; nothing
# tells us of that. A gRPC client with default options misses an end that arrives with a connection's first
# frame: it tries its call there again, without pause or end, until memory is gone (seen with 1.85).
_SETTLING = 0.02


class Server:
    """Serves on one socket while entered; the lock on the socket's name is the caller's to hold."""

    def __init__(self, socket: Path) -> None:
        self._socket = check_socket_path(socket)
        self._streams: set[_Stream] = set()
        # Those of gRPC's own services, which follow the server itself.
        self._watches: set[_Stream] = set()
        mapping = _ErrorMapping(self._streams, self._watches)
        self._server = grpc.aio.server(interceptors=[mapping], options=_OPTIONS)
        self._serving = False

    @property
    def grpc(self) -> grpc.aio.Server:
        """What generated code registers services with, before the start."""
        return self._server

    async def start(self) -> None:
        """Return once it serves, on a socket of mode 0600 in a folder of mode 0700."""
        private_folder(self._socket.parent)
        with suppress(FileNotFoundError):
            self._socket.unlink()
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(unix_address(str(self._socket)))
        finally:
            os.umask(before)
        self._socket.chmod(0o600)
        await self._server.start()
        self._serving = True

    async def stop(self, grace: float, hang_up: SessiondError | None = None) -> None:
        """End: the socket is gone at once; calls under way get ``grace`` seconds; with ``hang_up``, streams
        that wait for news are ended with this error. Idempotent."""
        if not self._serving:
            return
        self._serving = False
        with suppress(FileNotFoundError):
            self._socket.unlink()
        try:
            await asyncio.sleep(_SETTLING)
        finally:
            stopping = asyncio.create_task(self._server.stop(grace), name="end of the server")
        # It takes no calls any more, so that who comes back at once does not come back here.
        await asyncio.sleep(0)
        for stream in tuple(self._watches):
            stream.end(_over())
        if hang_up is not None:
            for stream in tuple(self._streams):
                stream.end(hang_up)
        await stopping


_Handler = Callable[[Any, Any], Awaitable[Any]]


@dataclass(eq=False, slots=True)
class _Stream:
    """A call under way that is answered with a stream."""

    task: asyncio.Task[Any]
    writing: bool = False
    error: SessiondError | None = None

    def end(self, error: SessiondError) -> None:
        """End it with an error, after the message that is being sent."""
        self.error = error
        if not self.writing:
            self.task.cancel()

    async def write(self, context: Any, response: Any) -> bool:
        """Send one message; False where the client is gone."""
        self.writing = True
        try:
            await context.write(response)
        except grpc.aio.InternalError:
            return False
        finally:
            self.writing = False
        if self.error is not None:
            raise self.error
        return True


class _ErrorMapping(grpc.aio.ServerInterceptor):
    """Turns every error that leaves a service into its status, and logs those nobody foresaw."""

    def __init__(self, streams: set[_Stream], watches: set[_Stream]) -> None:
        """``streams`` is kept as the set of those under way, ``watches`` as that of gRPC's own services."""
        self._streams = streams
        self._watches = watches

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        details: Any,
    ) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        # Those of gRPC's own services tell their errors themselves.
        if details.method.startswith("/grpc."):
            if not handler.unary_stream:
                return handler
            return handler._replace(unary_stream=_watching(handler.unary_stream, self._watches))
        method = details.method
        if handler.unary_unary:
            return handler._replace(unary_unary=_mapped(handler.unary_unary, method))
        if handler.stream_unary:
            return handler._replace(stream_unary=_mapped(handler.stream_unary, method))
        streams = self._streams
        if handler.unary_stream:
            return handler._replace(unary_stream=_mapped_stream(handler.unary_stream, method, streams))
        return handler._replace(stream_stream=_mapped_stream(handler.stream_stream, method, streams))


def _mapped(call: _Handler, method: str) -> _Handler:
    async def mapped(request: Any, context: Any) -> Any:
        try:
            return await call(request, context)
        except SessiondError as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, and the journal has the trace
            await abort(context, _unforeseen(method, error))

    return mapped


def _mapped_stream(call: Callable[[Any, Any], Any], method: str, streams: set[_Stream]) -> _Handler:
    """As ``_mapped``, of a service's asynchronous generator. A coroutine to gRPC: where the client hangs up
    in the middle of a message, the generator is closed then and there."""

    async def mapped(request: Any, context: Any) -> None:
        async with _under_way(streams, context) as stream:
            try:
                async with aclosing(call(request, context)) as responses:
                    async for response in responses:
                        if not await stream.write(context, response):
                            return
            except SessiondError as error:
                await abort(context, error)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - told to the caller, and the journal has the trace
                await abort(context, _unforeseen(method, error))

    return mapped


def _watching(call: _Handler, watches: set[_Stream]) -> _Handler:
    """A stream that would wait for ever, of a service that is not ours: it ends with the server."""

    async def watching(request: Any, context: Any) -> None:
        async with _under_way(watches, context):
            await call(request, context)

    return watching


@asynccontextmanager
async def _under_way(streams: set[_Stream], context: Any) -> AsyncIterator[_Stream]:
    """This call, for as long as it lasts one of these; where it is ended as such, its client is told why."""
    task = asyncio.current_task()
    assert task is not None
    stream = _Stream(task)
    streams.add(stream)
    try:
        yield stream
    except asyncio.CancelledError:
        if stream.error is None:
            raise
        task.uncancel()
        await abort(context, stream.error)
    finally:
        streams.discard(stream)


def _over() -> SessiondError:
    return Unreachable("server_ending", "the server ends", hint="connect again in a moment")


def _unforeseen(method: str, error: Exception) -> SessiondError:
    log.error("%s failed", method, exc_info=error)
    return SessiondError(
        "internal_error",
        f"{method.rpartition('/')[2]} failed in a way nobody foresaw: {type(error).__name__}",
        hint="the trace is in the journal: journalctl --user -u sessiond",
    )


def enable_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Let clients ask what is served: the services named, and reflection itself."""
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection([*services, reflection.SERVICE_NAME], server)
