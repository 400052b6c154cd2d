"""EventsService: the event log over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from sessiond.errors import InvalidArgument
from sessiond.model.event import Cursor, Event, EventKind
from sessiond.rpc._generated.v1 import events_pb2 as pb
from sessiond.rpc._generated.v1 import events_pb2_grpc
from sessiond.rpc.codec import cursor_from_wire, cursor_to_wire, event_to_wire
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.events import EventLog

_LIMIT_DEFAULT, _LIMIT_MAX = 100, 10_000


class EventsService(events_pb2_grpc.EventsServiceServicer):
    """Parses, makes one call, replies."""

    def __init__(self, events: EventLog, directory: Directory) -> None:
        self._events = events
        self._directory = directory

    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        test = self._test(request.sessions, request.kinds)
        async with aclosing(self._events.follow(_after(request), test)) as stream:
            async for item in stream:
                if isinstance(item, Event):
                    yield pb.WatchEventsResponse(event=event_to_wire(item))
                    continue
                start = item.events[0].cursor if item.events else item.cursor
                start = Cursor(start.epoch, start.seq - len(item.events[:1]))
                yield pb.WatchEventsResponse(cursor=cursor_to_wire(start), reset=item.reset, gap=item.gap)
                for event in item.events:
                    yield pb.WatchEventsResponse(event=event_to_wire(event))

    async def FetchEvents(self, request: pb.FetchEventsRequest, context: Any) -> pb.FetchEventsResponse:
        limit = min(request.limit or _LIMIT_DEFAULT, _LIMIT_MAX)
        page = self._events.fetch(_after(request), limit, self._test(request.sessions, request.kinds))
        return pb.FetchEventsResponse(
            events=map(event_to_wire, page.events),
            cursor=cursor_to_wire(page.cursor),
            reset=page.reset,
            gap=page.gap,
            has_more=page.has_more,
        )

    def _test(self, words: Iterable[str], kinds: Iterable[str]) -> Callable[[Event], bool]:
        sessions = frozenset(self._directory.resolve(word) for word in words)
        wanted = frozenset(map(_kind, kinds))
        return lambda event: (
            (not sessions or event.session in sessions) and (not wanted or event.kind in wanted)
        )


def _after(request: pb.WatchEventsRequest | pb.FetchEventsRequest) -> Cursor | None:
    return cursor_from_wire(request.after) if request.HasField("after") else None


def _kind(word: str) -> EventKind:
    try:
        return EventKind(word)
    except ValueError as error:
        raise InvalidArgument(
            "kind_invalid", f"no event kind {word!r}", hint="kinds: " + ", ".join(EventKind)
        ) from error
