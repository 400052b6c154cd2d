"""Start at boot and limits, over power cuts and reboots of a host of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sessiond.testing.host import GUEST
from tests.system.product import (
    HOME,
    SUPERVISOR,
    USER_UNITS,
    Product,
    agents_slice,
    daemon_unit,
    starter_unit,
    until,
)

MakeProduct = Callable[..., Product]

# While this file is there, no session daemon begins.
HOLD = f"{HOME}/hold"


def test_after_a_power_cut_enabled_sessions_are_active_again_in_parallel(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    enabled = [product.new("--enable", "--start")["id"] for _ in range(2)]
    # One that did not run when the power went is started too: it is enabled.
    enabled.append(product.new("--enable")["id"])
    # One by systemd's own command.
    enabled.append(product.new()["id"])
    product.host.systemctl("enable", starter_unit(enabled[-1]))
    others = [product.started()["id"], product.new()["id"]]
    disabled = product.new("--enable", "--start")["id"]
    product.ctl("disable", disabled)
    ran = product.pid(enabled[0])
    assert ran
    # Held at the door, so that one after the other, or before the supervisor's READY, would show.
    product.write(HOLD, "")
    product.write(
        f"{USER_UNITS}/sessiond-session@.service.d/held.conf",
        f"[Service]\nExecStartPre=/bin/sh -c 'while [ -e {HOLD} ]; do sleep 0.05; done'\n",
    )

    product.host.reboot()

    product.serving()
    for session in enabled:
        unit = daemon_unit(session)
        until(
            lambda unit=unit: product.host.show(unit, "SubState")["SubState"] == "start-pre",  # type: ignore[misc]
            f"{unit} to begin while all others wait too",
        )
    # READY did not wait for a session.
    assert product.host.show(SUPERVISOR, "ActiveState")["ActiveState"] == "active"
    assert [product.state(one) for one in enabled] == ["starting"] * len(enabled)
    product.host.run(["rm", HOLD])
    for session in enabled:
        product.wait(session, "active")
    rows = {row["id"]: row for row in product.agrees()}
    assert {one: rows[one]["state"] for one in enabled} == dict.fromkeys(enabled, "active")
    assert {one: rows[one]["state"] for one in (*others, disabled)} == dict.fromkeys(
        (*others, disabled), "inactive"
    )
    assert {one for one, row in rows.items() if row["enabled"]} == set(enabled)


def test_limits_hold_after_a_reboot(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    session = product.new()["id"]
    asked = {"MemoryMax": "512M", "CPUQuota": "150%", "TasksMax": "500", "CPUWeight": "50"}
    in_force = {
        "MemoryMax": "536870912",
        "CPUQuotaPerSecUSec": "1.500000s",
        "TasksMax": "500",
        "CPUWeight": "50",
    }
    told = product.limits(session, *(f"{key}={value}" for key, value in asked.items()))
    unit = agents_slice(session)
    assert product.host.show(unit, *in_force) == in_force
    product.ctl("start", session)

    product.host.reboot()

    product.serving()
    assert product.limits(session) == told
    assert product.host.show(unit, *in_force) == in_force
    product.ctl("start", session)
    name = f"sessiond-agent@{session}-a1.service"
    product.host.run(["systemd-run", "--user", f"--unit={name}", f"--slice={unit}", "sleep", "600"])
    assert product.host.show(unit, *in_force) == in_force
    assert product.show(session)["limits"].keys() >= asked.keys()
    # A reset holds as well.
    product.ctl("limit", session, *(f"{key}=" for key in asked))
    product.host.reboot()
    product.serving()
    assert product.host.show(unit, "MemoryMax", "TasksMax", "CPUWeight") == {
        "MemoryMax": "infinity",
        "TasksMax": product.host.show("sessiond.slice", "TasksMax")["TasksMax"],
        "CPUWeight": "[not set]",
    }
    product.clean()


def test_an_orderly_reboot_and_the_active_session(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    used, enabled = product.new()["id"], product.new("--enable", "--start")["id"]
    product.ctl("use", used)
    product.host.reboot(orderly=True)
    product.serving()
    product.wait(enabled, "active")
    rows = {row["id"]: row for row in product.agrees()}
    # The mark is kept; what starts at boot is what is enabled.
    assert (rows[used]["active"], rows[used]["state"]) == (True, "inactive")
    assert (rows[enabled]["active"], rows[enabled]["state"]) == (False, "active")
    product.clean()


def test_an_enabled_session_whose_workspace_is_gone_hinders_no_other(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    gone, whole = product.new("--enable"), product.new("--enable")["id"]
    product.host.run(["rm", "-r", gone["path"]])
    product.host.reboot()
    product.serving()
    product.wait(whole, "active")
    rows = {row["id"]: row for row in product.agrees()}
    assert (rows[gone["id"]]["state"], rows[gone["id"]]["path"]) == ("inactive", gone["path"])
    assert rows[gone["id"]]["problem"]
    starter = starter_unit(gone["id"])
    until(
        lambda: product.host.show(starter, "ActiveState")["ActiveState"] == "failed",
        "its starter failed, for systemctl to show",
    )
    product.host.run(["journalctl", "--sync"], user=False)
    said = product.host.run(["journalctl", "-b", f"--user-unit={starter}", "-o", "cat"]).stdout
    assert gone["path"] in said


def test_a_power_cut_in_the_middle_of_work_loses_no_session(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    sessions = [product.new("--start", f"--label=number={number}")["id"] for number in range(3)]
    product.ctl("archive", product.new("--name", "aside")["id"])
    product.host.reboot()
    product.serving()
    rows = {row["id"]: row for row in product.agrees()}
    assert {one: rows[one]["labels"] for one in sessions} == {
        one: {"number": str(number)} for number, one in enumerate(sessions)
    }
    assert sorted(row["state"] for row in rows.values()) == ["archived", *["inactive"] * 3]
    for session in sessions:
        identity = product.identity(rows[session]["path"])
        assert identity is not None
        assert identity["id"] == session
        product.ctl("start", session)


def test_enable_now_of_the_starter_is_enable_and_start(product: Product) -> None:
    by_systemctl, by_sessionctl = product.new()["id"], product.new()["id"]
    product.host.systemctl("enable", "--now", starter_unit(by_systemctl))
    product.ctl("enable", by_sessionctl)
    product.ctl("start", by_sessionctl)
    until(lambda: product.row(by_systemctl)["enabled"], "the list shows what systemctl enabled")
    rows = {row["id"]: row for row in product.agrees()}
    for session in (by_systemctl, by_sessionctl):
        assert (rows[session]["state"], rows[session]["enabled"]) == ("active", True)
        assert product.enabled(session)
    product.host.systemctl("disable", starter_unit(by_sessionctl))
    product.ctl("disable", by_systemctl)
    until(lambda: not product.row(by_sessionctl)["enabled"], "the list shows what systemctl disabled")
    rows = {row["id"]: row for row in product.agrees()}
    # Neither stops what runs.
    assert {(row["state"], row["enabled"]) for row in rows.values()} == {("active", False)}
    # Twice is fine.
    product.ctl("disable", by_systemctl)
    product.ctl("enable", by_systemctl)
    product.ctl("enable", by_systemctl)
    assert product.row(by_systemctl)["enabled"] is True


def test_limits_are_systemds_own_whoever_sets_them(product: Product) -> None:
    session = product.started()["id"]
    unit = agents_slice(session)
    product.host.systemctl("set-property", unit, "TasksMax=77")
    assert product.limits(session)["TasksMax"] == "77"
    assert product.show(session)["limits"]["TasksMax"] == "77"
    product.ctl("limit", session, "TasksMax=88", "CPUQuota=20%")
    assert product.host.show(unit, "TasksMax", "CPUQuotaPerSecUSec") == {
        "TasksMax": "88",
        "CPUQuotaPerSecUSec": "200ms",
    }
    # All or none: one bad property, and nothing is set.
    for bad, code in (("NoSuchThing=1", "property_unknown"), ("MemoryMax=lots", "property_invalid")):
        error = product.refused(7, "limit", session, "TasksMax=99", bad)
        assert error["code"] == code
        assert product.host.show(unit, "TasksMax")["TasksMax"] == "88"
    error = product.refused(7, "limit", session, "ExecStart=/bin/false")
    assert error["code"] == "property_unknown"
    # The limits bear on the agents, never on the daemon.
    assert product.host.show(daemon_unit(session), "TasksMax")["TasksMax"] != "88"
    product.ctl("stop", session)
    assert product.limits(session)["TasksMax"] == "88"


def test_install_turns_linger_on_or_says_who_can(product: Product) -> None:
    # Without a login the user's manager would go with the lingering.
    login = ["--property=PAMName=login", f"--property=User={GUEST}", "--unit=login"]
    product.host.run(["systemd-run", *login, "sleep", "600"], user=False)
    sessions = ["loginctl", "show-user", GUEST, "--property=Sessions", "--value"]
    until(lambda: product.host.run(sessions).stdout != "\n", "the user is logged in")
    product.host.run(["loginctl", "disable-linger", GUEST], user=False)
    try:
        done = product.host.sessionctl("install")
        shown = product.host.run(["loginctl", "show-user", GUEST, "--property=Linger"]).stdout
        if shown == "Linger=yes\n":
            assert "linger" in done.stdout
        else:
            # Refused without polkit.
            assert f"loginctl enable-linger {GUEST}" in done.stdout + done.stderr
    finally:
        product.host.run(["loginctl", "enable-linger", GUEST], user=False)
        product.host.run(["systemctl", "stop", "login.service"], user=False)
    done = product.host.sessionctl("install")
    assert "linger is on" in done.stdout
    product.serving()


@pytest.mark.parametrize("verb", ["enable", "disable"])
def test_enablement_needs_a_session_that_exists(product: Product, verb: str) -> None:
    error = product.refused(3, verb, "no-such-session")
    assert error["code"] == "session_not_found"


def test_the_starter_of_no_session_fails_and_says_so(product: Product) -> None:
    starter = starter_unit("0" * 32)
    done = product.host.systemctl("start", starter, check=False)
    assert done.returncode != 0
    product.host.run(["journalctl", "--sync"], user=False)
    said = product.host.run(["journalctl", f"--user-unit={starter}", "-o", "cat"]).stdout
    assert "no session" in said
    product.host.systemctl("reset-failed", starter)
