"""The demo: in the user manager, beside a supervisor that is there, in a nest; it leaves nothing behind."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessiond.nest import layout
from sessiond.testing.host import HOME, Host
from tests.system.product import Product
from tests.system.test_cli import files

SESSIONCTL = str(Path(sys.executable).parent / "sessionctl")


def units(host: Host) -> str:
    return host.systemctl("list-units", "--all", "--plain", "--no-legend", "sessiond*").stdout


def leftovers(host: Host) -> set[str]:
    # What other tests write now is seen in the host's /tmp too, and is not in its own layer of the disk.
    written = layout.upper_dir(host.folder / "disk") / "tmp"
    found = files(host, HOME, host.runtime_dir)
    found |= {f"/tmp/{path.relative_to(written)}" for path in written.rglob("*")}
    return {path for path in found if "sessiond" in path}


def held(host: Host) -> dict[str, object]:
    told: dict[str, object] = json.loads(host.sessionctl("demo", "--json", timeout=300).stdout)
    claims = told["claims"]
    assert isinstance(claims, list)
    assert len(claims) >= 14
    assert all(claim["held"] for claim in claims)
    said = [claim["claim"] for claim in claims]
    for words in ("killed while it prints, is back after", "/counter did not notice", "lines exactly once"):
        assert any(words in one for one in said), said
    return told


def test_in_the_user_manager_it_brings_up_a_supervisor_and_takes_it_away(
    fresh_host: Callable[..., Host],
) -> None:
    host = fresh_host()
    before = leftovers(host)
    told = held(host)
    assert told["place"] == "in your user manager"
    assert leftovers(host) - before == set()
    assert units(host) == ""


def test_beside_a_supervisor_that_is_there_it_touches_nothing_of_it(product: Product) -> None:
    session = product.started()["id"]
    supervisor, daemon = product.supervisor_pid(), product.pid(session)
    before = product.rows()
    held(product.host)
    assert product.rows() == before
    assert (product.supervisor_pid(), product.pid(session)) == (supervisor, daemon)


def test_a_supervisor_that_was_down_is_down_afterwards(product: Product) -> None:
    session = product.started()["id"]
    daemon = product.pid(session)
    product.ctl("down")
    held(product.host)
    assert product.refused(5, "list")["hint"] == "sessionctl up"
    assert product.pid(session) == daemon


def test_a_claim_that_does_not_hold_makes_it_fail(product: Product) -> None:
    folder = f"{HOME}/w/bin"
    product.write(f"{folder}/journalctl", "#!/bin/sh\nexit 0\n")
    product.host.run(["chmod", "755", f"{folder}/journalctl"])
    path = product.host.environment()["PATH"]
    done = product.host.sessionctl("demo", "--json", check=False, env={"PATH": f"{folder}:{path}"})
    assert done.returncode == 1
    failed = [one["claim"] for one in json.loads(done.stdout)["claims"] if not one["held"]]
    assert len(failed) == 1
    assert "journal" in failed[0]


# ---- in a nest ------------------------------------------------------------------------------

# In a mount namespace with records of nests of its own, where the live home is written to an upper layer.
_ALONE = """
set -e
mkdir -p /run/sessiond-nest
mount -t tmpfs tmpfs /run/sessiond-nest
cd /run/sessiond-nest
mkdir upper work
mount -t overlay overlay -o "lowerdir=$HOME,upperdir=upper,workdir=work" "$HOME"
cd /
ctl=$1; shift
trap '"$ctl" nest down' EXIT
"$@"
"""
_WRITTEN = "find /run/sessiond-nest/upper -mindepth 1 -not -type d >&2"


def alone(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run argv as after a login, where no nest is recorded; nothing reaches the live home."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", _ALONE, "sh", SESSIONCTL, *argv],
        capture_output=True,
        text=True,
        timeout=300,
        env=env | {"HOME": pwd.getpwuid(os.getuid()).pw_dir},
    )


@pytest.fixture
def privileged() -> None:
    if os.geteuid() != 0:
        pytest.skip("a nest beside the live ones takes root")


NEEDS_ROOT = "needs root" if os.geteuid() != 0 else ""


@pytest.mark.may_skip(NEEDS_ROOT)
def test_in_a_nest_of_its_own(privileged: None) -> None:
    done = alone("sh", "-ec", f'"$1" demo --json; {_WRITTEN}', "sh", SESSIONCTL)
    assert done.returncode == 0, done.stderr + done.stdout
    [told] = _values(done.stdout)
    assert told["place"] == "in a nest of the demo's own"
    assert all(claim["held"] for claim in told["claims"])
    assert len(told["claims"]) >= 14
    assert done.stderr == "", "it wrote to the home"


@pytest.mark.may_skip(NEEDS_ROOT)
@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5, 2.0])
def test_ctrl_c_in_the_middle_cleans_up_too(privileged: None, seconds: float) -> None:
    script = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
process = subprocess.Popen([sys.argv[1], "demo", "--json"])
try:
    process.wait(float(sys.argv[2]))
except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGINT)
print("exit", process.wait(200))
"""
    look = f'"$1" -c "$2" "$3" "$4"; ls -A /run/sessiond-nest | grep -v -e upper -e work || true; {_WRITTEN}'
    done = alone("sh", "-ec", look, "sh", sys.executable, script, SESSIONCTL, str(seconds))
    assert "exit 130" in done.stdout or "exit 0" in done.stdout, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1].startswith("there was no nest"), done.stdout


