"""The life of agents without systemd: races, crashes between two steps, and what fails half way."""

from __future__ import annotations

import asyncio
from signal import SIGWINCH

import pytest

from sessiond.agents import launch
from sessiond.agents.book import Book
from sessiond.daemon import batch
from sessiond.daemon.agents import Agents
from sessiond.errors import Conflict, Exhausted, SessiondError, Unreachable
from sessiond.model.agent import Agent, AgentState, Cause, RestartPolicy
from sessiond.model.agent_selection import Selection
from tests.unit.daemon_agents_case import Stage, stage, wish

__all__ = ["stage"]


async def test_an_end_is_on_disk_before_the_unit_is_released(stage: Stage) -> None:
    order: list[str] = []
    async with stage.agents() as agents:
        made = await agents.spawn(wish(tty=True))
        release, book = agents._units.release, stage.book()

        async def released(agent: str) -> None:
            order.append("end" if book.read(agent).end else "no end")
            await release(agent)

        agents._units.release = released  # type: ignore[method-assign]
        stage.units.exit(made.id, 3)
        ended = await agents.wait(made.id)
    assert order == ["end"]
    assert (ended.state, ended.end and ended.end.exit_status) == (AgentState.FAILED, 3)
    assert stage.terminals.calls[-3:] == ["drained", "close", "told failed"]


async def test_who_waits_is_answered_when_the_record_is_whole(stage: Stage) -> None:
    stage.outputs.gate = asyncio.Event()
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        waiting = asyncio.create_task(agents.wait(made.id))
        stage.units.exit(made.id, 0)
        await agents.changed.until(lambda: "drained" in stage.outputs.calls or None)
        assert not waiting.done()
        assert agents.get(made.id).state is AgentState.COMPLETED
        stage.outputs.gate.set()
        assert (await waiting).state is AgentState.COMPLETED
    assert stage.outputs.calls[-2:] == ["ended", "close"]


async def test_a_failed_start_leaves_nothing(stage: Stage) -> None:
    async with stage.agents() as agents:
        stage.units.world.faults.append(Conflict("start_failed", "no"))
        with pytest.raises(Conflict):
            await agents.spawn(wish(tty=True))
        stage.terminals.fault = Exhausted("no_terminals", "none left")
        with pytest.raises(Exhausted):
            await agents.spawn(wish(tty=True))
        assert await agents.list(Selection(ended=True)) == []
        assert stage.book().load() == ({}, [])
        assert not stage.units.world.units
        stage.terminals.fault = None
        assert (await agents.spawn(wish(tty=True))).state is AgentState.RUNNING


async def test_a_start_without_an_answer_is_followed_like_any_other(stage: Stage) -> None:
    async with stage.agents() as agents:
        start = agents._units.start

        async def lost(spec: object) -> None:
            await start(spec)  # type: ignore[arg-type]
            stage.units.lose("gone")
            raise Unreachable("init_unavailable", "no answer")

        agents._units.start = lost  # type: ignore[method-assign]
        with pytest.raises(Unreachable):
            await agents.spawn(wish(name="one"))
        assert agents.get("one").state is AgentState.UNKNOWN
        stage.units.recover()
        assert (await agents.wait("one", frozenset({AgentState.RUNNING}))).state is AgentState.RUNNING


async def test_a_client_that_hangs_up_in_mid_spawn_leaves_nothing_half_done(stage: Stage) -> None:
    async with stage.agents() as agents:
        start, begun, gate = agents._units.start, asyncio.Event(), asyncio.Event()

        async def slow(spec: object) -> None:
            begun.set()
            await gate.wait()
            await start(spec)  # type: ignore[arg-type]

        agents._units.start = slow  # type: ignore[method-assign]
        call = asyncio.create_task(agents.spawn(wish(name="one")))
        await begun.wait()
        assert agents.get("one").state is AgentState.STARTING
        call.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert agents.get("one").state is AgentState.RUNNING


async def test_names_and_the_cap_hold_for_spawns_at_the_same_time(stage: Stage) -> None:
    stage.limit(max_per_session=3)
    async with stage.agents() as agents:
        results = await asyncio.gather(*(agents.spawn(wish()) for _ in range(6)), return_exceptions=True)
        made = [one for one in results if isinstance(one, Agent)]
        assert sorted(one.spec.name for one in made) == ["true-1", "true-2", "true-3"]
        refused = [one.code for one in results if isinstance(one, SessiondError)]
        assert refused == ["too_many_agents"] * 3
        await agents.stop_agent(made[0].id)
        same = await asyncio.gather(*(agents.spawn(wish(name="x")) for _ in range(2)), return_exceptions=True)
        assert [getattr(one, "code", "") for one in same] == ["", "agent_name_taken"] or [
            getattr(one, "code", "") for one in same
        ] == ["", "too_many_agents"]


