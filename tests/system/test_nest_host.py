"""The test host itself: a real systemd with a lingering unprivileged user, power cuts, reboots."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sessiond.testing.host import GUEST, HOME, Host, HostUnavailable, sweep


def test_its_user_is_unprivileged_and_has_a_manager(host: Host) -> None:
    assert host.run(["id", "-un"]).stdout.strip() == GUEST
    assert host.systemctl("is-system-running", "--wait").stdout.strip() == "running"
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
    # journald looks up whose line it is when it comes to it: of a program that has ended nothing is left.
    script = "echo a word for the journal; systemd-notify --ready; exec sleep infinity"
    start = [
        "systemd-run",
        "--user",
        "--quiet",
        "--unit=speaks",
        "-p",
        "Type=notify",
        "-p",
        "NotifyAccess=all",
    ]
    host.run([*start, "sh", "-c", script])
    host.run(["journalctl", "--sync"], user=False)
    host.systemctl("stop", "speaks")
    shown = host.run(["journalctl", "--user", "-u", "speaks", "-o", "json"]).stdout
    messages = [json.loads(line)["MESSAGE"] for line in shown.splitlines()]
    assert "a word for the journal" in messages


def test_no_two_hosts_share_what_the_kernel_counts_by_user(host: Host) -> None:
    with Host() as other:
        uids = {host.uid, other.uid}
        assert len(uids) == 2
        with Host() as third:
            assert third.uid not in uids


def test_the_checkout_runs_inside(host: Host) -> None:
    done = host.run([sys.executable, "-c", "import sessiond, grpc; print('ok')"])
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


_HOLD = (
    "import signal, sys; from sessiond.testing.host import Host\n"
    "with Host() as host:\n"
    "    host.boot()\n"
    "    print(host.folder, host.nest.cgroup, flush=True)\n"
    "    signal.pause()\n"
)


def _holding() -> tuple[subprocess.Popen[str], Path, Path]:
    """A process that holds a booted host, and that host's folder and cgroup."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout
    folder, cgroup = process.stdout.readline().split()
    return process, Path(folder), Path(cgroup)


def test_ctrl_c_leaves_nothing(host: Host) -> None:
    process, folder, cgroup = _holding()
    assert folder.exists()
    assert cgroup.exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert not folder.exists()
    assert not cgroup.exists()


def test_what_a_killed_run_left_is_swept_and_hosts_in_use_are_not(host: Host) -> None:
    process, folder, cgroup = _holding()
    sweep()
    assert folder.exists()
    process.kill()
    process.communicate(timeout=120)
    assert cgroup.exists()
    sweep()
    if folder.exists():
        # Another run sweeps it at this moment: wait for its lock.
        with open(folder / "in-use") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
    assert not folder.exists()
    assert not cgroup.exists()
    assert host.alive


def test_an_orderly_shutdown_ends_services_and_keeps_the_disk(fresh_host: Callable[..., Host]) -> None:
    host = fresh_host()
    script = "trap 'echo ended > word; exit' TERM; systemd-notify --ready; while :; do sleep 0.05; done"
    start = ["systemd-run", "--user", "--quiet", "-p", "Type=notify", "-p", "NotifyAccess=all"]
    host.run([*start, "--working-directory", HOME, "sh", "-c", script])
    host.shutdown()
    assert host.path(f"{HOME}/word").read_text() == "ended\n"
    host.boot()
    assert host.run(["cat", "word"]).stdout == "ended\n"


def test_without_linger_no_manager_starts_at_boot(fresh_host: Callable[..., Host]) -> None:
    host = fresh_host()
    host.run(["loginctl", "disable-linger", GUEST], user=False)
    host.power_cut()
    with pytest.raises(HostUnavailable, match="SESSIOND_USER=ready"):
        # Long enough for all but the user's manager, on a busy machine too.
        host.boot(timeout=20)
    assert not host.alive


def test_nothing_written_inside_reaches_the_machine(host: Host, tmp_path: Path) -> None:
    host.run(["sh", "-c", "echo x > /etc/sessiond-test-mark && rm -r /var/log/journal/none -f"], user=False)
    assert not Path("/etc/sessiond-test-mark").exists()
    assert host.path("/etc/sessiond-test-mark").read_text() == "x\n"
    host.run(["rm", "/etc/sessiond-test-mark"], user=False)
    assert GUEST not in Path("/etc/passwd").read_text().replace(":", " ").split()


def test_killing_the_process_out_here_kills_the_one_inside(host: Host) -> None:
    process = host.popen(["sh", "-c", "echo $$; exec sleep 987659"])
    assert process.stdout
    inner = int(process.stdout.readline())
    descriptor = os.pidfd_open(host.outer_pid(inner))
    process.kill()
    process.wait(120)
    try:
        assert select.select([descriptor], [], [], 120)[0]
    finally:
        os.close(descriptor)
        process.stdout.close()
