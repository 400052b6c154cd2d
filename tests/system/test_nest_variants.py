"""The nest where the machine is odd or the caller is not root: nests booted inside a test host."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sessiond.testing.host import GUEST, HOME, Host

MakeHost = Callable[..., Host]

_PROGRAM = """
import json, sys
from sessiond import nest
from sessiond.errors import SessiondError

def run(*argv, **options):
    return nest.run(found, argv, check=False, **options).stdout

try:
    found = nest.up(**{options})
except SessiondError as error:
    json.dump({{"code": error.code, "message": error.message, "hint": error.hint,
               "fields": error.fields}}, sys.stdout)
    sys.exit()
try:
    said = {code}
finally:
    record = found.record
    gone = nest.down(uid=record.uid)
json.dump({{"said": said, "gone": gone, "cgroup": record.cgroup}}, sys.stdout)
"""


def _nested(host: Host, code: str, *, user: bool = False, wrap: tuple[str, ...] = (), **options: Any) -> Any:
    program = _PROGRAM.format(code=code, options=options)
    done = host.run([*wrap, sys.executable, "-c", program], user=user)
    answer = json.loads(done.stdout)
    if "cgroup" in answer:
        assert answer["gone"] is True
        assert host.run(["test", "-e", answer["cgroup"]], check=False).returncode == 1
    return answer


# As a program that a person starts in a login session of a real systemd: its cgroup is delegated.
_DELEGATED = ("systemd-run", "--user", "--quiet", "--wait", "--pipe", "--same-dir")


def test_resolv_conf_that_links_into_run_goes_on_working(fresh_host: MakeHost) -> None:
    host = fresh_host()
    script = (
        "mkdir -p /run/systemd/resolve && cd /run/systemd/resolve &&"
        "echo nameserver 192.0.2.7 > stub-resolv.conf &&"
        "ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf &&"
        "echo 192.0.2.9 only-here >> /etc/hosts && echo 'hosts: files' > /etc/nsswitch.conf"
    )
    host.run(["sh", "-c", script], user=False)
    reads = "cat /etc/resolv.conf; getent hosts only-here localhost"
    answer = _nested(host, f"run('sh', '-c', {reads!r})")
    assert answer["said"] == host.run(["sh", "-c", reads]).stdout
    assert "192.0.2.7" in answer["said"]
    assert "only-here" in answer["said"]


@pytest.mark.parametrize("damage", ["rm /etc/machine-id", "truncate -s0 /etc/machine-id"])
def test_a_missing_machine_id_is_not_written_to_the_live_machine(fresh_host: MakeHost, damage: str) -> None:
    host = fresh_host()
    look = ["sh", "-c", "stat -c %s /etc/machine-id 2>&1; ls /etc/systemd/system /etc | md5sum"]
    host.run(["sh", "-c", damage], user=False)
    before = host.run(look).stdout
    answer = _nested(host, "[run('cat', '/etc/machine-id'), run('systemctl', 'is-system-running', '--wait')]")
    assert len(answer["said"][0].strip()) == 32
    assert answer["said"][1] == "running\n"
    assert host.run(look).stdout == before


def test_lingering_users_and_journal_of_the_machine_stay_outside(fresh_host: MakeHost) -> None:
    host = fresh_host()
    host.run(["logger", "written outside"])
    host.run(["journalctl", "--sync"], user=False)
    answer = _nested(
        host, "[run('ls', '/var/lib/systemd/linger'), run('loginctl', '--no-legend'), run('journalctl')]"
    )
    linger, _, journal = answer["said"]
    assert linger == "root\n"
    assert "written outside" not in journal
    assert f"user@{host.uid}" not in journal
    assert "written outside" in host.run(["journalctl", "-o", "cat"], user=False).stdout
    assert host.run(["loginctl", "show-user", GUEST, "-p", "Linger"]).stdout == "Linger=yes\n"


def test_root_boots_one_for_a_user(fresh_host: MakeHost) -> None:
    host = fresh_host()
    code = (
        "[run('id', '-u'), run('printenv', 'HOME', 'USER', 'SESSIOND_RUNTIME_DIR'),"
        " run('systemctl', '--user', 'is-system-running', '--wait'),"
        " run('journalctl', '--user-unit=dbus.socket', '-o', 'cat'),"
        " run('sh', '-c', 'echo hello > $SESSIOND_RUNTIME_DIR/word; stat -c %a $SESSIOND_RUNTIME_DIR')]"
    )
    answer = _nested(host, code, uid=host.uid)
    folder = f"/run/sessiond-nest/{host.uid}/run"
    uid, variables, running, journal, mode = answer["said"]
    assert uid == f"{host.uid}\n"
    assert variables.split() == [HOME, GUEST, folder]
    assert running == "running\n"
    assert "Listening on dbus.socket" in journal
    assert mode == "700\n"


def test_the_user_finds_the_nest_that_root_booted_and_cannot_change_it(fresh_host: MakeHost) -> None:
    host = fresh_host()
    look = (
        "from sessiond import nest; from sessiond.errors import SessiondError; n = nest.status()\n"
        "print(n.pid, n.runtime_dir); open(n.runtime_dir / 'mine', 'w').close()\n"
        "try: nest.exec_argv(n, ['true'])\n"
        "except SessiondError as e: print(e.code)\n"
        "try: open(n.folder.record, 'w')\n"
        "except PermissionError: print('refused')\n"
    )
    python = repr([sys.executable, "-c", look])
    code = (
        f"[found.pid, __import__('subprocess').run(['setpriv', '--reuid={host.uid}', '--regid={host.uid}',"
        f"'--init-groups', '--'] + {python}, capture_output=True, text=True, cwd='/').stdout]"
    )
    answer = _nested(host, code, uid=host.uid)
    pid, said = answer["said"]
    runtime = f"/run/sessiond-nest/{host.uid}/run"
    assert said.split() == [str(pid), runtime, "nest_needs_privilege", "refused"]


def _unmask_proc(host: Host) -> None:
    """The host hides parts of /proc as a container does; a machine's own /proc is whole."""
    mounts = host.run(["cat", "/proc/self/mountinfo"], user=False).stdout.splitlines()
    masks = [point for point in (line.split()[4] for line in mounts) if point.startswith("/proc/")]
    for point in sorted(masks, reverse=True):
        host.run(["umount", "--lazy", point], user=False)


