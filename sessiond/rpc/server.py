"""A gRPC server on a Unix socket that is ours alone: locked, private, with one mapping of errors."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sessiond.errors import SessiondError
from sessiond.paths import check_socket_path, private_folder
from sessiond.rpc.address import unix_address
from sessiond.rpc.status import abort

log = logging.getLogger(__name__)

# One process is behind each socket, so nothing is gained by sharing ports or compressing.
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.max_metadata_size", 16 * 1024),
)


class Server:
    """Serves on one socket while entered; the lock on the socket's name is the caller's to hold."""

    def __init__(self, socket: Path) -> None:
        self._socket = check_socket_path(socket)
        self._server = grpc.aio.server(interceptors=[_ErrorMapping()], options=_OPTIONS)
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

    async def stop(self, grace: float) -> None:
        """End: calls under way get ``grace`` seconds. Idempotent; the socket is gone afterwards."""
        if not self._serving:
            return
        self._serving = False
        await self._server.stop(grace)
        with suppress(FileNotFoundError):
            self._socket.unlink()


_Handler = Callable[[Any, Any], Awaitable[Any]]


class _ErrorMapping(grpc.aio.ServerInterceptor):
    """Turns every error that leaves a service into its status, and logs those nobody foresaw."""

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
            return handler
        method = details.method
        if handler.unary_unary:
            return handler._replace(unary_unary=_mapped(handler.unary_unary, method))
        if handler.stream_unary:
            return handler._replace(stream_unary=_mapped(handler.stream_unary, method))
        if handler.unary_stream:
            return handler._replace(unary_stream=_mapped_stream(handler.unary_stream, method))
        return handler._replace(stream_stream=_mapped_stream(handler.stream_stream, method))


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


def _mapped_stream(call: Callable[[Any, Any], Any], method: str) -> _Handler:
    """As ``_mapped``, of a service's asynchronous generator. A coroutine to gRPC: where the client hangs up
    in the middle of a message, the generator is closed then and there."""

    async def mapped(request: Any, context: Any) -> None:
        try:
            async with aclosing(call(request, context)) as responses:
                async for response in responses:
                    if not await _written(context, response):
                        return
        except SessiondError as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - told to the caller, and the journal has the trace
            await abort(context, _unforeseen(method, error))

    return mapped


async def _written(context: Any, response: Any) -> bool:
    """Send one message of a stream; False where the client is gone."""
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        return False
    return True


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
