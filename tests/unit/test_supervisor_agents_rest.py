"""Agents of sessions whose daemon does not run: told from what is kept, and from units still there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sessiond.agents.book import boot_id
from sessiond.errors import Conflict, NotFound
from sessiond.model.agent import AgentEnd
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.lock import SocketLock
from tests.unit.supervisor_agents_case import PATIENCE, House, house

DONE = AgentEnd(exit_status=0, result="success")
BROKEN = AgentEnd(exit_status=3, result="exit-code")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


async def rows(home: House, **fields: Any) -> dict[str, pb.Agent]:
    request = pb.ListAgentsRequest(selection=pb.AgentSelection(include_ended=True), **fields)
    listing = await home.stub.ListAgents(request, timeout=PATIENCE)
    assert not listing.unanswered
    return {one.name: one for one in listing.agents}


def said(home: House, session: str, agent: str, text: bytes) -> None:
    home.book(session).folder(agent).stdout.write_bytes(text)


# ---- states


async def test_ends_are_told_as_written_without_asking_anybody(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "good", DONE)
    home.keep(session, "bad", BROKEN)
    found = await rows(home)
    assert (found["good"].state, found["good"].exit_status) == (pb.AGENT_STATE_COMPLETED, 0)
    assert (found["bad"].state, found["bad"].exit_status) == (pb.AGENT_STATE_FAILED, 3)
    assert {one.session_name for one in found.values()} == {"shop"}
    assert home.of(session).asked == 0


async def test_agents_of_a_dead_daemon_that_still_run_are_shown_running(home: House) -> None:
    session = await home.session("shop")
    runs = home.keep(session, "runs")
    home.unit(session, runs)
    home.init.fail(session)
    found = await rows(home, session="shop")
    assert (found["runs"].state, found["runs"].pid) == (pb.AGENT_STATE_RUNNING, 77)
    assert home.of(session).closed == home.of(session).asked == 1


async def test_an_end_that_nobody_wrote_is_told_by_its_unit_or_by_what_went_down(home: House) -> None:
    session = await home.session("shop", start=False)
    failed = home.keep(session, "failed")
    home.unit(session, failed, "failed", "failed")
    home.keep(session, "rebooted", boot="another boot")
    home.keep(session, "manager", boot=boot_id(), manager="another manager")
    home.keep(session, "unseen", boot=boot_id(), manager="this manager")
    found = await rows(home)
    told = {name: (one.state, one.reason) for name, one in found.items()}
    assert told["failed"][0] == pb.AGENT_STATE_FAILED
    assert told["rebooted"] == (pb.AGENT_STATE_FAILED, "the machine went down while it ran")
    assert told["manager"][0] == pb.AGENT_STATE_FAILED
    assert told["unseen"][0] == pb.AGENT_STATE_TERMINATED
    # It only reads: that is for the daemon to write down.
    kept, _ = home.book(session).load()
    assert all(one.end is None for one in kept.values())


async def test_when_nobody_can_tell_the_state_is_unknown(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "one")
    home.of(session).away = True
    found = await rows(home)
    assert found["one"].state == pb.AGENT_STATE_UNKNOWN
    home.init.lose("away")
    await home.parts.directory.changed.until(lambda: None if home.parts.mirror.reachable else True)
    asked = home.of(session).asked
    assert (await rows(home))["one"].state == pb.AGENT_STATE_UNKNOWN
    assert home.of(session).asked == asked


async def test_what_cannot_be_read_hides_no_other(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "good", DONE)
    broken = home.keep(session, "broken", DONE)
    home.book(session).folder(broken).spec.write_bytes(b"{")
    assert list(await rows(home)) == ["good"]


async def test_ended_ones_are_listed_where_they_are_asked_for(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "good", DONE)

    async def names(**fields: Any) -> list[str]:
        request = pb.ListAgentsRequest(selection=pb.AgentSelection(**fields))
        return [one.name for one in (await home.stub.ListAgents(request, timeout=PATIENCE)).agents]

    assert await names() == []
    assert await names(include_ended=True) == ["good"]
    assert await names(agents=["good"]) == ["good"]
    assert await names(agents=["shop/good"]) == ["good"]
    assert await names(states=[pb.AGENT_STATE_COMPLETED]) == ["good"]
    assert await names(states=[pb.AGENT_STATE_FAILED]) == []


async def test_one_agent_is_found_by_its_words(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "good", DONE)
    for word in ("good", agent, agent[:6]):
        answer = await home.stub.GetAgent(pb.GetAgentRequest(session="shop", agent=word), timeout=PATIENCE)
        assert answer.agent.id == agent
    missing = home.stub.GetAgent(pb.GetAgentRequest(session="shop", agent="none"), timeout=PATIENCE)
    assert (await home.fails(missing)).code == "agent_not_found"


# ---- output


async def test_output_is_read_and_streamed_and_measured(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "good", DONE)
    said(home, session, agent, b"one\ntwo\n\xff\n")
    assert (await rows(home))["good"].record_bytes == 10
    request = pb.ReadOutputRequest(session="shop", agent="good", grep="t.o")
    answer = await home.stub.ReadOutput(request, timeout=PATIENCE)
    assert [(one.text, one.offset) for one in answer.lines] == [("two", 4)]
    stream = home.stub.StreamRecord(
        pb.StreamRecordRequest(session="shop", agent="good", follow=True), timeout=PATIENCE
    )
    messages = [one async for one in stream]
    assert b"".join(one.data for one in messages) == b"one\ntwo\n\xff\n"
    assert (messages[-1].ended.name, messages[-1].ended.session_name) == ("good", "shop")


async def test_a_screen_is_drawn_from_the_record(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "vim", DONE, tty=True, columns=20, rows=3)
    home.book(session).folder(agent).record.write_bytes(b"hello\r\n\x1b[31mred\x1b[m")
    request = pb.GetScreenRequest(session="shop", agent="vim")
    answer = await home.stub.GetScreen(request, timeout=PATIENCE)
    assert answer.content.split("\n")[:2] == ["hello", "red"]
    assert answer.offset == len(b"hello\r\n\x1b[31mred\x1b[m")
    home.keep(session, "plain", DONE)
    plain = home.stub.GetScreen(pb.GetScreenRequest(session="shop", agent="plain"), timeout=PATIENCE)
    assert (await home.fails(plain)).code == "agent_no_terminal"


async def test_what_may_still_grow_cannot_be_followed_without_its_daemon(home: House) -> None:
    session = await home.session("shop")
    agent = home.keep(session, "runs")
    home.unit(session, agent)
    said(home, session, agent, b"so far")
    home.init.fail(session)
    calm = home.stub.StreamRecord(pb.StreamRecordRequest(session="shop", agent="runs"), timeout=PATIENCE)
    assert b"".join([one.data async for one in calm]) == b"so far"
    follow = home.stub.StreamRecord(
        pb.StreamRecordRequest(session="shop", agent="runs", follow=True), timeout=PATIENCE
    )
    assert (await home.fails(follow.read())).code == "session_not_running"


async def test_errors_of_reading_come_whole(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "good", DONE)
    said(home, session, agent, b"x")
    wrong = pb.ReadOutputRequest(session="shop", agent="good", grep="(")
    assert (await home.fails(home.stub.ReadOutput(wrong, timeout=PATIENCE))).code == "grep_invalid"
    odd = pb.ReadOutputRequest(session="shop", agent="good", stream=pb.OUTPUT_STREAM_TERMINAL)
    assert (await home.fails(home.stub.ReadOutput(odd, timeout=PATIENCE))).code == "stream_invalid"


# ---- removing and waiting


async def test_an_ended_agent_is_removed_with_all_that_is_kept_of_it(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "good", DONE)
    folder = home.book(session).folder(agent)
    answer = await home.stub.RemoveAgent(
        pb.RemoveAgentRequest(session="shop", agent="good"), timeout=PATIENCE
    )
    assert answer.agent.id == agent
    assert not folder.path.exists()
    assert not folder.launch_passing.exists()


async def test_a_unit_that_is_left_of_an_ended_agent_is_released_with_it(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "bad")
    home.unit(session, agent, "failed", "failed")
    await home.stub.RemoveAgent(pb.RemoveAgentRequest(session="shop", agent="bad"), timeout=PATIENCE)
    assert home.of(session).released == [agent]


async def test_an_agent_that_runs_is_not_removed(home: House) -> None:
    session = await home.session("shop")
    agent = home.keep(session, "runs")
    home.unit(session, agent)
    home.init.fail(session)
    request = pb.RemoveAgentRequest(session="shop", agent="runs", force=True)
    error = await home.fails(home.stub.RemoveAgent(request, timeout=PATIENCE))
    assert isinstance(error, Conflict)
    assert error.code == "session_not_running"
    assert home.book(session).folder(agent).path.exists()


async def test_nothing_is_removed_under_a_daemon_that_comes_up(home: House) -> None:
    session = await home.session("shop", start=False)
    agent = home.keep(session, "good", DONE)
    socket = home.paths.session_socket(session)
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    with SocketLock(socket.with_suffix(".lock"), "its daemon"):
        request = pb.RemoveAgentRequest(session="shop", agent="good")
        error = await home.fails(home.stub.RemoveAgent(request, timeout=PATIENCE))
    assert error.code == "already_running"
    assert home.book(session).folder(agent).path.exists()


async def test_waiting_ends_where_it_is_over_and_fails_where_it_cannot_be(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "good", DONE)

    def wait(*states: pb.AgentState) -> Any:
        request = pb.WaitAgentRequest(session="shop", agent="good", states=states)
        return home.stub.WaitAgent(request, timeout=PATIENCE)

    assert (await wait()).agent.state == pb.AGENT_STATE_COMPLETED
    assert (await home.fails(wait(pb.AGENT_STATE_RUNNING))).code == "agent_ended"


async def test_a_batch_does_to_ended_agents_what_can_be_done(home: House) -> None:
    session = await home.session("shop")
    runs = home.keep(session, "runs")
    home.keep(session, "good", DONE)
    home.unit(session, runs)
    home.init.fail(session)

    async def codes(action: pb.BatchAction, **fields: Any) -> dict[str, str]:
        selection = pb.AgentSelection(include_ended=True)
        request = pb.BatchAgentsRequest(action=action, selection=selection, **fields)
        response = await home.stub.BatchAgents(request, timeout=PATIENCE)
        return {one.agent.name: one.code for one in response.results}

    assert await codes(pb.BATCH_ACTION_STOP) == {"runs": "session_not_running", "good": ""}
    assert await codes(pb.BATCH_ACTION_PAUSE) == {"runs": "session_not_running", "good": "agent_not_running"}
    assert await codes(pb.BATCH_ACTION_STOP, fail_fast=True) == {
        "runs": "session_not_running",
        "good": "skipped",
    }
    assert await codes(pb.BATCH_ACTION_REMOVE) == {"runs": "session_not_running", "good": ""}
    assert list(await rows(home)) == ["runs"]


# ---- deleting a session


async def test_what_a_session_kept_of_agents_goes_with_it(home: House) -> None:
    session = await home.session("shop", start=False)
    other = await home.session("blog", start=False)
    gone = home.book(session).folder(home.keep(session, "good", DONE))
    stays = home.book(other).folder(home.keep(other, "good", DONE))
    await home.delete("shop")
    assert not gone.path.parent.parent.exists()
    assert not gone.launch_passing.exists()
    assert stays.launch_passing.exists()


async def test_a_session_whose_agents_still_run_is_not_deleted(home: House) -> None:
    session = await home.session("shop")
    agent = home.keep(session, "runs")
    home.unit(session, agent)
    home.init.fail(session)
    error = await home.fails(home.delete("shop"))
    assert isinstance(error, Conflict)
    assert error.code == "agents_running"
    assert error.hint == "sessionctl stop shop"
    assert home.book(session).folder(agent).path.exists()
    home.of(session).units.clear()
    await home.delete("shop")
    with pytest.raises(NotFound):
        home.parts.directory.get(session)


async def test_a_session_is_not_deleted_where_nobody_can_tell_whether_agents_run(home: House) -> None:
    session = await home.session("shop", start=False)
    home.keep(session, "one")
    home.of(session).away = True
    assert (await home.fails(home.delete("shop"))).code == "init_unavailable"
