"""Bad days that clients make: garbage, half-open connections, readers that do not read, and crowds."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from sessiond.errors import AlreadyExists, SessiondError
from sessiond.rpc._generated.v1 import daemon_pb2, daemon_pb2_grpc, events_pb2, events_pb2_grpc, sessions_pb2
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from tests.system.product import PATIENCE, SUPERVISOR, Product, daemon_unit, until

# A client that falls behind is let go when so many events wait for it; what the transport holds comes on top.
READER_BUFFER = 50
CROWD = 24
# What the first bytes of an HTTP/2 connection are.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": b"\0" * 65536,
    "noise": bytes((7 * number * number + 3) % 256 for number in range(65536)),
    "half a preface": PREFACE[:9],
    "preface alone": PREFACE,
    "preface and a frame cut off": PREFACE + b"\0\0\x40\x04\0\0\0\0\0" + b"\0" * 7,
    "preface and a frame too large": PREFACE + b"\xff\xff\xff\x00\0\0\0\0\x01" + b"\0" * 1000,
    "preface and a huge header": PREFACE
    + b"\0\0\0\x04\0\0\0\0\0"
    + b"\0\x40\0\x01\x04\0\0\0\x01"
    + b"\x40" * 16384,
}


def _connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    client.connect(str(path))
    client.settimeout(5)
    return client


def test_garbage_and_half_open_connections_disturb_nobody(product: Product) -> None:
    session = product.started()["id"]
    supervisor, daemon = product.supervisor_pid(), product.pid(session)
    sockets = (product.socket, product.daemon_socket(session))
    with ExitStack() as held:
        for path in sockets:
            for data in GARBAGE.values():
                for keep_open in (False, True):
                    client = held.enter_context(_connect(path))
                    try:
                        client.sendall(data)
                    except (BrokenPipeError, ConnectionResetError, TimeoutError):
                        # Refused before it was all read, which is as good.
                        continue
                    if not keep_open:
                        client.shutdown(socket.SHUT_WR)
        # A crowd that never says a word, on top.
        for _ in range(100):
            held.enter_context(_connect(product.socket))
        assert product.json("restart", session)[0]["state"] == "active"
        assert [row["id"] for row in product.rows()] == [session]
        assert _daemon_info(product, session).session == session
    assert product.supervisor_pid() == supervisor
    assert product.host.show(SUPERVISOR, "NRestarts")["NRestarts"] == "0"
    again = product.pid(session)
    assert again != daemon, "the restart asked for"
    until(
        lambda: psutil.Process(product.host.outer_pid(supervisor)).num_fds() < 60,
        "the connections are closed",
    )
    assert _daemon_info(product, session).pid == again
    product.agrees()


def _daemon_info(product: Product, session: str, asked: str = "") -> daemon_pb2.GetDaemonInfoResponse:
    with grpc.insecure_channel(
        unix_address(str(product.daemon_socket(session))), options=CHANNEL_OPTIONS
    ) as channel:
        stub = daemon_pb2_grpc.SessionDaemonServiceStub(channel)
        response: daemon_pb2.GetDaemonInfoResponse = stub.GetDaemonInfo(
            daemon_pb2.GetDaemonInfoRequest(session=asked or session), timeout=PATIENCE
        )
        return response


@pytest.fixture
def impatient(product: Product) -> Product:
    """The product with a small bound on what waits for one reader."""
    drop_in = f"[Service]\nEnvironment=SESSIOND_EVENTS_READER_BUFFER={READER_BUFFER}\n"
    product.user_unit_drop_in(SUPERVISOR, drop_in)
    product.restart_supervisor()
    return product


def test_a_client_that_reads_nothing_is_let_go_alone_and_costs_no_memory(impatient: Product) -> None:
    product = impatient
    session = product.new()["id"]
    process = psutil.Process(product.host.outer_pid(product.supervisor_pid()))
    # A transport that does not read ahead of its reader.
    unread = (*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096))
    with grpc.insecure_channel(f"unix:{product.socket}", options=unread) as lazy, product.client() as keen:
        stub: Any = events_pb2_grpc.EventsServiceStub(lazy)
        lazy_call = stub.WatchEvents(events_pb2.WatchEventsRequest(), timeout=10 * PATIENCE)
        assert next(lazy_call).HasField("cursor")
        keen_call = keen.events.WatchEvents(events_pb2.WatchEventsRequest())
        assert next(keen_call).HasField("cursor")
        read: list[str] = []
        reader = threading.Thread(target=_read, args=(keen_call, read))
        reader.start()
        memory, sent = process.memory_info().rss, 0
        # Well beyond what the transport holds back (64 KiB): each event is about 250 bytes.
        with product.client() as writer:
            for number in range(1000):
                request = sessions_pb2.UpdateSessionRequest(
                    session=session, set_labels={f"key-{number % 2}": str(number)}
                )
                writer.call(writer.sessions.UpdateSession, request)
                sent += 1
                # Its thread, on a machine that is busy with others, is not to fall behind by so many itself.
                behind = sent - READER_BUFFER // 2
                until(lambda behind=behind: len(read) >= behind, "the reader that reads keeps up")  # type: ignore[misc]
        grown = process.memory_info().rss - memory
        until(lambda: len(read) >= sent, f"the reader that reads has all {sent} events")
        late: list[str] = []
        with pytest.raises(grpc.RpcError) as let_go:
            late.extend(response.event.kind for response in lazy_call)
        assert let_go.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "slow_reader" in str(let_go.value.trailing_metadata())
        assert len(late) < sent
        # The reader that reads is still served.
        product.ctl("annotate", session, "last=1")
        until(lambda: len(read) > sent, "the reader that reads has the next event")
        keen_call.cancel()
        reader.join(PATIENCE)
        assert not reader.is_alive()
    assert grown < 16 * 1024 * 1024, f"the supervisor grew by {grown} bytes for one that reads nothing"
    assert product.info().pid == product.supervisor_pid()


def _read(call: Any, kinds: list[str]) -> None:
    try:
        for response in call:
            if response.HasField("event"):
                kinds.append(response.event.kind)
    except grpc.RpcError as error:
        kinds.append(str(error.code()))


def test_many_watchers_that_vanish_leave_nothing(product: Product) -> None:
    session = product.new()["id"]
    process = psutil.Process(product.host.outer_pid(product.supervisor_pid()))
    with ExitStack() as held:
        for _ in range(30):
            client = held.enter_context(product.client())
            call = client.events.WatchEvents(events_pb2.WatchEventsRequest())
            assert next(call).HasField("cursor")
        crowded = process.num_fds()
    until(lambda: process.num_fds() <= crowded - 25, "their connections are closed")
    mark = product.cursor()
    product.ctl("start", session)
    assert ("starting", "active") in product.moves(mark, session)


def _at_once(product: Product, calls: int, call: Callable[[Any, int], Any]) -> list[Any]:
    """Make calls at once, each on a connection of its own; answers and SessiondErrors, in order."""
    barrier = threading.Barrier(calls)

    def one(number: int) -> Any:
        with product.client() as client:
            barrier.wait(PATIENCE)
            try:
                return call(client, number)
            except SessiondError as error:
                return error

    with ThreadPoolExecutor(calls) as pool:
        return list(pool.map(one, range(calls)))


def test_of_many_new_on_one_path_at_once_one_wins(product: Product) -> None:
    folder = product.folder()

    def new(client: Any, number: int) -> Any:
        request = sessions_pb2.CreateSessionRequest(path=folder, name=f"wish-{number}")
        return client.call(client.sessions.CreateSession, request).session

    outcomes = _at_once(product, CROWD, new)
    made = [one for one in outcomes if not isinstance(one, SessiondError)]
    lost = [one for one in outcomes if isinstance(one, SessiondError)]
    assert len(made) == 1
    assert {(type(one), one.code) for one in lost} == {(AlreadyExists, "session_exists")}
    [row] = product.rows()
    assert row["id"] == made[0].id
    identity = product.identity(folder)
    assert identity is not None
    assert (identity["id"], identity["name"]) == (made[0].id, made[0].name)
    assert product.links() == {made[0].id: folder}


def test_clients_that_hang_up_in_the_middle_leave_whole_sessions_or_none(product: Product) -> None:
    delays = [number * 0.0015 for number in range(12)]
    folders = [product.folder() for _ in delays]
    with product.client() as client:
        for folder, delay in zip(folders, delays, strict=True):
            request = sessions_pb2.CreateSessionRequest(path=folder, labels={"whole": "yes"})
            call = client.sessions.CreateSession.future(request)
            # The instant of the hanging up is what is varied; nothing is waited for.
            time.sleep(delay)
            call.cancel()

    def whole() -> bool:
        rows = {row.path: row for row in product.sessions()}
        identities = {folder: one for folder in folders if (one := product.identity(folder))}
        links = product.links()
        return {path: row.id for path, row in rows.items()} == {
            folder: one["id"] for folder, one in identities.items()
        } == {path: session for session, path in links.items()} and all(
            dict(row.labels) == {"whole": "yes"} for row in rows.values()
        )

    # Those under way come to their end although nobody waits for them.
    until(whole, "each folder is a session with its labels, its identity and its link, or none of it")
    product.restart_supervisor()
    assert whole()
    for folder in folders:
        if product.identity(folder) is None:
            product.new(folder=folder)


def test_of_many_sessionctl_new_on_one_path_at_once_one_wins_and_the_others_get_4(product: Product) -> None:
    folder = product.folder()
    program = Path(sys.executable).parent / "sessionctl"
    running = [product.host.popen([program, "new", folder, "--json"]) for _ in range(6)]
    said = [one.communicate(timeout=PATIENCE)[0] for one in running]
    assert Counter(one.returncode for one in running) == {0: 1, 4: 5}, said
    for one, text in zip(running, said, strict=True):
        if one.returncode:
            assert json.loads(text)["error"]["code"] == "session_exists"
    [row] = product.rows()
    assert row["path"] == folder


def test_of_many_new_that_want_one_name_at_once_one_wins(product: Product) -> None:
    folders = [product.folder() for _ in range(8)]

    def new(client: Any, number: int) -> Any:
        request = sessions_pb2.CreateSessionRequest(path=folders[number], name="wanted")
        return client.call(client.sessions.CreateSession, request).session

    outcomes = _at_once(product, len(folders), new)
    lost = [one.code for one in outcomes if isinstance(one, SessiondError)]
    assert lost == ["name_taken"] * (len(folders) - 1)
    [row] = product.rows()
    assert row["name"] == "wanted"
    # Those that lost left nothing in their folders.
    identities = [product.identity(folder) for folder in folders]
    assert [one["id"] for one in identities if one] == [row["id"]]


def test_many_changes_of_one_session_at_once_all_count(product: Product) -> None:
    session = product.new()["id"]

    def change(client: Any, number: int) -> Any:
        if number % 3 == 0:
            archive = sessions_pb2.ArchiveSessionRequest(session=session)
            return client.call(client.sessions.ArchiveSession, archive)
        labels = {f"key-{number}": "set"}
        request = sessions_pb2.UpdateSessionRequest(session=session, set_labels=labels)
        return client.call(client.sessions.UpdateSession, request)

    outcomes = _at_once(product, CROWD, change)
    assert [one for one in outcomes if isinstance(one, SessiondError)] == []
    for _ in range(2):
        row = product.row(session)
        assert row["archived"] is True
        assert row["labels"] == {f"key-{number}": "set" for number in range(CROWD) if number % 3}
        product.restart_supervisor()


def test_many_starts_at_once_give_one_daemon_and_happy_answers(product: Product) -> None:
    session = product.new()["id"]
    mark = product.cursor()

    def start(client: Any, number: int) -> Any:
        request = sessions_pb2.StartSessionRequest(session=session)
        return client.call(client.sessions.StartSession, request).session

    outcomes = _at_once(product, CROWD, start)
    assert [one for one in outcomes if isinstance(one, SessiondError)] == []
    pid = product.pid(session)
    assert {one.pid for one in outcomes} == {pid}
    assert product.processes(session) == [pid]
    assert product.unit(session)["NRestarts"] == "0"
    assert product.moves(mark, session) == [("inactive", "starting"), ("starting", "active")]
    product.agrees()


def test_starts_and_stops_at_once_end_in_what_systemd_says(product: Product) -> None:
    session = product.new()["id"]

    def either(client: Any, number: int) -> Any:
        if number % 2:
            return client.call(
                client.sessions.StartSession, sessions_pb2.StartSessionRequest(session=session)
            )
        return client.call(client.sessions.StopSession, sessions_pb2.StopSessionRequest(session=session))

    outcomes = _at_once(product, 12, either)
    odd = [one for one in outcomes if isinstance(one, SessiondError) and one.code != "start_failed"]
    assert odd == []
    [row] = product.agrees()
    assert row["state"] in ("active", "inactive")
    assert len(product.processes(session)) == (row["state"] == "active")
    assert product.json("start", session)[0]["state"] == "active"
    product.agrees()


def test_many_sessions_started_at_once_all_become_active(product: Product) -> None:
    sessions = [product.new()["id"] for _ in range(10)]

    def start(client: Any, number: int) -> Any:
        request = sessions_pb2.StartSessionRequest(session=sessions[number])
        return client.call(client.sessions.StartSession, request).session

    outcomes = _at_once(product, len(sessions), start)
    assert [one for one in outcomes if isinstance(one, SessiondError)] == []
    rows = product.agrees()
    assert [row["state"] for row in rows] == ["active"] * len(sessions)
    assert len({row["pid"] for row in rows}) == len(sessions)


def test_list_and_get_make_no_call_to_systemd(product: Product) -> None:
    sessions = [product.started()["id"], product.new("--enable")["id"]]
    product.agrees()

    def made_none() -> bool:
        before = product.info().init_calls
        with product.client() as client:
            for _ in range(100):
                request = sessions_pb2.ListSessionsRequest()
                listed = client.call(client.sessions.ListSessions, request).sessions
                assert {one.id for one in listed} == set(sessions)
                for session in sessions:
                    asked = sessions_pb2.GetSessionRequest(session=session)
                    assert client.call(client.sessions.GetSession, asked).session.id == session
        return product.info().init_calls == before

    # What was begun above, such as asking what starts at boot, comes to its end meanwhile.
    until(made_none, "three hundred questions without one call")


def test_a_daemon_answers_for_its_own_session_alone(product: Product) -> None:
    first, second = product.started()["id"], product.started()["id"]
    assert _daemon_info(product, first).pid == product.pid(first)
    with pytest.raises(grpc.RpcError) as refused:
        _daemon_info(product, first, asked=second)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert product.unit(second)["ActiveState"] == "active"


def test_another_user_reaches_neither_socket(product: Product) -> None:
    session = product.started()["id"]
    base = f"{product.host.runtime_dir}/sessiond"
    paths = [f"{base}/sessiond.sock", f"{base}/sessions/{session}.sock"]
    shown = product.host.run(["stat", "--format=%a", base, f"{base}/sessions", *paths]).stdout.split()
    assert shown == ["700", "700", "600", "600"]
    program = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    for path in paths:
        words = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "python3",
            "-c",
            program,
            path,
        ]
        done = product.host.run(words, user=False, check=False)
        assert "PermissionError" in done.stderr
    assert product.host.show(daemon_unit(session), "ActiveState")["ActiveState"] == "active"
