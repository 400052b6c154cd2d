"""The standard health service: serving for as long as the server serves."""

from __future__ import annotations

from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sessiond.rpc.server import Server

SERVICE_NAME: str = health.SERVICE_NAME


def add_health(server: Server) -> health.aio.HealthServicer:
    """Register the health service, before the start; the servicer returned can change its answer."""
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server.grpc)
    return servicer


async def set_serving(servicer: health.aio.HealthServicer, services: Sequence[str]) -> None:
    """Answer SERVING for the server as a whole and for each service named."""
    for name in ("", *services):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
