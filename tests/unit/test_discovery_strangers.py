"""Processes that no conversation accounts for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sessiond.adapters import pi, pi_rust
from sessiond.discovery.lives import settle
from sessiond.discovery.strangers import strangers
from sessiond.model.agent_session import Found, Life, is_proper_id
from sessiond.ports.discovery import Evidence, Possible
from tests.unit.adapter_case import FakeProcess, FakeProcesses


@dataclass
class Program:
    name: str = "codex"
    program: str = "codex"


def codex(pid: int, parent: int = 1, mark: str = "") -> FakeProcess:
    return FakeProcess(
        pid, start_time=pid * 10, comm="codex", exe="/opt/codex", cwd="/w", parent=parent, mark=mark
    )


def told(evidence: Evidence, *processes: FakeProcess, rows: tuple[Found, ...] = ()) -> dict[str, Found]:
    all_ = FakeProcesses(*processes)
    lives = settle(Program(), evidence, {}, all_)
    known = {one.id: one for one in rows}
    return strangers(Program(), lives, evidence, known, all_)  # type: ignore[arg-type]


def test_a_process_of_which_nothing_is_known_is_a_row() -> None:
    [(id, row)] = told(Evidence(), codex(7), FakeProcess(8, comm="bash", exe="/bin/bash")).items()
    assert (id, row.id) == ("process:7-70", "process:7-70")
    assert is_proper_id(id)
    assert (row.status, row.life.pid, row.life.start_time, row.cwd) == ("unknown", 7, 70, "/w")
    assert "process 7 runs as codex" in row.life.reason


def test_who_has_one_open_is_no_stranger_nor_who_started_it() -> None:
    wrapper = FakeProcess(6, comm="node", exe="/bin/node", argv=("node", "/opt/bin/codex", "--x"))
    assert told(Evidence({"a": Life(True, pid=7)}), wrapper, codex(7, parent=6)) == {}
    assert list(told(Evidence(), wrapper, codex(7, parent=6))) == ["process:7-70"], "one of both"
    tool = codex(9, parent=8)
    shell = FakeProcess(8, comm="sh", exe="/bin/sh", parent=7)
    assert told(Evidence({"a": Life(True, pid=7)}), codex(7), shell, tool) == {}, "started by it as a tool"


def test_our_own_agents_and_spare_ones_are_told_elsewhere() -> None:
    assert told(Evidence(), codex(7, mark="s-a")) == {}
    assert told(Evidence(spare=[7]), codex(7)) == {}
    assert told(Evidence(holders=[(5, 50)]), codex(7)) == {}
    assert told(Evidence(unknown="locks cannot be read"), codex(7)) == {}, "each row says so"


@pytest.mark.parametrize(("cwd", "missing"), [("/w", False), ("/elsewhere", True)])
def test_who_may_have_a_conversation_open_is_told_there_or_by_itself(cwd: str, missing: bool) -> None:
    possible = Evidence(possible=[Possible(7, 70, "/w", "it does not tell")])
    rows = told(possible, codex(7), rows=(Found("codex", "a", cwd=cwd),))
    assert [row.life.reason for row in rows.values()] == ["it does not tell"] * missing


@pytest.mark.parametrize(("alive", "cwd", "missing"), [(None, "/w", 0), (None, "/x", 1), (True, "/x", 0)])
def test_who_may_have_one_of_another_folder_open_is_seen_in_its_own(
    alive: bool | None, cwd: str, missing: int
) -> None:
    evidence = Evidence(
        {"a": Life(alive, "written since", 7, 70)}, [Possible(7, 70, "/w", "it does not tell")]
    )
    assert len(told(evidence, codex(7), rows=(Found("codex", "a", cwd=cwd),))) == missing


def test_circles_of_parents_end() -> None:
    assert set(told(Evidence(), codex(7, parent=8), codex(8, parent=7))) <= {"process:7-70", "process:8-80"}


def test_a_program_without_a_name_has_none() -> None:
    all_ = FakeProcesses(codex(7))
    nameless = Program("acp", "")
    lives = settle(nameless, Evidence(), {}, all_)
    assert strangers(nameless, lives, Evidence(), {}, all_) == {}  # type: ignore[arg-type]


def test_programs_that_share_a_tree_have_one_row_for_each_process(tmp_path: Path) -> None:
    all_ = FakeProcesses(
        FakeProcess(7, start_time=70, comm="pi", exe="/usr/bin/node", argv=("pi",), cwd="/w"),
        FakeProcess(8, start_time=80, comm="pi-rust", exe="/usr/bin/pi-rust", argv=("pi-rust",), cwd="/w"),
    )
    rows: list[Found] = []
    for adapter in (pi.Adapter({"HOME": str(tmp_path)}), pi_rust.Adapter({"HOME": str(tmp_path)})):
        evidence = adapter.evidence(all_)
        rows += strangers(adapter, settle(adapter, evidence, {}, all_), evidence, {}, all_).values()
    assert [(one.adapter, one.id) for one in rows] == [("pi", "process:7-70"), ("pi-rust", "process:8-80")]
