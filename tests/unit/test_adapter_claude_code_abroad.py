"""Entries of Claude Code's registry of processes that are not in our PID namespace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sessiond.adapters.claude_code.registry import own_domain
from sessiond.model.agent_session import STOPPED
from tests.unit.adapter_case import FakeProcess, FakeProcesses, found_by
from tests.unit.test_adapter_claude_code import CLAUDE, CLEARED, FIXTURES, make, register


@pytest.fixture
def home(isolated_home: Path) -> Path:
    shutil.copytree(FIXTURES, isolated_home / ".claude")
    return isolated_home


def test_a_process_of_another_namespace_is_told_where_it_can_be_seen(home: Path) -> None:
    adapter = make("claude-code", home)
    found = found_by(adapter)[CLEARED]
    space = "linux:" + own_domain().split(":")[1] + ":pid:[1]"
    register(home, pidDomain=space)
    life = adapter.evidence(FakeProcesses(abroad=99)).lives[CLEARED]
    assert (life.alive, life.pid) == (None, None)
    assert "process 99" in life.reason
    # It is gone for sure, though another has its pid here.
    assert adapter.evidence(FakeProcesses(CLAUDE, abroad=0)).lives == {}
    assert adapter.is_alive(found, FakeProcesses(CLAUDE, abroad=0)) == STOPPED
    register(home, pidDomain="linux:0000:pid:[1]")
    assert adapter.evidence(FakeProcesses(abroad=0)).lives[CLEARED].alive is None


def test_a_process_outside_of_a_nest_that_does_not_tell_its_namespace(home: Path) -> None:
    adapter = make("claude-code", home)
    found_by(adapter)
    register(home, pidDomain=None)
    life = adapter.evidence(FakeProcesses(outside=[CLAUDE])).lives[CLEARED]
    assert (life.alive, life.pid) == (None, None)
    assert "outside of this nest" in life.reason
    later = FakeProcess(4242, 1288876, "claude", CLAUDE.exe)
    assert adapter.evidence(FakeProcesses(outside=[later])).lives == {}
