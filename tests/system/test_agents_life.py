"""The life of agents on a real systemd: every end, every verb, every way of going down."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator

import pytest

from tests.system.agents_case import PATH, Crew, crew_of, state
from tests.system.product import HOME, STATE, Product, until

CONFIG = f"{HOME}/.config/sessiond/config.toml"
FOR_EVER = "while :; do sleep 1000; done"
DEAF = f"trap '' TERM HUP INT; echo deaf; {FOR_EVER}"


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


# ---- starting and ending


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("status", [0, 1, 255])
def test_an_exit_status_is_told(crew: Crew, status: int, tty: bool) -> None:
    made = crew.sh(f"echo last words; exit {status}", tty=tty)
    ended = crew.wait(made.id)
    assert state(ended) == ("completed" if status == 0 else "failed")
    assert (ended.exit_status, ended.signal, ended.HasField("pid")) == (status, "", False)
    assert ended.HasField("started_at")
    assert ended.HasField("ended_at")
    # All that it printed is in the record when its end is told.
    assert crew.lines(made.id) == ["last words"]
    crew.gone()


def test_a_signal_that_nobody_asked_for_is_a_failure(crew: Crew) -> None:
    for name in ("KILL", "TERM", "SEGV"):
        ended = crew.wait(crew.sh(f"ulimit -c 0; kill -{name} $$").id)
        assert (state(ended), ended.signal) == ("failed", f"SIG{name}")
        assert not ended.HasField("exit_status")
    crew.gone()


def test_what_cannot_start_is_refused_and_leaves_nothing(crew: Crew) -> None:
    product = crew.product
    folder = product.row(crew.session)["path"]
    product.write(f"{folder}/plain", "no program")
    product.write(f"{folder}/script", "#!/no/such/interpreter\n")
    product.host.run(["chmod", "+x", f"{folder}/script"])
    cases = {
        "command_not_found": ["no-such-program"],
        "command_not_executable": ["./plain"],
        "command_missing": [],
    }
    for code, command in cases.items():
        error = crew.refused(code, "SpawnAgent", command=command, environment={"PATH": PATH})
        assert error.hint
    crew.refused("command_not_executable", "SpawnAgent", command=["./script"])
    wrong: dict[str, dict[str, object]] = {
        "name_invalid": {"name": "a/b"},
        "label_invalid": {"labels": {"-": ""}},
        "property_unknown": {"properties": {"ExecStart": "/bin/true"}},
        "property_invalid": {"properties": {"MemoryMax": "lots"}},
        "signal_invalid": {"stop_signal": "NONSENSE"},
        "size_invalid": {"tty": True, "columns": 100_000},
        "term_invalid": {"tty": True, "term": "a b"},
        "umask_invalid": {"umask": 0o7777},
        "environment_invalid": {"set_environment": {"A=B": "c"}},
        "environment_too_large": {"set_environment": {"LONG": "x" * 200_000}},
        "command_too_large": {"command": ["true", "x" * 200_000]},
    }
    for code, fields in wrong.items():
        crew.refused(code, "SpawnAgent", **({"command": ["true"]} | fields))
    assert crew.list(include_ended=True) == []
    assert not crew.loaded()
    left = product.host.run(["sh", "-c", f"ls {STATE}/sessions/{crew.session}/agents 2>/dev/null || true"])
    assert left.stdout == ""


def test_a_program_that_vanishes_between_look_and_start_fails_with_the_shells_status(crew: Crew) -> None:
    folder = crew.product.row(crew.session)["path"]
    crew.product.write(f"{folder}/once", "#!/bin/sh\nrm -f once\nexit 7\n")
    crew.product.host.run(["chmod", "+x", f"{folder}/once"])
    made = crew.run("./once", restart="RESTART_POLICY_ON_FAILURE")
    ended = crew.wait(made.id)
    assert (state(ended), ended.exit_status) == ("failed", 127)
    assert "cannot execute" in "\n".join(crew.lines(made.id))


@pytest.mark.parametrize("tty", [False, True])
def test_no_process_is_left_of_an_agent_that_ended(crew: Crew, tty: bool) -> None:
    marker = f"orphan-{int(tty)}"
    made = crew.sh(f"(setsid sh -c ': {marker}; {FOR_EVER}' &) ; sleep 0.2; exit 5", tty=tty)
    ended = crew.wait(made.id)
    assert (state(ended), ended.exit_status) == ("failed", 5)
    crew.gone()
    assert not crew.running(marker)


def test_who_ignores_the_stop_signal_is_killed_after_its_timeout(crew: Crew) -> None:
    made = crew.sh(DEAF, stop_timeout={"nanos": 500_000_000})
    crew.printed(made.id, "deaf")
    ended = crew.stop(made.id)
    assert (state(ended), ended.signal) == ("terminated", "SIGKILL")
    crew.gone()


def test_stop_and_kill_and_their_repetition(crew: Crew) -> None:
    stopped, killed = crew.sh(FOR_EVER), crew.sh(FOR_EVER)
    assert (state(crew.stop(stopped.id)), state(crew.kill(killed.id))) == ("terminated", "terminated")
    again = crew.stop(stopped.id), crew.kill(killed.id)
    assert [one.signal for one in again] == ["SIGTERM", "SIGKILL"]
    clean = crew.sh("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    crew.printed(clean.id, "ready")
    # It was asked to end, and ended as those do that complete.
    assert state(crew.stop(clean.id)) == "completed"
    crew.gone()


def test_the_stop_signal_of_its_own_is_used(crew: Crew) -> None:
    made = crew.sh(
        "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.1; done", stop_signal="USR1"
    )
    crew.printed(made.id, "ready")
    ended = crew.stop(made.id)
    assert (state(ended), ended.exit_status) == ("terminated", 3)
    assert "got it" in crew.lines(made.id)


def test_a_stop_by_systemctl_is_honoured_and_told_as_asked_for(crew: Crew) -> None:
    made = crew.sh(FOR_EVER)
    crew.product.host.systemctl("stop", made.unit)
    ended = crew.wait(made.id)
    assert (state(ended), ended.signal) == ("terminated", "SIGTERM")
    crew.gone()


def test_a_restart_by_systemctl_goes_on_as_the_same_agent(crew: Crew) -> None:
    made = crew.sh(f"echo began; {FOR_EVER}", tty=True)
    crew.printed(made.id, "began")
    crew.product.host.systemctl("restart", made.unit)
    until(lambda: crew.lines(made.id).count("began") == 2, "the second run to print")
    # What it prints comes on another way than what systemd says of it.
    until(lambda: state(now := crew.get(made.id)) == "running" and now.pid != made.pid, "the second run")
    crew.kill(made.id)


def test_a_time_limit_ends_it_and_is_told(crew: Crew) -> None:
    ended = crew.wait(crew.sh(FOR_EVER, timeout={"nanos": 300_000_000}).id)
    assert (state(ended), ended.result) == ("failed", "timeout")
    assert "time was up" in ended.reason


# ---- signals, pausing, restarting, waiting


def test_signals_reach_the_program_and_tell_how_it_ended(crew: Crew) -> None:
    made = crew.sh("trap 'echo usr1' USR1; echo ready; while :; do sleep 0.1; done")
    crew.printed(made.id, "ready")
    crew.call("SignalAgent", agent=made.id, signal="USR1")
    crew.printed(made.id, "usr1")
    assert state(crew.get(made.id)) == "running"
    crew.refused("signal_invalid", "SignalAgent", agent=made.id, signal="NONSENSE")
    crew.call("SignalAgent", agent=made.id, signal="INT", all=True)
    ended = crew.wait(made.id)
    # Somebody sent that signal, and it died of it.
    assert (state(ended), ended.signal) == ("terminated", "SIGINT")
    crew.refused("agent_not_running", "SignalAgent", agent=made.id, signal="TERM")


def test_signals_without_a_name_of_their_own_are_signals(crew: Crew) -> None:
    number = signal.SIGRTMIN + 2
    made = crew.sh(f"trap 'exit 7' {number}; echo ready; while :; do sleep 0.05; done", stop_signal="RTMIN+2")
    crew.printed(made.id, "ready")
    ended = crew.stop(made.id)
    assert (state(ended), ended.exit_status) == ("terminated", 7)
    killed = crew.sh(FOR_EVER)
    crew.call("SignalAgent", agent=killed.id, signal=str(number), all=True)
    ended = crew.wait(killed.id)
    assert (state(ended), ended.signal) == ("terminated", f"SIG{number}")


def test_a_signal_that_was_lived_through_did_not_end_it(crew: Crew) -> None:
    made = crew.sh("trap 'echo read again' HUP; echo ready; while :; do sleep 0.05; done")
    crew.printed(made.id, "ready")
    crew.call("SignalAgent", agent=made.id, signal="HUP")
    crew.printed(made.id, "read again")
    # Nobody who knows of the signal is left but the disk.
    crew.kill_daemon()
    crew.product.kill(made.pid)
    ended = crew.wait(made.id)
    assert (state(ended), ended.signal) == ("failed", "SIGKILL")
    crew.gone()


def test_pause_stops_the_whole_tree_and_resume_lets_it_go_on(crew: Crew) -> None:
    made = crew.sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
    crew.printed(made.id, "3")
    paused = crew.call("PauseAgent", agent=made.id).agent
    assert state(paused) == "paused"
    assert crew.unit(made)["FreezerState"] == "frozen"
    printed = crew.product.host.path(f"{crew.folder(made)}/stdout")
    still = printed.read_bytes().count(b"\n")
    assert state(crew.call("PauseAgent", agent=made.id).agent) == "paused"
    assert printed.read_bytes().count(b"\n") == still
    assert state(crew.call("ResumeAgent", agent=made.id).agent) == "running"
    crew.printed(made.id, str(still + 3))
    crew.kill(made.id)
    crew.refused("agent_not_running", "PauseAgent", agent=made.id)
    crew.refused("agent_not_running", "ResumeAgent", agent=made.id)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_a_paused_agent_can_be_ended(crew: Crew, verb: str) -> None:
    made = crew.sh(FOR_EVER)
    crew.call("PauseAgent", agent=made.id)
    ended = crew.stop(made.id) if verb == "stop" else crew.kill(made.id)
    assert (state(ended), ended.signal) == ("terminated", "SIGTERM" if verb == "stop" else "SIGKILL")
    crew.gone()


def test_restart_of_what_runs_and_of_what_ended(crew: Crew) -> None:
    for tty in (False, True):
        made = crew.sh(f"echo run $$; [ -e done ] || {FOR_EVER}", tty=tty)
        again = crew.restart(made.id)
        assert (again.id, again.name, state(again)) == (made.id, made.name, "running")
        assert again.pid != made.pid
        crew.product.write(f"{again.cwd}/done", "")
        crew.kill(made.id)
        ended = crew.wait(crew.restart(made.id).id)
        assert (state(ended), ended.exit_status) == ("completed", 0)
        # One record for all of its runs, though the first two may have been killed before they printed.
        assert crew.lines(made.id)[-1].startswith("run ")
        crew.product.host.run(["rm", f"{again.cwd}/done"])
    crew.gone()


def test_waiting(crew: Crew) -> None:
    made = crew.sh(FOR_EVER)
    assert state(crew.wait(made.id, "running")) == "running"
    error = crew.refused("wait_timeout", "WaitAgent", agent=made.id, timeout={"nanos": 100_000_000})
    assert made.name in error.message
    crew.kill(made.id)
    crew.refused("agent_ended", "WaitAgent", agent=made.id, states=["AGENT_STATE_RUNNING"])
    crew.refused("agent_not_found", "WaitAgent", agent="nobody")


# ---- names, words, caps, removal


def test_names_words_and_removal(crew: Crew) -> None:
    one = crew.sh(FOR_EVER, name="one", group="g", labels={"k": "v"})
    crew.refused("agent_name_taken", "SpawnAgent", command=["true"], name="one")
    numbered = crew.wait(crew.run("true").id), crew.wait(crew.run("true").id)
    assert [agent.name for agent in numbered] == ["true-1", "true-2"]
    assert [crew.get(word).id for word in ("one", one.id, one.id[:6])] == [one.id] * 3
    crew.refused("agent_not_found", "GetAgent", agent="two")
    crew.refused("agent_running", "RemoveAgent", agent="one")
    crew.kill("one")
    second = crew.run("true", name="one")
    crew.wait(second.id)
    # Of two that ended under a name, the newest.
    assert crew.get("one").id == second.id
    assert {agent.name for agent in crew.list(include_ended=True)} == {"one", "true-1", "true-2"}
    assert [agent.id for agent in crew.list(group="g", include_ended=True)] == [one.id]
    assert [agent.id for agent in crew.list(labels={"k": "v"}, include_ended=True)] == [one.id]
    assert crew.list() == []
    crew.call("RemoveAgent", agent=one.id)
    crew.refused("agent_not_found", "GetAgent", agent=one.id)
    assert not crew.product.host.path(crew.folder(one)).exists()
    running = crew.sh(FOR_EVER)
    assert state(crew.call("RemoveAgent", agent=running.id, force=True).agent) == "terminated"
    crew.gone()


def test_a_batch_has_a_result_for_each(crew: Crew) -> None:
    made = [crew.sh(FOR_EVER, group="g") for _ in range(3)]
    ended = crew.wait(crew.run("true", group="g").id)
    results = crew.batch("pause", group="g")
    assert {one.agent.id for one in results} == {one.id for one in made}
    assert {(state(one.agent), one.code) for one in results} == {("paused", "")}
    results = crew.batch("resume", agents=[ended.id, made[0].id, "nobody"])
    by_id = {one.agent.id or one.agent.name: one.code for one in results}
    assert by_id == {ended.id: "agent_not_running", made[0].id: "", "nobody": "agent_not_found"}
    results = crew.batch("resume", fail_fast=True, agents=["nobody", *(one.id for one in made)])
    assert sorted(one.code for one in results) == ["agent_not_found", "skipped", "skipped", "skipped"]
    crew.refused("action_invalid", "BatchAgents")
    crew.refused("signal_invalid", "BatchAgents", action="BATCH_ACTION_SIGNAL", signal="NONSENSE")
    results = crew.batch("stop", group="g")
    assert {state(one.agent) for one in results} == {"terminated"}
    results = crew.batch("wait", group="g", include_ended=True)
    assert len(results) == 4
    results = crew.batch("remove", group="g", include_ended=True)
    assert [one.code for one in results] == [""] * 4
    assert crew.list(include_ended=True) == []


# ---- what reaches the program


def test_argv_environment_and_folder_reach_the_program_unchanged(crew: Crew) -> None:
    folder = crew.product.row(crew.session)["path"]
    crew.product.host.run(["mkdir", "-p", f"{folder}/sub dir"])
    words = [
        "$HOME",
        "${PATH}",
        "$$",
        "%n",
        "%%",
        "a;b",
        ";",
        "'q'",
        '"d"',
        "new\nline",
        "",
        "\\",
        "tab\t",
        "ü€",
        "*",
    ]
    script = (
        "import json,os,sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(),"
        " '%o' % os.umask(0)])); sys.exit(1 if not os.path.exists('twice') and open('twice','w') else 0)"
    )
    made = crew.run(
        "python3",
        "-c",
        script,
        *words,
        environment={"PATH": PATH, "KEPT": "kept $X", "TMUX": "left out", "SSH_TTY": "left out"},
        set_environment={"SECRET": "s3cret"},
        cwd=f"{folder}/sub dir",
        umask=0o077,
        restart="RESTART_POLICY_ON_FAILURE",
    )
    # An automatic restart after systemd read all units anew: it must not have made them worse.
    crew.product.host.systemctl("daemon-reload")
    shown = crew.product.host.run(["systemctl", "--user", "show", made.unit]).stdout
    assert "s3cret" not in shown
    ended = crew.wait(made.id)
    assert (state(ended), ended.exit_status, ended.restarts) == ("completed", 0, 1)
    assert list(ended.command[3:]) == words
    runs = [json.loads(line) for line in crew.lines(made.id)]
    assert len(runs) == 2
    for argv, environment, cwd, umask in runs:
        assert argv == words
        assert (cwd, umask) == (f"{folder}/sub dir", "77")
        assert (environment["KEPT"], environment["SECRET"]) == ("kept $X", "s3cret")
        assert not {"TMUX", "SSH_TTY", "TERM"} & set(environment)
        assert environment["SESSIOND_SESSION"] == crew.session
        assert environment["SESSIOND_AGENT"] == made.id
    outside = crew.wait(crew.run("pwd", cwd="/tmp").id)
    assert crew.lines(outside.id) == [folder]
    journal = crew.product.journal("--user-unit", made.unit)
    assert "s3cret" not in journal.replace(crew.lines(made.id)[0], "").replace(crew.lines(made.id)[1], "")


def test_restarts_end_at_the_limit(product: Product) -> None:
    # Five starts may take longer than the ten seconds that they are counted in where nothing else is said.
    product.write(CONFIG, "[agents]\nrestart_window = 600\n")
    try:
        with crew_of(product, product.started()["id"]) as crew:
            made = crew.sh("echo run; exit 4", restart="RESTART_POLICY_ON_FAILURE", tty=True)
            ended = crew.wait(made.id)
            assert (state(ended), ended.exit_status) == ("failed", 4)
            assert ended.restarts >= 4
            assert ended.reason == "it was restarted too often in a short time"
            assert crew.lines(made.id).count("run") == ended.restarts + 1 - (ended.restarts > 4)
            always = crew.sh("exit 0", restart="RESTART_POLICY_ALWAYS")
            assert state(crew.wait(always.id)) in ("completed", "failed")
            crew.gone()
    finally:
        product.host.run(["rm", CONFIG])


def test_an_agent_that_is_restarted_over_and_over_can_be_stopped(crew: Crew) -> None:
    made = crew.sh("sleep 0.3", restart="RESTART_POLICY_ALWAYS")
    until(lambda: crew.get(made.id).restarts, "an automatic restart")
    assert state(crew.stop(made.id)) in ("terminated", "completed")
    crew.gone()


# ---- managers that go down


def test_a_status_survives_while_the_daemon_is_down(crew: Crew) -> None:
    folder = crew.product.row(crew.session)["path"]
    crew.product.host.run(["mkfifo", f"{folder}/fifo"])
    for tty in (False, True):
        made = crew.sh("echo here; read x < fifo; echo last words; exit 9", tty=tty)
        crew.printed(made.id, "here")
        pid = crew.product.pid(crew.session)
        # The agent ends the moment that its daemon is gone.
        crew.product.kill(pid)
        crew.product.host.run(["sh", "-c", f"echo > {folder}/fifo"])
        crew.product.new_pid(crew.session, besides=pid)
        ended = crew.wait(made.id)
        assert (state(ended), ended.exit_status) == ("failed", 9)
        assert crew.lines(made.id) == ["here", "last words"]
    crew.gone()


def test_an_input_is_read_to_its_end_and_anew_in_each_run(crew: Crew) -> None:
    text = b"first\n\0\xff last without an end" + b"x" * 1_000_000
    reads = "sha256sum; echo over"
    told = [f"{hashlib.sha256(text).hexdigest()}  -", "over"]
    agent = crew.sh(reads, input=text)
    assert crew.wait(agent.id).exit_status == 0
    assert crew.lines(agent.id) == told
    crew.restart(agent.id)
    crew.wait(agent.id)
    assert crew.lines(agent.id) == told * 2
    mode = crew.product.host.run(["stat", "-c", "%a", f"{crew.folder(agent)}/input"]).stdout
    assert mode == "600\n"


def test_an_input_that_cannot_be_is_refused_and_leaves_nothing(crew: Crew) -> None:
    crew.refused("input_with_terminal", "SpawnAgent", command=["cat"], tty=True, input=b"x")
    crew.refused("input_too_large", "SpawnAgent", command=["cat"], input=b"x" * (2 << 20) + b"x")
    assert not crew.list(include_ended=True)
    agent = crew.run("cat", input=b"")
    assert crew.wait(agent.id).exit_status == 0
