"""The test host itself: a real systemd with a lingering unprivileged user, power cuts, reboots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond.testing.host import GUEST, HOME, Host


def test_its_user_is_unprivileged_and_has_a_manager(host: Host) -> None:
    assert host.run(["id", "-un"]).stdout.strip() == GUEST
    assert host.systemctl("is-system-running").stdout.strip() == "running"
    assert host.run(["loginctl", "show-user", GUEST, "-p", "Linger"]).stdout == "Linger=yes\n"


def test_programs_get_a_login_environment_and_nothing_of_ours(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTSIDE", "1")
    lines = host.run(["env"]).stdout.splitlines()
    assert f"XDG_RUNTIME_DIR=/run/user/{host.uid}" in lines
    assert f"HOME={HOME}" in lines
    assert not [line for line in lines if line.startswith(("OUTSIDE", "SESSIOND_"))]


def test_the_user_reads_a_persistent_journal(host: Host) -> None:
    host.run(["systemd-run", "--user", "--wait", "--unit=speaks", "echo", "a word for the journal"])
    host.run(["journalctl", "--sync"], user=False)
    shown = host.run(["journalctl", "--user", "-u", "speaks", "-o", "json"]).stdout
    messages = [json.loads(line)["MESSAGE"] for line in shown.splitlines()]
    assert "a word for the journal" in messages


def test_the_checkout_runs_inside(host: Host) -> None:
    done = host.run([Path(__import__("sys").executable), "-c", "import sessiond, grpc; print('ok')"])
    assert done.stdout == "ok\n"


def test_a_reboot_keeps_the_disk_and_starts_the_lingering_manager(
    fresh_host: Callable[..., Host],
) -> None:
    host = fresh_host()
    host.run(["sh", "-c", "echo kept > mark"])
    before = host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
    host.power_cut()
    assert host.path(f"{HOME}/mark").read_text() == "kept\n"
    host.boot()
    assert host.run(["cat", "mark"]).stdout == "kept\n"
    assert host.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != before
    unit = f"user@{host.uid}.service"
    assert host.run(["systemctl", "is-active", unit]).stdout.strip() == "active"
    boots = host.run(["journalctl", "--list-boots"], user=False).stdout
    assert " -1 " in boots
    assert " -2 " not in boots
