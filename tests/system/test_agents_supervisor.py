"""Agents asked for through the supervisor: daemons that die and come back, sessions at rest, all at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessiond.errors import Conflict, SessiondError
from sessiond.model.unit import daemon_unit
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import sessions_pb2
from tests.system.agents_case import Crew, state
from tests.system.product import PATIENCE, STATE, Product, until

FOR_EVER = "while :; do sleep 1000; done"


class Through(Crew):
    """The agents of one session, as the supervisor tells them."""

    def __init__(self, product: Product, session: str) -> None:
        super().__init__(product, session, product.socket)


Made = Callable[[], Through]


@pytest.fixture
def crews(product: Product) -> Iterator[Made]:
    """A factory of sessions that run."""
    made: list[Through] = []

    def make() -> Through:
        made.append(Through(product, product.started()["id"]))
        return made[-1]

    yield make
    for one in made:
        one.close()


def listing(product: Product, **fields: Any) -> pb.ListAgentsResponse:
    """Agents of all sessions."""
    with product.client() as client:
        request = pb.ListAgentsRequest(**fields)
        response: pb.ListAgentsResponse = client.call(client.agents.ListAgents, request)
        return response


def _of(response: pb.ListAgentsResponse, session: str) -> pb.ListAgentsResponse | None:
    """A listing in which a session has answered."""
    return None if session in {one.session for one in response.unanswered} else response


def delete(product: Product, session: str, *, stop: bool = False) -> None:
    """Delete a session."""
    with product.client() as client:
        request = sessions_pb2.DeleteSessionRequest(session=session, stop=stop)
        client.call(client.sessions.DeleteSession, request)


def left_alone(crew: Through) -> None:
    """Have the session's daemon dead for good, and what it left running go on."""
    product = crew.product
    product.user_unit_drop_in(daemon_unit(crew.session), "[Service]\nRestart=no\n")
    product.kill(product.pid(crew.session))
    product.wait(crew.session, "error")


def test_an_agent_lives_and_ends_through_the_supervisor(crews: Made) -> None:
    crew = crews()
    row = crew.product.row(crew.session)
    agent = crew.sh("echo hello; read -r word; exit 5", tty=True)
    assert (agent.session, agent.session_name) == (crew.session, row["name"])
    assert crew.product.row(crew.session)["last_accessed"] >= (row["last_accessed"] or "")
    crew.call("SendInput", agent=agent.id, parts=[pb.InputPart(key="Enter")])
    ended = crew.wait(agent.name)
    assert (state(ended), ended.exit_status, ended.session_name) == ("failed", 5, row["name"])
    assert crew.lines(agent.id)[0] == "hello"


def test_calls_find_the_daemon_of_each_moment(crews: Made) -> None:
    crew = crews()
    agent = crew.sh(FOR_EVER)
    for _ in range(5):
        before = crew.product.pid(crew.session)
        crew.product.kill(before)
        # At once: the supervisor waits for the daemon that systemd has back.
        assert until(lambda: _running(crew, agent.id), "an answer of the new daemon").pid == agent.pid
        assert crew.product.pid(crew.session) != before


def _running(crew: Through, agent: str) -> pb.Agent | None:
    """The agent, unless its daemon went away over the question: then nothing was done."""
    try:
        found = crew.get(agent)
        return found if found.HasField("pid") else None
    except SessiondError as error:
        if (error.code, error.fields.get("effect")) != ("daemon_unreachable", "none"):
            raise
        return None


def test_a_session_that_was_stopped_tells_its_agents_from_what_is_kept(crews: Made) -> None:
    crew = crews()
    done = crew.sh("echo words; exit 3")
    shown = crew.sh("printf 'on screen'", tty=True)
    runs = crew.sh(FOR_EVER)
    for one in (done, shown):
        crew.wait(one.id)
    crew.product.ctl("stop", crew.session)
    assert crew.product.state(crew.session) == "inactive"
    assert {state(one) for one in crew.list(include_ended=True)} == {"failed", "completed", "terminated"}
    assert state(crew.get(runs.id)) == "terminated"
    assert crew.lines(done.id) == ["words"]
    assert crew.call("GetScreen", agent=shown.id).content.startswith("on screen")
    error = crew.refused("session_not_running", "SpawnAgent", command=["true"])
    assert error.hint.startswith("sessionctl start ")
    crew.call("RemoveAgent", agent=done.id)
    crew.refused("agent_not_found", "GetAgent", agent=done.id)
    assert not crew.product.host.path(crew.folder(done)).exists()
    crew.product.ctl("start", crew.session)
    assert {one.id for one in crew.list(include_ended=True)} == {shown.id, runs.id}


