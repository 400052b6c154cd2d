import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from sessiond.rpc._generated.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("version", "pid", "started_at", "sessions", "active_sessions", "init", "init_reachable", "state_dir", "database_note", "pid_namespace", "mirror_builds", "init_calls")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    INIT_FIELD_NUMBER: _ClassVar[int]
    INIT_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    STATE_DIR_FIELD_NUMBER: _ClassVar[int]
    DATABASE_NOTE_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MIRROR_BUILDS_FIELD_NUMBER: _ClassVar[int]
    INIT_CALLS_FIELD_NUMBER: _ClassVar[int]
    version: str
    pid: int
    started_at: _timestamp_pb2.Timestamp
    sessions: int
    active_sessions: int
    init: str
    init_reachable: bool
    state_dir: str
    database_note: str
    pid_namespace: str
    mirror_builds: int
    init_calls: int
    def __init__(self, version: _Optional[str] = ..., pid: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sessions: _Optional[int] = ..., active_sessions: _Optional[int] = ..., init: _Optional[str] = ..., init_reachable: _Optional[bool] = ..., state_dir: _Optional[str] = ..., database_note: _Optional[str] = ..., pid_namespace: _Optional[str] = ..., mirror_builds: _Optional[int] = ..., init_calls: _Optional[int] = ...) -> None: ...

class RunDoctorRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunDoctorResponse(_message.Message):
    __slots__ = ("checks",)
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[_types_pb2.Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[_types_pb2.Check, _Mapping]]] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
