"""Launches over gRPC: what is kept, whoever dies or goes away in between, and ids that are told later."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from sessiond.adapters import ADAPTERS
from sessiond.errors import Exhausted, InvalidArgument, NotFound, SessiondError, Unreachable, Unsupported
from sessiond.model.agent import AgentEnd
from sessiond.model.agent_session import MARKER, Life, Plan, Turn
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc.status import from_rpc_error
from sessiond.testing.fake_finder import FakeFinder
from tests.unit.discovered_case import BEGUN
from tests.unit.discovered_launch_case import launching
from tests.unit.supervisor_agents_case import PATIENCE

RUNNING = pb.AGENT_SESSION_STATUS_RUNNING


def later(adapter: str, *words: str, learn: str = "stdout") -> FakeFinder:
    """A finder whose plans leave the id to be told."""
    plan = Plan(words or ("prog",), learn=learn)
    return FakeFinder(adapters=tuple(ADAPTERS), plans={adapter: plan})


async def refused(call: Any) -> SessiondError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# ---- what is started, and what is kept


async def test_a_launch_with_a_chosen_id(tmp_path: Path) -> None:
    plan = Plan(("prog", "--", "do it"), {"A": "plan", "B": "plan"}, b"in")
    finder = FakeFinder(adapters=tuple(ADAPTERS))
    async with launching(tmp_path, finder) as base:
        below = base.workspace / "below"
        below.mkdir()
        spawn = base.spawn(
            session="work",
            cwd=f"{below}/../below",
            set_environment={"A": "mine", MARKER: "pi:other"},
            labels={"team": "x"},
            group="night",
        )
        made = await base.launch(spawn=spawn, model="m", prompt="do it")
        [(adapter, _, wish)] = finder.wishes
        assert (adapter, wish.cwd, wish.model, wish.prompt) == ("claude-code", str(below), "m", "do it")
        [asked] = base.daemon.spawned
        assert (asked.cwd, asked.session) == (str(below), base.session)
        assert asked.set_environment == {"A": "mine", MARKER: f"claude-code:{wish.id}"}
        row = made.agent_session
        assert (row.id, row.status, row.pid) == (wish.id, RUNNING, 77)
        assert (row.session, row.agent, row.session_name) == (base.session, made.agent.id, "work")
        assert (row.agent_name, row.cwd) == (made.agent.name, str(below))
        assert (row.labels, row.group, row.first_prompt) == ({"team": "x"}, "night", "do it")
        finder.plans["claude-code"] = plan
        made = await base.launch(spawn=base.spawn(set_environment={MARKER: "pi:other"}), print=True)
        asked = base.daemon.spawned[-1]
        assert asked.command == ["prog", "--", "do it"]
        assert asked.input == b"in"
        assert not asked.tty
        assert asked.set_environment == {"A": "plan", "B": "plan"}, "a mark of another is none"
        assert made.agent_session.id == f"agent:{base.session}-{made.agent.id}"


@pytest.mark.parametrize("asked", ["/elsewhere", "", "relative", "/"])
async def test_the_folder_wished_for_is_the_one_that_the_agent_gets(tmp_path: Path, asked: str) -> None:
    async with launching(tmp_path) as base:
        await base.launch(spawn=base.spawn(cwd=asked))
        assert base.finder.wishes[0][2].cwd == base.daemon.spawned[0].cwd == str(base.workspace.resolve())


async def test_prompts_are_kept_once_and_shortened(tmp_path: Path) -> None:
    finder = FakeFinder(adapters=tuple(ADAPTERS))
    async with launching(tmp_path, finder) as base:
        prompt = "x" * 20_000
        for words in (("a", prompt), ("a", f"--prompt={prompt}"), ("a", f" {prompt}")):
            finder.plans["pi"] = Plan(words, id=f"id-{len(base.kept())}")
            await base.launch("pi", prompt)
        assert len(base.kept()) == 3
        for one in base.kept().values():
            assert one.prompt == "x" * 10_000
            assert "xx" not in one.spec


# ---- refusals


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("prompt_missing", "none"),
        InvalidArgument("prompt_too_large", "large"),
        InvalidArgument("model_invalid", "no model"),
        Unsupported("adapter_cannot", "it cannot"),
    ],
)
async def test_what_an_adapter_refuses_is_passed_on(tmp_path: Path, error: SessiondError) -> None:
    finder = FakeFinder(adapters=tuple(ADAPTERS), plans={"codex": error})
    async with launching(tmp_path, finder) as base:
        told = await refused(base.launch("codex"))
        assert (told.code, type(told)) == (error.code, type(error))
        assert not base.kept()
        assert not base.daemon.spawned


async def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_ADAPTERS_DISABLED", "gemini")
    async with launching(tmp_path) as base:
        for code, call in (
            ("adapter_unknown", base.launch("nobody")),
            ("adapter_unknown", base.launch("")),
            ("adapter_disabled", base.launch("gemini")),
            ("adapter_disabled", base.resume("gemini:some")),
            ("prompt_invalid", base.launch(prompt="a\0b")),
            ("prompt_invalid", base.resume("some", "a\0b")),
            ("cwd_invalid", base.launch(spawn=base.spawn(cwd="/a\0b"))),
            ("request_invalid", base.launch(spawn=base.spawn(input=b"x"))),
            ("request_invalid", base.launch(spawn=base.spawn(command=["other"]))),
            ("session_not_found", base.launch(spawn=base.spawn(session="nowhere"))),
            ("session_missing", base.launch(spawn=base.spawn(session=""))),
        ):
            assert (await refused(call)).code == code
        assert not base.kept()
        assert not base.daemon.spawned


async def test_a_session_that_does_not_run(tmp_path: Path) -> None:
    async with launching(tmp_path) as base:
        session = await base.made.session("idle", start=False)
        told = await refused(base.launch(spawn=base.spawn(session=session)))
        assert told.code == "session_not_running"
        assert not base.kept()


@pytest.mark.parametrize("adapter", ["claude-code", "codex"])
async def test_a_spawn_that_fails_leaves_nothing(tmp_path: Path, adapter: str) -> None:
    async with launching(tmp_path, later("codex")) as base:
        base.daemon.refusal = NotFound("command_not_found", "no program", fields={"command": "claude"})
        told = await refused(base.launch(adapter, spawn=base.spawn(labels={"a": "b"}, group="g")))
        assert told.code == "adapter_not_installed"
        base.daemon.refusal = Exhausted("too_many_agents", "full")
        assert (await refused(base.launch(adapter))).code == "too_many_agents"
        assert not base.kept()
        assert not await base.rows()


async def test_a_full_disk_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with launching(tmp_path, later("codex")) as base:
        await base.rows()
        store: Any = base.discovered._overlays._store
        put = store.put_overlay

        async def full(*args: Any, **kwargs: Any) -> None:
            raise Exhausted("disk_full", "no room")

        monkeypatch.setattr(store, "put_overlay", full)
        for adapter in ("claude-code", "codex"):
            assert (await refused(base.launch(adapter))).code == "disk_full"
        assert not base.daemon.spawned

        # No room any more once the agent is there: it runs, which is said, and it is entered later.
        async def fill() -> None:
            monkeypatch.setattr(store, "put_overlay", full)

        monkeypatch.setattr(store, "put_overlay", put)
        base.daemon.between = fill
        made = await base.launch("claude-code", spawn=base.spawn(labels={"a": "b"}))
        assert made.agent_session.agent == made.agent.id
        [kept] = base.kept().values()
        assert (kept.agent, kept.session) == ("", base.session)
        monkeypatch.setattr(store, "put_overlay", put)
        mark = f"{base.session}-{made.agent.id}"
        base.put(kept.id, life=Life(alive=True, pid=5, start_time=1, mark=mark))
        await base.until(lambda: base.kept()["claude-code", kept.id].agent == made.agent.id)


# ---- who goes away in between


@pytest.mark.parametrize("adapter", ["claude-code", "codex"])
async def test_a_client_that_hangs_up_leaves_an_agent_with_all_that_is_kept_of_it(
    tmp_path: Path, adapter: str
) -> None:
    async with launching(tmp_path, later("codex")) as base:
        base.daemon.held = asyncio.Event()
        call = asyncio.create_task(base.launch(adapter, spawn=base.spawn(labels={"a": "b"})))
        await base.daemon.asked.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert not base.daemon.broken_off.is_set()
        base.daemon.held.set()
        [agent] = base.daemon.known
        await base.until(lambda: any(one.agent == agent for one in base.kept().values()))
        [row] = (await base.rows()).values()
        assert (row.agent, row.labels, row.status) == (agent, {"a": "b"}, RUNNING)
        assert len(base.kept()) == 1


async def test_a_deadline_is_no_end_of_the_launch(tmp_path: Path) -> None:
    async with launching(tmp_path) as base:
        base.daemon.held = asyncio.Event()
        request = pb.LaunchAgentSessionRequest(adapter="claude-code", spawn=base.spawn(), prompt="x")
        # Long enough for the launch to be begun by then.
        told = await refused(base.stub.LaunchAgentSession(request, timeout=5.0))
        assert told.code == "call_timeout"
        async with asyncio.timeout(PATIENCE):
            await base.daemon.asked.wait()
        assert base.daemon.deadlines == [None]
        base.daemon.held.set()
        await base.until(lambda: any(one.agent for one in base.kept().values()))


@pytest.mark.parametrize("adapter", ["claude-code", "codex"])
async def test_a_supervisor_that_died_between_agent_and_overlay(tmp_path: Path, adapter: str) -> None:
    finder = later("codex")
    async with launching(tmp_path, finder) as base:
        before = base.daemon
        before.held = asyncio.Event()
        call = asyncio.create_task(base.launch(adapter, spawn=base.spawn(labels={"a": "b"})))
        await before.asked.wait()
        # What is on disk then is all that the next one has.
        [half] = base.kept().values()
        assert (half.session, half.agent, dict(half.labels)) == (base.session, "", {"a": "b"})
        before.refusal = Unreachable("x", "y")
        [agent] = before.known
        database = base.made.paths.database
        copy = tmp_path / "copy.db"
        copy.write_bytes(database.read_bytes())
        wal = Path(f"{database}-wal")
        log = wal.read_bytes() if wal.exists() else b""
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        before.held.set()
        await base.until(lambda: any(one.agent for one in base.kept().values()))
    database.write_bytes(copy.read_bytes())
    wal.write_bytes(log)
    async with launching(tmp_path, later("codex"), before=before) as base:
        [half] = base.kept().values()
        assert half.agent == ""
        await base.rows()
        await base.until(lambda: any(one.agent == agent for one in base.kept().values()))
        [row] = (await base.rows()).values()
        assert (row.agent, row.labels) == (agent, {"a": "b"})
        if adapter == "codex":
            base.finder.lines["told"] = "real"
            base.daemon.print(agent, b"told\n")
            await base.until(lambda: ("codex", "real") in base.kept())
            assert base.kept()["codex", "real"].labels == {"a": "b"}


async def test_a_launch_without_an_agent_is_shown_to_nobody(tmp_path: Path) -> None:
    async with launching(tmp_path, later("codex")) as base:
        base.daemon.held = asyncio.Event()
        call = asyncio.create_task(base.launch("codex"))
        await base.daemon.asked.wait()
        [(adapter, conversation)] = base.kept()
        assert not await base.rows()
        assert (await refused(base.label(conversation, a="b"))).code == "agent_session_not_found"
        assert (
            await refused(base.label(f"{adapter}:{conversation}", a="b"))
        ).code == "agent_session_not_found"
        base.daemon.held.set()
        await call
        assert len(await base.rows()) == len(base.kept()) == 1


async def test_a_daemon_that_dies_over_a_launch(tmp_path: Path) -> None:
    async with launching(tmp_path) as base:
        base.daemon.held = asyncio.Event()
        call = asyncio.create_task(base.launch(spawn=base.spawn(labels={"a": "b"})))
        await base.daemon.asked.wait()
        await base.daemon.stop()
        told = await refused(call)
        assert (told.code, told.fields["effect"]) == ("daemon_unreachable", "possible")
        # Its agent was there: it is entered.
        [agent] = base.daemon.known
        await base.until(lambda: any(one.agent == agent for one in base.kept().values()))
        [kept] = base.kept().values()
        assert kept.labels == {"a": "b"}


# ---- ids that are told later


async def test_an_id_told_on_stdout(tmp_path: Path) -> None:
    finder = later("codex")
    finder.lines |= {"told": "real", "not this": ""}
    async with launching(tmp_path, finder) as base:
        made = await base.launch("codex", print=True, spawn=base.spawn(labels={"a": "b"}))
        waiting = f"agent:{base.session}-{made.agent.id}"
        assert made.agent_session.id == waiting
        assert made.agent_session.status == RUNNING
        await base.label(waiting, late="y")
        base.daemon.print(made.agent.id, b"\n" + b"x" * 3000 + b"\nnot this\nto")
        base.daemon.print(made.agent.id, b"ld\nmore\n")
        await base.until(lambda: ("codex", "real") in base.kept())
        [row] = (await base.rows()).values()
        assert (row.id, row.labels, row.agent) == ("real", {"a": "b", "late": "y"}, made.agent.id)
        request = pb.GetAgentSessionRequest(agent_session=waiting)
        assert (await base.stub.GetAgentSession(request, timeout=PATIENCE)).agent_session.id == "real"


async def test_an_id_in_a_last_line_without_end(tmp_path: Path) -> None:
    finder = later("codex")
    finder.lines["told"] = "real"
    async with launching(tmp_path, finder) as base:
        made = await base.launch("codex", print=True)
        base.daemon.output[made.agent.id] = b"told"
        base.daemon.end(made.agent.id)
        await base.until(lambda: ("codex", "real") in base.kept())


@pytest.mark.parametrize("ends", [True, False])
async def test_output_that_never_tells_an_id(tmp_path: Path, ends: bool) -> None:
    async with launching(tmp_path, later("codex")) as base:
        made = await base.launch("codex", print=True)
        base.daemon.print(made.agent.id, b"no\n" if ends else b"x" * (1 << 20) + b"\n" + b"y" * 100)
        if ends:
            base.daemon.end(made.agent.id)
        following = [one for one in asyncio.all_tasks() if one.get_name().startswith("id of")]
        assert following
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(following)
        assert [key[1] for key in base.kept()] == [made.agent_session.id]
        rows = await base.rows()
        assert list(rows) == ([] if ends else [made.agent_session.id])


async def test_files_that_tell_the_id_before_stdout_does(tmp_path: Path) -> None:
    finder = later("codex")
    finder.lines["told"] = "real"
    async with launching(tmp_path, finder) as base:
        made = await base.launch("codex", print=True, spawn=base.spawn(labels={"a": "b"}))
        mark = f"{base.session}-{made.agent.id}"
        base.put("real", "codex", life=Life(alive=True, pid=77, start_time=1, mark=mark, turn=Turn.WORKING))
        await base.until(lambda: ("codex", "real") in base.kept())
        base.daemon.print(made.agent.id, b"told\n")
        await base.daemon.read(0)
        assert list(base.kept()) == [("codex", "real")]
        assert base.kept()["codex", "real"].labels == {"a": "b"}
        assert list(await base.rows()) == ["real"]


async def test_an_id_is_learnt_over_the_end_of_a_daemon_and_of_an_adapter(tmp_path: Path) -> None:
    finder = later("codex")
    finder.lines["told"] = "real"
    async with launching(tmp_path, finder) as base:
        made = await base.launch("codex", print=True)
        agent = made.agent.id
        base.daemon.print(agent, b"some\n")
        await base.daemon.read(1)
        finder.fail("codex", Unreachable("adapter_failed", "broken"))
        await finder.read()
        base.daemon.print(agent, b"told\n")
        await base.daemon.read(0)
        await base.daemon.stop()
        finder.mend("codex")
        await finder.read()
        next_life = base.daemon
        base.daemon = type(next_life)(base.made, base.made.paths.session_socket(base.session), base.session)
        base.daemon.known, base.daemon.output = next_life.known, next_life.output
        base.made.daemons.append(await base.daemon.start())
        base.made.parts.directory.changed.fire()
        await base.until(lambda: ("codex", "real") in base.kept())


async def test_an_id_is_learnt_over_the_end_of_the_supervisor(tmp_path: Path) -> None:
    async with launching(tmp_path, later("codex")) as base:
        made = await base.launch("codex", print=True, spawn=base.spawn(labels={"a": "b"}))
        before = base.daemon
    before.print(made.agent.id, b"told\n")
    finder = later("codex")
    finder.lines["told"] = "real"
    async with launching(tmp_path, finder, before=before) as base:
        assert [key[1] for key in base.kept()] == [made.agent_session.id]
        await base.rows()
        await base.until(lambda: ("codex", "real") in base.kept())
        assert base.kept()["codex", "real"].labels == {"a": "b"}


async def test_the_end_of_an_agent_is_the_end_of_its_conversation(tmp_path: Path) -> None:
    async with launching(tmp_path) as base:
        made = await base.launch()
        conversation = made.agent_session.id
        base.daemon.end(made.agent.id)
        base.made.book(base.session).write_end(made.agent.id, AgentEnd(exit_status=0, ended_at=BEGUN))
        base.put(conversation, updated_at=BEGUN)
        await base.finder.read()
        row = (await base.rows())[conversation]
        assert row.status == pb.AGENT_SESSION_STATUS_STOPPED
        assert row.ended_at.ToDatetime(BEGUN.tzinfo) == BEGUN
        # Somebody went on with it since.
        base.put(conversation, updated_at=BEGUN + timedelta(minutes=1))
        await base.finder.read()
        assert not (await base.rows())[conversation].HasField("ended_at")
