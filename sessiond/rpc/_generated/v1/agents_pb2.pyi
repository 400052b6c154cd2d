import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGENT_STATE_UNSPECIFIED: _ClassVar[AgentState]
    AGENT_STATE_UNKNOWN: _ClassVar[AgentState]
    AGENT_STATE_STARTING: _ClassVar[AgentState]
    AGENT_STATE_RUNNING: _ClassVar[AgentState]
    AGENT_STATE_PAUSED: _ClassVar[AgentState]
    AGENT_STATE_COMPLETED: _ClassVar[AgentState]
    AGENT_STATE_FAILED: _ClassVar[AgentState]
    AGENT_STATE_TERMINATED: _ClassVar[AgentState]

class RestartPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESTART_POLICY_UNSPECIFIED: _ClassVar[RestartPolicy]
    RESTART_POLICY_NO: _ClassVar[RestartPolicy]
    RESTART_POLICY_ON_FAILURE: _ClassVar[RestartPolicy]
    RESTART_POLICY_ALWAYS: _ClassVar[RestartPolicy]

class OutputStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_STREAM_UNSPECIFIED: _ClassVar[OutputStream]
    OUTPUT_STREAM_BOTH: _ClassVar[OutputStream]
    OUTPUT_STREAM_STDOUT: _ClassVar[OutputStream]
    OUTPUT_STREAM_STDERR: _ClassVar[OutputStream]
    OUTPUT_STREAM_TERMINAL: _ClassVar[OutputStream]

class SizePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SIZE_POLICY_UNSPECIFIED: _ClassVar[SizePolicy]
    SIZE_POLICY_LAST_ACTIVE: _ClassVar[SizePolicy]
    SIZE_POLICY_SMALLEST: _ClassVar[SizePolicy]
    SIZE_POLICY_FIXED: _ClassVar[SizePolicy]

class BatchAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCH_ACTION_UNSPECIFIED: _ClassVar[BatchAction]
    BATCH_ACTION_SIGNAL: _ClassVar[BatchAction]
    BATCH_ACTION_STOP: _ClassVar[BatchAction]
    BATCH_ACTION_KILL: _ClassVar[BatchAction]
    BATCH_ACTION_PAUSE: _ClassVar[BatchAction]
    BATCH_ACTION_RESUME: _ClassVar[BatchAction]
    BATCH_ACTION_RESTART: _ClassVar[BatchAction]
    BATCH_ACTION_WAIT: _ClassVar[BatchAction]
    BATCH_ACTION_REMOVE: _ClassVar[BatchAction]

class ScreenFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCREEN_FORMAT_UNSPECIFIED: _ClassVar[ScreenFormat]
    SCREEN_FORMAT_TEXT: _ClassVar[ScreenFormat]
    SCREEN_FORMAT_ANSI: _ClassVar[ScreenFormat]
    SCREEN_FORMAT_HTML: _ClassVar[ScreenFormat]
AGENT_STATE_UNSPECIFIED: AgentState
AGENT_STATE_UNKNOWN: AgentState
AGENT_STATE_STARTING: AgentState
AGENT_STATE_RUNNING: AgentState
AGENT_STATE_PAUSED: AgentState
AGENT_STATE_COMPLETED: AgentState
AGENT_STATE_FAILED: AgentState
AGENT_STATE_TERMINATED: AgentState
RESTART_POLICY_UNSPECIFIED: RestartPolicy
RESTART_POLICY_NO: RestartPolicy
RESTART_POLICY_ON_FAILURE: RestartPolicy
RESTART_POLICY_ALWAYS: RestartPolicy
OUTPUT_STREAM_UNSPECIFIED: OutputStream
OUTPUT_STREAM_BOTH: OutputStream
OUTPUT_STREAM_STDOUT: OutputStream
OUTPUT_STREAM_STDERR: OutputStream
OUTPUT_STREAM_TERMINAL: OutputStream
SIZE_POLICY_UNSPECIFIED: SizePolicy
SIZE_POLICY_LAST_ACTIVE: SizePolicy
SIZE_POLICY_SMALLEST: SizePolicy
SIZE_POLICY_FIXED: SizePolicy
BATCH_ACTION_UNSPECIFIED: BatchAction
BATCH_ACTION_SIGNAL: BatchAction
BATCH_ACTION_STOP: BatchAction
BATCH_ACTION_KILL: BatchAction
BATCH_ACTION_PAUSE: BatchAction
BATCH_ACTION_RESUME: BatchAction
BATCH_ACTION_RESTART: BatchAction
BATCH_ACTION_WAIT: BatchAction
BATCH_ACTION_REMOVE: BatchAction
SCREEN_FORMAT_UNSPECIFIED: ScreenFormat
SCREEN_FORMAT_TEXT: ScreenFormat
SCREEN_FORMAT_ANSI: ScreenFormat
SCREEN_FORMAT_HTML: ScreenFormat

