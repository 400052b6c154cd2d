"""Bad days of systemd and its bus: gone, restarted, reloaded, re-executed, killed. States stay true."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from sessiond.errors import SessiondError
from tests.system.product import PATIENCE, SUPERVISOR, Product, daemon_unit, starter_unit, until

MakeProduct = Callable[..., Product]


def _same_supervisor(product: Product, pid: int) -> None:
    assert product.supervisor_pid() == product.info().pid == pid, "the supervisor was restarted"


def _bus_pid(product: Product) -> int:
    return int(product.host.show("dbus.service", "MainPID")["MainPID"])


def test_states_are_unknown_while_the_bus_is_away_and_right_afterwards(product: Product) -> None:
    runs, rests = product.started()["id"], product.new()["id"]
    supervisor, daemon, mark = product.supervisor_pid(), product.pid(runs), product.cursor()
    product.host.systemctl("stop", "dbus.socket", "dbus.service")
    try:
        until(lambda: product.state(runs) == "unknown", "the state reads unknown")
        rows = {row["id"]: row for row in product.rows()}
        for session in (runs, rests):
            told = {key: rows[session][key] for key in ("state", "pid", "restarts", "enabled")}
            assert told == {"state": "unknown", "pid": None, "restarts": None, "enabled": None}
        assert product.info().init_reachable is False
        error = product.refused(5, "start", rests)
        assert error["code"] == "init_unavailable"
        shown = product.show(runs)
        assert shown["state"] == "unknown"
        assert shown["limits"] is None
        assert shown["limits_unknown"]
        # What changes meanwhile is not heard, and must not be missed.
        product.kill(daemon)
        until(
            lambda: product.pid(runs) not in (0, daemon) and product.unit(runs)["ActiveState"] == "active",
            "systemd has the daemon back",
        )
    finally:
        product.host.systemctl("start", "dbus.socket", "dbus.service")
    product.wait(runs, "active")
    product.wait(rests, "inactive")
    rows = {row["id"]: row for row in product.agrees()}
    assert rows[runs]["restarts"] == 1
    _same_supervisor(product, supervisor)
    moves = product.moves(mark, runs)
    assert moves == [("active", "unknown"), ("unknown", "active")]
    _, left = product.events(mark, runs, "session_state_changed")[0]
    assert left["reason"]
    assert product.json("start", rests)[0]["state"] == "active"


def test_the_bus_restarted(product: Product) -> None:
    session = product.started()["id"]
    supervisor, daemon = product.supervisor_pid(), product.pid(session)
    builds, bus = product.info().mirror_builds, _bus_pid(product)
    product.host.systemctl("restart", "dbus.service")
    assert _bus_pid(product) != bus
    until(lambda: product.info().mirror_builds > builds, "the mirror is built anew")
    product.wait(session, "active")
    [row] = product.agrees()
    assert row["pid"] == daemon
    _same_supervisor(product, supervisor)
    _hears(product, session)


def test_the_bus_killed(product: Product) -> None:
    session = product.started()["id"]
    supervisor, daemon = product.supervisor_pid(), product.pid(session)
    for _ in range(3):
        bus, builds = _bus_pid(product), product.info().mirror_builds
        product.kill(bus)
        # It is activated by its socket, by whoever asks next.
        until(lambda bus=bus: _bus_pid(product) not in (0, bus), "another bus runs")  # type: ignore[misc]
        until(
            lambda builds=builds: product.info().mirror_builds > builds,  # type: ignore[misc]
            "the mirror is built anew",
        )
    product.wait(session, "active")
    [row] = product.agrees()
    assert row["pid"] == daemon
    _same_supervisor(product, supervisor)
    _hears(product, session)


def test_a_bus_that_hangs_makes_no_call_hang_for_ever(product: Product) -> None:
    session = product.started()["id"]
    bus = _bus_pid(product)
    product.kill(bus, signal.SIGSTOP)
    try:
        # Listing needs no bus, whatever state it is in.
        assert [row["id"] for row in product.rows()] == [session]
    finally:
        product.kill(bus, signal.SIGCONT)
    until(lambda: product.info().init_reachable, "the supervisor reaches systemd")
    product.wait(session, "active")
    _hears(product, session)


def test_daemon_reload_changes_nothing(product: Product) -> None:
    runs, rests = product.started()["id"], product.new("--enable")["id"]
    before, supervisor, mark = product.unit(runs), product.supervisor_pid(), product.cursor()
    for _ in range(3):
        product.host.systemctl("daemon-reload")
        product.agrees()
    assert product.unit(runs) == before
    assert product.events(mark) == []
    assert {row["id"]: row["state"] for row in product.rows()} == {runs: "active", rests: "inactive"}
    _same_supervisor(product, supervisor)
    _hears(product, runs)


def test_daemon_reexec_keeps_pids_and_the_mirror_is_built_anew(product: Product) -> None:
    runs, rests = product.started()["id"], product.new("--enable")["id"]
    before, supervisor, builds = product.unit(runs), product.supervisor_pid(), product.info().mirror_builds
    product.host.systemctl("daemon-reexec")
    until(lambda: product.info().mirror_builds > builds, "the mirror is built anew")
    product.wait(runs, "active")
    rows = {row["id"]: row for row in product.agrees()}
    assert rows[runs]["pid"] == int(before["MainPID"])
    assert (rows[rests]["state"], rows[rests]["enabled"]) == ("inactive", True)
    assert product.unit(runs) == before
    _same_supervisor(product, supervisor)
    _hears(product, runs)


def test_a_daemon_killed_during_reexec_is_told_right(product: Product) -> None:
    session = product.started()["id"]
    pid = product.pid(session)
    outer = product.host.outer_pid(pid)
    reexec = product.host.popen(["systemctl", "--user", "daemon-reexec"])

    os.kill(outer, signal.SIGKILL)
    assert reexec.wait(PATIENCE) == 0
    again = product.back(session, besides=pid)
    [row] = product.agrees()
    assert row["pid"] == again


def test_a_user_manager_that_is_killed(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    enabled, other = product.started()["id"], product.started()["id"]
    product.ctl("enable", enabled)
    ours = (product.pid(enabled), product.pid(other), product.supervisor_pid())
    pids = [product.host.outer_pid(one) for one in ours]
    manager = f"user@{product.host.uid}.service"
    shown = product.host.run(["systemctl", "show", "--property=MainPID", manager], user=False).stdout
    product.kill(int(shown.strip().removeprefix("MainPID=")))
    # systemd ends with it all that it ran: nothing may be told as running.
    until(lambda: not any(map(_alive, pids)), "the daemons and the supervisor are gone")
    error = product.refused(5, "list")
    assert error["code"] == "supervisor_unreachable"
    _start_manager(product)
    product.serving()
    product.wait(enabled, "active")
    rows = {row["id"]: row for row in product.agrees()}
    assert rows[enabled]["state"] == "active"
    assert rows[enabled]["pid"] == product.pid(enabled)
    assert (rows[other]["state"], rows[other]["pid"], rows[other]["restarts"]) == ("inactive", None, None)
    assert product.json("start", other)[0]["state"] == "active"
    product.clean()


def test_a_user_manager_that_is_restarted(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    enabled, other = product.started()["id"], product.started()["id"]
    product.host.systemctl("enable", starter_unit(enabled))
    product.host.run(["systemctl", "restart", f"user@{product.host.uid}.service"], user=False)
    product.serving()
    product.wait(enabled, "active")
    rows = {row["id"]: row["state"] for row in product.agrees()}
    assert rows == {enabled: "active", other: "inactive"}
    # They ended as asked, although the bus ends beside them.
    for session in (enabled, other):
        assert "Failed with result" not in product.journal(f"--user-unit={daemon_unit(session)}")
    product.clean()


def test_a_supervisor_whose_manager_hangs_still_lists(product: Product) -> None:
    session = product.started()["id"]
    shown = product.host.run(
        ["systemctl", "show", "--property=MainPID", f"user@{product.host.uid}.service"], user=False
    ).stdout
    manager = int(shown.strip().removeprefix("MainPID="))
    product.kill(manager, signal.SIGSTOP)
    try:
        assert [row["id"] for row in product.rows()] == [session]
    finally:
        product.kill(manager, signal.SIGCONT)
    product.agrees()
    _hears(product, session)


def test_the_supervisor_itself_restarts_the_same_way_when_the_bus_is_away(product: Product) -> None:
    session = product.started()["id"]
    pid = product.pid(session)
    # Masked, since starting the supervisor would start the bus.
    product.host.systemctl("mask", "--runtime", "--now", "dbus.socket", "dbus.service")
    try:
        product.host.systemctl("restart", SUPERVISOR)

        def told() -> str:
            try:
                return product.state(session)
            except SessiondError:
                return ""

        # It serves without systemd's answer, and says that it does not know.
        until(lambda: told() == "unknown", "it serves, and the state reads unknown")
        assert product.unit(session)["ActiveState"] == "active"
    finally:
        product.host.systemctl("unmask", "--runtime", "dbus.socket", "dbus.service")
        product.host.systemctl("start", "dbus.socket", "dbus.service")
    product.wait(session, "active")
    [row] = product.agrees()
    assert row["pid"] == pid


def _hears(product: Product, session: str) -> None:
    """Fail unless the supervisor hears what systemd does from here on."""
    mark = product.cursor()
    product.host.systemctl("stop", daemon_unit(session))
    product.wait(session, "inactive")
    product.ctl("start", session)
    assert ("starting", "active") in product.moves(mark, session)
    product.agrees()


def _start_manager(product: Product) -> None:
    manager = f"user@{product.host.uid}.service"
    product.host.run(["systemctl", "reset-failed", manager], user=False, check=False)
    product.host.run(["systemctl", "start", manager], user=False)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