async def test_the_store_has_room_for_what_is_being_opened(stage: Stage) -> None:
    stage.units.world.room = (0, 5)
    async with stage.agents() as agents:
        results = await asyncio.gather(
            *(agents.spawn(wish(tty=True)) for _ in range(4)), return_exceptions=True
        )
        codes = [getattr(one, "code", "") for one in results]
        assert sorted(codes) == ["", "", "descriptor_store_full", "descriptor_store_full"]


async def test_an_end_written_and_not_released_is_made_good_by_the_next_life(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish(tty=True))

        async def never(agent: str) -> None:
            await asyncio.Event().wait()

        agents._units.release = never  # type: ignore[method-assign]
        stage.units.exit(made.id, 3)
        await agents.changed.until(lambda: agents.roster.entries[made.id].end)
    assert made.id in stage.units.world.units
    stage.terminals.calls.clear()
    async with stage.agents() as agents:
        await agents.changed.until(lambda: not stage.units.world.units or None)
        await agents.changed.until(lambda: "close" in stage.terminals.calls or None)
        assert agents.get(made.id).state is AgentState.FAILED
    assert stage.terminals.calls[0] == f"restore {made.spec.name}"
    assert not (stage.book().folder(made.id).path / "unreleased").exists()


async def test_a_daemon_without_unfinished_agents_asks_nothing_of_the_init_system(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        await agents.kill(made.id)
    watchers = stage.units.world.watchers
    async with stage.agents() as agents:
        assert agents.get(made.id).state is AgentState.TERMINATED
        await asyncio.sleep(0)
        assert watchers == []


async def test_what_went_down_with_its_manager_is_told_or_comes_back(stage: Stage) -> None:
    async with stage.agents() as agents:
        lost, back = (
            await agents.spawn(wish(name="lost")),
            await agents.spawn(wish(name="back", resurrect=True)),
        )
    stage.units.recover(run="2")
    async with stage.agents() as agents:
        gone = await agents.wait("lost")
        assert (gone.id, gone.end and gone.end.cause) == (lost.id, Cause.MANAGER)
        again = await agents.wait("back", frozenset({AgentState.RUNNING}))
        assert (again.id, again.spec.manager) == (back.id, "2")
        # Its end by somebody's wish is one, and it stays ended.
        await agents.stop_agent("back")
    stage.units.recover(run="3")
    async with stage.agents() as agents:
        assert agents.get("back").state is AgentState.TERMINATED


async def test_what_was_being_ended_when_its_manager_went_down_does_not_come_back(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish(resurrect=True))
    # The daemon noted the wish, and no more.
    stage.book().note_asked(made.id)
    stage.units.recover(run="2")
    async with stage.agents() as agents:
        assert (await agents.wait(made.id)).end is not None
        assert agents.get(made.id).state is AgentState.FAILED


async def test_an_end_while_the_manager_goes_down_is_nobodys_wish(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish(resurrect=True))
        stage.leaving = True
        stage.units.hand_stop(made.id)
        await stage.asked.wait()
    assert stage.book().read(made.id).end is None
    stage.leaving = False
    stage.units.recover(run="2")
    async with stage.agents() as agents:
        assert (await agents.wait(made.id, frozenset({AgentState.RUNNING}))).id == made.id


async def test_a_stop_by_hand_is_asked_for_and_an_automatic_restart_forgets_what_was(stage: Stage) -> None:
    async with stage.agents() as agents:
        stopped = await agents.spawn(wish())
        stage.units.hand_stop(stopped.id)
        assert (await agents.wait(stopped.id)).state is AgentState.TERMINATED
        made = await agents.spawn(wish(restart=RestartPolicy.ON_FAILURE, tty=True))
        await agents.signal(made.id, "KILL")
        await agents.changed.until(lambda: "rearm" in stage.terminals.calls or None)
        assert not stage.book().read(made.id).asked
        stage.units.exit(made.id, 0)
        ended = await agents.wait(made.id)
        assert (ended.state, ended.end and ended.end.asked) == (AgentState.COMPLETED, False)


async def test_a_signal_that_an_agent_lived_through_did_not_end_it(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = [await agents.spawn(wish()) for _ in range(2)]
        for one in made:
            await agents.signal(one.id, "WINCH")
            await agents.signal(one.id, "CONT")
    # What was sent outlives the daemon that sent it.
    async with stage.agents() as agents:
        stage.units.exit(made[0].id, 3)
        stage.units.exit(made[1].id, 128 + SIGWINCH)
        assert (await agents.wait(made[0].id)).state is AgentState.FAILED
        assert (await agents.wait(made[1].id)).state is AgentState.TERMINATED


async def test_a_restart_that_fails_leaves_the_old_end(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        stage.units.exit(made.id, 9)
        await agents.wait(made.id)
        stage.units.world.faults.append(Conflict("start_failed", "no"))
        with pytest.raises(Conflict):
            await agents.restart(made.id)
        now = agents.get(made.id)
        assert (now.state, now.end and now.end.exit_status) == (AgentState.FAILED, 9)
        end = stage.book().read(made.id).end
        assert end is not None
        assert end.exit_status == 9
        assert (await agents.restart(made.id)).state is AgentState.RUNNING
        assert stage.book().read(made.id).end is None
        stage.book().forget_environment(made.id)
        with pytest.raises(Conflict, match="gone"):
            await agents.restart(made.id)
        # It was not stopped for what could not be done.
        assert agents.get(made.id).state is AgentState.RUNNING


async def test_a_full_disk_keeps_the_unit_and_not_those_who_wait(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.daemon.ending._TRY_AGAIN", 0.01)
    full = True
    write = Book.write_end

    def refuse(self: Book, agent: str, end: object) -> None:
        if full:
            raise Exhausted("disk_full", "no room")
        write(self, agent, end)  # type: ignore[arg-type]

    monkeypatch.setattr(Book, "write_end", refuse)
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        stage.units.exit(made.id, 4)
        assert (await agents.wait(made.id)).state is AgentState.FAILED
        assert made.id in stage.units.world.units
        full = False
        await agents.changed.until(lambda: agents.roster.entries[made.id].end)
        await agents.changed.until(lambda: not stage.units.world.units or None)
        full = True
        other = await agents.spawn(wish())
        stage.units.exit(other.id, 0)
        await agents.wait(other.id)
        # Removing makes room.
        await agents.remove(other.id)
        assert not stage.units.world.units


async def test_a_full_disk_makes_no_ended_agent_unknown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Book, agent: str, end: object) -> None:
        raise Exhausted("disk_full", "no room")

    async with stage.agents() as agents:
        made = [await agents.spawn(wish()) for _ in range(2)]
    for one in made:
        stage.units.vanish(one.id)
    monkeypatch.setattr(Book, "write_end", refuse)
    async with stage.agents() as agents:
        told = await agents.wait(made[0].id)
        assert (told.state, told.end and told.end.cause) == (AgentState.TERMINATED, Cause.UNSEEN)
        await agents.remove(made[0].id)
    monkeypatch.undo()
    # The next daemon, which has room, writes down what is left.
    async with stage.agents() as agents:
        assert [one.id for one in await agents.list(Selection(ended=True))] == [made[1].id]
        await agents.wait(made[1].id)
    end = stage.book().read(made[1].id).end
    assert end is not None
    assert end.cause is Cause.UNSEEN


async def test_the_oldest_that_ended_are_forgotten(stage: Stage) -> None:
    stage.limit(keep_ended=2)
    async with stage.agents() as agents:
        ended = []
        for _ in range(5):
            ended.append((await agents.spawn(wish())).id)
            await agents.kill(ended[-1])
        running = await agents.spawn(wish(name="running"))
        kept = {one.id for one in await agents.list(Selection(ended=True))}
        # An end makes room among those before it, so there may be one more.
        assert {*ended[-2:], running.id} <= kept <= {*ended[-3:], running.id}
        assert agents.get(running.id).state is AgentState.RUNNING
    assert set(stage.book().load()[0]) == kept


async def test_a_batch_begins_no_more_after_a_failure_when_told_so(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = [await agents.spawn(wish(group="g")) for _ in range(40)]

        async def deed(agent: str) -> Agent:
            await asyncio.sleep(0)
            if agent == made[0].id:
                raise Conflict("no", "not this one")
            return agents.get(agent)

        results = await batch.run(agents, Selection(group="g"), deed, fail_fast=True)
        codes = [one.code for one in results]
        assert len(codes) == len(made)
        assert codes.count("no") == 1
        assert 0 < codes.count("skipped") < len(made)
        results = await batch.run(agents, Selection(agents=("nobody", made[1].id)), deed)
        assert [(one.word, one.code) for one in results] == [("", ""), ("nobody", "agent_not_found")]


async def test_the_end_of_a_session_waits_for_ends_that_were_asked_for(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = [await agents.spawn(wish()) for _ in range(3)]

        async def stop_all() -> None:
            for one in made:
                stage.units.hand_stop(one.id)

        await agents.end_all(stop_all)
    kept, _ = stage.book().load()
    assert all(one.end and one.end.asked for one in kept.values())


async def test_who_asks_right_after_a_restart_is_told_of_what_runs(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
    async with stage.agents() as agents:
        # The init system has not been heard yet.
        assert agents.get(made.id).unit is None
        [row] = await agents.list(Selection())
        assert row.state is AgentState.RUNNING
        assert row.unit is not None
        assert row.unit.status.main_pid
    async with stage.agents() as agents:
        assert (await agents.measured(made.id)).state is AgentState.RUNNING


async def test_who_waits_for_an_agent_is_sent_to_the_next_daemon_when_this_one_ends(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        waits = [
            asyncio.create_task(agents.wait(made.id)),
            asyncio.create_task(agents.wait(made.id, frozenset({AgentState.PAUSED}))),
        ]
        await asyncio.sleep(0)
        await agents.stop()
        # Not when their calls are cut off at last.
        for answer in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(answer, Unreachable)
            assert answer.code == "daemon_restarting"
        for late in (agents.list(Selection()), agents.stop_agent(made.id), agents.spawn(wish())):
            with pytest.raises(Unreachable) as caught:
                await late
            assert caught.value.code == "daemon_restarting"
    async with stage.agents() as agents:
        [row] = await agents.list(Selection())
        assert row.state is AgentState.RUNNING


async def test_what_nobody_can_tell_is_unknown_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessiond.daemon.agents._FIRST_LOOK", 3600.0)
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
    stage.units.lose("it is gone")
    async with stage.agents() as agents:
        [row] = await agents.list(Selection())
        assert (row.id, row.state, row.unit) == (made.id, AgentState.UNKNOWN, None)


async def test_an_init_system_that_says_nothing_is_not_waited_for_long(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.daemon.agents._FIRST_LOOK", 0.01)
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
    # It serves, and does not follow yet.
    monkeypatch.setattr(Agents, "begin", lambda _self: None)
    async with stage.agents() as agents:
        assert (await agents.measured(made.id)).state is AgentState.UNKNOWN


@pytest.mark.parametrize("resurrect", [False, True])
async def test_an_agent_follows_its_workspace(stage: Stage, resurrect: bool) -> None:
    inside = stage.home / "workspace" / "src"
    inside.mkdir()
    program = inside / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    async with stage.agents() as agents:
        made = await agents.spawn(
            wish(argv=("./program", "word"), cwd=str(inside), resurrect=resurrect, umask=0o77)
        )
        await agents.kill(made.id)
        assert (made.spec.cwd, made.spec.program) == (inside, program)
        (stage.home / "workspace").rename(stage.home / "moved")
        link = stage.store / "workspace"
        link.unlink()
        link.symlink_to(stage.home / "moved")
        again = await agents.restart(made.id)
        there = stage.home / "moved" / "src"
        assert (again.spec.cwd, again.spec.program) == (there, there / "program")
        kept = stage.book().read(made.id)
        assert kept.spec.cwd == there
        launched = kept.folder.launch_kept if resurrect else kept.folder.launch_passing
        path, argv, cwd, umask, environment = launch.decode(launched.read_bytes())
        assert (path, cwd) == (bytes(there / "program"), bytes(there))
        assert (argv, umask) == ([b"./program", b"word"], 0o77)
        assert environment[b"PWD"] == bytes(there)
        await agents.kill(made.id)


async def test_one_whose_folder_or_program_is_gone_is_neither_stopped_nor_started(stage: Stage) -> None:
    inside = stage.home / "workspace" / "src"
    inside.mkdir()
    program = stage.home / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    async with stage.agents() as agents:
        made = await agents.spawn(wish(argv=(str(program),), cwd=str(inside), resurrect=True))
        for what, elsewhere, code in (
            (inside, stage.home / "src", "folder_missing"),
            (program, stage.home / "other", "command_not_found"),
        ):
            what.rename(elsewhere)
            with pytest.raises(SessiondError) as caught:
                await agents.restart(made.id)
            assert caught.value.code == code
            assert caught.value.hint
            assert agents.get(made.id).state is AgentState.RUNNING
            elsewhere.rename(what)
        program.unlink()
    # Nor is it by a boot, and its end says why it runs no more.
    stage.units.recover(run="2")
    async with stage.agents() as agents:
        ended = await agents.wait(made.id)
        assert (ended.state, ended.end and ended.end.cause) == (AgentState.FAILED, Cause.MANAGER)


async def test_a_launch_file_that_cannot_be_read_starts_nothing(stage: Stage) -> None:
    async with stage.agents() as agents:
        made = await agents.spawn(wish())
        await agents.kill(made.id)
        (stage.home / "workspace").rename(stage.home / "moved")
        link = stage.store / "workspace"
        link.unlink()
        link.symlink_to(stage.home / "moved")
        stage.book().folder(made.id).launch_passing.write_bytes(b"garbage")
        with pytest.raises(Conflict, match="cannot be read") as caught:
            await agents.restart(made.id)
        assert caught.value.code == "environment_gone"
        assert agents.get(made.id).state is AgentState.TERMINATED
