"""Lists read page by page while they change, and watchers, slow ones among them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from sessiond.errors import Exhausted, InvalidArgument, TimedOut
from sessiond.model.agent_session import PENDING, STOPPED, AgentSessionStatus, Life
from sessiond.model.conversation import AgentSession, Choice, Trouble
from sessiond.supervisor.discovered.editing import Edit, editing
from sessiond.supervisor.discovered.watching import Change, Current, Removed
from tests.unit.discovered_case import ALL, MARK, PATIENCE, Knowing, alive, found, knowing

# ---- pages


async def paged(
    known: Knowing, token: str = "", *, size: int = 2, choice: Choice = ALL
) -> tuple[list[str], str]:
    page = await known.discovered.listing(choice, size, token)
    return [row.found.id for row in page.rows], page.token


async def test_pages_join_to_the_whole_list() -> None:
    async with knowing(*(found(f"c{number}", minutes=number) for number in range(7))) as known:
        seen: list[str] = []
        token = ""
        while True:
            rows, token = await paged(known, token, size=3)
            seen += rows
            if not token:
                break
        assert seen == [f"c{number}" for number in reversed(range(7))]
        page = await known.discovered.listing(ALL, 7)
        assert (page.token, page.total) == ("", 7)
        page = await known.discovered.listing(ALL)
        assert (page.token, page.total) == ("", 7)


async def test_rows_that_change_in_between_are_told_once_and_none_is_left_out() -> None:
    async with knowing(*(found(f"c{number}", minutes=number) for number in range(8))) as known:
        first, token = await paged(known)
        assert first == ["c7", "c6"]
        # One not yet told moves to the front, one that was told moves too, one is gone, one is new.
        known.finder.put(found("c2", minutes=50), found("c6", minutes=60), found("new", minutes=70))
        known.finder.remove("claude-code", "c4")
        await known.finder.read()
        rest: list[str] = []
        while token:
            rows, token = await paged(known, token)
            rest += rows
        assert rest == ["c5", "c3", "c2", "c1", "c0"]


async def test_a_token_outlives_the_list_that_was_held() -> None:
    async with knowing(*(found(f"c{number}", minutes=number) for number in range(6))) as known:
        _, token = await paged(known)
        for _ in range(20):
            await paged(known)
        rows, token = await paged(known, token)
        assert rows == ["c3", "c2"]
    async with knowing(*(found(f"c{number}", minutes=number) for number in range(6))) as known:
        assert await paged(known, token) == (["c1", "c0"], ""), "another supervisor"


@pytest.mark.parametrize(
    "token", ["nonsense", "{}", "AAAA", "ü", base64.b64encode(b"[1,2]").decode(), "a" * 5]
)
async def test_tokens_that_are_none(token: str) -> None:
    async with knowing(found("one")) as known:
        with pytest.raises(InvalidArgument) as caught:
            await paged(known, token)
        assert caught.value.code == "page_token_invalid"


async def test_a_token_belongs_to_its_filter() -> None:
    async with knowing(*(found(f"c{number}", minutes=number) for number in range(6))) as known:
        _, token = await paged(known)
        with pytest.raises(InvalidArgument) as caught:
            await paged(known, token, choice=replace(ALL, group="x"))
        assert caught.value.code == "page_token_invalid"


# ---- watchers


async def until_current(changes: AsyncGenerator[Change, None]) -> list[str]:
    seen: list[str] = []
    async for change in changes:
        if isinstance(change, Current):
            return seen
        assert isinstance(change, AgentSession)
        seen.append(change.found.id)
    raise AssertionError("it ended")


async def after(changes: AsyncGenerator[Change, None]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await anext(changes)


async def test_what_is_known_then_every_change() -> None:
    async with knowing(found("one", minutes=1), found("two", "codex", minutes=2)) as known:
        changes = known.discovered.follow(ALL)
        assert await until_current(changes) == ["two", "one"]
        known.finder.put(found("one", minutes=3, life=alive()))
        change = await after(changes)
        assert (change.found.id, change.status) == ("one", AgentSessionStatus.RUNNING)
        # The same told again is no news, nor is a look that found nothing.
        known.finder.put(found("one", minutes=3, life=alive()))
        await known.finder.look("claude-code")
        known.finder.set_life("claude-code", "one", STOPPED)
        known.finder.remove("codex", "two")
        assert (await after(changes)).status is AgentSessionStatus.STOPPED
        assert await after(changes) == Removed(("codex", "two"))
        row = await known.discovered.find("one")
        await known.discovered.edit(row, editing(Edit(group="g")))
        assert (await after(changes)).overlay.group == "g"
        await changes.aclose()


async def test_what_cannot_be_read_any_more_is_told_as_stale_and_when_it_is_well() -> None:
    one = found("one")
    async with knowing(one) as known:
        changes = known.discovered.follow(ALL)
        assert await until_current(changes) == ["one"]
        known.finder.put(replace(one, trouble="/w/one.jsonl: it is empty"))
        assert (await after(changes)).stale
        known.finder.put(one)
        assert not (await after(changes)).stale
        await changes.aclose()


async def test_one_that_no_longer_fits_is_told_as_removed() -> None:
    async with knowing(found("one", life=alive()), found("two")) as known:
        changes = known.discovered.follow(Choice())
        assert await until_current(changes) == ["one"]
        known.finder.set_life("claude-code", "one", STOPPED)
        assert await after(changes) == Removed(("claude-code", "one"))
        known.finder.set_life("claude-code", "two", alive())
        assert (await after(changes)).found.id == "two"
        await changes.aclose()


async def test_a_launch_that_tells_its_id_is_the_old_removed_and_the_new_told() -> None:
    async with knowing() as known:
        known.agents[MARK] = Life(alive=True, pid=7, mark=MARK)
        waiting = f"{PENDING}{MARK}"
        await known.launched(waiting, "codex")
        changes = known.discovered.follow(Choice())
        assert await until_current(changes) == [waiting]
        known.finder.put(found("real", "codex", life=alive(mark=MARK)))
        seen = [await after(changes), await after(changes)]
        assert [one for one in seen if isinstance(one, Removed)] == [Removed(("codex", waiting))]
        [told] = [one for one in seen if isinstance(one, AgentSession)]
        assert (told.found.id, told.overlay.prompt) == ("real", "do it")
        await changes.aclose()


async def test_troubles_and_their_end() -> None:
    async with knowing(found("one")) as known:
        everything = known.discovered.follow(ALL)
        of_codex = known.discovered.follow(replace(ALL, adapters=frozenset({"codex"})))
        await until_current(everything)
        await until_current(of_codex)
        known.finder.fail("claude-code", TimedOut("adapter_timeout", "silent"))
        change = await after(everything)
        assert isinstance(change, Trouble)
        assert (change.problem.adapter, change.problem.code) == ("claude-code", "adapter_timeout")
        known.finder.mend("claude-code")
        change = await after(everything)
        assert (change.problem.adapter, change.problem.code) == ("claude-code", "")
        known.finder.put(found("x", "codex"))
        assert (await after(of_codex)).found.id == "x", "nothing of the others' trouble"
        await everything.aclose()
        await of_codex.aclose()


async def test_a_watcher_that_does_not_keep_up_is_let_go_and_nobody_waits_for_it() -> None:
    async with knowing(bound=5) as known:
        slow, quick = known.discovered.follow(ALL), known.discovered.follow(ALL)
        await until_current(slow)
        await until_current(quick)
        for number in range(9):
            known.finder.put(found(f"c{number}"))
            assert (await after(quick)).found.id == f"c{number}"
        with pytest.raises(Exhausted) as caught:
            await after(slow)
        assert caught.value.code == "watcher_too_slow"
        again = known.discovered.follow(ALL)
        assert len(await until_current(again)) == 9
        await again.aclose()
        await quick.aclose()


async def test_there_is_a_bound_to_watchers_and_room_again_when_one_ends() -> None:
    async with knowing(found("one"), watchers=2) as known:
        first, second = known.discovered.follow(ALL), known.discovered.follow(ALL)
        assert len(await until_current(first)) == len(await until_current(second)) == 1
        with pytest.raises(Exhausted) as caught:
            await anext(known.discovered.follow(ALL))
        assert caught.value.code == "too_many_watchers"
        assert caught.value.hint
        known.finder.put(found("two"))
        assert (await after(first)).found.id == (await after(second)).found.id == "two"
        await first.aclose()
        third = known.discovered.follow(ALL)
        assert len(await until_current(third)) == 2
        await second.aclose()
        await third.aclose()


async def test_watching_needs_adapters_that_exist() -> None:
    async with knowing() as known:
        with pytest.raises(InvalidArgument) as caught:
            await anext(known.discovered.follow(Choice(adapters=frozenset({"emacs"}))))
        assert caught.value.code == "adapter_unknown"
