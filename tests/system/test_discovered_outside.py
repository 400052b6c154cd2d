"""Programs outside of the nest that sessiond is in: what they have open is in doubt while they run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.discovery_case import Programs, got, listed, settings
from tests.system.product import HOME, Product, until

__all__ = ["settings"]

# Under that name, with that lock, until nobody holds its stdin any more.
NAMED = """
import ctypes, fcntl, os, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)
if sys.argv[2:]:
    os.makedirs(os.path.dirname(sys.argv[2]), exist_ok=True)
    file = open(sys.argv[2], "w")
    fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def host_options() -> dict[str, bool]:
    """It sees the processes of this machine, as a nest does."""
    return {"outside": True}


@pytest.fixture
def programs(product: Product) -> Iterator[Programs]:
    made = Programs(product)
    try:
        yield made
    finally:
        made.end()
        product.rid(f"{HOME}/.pi")


@contextmanager
def outside(
    product: Product, name: str, *lock: str, cwd: str = HOME, program: Sequence[str] = ("python3",)
) -> Iterator[subprocess.Popen[str]]:
    """A process of the user on the files of the host, in no PID namespace of its own: it is not to be seen in
    the host's own /proc."""
    uid = str(product.host.uid)
    enter = [
        "nsenter",
        "--target",
        str(product.host.nest.pid),
        "--mount",
        f"--setuid={uid}",
        f"--setgid={uid}",
    ]
    inside = ["env", "-i", f"--chdir={cwd}", f"HOME={HOME}", *program, "-c", NAMED, name, *lock]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*enter, "--", *inside], text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def status(product: Product, adapter: str, session: str) -> str:
    """As a list tells it, which nobody has looked at anew for."""
    return listed(product, adapter)[session].status


def test_a_lock_that_is_held_outside(product: Product, programs: Programs) -> None:
    held, idle = programs.rollout(HOME), programs.rollout(HOME)
    lock = f"{HOME}/.codex/thread-writer-locks/{held}.lock"
    with outside(product, "codex", lock) as process:
        row = listed(product, "codex", refresh=True)[held]
        assert (row.status, row.pid) == ("unknown", 0)
        assert row.reason == f"process {process.pid} outside of this nest holds its lock"
        assert got(product, held, "codex").status == "unknown"
        assert got(product, idle, "codex").status == "stopped"
        done = product.host.sessionctl("continue", held, "more", check=False)
        assert done.returncode != 0
        assert f"process {process.pid} outside" in done.stderr
        inner = product.host.run(["cat", f"/proc/{process.pid}/comm"], check=False)
        assert inner.stdout != "codex\n"
    # Nobody can be told of its end: it is learnt by asking.
    until(lambda: status(product, "codex", held) == "stopped", "its end")


def test_a_process_that_tells_nothing_of_what_it_has_open(product: Product, programs: Programs) -> None:
    folder = f"{HOME}/there"
    product.host.run(["mkdir", "-p", folder])
    rows = {}
    for number, cwd in enumerate((folder, HOME)):
        session = rows[cwd] = f"0199aaaa-0000-7000-8000-00000000000{number}"
        head = {
            "type": "session",
            "version": 3,
            "id": session,
            "timestamp": "2026-01-02T03:04:05.000Z",
            "cwd": cwd,
        }
        path = f"{HOME}/.pi/agent/sessions/--x--/2026-01-02T03-04-05-000Z_{session}.jsonl"
        product.write(path, json.dumps(head) + "\n")
        product.host.run(["touch", "-d", "2026-01-02", path])
    # Whoever executes something else is no Pi, whatever it is called.
    copy = f"cp -L $(command -v python3) {folder}/pi && python3 -c 'import sys; print(sys.base_prefix)'"
    prefix = product.host.run(["sh", "-c", copy]).stdout.strip()
    program = (f"PYTHONHOME={prefix}", f"{folder}/pi")
    with outside(product, "pi"), outside(product, "pi", cwd=folder, program=program) as process:
        row = listed(product, "pi", refresh=True)[rows[folder]]
        assert (row.status, row.pid) == ("unknown", 0)
        assert f"pi (process {process.pid}) runs outside of this nest" in row.reason
        assert got(product, rows[folder], "pi").status == "unknown"
        assert status(product, "pi", rows[HOME]) == "stopped"
    until(lambda: status(product, "pi", rows[folder]) == "stopped", "its end")


def test_entries_of_claude_codes_registry_that_name_another_pid_namespace(
    product: Product, programs: Programs
) -> None:
    machine = product.host.run(["cat", "/etc/machine-id"]).stdout.strip()
    space = os.readlink("/proc/self/ns/pid")
    live, dead = programs.transcript(HOME), programs.transcript(HOME)
    # Of the namespaces that there are, the outermost alone shows all.
    everything = Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text() == "kthreadd\n"
    programs.register(77, dead, pidDomain=f"linux:{machine}:pid:[1]", procStart="5")
    with outside(product, "sleep"):
        with outside(product, "claude") as process:
            stat = Path(f"/proc/{process.pid}/stat").read_text()
            began = stat.rpartition(")")[2].split()[19]
            programs.register(process.pid, live, pidDomain=f"linux:{machine}:{space}", procStart=began)
            row = listed(product, "claude-code", refresh=True)[live]
            assert (row.status, row.pid) == ("unknown", 0)
            assert f"process {process.pid}, which runs in another PID namespace" in row.reason
            assert status(product, "claude-code", dead) == ("stopped" if everything else "unknown")
        until(lambda: status(product, "claude-code", live) == "stopped", "its end")


def test_a_host_that_is_not_to_see_outside_does_not(fresh_product: Callable[..., Product]) -> None:
    product = fresh_product()
    assert product.host.run(["test", "-e", "/run/sessiond-outside"], check=False).returncode == 1
