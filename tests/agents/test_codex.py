"""Codex itself: what is said of it while it runs, waits, ended, was killed, goes on and forks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond.discovery.processes import LiveProcesses
from sessiond.model.agent_session import Plan, Turn, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen


@pytest.fixture
def seen(codex: Program, adapter: Callable[[str, Program], Seen]) -> Seen:
    """What the adapter says."""
    return adapter("codex", codex)


@pytest.fixture
def planned(codex: Program, running: Runner) -> Callable[..., Running]:
    """Starts what the adapter plans, as an agent's unit would."""

    def start(plan: Plan, *, tty: bool = False) -> Running:
        assert plan.argv[0] == "codex"
        if plan.input is None:
            return running(codex, *plan.argv[1:], tty=tty, env=plan.environment)
        # A pipe holds 64 KB: more could not be written before somebody reads.
        reader, writer = os.pipe()
        assert len(plan.input) < 60_000
        os.write(writer, plan.input)
        os.close(writer)
        try:
            return running(codex, *plan.argv[1:], stdin=reader, env=plan.environment)
        finally:
            os.close(reader)

    return start


def identified(seen: Seen, run: Running) -> str:
    """The id that its output told."""
    run.wait_line(seen.adapter.identify)
    ids = [id for line in run.lines() if (id := seen.adapter.identify(line))]
    assert len(ids) == 1
    return ids[0]


def pids(run: Running) -> set[int]:
    return {each.pid for each in run.family()}


def test_print_mode_runs_and_ends(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "slow print", print=True)))
    id = identified(seen, run)
    model.wait_held("slow print")
    found = seen.until_row(
        id, status="running", first_prompt="slow print", turn=Turn.WORKING, model="fake-model"
    )
    assert found.life.pid in pids(run)
    assert found.cwd == str(folder)
    model.release()
    assert run.wait() == 0
    found = seen.one()
    assert (found.id, found.status, found.turn) == (id, "stopped", Turn.DONE)
    assert found.tokens_in
    assert found.tokens_out
    assert [each.role for each in seen.adapter.transcript(found, 10).messages] == ["user", "assistant"]
    assert seen.problems == []


def test_sigkill_is_seen_though_the_lock_file_stays(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path, home: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "slow kill", print=True)))
    id = identified(seen, run)
    model.wait_held("slow kill")
    seen.until_row(id, status="running", turn=Turn.WORKING)
    run.kill()
    assert (home / f".codex/thread-writer-locks/{id}.lock").exists()
    found = seen.one()
    assert (found.status, found.turn) == ("stopped", Turn.WORKING)
    assert seen.adapter.is_alive(found, LiveProcesses()).alive is False


def test_resumed_in_print_mode_it_is_the_same(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    assert planned(seen.adapter.launch(Wish(str(folder), "first", print=True))).wait() == 0
    before = seen.one()
    plan = seen.adapter.resume(before, Wish(str(folder), "slow second", print=True))
    assert plan.id == before.id
    run = planned(plan)
    model.wait_held("slow second")
    found = seen.until_status("running", before.id)
    assert found.life.pid in pids(run)
    model.release()
    assert run.wait() == 0
    found = seen.one()
    assert (found.id, found.first_prompt, found.last_prompt) == (before.id, "first", "slow second")


def test_a_fork_is_its_parents_child(
    seen: Seen, codex: Program, planned: Callable[..., Running], running: Runner, folder: Path
) -> None:
    assert planned(seen.adapter.launch(Wish(str(folder), "first", print=True))).wait() == 0
    parent = seen.one()
    words = ("exec", "fork", "--skip-git-repo-check", "--json", parent.id, "another way")
    run = running(codex, *words)
    assert run.wait() == 0
    rows = seen.rows()
    assert len(rows) == 2
    fork = rows[identified(seen, run)]
    assert (fork.parent, fork.status) == (parent.id, "stopped")


def test_its_window_works_idles_and_ends(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "slow window")), tty=True)
    model.wait_held("slow window")
    found = seen.until_status("running")
    assert found.life.pid in pids(run), "without a server: the lock is held in the agent's own unit"
    assert seen.adapter.evidence(LiveProcesses()).holders == []
    model.release()
    found = seen.until_status("idle", found.id)
    assert found.first_prompt == "slow window"
    run.kill(signal.SIGTERM)
    run.kill()
    assert seen.one().status == "stopped"


