"""A blocking channel to the supervisor, for programs that ask and end: cheap to start, no event loop."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

# Read once, when gRPC is loaded: its own log lines are not for the users of a command.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

from sessiond.errors import SessiondError, TimedOut, Unreachable
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from sessiond.rpc.status import from_rpc_error

if TYPE_CHECKING:
    # Every sessionctl pays for what is imported here.
    from os import PathLike

TIMEOUT: Final = 60.0
# Longer than any job of the init system is given, so that its own verdict arrives.
JOB_TIMEOUT: Final = 300.0


class Supervisor:
    """The supervisor behind a socket: its services, called with deadlines, failing as SessiondError."""

    def __init__(self, socket: str | PathLike[str], *, timeout: float = TIMEOUT) -> None:
        """``timeout`` is the deadline in seconds of calls that name none."""
        self.socket = os.fspath(socket)
        self._timeout = timeout
        self._opened: grpc.Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; idempotent."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _channel(self) -> grpc.Channel:
        if self._opened is None:
            _check_present(self.socket)
            self._opened = grpc.insecure_channel(unix_address(self.socket), options=CHANNEL_OPTIONS)
        return self._opened

    @cached_property
    def sessions(self) -> Any:
        """Stub of SessionsService."""
        from sessiond.rpc._generated.v1 import sessions_pb2_grpc

        return sessions_pb2_grpc.SessionsServiceStub(self._channel)

    @cached_property
    def agents(self) -> Any:
        """Stub of AgentsService."""
        from sessiond.rpc._generated.v1 import agents_pb2_grpc

        return agents_pb2_grpc.AgentsServiceStub(self._channel)

    @cached_property
    def daemon(self) -> Any:
        """Stub of SessionDaemonService, on the socket of a session's daemon."""
        from sessiond.rpc._generated.v1 import daemon_pb2_grpc

        return daemon_pb2_grpc.SessionDaemonServiceStub(self._channel)

    @cached_property
    def discovery(self) -> Any:
        """Stub of DiscoveryService."""
        from sessiond.rpc._generated.v1 import discovery_pb2_grpc

        return discovery_pb2_grpc.DiscoveryServiceStub(self._channel)

    @cached_property
    def events(self) -> Any:
        """Stub of EventsService."""
        from sessiond.rpc._generated.v1 import events_pb2_grpc

        return events_pb2_grpc.EventsServiceStub(self._channel)

    @cached_property
    def system(self) -> Any:
        """Stub of SystemService."""
        from sessiond.rpc._generated.v1 import system_pb2_grpc

        return system_pb2_grpc.SystemServiceStub(self._channel)

    def call(self, method: Any, request: Any, *, timeout: float | None = None) -> Any:
        """The response of one call; ``timeout`` in seconds, 0 for none."""
        try:
            return method(request, timeout=self._deadline(timeout))
        except grpc.RpcError as error:
            raise self._told(error) from error

    def call_all(self, method: Any, requests: Sequence[Any], *, timeout: float | None = None) -> list[Any]:
        """Responses of calls made at once, in the order of the requests; a failed one's SessiondError."""
        return self.call_each([(method, request) for request in requests], timeout=timeout)

    def call_each(self, calls: Sequence[tuple[Any, Any]], *, timeout: float | None = None) -> list[Any]:
        """As ``call_all``, for pairs of a method and its request."""
        if len(calls) == 1:
            [(method, request)] = calls
            try:
                return [self.call(method, request, timeout=timeout)]
            except SessiondError as error:
                return [error]
        deadline = self._deadline(timeout)
        futures = [method.future(request, timeout=deadline) for method, request in calls]
        return [self._outcome(future) for future in futures]

    def _outcome(self, future: Any) -> Any:
        try:
            return future.result()
        except grpc.RpcError as error:
            return self._told(error)

    def stream(self, method: Any, request: Any, *, timeout: float | None = None) -> Iterator[Any]:
        """The responses of a streaming call, for ever by default; closing the iterator ends the call."""
        call = method(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._told(error) from error
        finally:
            call.cancel()

    def _deadline(self, timeout: float | None) -> float | None:
        return (self._timeout if timeout is None else timeout) or None

    def _told(self, error: grpc.RpcError) -> SessiondError:
        told = from_rpc_error(error)
        if told.code == "supervisor_unreachable":
            return unreachable(self.socket, told.message)
        if told.code == "call_timeout":
            return TimedOut(
                "call_timeout",
                "the supervisor took the call and did not answer in time",
                hint="sessionctl doctor",
                fields={"socket": self.socket},
            )
        return told


def unreachable(socket: str, reason: str) -> Unreachable:
    """The error of a supervisor that does not answer on its socket."""
    return Unreachable("supervisor_unreachable", reason, hint="sessionctl up", fields={"socket": socket})


def _check_present(socket: str) -> None:
    """Raise Unreachable where there can be nobody, without the cost and the wording of gRPC's attempt."""
    try:
        os.stat(socket)
    except FileNotFoundError:
        raise unreachable(socket, f"the supervisor is not running: there is no {socket}") from None
    except OSError as error:
        reason = f"the supervisor's socket cannot be reached: {socket}: {error.strerror}"
        raise unreachable(socket, reason) from error
