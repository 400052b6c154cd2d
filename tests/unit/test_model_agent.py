"""The table of agents' states: from the init system's words, and from how a run ended."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from sessiond.model.agent import (
    AgentEnd,
    AgentState,
    AgentUnit,
    Cause,
    derive_agent,
    ended_by,
    exit_code,
    has_ended,
)
from sessiond.model.identity import is_agent_id
from sessiond.model.unit import (
    CLD_EXITED,
    CLD_KILLED,
    UnitStatus,
    agent_of_unit,
    agent_unit,
    agents_pattern,
    daemon_unit,
    session_of_daemon,
)

SESSION, AGENT = "a" * 32, "0123456789abcdef"
UNIT = AgentUnit(
    UnitStatus(agent_unit(SESSION, AGENT), active_state="active", sub_state="running", result="success")
)


def unit(active: str, sub: str = "", job: str = "", **fields: object) -> AgentUnit:
    status = replace(UNIT.status, active_state=active, sub_state=sub, **fields)  # type: ignore[arg-type]
    return AgentUnit(status, job=job)


def exited(status: int, *, failed: bool = False) -> AgentUnit:
    words = ("failed", "failed") if failed else ("active", "exited")
    return unit(*words, exec_main_code=CLD_EXITED, exec_main_status=status)


def test_names_of_units_lead_back_to_their_agents() -> None:
    name = agent_unit(SESSION, AGENT)
    assert name == f"sessiond-agent@{SESSION}-{AGENT}.service"
    assert agent_of_unit(name) == (SESSION, AGENT)
    assert session_of_daemon(name) is None
    for other in (
        daemon_unit(SESSION),
        agents_pattern(SESSION),
        f"sessiond-agent@{SESSION}-x.service",
        f"sessiond-agent@{AGENT}.service",
        "sessiond-agent@.service",
    ):
        assert agent_of_unit(other) is None
    assert is_agent_id(AGENT)
    assert not is_agent_id(AGENT + "\n")


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (unit("activating", "start"), AgentState.STARTING),
        (unit("activating", "auto-restart"), AgentState.STARTING),
        (unit("failed", "failed-before-auto-restart"), AgentState.STARTING),
        (unit("active", "running"), AgentState.RUNNING),
        (unit("deactivating", "stop-sigterm"), AgentState.RUNNING),
        (unit("active", "running", freezer_state="frozen"), AgentState.PAUSED),
        (unit("active", "running", freezer_state="frozen-by-parent"), AgentState.PAUSED),
        (exited(0), AgentState.COMPLETED),
        (exited(3, failed=True), AgentState.FAILED),
        (unit("active", "exited", exec_main_code=CLD_KILLED, exec_main_status=15), AgentState.FAILED),
        (
            unit("failed", "failed", result="signal", exec_main_code=CLD_KILLED, exec_main_status=9),
            AgentState.FAILED,
        ),
        (unit("failed", "failed", result="start-limit-hit"), AgentState.FAILED),
        (unit("a word of a later release"), AgentState.UNKNOWN),
    ],
)
def test_a_state_is_derived_from_the_unit(told: AgentUnit, state: AgentState) -> None:
    assert derive_agent(told, None, reachable=True) is state
    assert derive_agent(told, None, reachable=False) is AgentState.UNKNOWN


def test_what_nobody_can_tell_is_unknown() -> None:
    assert derive_agent(None, None, reachable=True) is AgentState.UNKNOWN


def test_an_end_that_was_asked_for_is_no_failure() -> None:
    killed = unit("failed", "failed", result="signal", exec_main_code=CLD_KILLED, exec_main_status=9)
    assert derive_agent(killed, None, reachable=True, asked=True) is AgentState.TERMINATED
    assert derive_agent(exited(143, failed=True), None, reachable=True, asked=True) is AgentState.TERMINATED
    assert derive_agent(exited(0), None, reachable=True, asked=True) is AgentState.COMPLETED


@pytest.mark.parametrize(
    ("sent", "code", "status", "asked"),
    [
        # By the signal itself, or as shells and programs say that they ended by it.
        ({9}, CLD_KILLED, 9, True),
        ({1, 15, 18}, CLD_KILLED, 15, True),
        ({1}, CLD_EXITED, 129, True),
        # Asked to end, it cleaned up and failed at that.
        ({15}, CLD_EXITED, 3, True),
        # Told to read its settings again, and much later something else.
        ({1}, CLD_EXITED, 3, False),
        ({1}, CLD_KILLED, 9, False),
        ({15}, CLD_KILLED, 11, False),
        ((), CLD_KILLED, 9, False),
        ({64}, CLD_KILLED, 9, False),
    ],
)
def test_an_end_is_of_a_signal_that_was_sent(
    sent: Collection[int], code: int, status: int, asked: bool
) -> None:
    ended = unit("failed", "failed", exec_main_code=code, exec_main_status=status)
    assert ended_by(ended, frozenset(sent), 15) is asked


def test_an_agents_own_stop_signal_asks_it_to_end() -> None:
    assert ended_by(exited(3, failed=True), frozenset({1}), 1)


def test_an_end_written_down_stands_whoever_answers() -> None:
    end = AgentEnd(exit_status=0)
    assert derive_agent(None, end, reachable=False) is AgentState.COMPLETED
    assert derive_agent(UNIT, end, reachable=True) is AgentState.COMPLETED


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (
            AgentEnd(exit_status=3, result="exit-code", restarts=5),
            "it was restarted too often in a short time",
        ),
        (
            AgentEnd(signal="SIGSEGV", result="core-dump", restarts=5),
            "it was restarted too often in a short time",
        ),
        (AgentEnd(exit_status=0, result="start-limit-hit"), "it was restarted too often in a short time"),
        # Not by the limit: it was never to be restarted, or not after that, or somebody wanted its end.
        (AgentEnd(exit_status=3, result="exit-code"), ""),
        (AgentEnd(exit_status=0, result="success", restarts=2), ""),
        (AgentEnd(signal="SIGTERM", result="success", restarts=2), ""),
        (AgentEnd(exit_status=3, result="exit-code", restarts=2, asked=True), ""),
    ],
)
def test_an_end_by_the_limit_of_restarts_says_so(end: AgentEnd, reason: str) -> None:
    assert end.reason == reason


def test_a_run_that_another_follows_has_not_ended() -> None:
    assert has_ended(exited(0))
    assert has_ended(exited(1, failed=True))
    assert has_ended(unit("inactive", "dead"))
    assert not has_ended(unit("inactive", "dead", job="start"))
    assert not has_ended(unit("failed", "failed", job="restart"))
    assert not has_ended(unit("activating", "auto-restart"))
    assert not has_ended(unit("failed", "failed-before-auto-restart"))
    assert not has_ended(UNIT)


def test_a_unit_tells_its_end() -> None:
    end = AgentEnd.of(replace(exited(3, failed=True), cpu_seconds=1.5, memory_bytes=7), asked=False)
    assert (end.exit_status, end.signal, end.cpu_seconds, end.memory_bytes) == (3, "", 1.5, 7)
    assert end.state is AgentState.FAILED
    killed = AgentEnd.of(
        unit("failed", "failed", exec_main_code=CLD_KILLED, exec_main_status=11), asked=False
    )
    assert (killed.exit_status, killed.signal) == (None, "SIGSEGV")


def test_a_time_limit_is_a_failure_with_its_reason() -> None:
    end = AgentEnd(signal="SIGTERM", result="timeout")
    assert end.state is AgentState.FAILED
    assert end.reason
    asked = replace(end, asked=True)
    assert asked.state is AgentState.TERMINATED
    assert asked.reason != end.reason


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_is_a_sentence(cause: Cause) -> None:
    end = AgentEnd(cause=cause)
    assert end.state.ended
    assert end.reason == cause.sentence


@pytest.mark.parametrize(
    ("status", "signal", "timed_out", "code"),
    [
        (0, "", False, 0),
        (255, "", False, 255),
        (None, "SIGKILL", False, 137),
        (None, "SIGTERM", True, 124),
        (None, "SIG64", False, 192),
        (None, "", False, 125),
        (None, "no signal", False, 125),
    ],
)
def test_exit_codes_are_those_of_a_shell(status: int | None, signal: str, timed_out: bool, code: int) -> None:
    assert exit_code(status, signal, timed_out=timed_out) == code
