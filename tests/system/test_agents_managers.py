"""Agents while what manages them goes down: session daemon, supervisor, user's manager, machine, disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sessiond.model.unit import daemon_unit, session_slice
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import HOME, Product, until

FOR_EVER = "while :; do sleep 1000; done"
MANY = 200


def ends(product: Product, session: str) -> dict[str, dict[str, object]]:
    """The ends that lie on the disk, by agent."""
    found = product.host.path(f"{HOME}/.local/state/sessiond/sessions/{session}/agents").glob("*/end.json")
    return {one.parent.name: json.loads(one.read_text()) for one in found}


def runs(crew: Crew, agent: str) -> int:
    """How often it has begun."""
    return crew.lines(agent).count("run")


def test_agents_outlive_their_daemon_and_are_told_of_as_before(product: Product) -> None:
    with crew_of(product, product.started()["id"]) as crew:
        plain, tty = crew.sh(FOR_EVER), crew.sh(f"echo began; {FOR_EVER}", tty=True)
        paused = crew.sh(FOR_EVER)
        crew.call("PauseAgent", agent=paused.id)
        crew.printed(tty.id, "began")
        for _ in range(3):
            crew.kill_daemon()
            now = {one.id: one for one in crew.list()}
            assert set(now) == {plain.id, tty.id, paused.id}
            crew.wait(paused.id, "paused")
            assert (crew.wait(plain.id, "running").pid, crew.wait(tty.id, "running").pid) == (
                plain.pid,
                tty.pid,
            )
        crew.call("ResumeAgent", agent=paused.id)
        for one in (plain, tty, paused):
            assert state(crew.stop(one.id)) == "terminated"
        assert crew.lines(tty.id) == ["began"]
        crew.gone()


def test_an_end_is_told_though_both_daemons_were_down(product: Product) -> None:
    made = product.started()
    with crew_of(product, made["id"]) as crew:
        folder = made["path"]
        product.host.run(["mkfifo", f"{folder}/fifo-0", f"{folder}/fifo-7"])
        agents = {
            crew.sh(f"echo here; read x < fifo-{number}; echo last words; exit {number}", tty=tty).id: number
            for number, tty in ((0, False), (7, True))
        }
        for agent in agents:
            crew.printed(agent, "here")
        # Held in its start, the daemon does not look while they end.
        unit = daemon_unit(crew.session)
        product.write(f"{HOME}/hold", "")
        product.user_unit_drop_in(
            unit, f"[Service]\nExecStartPre=/bin/sh -c 'while [ -e {HOME}/hold ]; do sleep 0.05; done'\n"
        )
        supervisor = product.supervisor_pid()
        pid = product.pid(crew.session)
        product.kill(supervisor)
        product.kill(pid)
        for number in agents.values():
            product.host.run(["sh", "-c", f"echo > {folder}/fifo-{number}"])
        for agent in agents:
            name = f"sessiond-agent@{crew.session}-{agent}.service"
            until(lambda name=name: product.host.show(name, "MainPID")["MainPID"] == "0", "its end")  # type: ignore[misc]
        assert ends(product, crew.session) == {}
        product.host.run(["rm", f"{HOME}/hold"])
        product.new_pid(crew.session, besides=pid)
        product.serving(besides=supervisor)
        for agent, number in agents.items():
            ended = crew.wait(agent)
            assert (state(ended), ended.exit_status) == ("failed" if number else "completed", number)
            assert ended.HasField("ended_at")
            assert crew.lines(agent) == ["here", "last words"]
        crew.gone()


def test_stopping_the_session_ends_its_agents_and_their_ends_are_written(product: Product) -> None:
    stops: list[Callable[[str], object]] = [
        lambda session: product.ctl("stop", session),
        lambda session: product.host.systemctl("stop", daemon_unit(session)),
        lambda session: product.host.systemctl("stop", session_slice(session)),
    ]
    for stop in stops:
        session = product.started()["id"]
        with crew_of(product, session) as crew:
            deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
            killed = crew.sh(deaf, stop_timeout={"seconds": 1})
            crew.printed(killed.id, "deaf")
            # What handles its stop signal alone is given time: no SIGHUP comes besides.
            tty = crew.sh(
                "trap 'sleep 0.2; echo last words; exit 0' TERM; echo up; while :; do sleep 0.05; done",
                tty=True,
            )
            crew.printed(tty.id, "up")
            stop(session)
            product.wait(session, "inactive")
            written = ends(product, session)
            assert set(written) == {killed.id, tty.id}
            assert all(one["asked"] for one in written.values())
            assert written[killed.id]["signal"] == "SIGKILL"
            assert written[tty.id]["exit_status"] == 0
            assert not product.processes(session)
            product.ctl("start", session)
            assert crew.lines(tty.id)[-1] == "last words"
            assert {state(one) for one in crew.list(include_ended=True)} == {"terminated", "completed"}
            crew.gone()


def test_restarting_or_killing_the_daemon_leaves_its_agents(product: Product) -> None:
    session = product.started()["id"]
    with crew_of(product, session) as crew:
        agents = {one.id: one.pid for one in (crew.sh(FOR_EVER), crew.sh(FOR_EVER, tty=True))}
        for how in (["restart", session], ["kill", session], ["kill", session, "--signal", "TERM"]):
            pid = product.pid(session)
            product.ctl(*how)
            product.new_pid(session, besides=pid)
            assert {one: crew.wait(one, "running").pid for one in agents} == agents
        for agent in agents:
            crew.kill(agent)
        crew.gone()


def test_a_crash_between_an_end_and_its_release_is_made_good(product: Product) -> None:
    session = product.started()["id"]
    with crew_of(product, session) as crew:
        for tty in (False, True):
            for _ in range(5):
                made = crew.sh("echo last words; exit 6", tty=tty)
                crew.kill_daemon()
                ended = crew.wait(made.id)
                assert (state(ended), ended.exit_status) == ("failed", 6)
                assert crew.lines(made.id) == ["last words"]
        crew.gone()
        left = product.host.path(f"{HOME}/.local/state/sessiond/sessions/{session}/agents")
        # Its unit is let go of first, then what reminds of that.
        until(lambda: not list(left.glob("*/unreleased")), "nothing to be left to let go of")
        unit = daemon_unit(session)
        until(
            lambda: product.host.show(unit, "NFileDescriptorStore")["NFileDescriptorStore"] == "0",
            "an empty descriptor store",
        )


def test_a_power_cut_and_a_reboot_are_told_and_what_is_to_come_back_does(
    fresh_product: Callable[..., Product],
) -> None:
    product = fresh_product()
    session = product.new("--start", "--enable")["id"]
    with crew_of(product, session) as crew:
        lost = crew.sh(f"echo before; {FOR_EVER}", tty=True, name="lost")
        back = crew.sh(f"echo run; {FOR_EVER}", tty=True, name="back", resurrect=True, labels={"k": "v"})
        plain = crew.sh(f"echo run; {FOR_EVER}", name="plain", resurrect=True, set_environment={"X": "kept"})
        stopped = crew.sh(FOR_EVER, name="stopped", resurrect=True)
        crew.stop(stopped.id)
        for agent in (lost, back, plain):
            crew.printed(agent.id, "before" if agent is lost else "run")
    for times, orderly in ((2, False), (3, True)):
        product.host.reboot(orderly=orderly)
        product.serving()
        product.wait(session, "active")
        with crew_of(product, session) as crew:
            for agent in (back, plain):
                now = crew.wait(agent.id, "running")
                assert (now.id, now.name, now.labels) == (agent.id, agent.name, agent.labels)
                until(lambda agent=agent, times=times: runs(crew, agent.id) == times, "its new run")  # type: ignore[misc]
            gone = crew.wait(lost.id)
            assert (state(gone), gone.signal, gone.HasField("exit_status")) == ("failed", "", False)
            assert "machine went down" in gone.reason
            assert crew.lines(lost.id) == ["before"]
            crew.refused("environment_gone", "RestartAgent", agent=lost.id)
            assert state(crew.get(stopped.id)) == "terminated"
            environment = product.host.run(["cat", f"/proc/{crew.get(plain.id).pid}/environ"]).stdout
            assert "X=kept" in environment.split("\0")


def test_a_manager_that_goes_down_is_told(fresh_product: Callable[..., Product]) -> None:
    product = fresh_product()
    session = product.new("--start", "--enable")["id"]
    with crew_of(product, session) as crew:
        lost, back = crew.sh(FOR_EVER), crew.sh(FOR_EVER, resurrect=True)
    product.host.run(["systemctl", "restart", f"user@{product.host.uid}.service"], user=False)
    product.serving()
    product.wait(session, "active")
    with crew_of(product, session) as crew:
        assert crew.wait(back.id, "running").pid != back.pid
        gone = crew.wait(lost.id)
        assert state(gone) == "failed"
        assert "manager went down" in gone.reason


def test_two_hundred_agents_in_one_session(product: Product) -> None:
    config = f"{HOME}/.config/sessiond/config.toml"
    product.write(config, f"[agents]\nmax_per_session = {MANY}\n")
    try:
        session = product.started()["id"]
        with crew_of(product, session) as crew, ThreadPoolExecutor(16) as pool:
            made = list(pool.map(lambda number: crew.sh(FOR_EVER, tty=bool(number % 2)), range(MANY)))
            assert len({one.id for one in made}) == len({one.name for one in made}) == MANY
            crew.refused("too_many_agents", "SpawnAgent", command=["true"])
            crew.kill_daemon()
            until(lambda: {state(one) for one in crew.list()} == {"running"}, "all of them to be found again")
            assert len(crew.list()) == MANY
            results = crew.batch("stop", states=["AGENT_STATE_RUNNING"])
            assert [one.code for one in results] == [""] * MANY
            assert {state(one.agent) for one in results} == {"terminated"}
            crew.gone()
            assert len(crew.list(include_ended=True)) == MANY
    finally:
        product.host.run(["rm", config])


def test_a_full_descriptor_store_is_told_before_anything_starts(product: Product) -> None:
    session = product.started()["id"]
    unit = daemon_unit(session)
    product.user_unit_drop_in(unit, "[Service]\nFileDescriptorStoreMax=5\n")
    with crew_of(product, session) as crew:
        made = [crew.sh(FOR_EVER, tty=True) for _ in range(2)]
        error = crew.refused("descriptor_store_full", "SpawnAgent", command=["true"], tty=True)
        assert "--no-tty" in error.hint
        plain = crew.sh("exit 0")
        assert state(crew.wait(plain.id)) == "completed"
        crew.kill(made[0].id)
        crew.kill(crew.sh(FOR_EVER, tty=True).id)
        crew.kill(made[1].id)
        crew.gone()


def test_with_a_full_disk_nothing_is_started_and_what_runs_can_be_ended(
    fresh_product: Callable[..., Product],
) -> None:
    product = fresh_product()
    session = product.started()["id"]
    sessions = f"{HOME}/.local/state/sessiond/sessions"
    with crew_of(product, session) as crew:
        # A disk of its own for the session's agents, which then fills up.
        agents = f"{sessions}/{session}/agents"
        product.host.run(["mkdir", "-p", "-m", "700", agents])
        options = f"size=1m,uid={product.host.uid},mode=700"
        product.host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", agents], user=False)
        made = crew.sh(FOR_EVER)
        product.host.run(["sh", "-c", f"cat /dev/zero > {agents}/filler"], check=False)
        before = [one.id for one in crew.list(include_ended=True)]
        assert crew.refused("disk_full", "SpawnAgent", command=["true"]).hint
        assert [one.id for one in crew.list(include_ended=True)] == before
        ended = crew.kill(made.id)
        assert (state(ended), ended.signal) == ("terminated", "SIGKILL")
        product.host.run(["rm", f"{agents}/filler"])
        until(lambda: made.id in ends(product, session), "its end to be written down")
        crew.gone()
        product.ctl("stop", session)
        product.host.run(["umount", "-l", agents], user=False)


def test_a_settings_file_with_a_fault_keeps_no_daemon_from_its_agents(product: Product) -> None:
    config = f"{HOME}/.config/sessiond/config.toml"
    session = product.started()["id"]
    product.write(config, "[agents\n")
    try:
        with crew_of(product, session) as crew:
            assert state(crew.wait(crew.sh("exit 0").id)) == "completed"
            assert "settings are ignored" in product.journal("--user-unit", daemon_unit(session))
    finally:
        product.host.run(["rm", config])
