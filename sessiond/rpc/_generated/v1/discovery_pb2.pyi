import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from sessiond.rpc._generated.v1 import agents_pb2 as _agents_pb2
from sessiond.rpc._generated.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentSessionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_SESSION_STATUS_UNSPECIFIED: _ClassVar[AgentSessionStatus]
    AGENT_SESSION_STATUS_UNKNOWN: _ClassVar[AgentSessionStatus]
    AGENT_SESSION_STATUS_RUNNING: _ClassVar[AgentSessionStatus]
    AGENT_SESSION_STATUS_IDLE: _ClassVar[AgentSessionStatus]
    AGENT_SESSION_STATUS_WAITING: _ClassVar[AgentSessionStatus]
    AGENT_SESSION_STATUS_STOPPED: _ClassVar[AgentSessionStatus]
AGENT_SESSION_STATUS_UNSPECIFIED: AgentSessionStatus
AGENT_SESSION_STATUS_UNKNOWN: AgentSessionStatus
AGENT_SESSION_STATUS_RUNNING: AgentSessionStatus
AGENT_SESSION_STATUS_IDLE: AgentSessionStatus
AGENT_SESSION_STATUS_WAITING: AgentSessionStatus
AGENT_SESSION_STATUS_STOPPED: AgentSessionStatus

