"""OpenClaw itself: what is said of it while it runs, ended, was killed, and goes on."""

from __future__ import annotations

import os
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

ID = str(uuid.UUID(int=7, version=4))


@pytest.fixture
def seen(openclaw: Program, adapter: Callable[[str, Program], Seen]) -> Seen:
    """What the adapter says."""
    return adapter("openclaw", openclaw)


@pytest.fixture
def planned(openclaw: Program, running: Runner) -> Callable[[Plan], Running]:
    """Starts what the adapter plans, as an agent's unit would."""

    def start(plan: Plan) -> Running:
        assert plan.argv[0] == "openclaw"
        assert plan.input is not None
        reader, writer = os.pipe()
        os.write(writer, plan.input)
        os.close(writer)
        try:
            marked = {**plan.environment, MARKER: f"openclaw:{plan.id}"}
            return running(openclaw, *plan.argv[1:], stdin=reader, env=marked)
        finally:
            os.close(reader)

    return start


def test_it_runs_ends_goes_on_and_is_killed(
    seen: Seen, planned: Callable[[Plan], Running], model: ModelServer, folder: Path
) -> None:
    plan = seen.adapter.launch(Wish(str(folder), "slow first", print=True, id=ID))
    assert plan.id == ID
    run = planned(plan)
    model.wait_held("slow first")
    found = seen.until_row(ID, status="running", turn=Turn.WORKING, first_prompt="slow first")
    assert found.life.pid in {each.pid for each in run.family()}
    model.release()
    assert run.wait() == 0
    found = seen.one()
    assert (found.id, found.status, found.turn) == (ID, "stopped", Turn.DONE)
    assert found.model == "fake/fake-model"
    assert [each.role for each in seen.adapter.transcript(found, 10).messages] == ["user", "assistant"]

    run = planned(seen.adapter.resume(found, Wish(str(folder), "slow second", print=True)))
    model.wait_held("slow second")
    seen.until_row(ID, status="running", first_prompt="slow first", last_prompt="slow second")
    run.kill()
    killed = seen.one()
    assert (killed.status, killed.turn) == ("stopped", Turn.WORKING)
    assert seen.adapter.is_alive(killed, LiveProcesses()).alive is False
    assert seen.problems == []


def test_the_version_is_told_without_running_it(seen: Seen, openclaw: Program) -> None:
    assert seen.adapter.version(openclaw.argv[-1]) == openclaw.version == seen.adapter.verified
