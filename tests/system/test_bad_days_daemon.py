"""Bad days of session daemons: killed once, ten times, forty times; stopped, killed and frozen by hand."""

from __future__ import annotations

import time

import pytest

from sessiond.model.unit import CLD_KILLED
from tests.system.product import (
    PATIENCE,
    SUPERVISOR,
    Product,
    agents_slice,
    daemon_unit,
    session_slice,
    starter_unit,
    until,
)

# What the unit's start limit allows in its interval, and the kills that go beyond it.
START_LIMIT = 30
TOO_MANY = 40


def test_a_killed_daemon_comes_back_ten_times_in_a_row(product: Product) -> None:
    session = product.started()["id"]
    for count in range(1, 11):
        mark, pid = product.cursor(), product.pid(session)
        product.kill(pid)
        again = product.back(session, besides=pid)
        row = product.row(session)
        assert (row["state"], row["pid"], row["restarts"]) == ("active", again, count)
        assert int(product.unit(session)["NRestarts"]) == count
        assert product.moves(mark, session) == [("active", "starting"), ("starting", "active")]
        [(_, left), _] = product.events(mark, session, "session_state_changed")
        assert "SIGKILL" in left["reason"]
    # A start by hand begins a new count, in systemd and so here.
    product.ctl("stop", session)
    product.ctl("start", session)
    assert product.row(session)["restarts"] == int(product.unit(session)["NRestarts"]) == 0


def test_a_daemon_killed_again_and_again_ends_in_error_with_the_reason(product: Product) -> None:
    made = product.started()
    session, name = made["id"], made["name"]
    # So many kills by way of systemctl can take longer than the interval in which they are counted.
    product.user_unit_drop_in(daemon_unit(session), "[Unit]\nStartLimitIntervalSec=3600\n")
    mark = product.cursor()
    kills, pid = 0, product.pid(session)
    deadline = time.monotonic() + 5 * PATIENCE
    while product.unit(session)["ActiveState"] != "failed":
        assert time.monotonic() < deadline, f"not failed after {kills} kills"
        if pid:
            product.kill(pid)
            kills += 1
        killed = pid
        # The next main process, killed before it serves, or the end.
        until(
            lambda killed=killed: (  # type: ignore[misc]
                product.pid(session) not in (0, killed) or product.unit(session)["ActiveState"] == "failed"
            ),
            f"something after kill {kills}",
        )
        pid = product.pid(session)
    assert START_LIMIT <= kills <= TOO_MANY
    product.wait(session, "error")
    unit = product.unit(session)
    assert (unit["Result"], int(unit["ExecMainCode"])) == ("signal", CLD_KILLED)
    assert product.row(session)["state"] == "error"
    shown = product.show(session)
    assert (shown["state"], shown["result"], shown["signal"]) == ("error", "signal", "SIGKILL")
    assert shown["exit_status"] is None
    assert shown["restarts"] == int(unit["NRestarts"])

    def logged() -> bool:
        lines = product.show(session)["last_log"]
        return any("start request" in line.lower() or "too quickly" in line for line in lines)

    # The journal takes its time.
    until(logged, "systemd's own word for it in the log")
    assert "error" in product.ctl("list")
    assert "SIGKILL" in product.ctl("status", session)
    assert product.moves(mark, session)[-1][1] == "error"
    # Waiting for what can no longer come is answered, with the reason.
    error = product.refused(4, "wait", session, "--timeout", "20")
    assert error["code"] == "session_error"
    assert "SIGKILL" in error["message"]

    assert product.json("start", name)[0]["state"] == "active"
    assert product.row(session)["restarts"] == 0
    product.agrees()


def test_a_daemon_that_cannot_start_says_why_and_starts_once_it_can(product: Product) -> None:
    session = product.new()["id"]
    unit = daemon_unit(session)
    # A socket's place that is taken by a folder: the daemon itself refuses.
    socket = f"{product.host.runtime_dir}/sessiond/sessions/{session}.sock"
    product.host.run(["mkdir", "-p", f"{socket}/in-the-way"])
    error = product.refused(4, "start", session)
    assert error["code"] == "start_failed"
    assert product.state(session) in ("error", "starting")
    product.ctl("stop", session)
    assert product.state(session) == "inactive"
    product.host.run(["rm", "-r", socket])
    product.ctl("start", session)
    assert product.host.show(unit, "ActiveState")["ActiveState"] == "active"


