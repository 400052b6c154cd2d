"""SessionsService: sessions over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from operator import is_
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.session import Session
from sessiond.model.state import SessionState
from sessiond.ports import InitSystem
from sessiond.rpc._generated.v1 import sessions_pb2 as pb
from sessiond.rpc._generated.v1 import sessions_pb2_grpc, types_pb2
from sessiond.rpc.codec import session_to_wire, states_from_wire, type_from_wire
from sessiond.supervisor.changes import Changes, Edit, Wish
from sessiond.supervisor.directory import Directory, Filter
from sessiond.supervisor.lifecycle import Lifecycle

_LOG_LINES = 20
_MASKABLE = frozenset({"name", "type", "owner", "labels", "annotations"})


class SessionsService(sessions_pb2_grpc.SessionsServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(
        self, directory: Directory, lifecycle: Lifecycle, changes: Changes, init: InitSystem
    ) -> None:
        self._directory = directory
        self._lifecycle = lifecycle
        self._changes = changes
        self._init = init
        self._listing = _Listing()

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:
        wish = Wish(
            request.path, request.name, type_from_wire(request.type), request.owner, dict(request.labels)
        )
        session = await self._changes.create(wish)
        if request.enable:
            session = await self._lifecycle.enable(session.id)
        if request.start:
            session = await self._lifecycle.start(session.id)
        return pb.CreateSessionResponse(session=session_to_wire(session))

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        session = self._directory.get(self._directory.resolve(request.session))
        response = pb.GetSessionResponse(session=session_to_wire(session))
        if request.details:
            await self._add_details(session, response)
        return response

    async def _add_details(self, session: Session, response: pb.GetSessionResponse) -> None:
        """Put in what only the init system and the journal can tell, or why they do not."""
        try:
            limits = await self._init.limits(session.id)
            response.limits.extend(_limits(limits))
            response.limits_unenforced.extend(await self._init.unenforced(list(limits)))
        except SessiondError as error:
            response.limits_unknown = error.message
        try:
            response.last_log.extend(await self._init.last_log(session.id, _LOG_LINES))
        except SessiondError as error:
            response.last_log_unknown = error.message

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        wanted = Filter(
            archived=request.include_archived,
            states=states_from_wire(request.states),
            labels=dict(request.labels),
            label_keys=frozenset(request.label_keys),
            types=frozenset(one for number in request.types if (one := type_from_wire(number))),
            owner=request.owner,
        )
        return self._listing.response(self._directory.list(wanted))

    async def UpdateSession(self, request: pb.UpdateSessionRequest, context: Any) -> pb.UpdateSessionResponse:
        session = await self._changes.update(self._directory.resolve(request.session), _edit(request))
        return pb.UpdateSessionResponse(session=session_to_wire(session))

    async def StartSession(self, request: pb.StartSessionRequest, context: Any) -> pb.StartSessionResponse:
        return pb.StartSessionResponse(session=await self._moved(self._lifecycle.start, request))

    async def StopSession(self, request: pb.StopSessionRequest, context: Any) -> pb.StopSessionResponse:
        return pb.StopSessionResponse(session=await self._moved(self._lifecycle.stop, request))

    async def RestartSession(
        self, request: pb.RestartSessionRequest, context: Any
    ) -> pb.RestartSessionResponse:
        return pb.RestartSessionResponse(session=await self._moved(self._lifecycle.restart, request))

    async def KillSession(self, request: pb.KillSessionRequest, context: Any) -> pb.KillSessionResponse:
        session = await self._lifecycle.kill(self._directory.resolve(request.session), request.signal)
        return pb.KillSessionResponse(session=session_to_wire(session))

    async def EnableSession(self, request: pb.EnableSessionRequest, context: Any) -> pb.EnableSessionResponse:
        return pb.EnableSessionResponse(session=await self._done(self._lifecycle.enable, request))

    async def DisableSession(
        self, request: pb.DisableSessionRequest, context: Any
    ) -> pb.DisableSessionResponse:
        return pb.DisableSessionResponse(session=await self._done(self._lifecycle.disable, request))

    async def LimitSession(self, request: pb.LimitSessionRequest, context: Any) -> pb.LimitSessionResponse:
        session = self._directory.resolve(request.session)
        limits = await self._lifecycle.limit(session, dict(request.properties))
        return pb.LimitSessionResponse(
            session=session_to_wire(self._directory.get(session)),
            limits=_limits(limits),
            unenforced=await self._init.unenforced(list(limits)),
        )

    async def ArchiveSession(
        self, request: pb.ArchiveSessionRequest, context: Any
    ) -> pb.ArchiveSessionResponse:
        return pb.ArchiveSessionResponse(session=await self._done(self._lifecycle.archive, request))

    async def UnarchiveSession(
        self, request: pb.UnarchiveSessionRequest, context: Any
    ) -> pb.UnarchiveSessionResponse:
        return pb.UnarchiveSessionResponse(session=await self._done(self._lifecycle.unarchive, request))

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Any) -> pb.DeleteSessionResponse:
        session = await self._changes.delete(
            self._directory.resolve(request.session),
            purge_path=request.confirm_path if request.purge else None,
            stop=request.stop,
        )
        return pb.DeleteSessionResponse(session=session_to_wire(session))

    async def AdoptSession(self, request: pb.AdoptSessionRequest, context: Any) -> pb.AdoptSessionResponse:
        session = await self._changes.adopt(request.path, new=request.new_id, name=request.name)
        return pb.AdoptSessionResponse(session=session_to_wire(session))

    async def ActivateSession(
        self, request: pb.ActivateSessionRequest, context: Any
    ) -> pb.ActivateSessionResponse:
        return pb.ActivateSessionResponse(session=await self._done(self._lifecycle.activate, request))

    async def DeactivateSession(
        self, request: pb.DeactivateSessionRequest, context: Any
    ) -> pb.DeactivateSessionResponse:
        return pb.DeactivateSessionResponse(session=await self._done(self._lifecycle.deactivate, request))

    async def EndSession(self, request: pb.EndSessionRequest, context: Any) -> pb.EndSessionResponse:
        return pb.EndSessionResponse(session=await self._done(self._lifecycle.end, request))

    async def WaitSession(self, request: pb.WaitSessionRequest, context: Any) -> pb.WaitSessionResponse:
        states = states_from_wire(request.states) or frozenset({SessionState.ACTIVE})
        timeout = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else None
        session = await self._directory.wait(self._directory.resolve(request.session), states, timeout)
        return pb.WaitSessionResponse(session=session_to_wire(session))

    async def GetActiveSession(
        self, request: pb.GetActiveSessionRequest, context: Any
    ) -> pb.GetActiveSessionResponse:
        session = self._directory.active()
        if session is None:
            raise NotFound("no_active_session", "no session is the active one", hint="sessionctl use SESSION")
        return pb.GetActiveSessionResponse(session=session_to_wire(self._directory.get(session)))

    async def _done(self, verb: Callable[[str], Awaitable[Session]], request: Any) -> types_pb2.Session:
        return session_to_wire(await verb(self._directory.resolve(request.session)))

    async def _moved(self, verb: Any, request: Any) -> types_pb2.Session:
        session = self._directory.resolve(request.session)
        return session_to_wire(await verb(session, wait=not request.no_wait))


class _Listing:
    """Keeps each row's bytes and the last answer while rows are the same: making messages is most of it."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Path], tuple[Session, bytes]] = {}
        self._last: tuple[Sequence[Session], pb.ListSessionsResponse] = (), pb.ListSessionsResponse()

    def response(self, rows: Sequence[Session]) -> pb.ListSessionsResponse:
        """The rows, in their order; the message is not to be changed."""
        before, answer = self._last
        if len(before) != len(rows) or not all(map(is_, before, rows)):
            answer = self._joined(rows)
            self._last = rows, answer
        return answer

    def _joined(self, rows: Sequence[Session]) -> pb.ListSessionsResponse:
        # A message's field may be written in pieces.
        if len(self._rows) > 2 * len(rows) + 1000:
            self._rows.clear()
        return pb.ListSessionsResponse.FromString(b"".join(map(self._piece, rows)))

    def _piece(self, row: Session) -> bytes:
        kept = self._rows.get((row.id, row.path))
        if kept is None or kept[0] is not row:
            piece = pb.ListSessionsResponse(sessions=[session_to_wire(row)]).SerializeToString()
            kept = self._rows[row.id, row.path] = row, piece
        return kept[1]


