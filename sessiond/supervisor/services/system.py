"""SystemService: the supervisor itself over gRPC."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sessiond
from sessiond.errors import Unreachable
from sessiond.model.state import SessionState
from sessiond.paths import Paths
from sessiond.ports import InitSystem, MetadataStore
from sessiond.rpc._generated.v1 import system_pb2 as pb
from sessiond.rpc._generated.v1 import system_pb2_grpc, types_pb2
from sessiond.rpc.codec import timestamp
from sessiond.supervisor.directory import Directory, Filter
from sessiond.supervisor.mirror import Mirror

if TYPE_CHECKING:
    from sessiond.doctor.row import CheckRow


class SystemService(system_pb2_grpc.SystemServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(
        self,
        paths: Paths,
        directory: Directory,
        mirror: Mirror,
        init: InitSystem,
        store: MetadataStore,
        doctor: Callable[[], Sequence[CheckRow]],
    ) -> None:
        self._paths = paths
        self._directory = directory
        self._mirror = mirror
        self._init = init
        self._store = store
        self._doctor = doctor
        self._started = datetime.now(UTC)
        self._name, self._named = "", 0

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:
        rows = self._directory.list(Filter(archived=True))
        response = pb.GetInfoResponse(
            version=sessiond.__version__,
            pid=os.getpid(),
            started_at=timestamp(self._started),
            sessions=len({row.id for row in rows}),
            active_sessions=sum(row.state is SessionState.ACTIVE for row in rows),
            init_reachable=self._mirror.reachable,
            state_dir=str(self._paths.state),
            database_note=self._store.note,
            pid_namespace=os.readlink("/proc/self/ns/pid"),
            mirror_builds=self._mirror.builds,
            init_calls=self._init.calls,
        )
        if self._mirror.reachable:
            try:
                response.init = await self._init_name()
            except Unreachable:
                response.init_reachable = False
        return response

    async def _init_name(self) -> str:
        """Name and version of the init system, asked once in each of its lives."""
        if self._named != self._mirror.builds:
            info = await self._init.info()
            self._name, self._named = f"{info.name} {info.version}", self._mirror.builds
        return self._name

    async def RunDoctor(self, request: pb.RunDoctorRequest, context: Any) -> pb.RunDoctorResponse:
        rows = await asyncio.to_thread(self._doctor)
        return pb.RunDoctorResponse(
            checks=[
                types_pb2.Check(check=row.check, status=row.status, detail=row.detail, fix=row.fix)
                for row in rows
            ]
        )

    async def Shutdown(self, request: pb.ShutdownRequest, context: Any) -> pb.ShutdownResponse:
        await self._init.stop_supervisor()
        return pb.ShutdownResponse()
