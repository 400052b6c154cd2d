"""What Claude Code's adapter says while the real program runs, waits, ends, is killed, goes on, forks."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from sessiond.model.agent_session import AgentSessionStatus as Status
from sessiond.model.agent_session import Found, Plan, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner, Running
from tests.agents.seen import Seen

Adapter = Callable[[str, Program], Seen]
CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture
def seen(adapter: Adapter, claude: Program) -> Seen:
    return adapter("claude-code", claude)


@pytest.fixture
def start(running: Runner, claude: Program) -> Callable[..., Running]:
    """Starts what a plan says."""

    def started(plan: Plan, *more: str, tty: bool = False) -> Running:
        assert plan.argv[0] == "claude"
        # Options stand before the prompt.
        words = (plan.argv[1], *more, *plan.argv[2:]) if plan.input is not None else plan.argv[1:]
        if plan.input is None:
            return running(claude, *words, tty=tty)
        descriptor = os.memfd_create("prompt")
        try:
            os.write(descriptor, plan.input)
            os.lseek(descriptor, 0, os.SEEK_SET)
            return running(claude, *words, stdin=descriptor)
        finally:
            os.close(descriptor)

    return started


def new(folder: Path, prompt: str = "", *, print_mode: bool = False, id: str = "") -> Wish:
    return Wish(str(folder), prompt, print=print_mode, id=id or str(uuid.uuid4()))


def with_pid(seen: Seen, pid: int, id: str = "", other_than: str = "") -> Found:
    """The conversation that a process has open, once it has."""

    def found(rows: Mapping[str, Found]) -> Found | None:
        live = (row for row in rows.values() if row.life.pid == pid and row.id != other_than)
        return next((row for row in live if not id or row.id == id), None)

    return seen.until(found, f"a conversation of process {pid}")


# ---- print mode ---------------------------------------------------------------------------------


def test_print_mode_from_its_start_to_its_end(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    wish = new(folder, "-slow answer\nof two lines", print_mode=True)
    run = start(seen.adapter.launch(wish))
    model.wait_held("slow answer")

    live = seen.until_status(Status.RUNNING, wish.id)
    assert (live.life.pid, live.cwd) == (run.pid, str(folder))
    assert live.life.start_time == start_time(run.pid)
    assert run.wait_line(seen.adapter.identify) == wish.id
    assert {seen.adapter.identify(line) for line in run.lines()} == {wish.id}

    model.release()
    assert run.wait() == 0, run.text
    ended = seen.one()
    assert (ended.id, ended.status) == (wish.id, Status.STOPPED)
    assert ended.first_prompt == ended.last_prompt == "-slow answer of two lines"
    assert ended.model
    assert ended.started_at is not None
    assert ended.updated_at is not None
    assert ended.tokens_in
    assert ended.tokens_out
    assert not seen.problems
    end = seen.adapter.transcript(ended, 10)
    assert [message.role for message in end.messages] == ["user", "assistant"]
    assert end.messages[0].text == "-slow answer\nof two lines"


def test_a_large_prompt_arrives_whole(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    prompt = "words " * 50_000 + "and the last"
    run = start(seen.adapter.launch(new(folder, prompt, print_mode=True)))
    assert run.wait() == 0, run.text
    assert model.wait("and the last").ask.prompt.strip() == prompt


def test_without_a_chosen_id_the_output_tells_it(
    seen: Seen, start: Callable[..., Running], folder: Path
) -> None:
    plan = seen.adapter.launch(Wish(str(folder), "hello", print=True))
    assert (plan.id, plan.learn) == ("", "stdout")
    run = start(plan)
    assert run.wait() == 0, run.text
    told = {seen.adapter.identify(line) for line in run.lines()}
    assert told == {seen.one().id}


def test_a_killed_one_is_stopped_though_its_entry_stays(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path, home: Path
) -> None:
    wish = new(folder, "slow to die", print_mode=True)
    run = start(seen.adapter.launch(wish))
    model.wait_held("slow to die")
    # On disk by then: killed before, it has left nothing to be shown.
    seen.until_row(wish.id, status=Status.RUNNING, first_prompt="slow to die")
    run.kill()
    assert (home / f".claude/sessions/{run.pid}.json").exists()
    assert seen.one().status is Status.STOPPED


def test_going_on_and_forking(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    wish = new(folder, "first", print_mode=True)
    assert start(seen.adapter.launch(wish)).wait() == 0
    before = seen.one()
    again = dataclasses.replace(wish, prompt="slow second")
    run = start(seen.adapter.resume(before, again))
    model.wait_held("slow second")
    live = seen.until_status(Status.RUNNING, wish.id)
    assert live.life.pid == run.pid
    model.release()
    assert run.wait() == 0, run.text
    after = seen.one()
    assert (after.id, after.first_prompt, after.last_prompt) == (wish.id, "first", "slow second")
    assert after.tokens_in is not None
    assert before.tokens_in is not None
    assert after.tokens_in > before.tokens_in

    fork = start(seen.adapter.resume(after, dataclasses.replace(wish, prompt="third")), "--fork-session")
    assert fork.wait() == 0, fork.text
    rows = seen.rows()
    assert set(rows) > {wish.id}
    (forked,) = (row for id, row in rows.items() if id != wish.id)
    assert (forked.parent, forked.last_prompt) == (wish.id, "third")
    assert rows[wish.id].parent == ""
    assert rows[wish.id].last_prompt == "slow second"


def test_a_subagent_shows_its_parent_and_lives_with_it(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    wish = new(folder, "agent: slow search", print_mode=True)
    run = start(seen.adapter.launch(wish))
    seen.until_status(Status.RUNNING, wish.id)
    model.wait_held("slow search")

    def its(rows: Mapping[str, Found]) -> Found | None:
        return next((row for row in rows.values() if row.parent == wish.id and row.first_prompt), None)

    child = seen.until(its, "a subagent")
    # Seen to begin while its conversation's process lived, or before anybody looked again at that.
    assert child.status in (Status.RUNNING, Status.UNKNOWN)
    assert str(run.pid) in (str(child.life.pid), *child.life.reason.split())
    assert child.first_prompt == "slow search"
    seen.until_status(Status.RUNNING, wish.id)
    model.release()
    assert run.wait() == 0, run.text
    assert {row.status for row in seen.rows().values()} == {Status.STOPPED}


# ---- in a terminal ------------------------------------------------------------------------------


def test_a_terminal_from_its_start_through_a_permission_to_its_end(
    seen: Seen, start: Callable[..., Running], model: ModelServer, folder: Path
) -> None:
    wish = new(folder)
    run = start(seen.adapter.launch(wish), tty=True)
    idle = seen.until_status(Status.IDLE, wish.id)
    assert (idle.life.pid, idle.cwd, idle.first_prompt) == (run.pid, str(folder), "")

    run.type("slow one")
    run.wait_text("slow one")
    run.key("enter")
    model.wait_held("slow one")
    seen.until_status(Status.RUNNING, wish.id)
    model.release()
    seen.until_status(Status.IDLE, wish.id)
    # Transcripts are written a little later than the registry.
    seen.until(lambda rows: rows[wish.id].first_prompt == "slow one", "its prompt")

    run.type("tool: touch made")
    run.wait_text("tool: touch made")
    run.key("enter")
    waiting = seen.until_status(Status.WAITING, wish.id)
    assert waiting.life.activity == "waiting for permission"
    run.wait_text("Do you want to proceed?")
    run.press_until(lambda: seen.rows()[wish.id].status is not Status.WAITING)
    run.wait_text("The tool said")
    seen.until_status(Status.IDLE, wish.id)
    assert (folder / "made").exists()

    run.type("/exit")
    run.wait_text("/exit")
    run.key("enter")
    run.wait()
    assert seen.one().status is Status.STOPPED


def test_clear_begins_another_conversation_in_the_same_process(
    seen: Seen, start: Callable[..., Running], folder: Path
) -> None:
    wish = new(folder, "--before")
    run = start(seen.adapter.launch(wish), tty=True)
    run.wait_text("You said: --before")
    seen.until_status(Status.IDLE, wish.id)
    run.type("/clear")
    run.wait_text("/clear")
    run.key("enter")
    after = with_pid(seen, run.pid, other_than=wish.id)
    seen.until_status(Status.IDLE, after.id)
    seen.until_row(wish.id, status=Status.STOPPED, first_prompt="--before")
    assert "--session-id" in psutil.Process(run.pid).cmdline(), "the id in its command line is the old one"
    run.kill()
    assert {row.status for row in seen.rows().values()} == {Status.STOPPED}


def test_resuming_in_a_terminal_after_a_kill(seen: Seen, start: Callable[..., Running], folder: Path) -> None:
    wish = new(folder, "remember me")
    run = start(seen.adapter.launch(wish), tty=True)
    run.wait_text("You said: remember me")
    # What it shows is written a moment later; without that there is nothing to go on with.
    seen.until(lambda rows: rows[wish.id].first_prompt == "remember me", "what is kept of it")
    run.kill()
    stopped = seen.one()
    assert stopped.status is Status.STOPPED
    run = start(seen.adapter.resume(stopped, Wish(str(folder), "-and me")), tty=True)
    run.wait_text("You said: -and me")
    live = with_pid(seen, run.pid, id=wish.id)
    assert live.status in (Status.IDLE, Status.RUNNING)


def test_a_branch_and_a_title_are_told(seen: Seen, start: Callable[..., Running], folder: Path) -> None:
    wish = new(folder, "the trunk")
    run = start(seen.adapter.launch(wish), tty=True)
    run.wait_text("You said: the trunk")
    seen.until_status(Status.IDLE, wish.id)
    run.type("/branch")
    run.wait_text("/branch")
    run.key("enter")
    branch = with_pid(seen, run.pid, other_than=wish.id)
    seen.until(lambda rows: rows[branch.id].parent == wish.id, "its parent")
    run.type("/rename A fine title")
    run.wait_text("/rename A fine title")
    run.key("enter")
    seen.until(lambda rows: rows[branch.id].title == "A fine title", "its title")


# ---- recycled pids, other namespaces ------------------------------------------------------------


def start_time(pid: int) -> int:
    """Field 22 of its stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


