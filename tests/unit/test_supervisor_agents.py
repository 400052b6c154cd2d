"""Agents in the supervisor: calls reach the daemon of their session as they are, and its word comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from sessiond.daemon.leaving import leaving
from sessiond.errors import Conflict, NotFound, SessiondError, Unreachable
from sessiond.model.state import SessionState
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.server import Server
from sessiond.supervisor.agents import addressed, has_field
from sessiond.testing.fake_init import Behaviour
from tests.unit.supervisor_agents_case import PATIENCE, House, house


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


def get(session: str, agent: str = "one") -> pb.GetAgentRequest:
    return pb.GetAgentRequest(session=session, agent=agent)


# ---- one question, one answer


async def test_a_call_reaches_the_daemon_with_the_id_and_the_answer_has_the_session_name(home: House) -> None:
    session, daemon = await home.running("shop")
    answer = await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    assert (answer.agent.name, answer.agent.session_name) == ("one", "shop")
    assert [one.session for one in daemon.requests] == [session]


async def test_what_only_a_newer_release_knows_passes_both_ways(home: House) -> None:
    _, daemon = await home.running("shop")
    raw = home.channel.unary_unary("/sessiond.v1.AgentsService/GetAgent")
    answer = await raw(get("shop").SerializeToString() + b"\xfa\x7f\x05later", timeout=PATIENCE)
    assert pb.GetAgentResponse.FromString(answer).agent.session_name == "shop"
    assert b"later" in daemon.requests[0].SerializeToString()


async def test_answers_without_an_agent_stay_as_they_are(home: House) -> None:
    await home.running("shop")
    answer = await home.stub.SendInput(pb.SendInputRequest(session="shop"), timeout=PATIENCE)
    assert answer == pb.SendInputResponse(bytes=7)


async def test_the_daemons_error_comes_back_whole(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.fault = NotFound("agent_not_found", "no agent ☃", hint="look", fields={"agent": "x"})
    error = await home.fails(home.stub.GetAgent(get("shop"), timeout=PATIENCE))
    assert isinstance(error, NotFound)
    assert (error.code, error.message, error.hint) == ("agent_not_found", "no agent ☃", "look")
    assert error.fields == {"agent": "x"}


async def test_an_unavailable_of_the_daemons_own_is_not_taken_for_its_death(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.fault = Unreachable("init_unavailable", "systemd is away")
    error = await home.fails(home.stub.StopAgent(pb.StopAgentRequest(session="shop"), timeout=PATIENCE))
    assert error.code != "init_unavailable"  # not served by the stand-in
    error = await home.fails(home.stub.GetAgent(get("shop"), timeout=PATIENCE))
    assert error.code == "init_unavailable"


async def test_the_deadline_of_the_caller_is_the_daemons(home: House) -> None:
    _, daemon = await home.running("shop")
    await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    await home.stub.GetAgent(get("shop"))
    first, second = daemon.deadlines
    assert first is not None
    assert first < PATIENCE + 1
    assert second is None


async def test_a_caller_that_hangs_up_ends_the_daemons_call(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.held = asyncio.Event()
    call = home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    await daemon.asked.wait()
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        await daemon.broken_off.wait()


async def test_without_a_session_nobody_is_asked(home: House) -> None:
    assert (await home.fails(home.stub.GetAgent(get("")))).code == "session_missing"
    assert (await home.fails(home.stub.GetAgent(get("nobody")))).code == "session_not_found"


async def test_garbage_is_told_as_such(home: House) -> None:
    for name in ("GetAgent", "ListAgents", "BatchAgents"):
        raw = home.channel.unary_unary(f"/sessiond.v1.AgentsService/{name}")
        assert (await home.fails(raw(b"\x0a\xff\xff", timeout=PATIENCE))).code == "request_invalid"


async def test_using_a_session_is_its_last_access(home: House) -> None:
    session, _ = await home.running("shop")
    before = home.parts.directory.get(session).metadata.last_accessed
    await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    assert home.parts.directory.get(session).metadata.last_accessed == before
    await home.stub.SpawnAgent(pb.SpawnAgentRequest(session="shop", command=["true"]), timeout=PATIENCE)
    assert home.parts.directory.get(session).metadata.last_accessed > before


async def test_a_daemon_of_an_older_release_is_told_as_such(home: House) -> None:
    session = await home.session("shop")
    old = Server(home.paths.session_socket(session))
    await old.start()
    error = await home.fails(home.stub.GetAgent(get("shop"), timeout=PATIENCE))
    await old.stop(0)
    assert error.code == "daemon_outdated"
    assert "restart" in error.hint


# ---- daemons that come and go


async def test_a_daemon_that_was_restarted_is_reached_at_once(home: House) -> None:
    session, daemon = await home.running("shop")
    for _ in range(3):
        await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
        await daemon.stop()
        daemon = await home.daemon(session)
    await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    assert len(daemon.requests) == 1


async def test_a_call_waits_for_a_daemon_that_is_on_its_way_up(home: House) -> None:
    session = await home.session("shop", start=False)
    home.init.behaviours[session] = Behaviour(held=True)
    await home.parts.lifecycle.start(session, wait=False)
    await home.until(session, SessionState.STARTING)
    asked = asyncio.create_task(home.calls.unary("GetAgent", get("shop").SerializeToString(), PATIENCE))
    await asyncio.sleep(0)
    daemon = await home.daemon(session)
    assert not asked.done()
    home.init.ready(session)
    assert pb.GetAgentResponse.FromString(await asked).agent.name == "one"
    assert len(daemon.requests) == 1


async def test_a_call_that_waits_hears_that_the_daemon_failed(home: House) -> None:
    session = await home.session("shop", start=False)
    home.init.behaviours[session] = Behaviour(held=True)
    await home.parts.lifecycle.start(session, wait=False)
    await home.until(session, SessionState.STARTING)
    asked = asyncio.create_task(home.calls.unary("SpawnAgent", addressed(b"", session), PATIENCE))
    await asyncio.sleep(0)
    home.init.fail(session)
    with pytest.raises(Conflict) as caught:
        await asked
    assert caught.value.code == "session_not_running"


async def test_a_daemon_that_never_answers_is_given_up_and_nothing_was_done(home: House) -> None:
    session = await home.session("shop")
    calls = home.calls_with(patience=0.2)
    with pytest.raises(Unreachable) as caught:
        await calls.unary("SpawnAgent", pb.SpawnAgentRequest(session=session).SerializeToString(), None)
    assert caught.value.code == "daemon_unreachable"
    assert caught.value.fields["effect"] == "none"


async def test_a_socket_that_accepts_and_says_nothing_is_given_up(home: House, tmp_path: Path) -> None:
    import socket

    session = await home.session("shop")
    silent = home.paths.session_socket(session)
    silent.parent.mkdir(exist_ok=True)
    calls = home.calls_with(patience=2.0)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(silent))
        listening.listen()
        with pytest.raises(Unreachable):
            await calls.unary("GetAgent", get(session).SerializeToString(), None)
    await home.daemon(session)
    await calls.unary("GetAgent", get(session).SerializeToString(), PATIENCE)


async def test_a_daemon_that_dies_over_a_change_says_that_it_may_have_been_done(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.held = asyncio.Event()
    call = home.stub.SpawnAgent(pb.SpawnAgentRequest(session="shop"), timeout=PATIENCE)
    await daemon.asked.wait()
    await daemon.stop()
    error = await home.fails(call)
    assert isinstance(error, Unreachable)
    assert (error.code, error.fields["effect"]) == ("daemon_unreachable", "possible")


async def test_a_question_over_which_a_daemon_dies_is_asked_of_the_next(home: House) -> None:
    session, daemon = await home.running("shop")
    daemon.held = asyncio.Event()
    wait = pb.WaitAgentRequest(session="shop", agent="one")
    wait.timeout.FromSeconds(60)
    call = home.stub.WaitAgent(wait, timeout=PATIENCE)
    await daemon.asked.wait()
    await daemon.stop()
    following = await home.daemon(session)
    home.parts.directory.changed.fire()
    await call
    [asked] = following.requests
    assert 0 < asked.timeout.ToSeconds() < 60


async def test_a_question_to_a_daemon_that_ends_is_asked_of_the_next(home: House) -> None:
    session, daemon = await home.running("shop")
    daemon.fault = leaving()
    call = home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    await daemon.asked.wait()
    # It serves until it is gone, and is asked nothing more.
    error = await home.fails(home.stub.SpawnAgent(pb.SpawnAgentRequest(session="shop"), timeout=0.2))
    assert error.code == "call_timeout"
    await daemon.stop()
    following = await home.daemon(session)
    home.parts.directory.changed.fire()
    await call
    assert (len(daemon.requests), len(following.requests)) == (1, 1)


async def test_a_question_that_ends_every_daemon_is_not_asked_for_ever(home: House) -> None:
    session, daemon = await home.running("shop")
    daemon.held = asyncio.Event()
    call = home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    for _ in range(3):
        await daemon.asked.wait()
        await daemon.stop()
        daemon = await home.daemon(session)
        daemon.held = asyncio.Event()
        home.parts.directory.changed.fire()
    error = await home.fails(call)
    assert (error.code, error.fields["effect"]) == ("daemon_unreachable", "none")
    assert not daemon.requests


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("SpawnAgent", pb.SpawnAgentRequest),
        ("StopAgent", pb.StopAgentRequest),
        ("SendInput", pb.SendInputRequest),
    ],
)
async def test_what_needs_a_daemon_is_refused_with_the_way_to_start_it(
    home: House, method: str, request_type: Any
) -> None:
    await home.session("shop", start=False)
    error = await home.fails(getattr(home.stub, method)(request_type(session="shop"), timeout=PATIENCE))
    assert isinstance(error, Conflict)
    assert (error.code, error.hint) == ("session_not_running", "sessionctl start shop")


async def test_many_sessions_need_few_open_channels(home: House) -> None:
    names = [f"s{number}" for number in range(40)]
    for name in names:
        await home.running(name)
    answers = await asyncio.gather(*(home.stub.GetAgent(get(name), timeout=PATIENCE) for name in names))
    assert [one.agent.session_name for one in answers] == names
    again = [await home.stub.GetAgent(get(name), timeout=PATIENCE) for name in names]
    assert [one.agent.session_name for one in again] == names


# ---- streams


async def test_a_stream_comes_through_in_order_and_its_end_has_the_session_name(home: House) -> None:
    await home.running("shop")
    request = pb.StreamRecordRequest(session="shop", offset=5)
    messages = [one async for one in home.stub.StreamRecord(request, timeout=PATIENCE)]
    assert [one.offset for one in messages] == list(range(6))
    assert [one.ended.session_name for one in messages] == [""] * 5 + ["shop"]
    assert (messages[-1].ended.name, messages[-1].stream) == ("last", 2)


async def test_a_reader_that_stops_reading_stops_the_daemon(home: House) -> None:
    _, daemon = await home.running("shop")
    huge = 20_000  # 640 MB: more than anything on the way may hold
    call = home.stub.StreamRecord(pb.StreamRecordRequest(session="shop", offset=huge))
    await call.read()
    for _ in range(200):  # time in which a daemon that nothing held back would send thousands
        await home.stub.GetAgent(get("shop"), timeout=PATIENCE)
    assert daemon.sent < 1000
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        await daemon.broken_off.wait()


async def test_a_stream_whose_daemon_dies_says_so(home: House) -> None:
    _, daemon = await home.running("shop")
    call = home.stub.StreamRecord(pb.StreamRecordRequest(session="shop", offset=20_000))
    await call.read()
    await daemon.stop()

    async def drain() -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    assert (await home.fails(drain())).code == "daemon_unreachable"


async def test_an_error_of_a_stream_comes_back_whole(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.fault = NotFound("record_gone", "it is gone", hint="elsewhere")
    call = home.stub.StreamRecord(pb.StreamRecordRequest(session="shop"), timeout=PATIENCE)
    error = await home.fails(call.read())
    assert (error.code, error.hint) == ("record_gone", "elsewhere")


async def test_a_conversation_goes_both_ways_until_it_ends(home: House) -> None:
    session, daemon = await home.running("shop")
    before = home.parts.directory.get(session).metadata.last_accessed
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    assert (await call.read()).output.data == b"one"
    for word in (b"a", b"\x00\xff", b"x" * 100_000):
        await call.write(pb.AttachAgentRequest(input=word))
        assert (await call.read()).output.data == word
    await call.write(pb.AttachAgentRequest(input=b"end"))
    assert (await call.read()).ended.session_name == "shop"
    assert await call.read() is grpc.aio.EOF
    assert [one.session for one in daemon.requests] == [session, "", "", "", ""]
    assert home.parts.directory.get(session).metadata.last_accessed > before


async def test_the_end_of_a_clients_words_reaches_the_daemon(home: House) -> None:
    await home.running("shop")
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    await call.done_writing()
    assert (await call.read()).output.data == b"one"
    assert await call.read() is grpc.aio.EOF


async def test_a_client_that_goes_away_ends_the_conversation(home: House) -> None:
    _, daemon = await home.running("shop")
    call = home.stub.AttachAgent()
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    await call.read()
    call.cancel()
    async with asyncio.timeout(PATIENCE):
        await daemon.broken_off.wait()


async def test_a_conversation_that_the_daemon_refuses_ends_with_its_word(home: House) -> None:
    _, daemon = await home.running("shop")
    daemon.fault = Conflict("agent_no_terminal", "it has none", hint="output")
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    error = await home.fails(call.read())
    assert (error.code, error.hint) == ("agent_no_terminal", "output")


async def test_a_conversation_whose_daemon_dies_says_so(home: House) -> None:
    _, daemon = await home.running("shop")
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    await call.read()
    await daemon.stop()
    assert (await home.fails(call.read())).code == "daemon_unreachable"


async def test_a_conversation_must_begin(home: House) -> None:
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.done_writing()
    assert (await home.fails(call.read())).code == "attach_start_missing"
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(input=b"x"))
    assert (await home.fails(call.read())).code == "session_missing"


async def test_nobody_attaches_to_a_session_that_does_not_run(home: House) -> None:
    await home.session("shop", start=False)
    call = home.stub.AttachAgent(timeout=PATIENCE)
    await call.write(pb.AttachAgentRequest(session="shop", start=pb.AttachStart(agent="one")))
    assert (await home.fails(call.read())).code == "session_not_running"


# ---- all sessions


def agent(session: str, number: int, name: str, **fields: Any) -> pb.Agent:
    made = pb.Agent(id=f"{number:016x}", session=session, name=name, state=pb.AGENT_STATE_RUNNING, **fields)
    made.created_at.seconds = number
    return made


async def test_agents_of_all_sessions_come_by_session_then_oldest_first(home: House) -> None:
    for name, numbers in (("shop", (5, 3)), ("blog", (9, 1))):
        session, daemon = await home.running(name)
        home.keep(session, "any")
        daemon.agents = [agent(session, number, f"n{number}") for number in numbers]
    listing = await home.stub.ListAgents(pb.ListAgentsRequest(), timeout=PATIENCE)
    told = [(one.session_name, one.name) for one in listing.agents]
    assert told == [("blog", "n1"), ("blog", "n9"), ("shop", "n3"), ("shop", "n5")]
    assert not listing.unanswered


async def test_a_session_that_never_had_an_agent_is_not_asked(home: House) -> None:
    _, daemon = await home.running("shop")
    await home.stub.ListAgents(pb.ListAgentsRequest(), timeout=PATIENCE)
    assert not daemon.requests
    await home.stub.ListAgents(pb.ListAgentsRequest(session="shop"), timeout=PATIENCE)
    assert len(daemon.requests) == 1


async def test_who_gives_no_answer_is_told_beside_the_others(home: House) -> None:
    shop, daemon = await home.running("shop")
    daemon.agents = [agent(shop, 1, "one")]
    slow, held = await home.running("slow")
    held.held = asyncio.Event()
    broken, failing = await home.running("broken")
    failing.fault = SessiondError("state_failed", "its folder cannot be read")
    for session in (shop, slow, broken):
        home.keep(session, "any")
    # Long enough for the others, on a busy machine too.
    lists = home.lists_with(seconds=5.0)
    listing = await lists.listing(b"", None)
    assert [one.name for one in listing.agents] == ["one"]
    told = {one.session_name: (one.session, one.code) for one in listing.unanswered}
    assert told == {"slow": (slow, "call_timeout"), "broken": (broken, "state_failed")}
    async with asyncio.timeout(PATIENCE):
        await held.broken_off.wait()


async def test_words_choose_agents_over_sessions(home: House) -> None:
    for name, numbers in (("shop", (1, 2)), ("blog", (3, 4))):
        session, daemon = await home.running(name)
        home.keep(session, "any")
        daemon.agents = [agent(session, number, f"n{number % 2}") for number in numbers]

    async def names(*words: str) -> list[str]:
        request = pb.ListAgentsRequest(selection=pb.AgentSelection(agents=words))
        listing = await home.stub.ListAgents(request, timeout=PATIENCE)
        return [f"{one.session_name}/{one.name}" for one in listing.agents]

    assert await names("n1") == ["blog/n1", "shop/n1"]
    assert await names("shop/n1", "blog/n0") == ["blog/n0", "shop/n1"]
    assert await names("none") == []
    request = pb.ListAgentsRequest(session="shop", selection=pb.AgentSelection(agents=["blog/n1"]))
    assert (await home.fails(home.stub.ListAgents(request, timeout=PATIENCE))).code == "agent_elsewhere"


async def test_a_batch_is_done_where_its_agents_are(home: House) -> None:
    daemons: dict[str, Any] = {}
    for name, agents in (("shop", ("a", "bad")), ("blog", ("c",)), ("wiki", ("d",))):
        session, daemon = await home.running(name)
        home.keep(session, "any")
        daemon.agents = [agent(session, index + 16 * len(daemons), word) for index, word in enumerate(agents)]
        daemons[name] = daemon

    async def results(**fields: Any) -> list[tuple[str, str, str]]:
        request = pb.BatchAgentsRequest(action=pb.BATCH_ACTION_STOP, **fields)
        response = await home.stub.BatchAgents(request, timeout=PATIENCE)
        return [(one.agent.session_name, one.agent.name, one.code) for one in response.results]

    everything = pb.AgentSelection(states=[pb.AGENT_STATE_RUNNING])
    assert await results(selection=everything) == [
        ("blog", "c", ""),
        ("shop", "a", ""),
        ("shop", "bad", "broken"),
        ("wiki", "d", ""),
    ]
    assert await results(selection=everything, fail_fast=True) == [
        ("blog", "c", ""),
        ("shop", "a", ""),
        ("shop", "bad", "broken"),
        ("wiki", "d", "skipped"),
    ]
    assert await results(selection=pb.AgentSelection(agents=["shop/a", "d"])) == [
        ("shop", "a", ""),
        ("wiki", "d", ""),
    ]


async def test_a_batch_for_nobody_is_refused(home: House) -> None:
    async def code(**fields: Any) -> str:
        request = pb.BatchAgentsRequest(**fields)
        return (await home.fails(home.stub.BatchAgents(request, timeout=PATIENCE))).code

    assert await code(action=pb.BATCH_ACTION_STOP) == "selection_empty"
    some = pb.AgentSelection(group="g")
    assert await code(selection=some) == "action_invalid"
    assert await code(selection=some, action=99) == "action_invalid"
    named = pb.AgentSelection(agents=["nobody"])
    assert await code(selection=named, action=pb.BATCH_ACTION_STOP) == "agent_not_found"


async def test_a_batch_tells_who_gives_no_answer(home: House) -> None:
    session, daemon = await home.running("shop")
    home.keep(session, "any")
    daemon.fault = SessiondError("state_failed", "no")
    request = pb.BatchAgentsRequest(action=pb.BATCH_ACTION_STOP, selection=pb.AgentSelection(group="g"))
    response = await home.stub.BatchAgents(request, timeout=PATIENCE)
    assert [(one.session_name, one.code) for one in response.unanswered] == [("shop", "state_failed")]


# ---- messages as bytes


@pytest.mark.parametrize(
    ("message", "there"),
    [
        (pb.StreamRecordResponse(data=b"\x42\x00"), False),
        (pb.StreamRecordResponse(offset=1 << 63, stream=pb.OUTPUT_STREAM_STDOUT, gap=1 << 40), False),
        (pb.StreamRecordResponse(offset=1, ended=pb.Agent()), True),
        (pb.StreamRecordResponse(), False),
    ],
)
def test_a_field_is_found_by_heads_alone(message: pb.StreamRecordResponse, there: bool) -> None:
    assert has_field(message.SerializeToString(), 8) is there


@pytest.mark.parametrize("raw", [b"\xff", b"\x07", b"\x0a\xff\xff\xff\xff\xff", b"\x09", bytes(range(256))])
def test_garbage_holds_no_field_and_ends(raw: bytes) -> None:
    has_field(raw, 1 << 20)


def test_the_id_counts_whatever_word_was_there() -> None:
    raw = pb.GetAgentRequest(session="shop", agent="one").SerializeToString()
    assert pb.GetAgentRequest.FromString(addressed(raw, "f" * 32)) == pb.GetAgentRequest(
        session="f" * 32, agent="one"
    )
