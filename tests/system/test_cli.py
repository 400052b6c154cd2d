"""sessionctl on a real systemd: install and uninstall, status, logs, completion, and finding its way."""

from __future__ import annotations

import json
import queue
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from sessiond.testing.host import HOME, Host
from tests.system.product import PATIENCE, SUPERVISOR, USER_UNITS, Product, daemon_unit, session_slice, until

SESSIONCTL = str(Path(sys.executable).parent / "sessionctl")
DATA = f"{HOME}/.local/share/sessiond"


def files(host: Host, *folders: str) -> set[str]:
    """Everything below folders of the host, links as themselves."""
    done = host.run(["find", *folders, "-mindepth", "1"], check=False)
    return set(done.stdout.splitlines())


def lingers(host: Host) -> str:
    return host.run(["loginctl", "show-user", "--property=Linger", "--value", "tester"]).stdout.strip()


# ---- install --------------------------------------------------------------------------------


def test_install_serves_at_once_and_again_changes_nothing(fresh_host: Callable[..., Host]) -> None:
    host = fresh_host()
    said = json.loads(host.sessionctl("install", "--json").stdout)
    unit = host.show(SUPERVISOR, "ActiveState", "UnitFileState", "MainPID", "FragmentPath", "Type")
    assert (unit["ActiveState"], unit["UnitFileState"], unit["Type"]) == ("active", "enabled", "notify")
    assert unit["FragmentPath"] == f"{USER_UNITS}/{SUPERVISOR}"
    assert said["pid"] == int(unit["MainPID"])
    assert said["linger"] is True
    assert host.run(["readlink", f"{DATA}/launcher"]).stdout.strip() == said["program"]
    before = files(host, HOME)
    again = json.loads(host.sessionctl("install", "--json").stdout)
    assert (again["changed"], again["pid"]) == ([], said["pid"])
    assert files(host, HOME) == before


def test_install_restarts_a_supervisor_whose_unit_changed_and_sessions_go_on(
    fresh_product: Callable[..., Product],
) -> None:
    product = fresh_product()
    session = product.started()["id"]
    supervisor, daemon = product.supervisor_pid(), product.pid(session)
    product.write(f"{USER_UNITS}/{SUPERVISOR}", "[Service]\nExecStart=/nowhere\n")
    product.ctl("install")
    assert product.supervisor_pid() != supervisor
    assert product.pid(session) == daemon
    until(lambda: product.state(session) == "active", "the session is shown as active again")


def test_without_leave_to_linger_install_says_what_an_administrator_runs(
    fresh_host: Callable[..., Host],
) -> None:
    host = fresh_host()
    host.run(["loginctl", "disable-linger", "tester"], user=False)
    manager = f"user@{host.uid}.service"
    # Which ends the user's manager, in logind's own time.
    until(lambda: host.run(["systemctl", "is-active", manager], check=False).returncode, "its end")
    host.run(["systemctl", "start", manager], user=False)
    assert lingers_or_unknown(host) != "yes"
    refused = host.run(["loginctl", "--no-ask-password", "enable-linger"], check=False)
    said = json.loads(host.sessionctl("install", "--json").stdout)
    if refused.returncode == 0:
        assert (said["linger"], said["linger_command"]) == (True, None)
    else:
        assert (said["linger"], said["linger_command"]) == (False, "sudo loginctl enable-linger tester")


def lingers_or_unknown(host: Host) -> str:
    argv = ["loginctl", "show-user", "--property=Linger", "--value", "tester"]
    return host.run(argv, check=False).stdout.strip()


def test_uninstall_takes_all_away_and_leaves_workspaces(fresh_product: Callable[..., Product]) -> None:
    product = fresh_product()
    host = product.host
    made = product.started()
    product.ctl("enable", made["id"])
    product.limits(made["id"], "TasksMax=100")
    product.write(f"{made['path']}/file", "mine")
    refused = product.refused(2, "uninstall")
    assert refused["code"] == "confirmation_needed"
    assert product.row(made["id"])["state"] == "active"
    product.ctl("uninstall", "--yes")
    for unit in (SUPERVISOR, daemon_unit(made["id"]), f"sessiond@{made['id']}.service"):
        assert host.show(unit, "LoadState")["LoadState"] == "not-found", unit
    shown = host.systemctl("list-units", "--all", "--no-legend", "--plain", "sessiond*").stdout
    assert "active" not in shown.replace("inactive", ""), shown
    left = [path for path in files(host, HOME, host.runtime_dir) if "sessiond" in path]
    assert [path for path in left if not path.startswith(made["path"])] == []
    assert product.identity(made["path"])
    assert host.path(f"{made['path']}/file").read_text() == "mine"
    assert host.sessionctl("list", check=False).returncode == 5