IN_A_NAMESPACE = """
    import json, os, signal, subprocess, sys
    from tests.agents.seen import Seen

    claude, id, cwd, held, go = sys.argv[1:]
    seen = Seen("claude-code", os.environ)
    command = [claude, "-p", "slow", "--session-id", id]
    run = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    # On disk by then: killed before, it has left nothing to be shown.
    live = seen.until_row(id, status="running", first_prompt="slow")
    told = [[live.status, live.life.pid == run.pid]]
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
    run.kill()
    run.wait()
    # Who comes next has its pid; others may come in between.
    for _ in range(1000):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(run.pid - 1))
        other = subprocess.Popen(["sleep", "600"])
        if other.pid == run.pid:
            break
        other.kill()
        other.wait()
    entry = os.path.expanduser(f"~/.claude/sessions/{run.pid}.json")
    told.append([seen.one().status, os.path.exists(entry), other.pid == run.pid])
    other.kill()
    other.wait()
    print(json.dumps(told), flush=True)
"""


def test_a_recycled_pid_and_another_namespace(
    seen: Seen, claude: Program, model: ModelServer, folder: Path
) -> None:
    """In a PID namespace the pid of a killed one is given to another. From outside it is known to be over
    once nobody is in that namespace, if all processes of the machine can be seen."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is missing: no PID namespace can be made")
    command = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid():
        command[1:1] = ["--user", "--map-root-user"]
    able = subprocess.run(
        [*command, "sh", "-c", "echo 50 > /proc/sys/kernel/ns_last_pid"], capture_output=True, text=True
    )
    if able.returncode:
        pytest.skip(f"no PID namespace with pids of our choice can be made: {able.stderr.strip()}")

    id = str(uuid.uuid4())
    code = textwrap.dedent(IN_A_NAMESPACE)
    with subprocess.Popen(
        [*command, sys.executable, "-c", code, claude.command()[0], id, str(folder), "", ""],
        env={**claude.env, "PYTHONPATH": str(CHECKOUT)},
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        try:
            assert json.loads(inside.stdout.readline()) == [["running", True]]
            outside = seen.one()
            assert (outside.id, outside.status) == (id, Status.UNKNOWN)
            assert "another PID namespace" in outside.life.reason
            inside.stdin.write("\n")
            inside.stdin.flush()
            assert json.loads(inside.stdout.readline())[1] == ["stopped", True, True]
        finally:
            inside.send_signal(signal.SIGKILL)
    kernel = Path("/proc/2/comm")
    if kernel.exists() and kernel.read_text() == "kthreadd\n":
        seen.until_status(Status.STOPPED, id)
    else:
        assert seen.one().status is Status.UNKNOWN, "that it ended there cannot be seen from here"
