"""An independent opinion: what sessiond claims, asked of systemd through pydbus, inside the host."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

import pytest

from tests.system.product import STATE, Product, agents_slice, daemon_unit, session_slice, starter_unit

_MISSING = [name for name in ("gi", "pydbus") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.may_skip("pydbus needs a compiler and GLib's headers; set-up says when it cannot be had"),
    pytest.mark.skipif(bool(_MISSING), reason=f"the oracle is not installed: {', '.join(_MISSING)} missing"),
]

# Nothing of the product is imported here: it must not check itself.
ORACLE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import pydbus
from gi.repository import GLib

daemon, session_slice, agents, starter = sys.argv[1:]
bus = pydbus.SessionBus()
manager = bus.get("org.freedesktop.systemd1")["org.freedesktop.systemd1.Manager"]

def unit(name):
    try:
        path = manager.GetUnit(name)
    except GLib.Error as error:
        if "NoSuchUnit" in str(error):
            return None
        raise
    return bus.get("org.freedesktop.systemd1", path)

def properties(name, interface, names, load=False):
    found = bus.get("org.freedesktop.systemd1", manager.LoadUnit(name)) if load else unit(name)
    return found and {one: getattr(found["org.freedesktop.systemd1." + interface], one) for one in names}

answer = {
    "unit": properties(daemon, "Unit", ["Id", "ActiveState", "SubState", "FreezerState", "Description"]),
    "service": properties(
        daemon, "Service",
        ["MainPID", "NRestarts", "Result", "Slice", "Type", "Restart", "RestartUSec", "WatchdogUSec",
         "KillMode", "OOMPolicy", "FileDescriptorStoreMax", "WorkingDirectory", "NotifyAccess"],
    ),
    "limits": properties(
        agents, "Slice", ["MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "CPUWeight"], load=True,
    ),
    "slice": properties(session_slice, "Unit", ["ActiveState"]),
}
try:
    answer["enabled"] = manager.GetUnitFileState(starter)
except GLib.Error:
    answer["enabled"] = "disabled"
print(json.dumps(answer))
"""

_STATES = {
    "inactive": "inactive",
    "activating": "starting",
    "active": "active",
    "deactivating": "stopping",
    "failed": "error",
}


def ask(product: Product, session: str) -> dict[str, Any]:
    """What systemd says of one session, through pydbus."""
    names = [daemon_unit(session), session_slice(session), agents_slice(session), starter_unit(session)]
    done = product.host.run([sys.executable, "-I", "-c", ORACLE, *names])
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def agree(product: Product, session: str) -> dict[str, Any]:
    """Fail unless the list's row is what the oracle says; returns the oracle's answer."""
    said, row = ask(product, session), product.row(session)
    unit, service = said["unit"], said["service"]
    state = _STATES[unit["ActiveState"]] if unit else "inactive"
    if unit and unit["SubState"] == "auto-restart":
        state = "starting"
    assert row["state"] == state
    assert row["enabled"] == (said["enabled"] == "enabled")
    assert row["unit"] == daemon_unit(session)
    assert row["slice"] == session_slice(session)
    if unit and state != "inactive":
        assert unit["Id"] == row["unit"]
        assert service["Slice"] == row["slice"]
        assert (service["MainPID"] or None, service["NRestarts"]) == (row["pid"], row["restarts"])
        assert row["frozen"] == (unit["FreezerState"] == "frozen")
        assert product.show(session)["result"] in (service["Result"], None)
    else:
        assert (row["pid"], row["restarts"], row["frozen"]) == (None, None, False)
    return said


def test_it_agrees_after_each_verb(product: Product) -> None:
    made = product.new()
    session = made["id"]
    assert agree(product, session)["unit"] is None
    product.ctl("start", session)
    said = agree(product, session)
    assert said["unit"]["ActiveState"] == "active"
    assert made["name"] in said["unit"]["Description"]
    assert made["path"] in said["unit"]["Description"]
    for count in (1, 2):
        product.ctl("kill", session)
        product.back(session, besides=said["service"]["MainPID"])
        said = agree(product, session)
        assert said["service"]["NRestarts"] == count
    product.ctl("restart", session)
    assert agree(product, session)["service"]["NRestarts"] == 0
    product.ctl("enable", session)
    assert agree(product, session)["enabled"] == "enabled"
    product.ctl("stop", session)
    said = agree(product, session)
    assert said["unit"] is None or said["unit"]["ActiveState"] == "inactive"
    product.ctl("disable", session)
    assert agree(product, session)["enabled"] == "disabled"
    product.ctl("start", session)
    agree(product, session)
    product.ctl("end", session)
    assert product.row(session)["state"] == "archived"
    assert ask(product, session)["unit"] is None


def test_it_agrees_on_how_daemons_are_registered(product: Product) -> None:
    made = product.started()
    service = ask(product, made["id"])["service"]
    assert service == service | {
        "Type": "notify",
        "Restart": "on-failure",
        "RestartUSec": 100_000,
        "KillMode": "mixed",
        "OOMPolicy": "continue",
        "NotifyAccess": "main",
        "Slice": made["slice"],
        # A link that follows the workspace, and that may lead nowhere.
        "WorkingDirectory": f"!{STATE}/sessions/{made['id']}/workspace",
    }
    assert os.readlink(product.host.path(f"/proc/{service['MainPID']}/cwd")) == made["path"]
    assert service["WatchdogUSec"] >= 60_000_000, "starved is not dead"
    assert service["FileDescriptorStoreMax"] > 0


def test_it_agrees_on_limits(product: Product) -> None:
    session = product.new()["id"]
    product.ctl("limit", session, "MemoryMax=256M", "TasksMax=123", "CPUQuota=50%", "CPUWeight=20")
    product.ctl("start", session)
    assert ask(product, session)["limits"] == {
        "MemoryMax": 256 * 1024 * 1024,
        "TasksMax": 123,
        "CPUQuotaPerSecUSec": 500_000,
        "CPUWeight": 20,
    }
    shown = product.limits(session)
    assert shown == product.show(session)["limits"]
    assert shown.keys() == {"MemoryMax", "TasksMax", "CPUQuota", "CPUWeight"}


def test_it_agrees_on_what_was_done_by_hand(product: Product) -> None:
    session = product.started()["id"]
    product.host.systemctl("freeze", agents_slice(session), check=False)
    product.host.systemctl("thaw", agents_slice(session), check=False)
    product.host.systemctl("stop", daemon_unit(session))
    product.wait(session, "inactive")
    agree(product, session)
    product.host.systemctl("enable", "--now", starter_unit(session))
    product.wait(session, "active")
    product.agrees()
    agree(product, session)


def test_it_agrees_on_a_failure(product: Product) -> None:
    session = product.new()["id"]
    unit = daemon_unit(session)
    product.host.run(["systemd-run", "--user", f"--unit={unit}", "sh", "-c", "exit 3"])
    product.wait(session, "error")
    said = ask(product, session)
    assert said["unit"]["ActiveState"] == "failed"
    shown = product.show(session)
    assert (shown["state"], shown["result"], shown["exit_status"]) == ("error", said["service"]["Result"], 3)