class Agent(_message.Message):
    __slots__ = ("id", "name", "session", "session_name", "state", "activity", "command", "cwd", "pid", "unit", "tty", "started_at", "ended_at", "exit_status", "signal", "restarts", "group", "labels", "cpu_seconds", "memory_bytes", "reason", "result", "record_bytes", "record_start", "clients", "columns", "rows", "resurrect", "restart", "created_at", "recording_problem")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RECORD_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECORD_START_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    RESURRECT_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    RECORDING_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    session: str
    session_name: str
    state: AgentState
    activity: str
    command: _containers.RepeatedScalarFieldContainer[str]
    cwd: str
    pid: int
    unit: str
    tty: bool
    started_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    exit_status: int
    signal: str
    restarts: int
    group: str
    labels: _containers.ScalarMap[str, str]
    cpu_seconds: float
    memory_bytes: int
    reason: str
    result: str
    record_bytes: int
    record_start: int
    clients: int
    columns: int
    rows: int
    resurrect: bool
    restart: RestartPolicy
    created_at: _timestamp_pb2.Timestamp
    recording_problem: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., session: _Optional[str] = ..., session_name: _Optional[str] = ..., state: _Optional[_Union[AgentState, str]] = ..., activity: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., cwd: _Optional[str] = ..., pid: _Optional[int] = ..., unit: _Optional[str] = ..., tty: _Optional[bool] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exit_status: _Optional[int] = ..., signal: _Optional[str] = ..., restarts: _Optional[int] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., cpu_seconds: _Optional[float] = ..., memory_bytes: _Optional[int] = ..., reason: _Optional[str] = ..., result: _Optional[str] = ..., record_bytes: _Optional[int] = ..., record_start: _Optional[int] = ..., clients: _Optional[int] = ..., columns: _Optional[int] = ..., rows: _Optional[int] = ..., resurrect: _Optional[bool] = ..., restart: _Optional[_Union[RestartPolicy, str]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., recording_problem: _Optional[str] = ...) -> None: ...

class SpawnAgentRequest(_message.Message):
    __slots__ = ("session", "command", "name", "environment", "cwd", "tty", "columns", "rows", "term", "restart", "group", "labels", "properties", "resurrect", "stop_signal", "stop_timeout", "umask", "timeout", "set_environment", "input")
    class EnvironmentEntry(_message.Message):
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
    class PropertiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SetEnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    CWD_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    RESURRECT_FIELD_NUMBER: _ClassVar[int]
    STOP_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STOP_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    UMASK_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SET_ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    session: str
    command: _containers.RepeatedScalarFieldContainer[str]
    name: str
    environment: _containers.ScalarMap[str, str]
    cwd: str
    tty: bool
    columns: int
    rows: int
    term: str
    restart: RestartPolicy
    group: str
    labels: _containers.ScalarMap[str, str]
    properties: _containers.ScalarMap[str, str]
    resurrect: bool
    stop_signal: str
    stop_timeout: _duration_pb2.Duration
    umask: int
    timeout: _duration_pb2.Duration
    set_environment: _containers.ScalarMap[str, str]
    input: bytes
    def __init__(self, session: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., name: _Optional[str] = ..., environment: _Optional[_Mapping[str, str]] = ..., cwd: _Optional[str] = ..., tty: _Optional[bool] = ..., columns: _Optional[int] = ..., rows: _Optional[int] = ..., term: _Optional[str] = ..., restart: _Optional[_Union[RestartPolicy, str]] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., properties: _Optional[_Mapping[str, str]] = ..., resurrect: _Optional[bool] = ..., stop_signal: _Optional[str] = ..., stop_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., umask: _Optional[int] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., set_environment: _Optional[_Mapping[str, str]] = ..., input: _Optional[bytes] = ...) -> None: ...

class SpawnAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class AgentSelection(_message.Message):
    __slots__ = ("session", "agents", "states", "group", "labels", "label_keys", "include_ended")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABEL_KEYS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ENDED_FIELD_NUMBER: _ClassVar[int]
    session: str
    agents: _containers.RepeatedScalarFieldContainer[str]
    states: _containers.RepeatedScalarFieldContainer[AgentState]
    group: str
    labels: _containers.ScalarMap[str, str]
    label_keys: _containers.RepeatedScalarFieldContainer[str]
    include_ended: bool
    def __init__(self, session: _Optional[str] = ..., agents: _Optional[_Iterable[str]] = ..., states: _Optional[_Iterable[_Union[AgentState, str]]] = ..., group: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., label_keys: _Optional[_Iterable[str]] = ..., include_ended: _Optional[bool] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("session", "selection", "usage")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    session: str
    selection: AgentSelection
    usage: bool
    def __init__(self, session: _Optional[str] = ..., selection: _Optional[_Union[AgentSelection, _Mapping]] = ..., usage: _Optional[bool] = ...) -> None: ...

class Unanswered(_message.Message):
    __slots__ = ("session", "session_name", "code", "reason")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    session: str
    session_name: str
    code: str
    reason: str
    def __init__(self, session: _Optional[str] = ..., session_name: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "unanswered")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[Agent]
    unanswered: _containers.RepeatedCompositeFieldContainer[Unanswered]
    def __init__(self, agents: _Optional[_Iterable[_Union[Agent, _Mapping]]] = ..., unanswered: _Optional[_Iterable[_Union[Unanswered, _Mapping]]] = ...) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("session", "agent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class GetAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class SignalAgentRequest(_message.Message):
    __slots__ = ("session", "agent", "signal", "all")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    signal: str
    all: bool
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., signal: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class SignalAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class StopAgentRequest(_message.Message):
    __slots__ = ("session", "agent", "no_wait")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    NO_WAIT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    no_wait: bool
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., no_wait: _Optional[bool] = ...) -> None: ...

class StopAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class KillAgentRequest(_message.Message):
    __slots__ = ("session", "agent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class KillAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class PauseAgentRequest(_message.Message):
    __slots__ = ("session", "agent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class PauseAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class ResumeAgentRequest(_message.Message):
    __slots__ = ("session", "agent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class ResumeAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class RestartAgentRequest(_message.Message):
    __slots__ = ("session", "agent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ...) -> None: ...

class RestartAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class RemoveAgentRequest(_message.Message):
    __slots__ = ("session", "agent", "force")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    force: bool
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class RemoveAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class WaitAgentRequest(_message.Message):
    __slots__ = ("session", "agent", "states", "timeout")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    states: _containers.RepeatedScalarFieldContainer[AgentState]
    timeout: _duration_pb2.Duration
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., states: _Optional[_Iterable[_Union[AgentState, str]]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WaitAgentResponse(_message.Message):
    __slots__ = ("agent",)
    AGENT_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class BatchAgentsRequest(_message.Message):
    __slots__ = ("session", "selection", "action", "signal", "fail_fast", "timeout")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    FAIL_FAST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    session: str
    selection: AgentSelection
    action: BatchAction
    signal: str
    fail_fast: bool
    timeout: _duration_pb2.Duration
    def __init__(self, session: _Optional[str] = ..., selection: _Optional[_Union[AgentSelection, _Mapping]] = ..., action: _Optional[_Union[BatchAction, str]] = ..., signal: _Optional[str] = ..., fail_fast: _Optional[bool] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("agent", "code", "message")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    agent: Agent
    code: str
    message: str
    def __init__(self, agent: _Optional[_Union[Agent, _Mapping]] = ..., code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class BatchAgentsResponse(_message.Message):
    __slots__ = ("results", "unanswered")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    UNANSWERED_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    unanswered: _containers.RepeatedCompositeFieldContainer[Unanswered]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ..., unanswered: _Optional[_Iterable[_Union[Unanswered, _Mapping]]] = ...) -> None: ...

class TerminalSize(_message.Message):
    __slots__ = ("columns", "rows")
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    columns: int
    rows: int
    def __init__(self, columns: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class AttachStart(_message.Message):
    __slots__ = ("agent", "size", "read_only", "scrollback", "size_policy")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    SCROLLBACK_FIELD_NUMBER: _ClassVar[int]
    SIZE_POLICY_FIELD_NUMBER: _ClassVar[int]
    agent: str
    size: TerminalSize
    read_only: bool
    scrollback: int
    size_policy: SizePolicy
    def __init__(self, agent: _Optional[str] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., read_only: _Optional[bool] = ..., scrollback: _Optional[int] = ..., size_policy: _Optional[_Union[SizePolicy, str]] = ...) -> None: ...

class AttachAgentRequest(_message.Message):
    __slots__ = ("session", "start", "input", "resize")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    session: str
    start: AttachStart
    input: bytes
    resize: TerminalSize
    def __init__(self, session: _Optional[str] = ..., start: _Optional[_Union[AttachStart, _Mapping]] = ..., input: _Optional[bytes] = ..., resize: _Optional[_Union[TerminalSize, _Mapping]] = ...) -> None: ...

class AttachScreen(_message.Message):
    __slots__ = ("data", "size", "offset", "behind")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    size: TerminalSize
    offset: int
    behind: bool
    def __init__(self, data: _Optional[bytes] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., offset: _Optional[int] = ..., behind: _Optional[bool] = ...) -> None: ...

class AttachOutput(_message.Message):
    __slots__ = ("data", "offset")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    offset: int
    def __init__(self, data: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class AttachAgentResponse(_message.Message):
    __slots__ = ("screen", "output", "resized", "ended")
    SCREEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    RESIZED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    screen: AttachScreen
    output: AttachOutput
    resized: TerminalSize
    ended: Agent
    def __init__(self, screen: _Optional[_Union[AttachScreen, _Mapping]] = ..., output: _Optional[_Union[AttachOutput, _Mapping]] = ..., resized: _Optional[_Union[TerminalSize, _Mapping]] = ..., ended: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...

class InputPart(_message.Message):
    __slots__ = ("data", "key", "paste", "pause")
    DATA_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PASTE_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    key: str
    paste: str
    pause: _duration_pb2.Duration
    def __init__(self, data: _Optional[bytes] = ..., key: _Optional[str] = ..., paste: _Optional[str] = ..., pause: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SendInputRequest(_message.Message):
    __slots__ = ("session", "agent", "parts")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    parts: _containers.RepeatedCompositeFieldContainer[InputPart]
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[InputPart, _Mapping]]] = ...) -> None: ...

class SendInputResponse(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class GetScreenRequest(_message.Message):
    __slots__ = ("session", "agent", "format", "scrollback")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SCROLLBACK_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    format: ScreenFormat
    scrollback: int
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., format: _Optional[_Union[ScreenFormat, str]] = ..., scrollback: _Optional[int] = ...) -> None: ...

class GetScreenResponse(_message.Message):
    __slots__ = ("content", "size", "cursor_column", "cursor_row", "title", "alternate", "offset", "degraded")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CURSOR_COLUMN_FIELD_NUMBER: _ClassVar[int]
    CURSOR_ROW_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ALTERNATE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    content: str
    size: TerminalSize
    cursor_column: int
    cursor_row: int
    title: str
    alternate: bool
    offset: int
    degraded: bool
    def __init__(self, content: _Optional[str] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., cursor_column: _Optional[int] = ..., cursor_row: _Optional[int] = ..., title: _Optional[str] = ..., alternate: _Optional[bool] = ..., offset: _Optional[int] = ..., degraded: _Optional[bool] = ...) -> None: ...

class ReadOutputRequest(_message.Message):
    __slots__ = ("session", "agent", "stream", "grep", "offset", "last", "limit", "raw")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    GREP_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    stream: OutputStream
    grep: str
    offset: int
    last: int
    limit: int
    raw: bool
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., grep: _Optional[str] = ..., offset: _Optional[int] = ..., last: _Optional[int] = ..., limit: _Optional[int] = ..., raw: _Optional[bool] = ...) -> None: ...

class OutputLine(_message.Message):
    __slots__ = ("text", "offset", "time", "stream", "cut")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CUT_FIELD_NUMBER: _ClassVar[int]
    text: str
    offset: int
    time: _timestamp_pb2.Timestamp
    stream: OutputStream
    cut: bool
    def __init__(self, text: _Optional[str] = ..., offset: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., cut: _Optional[bool] = ...) -> None: ...

class ReadOutputResponse(_message.Message):
    __slots__ = ("lines", "total", "start", "has_more", "next_offset")
    LINES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    NEXT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[OutputLine]
    total: int
    start: int
    has_more: bool
    next_offset: int
    def __init__(self, lines: _Optional[_Iterable[_Union[OutputLine, _Mapping]]] = ..., total: _Optional[int] = ..., start: _Optional[int] = ..., has_more: _Optional[bool] = ..., next_offset: _Optional[int] = ...) -> None: ...

class StreamRecordRequest(_message.Message):
    __slots__ = ("session", "agent", "stream", "offset", "follow", "from_end")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    FROM_END_FIELD_NUMBER: _ClassVar[int]
    session: str
    agent: str
    stream: OutputStream
    offset: int
    follow: bool
    from_end: bool
    def __init__(self, session: _Optional[str] = ..., agent: _Optional[str] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., offset: _Optional[int] = ..., follow: _Optional[bool] = ..., from_end: _Optional[bool] = ...) -> None: ...

class StreamRecordResponse(_message.Message):
    __slots__ = ("time", "offset", "stream", "data", "size", "gap", "restarted", "ended")
    TIME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    offset: int
    stream: OutputStream
    data: bytes
    size: TerminalSize
    gap: int
    restarted: bool
    ended: Agent
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., offset: _Optional[int] = ..., stream: _Optional[_Union[OutputStream, str]] = ..., data: _Optional[bytes] = ..., size: _Optional[_Union[TerminalSize, _Mapping]] = ..., gap: _Optional[int] = ..., restarted: _Optional[bool] = ..., ended: _Optional[_Union[Agent, _Mapping]] = ...) -> None: ...