def _limits(limits: dict[str, str]) -> list[types_pb2.Limit]:
    return [types_pb2.Limit(property=name, value=value) for name, value in sorted(limits.items())]


def _edit(request: pb.UpdateSessionRequest) -> Edit:
    """The edit that a request asks for; the mask says which plain fields count."""
    mask = frozenset(_paths(request.update_mask))
    unknown = mask - _MASKABLE
    if unknown:
        raise InvalidArgument(
            "mask_invalid",
            f"{sorted(unknown)[0]!r} cannot be updated",
            hint="update_mask takes " + ", ".join(sorted(_MASKABLE)),
        )
    kind = type_from_wire(request.type) if "type" in mask else None
    if "type" in mask and kind is None:
        raise InvalidArgument(
            "type_invalid",
            "the type is in the mask and not given",
            hint="give it, or leave it out of the mask",
        )
    return Edit(
        name=request.name if "name" in mask else None,
        type=kind,
        owner=request.owner if "owner" in mask else None,
        labels=dict(request.labels) if "labels" in mask else None,
        annotations=dict(request.annotations) if "annotations" in mask else None,
        set_labels=dict(request.set_labels),
        remove_labels=list(request.remove_labels),
        set_annotations=dict(request.set_annotations),
        remove_annotations=list(request.remove_annotations),
    )


def _paths(mask: FieldMask) -> list[str]:
    return list(mask.paths)
