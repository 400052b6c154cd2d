"""Where the systems before this one fail with what runs in a session: each is a test that it is otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import PATIENCE, Product, until


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


def test_stop_signals_one_pid_and_the_tree_lives_on(crew: Crew) -> None:
    agent = crew.sh("sleep 1000 & (sleep 1000 & setsid sleep 1000 & wait) & echo up; wait")
    crew.printed(agent.name, "up")
    until(lambda: len(crew.pids(agent)) >= 5, "the whole tree")
    tree = crew.pids(agent)
    crew.stop(agent.name)
    alive = [pid for pid in tree if crew.product.host.path(f"/proc/{pid}").exists()]
    assert not alive


def test_an_undrained_pipe_stops_an_agent_after_64_kib(crew: Crew) -> None:
    agent = crew.sh("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end >&2")
    assert state(crew.wait(agent.name)) == "completed"
    assert crew.get(agent.name).record_bytes == 1_000_001 + 4


def test_output_is_gone_once_it_was_read(crew: Crew) -> None:
    agent = crew.sh("echo one; echo two")
    crew.wait(agent.name)
    first = crew.lines(agent.name)
    assert crew.lines(agent.name) == first == ["one", "two"]


def test_the_exit_status_is_lost_when_it_is_terminated(crew: Crew) -> None:
    agent = crew.sh("trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done")
    crew.printed(agent.name, "up")
    ended = crew.stop(agent.name)
    assert (state(ended), ended.exit_status, ended.signal) == ("terminated", 42, "")


def test_a_terminal_has_no_size_and_attach_replays_nothing(crew: Crew) -> None:
    agent = crew.sh("stty size; echo drawn; sleep 1000", tty=True, columns=101, rows=33)
    crew.printed(agent.name, "drawn")
    start = pb.AttachAgentRequest(session=crew.session, start=pb.AttachStart(agent=agent.name))
    replies = crew.stub.AttachAgent(iter([start]), timeout=PATIENCE)
    first = next(replies)
    replies.cancel()
    assert b"33 101" in first.screen.data
    assert b"drawn" in first.screen.data
    assert (first.screen.size.columns, first.screen.size.rows) == (101, 33)


def test_pause_is_a_wish_that_is_taken_for_done(crew: Crew) -> None:
    agent = crew.sh("trap '' TSTP STOP HUP; n=0; while :; do n=$((n+1)); echo $n; done")
    crew.printed(agent.name, "1")
    paused = crew.call("PauseAgent", agent=agent.name).agent
    assert state(paused) == "paused"
    assert crew.unit(agent)["FreezerState"] == "frozen"
    pids = crew.pids(agent)
    ticks = [cpu_ticks(crew, pid) for pid in pids]
    # It is the kernel's word that nothing of it runs, not the clock's.
    assert "frozen 1" in cgroup_file(crew, agent, "cgroup.events")
    assert [cpu_ticks(crew, pid) for pid in pids] == ticks
    resumed = crew.call("ResumeAgent", agent=agent.name).agent
    assert state(resumed) == "running"
    before = crew.get(agent.name).record_bytes
    until(lambda: crew.get(agent.name).record_bytes > before, "it to go on")


def cpu_ticks(crew: Crew, pid: int) -> tuple[str, ...]:
    stat = crew.product.host.path(f"/proc/{pid}/stat").read_text()
    return tuple(stat.rpartition(")")[2].split()[11:13])


def cgroup_file(crew: Crew, agent: pb.Agent, name: str) -> str:
    group = crew.unit(agent)["ControlGroup"]
    return crew.product.host.run(["cat", f"/sys/fs/cgroup{group}/{name}"]).stdout


def test_a_batch_never_answers(crew: Crew) -> None:
    running = crew.sh("sleep 1000", name="running", group="g")
    crew.wait(crew.sh("exit 3", name="ended", group="g").name)
    results = crew.batch("signal", agents=["running", "ended", "nobody"], signal="USR1", include_ended=True)
    told = {result.agent.name: result.code for result in results}
    assert told == {"running": "", "ended": "agent_not_running", "nobody": "agent_not_found"}
    assert crew.wait(running.name).signal == "SIGUSR1"


def test_four_launches_at_once_all_get_the_one_name(crew: Crew) -> None:
    def launch(_: int) -> str:
        try:
            return crew.sh("sleep 1000", name="only").id
        except SessiondError as error:
            return error.code

    with ThreadPoolExecutor(4) as pool:
        outcomes = sorted(pool.map(launch, range(4)))
    assert outcomes.count("agent_name_taken") == 3
    assert [one.name for one in crew.list()] == ["only"]
    assert len(crew.loaded()) == 1


def test_a_live_agent_is_shown_stopped(crew: Crew) -> None:
    for number in range(5):
        agent = crew.run("sleep", "1000", name=f"quick-{number}")
        assert state(agent) == "running"
        assert agent.pid == int(crew.unit(agent)["MainPID"])
        assert [one.id for one in crew.list() if one.name == agent.name] == [agent.id]


def test_the_daemons_own_pid_stands_for_the_agents(crew: Crew) -> None:
    agent = crew.run("sleep", "1000")
    command = crew.product.host.path(f"/proc/{agent.pid}/cmdline")
    until(lambda: command.read_bytes() == b"sleep\x001000\0", "the program's own process")
    assert agent.pid != crew.product.pid(crew.session)


def test_one_agents_fault_takes_all_down(crew: Crew) -> None:
    other = crew.sh("sleep 1000")
    for script in ("kill -SEGV $$", "ulimit -c 0; kill -ABRT $$", "kill -9 0"):
        assert state(crew.wait(crew.sh(script).name)) == "failed"
    assert crew.get(other.name).pid == other.pid


def test_an_agent_takes_its_own_host_down(crew: Crew) -> None:
    product = crew.product
    before = product.pid(crew.session)
    # Told to once its start was answered, which the daemon that it kills does.
    go = f"{product.folder()}/go"
    product.host.run(["mkfifo", go])
    agent = crew.sh(f"read word < {go}; kill -9 {before}; echo still here; sleep 1000")
    product.host.run(["sh", "-c", f"echo go > {go}"])
    product.new_pid(crew.session, besides=before)
    crew.printed(agent.name, "still here")
    assert crew.get(agent.name).pid == agent.pid


def test_a_secret_is_seen_in_a_log_a_unit_or_an_argument(crew: Crew) -> None:
    secret = "s3cr3t-of-this-test"
    agent = crew.sh(
        "echo ${#TOKEN}; sleep 1000", environment={"PATH": "/usr/bin:/bin", "TOKEN": secret}, tty=True
    )
    crew.printed(agent.name, str(len(secret)))
    host = crew.product.host
    for words in (
        ["systemctl", "--user", "show", "--", agent.unit],
        ["systemctl", "--user", "cat", "--", agent.unit],
        ["journalctl", "--user", "--no-pager"],
        ["ps", "-eo", "args"],
    ):
        assert secret not in host.run(words, check=False).stdout, words
    kept = host.run(["find", crew.folder(agent), f"{host.runtime_dir}/sessiond", "-type", "f"]).stdout.split()
    holders = [path for path in kept if secret.encode() in host.path(path).read_bytes()]
    assert holders, "it travels in a file"
    modes = host.run(["stat", "-c", "%a %U", *holders]).stdout.split("\n")[:-1]
    assert set(modes) == {"600 tester"}


def test_the_path_differs_from_that_of_the_users_shell(product: Product) -> None:
    session = product.started()
    tool = f"{session['path']}/bin/mytool"
    product.write(tool, "#!/bin/sh\necho mine\n")
    product.host.run(["chmod", "755", tool])
    path = f"{Path(tool).parent}:/usr/bin:/bin"
    done = product.host.sessionctl(
        "run", "-s", session["id"], "--", "mytool", env={"PATH": path}, check=False
    )
    assert (done.returncode, done.stdout) == (0, "mine\n")


@pytest.mark.parametrize("tty", [False, True])
def test_endless_output_is_kept_in_memory_without_bound(crew: Crew, tty: bool) -> None:
    daemon = crew.product.pid(crew.session)
    crew.wait(crew.sh("echo warm", tty=tty).name)
    before = resident(crew, daemon)
    agent = crew.sh("head -c 50000000 /dev/zero | tr '\\0' y | fold -w 100; echo; echo end", tty=tty)
    crew.wait(agent.name)
    assert crew.get(agent.name).record_bytes > 50_000_000
    grown = resident(crew, daemon) - before
    assert grown < 25_000_000, f"{grown} bytes"
    assert crew.lines(agent.name, limit=1)[0].startswith("yyy")


def resident(crew: Crew, pid: int) -> int:
    lines = crew.product.host.path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024