def test_its_window_waits_for_its_first_prompt(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder))), tty=True)
    run.wait_text("Ask Codex")
    found = seen.until_status("idle")
    assert (found.life.pid in pids(run), found.cwd, found.first_prompt) == (True, str(folder), "")
    assert seen.strangers() == []
    run.type("slow first")
    run.wait_text("slow first")
    run.key("enter")
    model.wait_held("slow first")
    assert seen.until_status("running").id == found.id
    run.kill()
    assert seen.one().status == "stopped"


def test_a_window_that_has_none_open_is_told_as_a_process(
    seen: Seen, planned: Callable[..., Running], home: Path, folder: Path
) -> None:
    config = home / ".codex/config.toml"
    config.write_text(config.read_text().partition("[projects")[0])
    run = planned(seen.adapter.launch(Wish(str(folder))), tty=True)
    run.wait_text("Trust and continue")
    assert seen.rows() == {}
    [stranger] = seen.strangers()
    assert stranger.life.pid in pids(run)
    assert (stranger.status, stranger.cwd) == ("unknown", str(folder))
    assert stranger.id == f"process:{stranger.life.pid}-{stranger.life.start_time}"
    run.key("enter")
    seen.until_status("idle")
    assert seen.strangers() == []


def test_it_waits_for_leave(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "ask: sleep 300")), tty=True)
    # What its dialog asks, which takes keys from then on.
    run.wait_text("May I?")
    found = seen.until_status("waiting")
    assert found.life.activity == "waiting for permission"
    run.press_until(lambda: seen.rows()[found.id].status != "waiting")
    seen.until_row(found.id, status="running", activity="using exec_command")


def test_resumed_after_a_kill_its_window_is_idle(
    seen: Seen, planned: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    run = planned(seen.adapter.launch(Wish(str(folder), "slow crash", print=True)))
    id = identified(seen, run)
    model.wait_held("slow crash")
    seen.until_row(id, status="running", turn=Turn.WORKING)
    run.kill()
    again = planned(seen.adapter.resume(seen.one(), Wish(str(folder))), tty=True)
    found = seen.until(lambda rows: rows[id] if rows[id].life.alive else None, "it lives again")
    assert found.life.pid in pids(again)
    assert (found.turn, found.status) == (Turn.WORKING, "idle"), "the one that began the turn is gone"


def test_a_shared_server_is_the_process_of_none(
    seen: Seen, codex: Program, running: Runner, model: ModelServer, home: Path
) -> None:
    config = home / ".codex/config.toml"
    config.write_text(config.read_text().replace("daemon_auto_start = false", "daemon_auto_start = true"))
    run = running(codex, "slow shared", tty=True)
    model.wait_held("slow shared")
    found = seen.until_status("running")
    assert found.life.pid is None
    assert "server" in found.life.reason
    ((server, _),) = seen.adapter.evidence(LiveProcesses()).holders
    assert server in pids(run)
    sockets = {str(at.laddr) for each in run.family() for at in each.net_connections("unix")}
    model.release()
    seen.until_status("idle", found.id)
    assert seen.strangers() == [], "its window has it open, through the server"
    # It outlives its window, and with it the conversation is open.
    os.kill(server, signal.SIGKILL)
    seen.until_status("stopped", found.id)
    run.close()
    # Killed, it leaves them in the one place that it has for all homes of a user.
    for path in (Path(one) for one in sockets if f"/codex-daemon-{os.getuid()}/" in one):
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


def test_the_version_is_told_without_running_it(seen: Seen, codex: Program) -> None:
    assert seen.adapter.version(codex.argv[0]) == codex.version == seen.adapter.verified
