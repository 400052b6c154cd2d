"""What systems before this one got wrong, shown to be otherwise here; the tests bear the failures' names."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sessiond.rpc._generated.v1 import sessions_pb2
from sessiond.rpc.channel import CHANNEL_OPTIONS
from sessiond.testing.host import GUEST, HOME
from tests.system.product import (
    INSIDE_ROOTS,
    OUTSIDE_ROOTS,
    PATIENCE,
    STATE,
    SUPERVISOR,
    Product,
    agents_slice,
    daemon_unit,
    until,
)

MakeProduct = Callable[..., Product]

# Takes a pid that is free: the next process of this PID namespace gets the number after the last one.
_RECYCLE = """
import os, sys
wanted = int(sys.argv[1])
for attempt in range(200):
    with open("/mnt/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(wanted - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() == wanted:
            os.setuid(int(sys.argv[2]))
            os.execvp("sleep", ["sleep", "600"])
        os._exit(0)
    if child == wanted:
        print("recycled", flush=True)
    os.waitpid(child, 0)
    if child == wanted:
        sys.exit()
sys.exit("the pid could not be had")
"""


def test_a_recycled_pid_is_shown_running(product: Product) -> None:
    session = product.started()["id"]
    pid = product.pid(session)
    product.stop_supervisor()
    product.host.systemctl("stop", daemon_unit(session))
    # With a /proc of its own, since the host's lets nobody write.
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t proc proc /mnt && exec "$@"', "sh"]
    words = ["python3", "-c", _RECYCLE, str(pid), str(product.host.uid)]
    other = product.host.popen([*alone, *words], user=False)
    assert other.stdout is not None
    assert other.stdout.readline() == "recycled\n"
    try:
        product.start_supervisor()
        [row] = product.agrees()
        assert (row["state"], row["pid"]) == ("inactive", None)
        # A stored pid is signalled: none is stored, so neither verb touches the stranger.
        assert product.refused(4, "kill", session)["code"] == "session_not_running"
        product.ctl("stop", session)
        product.ctl("start", session)
        product.ctl("kill", session)
        product.wait(session, "active")
        product.ctl("stop", session)
        assert product.host.path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    finally:
        product.kill(pid)
        other.wait(PATIENCE)


def test_a_stored_running_is_shown_after_a_crash_and_stop_is_refused(fresh_product: MakeProduct) -> None:
    product = fresh_product()
    session = product.started()["id"]
    product.host.reboot()
    product.serving()
    [row] = product.agrees()
    assert (row["state"], row["pid"], row["since"]) == ("inactive", None, None)
    assert product.json("stop", session)[0]["state"] == "inactive"
    assert product.json("start", session)[0]["state"] == "active"


def test_a_zombie_holds_the_singleton(product: Product) -> None:
    product.stop_supervisor()
    parent = product.host.popen(
        [
            "python3",
            "-c",
            "import subprocess, sys, time;"
            "child = subprocess.Popen(sys.argv[1:]); print(child.pid, flush=True); time.sleep(600)",
            f"{HOME}/.local/share/sessiond/launcher",
        ],
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert product.serving() == pid
        product.kill(pid)
        until(
            lambda: "Z (zombie)" in product.host.path(f"/proc/{pid}/status").read_text(),
            "the first supervisor is a zombie",
        )
        assert product.start_supervisor() not in (0, pid)
    finally:
        parent.kill()
        parent.wait(PATIENCE)


def test_starting_kills_what_looks_like_one_of_ours(product: Product) -> None:
    session = product.new()["id"]
    look = f"sessiond session {session} --socket x --store y"
    stranger = product.host.popen(["bash", "-c", f"exec -a '{look}' sleep 600"])
    product.ctl("start", session)
    product.restart_supervisor()
    product.ctl("restart", session)
    product.ctl("stop", session)
    assert stranger.poll() is None
    stranger.kill()


def test_stop_hits_another_daemon(product: Product) -> None:
    first, second = product.started()["id"], product.started()["id"]
    before = product.unit(second)
    product.ctl("stop", first)
    product.ctl("delete", first)
    assert product.unit(second) == before
    [row] = product.agrees()
    assert (row["id"], row["state"]) == (second, "active")


def test_stop_signals_one_pid_and_leaves_the_tree(product: Product) -> None:
    session = product.started()["id"]
    name = f"sessiond-agent@{session}-a1.service"
    # A tree whose members ignore TERM and leave their parent's process group.
    tree = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 600\" & setsid sleep 600 & wait"
    flags = [f"--unit={name}", f"--slice={agents_slice(session)}", "--property=TimeoutStopSec=1"]
    product.host.run(["systemd-run", "--user", *flags, "sh", "-c", tree])
    until(lambda: len(product.processes(session)) >= 5, "the tree has grown")
    product.ctl("stop", session)
    assert product.processes(session) == []
    assert product.host.run(["pgrep", "-u", GUEST, "-x", "sleep"], check=False).stdout == ""


def test_a_kill_is_not_final(product: Product) -> None:
    session = product.started()["id"]
    mark = product.cursor()
    product.ctl("kill", session)
    # A stop that comes while systemd is about to restart it.
    assert product.json("stop", session)[0]["state"] == "inactive"
    assert product.processes(session) == []
    product.ctl("wait", session, "--state", "inactive", "--timeout", "60")
    assert product.moves(mark, session)[-1][1] == "inactive"
    product.agrees()


def test_exit_codes_are_lost(product: Product) -> None:
    session = product.new()["id"]
    product.host.run(["systemd-run", "--user", f"--unit={daemon_unit(session)}", "sh", "-c", "exit 42"])
    product.wait(session, "error")
    assert product.show(session)["exit_status"] == 42
    assert "42" in product.ctl("status", session)
    product.restart_supervisor()
    assert product.show(session)["exit_status"] == 42


def test_a_port_is_probed_and_another_daemon_answers(product: Product) -> None:
    product.started()
    uid = product.host.uid
    for table in ("tcp", "tcp6", "udp", "udp6"):
        rows = product.host.run(["cat", f"/proc/net/{table}"]).stdout.splitlines()[1:]
        assert [row for row in rows if row.split()[7] == str(uid)] == [], "a port is open"


def test_everything_asked_is_healthy(product: Product) -> None:
    with grpc.insecure_channel(f"unix:{product.socket}", options=CHANNEL_OPTIONS) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "sessiond.v1.SessionsService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=PATIENCE)
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_workspace_gets_a_new_id_at_each_scan(product: Product) -> None:
    plain = product.folder("plain", under=INSIDE_ROOTS)
    product.write(f"{plain}/AGENTS.md", "a project\n")
    session = product.new(folder=product.folder("mine", under=INSIDE_ROOTS))["id"]
    for _ in range(3):
        found = product.json("discover")
        assert [one["id"] for one in found["sessions"]] == [session]
        # A project that is no session is offered, and nothing is written into it.
        assert [one["path"] for one in found["candidates"]] == [plain]
        assert product.identity(plain) is None
    product.restart_supervisor()
    assert [row["id"] for row in product.rows()] == [session]


def test_a_moved_workspace_is_patched_in_memory(product: Product) -> None:
    folder = product.folder("old", under=INSIDE_ROOTS)
    session = product.new(folder=folder)["id"]
    product.host.run(["mv", folder, f"{INSIDE_ROOTS}/new"])
    until(lambda: product.row(session)["path"] == f"{INSIDE_ROOTS}/new", "the row has the new path")
    product.restart_supervisor()
    row = product.row(session)
    assert (row["path"], row["problem"], row["conflict"]) == (f"{INSIDE_ROOTS}/new", None, None)
    assert product.links() == {session: f"{INSIDE_ROOTS}/new"}


def test_an_existing_project_cannot_be_adopted(product: Product) -> None:
    folder = product.folder("project")
    script = (
        "git init -q . 2>/dev/null || mkdir .git; echo text > README; mkdir -p src; ln -s /etc/passwd src/p"
    )
    product.host.run(["sh", "-c", script], cwd=folder)
    product.write(f"{folder}/.sessiond/of-somebody-else", "kept\n")
    before = product.host.run(["sh", "-c", "ls -lR --time-style=full-iso README src; cat README"], cwd=folder)
    [adopted] = product.json("adopt", folder)
    assert (adopted["name"], adopted["path"]) == ("project", folder)
    after = product.host.run(["sh", "-c", "ls -lR --time-style=full-iso README src; cat README"], cwd=folder)
    assert after.stdout == before.stdout
    assert product.host.path(f"{folder}/.sessiond/of-somebody-else").read_text() == "kept\n"
    # Its own files are not for the project's history.
    assert product.host.path(f"{folder}/.sessiond/.gitignore").read_text().strip() == "*"
    # Twice is the same session.
    assert product.json("adopt", folder)[0]["id"] == adopted["id"]
    assert product.json("start", folder)[0]["state"] == "active"


def test_delete_removes_any_folder_unguarded(product: Product) -> None:
    made = product.new()
    product.write(f"{made['path']}/work.txt", "work\n")
    # Without a purge the work stays, with one only after a confirmation.
    assert product.refused(2, "delete", made["id"], "--purge")["code"]
    assert product.row(made["id"])["state"] == "inactive"
    product.ctl("delete", made["id"])
    assert product.host.path(f"{made['path']}/work.txt").read_text() == "work\n"
    assert product.identity(made["path"]) is None

    again = product.new(folder=made["path"])
    assert again["id"] != made["id"]
    product.ctl("delete", again["id"], "--purge", "--yes")
    assert not product.host.path(made["path"]).exists()


def test_a_purge_never_removes_a_home_a_root_or_a_mount_point(product: Product) -> None:
    mount = product.folder("mounted")
    product.folder(under=INSIDE_ROOTS)
    options = f"size=1M,uid={product.host.uid},mode=700"
    product.host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", mount], user=False)
    try:
        for folder in (HOME, INSIDE_ROOTS, mount):
            made = product.new("--name", "precious", folder=folder)
            product.write(f"{folder}/precious.txt", "kept\n")
            error = product.refused(1, "delete", made["id"], "--purge", "--yes")
            assert error["code"] == "purge_refused", folder
            assert product.host.path(f"{folder}/precious.txt").read_text() == "kept\n"
            # Refused whole: it is still a session.
            assert product.row(made["id"])["path"] == folder
            product.host.run(["rm", f"{folder}/precious.txt"])
            product.ctl("delete", made["id"])
    finally:
        product.host.run(["umount", "--lazy", mount], user=False)


def test_a_purge_follows_no_link_out_of_the_workspace(product: Product) -> None:
    made = product.new()
    outside = product.folder("outside")
    product.write(f"{outside}/precious.txt", "kept\n")
    product.host.run(["ln", "-s", outside, f"{made['path']}/link"])
    product.ctl("delete", made["id"], "--purge", "--yes")
    assert not product.host.path(made["path"]).exists()
    assert product.host.path(f"{outside}/precious.txt").read_text() == "kept\n"


def test_a_running_session_is_deleted_under_its_users(product: Product) -> None:
    session = product.started()["id"]
    pid = product.pid(session)
    error = product.refused(4, "delete", session)
    assert error["code"] == "session_running"
    assert "stop" in error["hint"]
    assert product.pid(session) == pid
    error = product.refused(4, "archive", session)
    assert error["code"] == "session_running"


def test_archive_has_no_way_back(product: Product) -> None:
    made = product.new("--label", "team=web", "--name", "aside")
    session = made["id"]
    assert product.json("archive", session)[0]["state"] == "archived"
    assert product.json("list") == []
    assert [row["id"] for row in product.rows()] == [session]
    error = product.refused(4, "start", session)
    assert error["code"] == "session_archived"
    assert "unarchive" in error["hint"]
    product.restart_supervisor()
    assert product.row(session)["archived"] is True
    [back] = product.json("unarchive", "aside")
    assert (back["state"], back["archived"], back["labels"]) == ("inactive", False, {"team": "web"})
    assert product.json("start", session)[0]["state"] == "active"
    # The end of a session has a way back as well.
    assert product.json("end", session)[0]["state"] == "archived"
    product.ctl("unarchive", session)
    assert [row["id"] for row in product.json("list")] == [session]


@pytest.mark.parametrize(
    "name", ["", ".hidden", "~home", "-flag", "a/b", "x" * 65, "tab\tbed", "line\nfeed", " "]
)
def test_names_are_not_validated(product: Product, name: str) -> None:
    folder = product.folder()
    if name:
        error = product.refused(7, "new", folder, f"--name={name}")
        assert error["code"] == "name_invalid"
        assert product.identity(folder) is None
    made = product.new(folder=folder)
    error = product.refused(7, "rename", made["id"], "--", name)
    assert error["code"] == "name_invalid"
    assert product.row(made["id"])["name"] == made["name"]


def test_the_state_file_grows_without_bound(product: Product) -> None:
    session = product.new()["id"]
    with product.client() as client:
        for number in range(1500):
            annotations = {"note": f"{number:>1000}"}
            request = sessions_pb2.UpdateSessionRequest(session=session, set_annotations=annotations)
            client.call(client.sessions.UpdateSession, request)
    size = product.host.run(["sh", "-c", f"cat {STATE}/sessiond.db* | wc -c"]).stdout
    assert int(size) < 6 * 1024 * 1024


def test_the_environment_differs_from_that_of_the_users_manager(product: Product) -> None:
    # Outside `VAR=1 sessionctl start` must not leak in, and the manager's own must be there.
    product.host.systemctl("set-environment", "FROM_THE_MANAGER=yes")
    session = product.new()["id"]
    product.host.sessionctl("start", session, env={"FROM_A_CLIENT": "yes"})
    words = product.host.path(f"/proc/{product.pid(session)}/environ").read_text().split("\0")
    assert "FROM_THE_MANAGER=yes" in words
    assert not [word for word in words if word.startswith("FROM_A_CLIENT")]
    product.host.systemctl("unset-environment", "FROM_THE_MANAGER")


def test_nothing_tells_of_a_start_that_waits_for_a_login(product: Product) -> None:
    # Lingering is what starts the manager, the supervisor and enabled sessions without a login.
    done = product.host.sessionctl("doctor", "--json", check=False)
    checks = {one["check"]: one for one in json.loads(done.stdout)}
    assert checks["linger"]["status"] == "ok"
    product.host.run(["rm", f"/var/lib/systemd/linger/{GUEST}"], user=False)
    try:
        done = product.host.sessionctl("doctor", "--json", check=False)
        checks = {one["check"]: one for one in json.loads(done.stdout)}
        assert checks["linger"]["status"] != "ok"
        assert "enable-linger" in checks["linger"]["fix"]
    finally:
        product.host.run(["touch", f"/var/lib/systemd/linger/{GUEST}"], user=False)


def test_a_manager_restart_doubles_what_ran(product: Product) -> None:
    session = product.started()["id"]
    for _ in range(3):
        product.kill_supervisor()
        product.ctl("start", session)
    pid = product.pid(session)
    assert product.processes(session) == [pid]
    running = product.host.run(["pgrep", "-f", f"session {session} "]).stdout.split()
    assert running == [str(pid)]
    assert product.host.show(SUPERVISOR, "ActiveState")["ActiveState"] == "active"


def test_a_session_outside_the_roots_is_forgotten(product: Product) -> None:
    made = product.new(folder=product.folder("far/from/any/root"))
    product.kill_supervisor()
    assert product.row(made["id"])["path"] == f"{OUTSIDE_ROOTS}/far/from/any/root"
