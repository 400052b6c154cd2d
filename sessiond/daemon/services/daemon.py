"""SessionDaemonService: one session's daemon over gRPC."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

import sessiond
from sessiond.daemon.services.session import check_session
from sessiond.rpc._generated.v1 import daemon_pb2 as pb
from sessiond.rpc._generated.v1 import daemon_pb2_grpc


class DaemonService(daemon_pb2_grpc.SessionDaemonServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(
        self, session: str, store: Path, restored: Sequence[str], stop: Callable[[str], Awaitable[None]]
    ) -> None:
        self._session = session
        self._store = store
        self._restored = restored
        self._stop = stop
        self._started = Timestamp()
        self._started.FromDatetime(datetime.now(UTC))

    async def GetDaemonInfo(self, request: pb.GetDaemonInfoRequest, context: Any) -> pb.GetDaemonInfoResponse:
        check_session(request.session, self._session)
        return pb.GetDaemonInfoResponse(
            session=self._session,
            version=sessiond.__version__,
            pid=os.getpid(),
            started_at=self._started,
            restored_descriptors=self._restored,
            store=str(self._store),
        )

    async def StopDaemon(self, request: pb.StopDaemonRequest, context: Any) -> pb.StopDaemonResponse:
        check_session(request.session, self._session)
        await self._stop(self._session)
        return pb.StopDaemonResponse()
