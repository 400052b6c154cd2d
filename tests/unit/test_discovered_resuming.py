"""Going on with conversations over gRPC: who is started, typed to, ended, and left alone."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sessiond.adapters import ADAPTERS
from sessiond.errors import Conflict, InvalidArgument, NotFound, TimedOut, Unreachable
from sessiond.model.agent_session import (
    INNER,
    MARKER,
    STOPPED,
    Found,
    Life,
    Message,
    Plan,
    Problem,
    Transcript,
    Turn,
)
from sessiond.rpc._generated.v1 import agents_pb2
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.testing.fake_finder import FakeFinder
from tests.unit.discovered_launch_case import Base, launching
from tests.unit.test_discovered_launching import refused

FOREIGN = Life(alive=True, pid=4000, start_time=1, turn=Turn.WORKING)
PROGRAM = Plan(("sh", "-c", "go on"), id="x")


@pytest.fixture
def finder() -> FakeFinder:
    said = {("claude-code", "x"): Transcript((Message("user", "begin"),))}
    return FakeFinder(adapters=tuple(ADAPTERS), plans={"claude-code": PROGRAM}, transcripts=dict(said))


@pytest.fixture
async def base(tmp_path: Path, finder: FakeFinder) -> AsyncIterator[Base]:
    async with launching(tmp_path, finder) as one:
        yield one


def within(base: Base, agent: Any, turn: Turn = Turn.DONE, **fields: Any) -> Life:
    made: dict[str, Any] = {"pid": 77, "start_time": 1, **fields}
    return Life(alive=True, mark=f"{base.session}-{agent.id}", turn=turn, **made)


async def opened(base: Base, conversation: str = "x", turn: Turn = Turn.DONE, *, tty: bool = True) -> Any:
    """A stopped conversation resumed in a terminal, which its program has opened by now."""
    base.put(conversation)
    made = await base.resume(conversation, "", spawn=base.spawn(tty=tty))
    base.put(conversation, life=within(base, made.agent, turn))
    await base.finder.read()
    return made.agent


# ---- stopped ones


async def test_a_stopped_one_is_started_in_its_folder_and_keeps_its_words(base: Base) -> None:
    below = base.workspace / "below"
    below.mkdir()
    base.put("x", cwd=str(below), first_prompt="begin")
    await base.label("x", team="core")
    await base.finder.read()
    made = await base.resume("x", "go on", model="m")
    [(adapter, conversation, wish)] = base.finder.wishes
    assert (adapter, conversation, wish.cwd, wish.model) == ("claude-code", "x", str(below), "m")
    [asked] = base.daemon.spawned
    assert (asked.session, asked.cwd) == (base.session, str(below))
    assert asked.set_environment[MARKER] == "claude-code:x"
    row = made.agent_session
    assert (row.agent, row.session, row.labels) == (made.agent.id, base.session, {"team": "core"})
    assert not made.typed
    assert not made.HasField("ended_pid")
    assert base.kept()["claude-code", "x"].prompt == "go on"


async def test_two_at_once_start_one(base: Base) -> None:
    base.put("x")
    await base.finder.read()
    calls = [base.resume("x", spawn=base.spawn(tty=True)) for _ in range(4)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert len(base.daemon.spawned) == 1
    errors = [one for one in done if isinstance(one, grpc.aio.AioRpcError)]
    assert len(errors) == 3
    # The adapter still says that it is stopped: its program has opened nothing yet.
    told = await refused(base.resume("x"))
    assert (told.code, type(told)) == ("agent_session_busy", Conflict)
    assert "just being opened, by work/one-0" in told.message
    [agent] = base.daemon.known
    base.daemon.end(agent)
    await base.resume("x")
    assert len(base.daemon.spawned) == 2


async def test_one_that_is_being_started_by_an_earlier_supervisor_is_not_started_again(
    tmp_path: Path, finder: FakeFinder
) -> None:
    async with launching(tmp_path, finder) as base:
        base.put("x")
        await base.finder.read()
        await base.resume("x")
        before = base.daemon
    rows = dict(finder.rows)
    async with launching(tmp_path, FakeFinder(adapters=tuple(ADAPTERS), rows=rows), before=before) as base:
        assert (await refused(base.resume("x"))).code == "agent_session_busy"
        await base.daemon.stop()
        assert not base.daemon.spawned


async def test_a_client_that_hangs_up_leaves_a_resumed_conversation(base: Base) -> None:
    base.put("x")
    await base.finder.read()
    base.daemon.held = asyncio.Event()
    call = asyncio.create_task(base.resume("x", spawn=agents_pb2.SpawnAgentRequest(labels={"a": "b"})))
    await base.daemon.asked.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    again = asyncio.create_task(base.resume("x"))
    base.daemon.held.set()
    assert (await refused(again)).code == "agent_session_busy"
    [agent] = base.daemon.known
    assert base.kept()["claude-code", "x"].agent == agent


async def test_a_failed_resumption_leaves_all_as_it_was(base: Base) -> None:
    base.put("x")
    await base.label("x", team="core", old="1")
    kept = base.kept()
    spawn = agents_pb2.SpawnAgentRequest(labels={"old": "2", "new": "3"}, group="g")
    base.daemon.refusal = NotFound("command_not_found", "none")
    assert (await refused(base.resume("x", spawn=spawn))).code == "adapter_not_installed"
    assert base.kept() == kept
    base.put("y")
    await base.finder.read()
    assert (await refused(base.resume("y", spawn=spawn))).code == "adapter_not_installed"
    assert base.kept() == kept
    base.finder.plans["claude-code"] = InvalidArgument("model_invalid", "no")
    assert (await refused(base.resume("x"))).code == "model_invalid"
    assert base.kept() == kept


async def test_where_it_can_be_resumed(base: Base, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(base.workspace)
    gone = base.workspace / "gone"
    base.put("outside", cwd=str(outside))
    base.put("gone", cwd=str(gone))
    base.put("unknown", cwd="")
    base.put("linked", cwd=str(link))
    await base.finder.read()
    for conversation, spawn, code in (
        ("outside", None, "session_missing"),
        ("outside", base.spawn(), "cwd_outside"),
        ("outside", base.spawn(session="nowhere"), "session_not_found"),
        ("gone", None, "path_missing"),
        ("unknown", None, "session_missing"),
        ("nobody", None, "agent_session_not_found"),
    ):
        assert (await refused(base.resume(conversation, spawn=spawn))).code == code
    assert not base.daemon.spawned
    await base.resume("unknown", spawn=base.spawn())
    await base.resume("linked")
    assert [one.cwd for one in base.daemon.spawned] == [os.path.realpath(base.workspace)] * 2
    assert [wish.cwd for _, _, wish in base.finder.wishes[-2:]] == [os.path.realpath(base.workspace)] * 2


async def test_what_cannot_be_told_is_not_started(base: Base) -> None:
    base.put("x", life=Life(alive=None, reason="some program runs there"))
    await base.finder.read()
    for take_over in (False, True):
        told = await refused(base.resume("x", take_over=take_over))
        assert told.code == "agent_session_unknown"
        assert "some program runs there" in told.message
        assert (told.hint, told.fields.get("entry")) == ("end its program if it runs, and try again", None)
    entry = "/home/user/a folder/sessions/42.json"
    base.put("x", life=Life(alive=None, reason="process 42 of elsewhere has it", entry=entry))
    await base.finder.read()
    for take_over in (False, True):
        told = await refused(base.resume("x", take_over=take_over))
        assert (told.code, told.fields["entry"]) == ("agent_session_unknown", entry)
        assert told.hint.endswith(f"rm '{entry}'")
    base.put("y")
    await base.finder.read()
    for error in (Unreachable("adapter_failed", "broken"), TimedOut("adapter_timeout", "slow")):
        base.finder.fail("claude-code", error)
        await base.finder.read()
        assert (await refused(base.resume("y"))).code == "agent_session_unknown"
    assert not base.finder.ended


async def test_what_cannot_be_read_any_more_is_not_gone_on_with_on_a_guess(base: Base) -> None:
    trouble = "/home/user/x.jsonl: no line of a transcript can be read in it"
    agent = await opened(base, "ours")
    for life in (STOPPED, FOREIGN, within(base, agent)):
        base.put("x", life=life, trouble=trouble)
        await base.finder.read()
        for take_over in (False, True):
            told = await refused(base.resume("x", "go on", take_over=take_over))
            assert (told.code, type(told)) == ("agent_session_unreadable", Conflict)
            assert trouble in told.message
            assert "--errors" in told.hint
    assert not base.finder.ended
    assert len(base.daemon.spawned) == 1
    # What is beside it, or another's, is no trouble of it.
    base.finder.tell_problems("claude-code", Problem("claude-code", "file_malformed", "odd", "/s/7.json"))
    base.put("y")
    await base.finder.read()
    await base.resume("y", "go on")
    assert len(base.daemon.spawned) == 2


async def test_what_can_be_read_no_more_once_it_was_ended_is_not_started(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.put("x", life=FOREIGN)
    await base.finder.read()
    end = FakeFinder.end

    async def leaving_garbage(finder: FakeFinder, adapter: str, found: Found, timeout: float) -> bool:
        done = await end(finder, adapter, found, timeout)
        finder.put(replace(found, life=STOPPED, trouble="/x.jsonl: it is empty"))
        return done

    monkeypatch.setattr(FakeFinder, "end", leaving_garbage)
    assert (await refused(base.resume("x", take_over=True))).code == "agent_session_unreadable"
    assert not base.daemon.spawned


async def test_a_process_is_no_conversation(base: Base) -> None:
    base.put("process:7-70", life=Life(None, "it does not tell which", 7, 70))
    await base.finder.read()
    for take_over in (False, True):
        told = await refused(base.resume("process:7-70", take_over=take_over))
        assert (told.code, told.fields["pid"]) == ("agent_session_unknown", "7")
        assert "is a process" in told.message
    assert not base.finder.ended


async def test_one_that_ended_before_it_told_its_id(base: Base) -> None:
    base.finder.plans["codex"] = Plan(("prog",), learn="stdout")
    made = await base.launch("codex")
    assert (await refused(base.resume(made.agent_session.id))).code == "agent_session_busy"
    base.daemon.end(made.agent.id)
    assert (await refused(base.resume(made.agent_session.id))).code == "agent_session_not_found"


# ---- ours, that run


async def test_a_prompt_is_pasted_to_one_that_waits_for_it(base: Base) -> None:
    agent = await opened(base)
    made = await base.resume("x", "two\nlines", spawn=base.spawn(session="nowhere"))
    assert made.typed
    assert made.agent.id == agent.id
    [typed] = base.daemon.typed
    parts = [one.WhichOneof("part") for one in typed.parts]
    assert parts == ["paste", "pause", "key"]
    assert (typed.parts[0].paste, typed.parts[2].key) == ("two\nlines", "Enter")
    assert typed.agent == agent.id
    # Nothing to say: the agent it runs as is the answer.
    made = await base.resume("x", "")
    assert (made.typed, made.agent.id) == (False, agent.id)
    # Nor is one of ours taken over: there is nobody to take it from.
    made = await base.resume("x", "more", take_over=True)
    assert made.typed
    assert not base.finder.ended
    assert len(base.daemon.spawned) == 1


@pytest.mark.parametrize("turn", [Turn.WORKING, Turn.WAITING])
async def test_one_that_is_busy_is_not_typed_to(base: Base, turn: Turn) -> None:
    await opened(base, turn=turn)
    told = await refused(base.resume("x"))
    assert told.code == "agent_session_busy"
    assert "sessionctl attach work/one-0" in told.hint
    assert (await refused(base.resume("x", print=True))).code == "agent_session_busy"
    assert not base.daemon.typed


async def test_one_that_cannot_be_typed_to(base: Base) -> None:
    agent = await opened(base)
    assert (await refused(base.resume("x", print=True))).code == "agent_session_busy"
    base.daemon.known[agent.id].state = agents_pb2.AGENT_STATE_PAUSED
    told = await refused(base.resume("x"))
    assert (told.code, "paused" in told.message) == ("agent_session_busy", True)
    await opened(base, "y", tty=False)
    assert (await refused(base.resume("y"))).code == "agent_session_busy"
    assert not base.daemon.typed


async def test_what_works_within_anothers_terminal_is_not_typed_to(base: Base) -> None:
    agent = await opened(base)
    base.put("sub", parent="x", life=within(base, agent))
    base.put("tool", life=within(base, agent, pid=78, start_time=2))
    base.put("other", "codex", life=within(base, agent, pid=79, start_time=3))
    await base.finder.read()
    for one in ("sub", "tool", "other"):
        told = await refused(base.resume(one))
        assert (told.code, "whose terminal is another's" in told.message) == ("agent_session_busy", True)
    assert (await base.resume("x")).typed
    assert len(base.daemon.typed) == 1


async def test_who_hangs_up_while_a_prompt_is_typed(base: Base) -> None:
    await opened(base)
    base.daemon.asked.clear()
    base.daemon.held = asyncio.Event()
    call = asyncio.create_task(base.resume("x"))
    await base.daemon.asked.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    base.daemon.held.set()
    assert (await base.resume("x", "next")).typed
    assert not base.daemon.broken_off.is_set()
    assert len(base.daemon.typed) == 2


# ---- started elsewhere


async def test_one_that_runs_elsewhere_is_taken_over_where_that_is_asked_for(base: Base) -> None:
    base.put("x", life=FOREIGN)
    await base.finder.read()
    told = await refused(base.resume("x"))
    assert (told.code, told.fields["pid"]) == ("agent_session_live", "4000")
    assert not base.finder.ended
    request = pb.ResumeAgentSessionRequest(agent_session="x", take_over=True)
    request.stop_timeout.FromMilliseconds(1500)
    made = await base.stub.ResumeAgentSession(request)
    assert base.finder.ended == [("claude-code", "x", 1.5)]
    assert made.ended_pid == 4000
    assert made.agent_session.agent == made.agent.id
    assert len(base.daemon.spawned) == 1


async def test_nothing_is_ended_that_could_not_be_resumed(base: Base, tmp_path: Path) -> None:
    idle = await base.made.session("idle", start=False)
    gone = base.workspace / "gone"
    outside = tmp_path / "outside"
    outside.mkdir()
    base.put("x", life=FOREIGN)
    base.put("gone", cwd=str(gone), life=FOREIGN)
    base.put("outside", cwd=str(outside), life=FOREIGN)
    base.put("in-idle", cwd=str(base.made.parts.directory.get(idle).path), life=FOREIGN)
    base.put("nobody", life=Life(alive=True))
    base.put("silent", life=FOREIGN)
    base.put("there", "codex", life=FOREIGN)
    await base.finder.read()
    base.finder.plans["codex"] = InvalidArgument("model_invalid", "no")
    base.finder.plans["pi"] = Plan(("no-such-program",), id="p")
    base.put("p", "pi", life=FOREIGN)
    for conversation, code in (
        ("gone", "path_missing"),
        ("outside", "session_missing"),
        ("in-idle", "session_not_running"),
        ("nobody", "agent_session_unknown"),
        ("silent", "transcript_missing"),
        ("there", "model_invalid"),
        ("p", "adapter_not_installed"),
    ):
        assert (await refused(base.resume(conversation, take_over=True))).code == code
    request = pb.ResumeAgentSessionRequest(agent_session="x", take_over=True)
    request.stop_timeout.FromSeconds(7200)
    assert (await refused(base.stub.ResumeAgentSession(request))).code == "duration_invalid"
    assert not base.finder.ended
    assert not base.daemon.spawned


async def test_one_that_ends_by_itself_meanwhile(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    base.put("x", life=FOREIGN)
    await base.finder.read()
    end = FakeFinder.end

    async def late(finder: FakeFinder, adapter: str, found: Found, timeout: float) -> bool:
        finder.put(replace(found, life=STOPPED))
        return await end(finder, adapter, found, timeout)

    monkeypatch.setattr(FakeFinder, "end", late)
    made = await base.resume("x", take_over=True)
    assert not made.HasField("ended_pid")
    assert len(base.daemon.spawned) == 1


async def test_one_that_does_not_end(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    base.put("x", life=FOREIGN)
    await base.finder.read()
    base.finder.survives = True
    assert (await refused(base.resume("x", take_over=True))).code == "agent_session_live"

    async def stays(*_: Any) -> bool:
        raise TimedOut("process_stays", "it stays")

    monkeypatch.setattr(FakeFinder, "end", stays)
    assert (await refused(base.resume("x", take_over=True))).code == "process_stays"
    assert not base.daemon.spawned


async def test_who_hangs_up_over_a_takeover_leaves_it_done(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.put("x", life=FOREIGN)
    await base.finder.read()
    end, ending, going = FakeFinder.end, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> bool:
        ending.set()
        await going.wait()
        return await end(*args)

    monkeypatch.setattr(FakeFinder, "end", slow)
    call = asyncio.create_task(base.resume("x", take_over=True))
    await ending.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    going.set()
    await base.until(lambda: any(one.agent for one in base.kept().values()))
    assert len(base.daemon.spawned) == 1


async def test_one_held_through_another_program_that_went_on_by_itself(base: Base) -> None:
    base.put("o", "acp", native={INNER: "opencode:ses"})
    base.put("ses", "opencode", life=FOREIGN)
    await base.finder.read()
    told = await refused(base.resume("opencode:ses"))
    assert (told.code, told.fields["adapter"], told.fields["pid"]) == ("agent_session_live", "acp", "4000")


async def test_a_folder_in_a_hint_is_one_word_to_a_shell(base: Base, tmp_path: Path) -> None:
    folder = tmp_path / "x; touch y"
    folder.mkdir()
    base.put("outside", cwd=str(folder))
    await base.finder.read()
    told = await refused(base.resume("outside"))
    assert shlex.split(told.hint)[-1] == str(folder)
