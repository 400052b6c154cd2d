"""DiscoveryService: workspaces on disk over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sessiond.errors import InvalidArgument
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc._generated.v1 import discovery_pb2_grpc
from sessiond.rpc.codec import session_to_wire
from sessiond.supervisor.directory import Directory, Filter
from sessiond.supervisor.registry import Registry


class DiscoveryService(discovery_pb2_grpc.DiscoveryServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(self, registry: Registry, directory: Directory, roots: Sequence[Path]) -> None:
        self._registry = registry
        self._directory = directory
        self._roots = roots

    async def ScanWorkspaces(
        self, request: pb.ScanWorkspacesRequest, context: Any
    ) -> pb.ScanWorkspacesResponse:
        for text in request.paths:
            if not text.startswith("/"):
                raise InvalidArgument(
                    "path_invalid", f"not an absolute path: {text!r}", fields={"path": text}
                )
        roots = [Path(text) for text in request.paths] or list(self._roots)
        found = await self._registry.scan(roots, explicit=bool(request.paths))
        places = {path for path, _ in found.workspaces}
        rows = [row for row in self._directory.list(Filter(archived=True)) if row.path in places]
        return pb.ScanWorkspacesResponse(
            sessions=map(session_to_wire, rows),
            candidates=[pb.Candidate(path=str(one.path), markers=one.markers) for one in found.candidates],
            skipped=[
                pb.Skipped(path=str(one.path), code=one.code, reason=one.reason) for one in found.skipped
            ],
            roots=map(str, roots),
        )
