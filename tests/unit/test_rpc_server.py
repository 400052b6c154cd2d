"""The server on its socket: private, alone, and unimpressed by garbage."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sessiond.errors import Conflict, InvalidArgument, NotFound, PermissionDenied, Unreachable
from sessiond.paths import private_folder
from sessiond.rpc._generated.v1 import (
    agents_pb2,
    agents_pb2_grpc,
    events_pb2,
    events_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    types_pb2,
)
from sessiond.rpc.channel import CHANNEL_OPTIONS
from sessiond.rpc.health import add_health, set_serving
from sessiond.rpc.lock import SocketLock
from sessiond.rpc.server import Server
from sessiond.rpc.status import from_rpc_error


class System(system_pb2_grpc.SystemServiceServicer):
    """Answers one call, fails another as foreseen, and a third as nobody foresaw."""

    async def GetInfo(self, request: Any, context: Any) -> Any:
        return system_pb2.GetInfoResponse(version="here")

    async def RunDoctor(self, request: Any, context: Any) -> Any:
        raise NotFound("nobody", "nobody is there", hint="look elsewhere")

    async def Shutdown(self, request: Any, context: Any) -> Any:
        raise RuntimeError("secret detail")


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Path]:
    path = private_folder(tmp_path / "run") / "s.sock"
    server = Server(path)
    system_pb2_grpc.add_SystemServiceServicer_to_server(System(), server.grpc)
    health = add_health(server)
    await server.start()
    await set_serving(health, ["sessiond.v1.SystemService"])
    yield path
    await server.stop(0)


async def version_at(path: Path) -> str:
    async with grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        stub = system_pb2_grpc.SystemServiceStub(channel)
        return str((await stub.GetInfo(system_pb2.GetInfoRequest(), timeout=60)).version)


async def test_socket_and_folder_are_for_their_owner_alone(served: Path) -> None:
    assert stat.S_IMODE(served.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.parent.stat().st_mode) == 0o700
    assert await version_at(served) == "here"


async def test_a_foreseen_error_arrives_whole(served: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{served}", options=CHANNEL_OPTIONS) as channel:
        stub = system_pb2_grpc.SystemServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunDoctor(system_pb2.RunDoctorRequest(), timeout=60)
    error = from_rpc_error(caught.value)
    assert isinstance(error, NotFound)
    assert (error.code, error.hint) == ("nobody", "look elsewhere")


async def test_an_unforeseen_error_tells_no_detail(served: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{served}", options=CHANNEL_OPTIONS) as channel:
        stub = system_pb2_grpc.SystemServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Shutdown(system_pb2.ShutdownRequest(), timeout=60)
    error = from_rpc_error(caught.value)
    assert error.code == "internal_error"
    assert "secret" not in error.message


async def test_garbage_and_half_open_connections_disturb_nobody(served: Path) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for number, one in enumerate(silent):
            one.connect(str(served))
            one.setblocking(False)
            if number % 2:
                one.send(bytes(range(256)) * 16)
        assert await version_at(served) == "here"
    finally:
        for one in silent:
            one.close()
    assert await version_at(served) == "here"


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = private_folder(tmp_path / "run") / "s.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert path.is_socket()
    server = Server(path)
    system_pb2_grpc.add_SystemServiceServicer_to_server(System(), server.grpc)
    await server.start()
    assert await version_at(path) == "here"
    await server.stop(0)
    assert not path.exists()
    await server.stop(0)


def test_the_lock_admits_one_and_the_next_once_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with SocketLock(path, "the supervisor"):
        with pytest.raises(Conflict) as caught, SocketLock(path, "the supervisor"):
            pass
        assert caught.value.code == "already_running"
    with SocketLock(path, "the supervisor"):
        pass


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PermissionDenied) as caught:
        private_folder(tmp_path / "link")
    assert caught.value.code == "folder_unsafe"


def test_an_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_path_the_kernel_cannot_bind_is_refused_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Server(tmp_path / ("x" * 120))
    assert caught.value.code == "socket_path_too_long"


class Agents(agents_pb2_grpc.AgentsServiceServicer):
    """Streams that fail after a first message, and one that tells when it was closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def StreamRecord(self, request: Any, context: Any) -> Any:
        try:
            yield agents_pb2.StreamRecordResponse(data=b"first")
            if not request.follow:
                raise NotFound("record_gone", "it is gone", hint="elsewhere")
            while True:
                yield agents_pb2.StreamRecordResponse(data=bytes(60_000))
        finally:
            self.closed.set()

    async def AttachAgent(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            if request.input == b"fail":
                raise Conflict("agent_ended", "it has ended")
            if request.input == b"break":
                raise RuntimeError("secret detail")
            yield agents_pb2.AttachAgentResponse(output=agents_pb2.AttachOutput(data=request.input))


@pytest.fixture
async def streams(tmp_path: Path) -> AsyncIterator[tuple[Agents, Any]]:
    path = private_folder(tmp_path / "run") / "s.sock"
    server, service = Server(path), Agents()
    agents_pb2_grpc.add_AgentsServiceServicer_to_server(service, server.grpc)
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        yield service, agents_pb2_grpc.AgentsServiceStub(channel)
    await server.stop(0)


async def test_an_error_in_a_stream_arrives_after_what_was_sent(streams: tuple[Agents, Any]) -> None:
    _, stub = streams
    call = stub.StreamRecord(agents_pb2.StreamRecordRequest(), timeout=60)
    assert (await call.read()).data == b"first"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert from_rpc_error(caught.value).code == "record_gone"


@pytest.mark.parametrize(("word", "code"), [(b"fail", "agent_ended"), (b"break", "internal_error")])
async def test_errors_in_a_conversation_arrive_whole(
    streams: tuple[Agents, Any], word: bytes, code: str
) -> None:
    _, stub = streams
    call = stub.AttachAgent(timeout=60)
    await call.write(agents_pb2.AttachAgentRequest(input=b"hello"))
    assert (await call.read()).output.data == b"hello"
    await call.write(agents_pb2.AttachAgentRequest(input=word))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    error = from_rpc_error(caught.value)
    assert error.code == code
    assert "secret" not in error.message


async def test_a_stream_whose_reader_left_is_closed_in_the_middle_of_a_message(
    streams: tuple[Agents, Any],
) -> None:
    service, stub = streams
    call = stub.StreamRecord(agents_pb2.StreamRecordRequest(follow=True), timeout=60)
    assert (await call.read()).data == b"first"
    call.cancel()
    async with asyncio.timeout(60):
        await service.closed.wait()


class Events(events_pb2_grpc.EventsServiceServicer):
    """Tells one event, and then waits for ever; a second kind of listener gets more than it takes."""

    def __init__(self) -> None:
        self.closed = 0

    async def WatchEvents(self, request: Any, context: Any) -> Any:
        try:
            yield events_pb2.WatchEventsResponse()
            while request.kinds:
                yield events_pb2.WatchEventsResponse(event=types_pb2.Event(kind="x" * 100_000))
            await asyncio.Event().wait()
        finally:
            self.closed += 1


@pytest.mark.parametrize("kinds", [[], ["more"]], ids=["waiting", "flooded"])
async def test_listeners_are_told_of_the_end_at_once_when_it_hangs_up(
    tmp_path: Path, kinds: list[str]
) -> None:
    path = private_folder(tmp_path / "run") / "s.sock"
    server, events = Server(path), Events()
    events_pb2_grpc.add_EventsServiceServicer_to_server(events, server.grpc)
    await server.start()
    ending = Unreachable("supervisor_unreachable", "it ends", hint="wait")
    async with grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        call = events_pb2_grpc.EventsServiceStub(channel).WatchEvents(
            events_pb2.WatchEventsRequest(kinds=kinds)
        )
        await call.read()
        # As long as it would take without: for ever.
        stopping = asyncio.create_task(server.stop(3600, hang_up=ending))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_to_the_end(call)
        async with asyncio.timeout(60):
            await stopping
    error = from_rpc_error(caught.value)
    assert isinstance(error, Unreachable)
    assert (error.code, error.message, error.hint) == ("supervisor_unreachable", "it ends", "wait")
    assert events.closed == 1
    assert not path.exists()


async def test_who_watches_the_health_is_told_of_the_end_at_once(tmp_path: Path) -> None:
    path = private_folder(tmp_path / "run") / "s.sock"
    server = Server(path)
    health = add_health(server)
    await server.start()
    await set_serving(health, [])
    async with grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop(3600))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _read_to_the_end(call)
        async with asyncio.timeout(60):
            await stopping
    assert (caught.value.code(), from_rpc_error(caught.value).code) == (
        grpc.StatusCode.UNAVAILABLE,
        "server_ending",
    )


async def _read_to_the_end(call: Any) -> None:
    """Raise the status that a call of responses ends with."""
    while await call.read() is not grpc.aio.EOF:
        pass
    raise grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