class ScanWorkspacesRequest(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, paths: _Optional[_Iterable[str]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("path", "markers", "agent_sessions")
    class AgentSessionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    MARKERS_FIELD_NUMBER: _ClassVar[int]
    AGENT_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    path: str
    markers: _containers.RepeatedScalarFieldContainer[str]
    agent_sessions: _containers.ScalarMap[str, int]
    def __init__(self, path: _Optional[str] = ..., markers: _Optional[_Iterable[str]] = ..., agent_sessions: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Skipped(_message.Message):
    __slots__ = ("path", "code", "reason")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    path: str
    code: str
    reason: str
    def __init__(self, path: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ScanWorkspacesResponse(_message.Message):
    __slots__ = ("sessions", "candidates", "skipped", "roots")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[_types_pb2.Session]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    skipped: _containers.RepeatedCompositeFieldContainer[Skipped]
    roots: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sessions: _Optional[_Iterable[_Union[_types_pb2.Session, _Mapping]]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., skipped: _Optional[_Iterable[_Union[Skipped, _Mapping]]] = ..., roots: _Optional[_Iterable[str]] = ...) -> None: ...

class AgentSession(_message.Message):
    __slots__ = ("id", "adapter", "status", "reason", "activity", "cwd", "model", "title", "first_prompt", "last_prompt", "started_at", "updated_at", "ended_at", "pid", "tokens_in", "tokens_out", "cost_usd", "parent", "native", "session", "session_name", "agent", "agent_name", "labels", "annotations", "group", "launched_at", "age_ms", "stale")
    class NativeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
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
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    FIRST_PROMPT_FIELD_NUMBER: _ClassVar[int]
    LAST_PROMPT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_IN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OUT_FIELD_NUMBER: _ClassVar[int]
    COST_USD_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LAUNCHED_AT_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    id: str
    adapter: str
    status: AgentSessionStatus
    reason: str
    activity: str
    cwd: str
    model: str
    title: str
    first_prompt: str
    last_prompt: str
    started_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    pid: int
    tokens_in: int
    tokens_out: int
    cost_usd: float
    parent: str
    native: _containers.ScalarMap[str, str]
    session: str
    session_name: str
    agent: str
    agent_name: str
    labels: _containers.ScalarMap[str, str]
    annotations: _containers.ScalarMap[str, str]
    group: str
    launched_at: _timestamp_pb2.Timestamp
    age_ms: int
    stale: bool
    def __init__(self, id: _Optional[str] = ..., adapter: _Optional[str] = ..., status: _Optional[_Union[AgentSessionStatus, str]] = ..., reason: _Optional[str] = ..., activity: _Optional[str] = ..., cwd: _Optional[str] = ..., model: _Optional[str] = ..., title: _Optional[str] = ..., first_prompt: _Optional[str] = ..., last_prompt: _Optional[str] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pid: _Optional[int] = ..., tokens_in: _Optional[int] = ..., tokens_out: _Optional[int] = ..., cost_usd: _Optional[float] = ..., parent: _Optional[str] = ..., native: _Optional[_Mapping[str, str]] = ..., session: _Optional[str] = ..., session_name: _Optional[str] = ..., agent: _Optional[str] = ..., agent_name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., annotations: _Optional[_Mapping[str, str]] = ..., group: _Optional[str] = ..., launched_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., age_ms: _Optional[int] = ..., stale: _Optional[bool] = ...) -> None: ...

class AdapterProblem(_message.Message):
    __slots__ = ("adapter", "path", "code", "reason", "since")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    path: str
    code: str
    reason: str
    since: _timestamp_pb2.Timestamp
    def __init__(self, adapter: _Optional[str] = ..., path: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AgentSessionFilter(_message.Message):
    __slots__ = ("adapters", "statuses", "cwd", "labels", "label_keys", "group", "since", "session", "include_stopped")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABEL_KEYS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STOPPED_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedScalarFieldContainer[str]
    statuses: _containers.RepeatedScalarFieldContainer[AgentSessionStatus]
    cwd: str
    labels: _containers.ScalarMap[str, str]
    label_keys: _containers.RepeatedScalarFieldContainer[str]
    group: str
    since: _timestamp_pb2.Timestamp
    session: str
    include_stopped: bool
    def __init__(self, adapters: _Optional[_Iterable[str]] = ..., statuses: _Optional[_Iterable[_Union[AgentSessionStatus, str]]] = ..., cwd: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., label_keys: _Optional[_Iterable[str]] = ..., group: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., session: _Optional[str] = ..., include_stopped: _Optional[bool] = ...) -> None: ...

class ListAgentSessionsRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "refresh")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REFRESH_FIELD_NUMBER: _ClassVar[int]
    filter: AgentSessionFilter
    page_size: int
    page_token: str
    refresh: bool
    def __init__(self, filter: _Optional[_Union[AgentSessionFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., refresh: _Optional[bool] = ...) -> None: ...

class ListAgentSessionsResponse(_message.Message):
    __slots__ = ("agent_sessions", "next_page_token", "total", "problems")
    AGENT_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    agent_sessions: _containers.RepeatedCompositeFieldContainer[AgentSession]
    next_page_token: str
    total: int
    problems: _containers.RepeatedCompositeFieldContainer[AdapterProblem]
    def __init__(self, agent_sessions: _Optional[_Iterable[_Union[AgentSession, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[AdapterProblem, _Mapping]]] = ...) -> None: ...

class GetAgentSessionRequest(_message.Message):
    __slots__ = ("agent_session",)
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    agent_session: str
    def __init__(self, agent_session: _Optional[str] = ...) -> None: ...

class GetAgentSessionResponse(_message.Message):
    __slots__ = ("agent_session",)
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    agent_session: AgentSession
    def __init__(self, agent_session: _Optional[_Union[AgentSession, _Mapping]] = ...) -> None: ...

class ToolUse(_message.Message):
    __slots__ = ("id", "name", "content", "result", "failed")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    content: str
    result: bool
    failed: bool
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., content: _Optional[str] = ..., result: _Optional[bool] = ..., failed: _Optional[bool] = ...) -> None: ...

class TranscriptMessage(_message.Message):
    __slots__ = ("role", "text", "thinking", "tools", "time", "model", "tokens_in", "tokens_out", "cut")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    THINKING_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_IN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_OUT_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    role: str
    text: str
    thinking: str
    tools: _containers.RepeatedCompositeFieldContainer[ToolUse]
    time: _timestamp_pb2.Timestamp
    model: str
    tokens_in: int
    tokens_out: int
    cut: bool
    def __init__(self, role: _Optional[str] = ..., text: _Optional[str] = ..., thinking: _Optional[str] = ..., tools: _Optional[_Iterable[_Union[ToolUse, _Mapping]]] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model: _Optional[str] = ..., tokens_in: _Optional[int] = ..., tokens_out: _Optional[int] = ..., cut: _Optional[bool] = ...) -> None: ...

class ReadTranscriptRequest(_message.Message):
    __slots__ = ("agent_session", "tail")
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    agent_session: str
    tail: int
    def __init__(self, agent_session: _Optional[str] = ..., tail: _Optional[int] = ...) -> None: ...

class ReadTranscriptResponse(_message.Message):
    __slots__ = ("agent_session", "messages", "has_more", "problems")
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    agent_session: AgentSession
    messages: _containers.RepeatedCompositeFieldContainer[TranscriptMessage]
    has_more: bool
    problems: _containers.RepeatedCompositeFieldContainer[AdapterProblem]
    def __init__(self, agent_session: _Optional[_Union[AgentSession, _Mapping]] = ..., messages: _Optional[_Iterable[_Union[TranscriptMessage, _Mapping]]] = ..., has_more: _Optional[bool] = ..., problems: _Optional[_Iterable[_Union[AdapterProblem, _Mapping]]] = ...) -> None: ...

class WatchAgentSessionsRequest(_message.Message):
    __slots__ = ("filter",)
    FILTER_FIELD_NUMBER: _ClassVar[int]
    filter: AgentSessionFilter
    def __init__(self, filter: _Optional[_Union[AgentSessionFilter, _Mapping]] = ...) -> None: ...

class AgentSessionRemoved(_message.Message):
    __slots__ = ("adapter", "id")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    id: str
    def __init__(self, adapter: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class AgentSessionsCurrent(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchAgentSessionsResponse(_message.Message):
    __slots__ = ("agent_session", "removed", "current", "problem")
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    agent_session: AgentSession
    removed: AgentSessionRemoved
    current: AgentSessionsCurrent
    problem: AdapterProblem
    def __init__(self, agent_session: _Optional[_Union[AgentSession, _Mapping]] = ..., removed: _Optional[_Union[AgentSessionRemoved, _Mapping]] = ..., current: _Optional[_Union[AgentSessionsCurrent, _Mapping]] = ..., problem: _Optional[_Union[AdapterProblem, _Mapping]] = ...) -> None: ...

class LaunchAgentSessionRequest(_message.Message):
    __slots__ = ("adapter", "spawn", "model", "prompt", "print")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    SPAWN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PRINT_FIELD_NUMBER: _ClassVar[int]
    adapter: str
    spawn: _agents_pb2.SpawnAgentRequest
    model: str
    prompt: str
    print: bool
    def __init__(self, adapter: _Optional[str] = ..., spawn: _Optional[_Union[_agents_pb2.SpawnAgentRequest, _Mapping]] = ..., model: _Optional[str] = ..., prompt: _Optional[str] = ..., print: _Optional[bool] = ...) -> None: ...

class LaunchAgentSessionResponse(_message.Message):
    __slots__ = ("agent", "agent_session")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    agent: _agents_pb2.Agent
    agent_session: AgentSession
    def __init__(self, agent: _Optional[_Union[_agents_pb2.Agent, _Mapping]] = ..., agent_session: _Optional[_Union[AgentSession, _Mapping]] = ...) -> None: ...

class ResumeAgentSessionRequest(_message.Message):
    __slots__ = ("agent_session", "spawn", "model", "prompt", "print", "take_over", "stop_timeout")
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    SPAWN_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PRINT_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_FIELD_NUMBER: _ClassVar[int]
    STOP_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    agent_session: str
    spawn: _agents_pb2.SpawnAgentRequest
    model: str
    prompt: str
    print: bool
    take_over: bool
    stop_timeout: _duration_pb2.Duration
    def __init__(self, agent_session: _Optional[str] = ..., spawn: _Optional[_Union[_agents_pb2.SpawnAgentRequest, _Mapping]] = ..., model: _Optional[str] = ..., prompt: _Optional[str] = ..., print: _Optional[bool] = ..., take_over: _Optional[bool] = ..., stop_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ResumeAgentSessionResponse(_message.Message):
    __slots__ = ("agent", "agent_session", "typed", "ended_pid")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    TYPED_FIELD_NUMBER: _ClassVar[int]
    ENDED_PID_FIELD_NUMBER: _ClassVar[int]
    agent: _agents_pb2.Agent
    agent_session: AgentSession
    typed: bool
    ended_pid: int
    def __init__(self, agent: _Optional[_Union[_agents_pb2.Agent, _Mapping]] = ..., agent_session: _Optional[_Union[AgentSession, _Mapping]] = ..., typed: _Optional[bool] = ..., ended_pid: _Optional[int] = ...) -> None: ...

class LabelAgentSessionRequest(_message.Message):
    __slots__ = ("agent_session", "set_labels", "remove_labels", "set_annotations", "remove_annotations", "group")
    class SetLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SetAnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    SET_LABELS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_LABELS_FIELD_NUMBER: _ClassVar[int]
    SET_ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    agent_session: str
    set_labels: _containers.ScalarMap[str, str]
    remove_labels: _containers.RepeatedScalarFieldContainer[str]
    set_annotations: _containers.ScalarMap[str, str]
    remove_annotations: _containers.RepeatedScalarFieldContainer[str]
    group: str
    def __init__(self, agent_session: _Optional[str] = ..., set_labels: _Optional[_Mapping[str, str]] = ..., remove_labels: _Optional[_Iterable[str]] = ..., set_annotations: _Optional[_Mapping[str, str]] = ..., remove_annotations: _Optional[_Iterable[str]] = ..., group: _Optional[str] = ...) -> None: ...

class LabelAgentSessionResponse(_message.Message):
    __slots__ = ("agent_session",)
    AGENT_SESSION_FIELD_NUMBER: _ClassVar[int]
    agent_session: AgentSession
    def __init__(self, agent_session: _Optional[_Union[AgentSession, _Mapping]] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("name", "title", "installed", "path", "version", "verified", "abilities", "places", "agent_sessions", "live", "disabled", "problems")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    AGENT_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    DISABLED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    installed: bool
    path: str
    version: str
    verified: str
    abilities: _containers.RepeatedScalarFieldContainer[str]
    places: _containers.RepeatedScalarFieldContainer[str]
    agent_sessions: int
    live: int
    disabled: bool
    problems: _containers.RepeatedCompositeFieldContainer[AdapterProblem]
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., installed: _Optional[bool] = ..., path: _Optional[str] = ..., version: _Optional[str] = ..., verified: _Optional[str] = ..., abilities: _Optional[_Iterable[str]] = ..., places: _Optional[_Iterable[str]] = ..., agent_sessions: _Optional[int] = ..., live: _Optional[int] = ..., disabled: _Optional[bool] = ..., problems: _Optional[_Iterable[_Union[AdapterProblem, _Mapping]]] = ...) -> None: ...

class ProbeAdaptersRequest(_message.Message):
    __slots__ = ("adapters", "search_path")
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_PATH_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedScalarFieldContainer[str]
    search_path: str
    def __init__(self, adapters: _Optional[_Iterable[str]] = ..., search_path: _Optional[str] = ...) -> None: ...

class ProbeAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[Adapter]
    def __init__(self, adapters: _Optional[_Iterable[_Union[Adapter, _Mapping]]] = ...) -> None: ...
