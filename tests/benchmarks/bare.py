"""The limit: the least that a Python gRPC daemon can be. Run as a program with the path of its socket."""

from __future__ import annotations

import asyncio
import sys

import grpc.aio
import sdnotify


async def main(socket: str) -> None:
    """Serve nothing, and say so to the init system."""
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    sdnotify.SystemdNotifier().notify("READY=1")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
