"""What is kept beside conversations while these appear, change under their process, vanish and come back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sessiond.errors import Exhausted, NotFound
from sessiond.model.agent_session import PENDING, STOPPED, AgentSessionStatus, Life, Overlay, Problem
from sessiond.model.conversation import Choice
from sessiond.ports.discovery import Rows
from sessiond.supervisor.discovered.editing import Edit, editing
from sessiond.testing.memory_store import Disk
from tests.unit.discovered_case import AGENT, BEGUN, MARK, SESSION, Knowing, alive, found, knowing

WAITING = f"{PENDING}{MARK}"
LIVES = Life(alive=True, pid=77, mark=MARK, reason="not told yet")


async def tended(known: Knowing, test: Any) -> None:
    """Wait until what is on disk is so."""
    async with asyncio.timeout(60):
        while not test(known.kept()):
            await known.discovered.changed.wait()


async def test_a_launch_with_a_chosen_id_is_one_row_from_the_first_moment() -> None:
    async with knowing() as known:
        known.agents[MARK] = LIVES
        await known.launched("chosen", cwd="/home/user/x")
        [row] = await known.rows(Choice())
        assert (row.found.id, row.status, row.found.life.pid) == ("chosen", AgentSessionStatus.RUNNING, 77)
        assert (row.session, row.session_name, row.agent, row.cwd) == (SESSION, "work", AGENT, "/home/user/x")
        assert known.finder.owned == {"claude-code": {MARK: "chosen"}}
        known.finder.put(found("chosen", life=alive(mark=MARK)))
        await known.finder.read()
        [row] = await known.rows(Choice())
        assert (row.agent, row.overlay.prompt, row.found.life.pid) == (AGENT, "do it", 100)
        known.finder.put(found("chosen"))
        await known.finder.read()
        [row] = await known.rows()
        assert (row.status, row.agent) == (AgentSessionStatus.STOPPED, AGENT), "it last ran there"


async def test_a_launch_that_never_wrote_anything_is_no_row_once_its_agent_has_ended() -> None:
    async with knowing() as known:
        known.agents[MARK] = LIVES
        await known.launched(WAITING)
        [row] = await known.rows(Choice())
        assert row.pending
        assert row.status is AgentSessionStatus.RUNNING
        # Nobody asks, and no adapter sees a process: its daemon tells.
        known.end(MARK)
        await tended(known, lambda _: known.discovered.view(("claude-code", WAITING)) is None)
        assert await known.rows() == []


async def test_whether_an_agent_lives_that_nobody_answers_for_is_unknown() -> None:
    async with knowing() as known:
        known.agents[MARK] = Life(alive=None, reason="its session's daemon does not answer")
        await known.launched(WAITING)
        [row] = await known.rows(Choice())
        assert row.status is AgentSessionStatus.UNKNOWN
        assert "does not answer" in row.found.life.reason
        with pytest.raises(NotFound) as caught:
            await known.discovered.transcript(row, 1)
        assert caught.value.code == "transcript_missing"


async def test_a_pending_launch_becomes_what_its_agent_is_found_to_have_open() -> None:
    async with knowing() as known:
        known.agents[MARK] = LIVES
        await known.launched(WAITING, "codex", labels={"team": "x"})
        assert await known.ids() == [WAITING]
        known.finder.put(found("child", "codex", parent="real", minutes=9, life=alive(mark=MARK)))
        await known.finder.read()
        # One row at each moment, also before the store has it.
        known.finder.put(found("real", "codex", life=alive(mark=MARK)))
        await known.finder.read()
        rows = {row.found.id: row for row in await known.rows()}
        assert set(rows) == {"real", "child"}
        assert rows["real"].overlay.labels == {"team": "x"}
        assert rows["child"].overlay.labels == {}
        await tended(known, lambda kept: set(kept) == {("codex", "real")})
        await tended(known, lambda _: known.finder.owned.get("codex") == {MARK: "real"})
        # The id that was handed out at the launch still leads to it.
        row = await known.discovered.find(WAITING)
        assert row.found.id == "real"
        assert row.overlay.launched_at == known.now
        assert (await known.discovered.find(f"codex:{WAITING}")).found.id == "real"


async def test_an_id_that_is_learnt_twice_keeps_what_was_put_on_either() -> None:
    async with knowing() as known:
        waiting = await known.launched(WAITING, "codex", labels={"launch": "x"})
        await known.rows()
        known.finder.put(found("real", "codex"))
        await known.finder.read()
        row = await known.discovered.find("real")
        await known.discovered.edit(row, editing(Edit(set_labels={"late": "y"}, group="g")))
        real = replace(waiting, id="real")
        await known.discovered.put_overlay(real, instead_of=waiting.key)
        await known.discovered.put_overlay(real, instead_of=waiting.key)
        assert list(known.kept()) == [("codex", "real")]
        [kept] = known.kept().values()
        assert (kept.labels, kept.group, kept.agent) == ({"launch": "x", "late": "y"}, "g", AGENT)


async def test_a_label_put_while_the_id_is_learnt_lands_on_the_one_there_is() -> None:
    async with knowing() as known:
        known.agents[MARK] = LIVES
        waiting = await known.launched(WAITING, "codex")
        row = await known.discovered.find(WAITING)
        await known.discovered.put_overlay(replace(waiting, id="real"), instead_of=waiting.key)
        changed = await known.discovered.edit(row, editing(Edit(set_labels={"a": "b"})))
        assert changed.found.id == "real"
        assert list(known.kept()) == [("codex", "real")]
        assert known.kept()["codex", "real"].labels == {"a": "b"}


async def test_a_conversation_that_changes_under_its_process_is_followed() -> None:
    async with knowing(found("old", life=alive(pid=7, mark=MARK))) as known:
        await known.launched("old", labels={"team": "x"}, launched_at=BEGUN, spec="{}")
        await known.rows()
        assert known.finder.owned == {"claude-code": {MARK: "old"}}
        # As `/clear` does: another id in the same process, while the old one still counts as ours.
        known.finder.tell(Rows("claude-code", [found("new", minutes=1, life=alive(pid=7, mark=MARK))]))
        await known.finder.read()
        await tended(known, lambda _: known.finder.owned == {"claude-code": {MARK: "new"}})
        assert known.kept()["claude-code", "old"].labels == {"team": "x"}
        assert known.kept()["claude-code", "new"].labels == {}
        assert (await known.discovered.find(f"work/{AGENT}")).found.id == "new"
        # Gone back to, and ended: both last ran there.
        known.finder.put(found("old", life=STOPPED))
        known.finder.put(found("new", life=STOPPED))
        await known.finder.read()
        assert {row.agent for row in await known.rows()} == {AGENT}


async def test_a_conversation_that_is_gone_back_to_is_the_agents_again() -> None:
    async with knowing(found("old", life=alive(pid=7, mark=MARK))) as known:
        await known.launched("old", labels={"team": "x"}, launched_at=BEGUN)
        await known.rows()
        known.finder.tell(
            Rows("claude-code", [found("old"), found("new", minutes=1, life=alive(pid=7, mark=MARK))])
        )
        await known.finder.read()
        await tended(known, lambda _: known.finder.owned == {"claude-code": {MARK: "new"}})
        known.now += timedelta(minutes=1)
        known.finder.tell(
            Rows("claude-code", [found("new"), found("old", minutes=2, life=alive(pid=7, mark=MARK))])
        )
        await known.finder.read()
        await tended(known, lambda _: known.finder.owned == {"claude-code": {MARK: "old"}})
        kept = known.kept()["claude-code", "old"]
        assert (kept.prompt, kept.labels) == ("do it", {"team": "x"})


async def test_another_program_within_an_agent_does_not_take_its_place() -> None:
    async with knowing(found("main", life=alive(pid=7, mark=MARK))) as known:
        await known.launched("main")
        await known.rows()
        known.finder.put(found("tool", minutes=5, life=alive(pid=8, mark=MARK)))
        known.finder.put(found("sub", minutes=6, parent="main", life=alive(pid=7, mark=MARK)))
        await known.finder.read()
        rows = {row.found.id: row for row in await known.rows()}
        assert {row.agent for row in rows.values()} == {AGENT}
        assert list(known.kept()) == [("claude-code", "main")]
        assert known.finder.owned == {"claude-code": {MARK: "main"}}
        assert (await known.discovered.find(f"work/{AGENT}")).found.id == "main"


async def test_a_launch_that_was_kept_without_its_agent_is_completed() -> None:
    async with knowing() as known:
        await known.launched("chosen", agent="")
        await known.rows()
        assert known.finder.owned == {}
        known.finder.put(found("chosen", life=alive(mark=MARK)))
        await known.finder.read()
        await tended(known, lambda kept: kept["claude-code", "chosen"].agent == AGENT)
        await tended(known, lambda _: known.finder.owned == {"claude-code": {MARK: "chosen"}})


async def test_a_restart_of_the_supervisor_keeps_all() -> None:
    disk = Disk()
    async with knowing(found("one"), disk=disk) as known:
        await known.launched("one", labels={"a": "b"}, launched_at=BEGUN)
        await known.launched(WAITING, "codex")
        known.agents[MARK] = LIVES
        await known.rows()
    async with knowing(found("one", life=alive(mark=MARK)), disk=disk) as known:
        known.agents[MARK] = LIVES
        assert [one.id for one in known.discovered.pending] == [WAITING]
        rows = {row.found.id: row for row in await known.rows()}
        assert set(rows) == {"one", WAITING}
        assert rows["one"].overlay.labels == {"a": "b"}
        assert known.finder.calls[0] == ("own", "claude-code"), "told before the first look"
        known.finder.put(found("real", "codex", life=alive(mark=MARK)))
        await known.finder.read()
        await tended(known, lambda kept: ("codex", "real") in kept)


async def test_overlays_of_what_is_missing_for_long_are_collected_at_whole_scans() -> None:
    async with knowing(found("one"), found("two"), keep=timedelta(days=30)) as known:
        for name in ("one", "two", "never"):
            await known.discovered.put_overlay(Overlay("claude-code", name, labels={"a": "b"}))
        await known.rows()
        await tended(known, lambda kept: kept["claude-code", "never"].missing_since == known.now)
        began = known.now
        known.finder.remove("claude-code", "one")
        await known.finder.read()
        known.now += timedelta(days=29)
        await known.discovered.refresh()
        await tended(known, lambda kept: kept["claude-code", "one"].missing_since == known.now)
        assert known.kept()["claude-code", "never"].missing_since == began, "since the first time"
        assert known.kept()["claude-code", "two"].missing_since is None
        known.finder.put(found("one"))
        await known.finder.read()
        await tended(known, lambda kept: kept["claude-code", "one"].missing_since is None)
        known.now += timedelta(days=1)
        await known.discovered.refresh(["codex"])
        assert len(known.kept()) == 3, "only a whole look at its own adapter counts"
        await known.discovered.refresh(["claude-code"])
        await tended(known, lambda kept: set(kept) == {("claude-code", "one"), ("claude-code", "two")})


async def test_nothing_is_missing_while_files_cannot_be_read_or_an_agent_may_live() -> None:
    other = f"{SESSION}-{'b' * 16}"
    async with knowing(keep=timedelta(0)) as known:
        known.agents |= {MARK: LIVES, other: Life(alive=None, reason="who knows")}
        await known.launched("lives")
        await known.launched("unknown", agent="b" * 16)
        await known.launched("ended", agent="c" * 16)
        await known.discovered.put_overlay(Overlay("codex", "label", labels={"a": "b"}))
        known.finder.problems["codex"] = [Problem("codex", "file_unreadable", "denied", "/x")]
        await known.rows()
        await tended(known, lambda kept: ("claude-code", "ended") not in kept)
        assert set(known.kept()) == {
            ("claude-code", "lives"),
            ("claude-code", "unknown"),
            ("codex", "label"),
        }
        # The trouble was told after the first rows; from now on it is known.
        await known.discovered.refresh()
        assert ("codex", "label") in known.kept()
        known.finder.problems.clear()
        await known.discovered.refresh()
        await known.discovered.refresh()
        await tended(known, lambda kept: ("codex", "label") not in kept)


async def test_a_full_disk_loses_nothing_and_what_was_not_written_is_written_later() -> None:
    async with knowing() as known:
        known.agents[MARK] = LIVES
        await known.launched(WAITING, "codex")
        await known.rows()
        known.store.broken = Exhausted("disk_full", "no room")
        known.finder.put(found("real", "codex", life=alive(mark=MARK)))
        await known.finder.read()
        assert await known.ids() == ["real"]
        row = await known.discovered.find("real")
        with pytest.raises(Exhausted):
            await known.discovered.edit(row, editing(Edit(group="x")))
        assert (await known.discovered.find("real")).overlay.group == ""
        known.store.broken = None
        assert list(known.kept()) == [("codex", WAITING)]
        await known.discovered.refresh()
        await tended(known, lambda kept: list(kept) == [("codex", "real")])
