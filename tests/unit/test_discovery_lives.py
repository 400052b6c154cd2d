"""Who lives, by evidence, our own agents and our marker."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sessiond.adapters.reading.evidence import began_ns
from sessiond.discovery.lives import settle
from sessiond.model.agent_session import HOME, MARKER, STOPPED, Found, Life
from sessiond.ports.discovery import Evidence, Possible, Process


@dataclass
class OneProcess:
    pid: int
    start_time: int = 100
    comm: str = "prog"
    exe: str = "/usr/bin/prog"
    argv: Sequence[str] = ("prog",)
    cwd: str = "/work"
    environment: Mapping[str, str] = field(default_factory=dict)
    open_files: Collection[str] = ()
    mark: str = ""
    parent: int = 1


class Some:
    def __init__(self, *processes: OneProcess) -> None:
        self._processes: dict[int, Process] = {one.pid: one for one in processes}

    def get(self, pid: int) -> Process | None:
        return self._processes.get(pid)

    def all(self) -> Iterable[Process]:
        return self._processes.values()

    def lock_holders(self) -> Mapping[tuple[int, int], int]:
        return {}

    def outside(self) -> Sequence[Process]:
        return ()

    def lock_holders_outside(self) -> Mapping[tuple[int, int], int]:
        return {}

    def abroad(self, space: str, pid: int, start_time: int | None) -> int | None:
        return None


class Prog:
    name = "prog-adapter"
    program = "prog"


ADAPTER = Prog()
ONE = Found("prog-adapter", "one", cwd="/work")


def marked(session: str, adapter: str = "prog-adapter") -> Mapping[str, str]:
    return {MARKER: f"{adapter}:{session}"}


def test_evidence_counts_with_the_mark_of_its_process() -> None:
    life = Life(True, pid=5, start_time=100, activity="thinking")
    lives = settle(ADAPTER, Evidence({"one": life}), {}, Some(OneProcess(5, mark="s-a")))
    assert lives.of(ONE) == Life(True, pid=5, start_time=100, activity="thinking", mark="s-a")
    assert lives.processes() == {(5, 100)}


@pytest.mark.parametrize("start_time", [99, 101])
def test_a_recycled_pid_is_no_life(start_time: int) -> None:
    evidence = Evidence(
        {"one": Life(True, pid=5, start_time=start_time)},
        [Possible(5, start_time, "", "perhaps")],
        holders=[(5, start_time)],
    )
    lives = settle(ADAPTER, evidence, {}, Some(OneProcess(5)))
    assert lives.of(ONE) == STOPPED
    assert lives.processes() == set()


def test_a_life_without_a_start_time_gets_that_of_its_process() -> None:
    lives = settle(ADAPTER, Evidence({"one": Life(True, pid=5)}), {}, Some(OneProcess(5)))
    assert lives.of(ONE).start_time == 100


def test_our_own_agent_lives_as_long_as_a_process_is_in_its_unit() -> None:
    processes = Some(
        OneProcess(7, 300, comm="bash", exe="/bin/bash", mark="s-a"),
        OneProcess(9, 200, comm="node", exe="/bin/node", mark="s-a"),
        OneProcess(6, 100, mark="s-b"),
    )
    lives = settle(ADAPTER, Evidence(), {"s-a": "one"}, processes)
    assert lives.of(ONE) == Life(True, pid=9, start_time=200, mark="s-a")
    assert settle(ADAPTER, Evidence(), {"s-c": "one"}, processes).of(ONE) == STOPPED


def test_an_agent_that_is_known_to_have_another_open_has_not_the_one_it_was_launched_for() -> None:
    evidence = Evidence({"two": Life(True, pid=5, start_time=100)})
    lives = settle(
        ADAPTER, evidence, {"s-a": "one"}, Some(OneProcess(5, mark="s-a", environment=marked("one")))
    )
    assert lives.of(ONE) == STOPPED
    assert lives.known["two"].mark == "s-a"


@pytest.mark.parametrize(
    ("process", "lives"),
    [
        (OneProcess(5, environment=marked("one")), True),
        (OneProcess(5, environment=marked("one", "other")), False),
        (OneProcess(5, comm="bash", exe="/bin/bash", argv=("bash",), environment=marked("one")), False),
        (OneProcess(5, comm="prog", exe="/bin/node", argv=("prog",), environment=marked("one")), True),
        (
            OneProcess(
                5, comm="node", exe="/b/node", argv=("node", "/x/bin/prog.js"), environment=marked("one")
            ),
            True,
        ),
        (OneProcess(5, comm="2.1.3", exe="/x/2.1.3", argv=("/b/prog",), environment=marked("one")), True),
        (OneProcess(5, environment={MARKER: "garbage"}), False),
    ],
)
def test_our_marker_counts_in_the_program_itself(process: OneProcess, lives: bool) -> None:
    known = settle(ADAPTER, Evidence(), {}, Some(process))
    assert known.of(ONE).alive is lives


def test_the_oldest_with_a_marker_is_the_one() -> None:
    processes = Some(
        OneProcess(8, 300, environment=marked("one")), OneProcess(9, 200, environment=marked("one"))
    )
    assert settle(ADAPTER, Evidence(), {}, processes).of(ONE).pid == 9


def test_a_process_that_may_be_any_of_its_folder_makes_them_unknown(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    evidence = Evidence(possible=[Possible(5, 100, str(tmp_path / "real"), "a prog runs there")])
    lives = settle(ADAPTER, evidence, {}, Some(OneProcess(5)))
    there = Found("prog-adapter", "there", cwd=str(tmp_path / "link"))
    assert lives.of(there) == Life(None, "a prog runs there")
    assert lives.of(ONE) == STOPPED
    assert lives.of(Found("prog-adapter", "elsewhere", cwd="/other")) == STOPPED
    assert lives.of(Found("prog-adapter", "nobody says where")).alive is None
    assert lives.processes() == {(5, 100)}


def test_one_without_a_folder_makes_all_unknown_but_what_it_is_known_to_be() -> None:
    evidence = Evidence(possible=[Possible(5, 100, "", "a prog runs")])
    assert settle(ADAPTER, evidence, {}, Some(OneProcess(5))).of(ONE) == Life(None, "a prog runs")
    known = settle(ADAPTER, evidence, {}, Some(OneProcess(5, environment=marked("two"))))
    assert known.of(ONE) == STOPPED
    assert known.known["two"].alive


def test_unknown_evidence_makes_the_rest_unknown() -> None:
    evidence = Evidence({"two": Life(True)}, unknown="its server does not answer")
    lives = settle(ADAPTER, evidence, {}, Some())
    assert lives.of(ONE) == Life(None, "its server does not answer")
    assert lives.of(Found("prog-adapter", "two")).alive


def test_further_holders_are_followed() -> None:
    lives = settle(ADAPTER, Evidence(holders=[(5, 100), (6, 1)]), {}, Some(OneProcess(5)))
    assert lives.processes() == {(5, 100)}


def test_what_may_be_open_in_our_own_agent_hides_neither_the_agent_nor_what_else_may_be() -> None:
    perhaps = Life(None, "perhaps", pid=5, start_time=100)
    evidence = Evidence({"one": perhaps, "two": perhaps}, [Possible(5, 100, "/work", "perhaps")])
    agent = OneProcess(5, mark="s-a")
    three = Found("prog-adapter", "three", cwd="/work")
    nobodys = settle(ADAPTER, evidence, {}, Some(agent))
    assert [nobodys.known[one].alive for one in ("one", "two")] == [None, None]
    assert nobodys.of(three) == Life(None, "perhaps")
    lives = settle(ADAPTER, evidence, {"s-a": "one"}, Some(agent))
    assert lives.of(ONE) == Life(True, pid=5, start_time=100, mark="s-a")
    assert lives.of(Found("prog-adapter", "two", cwd="/other")) == STOPPED
    assert lives.of(three) == STOPPED


def test_a_marker_is_more_than_a_perhaps() -> None:
    evidence = Evidence({"one": Life(None, "perhaps", pid=6, start_time=100)})
    processes = Some(OneProcess(5, environment=marked("one")), OneProcess(6))
    assert settle(ADAPTER, evidence, {}, processes).of(ONE).pid == 5


class Pi:
    name = "pi"
    program = "pi"


HANDED = {MARKER: "pi:one", "PI_CODING_AGENT": "true"}


def pi(pid: int, **fields: Any) -> OneProcess:
    made: dict[str, Any] = {"comm": "pi", "exe": "/usr/bin/node", "argv": ("pi",), **fields}
    return OneProcess(pid, pid, **made)


def test_one_that_another_of_its_program_started_has_no_mark_of_its_own() -> None:
    outer = pi(5, environment={MARKER: "pi:one"})
    shell = OneProcess(6, 6, comm="bash", exe="/bin/bash", argv=("bash",), environment=HANDED, parent=5)
    inner = pi(7, environment=HANDED, parent=6)
    one = Found("pi", "one", cwd="/work")
    assert settle(Pi(), Evidence(), {}, Some(inner, shell, outer)).of(one).pid == 5
    # The outer one has ended, and the inner one is left to itself.
    assert settle(Pi(), Evidence(), {}, Some(pi(7, environment=HANDED))).of(one) == STOPPED
    # The outer one went on to another conversation; of this program nobody knows what it hands down.
    went_on = Evidence({"two": Life(True, pid=5, start_time=5)})
    plain = OneProcess(7, 7, environment=marked("one"), parent=6)
    between = OneProcess(6, 6, comm="sh", exe="/bin/sh", argv=("sh",), parent=5)
    processes = Some(OneProcess(5, 5, environment=marked("one")), between, plain)
    assert settle(ADAPTER, went_on, {}, processes).of(ONE) == STOPPED


def test_one_within_our_own_agent_does_not_stand_for_the_agent() -> None:
    outer = pi(5, mark="s-a")
    inner = pi(7, mark="s-a", environment={"PI_CODING_AGENT": "true"}, parent=5)
    evidence = Evidence({"inner": Life(True, pid=7, start_time=7)})
    lives = settle(Pi(), evidence, {"s-a": "outer"}, Some(outer, inner))
    assert lives.of(Found("pi", "outer")).pid == 5
    assert lives.of(Found("pi", "inner")).pid == 7


def test_what_our_agent_went_on_to_counts_and_not_the_mark_that_it_was_started_with() -> None:
    process = OneProcess(5, mark="s-a", environment=marked("one"))
    # Its registry is silent, as at its end.
    lives = settle(ADAPTER, Evidence(), {"s-a": "two"}, Some(process))
    assert lives.of(ONE) == STOPPED
    assert lives.of(Found("prog-adapter", "two")).pid == 5
    assert settle(ADAPTER, Evidence(), {"s-b": "two"}, Some(process)).of(ONE).pid == 5


def test_what_runs_outside_of_a_nest_may_have_open_what_is_in_its_folder_or_was_written_since() -> None:
    began = datetime.fromtimestamp(began_ns(OneProcess(5)) / 1e9, UTC)
    lives = settle(ADAPTER, Evidence(outside=[Possible(5, 100, "/work", "outside")]), {}, Some())
    assert lives.of(ONE) == Life(None, "outside")
    elsewhere = Found("prog-adapter", "two", cwd="/else", updated_at=began - timedelta(minutes=1))
    assert lives.of(elsewhere) == STOPPED
    assert lives.of(replace(elsewhere, updated_at=began + timedelta(minutes=1))) == Life(None, "outside")
    assert lives.of(replace(ONE, native={HOME: "/another"})) == STOPPED
    # Nobody can be told of its end.
    assert lives.processes() == set()


def test_what_is_known_of_a_conversation_counts_more_than_what_runs_outside() -> None:
    evidence = Evidence({"one": Life(True, pid=5)}, outside=[Possible(6, 100, "/work", "outside")])
    assert settle(ADAPTER, evidence, {}, Some(OneProcess(5))).of(ONE).alive is True
