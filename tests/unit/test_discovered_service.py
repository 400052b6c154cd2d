"""DiscoveryService over gRPC, and what listings of agents and the doctor show of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sessiond.adapters import ADAPTERS
from sessiond.doctor.agent_files import agent_files
from sessiond.errors import TimedOut, Unreachable
from sessiond.model.agent_session import Message, Overlay, Probe, Problem, ToolUse, Transcript
from sessiond.rpc._generated.v1 import agents_pb2, discovery_pb2_grpc
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.testing.fake_finder import FakeFinder
from tests.unit.discovered_case import BEGUN, alive, found
from tests.unit.supervisor_agents_case import PATIENCE, House, house


@pytest.fixture
def finder() -> FakeFinder:
    return FakeFinder(adapters=tuple(ADAPTERS))


@pytest.fixture
async def made(tmp_path: Path, finder: FakeFinder) -> AsyncIterator[House]:
    async with house(tmp_path, finder) as one:
        yield one


def stub(made: House) -> Any:
    return discovery_pb2_grpc.DiscoveryServiceStub(made.channel)


async def listed(made: House, **fields: Any) -> pb.ListAgentSessionsResponse:
    request = pb.ListAgentSessionsRequest(**fields)
    return await stub(made).ListAgentSessions(request, timeout=PATIENCE)  # type: ignore[no-any-return]


ALL = pb.AgentSessionFilter(include_stopped=True)


async def test_a_row_says_all_that_is_known(made: House, finder: FakeFinder) -> None:
    session, _ = await made.running("work")
    agent = made.keep(session, "claude")
    full = found(
        "0b7c9e1e",
        cwd="/home/user/\udcff",
        model="m",
        title="t",
        first_prompt="f",
        last_prompt="l",
        started_at=BEGUN - timedelta(hours=1),
        ended_at=BEGUN,
        tokens_in=1,
        tokens_out=2**70,
        cost_usd=0.5,
        parent="p",
        native={"kind": "cli"},
        life=alive(pid=77, mark=f"{session}-{agent}", activity="thinking", reason="r"),
    )
    finder.rows[full.key] = full
    label = pb.LabelAgentSessionRequest(
        agent_session="0b7c", set_labels={"a": "b"}, set_annotations={"c": "d"}, group="g"
    )
    answer = await stub(made).LabelAgentSession(label, timeout=PATIENCE)
    [row] = (await listed(made)).agent_sessions
    assert answer.agent_session.labels == row.labels == {"a": "b"}
    assert (row.id, row.adapter, row.status) == ("0b7c9e1e", "claude-code", pb.AGENT_SESSION_STATUS_RUNNING)
    assert (row.session, row.session_name, row.agent, row.agent_name) == (session, "work", agent, "claude")
    assert (row.cwd, row.activity, row.reason, row.pid) == ("/home/user/\\xff", "thinking", "r", 77)
    assert (row.tokens_in, row.HasField("tokens_out"), row.cost_usd) == (1, False, 0.5)
    assert (row.started_at.ToDatetime(UTC), row.HasField("ended_at")) == (BEGUN - timedelta(hours=1), False)
    assert (dict(row.native), dict(row.annotations), row.group) == ({"kind": "cli"}, {"c": "d"}, "g")
    assert (row.parent, row.model, row.title, row.first_prompt, row.last_prompt) == ("p", "m", "t", "f", "l")
    assert not row.HasField("launched_at")
    request = pb.GetAgentSessionRequest(agent_session="work/claude")
    got = (await stub(made).GetAgentSession(request, timeout=PATIENCE)).agent_session
    got.age_ms = row.age_ms
    assert got == row


async def test_what_agents_do_stands_beside_their_state(made: House, finder: FakeFinder) -> None:
    session, daemon = await made.running("work")
    made.keep(session, "claude")
    daemon.agents = [
        agents_pb2.Agent(id="a" * 16, session=session, state=agents_pb2.AGENT_STATE_RUNNING),
        agents_pb2.Agent(id="b" * 16, session=session),
    ]
    finder.put(found("one", life=alive(mark=f"{session}-{'a' * 16}", activity="waiting for permission")))
    get = agents_pb2.GetAgentRequest(session=session, agent="a" * 16)
    assert (await made.stub.GetAgent(get, timeout=PATIENCE)).agent.activity == ""
    assert not finder.watched, "nobody has asked for conversations"
    await listed(made)
    agent = (await made.stub.GetAgent(get, timeout=PATIENCE)).agent
    assert (agent.activity, agent.session_name) == ("waiting for permission", "work")
    for request in (agents_pb2.ListAgentsRequest(session=session), agents_pb2.ListAgentsRequest()):
        rows = (await made.stub.ListAgents(request, timeout=PATIENCE)).agents
        assert [row.activity for row in rows] == ["waiting for permission", ""]
        assert rows[0].state == agents_pb2.AGENT_STATE_RUNNING


async def test_what_agents_do_is_told_while_their_daemon_is_away_too(made: House, finder: FakeFinder) -> None:
    session = await made.session("work", start=False)
    agent = made.keep(session, "claude")
    made.unit(session, agent)
    finder.put(found("one", life=alive(mark=f"{session}-{agent}", activity="thinking")))
    await listed(made)
    get = agents_pb2.GetAgentRequest(session=session, agent=agent)
    assert (await made.stub.GetAgent(get, timeout=PATIENCE)).agent.activity == "thinking"
    rows = (await made.stub.ListAgents(agents_pb2.ListAgentsRequest(), timeout=PATIENCE)).agents
    assert [row.activity for row in rows] == ["thinking"]


async def test_whether_a_launch_lives_is_asked_of_its_agent(made: House, finder: FakeFinder) -> None:
    session, daemon = await made.running("work")
    mark = f"{session}-{'a' * 16}"
    overlay = Overlay(
        "codex", f"agent:{mark}", session=session, agent="a" * 16, prompt="p  q", launched_at=BEGUN
    )
    await made.parts.discovered.put_overlay(overlay)
    [row] = (await listed(made)).agent_sessions
    # The stand-in tells no state.
    assert row.status == pb.AGENT_SESSION_STATUS_UNKNOWN
    assert row.reason
    assert (row.id, row.first_prompt) == (overlay.id, "p q")
    assert row.started_at.ToDatetime(UTC) == BEGUN
    await made.parts.discovered.change(overlay.key, lambda held: Overlay(*held.key))
    gone = Overlay("codex", "chosen", session=session, agent="b" * 16, launched_at=BEGUN)
    await daemon.stop()
    resting = await made.session("resting", start=False)
    await made.parts.discovered.put_overlay(Overlay("codex", "x", session=resting, agent="c" * 16))
    await made.parts.discovered.put_overlay(gone)
    await made.delete(session, stop=True)
    assert not (await listed(made)).agent_sessions


async def test_refusals(made: House) -> None:
    calls = {
        "adapter_unknown": listed(made, filter=pb.AgentSessionFilter(adapters=["emacs"])),
        "status_invalid": listed(made, filter=pb.AgentSessionFilter(statuses=[99])),  # type: ignore[list-item]
        "path_invalid": listed(made, filter=pb.AgentSessionFilter(cwd="relative")),
        "label_invalid": listed(made, filter=pb.AgentSessionFilter(label_keys=["-"])),
        "time_invalid": listed(made, filter=pb.AgentSessionFilter(since={"seconds": 2**60})),
        "session_not_found": listed(made, filter=pb.AgentSessionFilter(session="nobody")),
        "page_token_invalid": listed(made, page_token="x"),
        "agent_session_missing": stub(made).GetAgentSession(pb.GetAgentSessionRequest()),
        "agent_session_not_found": stub(made).ReadTranscript(pb.ReadTranscriptRequest(agent_session="none")),
        "label_missing": stub(made).LabelAgentSession(pb.LabelAgentSessionRequest(agent_session="none")),
    }
    for code, call in calls.items():
        assert (await made.fails(call)).code == code
    probe = pb.ProbeAdaptersRequest(adapters=["emacs"])
    assert (await made.fails(stub(made).ProbeAdapters(probe))).code == "adapter_unknown"


async def test_filters_and_pages(made: House, finder: FakeFinder) -> None:
    rows = [found(f"c{number}", minutes=number, cwd=f"/home/user/{number % 2}") for number in range(6)]
    finder.rows = {row.key: row for row in rows}
    assert not (await listed(made)).agent_sessions
    first = await listed(made, filter=ALL, page_size=4)
    assert ([row.id for row in first.agent_sessions], first.total) == (["c5", "c4", "c3", "c2"], 6)
    rest = await listed(made, filter=ALL, page_size=4, page_token=first.next_page_token)
    assert ([row.id for row in rest.agent_sessions], rest.next_page_token) == (["c1", "c0"], "")
    odd = pb.AgentSessionFilter(cwd="//home/user/x/../1/", include_stopped=True)
    odd.since.FromDatetime(BEGUN + timedelta(minutes=3))
    assert [row.id for row in (await listed(made, filter=odd)).agent_sessions] == ["c5", "c3"]


async def test_a_transcript(made: House, finder: FakeFinder) -> None:
    finder.rows["pi", "one"] = found("one", "pi")
    messages = tuple(
        Message("assistant", f"m{number}", tools=(ToolUse("1", "bash", "{}"),), time=BEGUN, tokens_in=3)
        for number in range(30)
    )
    problem = Problem("pi", "file_malformed", "bad line", "/x")
    finder.transcripts["pi", "one"] = Transcript(messages, problems=(problem,))
    request = pb.ReadTranscriptRequest(agent_session="pi:one")
    told = await stub(made).ReadTranscript(request, timeout=PATIENCE)
    assert (len(told.messages), told.has_more, told.agent_session.id) == (20, True, "one")
    last = told.messages[-1]
    assert (last.role, last.text, last.tools[0].name, last.tokens_in) == ("assistant", "m29", "bash", 3)
    assert [one.code for one in told.problems] == ["file_malformed"]
    request.tail = 2
    assert len((await stub(made).ReadTranscript(request, timeout=PATIENCE)).messages) == 2
    finder.faults["pi"] = Unreachable("adapter_failed", "gone")
    assert (await made.fails(stub(made).ReadTranscript(request))).code == "adapter_failed"


async def test_a_watch(made: House, finder: FakeFinder) -> None:
    finder.rows["pi", "one"] = found("one", "pi", life=alive())
    watch = stub(made).WatchAgentSessions(pb.WatchAgentSessionsRequest(), timeout=PATIENCE)

    async def after() -> tuple[str | None, pb.WatchAgentSessionsResponse]:
        message = await watch.read()
        assert message is not grpc.aio.EOF
        return message.WhichOneof("change"), message

    kind, message = await after()
    assert (kind, message.agent_session.id) == ("agent_session", "one")
    assert (await after())[0] == "current"
    finder.fail("pi", TimedOut("adapter_timeout", "silent"))
    kind, message = await after()
    assert (kind, message.problem.code, message.problem.path) == ("problem", "adapter_timeout", "")
    finder.remove("pi", "one")
    kind, message = await after()
    assert (kind, message.removed.adapter, message.removed.id) == ("removed", "pi", "one")
    watch.cancel()


async def test_probes(made: House, finder: FakeFinder) -> None:
    finder.rows["pi", "one"] = found("one", "pi", life=alive())
    finder.rows["pi", "two"] = found("two", "pi")
    finder.probes["pi"] = Probe("pi", "Pi", True, "/bin/pi", "0.1", "", ("launch",), ("/home/user/.pi",))
    finder.problems["pi"] = [Problem("pi", "file_unreadable", "denied", "/x")]
    request = pb.ProbeAdaptersRequest(search_path="/opt/bin")
    answer = await stub(made).ProbeAdapters(request, timeout=PATIENCE)
    assert [one.name for one in answer.adapters] == list(ADAPTERS)
    [told] = [one for one in answer.adapters if one.name == "pi"]
    assert (told.agent_sessions, told.live, told.installed, told.path) == (2, 1, True, "/bin/pi")
    assert (list(told.abilities), list(told.places), told.disabled) == (["launch"], ["/home/user/.pi"], False)
    assert [(one.code, one.path) for one in told.problems] == [("file_unreadable", "/x")]
    assert finder.search_paths == ["/opt/bin"]


async def test_adapters_that_are_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_ADAPTERS_DISABLED", "pi,codex")
    used = tuple(one for one in ADAPTERS if one not in ("pi", "codex"))
    finder = FakeFinder(adapters=used)
    async with house(tmp_path, finder) as made:
        answer = await stub(made).ProbeAdapters(pb.ProbeAdaptersRequest(), timeout=PATIENCE)
        assert {one.name for one in answer.adapters if one.disabled} == {"pi", "codex"}
        off = pb.ProbeAdaptersRequest(adapters=["pi"])
        assert [one.name for one in (await stub(made).ProbeAdapters(off)).adapters] == ["pi"]
        assert not (await listed(made, filter=pb.AgentSessionFilter(adapters=["pi"]))).agent_sessions


async def test_folders_that_agents_ran_in_are_candidates(
    made: House, finder: FakeFinder, tmp_path: Path
) -> None:
    await made.session("work", start=False)
    for name in ("ran/inner", "project/.git", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    inside = {
        "a": "ran/inner",
        "b": "ran/inner",
        "c": "project",
        "d": "work",
        "e": "work/sub",
        "f": "gone",
        "g": "elsewhere",
    }
    (tmp_path / "work/sub").mkdir()
    finder.rows = {
        ("pi", name): found(name, "pi", cwd=str(tmp_path / place)) for name, place in inside.items()
    }
    finder.rows["codex", "h"] = found("h", "codex", cwd=str(tmp_path / "ran/inner"))
    finder.rows["codex", "i"] = found("i", "codex", cwd="")
    roots = [str(tmp_path / one) for one in ("ran", "project", "work")]

    async def scanned(*paths: str) -> dict[str, tuple[list[str], dict[str, int]]]:
        request = pb.ScanWorkspacesRequest(paths=paths)
        answer = await stub(made).ScanWorkspaces(request, timeout=PATIENCE)
        return {one.path: (list(one.markers), dict(one.agent_sessions)) for one in answer.candidates}

    assert await scanned(*roots) == {
        str(tmp_path / "ran/inner"): ([], {"pi": 2, "codex": 1}),
        str(tmp_path / "project"): ([".git"], {"pi": 1}),
    }
    assert set(await scanned()) == {str(tmp_path / one) for one in ("ran/inner", "project", "elsewhere")}


def test_the_row_of_the_doctor() -> None:
    assert agent_files([], looked=False).status == "ok"
    assert "not looked at" in agent_files([], looked=False).detail
    assert agent_files([], looked=True).status == "ok"
    files = [Problem("pi", "file_malformed", "bad", f"/f{number}") for number in range(5)]
    row = agent_files([Problem("codex", "adapter_timeout", "silent for 3 s"), *files], looked=True)
    assert row.status == "warning"
    assert "codex (silent for 3 s)" in row.detail
    assert "5: /f0 (bad), /f1 (bad), /f2 (bad) and 2 more" in row.detail
    assert row.fix == "sessionctl discovered --errors"


async def test_a_list_that_no_client_could_take_comes_in_pages(
    made: House, finder: FakeFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.supervisor.services.discovery._PAGE_MAX", 512 * 1024)
    for number in range(1500):
        finder.put(found(f"row-{number:04}", cwd="/" + "x" * 1000))
    told: list[str] = []
    token, pages = "", 0
    while token or not pages:
        answer = await listed(made, filter=ALL, page_token=token)
        assert answer.ByteSize() < 512 * 1024 or len(answer.agent_sessions) <= 500
        assert answer.total == 1500
        told += [row.id for row in answer.agent_sessions]
        token, pages = answer.next_page_token, pages + 1
    assert sorted(told) == [f"row-{number:04}" for number in range(1500)]
    assert pages > 1
