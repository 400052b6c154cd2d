from sessiond.rpc._generated.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchEventsRequest(_message.Message):
    __slots__ = ("sessions", "kinds", "after")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    after: _types_pb2.Cursor
    def __init__(self, sessions: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ..., after: _Optional[_Union[_types_pb2.Cursor, _Mapping]] = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ("event", "cursor", "reset", "gap")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    event: _types_pb2.Event
    cursor: _types_pb2.Cursor
    reset: bool
    gap: bool
    def __init__(self, event: _Optional[_Union[_types_pb2.Event, _Mapping]] = ..., cursor: _Optional[_Union[_types_pb2.Cursor, _Mapping]] = ..., reset: _Optional[bool] = ..., gap: _Optional[bool] = ...) -> None: ...

class FetchEventsRequest(_message.Message):
    __slots__ = ("sessions", "kinds", "after", "limit")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    after: _types_pb2.Cursor
    limit: int
    def __init__(self, sessions: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ..., after: _Optional[_Union[_types_pb2.Cursor, _Mapping]] = ..., limit: _Optional[int] = ...) -> None: ...

class FetchEventsResponse(_message.Message):
    __slots__ = ("events", "cursor", "reset", "gap", "has_more")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_types_pb2.Event]
    cursor: _types_pb2.Cursor
    reset: bool
    gap: bool
    has_more: bool
    def __init__(self, events: _Optional[_Iterable[_Union[_types_pb2.Event, _Mapping]]] = ..., cursor: _Optional[_Union[_types_pb2.Cursor, _Mapping]] = ..., reset: _Optional[bool] = ..., gap: _Optional[bool] = ..., has_more: _Optional[bool] = ...) -> None: ...