def test_stop_by_systemctl_is_honoured_and_shown(product: Product) -> None:
    session = product.started()["id"]
    mark = product.cursor()
    product.host.systemctl("stop", daemon_unit(session))
    product.wait(session, "inactive")
    assert product.moves(mark, session) == [("active", "stopping"), ("stopping", "inactive")]
    [row] = product.agrees()
    assert (row["state"], row["pid"]) == ("inactive", None)
    assert not product.daemon_socket(session).exists()


def test_stop_of_the_slice_by_systemctl_stops_the_session(product: Product) -> None:
    session = product.started()["id"]
    product.host.systemctl("stop", session_slice(session))
    product.wait(session, "inactive")
    assert product.processes(session) == []
    product.agrees()
    assert product.json("start", session)[0]["state"] == "active"


def test_stop_of_the_daemon_ends_what_runs_in_the_session(product: Product) -> None:
    session = product.started()["id"]
    _agent(product, session)
    product.host.systemctl("stop", daemon_unit(session))
    product.wait(session, "inactive")
    until(lambda: product.processes(session) == [], "no process of the session is left")
    product.agrees()


def test_a_stop_of_agents_that_will_not_end_takes_no_longer_than_it_may(product: Product) -> None:
    # Two thirds of it are for the agents; in the rest the daemon ends, on a busy machine too.
    text = "[Service]\nEnvironment=SESSIOND_SESSION_STOP_TIMEOUT=12\n"
    product.user_unit_drop_in(SUPERVISOR, text)
    product.restart_supervisor()
    session = product.started()["id"]
    _agent(product, session, "trap '' TERM; sleep 600 & wait; wait", stop_timeout=14)
    product.host.systemctl("stop", daemon_unit(session))
    unit = product.unit(session)
    # The daemon ended in order and in time; systemd goes on ending the agent.
    assert (unit["ActiveState"], unit["Result"]) == ("inactive", "success")
    until(lambda: product.processes(session) == [], "no process of the session is left")
    product.agrees()


def test_stop_of_a_dead_daemon_ends_what_runs_in_the_session(product: Product) -> None:
    session = product.started()["id"]
    # Waiting for its restart for so long that the stop comes while it is dead.
    product.user_unit_drop_in(daemon_unit(session), "[Service]\nRestartSec=600\n")
    _agent(product, session)
    product.kill(product.pid(session))
    product.wait(session, "starting")
    product.host.systemctl("stop", daemon_unit(session))
    product.wait(session, "inactive")
    until(lambda: product.processes(session) == [], "no process of the session is left")


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM"])
def test_kill_by_systemctl_brings_the_daemon_back_and_keeps_what_runs(product: Product, signal: str) -> None:
    session = product.started()["id"]
    agent = _agent(product, session)
    pid, mark = product.pid(session), product.cursor()
    product.host.systemctl("kill", "--kill-whom=main", f"--signal={signal}", daemon_unit(session))
    again = product.back(session, besides=pid)
    assert product.moves(mark, session)[-1] == ("starting", "active")
    assert sorted(product.processes(session)) == sorted([again, agent])
    [row] = product.agrees()
    assert (row["pid"], row["restarts"]) == (again, 1)


def test_restart_by_systemctl_is_one_and_keeps_what_runs(product: Product) -> None:
    session = product.started()["id"]
    agent = _agent(product, session)
    pid = product.pid(session)
    product.host.systemctl("restart", daemon_unit(session))
    again = product.back(session, besides=pid)
    assert sorted(product.processes(session)) == sorted([again, agent])
    [row] = product.agrees()
    assert row["restarts"] == int(product.unit(session)["NRestarts"]) == 0


def test_the_verbs_kill_and_restart_do_the_same(product: Product) -> None:
    session = product.started()["id"]
    agent = _agent(product, session)
    for verb in (("kill",), ("kill", "--signal", "TERM"), ("restart",)):
        pid = product.pid(session)
        product.ctl(verb[0], session, *verb[1:])
        again = product.back(session, besides=pid)
        assert sorted(product.processes(session)) == sorted([again, agent]), verb
    product.agrees()


def test_a_stop_and_a_restart_are_told_apart_while_the_bus_is_away(product: Product) -> None:
    session = product.started()["id"]
    agent, pid = _agent(product, session), product.pid(session)
    product.host.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        product.host.systemctl("restart", daemon_unit(session))
        again = product.new_pid(session, besides=pid)
        assert sorted(product.processes(session)) == sorted([again, agent])
        product.host.systemctl("stop", daemon_unit(session))
        unit = product.unit(session)
        assert (unit["ActiveState"], unit["Result"]) == ("inactive", "success")
        assert product.processes(session) == []
    finally:
        product.host.systemctl("start", "dbus.socket", "dbus.service")
    product.wait(session, "inactive")
    product.agrees()


