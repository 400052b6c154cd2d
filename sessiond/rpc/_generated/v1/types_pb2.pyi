import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SessionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_TYPE_UNSPECIFIED: _ClassVar[SessionType]
    SESSION_TYPE_DEVELOPMENT: _ClassVar[SessionType]
    SESSION_TYPE_PRODUCTION: _ClassVar[SessionType]
    SESSION_TYPE_TEST: _ClassVar[SessionType]
    SESSION_TYPE_PERSONA: _ClassVar[SessionType]

class SessionState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SESSION_STATE_UNSPECIFIED: _ClassVar[SessionState]
    SESSION_STATE_UNKNOWN: _ClassVar[SessionState]
    SESSION_STATE_INACTIVE: _ClassVar[SessionState]
    SESSION_STATE_STARTING: _ClassVar[SessionState]
    SESSION_STATE_ACTIVE: _ClassVar[SessionState]
    SESSION_STATE_STOPPING: _ClassVar[SessionState]
    SESSION_STATE_ERROR: _ClassVar[SessionState]
    SESSION_STATE_ARCHIVED: _ClassVar[SessionState]
SESSION_TYPE_UNSPECIFIED: SessionType
SESSION_TYPE_DEVELOPMENT: SessionType
SESSION_TYPE_PRODUCTION: SessionType
SESSION_TYPE_TEST: SessionType
SESSION_TYPE_PERSONA: SessionType
SESSION_STATE_UNSPECIFIED: SessionState
SESSION_STATE_UNKNOWN: SessionState
SESSION_STATE_INACTIVE: SessionState
SESSION_STATE_STARTING: SessionState
SESSION_STATE_ACTIVE: SessionState
SESSION_STATE_STOPPING: SessionState
SESSION_STATE_ERROR: SessionState
SESSION_STATE_ARCHIVED: SessionState

class Session(_message.Message):
    __slots__ = ("id", "name", "path", "type", "owner", "labels", "annotations", "state", "frozen", "archived", "enabled", "active", "conflict", "unit", "slice", "pid", "since", "restarts", "created_at", "last_accessed", "problem", "result", "exit_status", "signal", "endpoint")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CONFLICT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SLICE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_ACCESSED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    path: str
    type: SessionType
    owner: str
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    state: SessionState
    frozen: bool
    archived: bool
    enabled: bool
    active: bool
    conflict: str
    unit: str
    slice: str
    pid: int
    since: _timestamp_pb2.Timestamp
    restarts: int
    created_at: _timestamp_pb2.Timestamp
    last_accessed: _timestamp_pb2.Timestamp
    problem: str
    result: str
    exit_status: int
    signal: str
    endpoint: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., path: _Optional[str] = ..., type: _Optional[_Union[SessionType, str]] = ..., owner: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., state: _Optional[_Union[SessionState, str]] = ..., frozen: _Optional[bool] = ..., archived: _Optional[bool] = ..., enabled: _Optional[bool] = ..., active: _Optional[bool] = ..., conflict: _Optional[str] = ..., unit: _Optional[str] = ..., slice: _Optional[str] = ..., pid: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., restarts: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_accessed: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problem: _Optional[str] = ..., result: _Optional[str] = ..., exit_status: _Optional[int] = ..., signal: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("property", "value")
    PROPERTY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    property: str
    value: str
    def __init__(self, property: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Cursor(_message.Message):
    __slots__ = ("epoch", "seq")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    seq: int
    def __init__(self, epoch: _Optional[str] = ..., seq: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "time", "kind", "session", "session_name", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    cursor: Cursor
    time: _timestamp_pb2.Timestamp
    kind: str
    session: str
    session_name: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, cursor: _Optional[_Union[Cursor, _Mapping]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., session: _Optional[str] = ..., session_name: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("check", "status", "detail", "fix")
    CHECK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    FIX_FIELD_NUMBER: _ClassVar[int]
    check: str
    status: str
    detail: str
    fix: str
    def __init__(self, check: _Optional[str] = ..., status: _Optional[str] = ..., detail: _Optional[str] = ..., fix: _Optional[str] = ...) -> None: ...
