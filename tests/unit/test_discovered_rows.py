"""Conversations as they are listed: rows of adapters, lives, ages, staleness, filters, words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from sessiond.errors import InvalidArgument, NotFound, TimedOut, Unreachable
from sessiond.model.agent_session import STOPPED, AgentSessionStatus, Life, Overlay, Problem, Turn
from sessiond.model.conversation import Choice
from sessiond.ports.discovery import Problems, Rows
from sessiond.supervisor.discovered.editing import Edit, editing
from tests.unit.discovered_case import (
    AGENT,
    ALL,
    BEGUN,
    MARK,
    PATIENCE,
    SESSION,
    alive,
    found,
    knowing,
)


async def test_nothing_runs_until_somebody_asks() -> None:
    async with knowing(found("one")) as known:
        assert not known.finders
        assert known.discovered.activities(SESSION) == {}
        assert not known.finders
        assert await known.ids() == ["one"]
        assert await known.ids() == ["one"]
        assert len(known.finders) == 1
    assert known.finder.closed


async def test_what_is_at_hand_before_runs_nothing_and_serves_the_first_question() -> None:
    async with knowing(found("one")) as known:
        await known.discovered.prepare()
        assert not known.discovered.running
        assert known.finder.calls == [("prepare", "")]
        assert await known.ids() == ["one"]
        assert len(known.finders) == 1
    async with knowing(found("one")) as known:
        await known.discovered.prepare()
    assert known.finder.closed


async def test_the_first_list_waits_for_all_and_for_no_more() -> None:
    async with knowing(found("one"), found("two", "codex"), held=True) as known:
        listing = asyncio.create_task(known.ids())
        of_codex = asyncio.create_task(known.ids(replace(ALL, adapters=frozenset({"codex"}))))
        known.finder.release("codex")
        assert await of_codex == ["two"]
        for adapter in ("claude-code", "opencode"):
            known.finder.release(adapter)
        await known.finder.read()
        assert not listing.done()
        known.finder.fail("pi", Unreachable("adapter_failed", "it fell over"))
        async with asyncio.timeout(PATIENCE):
            assert await listing == ["two", "one"]
        known.finder.held.clear()


async def test_latest_first_and_stopped_ones_only_where_they_are_asked_for() -> None:
    rows = [
        found("old", minutes=1),
        found("new", "codex", minutes=3, life=alive()),
        found("middle", minutes=2, life=Life(alive=None, reason="who knows")),
    ]
    async with knowing(*rows) as known:
        assert await known.ids() == ["new", "middle", "old"]
        assert await known.ids(Choice()) == ["new", "middle"]
        assert await known.ids(Choice(statuses=frozenset({AgentSessionStatus.STOPPED}))) == ["old"]
        assert await known.ids(Choice(statuses=frozenset({AgentSessionStatus.UNKNOWN}))) == ["middle"]


async def test_filters() -> None:
    rows = [
        found("a", minutes=1, cwd="/home/user/project/sub"),
        found("b", "codex", minutes=2, cwd="/home/user/project"),
        found("c", minutes=3, cwd="/home/user/projects"),
        found("d", minutes=4, cwd="", life=alive(mark=MARK)),
    ]
    async with knowing(*rows) as known:
        await known.discovered.put_overlay(Overlay("codex", "b", labels={"team": "x"}, group="night"))
        await known.discovered.put_overlay(Overlay("claude-code", "c", labels={"team": "y"}))
        assert await known.ids(replace(ALL, cwd="/home/user/project")) == ["b", "a"]
        assert await known.ids(replace(ALL, cwd="/")) == ["c", "b", "a"]
        assert await known.ids(replace(ALL, labels={"team": "x"})) == ["b"]
        assert await known.ids(replace(ALL, label_keys=frozenset({"team"}))) == ["c", "b"]
        assert await known.ids(replace(ALL, group="night")) == ["b"]
        assert await known.ids(replace(ALL, since=BEGUN + timedelta(minutes=3))) == ["d", "c"]
        assert await known.ids(replace(ALL, session=SESSION)) == ["d"]
        assert await known.ids(replace(ALL, adapters=frozenset({"codex", "pi"}))) == ["b"]
        assert await known.ids(replace(ALL, adapters=frozenset({"gemini"}))) == [], "switched off"
        with pytest.raises(InvalidArgument) as caught:
            await known.ids(replace(ALL, adapters=frozenset({"emacs"})))
        assert caught.value.code == "adapter_unknown"
        assert "claude-code" in caught.value.hint


async def test_answers_come_at_once_and_the_next_one_shows_what_was_looked_at_behind() -> None:
    async with knowing(found("one", life=alive())) as known:
        [row] = await known.rows()
        assert (row.status, row.age) == (AgentSessionStatus.RUNNING, 0.0)
        known.finder.rows[row.key] = replace(row.found, life=STOPPED)
        known.clock += 0.5
        [row] = await known.rows()
        assert (row.status, row.age) == (AgentSessionStatus.RUNNING, 0.5)
        assert ("look", "claude-code") not in known.finder.calls
        known.clock += 1
        known.finder.held.add("codex")
        [row] = await known.rows()
        assert (row.status, row.age) == (AgentSessionStatus.RUNNING, 1.5)
        await known.until(lambda: known.discovered.view(row.key).status is AgentSessionStatus.STOPPED)  # type: ignore[union-attr]
        [row] = await known.rows()
        assert (row.status, row.age) == (AgentSessionStatus.STOPPED, 0.0)
        # One look at a time: that of Codex has not ended.
        assert known.finder.calls.count(("look", "codex")) == 1
        known.finder.held.clear()


async def test_refresh_shows_what_no_event_told() -> None:
    async with knowing(found("one")) as known:
        assert await known.ids() == ["one"]
        known.finder.rows["pi", "two"] = found("two", "pi", minutes=9)
        assert await known.ids() == ["one"]
        page = await known.discovered.listing(ALL, refresh=True)
        assert [row.found.id for row in page.rows] == ["two", "one"]


async def test_what_cannot_be_read_any_more_is_stale_since_it_last_could() -> None:
    one, trouble = found("one", life=alive()), "/w/one.jsonl: no line of it can be read"
    async with knowing(one, found("two")) as known:
        await known.rows()
        known.clock += 5
        known.finder.put(replace(one, trouble=trouble))
        await known.finder.read()
        known.clock += 2
        told = {row.found.id: (row.status, row.stale, row.age) for row in await known.rows()}
        assert told == {
            "one": (AgentSessionStatus.RUNNING, True, 7.0),
            "two": (AgentSessionStatus.STOPPED, False, 2.0),
        }
        # It goes on as the rest is looked at, and does what its process does.
        known.finder.put(replace(one, trouble=trouble, life=STOPPED))
        await known.finder.read()
        known.clock += 1
        [row] = [row for row in await known.rows() if row.found.id == "one"]
        assert (row.status, row.stale, row.age) == (AgentSessionStatus.STOPPED, True, 8.0)
        assert (await known.discovered.get("one")).age == 8.0
        known.finder.put(one)
        await known.finder.read()
        now = known.discovered.view(one.key)
        assert now is not None
        assert (now.stale, now.age) == (False, 0.0)
        # Of one that comes back, nothing of before is known.
        known.finder.put(replace(one, trouble=trouble))
        known.finder.remove(*one.key)
        await known.finder.read()
        known.clock += 9
        known.finder.put(replace(one, trouble=trouble))
        await known.finder.read()
        now = known.discovered.view(one.key)
        assert now is not None
        assert (now.stale, now.age) == (True, 9.0)


async def test_an_adapter_that_fails_keeps_its_last_answer_and_delays_nobody() -> None:
    async with knowing(found("one", life=alive()), found("two", "codex")) as known:
        await known.rows()
        known.finder.fail("claude-code", TimedOut("adapter_timeout", "no sign for 3 s"))
        known.clock += 7
        await known.finder.read()
        first, second = sorted(await known.rows(), key=lambda row: row.found.id)
        assert (first.found.id, first.status, first.stale, first.age) == (
            "one",
            AgentSessionStatus.RUNNING,
            True,
            7.0,
        )
        assert not second.stale
        [trouble] = known.discovered.troubles()
        assert (trouble.problem.code, trouble.problem.path, trouble.since) == (
            "adapter_timeout",
            "",
            known.now,
        )
        # What is told again is there since the first time.
        since, known.now = known.now, known.now + timedelta(hours=1)
        known.finder.tell_problems("claude-code", trouble.problem, Problem("claude-code", "x", "y", "/f"))
        await known.finder.read()
        assert {one.since for one in known.discovered.troubles(["claude-code"])} == {since, known.now}
        assert known.discovered.troubles(["codex"]) == []
        row = await known.discovered.get("one")
        assert row.stale, "its last good answer"
        known.finder.faults.clear()
        known.finder.tell_problems("claude-code")
        await known.finder.read()
        assert not (await known.discovered.get("one")).stale
        assert known.discovered.troubles() == []


async def test_problems_of_files_alone_do_not_make_rows_stale() -> None:
    async with knowing(found("one")) as known:
        known.finder.problems["claude-code"] = [Problem("claude-code", "file_malformed", "bad", "/x")]
        [row] = await known.rows()
        assert not row.stale
        assert len(known.discovered.troubles()) == 1


async def test_gone_and_whole() -> None:
    async with knowing(found("one"), found("two", minutes=1), found("three", minutes=2)) as known:
        assert await known.ids() == ["three", "two", "one"]
        known.finder.remove("claude-code", "two")
        await known.finder.read()
        assert await known.ids() == ["three", "one"]
        known.finder.tell(Rows("claude-code", [found("four")], whole=True))
        known.finder.tell(Rows("emacs", [found("five", "emacs")]))
        known.finder.tell(Problems("emacs", [Problem("emacs", "x", "y")]))
        await known.finder.read()
        assert await known.ids() == ["four"]


async def test_get_looks_anew() -> None:
    async with knowing(found("one", life=alive()), found("two")) as known:
        await known.rows()
        known.finder.rows["claude-code", "one"] = found("one")
        known.clock += 60
        row = await known.discovered.get("claude-code:one")
        assert (row.status, row.age) == (AgentSessionStatus.STOPPED, 0.0)
        # Known in the files, and to no event yet.
        known.finder.rows["pi", "fresh"] = found("fresh", "pi")
        assert (await known.discovered.get("pi:fresh")).found.id == "fresh"
        del known.finder.rows["claude-code", "two"]
        with pytest.raises(NotFound) as caught:
            await known.discovered.get("two")
        assert caught.value.code == "agent_session_not_found"


async def test_words() -> None:
    rows = [
        found("0b7c9e1e-aaaa"),
        found("0b7c9e1e-bbbb", "codex"),
        found("same", "codex"),
        found("same", "pi"),
        found("agent:main:x", "opencode"),
    ]
    async with knowing(*rows) as known:
        find = known.discovered.find
        assert (await find("0b7c9e1e-aaaa")).key == ("claude-code", "0b7c9e1e-aaaa")
        assert (await find("0b7c9e1e-b")).key == ("codex", "0b7c9e1e-bbbb")
        assert (await find("codex:0b7c")).key == ("codex", "0b7c9e1e-bbbb")
        assert (await find("pi:same")).key == ("pi", "same")
        assert (await find("agent:main:x")).key == ("opencode", "agent:main:x")
        assert (await find("opencode:agent:main:x")).key == ("opencode", "agent:main:x")
        for word in ("0b7c9", "same"):
            with pytest.raises(InvalidArgument) as caught:
                await find(word)
            assert caught.value.code == "agent_session_ambiguous"
            assert "codex:" in caught.value.message
        for word in ("0b7", "nobody", "codex:nobody", "work/nobody", "nowhere/agent", f"agent:{MARK}"):
            with pytest.raises(NotFound) as missed:
                await find(word)
            assert missed.value.code == "agent_session_not_found"
        with pytest.raises(InvalidArgument) as caught:
            await find("")
        assert caught.value.code == "agent_session_missing"


async def test_the_agent_of_a_session_means_what_it_has_open() -> None:
    rows = [
        found("before", minutes=50),
        found("now", minutes=10, life=alive(pid=7, mark=MARK)),
        found("child", minutes=20, parent="now", life=alive(pid=7, mark=MARK)),
    ]
    async with knowing(*rows) as known:
        await known.launched("before", launched_at=BEGUN)
        for word in (f"work/{AGENT}", "work/aaaa", f"{SESSION}/{AGENT}"):
            row = await known.discovered.find(word)
            assert (row.found.id, row.session, row.agent) == ("now", SESSION, AGENT)
        assert row.session_name == "work"
        del known.sessions[SESSION]
        [row] = await known.rows(replace(ALL, statuses=frozenset({AgentSessionStatus.STOPPED})))
        assert (row.session, row.session_name) == (SESSION, "")


async def test_labels_on_what_was_started_elsewhere() -> None:
    async with knowing(found("one")) as known:
        row = await known.discovered.find("one")
        edit = Edit(set_labels={"team": "x", "b": ""}, set_annotations={"note": "y"}, group="night")
        row = await known.discovered.edit(row, editing(edit))
        assert (row.overlay.labels, row.overlay.group) == ({"team": "x", "b": ""}, "night")
        assert (row.session, row.agent) == ("", "")
        assert known.kept()[row.key].annotations == {"note": "y"}
        row = await known.discovered.edit(row, editing(Edit(remove_labels=["b", "never"])))
        assert row.overlay.labels == {"team": "x"}
        edit = Edit(remove_labels=["team"], remove_annotations=["note"], group="")
        row = await known.discovered.edit(row, editing(edit))
        assert row.overlay == Overlay("", "")
        assert known.kept() == {}, "nothing is kept of nothing"


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (Edit(), "label_missing"),
        (Edit(set_labels={"-": "x"}), "label_invalid"),
        (Edit(set_labels={"a": "\n"}), "label_invalid"),
        (Edit(remove_labels=["/"]), "label_invalid"),
        (Edit(set_labels={"a": "x"}, remove_labels=["a"]), "label_invalid"),
        (Edit(set_annotations={"a": "\0"}), "annotation_invalid"),
        (Edit(group="../x"), "group_invalid"),
    ],
)
def test_edits_are_checked_before_anything_is_changed(edit: Edit, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        editing(edit)
    assert caught.value.code == code


def test_too_many_labels() -> None:
    change = editing(Edit(set_labels={f"k{number}": "" for number in range(200)}))
    with pytest.raises(InvalidArgument) as caught:
        change(Overlay("pi", "x", labels={f"other{number}": "" for number in range(100)}))
    assert caught.value.code == "label_invalid"


async def test_a_finder_that_ends_is_told_and_begun_anew() -> None:
    async with knowing(found("one")) as known:
        await known.rows()
        await known.finder.close()
        await known.until(lambda: not known.discovered.running)
        assert {one.problem.code for one in known.discovered.troubles()} == {"adapter_failed"}
        again = type(known.finder)(rows=known.finder.rows)
        known.finder = again
        [row] = await known.rows()
        assert len(known.finders) == 2
        assert row.stale, "the answer of before"
        await known.until(lambda: not known.discovered.troubles())
        [row] = await known.rows()
        assert not row.stale


async def test_activities_beside_the_state() -> None:
    other = f"{SESSION}-{'b' * 16}"
    rows = [
        found("a", life=alive(mark=MARK, activity="thinking")),
        found("child", parent="a", minutes=5, life=alive(mark=MARK, activity="reading")),
        # Its process has taken up what one before it was killed over.
        replace(
            found("b", "codex", activity="using Bash", life=replace(alive(mark=other), turn=Turn.DONE)),
            turn=Turn.WORKING,
        ),
        found("c", "pi", life=alive(activity="elsewhere")),
        found("d", "pi", activity="was thinking"),
    ]
    async with knowing(*rows) as known:
        await known.rows()
        activities = known.discovered.activities(SESSION)
        assert activities == {AGENT: "thinking", "b" * 16: "idle"}
        assert known.discovered.activities("6" * 32) == {}


async def test_activities_of_a_session_with_launches_start_the_finder_behind() -> None:
    async with knowing(found("a", life=alive(mark=MARK, activity="thinking"))) as known:
        await known.launched("a")
        assert known.discovered.activities("6" * 32) == {}
        assert not known.finders
        assert known.discovered.activities(SESSION) == {}
        await known.until(lambda: known.discovered.activities(SESSION) == {AGENT: "thinking"})


async def test_what_is_told_before_others_can_be_had_while_these_are_waited_for() -> None:
    async with knowing(found("one"), found("two", "codex"), held=True) as known:
        early = known.discovered.early(ALL)
        first = asyncio.create_task(anext(early))
        known.finder.release("codex")
        assert [row.found.id for row in await first] == ["two"]
        second = asyncio.create_task(anext(early))
        known.finder.release("claude-code")
        assert [row.found.id for row in await second] == ["one"]
        last = asyncio.create_task(anext(early, None))
        for adapter in known.finder.adapters:
            known.finder.release(adapter)
        # The rest may have come in one more part, in which there is nothing.
        while rows := await last:
            assert not rows
            last = asyncio.create_task(anext(early, None))
        assert [one async for one in known.discovered.early(ALL)] == []
        with pytest.raises(InvalidArgument):
            await anext(known.discovered.early(Choice(adapters=frozenset({"emacs"}))))