def test_without_root_it_boots_in_a_user_namespace(fresh_host: MakeHost) -> None:
    host = fresh_host()
    _unmask_proc(host)
    code = (
        "[run('id', '-u'), run('systemctl', 'is-system-running', '--wait'),"
        " run('sh', '-c', 'touch $HOME/mine'), run('systemctl', '--user', 'is-system-running', '--wait'),"
        " run('systemctl', '--user', 'show-environment'),"
        " run('systemd-run', '--user', '--wait', '--pipe', '--quiet', 'echo', 'ran'),"
        " run('getent', 'hosts', 'localhost'), run('journalctl', '--user-unit=dbus.socket'),"
        " nest.outer_pids(found)[1] == found.pid]"
    )
    answer = _nested(host, code, user=True, wrap=_DELEGATED)
    uid, system, _, user, environment, ran, names, journal, mapped = answer["said"]
    assert (uid, system, user, ran, mapped) == ("0\n", "running\n", "running\n", "ran\n", True)
    assert f"HOME={HOME}" in environment.splitlines()
    assert f"SESSIOND_RUNTIME_DIR={host.runtime_dir}/sessiond-nest/run" in environment.splitlines()
    assert "Listening on dbus.socket" in journal
    assert names == host.run(["getent", "hosts", "localhost"]).stdout
    assert host.path(f"{HOME}/mine").stat().st_uid == host.uid


_LOOK_OUTSIDE = """
import json, sys
from sessiond.discovery.processes import LiveProcesses
processes, pid, space = LiveProcesses(), int(sys.argv[1]), sys.argv[2]
found = {one.pid: one for one in processes.outside()}
at = processes.abroad(space, pid, found[pid].start_time) if pid in found else None
print(json.dumps({"pids": list(found), "comm": found[pid].comm if pid in found else "", "abroad": at}))
"""


def test_processes_outside_are_seen_in_a_user_namespace(fresh_host: MakeHost) -> None:
    host = fresh_host()
    _unmask_proc(host)
    code = (
        "(lambda os: [os.getpid(), list(nest.outer_pids(found).values()), open('/proc/self/comm').read(),"
        f" run({sys.executable!r}, '-c', {_LOOK_OUTSIDE!r},"
        " str(os.getpid()), os.readlink('/proc/self/ns/pid'))]"
        ")(__import__('os'))"
    )
    pid, own, comm, told = _nested(host, code, user=True, wrap=_DELEGATED)["said"]
    seen = json.loads(told)
    assert pid in seen["pids"]
    assert not set(seen["pids"]) & set(own)
    assert (seen["comm"] + "\n", seen["abroad"]) == (comm, pid)


def test_without_root_and_delegated_cgroup_the_error_says_so(fresh_host: MakeHost) -> None:
    answer = _nested(fresh_host(), "None", user=True)
    assert answer["code"] == "nest_needs_privilege"
    assert answer["fields"] == {"missing": "delegated cgroup"}


def test_without_root_in_a_container_the_error_names_the_step(fresh_host: MakeHost) -> None:
    answer = _nested(fresh_host(), "None", user=True, wrap=_DELEGATED)
    assert answer["code"] == "nest_needs_privilege"
    assert "mount proc" in answer["message"]
    assert "systempaths=unconfined" in answer["hint"]


def test_root_without_the_capability_is_told_which(fresh_host: MakeHost) -> None:
    host = fresh_host()
    answer = _nested(
        host, "None", wrap=("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-all", "--")
    )
    assert answer["code"] == "nest_needs_privilege"
    assert answer["fields"] == {"missing": "CAP_SYS_ADMIN"}


def test_a_cgroup_that_cannot_be_written_is_named(fresh_host: MakeHost) -> None:
    host = fresh_host()
    host.run(["mount", "-o", "remount,bind,ro", "/sys/fs/cgroup"], user=False)
    answer = _nested(host, "None")
    assert answer["code"] == "nest_needs_privilege"
    assert answer["fields"] == {"missing": "writable cgroup"}
    host.run(["mount", "-o", "remount,bind,rw", "/sys/fs/cgroup"], user=False)


def test_missing_packages_are_named_as_debian_names_them(fresh_host: MakeHost) -> None:
    host = fresh_host()
    script = "rm /usr/bin/dbus-daemon /usr/lib/systemd/user/dbus.socket /usr/lib/*/security/pam_systemd.so"
    host.run(["sh", "-c", script], user=False)
    answer = _nested(host, "None")
    assert answer["code"] == "nest_needs_packages"
    assert answer["hint"] == "apt-get install dbus dbus-user-session libpam-systemd"


def test_a_private_network_has_only_a_loopback_that_works(fresh_host: MakeHost) -> None:
    host = fresh_host(private_net=True)
    lines = host.run(["cat", "/proc/net/dev"]).stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in lines] == ["lo"]
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "c = socket.create_connection(s.getsockname()); c.sendall(b'x'); print(s.accept()[0].recv(1))"
    )
    assert host.run([sys.executable, "-c", code]).stdout == "b'x'\n"
