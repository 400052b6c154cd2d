"""Between messages and the model of agents: nothing else knows both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from google.protobuf.duration_pb2 import Duration

from sessiond.errors import InvalidArgument
from sessiond.model.agent import Agent, AgentState, RestartPolicy
from sessiond.model.agent_selection import Selection
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.codec import timestamp

_STATE_TO_WIRE = {
    one: cast("pb.AgentState", pb.AgentState.Value(f"AGENT_STATE_{one.name}")) for one in AgentState
}
_STATE_FROM_WIRE: dict[int, AgentState] = {number: one for one, number in _STATE_TO_WIRE.items()}
_RESTART_TO_WIRE = {
    one: cast("pb.RestartPolicy", pb.RestartPolicy.Value(f"RESTART_POLICY_{one.name}"))
    for one in RestartPolicy
}
_RESTART_FROM_WIRE: dict[int, RestartPolicy] = {number: one for one, number in _RESTART_TO_WIRE.items()}


def agent_to_wire(agent: Agent) -> pb.Agent:
    """One row."""
    spec, unit, end = agent.spec, agent.unit, agent.end
    message = pb.Agent(
        id=spec.id,
        name=spec.name,
        session=spec.session,
        session_name=agent.session_name,
        state=_STATE_TO_WIRE[agent.state],
        activity=agent.activity,
        command=[text(word) for word in spec.argv],
        cwd=text(str(spec.cwd)),
        unit=spec.unit,
        tty=spec.tty,
        group=spec.group,
        labels=spec.labels,
        record_bytes=agent.record_bytes,
        record_start=agent.record_start,
        clients=agent.clients,
        columns=agent.columns,
        rows=agent.rows,
        resurrect=spec.resurrect,
        restart=_RESTART_TO_WIRE[spec.restart],
        created_at=timestamp(spec.created),
        recording_problem=agent.recording_problem,
    )
    if end is None and unit is not None:
        message.restarts = unit.status.n_restarts
        if unit.status.main_pid:
            message.pid = unit.status.main_pid
        if agent.state.ended:
            message.signal = unit.status.exit_signal
            message.result = unit.status.result
            if unit.status.exit_status is not None:
                message.exit_status = unit.status.exit_status
    elif end is not None:
        message.restarts = end.restarts
        message.signal = end.signal
        message.result = end.result
        message.reason = text(end.reason)
        if end.exit_status is not None:
            message.exit_status = end.exit_status
    _add_measures(message, agent)
    return message


def _add_measures(message: pb.Agent, agent: Agent) -> None:
    """Times, CPU time and memory: of the unit while it runs, of the end after."""
    told = agent.end or agent.unit
    if told is None:
        return
    if told.started_at is not None:
        message.started_at.CopyFrom(timestamp(told.started_at))
    if told.ended_at is not None and agent.state.ended:
        message.ended_at.CopyFrom(timestamp(told.ended_at))
    if told.cpu_seconds is not None:
        message.cpu_seconds = told.cpu_seconds
    if told.memory_bytes is not None:
        message.memory_bytes = told.memory_bytes


def state_from_wire(number: int) -> AgentState:
    """The state of a number; one that this release does not know is UNKNOWN."""
    return _STATE_FROM_WIRE.get(number, AgentState.UNKNOWN)


def agent_states_from_wire(numbers: Iterable[int]) -> frozenset[AgentState]:
    """The states named; raises InvalidArgument `state_invalid` for one that has no name."""
    try:
        return frozenset(_STATE_FROM_WIRE[number] for number in numbers)
    except KeyError as error:
        raise InvalidArgument(
            "state_invalid",
            f"no agent state has the number {error.args[0]}",
            hint="states: " + ", ".join(AgentState),
        ) from error


def restart_from_wire(number: int) -> RestartPolicy:
    """NO where unspecified; raises InvalidArgument `restart_invalid` for a number that has no name."""
    if number == pb.RESTART_POLICY_UNSPECIFIED:
        return RestartPolicy.NO
    try:
        return _RESTART_FROM_WIRE[number]
    except KeyError as error:
        raise InvalidArgument(
            "restart_invalid",
            f"no restart policy has the number {number}",
            hint="policies: " + ", ".join(RestartPolicy),
        ) from error


def selection_from_wire(message: pb.AgentSelection) -> Selection:
    """Which agents are meant; its `session` is the caller's to look at."""
    return Selection(
        agents=tuple(message.agents),
        states=agent_states_from_wire(message.states),
        group=message.group,
        labels=dict(message.labels),
        label_keys=frozenset(message.label_keys),
        ended=message.include_ended,
    )


def seconds(duration: Duration) -> float:
    """A duration in seconds; raises InvalidArgument `duration_invalid` for a negative or endless one."""
    # Not ToTimedelta: it overflows for what the wire can carry.
    value = duration.seconds + duration.nanos / 1e9
    if value < 0 or value > _LONGEST:
        raise InvalidArgument(
            "duration_invalid",
            f"{value:g} s is no length of time that can be waited for",
            hint="0 s to 10 years",
        )
    return value


_LONGEST = 10 * 366 * 86400


def text(value: str) -> str:
    """Text that the wire can carry: bytes that are no UTF-8 become escapes."""
    if value.isascii():
        return value
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