_UP_TO_DOWN = """
ctl=$1
$ctl nest status --json && exit 9 || test $? = 3
$ctl nest up --json
$ctl nest up --json
$ctl new "$2" --name one --start --json
pid=$($ctl show one --json | sed -n 's/^  "pid": \\([0-9]*\\),/\\1/p')
test "$(readlink /proc/$pid/ns/pid)" != "$(readlink /proc/self/ns/pid)"
until $ctl logs one | grep -q "Started "; do sleep 0.1; done
$ctl status one | grep -q "Main PID: $pid"
$ctl list --json
test "$($ctl nest exec -- systemctl --user is-active sessiond.service)" = active
$ctl nest exec -- sh -c 'exit 7' && exit 9 || test $? = 7
$ctl doctor --json | grep -q user_manager
$ctl nest status --json
mkfifo "$2.fifo"
$ctl nest exec -- sh -c 'echo inside; exec sleep 1000' >"$2.fifo" &
read -r word <"$2.fifo"
test "$word" = inside
begun=$(date +%s)
$ctl nest down
test $(($(date +%s) - begun)) -lt 100
wait $! && exit 9
$ctl list && exit 9 || test $? = 5
$ctl nest down
"""


@pytest.mark.may_skip(NEEDS_ROOT)
def test_the_nest_s_verbs_from_up_to_down(privileged: None, tmp_path: Path) -> None:
    done = alone("sh", "-ec", _UP_TO_DOWN + _WRITTEN, "sh", SESSIONCTL, str(tmp_path / "work"))
    assert done.returncode == 0, done.stdout + done.stderr
    down, first, second, made, listed, living = _values(done.stdout)
    assert (down["state"], living["state"]) == ("down", "up")
    assert first["pid"] == second["pid"] == living["pid"]
    assert first["supervisor"]["pid"] == living["supervisor"]["pid"]
    assert (made["id"], made["pid"]) in [(row["id"], row["pid"]) for row in listed]
    written = [line for line in done.stderr.splitlines() if line.startswith("/run/sessiond-nest/upper/")]
    assert all("/.local/state/sessiond/" in line for line in written), "only sessions' state is in the home"


def _values(text: str) -> list[Any]:
    """The JSON values in what was printed; other lines are left out."""
    values = []
    while text := text.lstrip():
        if text[0] in "{[":
            value, end = json.JSONDecoder().raw_decode(text)
            values.append(value)
            text = text[end:]
        else:
            text = text.partition("\n")[2]
    return values
