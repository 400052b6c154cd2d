"""OpenCode itself: what is said of it while it runs, waits, ended, was killed, goes on and forks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sessiond.discovery.processes import LiveProcesses
from sessiond.model.agent_session import Found, Plan, Turn, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen

MODEL = "fake/fake-model"


@pytest.fixture
def seen(opencode: Program, adapter: Callable[[str, Program], Seen]) -> Seen:
    """What the adapter says."""
    return adapter("opencode", opencode)


@pytest.fixture
def planned(opencode: Program, running: Runner) -> Callable[..., Running]:
    """Starts what the adapter plans, as an agent's unit would."""

    def start(plan: Plan, *more: str, tty: bool = False, env: Mapping[str, str] | None = None) -> Running:
        assert plan.argv[0] == "opencode"
        given = {**plan.environment, **(env or {})}
        words = [*plan.argv[1:], *more]
        if plan.input is None:
            return running(opencode, *words, tty=tty, env=given)
        # A pipe holds 64 KB: more could not be written before somebody reads.
        reader, writer = os.pipe()
        assert len(plan.input) < 60_000
        os.write(writer, plan.input)
        os.close(writer)
        try:
            return running(opencode, *words, stdin=reader, env=given)
        finally:
            os.close(reader)

    return start


def identified(seen: Seen, run: Running) -> str:
    """The id that its output told."""
    run.wait_line(seen.adapter.identify)
    ids = {id for line in run.lines() if (id := seen.adapter.identify(line))}
    assert len(ids) == 1
    return ids.pop()


def test_in_print_mode_it_runs_ends_goes_on_and_forks(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "slow print", MODEL, print=True)))
    model.wait_held("slow print")
    # It does not tell which conversation it has open: not stopped, and not said to run.
    found = seen.until_row(status="unknown", first_prompt="slow print", model=MODEL, turn=Turn.WORKING)
    assert f"pid {run.pid}" in found.life.reason
    assert found.cwd == str(folder)
    id = identified(seen, run)
    assert id == found.id
    model.release()
    assert run.wait() == 0
    found = seen.one()
    assert (found.id, found.status, found.turn) == (id, "stopped", Turn.DONE)
    assert found.tokens_in
    assert found.tokens_out
    assert found.cost_usd
    assert [each.role for each in seen.adapter.transcript(found, 10).messages] == ["user", "assistant"]

    # The mark that what is resumed carries.
    plan = seen.adapter.resume(found, Wish(str(folder), "slow again", print=True))
    run = planned(plan, env={"SESSIOND_AGENT_SESSION": f"opencode:{id}"})
    model.wait_held("slow again")
    again = seen.until_row(id, status="running", first_prompt="slow print", last_prompt="slow again")
    assert again.life.pid == run.pid
    run.kill()
    killed = seen.one()
    assert (killed.status, killed.turn) == ("stopped", Turn.WORKING)
    assert seen.adapter.is_alive(killed, LiveProcesses()).alive is False

    fork = planned(seen.adapter.resume(found, Wish(str(folder), "another way", print=True)), "--fork")
    assert fork.wait() == 0
    rows = seen.rows()
    assert rows.keys() == {id, identified(seen, fork)}
    assert rows[identified(seen, fork)].parent == id
    assert seen.problems == []


def test_in_a_terminal_it_tells_what_it_works_on_and_waits_for(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    plan = seen.adapter.launch(Wish(str(folder), "ask: echo from the tool", MODEL))
    run = planned(plan, tty=True, env={"OPENCODE_PERMISSION": json.dumps({"bash": "ask"})})
    found = seen.until_row(status="waiting", first_prompt="ask: echo from the tool")
    assert (found.life.pid, found.life.activity) == (run.pid, "waiting for permission")
    run.wait_text("Permission required")
    run.press_until(lambda: "Permission required" not in run.text)
    run.wait_text("The tool said")
    found = seen.until(lambda rows: done(rows, found.id), "the turn has ended")
    # Between turns it does not tell; what its unit has open is known here from the turn before.
    assert found.life.alive is None
    run.type("slow agent: look around")
    run.key("enter")
    model.wait_held("slow agent")
    assert seen.until_status("running", found.id).life.pid == run.pid
    model.release("slow agent")
    child = seen.until(lambda rows: next((row for row in rows.values() if row.parent), None), "a subagent")
    assert child.parent == found.id
    run.kill()
    assert {row.status for row in seen.rows().values()} == {"stopped"}
    tools = [tool for each in seen.adapter.transcript(found, 10).messages for tool in each.tools]
    assert [tool.content.strip() for tool in tools if tool.result][:1] == ["from the tool"]
    assert seen.problems == []


def done(rows: Mapping[str, Found], id: str) -> Found | None:
    row = rows[id]
    return row if row.turn is Turn.DONE and row.life.alive is None else None


def test_the_version_is_told_without_running_it(seen: Seen, opencode: Program) -> None:
    assert seen.adapter.version(opencode.argv[-1]) == opencode.version == seen.adapter.verified