def test_agents_of_a_daemon_that_is_dead_for_good_are_shown_running(crews: Made) -> None:
    crew = crews()
    agent = crew.sh(f"echo out; {FOR_EVER}")
    crew.printed(agent.id, "out")
    left_alone(crew)
    assert (state(crew.get(agent.id)), crew.get(agent.id).pid) == ("running", agent.pid)
    assert crew.lines(agent.id) == ["out"]
    assert [one.id for one in listing(crew.product).agents] == [agent.id]
    crew.refused("session_not_running", "StopAgent", agent=agent.id)
    with pytest.raises(Conflict) as caught:
        delete(crew.product, crew.session)
    assert caught.value.code == "agents_running"
    assert crew.pids(agent)
    delete(crew.product, crew.session, stop=True)
    assert not crew.loaded()


def test_an_end_while_no_daemon_looks_is_told_and_stays(crews: Made) -> None:
    crew = crews()
    product = crew.product
    agent = crew.sh(FOR_EVER)
    left_alone(crew)
    product.kill(agent.pid, signal.SIGSEGV)
    until(lambda: state(crew.get(agent.id)) == "failed", "the end of the agent")
    assert crew.get(agent.id).signal == "SIGSEGV"
    # It was only read: the daemon that comes back writes it down.
    assert not product.host.path(f"{STATE}/sessions/{crew.session}/agents/{agent.id}/end.json").exists()
    product.host.run(["rm", "-r", f"/home/tester/.config/systemd/user/{daemon_unit(crew.session)}.d"])
    product.host.systemctl("daemon-reload")
    product.ctl("start", crew.session)
    assert (state(crew.wait(agent.id)), crew.get(agent.id).signal) == ("failed", "SIGSEGV")
    crew.gone()


def test_agents_of_all_sessions_are_told_at_once_and_acted_upon(crews: Made) -> None:
    one, two, rest = crews(), crews(), crews()
    product = one.product
    for crew in (one, two):
        crew.sh(FOR_EVER, name="writer", group="g")
        crew.sh(FOR_EVER, name="other")
    ended = rest.sh("true", name="gone")
    rest.wait(ended.id)
    product.ctl("stop", rest.session)
    selection = pb.AgentSelection(include_ended=True)
    every = until(
        lambda: None if (told := listing(product, selection=selection)).unanswered else told,
        "an answer of all of them",
    )
    assert sorted(agent.name for agent in every.agents) == ["gone", "other", "other", "writer", "writer"]
    names = [agent.session_name for agent in every.agents]
    assert names == sorted(names)
    with product.client() as client:
        request = pb.BatchAgentsRequest(action=pb.BATCH_ACTION_STOP, selection=pb.AgentSelection(group="g"))
        response = client.call(client.agents.BatchAgents, request)
    assert [(result.agent.name, result.code) for result in response.results] == [("writer", "")] * 2
    assert sorted(agent.name for agent in listing(product).agents) == ["other", "other"]


def test_a_daemon_that_hangs_is_told_beside_the_others(crews: Made) -> None:
    good, bad = crews(), crews()
    for crew in (good, bad):
        crew.sh(FOR_EVER)
    product = good.product
    pid = product.pid(bad.session)
    product.kill(pid, signal.SIGSTOP)
    try:
        # Where the machine is busy, the one that does not hang may be late as well.
        found = until(lambda: _of(listing(product), good.session), "the answer of the other")
    finally:
        product.kill(pid, signal.SIGCONT)
    assert [one.session for one in found.agents] == [good.session]
    assert [one.session for one in found.unanswered] == [bad.session]
    until(lambda: len(listing(product).agents) == 2, "both to answer")


def test_a_stream_ends_with_the_supervisor_and_the_next_one_goes_on_where_it_was(crews: Made) -> None:
    crew = crews()
    product = crew.product
    agent = crew.sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    stdout = pb.OUTPUT_STREAM_STDOUT
    request = pb.StreamRecordRequest(session=crew.session, agent=agent.id, stream=stdout, follow=True)
    received = bytearray()
    flows = threading.Event()

    def read() -> None:
        with product.client() as client:
            for message in client.stream(client.agents.StreamRecord, request):
                received.extend(message.data)
                flows.set()

    failed: list[SessiondError] = []

    def reader() -> None:
        try:
            read()
        except SessiondError as error:
            failed.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    assert flows.wait(PATIENCE)
    product.kill_supervisor()
    thread.join(PATIENCE)
    assert [one.code for one in failed] == ["supervisor_unreachable"]
    crew.stop(agent.id)
    request.offset = len(received)
    request.follow = False
    with product.client() as client:
        for message in client.stream(client.agents.StreamRecord, request):
            received.extend(message.data)
    numbers = [int(line) for line in received.split()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_all_that_is_kept_of_agents_goes_with_the_session(crews: Made) -> None:
    crew = crews()
    product = crew.product
    crew.sh("true", name="ended")
    crew.sh(FOR_EVER, name="runs")
    delete(product, crew.session, stop=True)
    assert not product.host.path(f"{STATE}/sessions/{crew.session}").exists()
    launches = product.host.path(f"{product.host.runtime_dir}/sessiond/launches")
    assert not [one for one in launches.glob("*") if one.name.startswith(crew.session)]
    assert not crew.loaded()