def test_start_by_systemctl_of_the_starter_starts_the_session(product: Product) -> None:
    session = product.new()["id"]
    product.host.systemctl("start", starter_unit(session))
    assert product.unit(session)["ActiveState"] == "active"
    [row] = product.agrees()
    assert row["state"] == "active"
    # And again: one that runs is fine.
    pid = product.pid(session)
    product.host.systemctl("start", starter_unit(session))
    assert product.pid(session) == pid


def test_a_freeze_of_the_agents_is_shown_and_thawed(product: Product) -> None:
    session = product.started()["id"]
    _agent(product, session)
    mark = product.cursor()
    product.host.systemctl("freeze", agents_slice(session))
    until(lambda: product.row(session)["frozen"], "the list shows the freeze")
    row = product.row(session)
    assert (row["state"], row["pid"]) == ("active", product.pid(session))
    assert product.host.show(agents_slice(session), "FreezerState")["FreezerState"] == "frozen"
    product.host.systemctl("thaw", agents_slice(session))
    until(lambda: not product.row(session)["frozen"], "the list shows the thaw")
    # A freeze is a flag beside the state, never a change of it.
    assert product.moves(mark, session) == []


def test_a_frozen_daemon_is_shown_and_can_be_stopped(product: Product) -> None:
    session = product.started()["id"]
    product.host.systemctl("freeze", daemon_unit(session))
    until(lambda: product.row(session)["frozen"], "the list shows the freeze")
    assert product.row(session)["state"] == "active"
    assert product.json("stop", session)[0]["state"] == "inactive"
    product.agrees()
    product.ctl("start", session)
    assert product.row(session)["frozen"] is False


def test_a_session_with_frozen_agents_can_be_stopped(product: Product) -> None:
    session = product.started()["id"]
    _agent(product, session)
    product.host.systemctl("freeze", agents_slice(session))
    until(lambda: product.row(session)["frozen"], "the list shows the freeze")
    assert product.json("stop", session)[0]["state"] == "inactive"
    until(lambda: product.processes(session) == [], "no process of the session is left")


def test_a_failed_unit_that_was_left_over_is_shown_and_no_hindrance(product: Product) -> None:
    session = product.new()["id"]
    unit = daemon_unit(session)
    product.host.run(["systemd-run", "--user", f"--unit={unit}", "sh", "-c", "exit 7"])
    until(lambda: product.unit(session)["ActiveState"] == "failed", "the unit is failed")
    product.wait(session, "error")
    shown = product.show(session)
    assert (shown["result"], shown["exit_status"]) == ("exit-code", 7)
    assert product.json("start", session)[0]["state"] == "active"
    assert product.processes(session) == [product.pid(session)]
    product.agrees()


def test_a_foreign_unit_of_the_same_name_is_told_as_systemd_tells_it(product: Product) -> None:
    session = product.new()["id"]
    unit = daemon_unit(session)
    product.host.run(["systemd-run", "--user", f"--unit={unit}", "sleep", "600"])
    product.wait(session, "active")
    row = product.row(session)
    assert (row["state"], row["pid"]) == ("active", product.pid(session))
    # The name is the singleton: a second one is not started beside it.
    product.ctl("start", session)
    assert product.pid(session) == row["pid"]
    assert product.json("stop", session)[0]["state"] == "inactive"
    assert product.unit(session)["ActiveState"] == "inactive"
    product.ctl("start", session)
    assert product.processes(session) == [product.pid(session)]


def test_a_daemon_without_the_supervisor_restarts_all_the_same(product: Product) -> None:
    session = product.started()["id"]
    product.stop_supervisor()
    pid = product.pid(session)
    product.kill(pid)
    again = product.new_pid(session, besides=pid)
    until(lambda: product.unit(session)["ActiveState"] == "active", "the daemon serves again")
    product.start_supervisor()
    [row] = product.agrees()
    assert (row["pid"], row["restarts"]) == (again, 1)


def _agent(product: Product, session: str, script: str = "exec sleep 600", *, stop_timeout: int = 4) -> int:
    """Something that runs in the session as an agent would: a unit in its agents' slice; returns its pid."""
    name = f"sessiond-agent@{session}-a1.service"
    product.host.run(
        [
            "systemd-run",
            "--user",
            f"--unit={name}",
            f"--slice={agents_slice(session)}",
            f"--property=After={daemon_unit(session)}",
            f"--property=TimeoutStopSec={stop_timeout}",
            "sh",
            "-c",
            script,
        ]
    )
    return int(product.host.show(name, "MainPID")["MainPID"])
