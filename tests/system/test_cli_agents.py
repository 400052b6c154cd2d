"""sessionctl's verbs for agents on a real systemd: what they print and how they exit is what units did."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sessiond.model.signals import parse_signal
from tests.system.product import Product, until


def in_folder(product: Product, folder: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """sessionctl in a folder of the host, however it exits."""
    return product.host.sessionctl(*words, cwd=folder, check=False, **options)


def agents(product: Product, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = product.json("ps", *words)
    return found


# ---- run ------------------------------------------------------------------------------------


def test_run_makes_the_folder_a_session_streams_and_exits_as_the_program(product: Product) -> None:
    folder = product.folder("fresh")
    script = 'echo out; echo err >&2; pwd; echo "$1" "$SESSIOND_SESSION"; exit 7'
    done = in_folder(product, folder, "run", "--", "sh", "-c", script, "sh", 'a $HOME %n "b"\nc')
    assert done.returncode == 7, done
    [session] = product.rows()
    assert done.stdout == f'out\n{folder}\na $HOME %n "b"\nc {session["id"]}\n'
    assert done.stderr.splitlines() == [f"Made session fresh of {folder}", "err"]
    product.host.run(["mkdir", f"{folder}/below"])
    below = in_folder(product, f"{folder}/below", "run", "--", "pwd")
    assert (below.returncode, below.stdout, below.stderr) == (0, f"{folder}/below\n", "")
    assert len(product.rows()) == 1
    product.ctl("stop", session["id"])
    assert in_folder(product, folder, "run", "--", "true").returncode == 0, "a stopped session is started"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_run_exits_as_a_shell_would(product: Product, command: list[str], code: int) -> None:
    folder = product.folder()
    assert in_folder(product, folder, "run", "--", *command).returncode == code


def test_a_program_whose_time_is_up_makes_run_and_wait_exit_with_124(product: Product) -> None:
    session = product.started()["id"]
    done = product.host.sessionctl(
        "run", "-s", session, "--name", "late", "--timeout", "300ms", "--", "sleep", "100", check=False
    )
    assert done.returncode == 124, done
    assert product.host.sessionctl("wait", f"{session}/late", check=False).returncode == 124
    [one] = agents(product, "-a", session)
    assert (one["state"], one["result"]) == ("failed", "timeout")


def test_the_environment_is_the_callers_with_what_was_chosen(product: Product) -> None:
    session = product.started()
    product.write(f"{session['path']}/vars", "FROM_FILE='a b'\nBOTH=file\n")
    flags = ["--env-file", "vars", "--env", "BOTH=word", "--env", "DISPLAY"]
    done = in_folder(
        product,
        session["path"],
        "run",
        *flags,
        "--",
        "env",
        env={"MINE": "ü x", "DISPLAY": ":9", "WINDOWID": "12"},
    )
    assert done.returncode == 0, done.stderr
    lines = set(done.stdout.splitlines())
    assert {"MINE=ü x", "FROM_FILE=a b", "BOTH=word", "DISPLAY=:9"} <= lines
    assert not any(line.startswith("WINDOWID=") for line in lines)


# ---- ps, show, status, logs -----------------------------------------------------------------


def test_what_ps_tells_is_what_systemd_tells(product: Product) -> None:
    session = product.started()
    name = f"{session['name']}/server"
    said = product.ctl(
        "run", "-d", "-s", session["id"], "--name", "server", "--group", "web", "--", "sleep", "999"
    )
    assert said == f"{name}\n"
    [one] = agents(product)
    unit = product.host.show(one["unit"], "MainPID", "ActiveState", "Slice")
    assert (one["pid"], one["state"], one["group"]) == (int(unit["MainPID"]), "running", "web")
    assert unit["ActiveState"] == "active"
    assert one["cpu_seconds"] >= 0
    status = product.json("status", name)
    assert status["cgroup"].endswith(one["unit"])
    assert f"Main PID: {one['pid']}" in product.ctl("status", name)
    assert product.json("show", name)["id"] == one["id"]
    product.ctl("kill", name)
    assert agents(product) == []
    [one] = agents(product, "-a")
    assert (one["state"], one["signal"], one["pid"]) == ("terminated", "SIGKILL", None)
    assert "SIGKILL" in product.ctl("ps", "-a")
    product.ctl("rm", name)
    assert agents(product, "-a") == []


def test_logs_of_an_agent_hold_what_it_wrote(product: Product) -> None:
    session = product.started()
    script = "echo one; echo two >&2"
    product.ctl("run", "-s", session["id"], "--name", "talker", "--", "sh", "-c", script)
    name = f"{session['name']}/talker"

    def lines() -> bool:
        product.host.run(["journalctl", "--sync"], user=False)
        shown = product.ctl("logs", name, "--json").splitlines()
        return {"one", "two"} <= {str(json.loads(line)["MESSAGE"]) for line in shown}

    until(lines, "both lines in the journal of the agent's unit")
    # Two streams, and no order between them.
    told = product.host.run(["journalctl", "--user", "-t", "talker", "-o", "cat"]).stdout.split()
    assert sorted(told) == ["one", "two"]


# ---- life -----------------------------------------------------------------------------------


def test_pause_freezes_and_resume_thaws_the_unit(product: Product) -> None:
    session = product.started()
    name = f"{session['name']}/a"
    product.ctl("run", "-d", "-s", session["id"], "--name", "a", "--", "sleep", "999")
    [one] = product.json("pause", name)
    assert one["state"] == "paused"
    assert product.host.show(one["unit"], "FreezerState")["FreezerState"] == "frozen"
    [one] = product.json("resume", "a")
    assert one["state"] == "running"
    assert product.host.show(one["unit"], "FreezerState")["FreezerState"] == "running"
    product.ctl("stop", name)
    assert product.refused(4, "pause", name)["code"] == "agent_not_running"


def test_a_group_is_stopped_in_one_call_and_waited_for(product: Product) -> None:
    one, other = product.started(), product.started()
    for session, script in ((one, "exit 3"), (other, "trap 'exit 5' TERM; echo ready; sleep 999 & wait")):
        product.ctl("run", "-d", "-s", session["id"], "--group", "g", "--", "sh", "-c", script)
    until(lambda: agents(product, other["id"])[0]["record_bytes"], "the program to set its trap")
    product.host.sessionctl("wait", "--session", one["id"], "--all", "--ended", check=False)
    stopped = product.json("stop", "--group", "g")
    assert [(row["session"], row["error"]) for row in stopped] == [(other["id"], None)]
    assert product.host.sessionctl("wait", "--group", "g", "--ended", check=False).returncode == 5
    assert (
        product.host.sessionctl("wait", "--session", one["id"], "--all", "--ended", check=False).returncode
        == 3
    )
    removed = product.json("rm", "--all")
    assert {row["session"] for row in removed} == {one["id"], other["id"]}


def test_a_signal_reaches_the_program(product: Product) -> None:
    session = product.started()
    script = "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done"
    product.ctl("run", "-d", "-s", session["id"], "--name", "a", "--", "sh", "-c", script)
    name = f"{session['name']}/a"
    until(lambda: product.json("show", name)["record_bytes"], "the program to set its trap")
    product.ctl("signal", "-s", str(parse_signal("USR1")), name)
    assert product.host.sessionctl("wait", name, check=False).returncode == 42


def test_sessions_and_agents_are_stopped_in_one_call(product: Product) -> None:
    one, other = product.started(), product.started()
    for session in (one, other):
        product.ctl("run", "-d", "-s", session["id"], "--name", "a", "--", "sleep", "999")
    assert product.refused(7, "pause", "a")["code"] == "agent_ambiguous"
    done = product.json("stop", one["id"], f"{other['id']}/a")
    assert [row["state"] for row in done] == ["inactive", "terminated"]
    assert agents(product) == []
    rows = agents(product, "-a")
    assert {(row["session"], row["state"]) for row in rows} == {
        (one["id"], "terminated"),
        (other["id"], "terminated"),
    }


# ---- on a terminal --------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["echo shown; exit 3", "sleep 0.5; echo shown; exit 3"])
def test_run_on_a_terminal_shows_it_and_exits_as_the_program(product: Product, script: str) -> None:
    session = product.started()
    sessionctl = Path(sys.executable).parent / "sessionctl"
    line = shlex.join([str(sessionctl), "run", "--", "sh", "-c", f"test -t 0 && stty size; {script}"])
    done = product.host.run(
        ["script", "-qec", f"stty rows 30 cols 100; {line}", "/dev/null"], cwd=session["path"], check=False
    )
    assert done.returncode == 3, done
    assert "30 100" in done.stdout
    assert "shown" in done.stdout
    [one] = agents(product, "-a")
    assert (one["tty"], one["columns"], one["rows"], one["exit_status"]) == (True, 100, 30, 3)
