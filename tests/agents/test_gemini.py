"""Gemini CLI itself; run with --all-agents."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond.discovery.processes import LiveProcesses
from sessiond.model.agent_session import MARKER, Plan, Turn, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen


@pytest.fixture
def seen(gemini: Program, adapter: Callable[[str, Program], Seen]) -> Seen:
    """What the adapter says."""
    return adapter("gemini", gemini)


@pytest.fixture
def planned(gemini: Program, running: Runner) -> Callable[..., Running]:
    """Starts what the adapter plans, as an agent's unit would (``marked``) or a person."""

    def start(plan: Plan, *, tty: bool = False, marked: bool = True) -> Running:
        assert plan.argv[0] == "gemini"
        environment = {MARKER: f"gemini:{plan.id}"} if marked else {}
        words = (*plan.argv[1:], "--model", "gemini-2.5-pro")
        if plan.input is None:
            return running(gemini, *words, tty=tty, env=environment)
        reader, writer = os.pipe()
        assert len(plan.input) < 60_000
        os.write(writer, plan.input)
        os.close(writer)
        try:
            return running(gemini, *words, stdin=reader, env=environment)
        finally:
            os.close(reader)

    return start


def wish(folder: Path, prompt: str, *, print: bool = True) -> Wish:
    return Wish(str(folder), prompt, print=print, id=str(uuid.uuid4()))


def test_print_mode_runs_and_ends(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    plan = seen.adapter.launch(wish(folder, "slow print"))
    run = planned(plan)
    model.wait_held("slow print")
    found = seen.until_row(plan.id, status="running", first_prompt="slow print", turn=Turn.WORKING)
    assert found.life.pid in {each.pid for each in run.family()}
    assert found.cwd == str(folder)
    model.release()
    assert run.wait() == 0
    assert [id for line in run.lines() if (id := seen.adapter.identify(line))] == [plan.id]
    found = seen.one()
    assert (found.id, found.status, found.turn) == (plan.id, "stopped", Turn.DONE)
    assert found.tokens_in
    assert [each.role for each in seen.adapter.transcript(found, 10).messages] == ["user", "assistant"]
    assert seen.problems == []


def test_one_that_a_person_started_cannot_be_told_until_it_is_gone(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    plan = seen.adapter.launch(wish(folder, "slow kill"))
    run = planned(plan, marked=False)
    model.wait_held("slow kill")
    found = seen.until_row(plan.id, status="unknown", turn=Turn.WORKING)
    assert found.life.reason
    run.kill()
    found = seen.one()
    assert (found.status, found.turn) == ("stopped", Turn.WORKING)
    assert seen.adapter.is_alive(found, LiveProcesses()).alive is False


def test_resumed_it_is_the_same(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    assert planned(seen.adapter.launch(wish(folder, "first"))).wait() == 0
    before = seen.one()
    run = planned(seen.adapter.resume(before, wish(folder, "slow second")))
    model.wait_held("slow second")
    seen.until_row(before.id, status="running", last_prompt="slow second")
    model.release()
    assert run.wait() == 0
    found = seen.one()
    assert (found.id, found.first_prompt, found.last_prompt) == (before.id, "first", "slow second")


def test_its_window_works_idles_and_ends(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    plan = seen.adapter.launch(wish(folder, "slow window", print=False))
    run = planned(plan, tty=True)
    model.wait_held("slow window")
    seen.until_status("running", plan.id)
    model.release()
    seen.until_status("idle", plan.id)
    run.kill(signal.SIGTERM)
    run.wait()
    assert seen.rows()[plan.id].status == "stopped"


def test_the_version_is_told_without_running_it(seen: Seen, gemini: Program) -> None:
    assert seen.adapter.version(gemini.argv[0]) == gemini.version == seen.adapter.verified
