"""Bad days of terminals whose daemon is restarted on purpose: at each instant of a start, under calls."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from sessiond.errors import ErrorKind, SessiondError
from sessiond.model.unit import daemon_unit
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc, sessions_pb2
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from sessiond.rpc.status import from_rpc_error
from tests.system.agents_case import Crew, crew_of
from tests.system.product import PATIENCE, Product

SESSIONCTL = str(Path(sys.executable).parent / "sessionctl")
# A restart at each of so many instants, which lie so many seconds apart from the new process's first on: to
# well behind its being ready.
INSTANTS = 20
APART = 0.015
ASKERS = 2
# No more than one answer tells, however long the restarts take.
LINES = "n=0; until [ -e stop ]; do n=$((n + 1)); echo $n; sleep 0.1; done; echo last"
# Seconds in which the processor is left to a daemon that is not there yet.
BREATH = 0.005


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    with crew_of(product, product.started()["id"]) as made:
        yield made


@contextmanager
def asked(crew: Crew) -> Iterator[list[SessiondError]]:
    """Clients that ask the session's daemon for its agents without a pause, each on channels of its own;
    yields what was answered instead, but for there being nobody who answers."""
    faults: list[SessiondError] = []
    over = threading.Event()
    address = unix_address(str(crew.product.daemon_socket(crew.session)))
    request = pb.ListAgentsRequest(session=crew.session)

    def ask() -> None:
        while not over.is_set():
            with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                stub = agents_pb2_grpc.AgentsServiceStub(channel)
                try:
                    while not over.is_set():
                        stub.ListAgents(request, timeout=PATIENCE)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.CANCELLED:
                        continue
                    if (told := from_rpc_error(error)).kind is not ErrorKind.UNREACHABLE:
                        faults.append(told)
                    over.wait(BREATH)

    askers = [threading.Thread(target=ask) for _ in range(ASKERS)]
    for one in askers:
        one.start()
    try:
        yield faults
    finally:
        over.set()
        for one in askers:
            one.join()


def restart(crew: Crew, how: str) -> None:
    """Restart the session's daemon, as sessionctl does or by hand."""
    if how == "systemctl":
        crew.product.host.systemctl("restart", daemon_unit(crew.session))
        return
    with crew.product.client() as client:
        client.call(client.sessions.RestartSession, sessions_pb2.RestartSessionRequest(session=crew.session))


@pytest.mark.parametrize("how", ["sessionctl", "systemctl"])
def test_a_restart_at_any_instant_of_a_start_keeps_terminals(crew: Crew, how: str) -> None:
    product, unit = crew.product, daemon_unit(crew.session)
    folder = product.row(crew.session)["path"]
    agent = crew.run("bash", "-c", LINES, name="it", tty=True, cwd=folder)
    # With its session: who is asked for a name alone has each session's answer in a few seconds, or none.
    follow = [SESSIONCTL, "output", "-f", "-n", "1000", f"{crew.session}/it"]
    following = product.host.popen(follow, stderr=subprocess.PIPE)
    begin = product.cursor()
    with asked(crew) as faults:
        for instant in range(INSTANTS):
            # So many starts in a minute would be one too many.
            product.host.systemctl("reset-failed", unit)
            crew.kill_daemon()
            # An instant is no event that could be waited for.
            time.sleep(instant * APART)
            restart(crew, how)
            kept = product.host.show(unit, "NFileDescriptorStore")["NFileDescriptorStore"]
            assert kept == "2", f"restart {instant}\n{product.ctl('logs', crew.session)}"
            assert product.host.show(agent.unit, "MainPID")["MainPID"] == str(agent.pid)
    assert not faults, faults
    # Nor is it ever told to be at rest, by which those who follow would take it for ended.
    assert {state for _, state in product.moves(begin, crew.session)} <= {"starting", "active", "stopping"}
    product.write(f"{folder}/stop", "")
    out, err = following.communicate(timeout=PATIENCE)
    assert following.returncode == 0, err
    lines = out.splitlines()
    assert lines == [*(str(n) for n in range(1, len(lines))), "last"]
    assert crew.wait("it").exit_status == 0
    assert list(crew.lines("it")) == lines
