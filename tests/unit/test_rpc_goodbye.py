"""The end of a connection: whoever is there when it comes, and whenever, is told of it and goes on."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sessiond.paths import private_folder
from sessiond.rpc import server as serving
from sessiond.rpc._generated.v1 import system_pb2, system_pb2_grpc
from sessiond.rpc.channel import CHANNEL_OPTIONS
from sessiond.rpc.server import Server

PATIENCE = 60
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GOAWAY = 7
# One that spins has used this much after some seconds, and is ended by it.
MEMORY = 2 << 30

CLIENT = f"""
import resource, sys
import grpc
from sessiond.rpc._generated.v1 import system_pb2, system_pb2_grpc
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address

resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
with grpc.insecure_channel(unix_address(sys.argv[1]), options=CHANNEL_OPTIONS) as channel:
    try:
        system_pb2_grpc.SystemServiceStub(channel).GetInfo(system_pb2.GetInfoRequest(), timeout={PATIENCE})
    except grpc.RpcError as error:
        print(error.code().name)
"""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, 0) + payload


SETTINGS = frame(4)


def kinds(heard: bytes) -> list[int]:
    """What kinds of frames these are; the last may be cut."""
    found = []
    while heard:
        found.append(heard[3])
        heard = heard[9 + int.from_bytes(heard[:3]) :]
    return found


class System(system_pb2_grpc.SystemServiceServicer):
    """Answers one call."""

    async def GetInfo(self, request: Any, context: Any) -> Any:
        return system_pb2.GetInfoResponse(version="here")


def test_a_call_does_not_spin_on_a_connection_that_ends_as_it_begins(tmp_path: Path) -> None:
    """With gRPC's own retries it does, until memory is gone."""
    path = private_folder(tmp_path / "run") / "s.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        environment = os.environ | {"GRPC_VERBOSITY": "NONE"}
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(path)], env=environment, stdout=subprocess.PIPE, text=True
        ) as client:
            listening.settimeout(PATIENCE)
            connection, _ = listening.accept()
            with connection:
                connection.sendall(SETTINGS + frame(GOAWAY, struct.pack(">II", 2**31 - 1, 0)))
                printed, _ = client.communicate(timeout=PATIENCE)
    assert (client.returncode, printed) == (0, "UNAVAILABLE\n")


async def test_the_name_goes_before_those_are_told_who_have_just_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_SETTLING", 3600)
    path = private_folder(tmp_path / "run") / "s.sock"
    server = Server(path)
    system_pb2_grpc.add_SystemServiceServicer_to_server(System(), server.grpc)
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{path}", options=CHANNEL_OPTIONS) as channel:
        await channel.channel_ready()
        reader, writer = await asyncio.open_unix_connection(path)
        stopping = asyncio.create_task(server.stop(0))
        await asyncio.sleep(0)
        assert not path.exists()
        # Those who are there are served as before.
        writer.write(PREFACE + SETTINGS)
        heard = await reader.readexactly(len(SETTINGS))
        assert kinds(heard) == kinds(SETTINGS)
        stub = system_pb2_grpc.SystemServiceStub(channel)
        assert (await stub.GetInfo(system_pb2.GetInfoRequest(), timeout=PATIENCE)).version == "here"
        # However it is hurried, it ends as it should.
        stopping.cancel()
        async with asyncio.timeout(PATIENCE):
            heard += await reader.read()
            await server.grpc.wait_for_termination()
        assert GOAWAY in kinds(heard)
        writer.close()
    with pytest.raises(asyncio.CancelledError):
        await stopping
