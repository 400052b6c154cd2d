"""What Pi's adapter says while the real Pi runs, waits, ends, is killed, goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from sessiond.model.agent_session import AgentSessionStatus as Status
from sessiond.model.agent_session import Found, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen

Adapter = Callable[[str, Program], Seen]


def launched(seen: Seen, pi: Program, running: Runner, wish: Wish, *, tty: bool = False) -> Running:
    """Pi as the adapter has it started, with our mark."""
    plan = seen.adapter.launch(wish)
    return started(pi, running, plan.argv, plan.input, {"SESSIOND_AGENT_SESSION": f"pi:{plan.id}"}, tty)


def started(
    pi: Program, running: Runner, argv: tuple[str, ...], data: bytes | None, env: dict[str, str], tty: bool
) -> Running:
    """A plan's command line, and its input in a file."""
    assert argv[0] == "pi"
    if data is None:
        return running(pi, *argv[1:], env=env, tty=tty)
    descriptor = os.memfd_create("prompt")
    try:
        os.write(descriptor, data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return running(pi, *argv[1:], env=env, tty=tty, stdin=descriptor)
    finally:
        os.close(descriptor)


def test_print_mode_from_its_first_reply_to_its_end(
    pi: Program, model: ModelServer, running: Runner, adapter: Adapter, folder: Path
) -> None:
    seen = adapter("pi", pi)
    wish = Wish(str(folder), "tool: sleep 600", model="fake/fake-model", print=True, id="chosen-1")
    run = launched(seen, pi, running, wish)

    live = seen.until_status(Status.RUNNING, "chosen-1")
    assert live.life.pid == run.pid
    # It makes its file after the first reply, and writes it line by line.
    live = seen.until(lambda rows: rows["chosen-1"] if rows["chosen-1"].activity else None, "its tool")
    assert live.status is Status.RUNNING
    assert live.activity == "running bash"
    assert live.cwd == str(folder)
    assert live.first_prompt == "tool: sleep 600"
    assert run.wait_line(seen.adapter.identify) == "chosen-1"

    run.kill()
    assert seen.one().status is Status.STOPPED


def test_a_tool_names_the_conversation_of_one_started_by_hand(
    pi: Program, running: Runner, adapter: Adapter, folder: Path
) -> None:
    seen = adapter("pi", pi)
    run = running(pi, "-p", "--mode", "json", "--session-id", "by-hand", "tool: sleep 600")
    # On disk by then: killed before, it has left nothing to be shown.
    live = seen.until_row("by-hand", status=Status.RUNNING, first_prompt="tool: sleep 600")
    assert live.life.pid == run.pid

    os.kill(run.pid, signal.SIGKILL)
    run.process.wait()

    left = [one.pid for one in run.family()]
    assert left, "the tool outlives its Pi"
    assert seen.one().status is Status.STOPPED


def test_one_by_hand_that_answers_cannot_be_told(
    pi: Program, model: ModelServer, running: Runner, adapter: Adapter, folder: Path, home: Path
) -> None:
    seen = adapter("pi", pi)
    assert running(pi, "-p", "--session-id", "first", "hello").wait() == 0
    path = Path(seen.one().native["path"])
    assert seen.one().status is Status.STOPPED
    assert seen.one().tokens_out

    # From another folder by its file: the process stays where it is.
    run = running(pi, "-p", "--session", str(path), "slow", cwd=home)
    model.wait_held("slow")
    row = seen.until(
        lambda rows: rows["first"] if rows["first"].last_prompt == "slow" else None, "the prompt"
    )

    assert row.status is Status.UNKNOWN
    assert str(run.pid) in row.life.reason

    run.kill()
    assert seen.one().status is Status.STOPPED


def test_a_terminal_waits_and_is_gone_on_with(
    pi: Program, model: ModelServer, running: Runner, adapter: Adapter, folder: Path, home: Path
) -> None:
    seen = adapter("pi", pi)
    run = launched(seen, pi, running, Wish(str(folder), "@hello", id="talk-1"), tty=True)
    run.wait_text("You said:")

    def idle(rows: object) -> Found | None:
        row = seen.rows().get("talk-1")
        return row if row is not None and row.status is Status.IDLE else None

    assert seen.until(idle, "an idle terminal").life.pid == run.pid
    run.kill()
    stopped = seen.one()
    assert stopped.status is Status.STOPPED
    assert stopped.first_prompt.strip() == "@hello"

    # Resumed in print mode from a folder that is not its own, with nobody to ask.
    plan = seen.adapter.resume(stopped, Wish(str(home), "and more", print=True))
    again = started(pi, running, plan.argv, plan.input, {}, tty=False)
    assert again.wait() == 0
    row = seen.one()
    assert row.id == "talk-1"
    assert row.last_prompt == "and more"
    messages = seen.adapter.transcript(row, 10).messages
    assert [message.role for message in messages] == ["user", "assistant", "user", "assistant"]
    assert "and more" in messages[-1].text


def test_what_a_terminal_goes_on_to_is_not_told_to_be_stopped(
    pi: Program, running: Runner, adapter: Adapter, folder: Path
) -> None:
    seen = adapter("pi", pi)
    run = launched(seen, pi, running, Wish(str(folder), "hello", id="talk-1"), tty=True)
    run.wait_text("You said:")
    seen.until_status(Status.IDLE, "talk-1")
    run.type("/new")
    run.wait_text("/new")
    run.key("enter")
    run.wait_text("New session started")
    run.type("again")
    run.wait_text("again")
    run.key("enter")
    went_on = seen.until(
        lambda rows: next((one for one in rows.values() if one.first_prompt == "again"), None), "the new one"
    )
    assert went_on.status is Status.UNKNOWN
    assert str(run.pid) in went_on.life.reason

    # A tool says which it is, and it stays that when the tool has ended.
    run.wait_text("You said: again")
    run.type("tool: until test -e seen; do sleep 0.1; done")
    run.wait_text("until test -e seen")
    run.key("enter")
    live = seen.until_status(Status.RUNNING, went_on.id)
    assert live.life.pid == run.pid
    assert seen.rows()["talk-1"].status is Status.STOPPED
    (folder / "seen").touch()
    seen.until_status(Status.IDLE, went_on.id)
    assert seen.rows()["talk-1"].status is Status.STOPPED


def test_a_fork_names_its_parent_and_the_version_is_told(
    pi: Program, running: Runner, adapter: Adapter
) -> None:
    seen = adapter("pi", pi)
    assert running(pi, "-p", "--session-id", "first", "hello").wait() == 0
    assert running(pi, "-p", "--fork", "first", "--session-id", "second", "more").wait() == 0

    rows = seen.rows()

    assert rows["second"].parent == "first"
    assert rows["second"].last_prompt == "more"
    assert seen.adapter.version(pi.argv[0]) == pi.version == seen.adapter.verified
