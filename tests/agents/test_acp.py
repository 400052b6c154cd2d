"""The runner with the real OpenCode behind it, and what its adapter says meanwhile."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sessiond.model.agent_session import AgentSessionStatus as Status
from sessiond.model.agent_session import Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen

Adapter = Callable[[str, Program], Seen]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def runner(opencode: Program, home: Path) -> Program:
    """Our runner, in OpenCode's environment; OpenCode asks before it runs a command."""
    path = home / ".config/opencode/opencode.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "permission": {"bash": "ask"}}))
    env = {**opencode.env, "PYTHONPATH": str(REPOSITORY)}
    return replace(opencode, argv=(sys.executable, "-m", "sessiond"), env=env)


def started(running: Runner, runner: Program, argv: tuple[str, ...], data: bytes | None) -> Running:
    """A plan's command line: without input it gets a terminal."""
    words = argv[argv.index("acp") :]
    if data is None:
        return running(runner, *words, tty=True)
    descriptor = os.memfd_create("prompt")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return running(runner, *words, stdin=descriptor)
    finally:
        os.close(descriptor)


def test_print_mode_refuses_is_killed_and_goes_on(
    opencode: Program, runner: Program, model: ModelServer, running: Runner, adapter: Adapter, folder: Path
) -> None:
    seen = adapter("acp", runner)
    command = (opencode.argv[0], "acp")
    wish = Wish(
        str(folder), "tool: touch made", model="fake/fake-model", print=True, id="r1", command=command
    )
    plan = seen.adapter.launch(wish)
    run = started(running, runner, plan.argv, plan.input)
    assert run.wait() == 0
    assert "refused" in run.text
    assert not (folder / "made").exists()
    row = seen.one()
    assert row.status is Status.STOPPED
    assert row.ended_at is not None
    assert row.model == "fake/fake-model"

    plan = seen.adapter.resume(row, Wish(str(folder), "slow", print=True))
    run = started(running, runner, plan.argv, plan.input)
    model.wait_held("slow")
    live = seen.until_row("r1", status=Status.RUNNING, last_prompt="slow")
    assert live.life.pid == run.pid
    # The runner alone is killed; its program inherited no lock.
    run.process.kill()
    run.process.wait()
    assert seen.one().status is Status.STOPPED

    plan = seen.adapter.resume(seen.one(), Wish(str(folder), "once more", print=True))
    run = started(running, runner, plan.argv, plan.input)
    assert run.wait() == 0
    assert "You said: once more" in run.text
    messages = seen.adapter.transcript(seen.one(), 20).messages
    said = [message.text for message in messages if message.role == "user"]
    assert said == ["tool: touch made", "slow", "once more"]


def test_a_terminal_is_asked_cancelled_and_left(
    opencode: Program, runner: Program, model: ModelServer, running: Runner, adapter: Adapter, folder: Path
) -> None:
    seen = adapter("acp", runner)
    command = (opencode.argv[0], "acp")
    plan = seen.adapter.launch(Wish(str(folder), "tool: touch made", id="t1", command=command))
    assert plan.input is None
    run = started(running, runner, plan.argv, plan.input)

    run.wait_text("or Enter to refuse:")
    asked = seen.until_status(Status.WAITING, "t1")
    assert asked.activity == "waiting for permission"
    assert asked.life.pid == run.pid
    run.type("1\r")
    idle = seen.until_status(Status.IDLE, "t1")
    assert (folder / "made").exists()
    assert idle.tokens_out

    run.type("slow\r")
    model.wait_held("slow")
    seen.until_status(Status.RUNNING, "t1")
    run.type("\x03")
    seen.until_status(Status.IDLE, "t1")

    run.type("\x04")
    assert run.wait() == 0
    ended = seen.one()
    assert ended.status is Status.STOPPED
    assert ended.ended_at is not None
    assert not run.family(), "its program ended with it"
