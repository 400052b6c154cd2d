"""Bad days of the supervisor: killed at any instant, doubled, robbed of its files. Sessions go on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import sessions_pb2
from tests.system.product import (
    HOME,
    INSIDE_ROOTS,
    PATIENCE,
    STATE,
    SUPERVISOR,
    Product,
    daemon_unit,
    until,
)

# Killed supervisors in one test, at instants spread over what it does (seconds).
KILLS = 8
SEED = 20


@pytest.fixture
def often_killed(product: Product) -> Product:
    """The product with a supervisor that systemd restarts at once, however often it dies."""
    product.user_unit_drop_in(SUPERVISOR, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=0\n")
    return product


class Cut:
    """Runs a call in a thread and kills the supervisor a given time after it could begin with it.

    It is stopped while the call is sent: how late this thread is woken decides nothing then.
    """

    def __init__(self, product: Product, delay: float, call: Callable[[Any], Any]) -> None:
        self.outcome: object = None
        pid = product.supervisor_pid()
        outer = product.host.outer_pid(pid)
        connected, stopped, sent = threading.Event(), threading.Event(), threading.Event()

        def run() -> None:
            with product.client() as client:
                product_call = call(client)
                client.call(client.sessions.ListSessions, sessions_pb2.ListSessionsRequest())
                connected.set()
                assert stopped.wait(PATIENCE)
                sent.set()
                try:
                    self.outcome = product_call()
                except SessiondError as error:
                    self.outcome = error

        thread = threading.Thread(target=run)
        thread.start()
        assert connected.wait(PATIENCE)
        os.kill(outer, signal.SIGSTOP)
        stopped.set()
        assert sent.wait(PATIENCE)
        os.kill(outer, signal.SIGCONT)
        # The instant of the kill is what is varied; nothing is waited for.
        time.sleep(delay)
        os.kill(outer, signal.SIGKILL)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the call never ended"
        product.serving(besides=pid)

    @property
    def succeeded(self) -> bool:
        """Whether the caller was told that it is done."""
        return self.outcome is not None and not isinstance(self.outcome, SessiondError)


def _delays(longest: float) -> list[float]:
    """Spread over all of it, the first near its beginning."""
    chance = random.Random(SEED)
    return [(number + chance.random()) / KILLS * longest for number in range(KILLS)]


def test_sigkill_during_create_leaves_a_whole_session_or_none(often_killed: Product) -> None:
    product = often_killed
    cut_short = 0
    for number, delay in enumerate(_delays(0.008)):
        folder = product.folder(f"cut-{number}")

        def create(client: Any, path: str = folder) -> Callable[[], Any]:
            request = sessions_pb2.CreateSessionRequest(path=path)
            return lambda: client.call(client.sessions.CreateSession, request)

        cut = Cut(product, delay, create)
        known = [one for one in product.sessions() if one.path == folder]
        identity = product.identity(folder)
        linked = [one for one, path in product.links().items() if path == folder]
        what = f"killed {delay * 1000:.1f} ms after the call"
        cut_short += not cut.succeeded
        if known:
            assert identity is not None, f"{what}: listed without an identity"
            assert [one.id for one in known] == [identity["id"]] == linked, what
            assert known[0].problem == known[0].conflict == "", what
        else:
            assert not cut.succeeded, f"{what}: told as made, and gone"
            assert identity is None, f"{what}: the folder has an identity that nobody knows"
            assert linked == [], f"{what}: a link without a session"
            # A second attempt is as good as a first.
            product.new(folder=folder)
        assert product.ctl("start", folder)
    assert cut_short, "no kill came before the end of a call: the delays are too long"
    product.agrees()


def test_sigkill_during_start_leaves_one_daemon_or_none(often_killed: Product) -> None:
    product = often_killed
    session = product.new()["id"]
    cut_short = 0
    for delay in _delays(0.2):

        def start(client: Any) -> Callable[[], Any]:
            request = sessions_pb2.StartSessionRequest(session=session)
            return lambda: client.call(client.sessions.StartSession, request)

        cut_short += not Cut(product, delay, start).succeeded
        product.agrees()
        # A second attempt is as good as a first.
        assert product.json("start", session)[0]["state"] == "active"
        assert product.processes(session) == [product.pid(session)]
        product.host.systemctl("stop", daemon_unit(session))
        assert product.processes(session) == []
    assert cut_short, "no kill came before the end of a call: the delays are too long"


def test_who_asks_at_the_moment_of_ready_is_told_all_that_systemd_knows(product: Product) -> None:
    killed, frozen, rests = product.started()["id"], product.started()["id"], product.new("--enable")["id"]
    before = product.pid(killed)
    product.kill(before)
    product.back(killed, besides=before)
    product.host.systemctl("freeze", daemon_unit(frozen))
    until(lambda: product.row(frozen)["frozen"], "the list shows the freeze")
    product.agrees()
    expected = {one.id: one for one in product.sessions()}
    assert (expected[killed].restarts, expected[frozen].frozen) == (1, True)
    assert (expected[rests].enabled, expected[killed].enabled) == (True, False)
    for _ in range(5):
        product.host.systemctl("reset-failed", SUPERVISOR, check=False)
        # Returns at READY; nothing is waited for after it.
        product.host.systemctl("restart", SUPERVISOR)
        assert {one.id: one for one in product.sessions()} == expected
    product.host.systemctl("thaw", daemon_unit(frozen))


def test_a_killed_or_restarted_supervisor_finds_its_sessions_as_they_were(product: Product) -> None:
    sessions = [product.started()["id"] for _ in range(3)]
    product.ctl("label", sessions[0], "team=web")
    before = {one: product.unit(one) for one in sessions}
    for end in (product.kill_supervisor, product.restart_supervisor):
        pid = end()
        assert pid == product.supervisor_pid()
        assert {one: product.unit(one) for one in sessions} == before
        rows = product.agrees()
        assert sorted(row["id"] for row in rows) == sorted(sessions)
        assert {row["id"]: row["labels"] for row in rows}[sessions[0]] == {"team": "web"}
        # What was found again is no news.
        assert product.ctl("events", "--json") == ""


def test_a_stopped_supervisor_stops_no_session_and_verbs_say_what_starts_it(product: Product) -> None:
    session = product.started()["id"]
    before = product.unit(session)
    product.stop_supervisor()
    assert product.unit(session) == before
    error = product.refused(5, "list")
    assert error["code"] == "supervisor_unreachable"
    assert "sessionctl up" in error["hint"]
    product.ctl("up")
    assert product.unit(session) == before
    product.agrees()


def test_sessions_are_found_again_without_the_database(product: Product) -> None:
    outside = product.started()
    product.ctl("label", outside["id"], "lost=yes")
    product.ctl("enable", outside["id"])
    stopped = product.new("--name", "stays")
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"rm {STATE}/sessiond.db*"])
    product.start_supervisor()
    rows = {row["id"]: row for row in product.agrees()}
    assert rows.keys() == {outside["id"], stopped["id"]}
    assert rows[outside["id"]]["state"] == "active"
    assert rows[outside["id"]]["enabled"] is True
    assert rows[stopped["id"]]["name"] == "stays"
    # Labels are what the database held.
    assert rows[outside["id"]]["labels"] == {}


def test_sessions_in_the_roots_are_found_again_without_database_and_links(product: Product) -> None:
    folder = product.folder("rooted", under=INSIDE_ROOTS)
    session = product.started(folder=folder)["id"]
    pid = product.pid(session)
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"rm -r {STATE}/sessiond.db* {STATE}/sessions/*/workspace"])
    product.start_supervisor()
    [row] = product.agrees()
    assert (row["id"], row["path"], row["state"], row["pid"]) == (session, folder, "active", pid)
    assert product.links() == {session: folder}


def test_a_second_supervisor_is_refused_and_the_first_is_unharmed(product: Product) -> None:
    session = product.started()["id"]
    first, inode = product.supervisor_pid(), product.socket.stat().st_ino
    launcher = f"{HOME}/.local/share/sessiond/launcher"
    second = product.host.run([launcher], check=False)
    assert second.returncode == 1
    assert "running already" in second.stderr
    assert "Traceback" not in second.stderr
    assert product.socket.stat().st_ino == inode
    assert product.supervisor_pid() == product.info().pid == first
    assert [row["id"] for row in product.agrees()] == [session]


@pytest.mark.parametrize(
    "make",
    [
        "import socket; socket.socket(socket.AF_UNIX).bind(PATH)",
        "open(PATH, 'w').write('no socket')",
        "import os; os.symlink('/etc/passwd', PATH)",
    ],
    ids=["socket", "file", "symlink"],
)
def test_what_a_dead_supervisor_left_at_the_socket_is_replaced(product: Product, make: str) -> None:
    path = f"{product.host.runtime_dir}/sessiond/sessiond.sock"
    product.stop_supervisor()
    script = f"PATH = {path!r}; import os; os.makedirs(os.path.dirname(PATH), 0o700, exist_ok=True); {make}"
    product.host.run(["python3", "-c", script])
    product.start_supervisor()
    shown = product.host.run(["stat", "--format=%F %a %U", path]).stdout.strip()
    assert shown == "socket 600 tester"
    assert product.rows() == []
    assert product.host.path("/etc/passwd").read_text().startswith("root:")


def test_a_runtime_folder_that_is_a_symlink_is_refused(product: Product) -> None:
    folder = f"{product.host.runtime_dir}/sessiond"
    target = product.folder("elsewhere")
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"rm -rf {folder} && ln -s {target} {folder} && chmod 755 {target}"])
    try:
        launcher = f"{HOME}/.local/share/sessiond/launcher"
        done = product.host.run([launcher], check=False)
        assert done.returncode == 1
        assert folder in done.stderr
        assert "Traceback" not in done.stderr
        assert product.host.systemctl("start", SUPERVISOR, check=False).returncode != 0
        # Nothing was made or changed where the link leads.
        assert product.host.run(["sh", "-c", f"stat -c %a {target}; ls -A {target}"]).stdout == "755\n"
    finally:
        product.host.systemctl("stop", SUPERVISOR, check=False)
        product.host.run(["rm", "-f", folder])
    product.start_supervisor()
    assert product.rows() == []


def test_a_runtime_folder_of_another_user_is_refused(product: Product) -> None:
    folder = f"{product.host.runtime_dir}/sessiond"
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"rm -rf {folder}; mkdir -m 777 {folder}"], user=False)
    try:
        done = product.host.run([f"{HOME}/.local/share/sessiond/launcher"], check=False)
        assert done.returncode == 1
        assert "belongs to" in done.stderr
        assert product.host.run(["ls", "-A", folder]).stdout == ""
    finally:
        product.host.run(["rm", "-rf", folder], user=False)
    product.start_supervisor()
    assert product.rows() == []


def test_a_supervisor_that_hangs_is_restarted_by_the_watchdog(product: Product) -> None:
    session = product.started()["id"]
    before = product.unit(session)
    # Soon, and yet not for being kept waiting on a busy machine.
    product.user_unit_drop_in(SUPERVISOR, "[Service]\nWatchdogSec=15\n")
    pid = product.restart_supervisor()
    product.kill(pid, signal.SIGSTOP)
    product.serving(besides=pid)
    assert product.host.show(SUPERVISOR, "NRestarts")["NRestarts"] != "0"
    assert product.unit(session) == before
    product.agrees()


def test_sessionctl_down_and_up_leave_sessions_alone(product: Product) -> None:
    session = product.started()["id"]
    before = product.unit(session)
    product.ctl("down")
    assert product.host.show(SUPERVISOR, "ActiveState")["ActiveState"] == "inactive"
    assert product.unit(session) == before
    product.ctl("up")
    assert product.unit(session) == before
    until(lambda: product.state(session) == "active", "the session is shown as active again")


def test_a_daemon_that_dies_while_the_supervisor_is_away_is_told_right_afterwards(product: Product) -> None:
    session = product.started()["id"]
    product.stop_supervisor()
    pid = product.pid(session)
    product.kill(pid)
    again = product.new_pid(session, besides=pid)
    stopped = product.host.systemctl("stop", daemon_unit(session))
    assert stopped.returncode == 0
    product.start_supervisor()
    [row] = product.agrees()
    assert (row["state"], row["pid"]) == ("inactive", None)
    assert again not in product.processes(session)