def test_uninstall_keeps_the_data_when_asked_and_install_finds_it_again(
    fresh_product: Callable[..., Product],
) -> None:
    product = fresh_product()
    made = product.new("--label", "kept=yes")
    product.ctl("uninstall", "--yes", "--keep-data")
    product.install()
    assert product.row(made["id"])["labels"] == {"kept": "yes"}


# ---- finding its way ------------------------------------------------------------------------


def test_over_ssh_and_from_cron_it_finds_its_way_by_itself(product: Product) -> None:
    session = product.started()["id"]
    bare = ["env", "-u", "XDG_RUNTIME_DIR", "-u", "DBUS_SESSION_BUS_ADDRESS", SESSIONCTL]
    for words in (["list", "--json"], ["status", session], ["logs", session], ["down"], ["up"], ["install"]):
        product.host.run([*bare, *words])
    until(lambda: product.state(session) == "active", "the session is shown as active again")


def test_down_says_how_to_come_up_and_up_is_idempotent(product: Product) -> None:
    product.ctl("down")
    product.ctl("down")
    assert product.refused(5, "list")["hint"] == "sessionctl up"
    assert product.host.show(SUPERVISOR, "ActiveState")["ActiveState"] == "inactive"
    first = product.json("up")
    assert first["running"] is True
    assert product.json("up")["pid"] == first["pid"] == product.supervisor_pid()


# ---- status and logs ------------------------------------------------------------------------


def test_status_tells_what_systemd_counts(product: Product) -> None:
    session = product.started()["id"]
    told = product.json("status", session)
    asked = product.host.show(session_slice(session), "ControlGroup", "CPUUsageNSec")
    assert told["pid"] == product.pid(session)
    assert told["cgroup"] == asked["ControlGroup"]
    assert 0 < told["cpu_seconds"] <= int(asked["CPUUsageNSec"]) / 1e9
    page = product.ctl("status", session)
    assert f"Main PID: {told['pid']}" in page
    product.ctl("stop", session)
    assert "○" in product.ctl("status", session)
    supervisor = product.json("status")
    assert (supervisor["pid"], supervisor["sessions"]) == (product.supervisor_pid(), 1)


def test_logs_tell_what_systemd_did_to_a_session_and_to_no_other(product: Product) -> None:
    one, other = product.started(), product.started()
    product.ctl("kill", one["id"])
    product.wait(one["id"], "active")
    product.new_pid(one["id"], besides=one["pid"])
    product.host.run(["journalctl", "--sync"], user=False)
    shown = product.ctl("logs", one["id"])
    assert "code=killed, status=9/KILL" in shown
    assert other["id"] not in shown
    lines = [json.loads(line) for line in product.ctl("logs", one["id"], "--json", "-n", "3").splitlines()]
    assert len(lines) == 3
    assert "KILL" not in product.ctl("logs", other["id"])


def test_logs_follow_until_ctrl_c(product: Product) -> None:
    session = product.started()
    following = product.host.popen([SESSIONCTL, "logs", session["id"], "-f", "-n", "1"])
    assert following.stdout is not None
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert following.stdout is not None
        for line in following.stdout:
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    # The last line there was proves that it follows; what is written then must come.
    assert lines.get(timeout=PATIENCE)
    product.ctl("kill", session["id"])
    while "status=9/KILL" not in lines.get(timeout=PATIENCE):
        pass
    following.send_signal(signal.SIGINT)
    assert following.wait(PATIENCE) != 0
    reader.join(PATIENCE)
    product.wait(session["id"], "active")


# ---- completion -----------------------------------------------------------------------------


def test_a_real_bash_completes_names_of_sessions(product: Product) -> None:
    product.new("--name", "shopping-list")
    product.new("--name", "shopping-cart")
    script = f"""
PATH={shlex.quote(str(Path(SESSIONCTL).parent))}:$PATH
eval "$(sessionctl completion bash)"
COMP_WORDS=(sessionctl start shop) COMP_CWORD=2
_sessionctl_completion sessionctl shop start
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

    def completed() -> bool:
        done = product.host.run(["bash", "-c", script])
        assert done.stderr == ""
        return done.stdout.split() == ["shopping-cart", "shopping-list"]

    # A person who presses Tab is not kept waiting: where the machine is, there are no words.
    until(completed, "the names of both")


# ---- the starter ----------------------------------------------------------------------------


def test_the_starter_of_an_unknown_session_fails_and_says_so(product: Product) -> None:
    unknown = f"sessiond@{'0' * 32}.service"
    done = product.host.systemctl("start", unknown, check=False)
    assert done.returncode != 0
    product.host.run(["journalctl", "--sync"], user=False)
    assert "no session" in product.journal("--user-unit", unknown)
    product.host.systemctl("reset-failed", unknown)
