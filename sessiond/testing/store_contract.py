"""What every implementation of the store port must do; run on the fake and on SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Protocol

import pytest

from sessiond.errors import Unreachable
from sessiond.model.agent_session import Key, Overlay
from sessiond.model.identity import new_id
from sessiond.model.session import Metadata
from sessiond.ports import MetadataStore, OverlayStore


class Store(MetadataStore, OverlayStore, Protocol):
    """Both ports in one: they share a database."""


# Opens the same store again each time it is called.
Open = Callable[[], Awaitable[Store]]

WHEN = datetime(2026, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
FULL = Metadata(
    labels={"team": "core", "empty": "", "text": "ü — 'quoted' \"twice\" 100%"},
    annotations={"note": "two\nlines\tand \u2028 more", "json": '{"a": [1, 2]}'},
    archived=True,
    last_accessed=WHEN,
)
OVERLAY = Overlay(
    adapter="claude-code",
    id="0b7c9e1e-1111-4222-8333-444455556666",
    session="5" * 32,
    agent="a" * 16,
    prompt="two\nlines, ü and \U0001f680",
    labels={"team": "core", "empty": ""},
    annotations={"note": "x\ty", "json": '{"a": [1]}'},
    group="night",
    cwd="/srv/project",
    spec='{"model": "m"}',
    launched_at=WHEN,
    missing_since=WHEN + timedelta(days=1, microseconds=1),
)


async def overlays_of(store: OverlayStore) -> dict[Key, Overlay]:
    """All overlays by key."""
    return {one.key: one for one in await store.overlays()}


class StoreContract:
    """Subclasses give the fixture ``open_store``; all stores opened in a test are closed by it."""

    async def test_new_and_empty(self, open_store: Open) -> None:
        store = await open_store()
        assert await store.all() == {}
        assert await store.active() is None
        assert store.note == ""

    async def test_put_replaces_whole(self, open_store: Open) -> None:
        store = await open_store()
        one, other = new_id(), new_id()
        await store.put(one, FULL)
        await store.put(other, Metadata())
        assert await store.all() == {one: FULL, other: Metadata()}
        await store.put(one, Metadata(labels={"a": "b"}))
        assert await store.all() == {one: Metadata(labels={"a": "b"}), other: Metadata()}

    async def test_what_is_put_is_a_copy(self, open_store: Open) -> None:
        store = await open_store()
        session, labels = new_id(), {"a": "b"}
        await store.put(session, Metadata(labels=labels))
        labels["a"] = "changed"
        assert (await store.all())[session].labels == {"a": "b"}

    async def test_touch_keeps_the_rest_and_needs_nothing(self, open_store: Open) -> None:
        store = await open_store()
        one, other = new_id(), new_id()
        await store.put(one, FULL)
        later = WHEN + timedelta(microseconds=1)
        await store.touch(one, later)
        await store.touch(other, WHEN)
        found = await store.all()
        assert found[one].last_accessed == later
        assert found[one].labels == FULL.labels
        assert found[one].archived
        assert found[other] == Metadata(last_accessed=WHEN)

    @pytest.mark.parametrize(
        "when",
        [
            datetime(1, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
        ],
    )
    async def test_times_come_back_as_they_were(self, open_store: Open, when: datetime) -> None:
        store = await open_store()
        session = new_id()
        await store.touch(session, when)
        assert (await store.all())[session].last_accessed == when

    async def test_delete_forgets_all_of_a_session(self, open_store: Open) -> None:
        store = await open_store()
        one, other = new_id(), new_id()
        await store.put(one, FULL)
        await store.put(other, FULL)
        await store.set_active(one)
        await store.delete(one)
        assert await store.all() == {other: FULL}
        assert await store.active() is None
        await store.set_active(other)
        await store.delete(one)
        assert await store.active() == other

    async def test_active_is_one_or_none(self, open_store: Open) -> None:
        store = await open_store()
        one, other = new_id(), new_id()
        await store.set_active(one)
        await store.set_active(other)
        assert await store.active() == other
        await store.set_active(None)
        await store.set_active(None)
        assert await store.active() is None

    async def test_all_is_there_when_opened_again(self, open_store: Open) -> None:
        store = await open_store()
        session = new_id()
        await store.put(session, FULL)
        await store.set_active(session)
        await store.close()
        again = await open_store()
        assert again.note == ""
        assert await again.all() == {session: FULL}
        assert await again.active() == session

    async def test_calls_at_once_are_carried_out_in_order(self, open_store: Open) -> None:
        store = await open_store()
        session = new_id()
        await asyncio.gather(
            *(store.put(session, Metadata(labels={"n": str(number)})) for number in range(50))
        )
        assert (await store.all())[session].labels == {"n": "49"}

    async def test_many_sessions(self, open_store: Open) -> None:
        store = await open_store()
        wanted = {new_id(): Metadata(labels={"n": str(number)}) for number in range(200)}
        await asyncio.gather(*(store.put(session, one) for session, one in wanted.items()))
        assert await store.all() == wanted

    async def test_closing_writes_what_is_pending_and_may_be_repeated(self, open_store: Open) -> None:
        store = await open_store()
        sessions = [new_id() for _ in range(20)]
        pending = [asyncio.ensure_future(store.put(session, FULL)) for session in sessions]
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        await asyncio.gather(*pending)
        with pytest.raises(Unreachable) as caught:
            await store.put(new_id(), FULL)
        assert caught.value.code == "database_closed"
        again = await open_store()
        assert set(await again.all()) == set(sessions)

    # ---- conversations

    async def test_overlays_come_back_as_they_were(self, open_store: Open) -> None:
        store = await open_store()
        assert list(await store.overlays()) == []
        bare = Overlay("codex", OVERLAY.id)
        await store.put_overlay(OVERLAY)
        await store.put_overlay(bare)
        assert await overlays_of(store) == {OVERLAY.key: OVERLAY, bare.key: bare}
        await store.close()
        assert await overlays_of(await open_store()) == {OVERLAY.key: OVERLAY, bare.key: bare}

    async def test_an_overlay_is_replaced_whole(self, open_store: Open) -> None:
        store = await open_store()
        await store.put_overlay(OVERLAY)
        other = Overlay(*OVERLAY.key, labels={"other": "label"})
        await store.put_overlay(other)
        assert await overlays_of(store) == {OVERLAY.key: other}

    async def test_an_overlay_that_is_put_is_a_copy(self, open_store: Open) -> None:
        store = await open_store()
        labels = {"a": "b"}
        await store.put_overlay(Overlay("codex", "one", labels=labels))
        labels["a"] = "changed"
        assert (await overlays_of(store))["codex", "one"].labels == {"a": "b"}

    async def test_an_overlay_moves_to_another_key_in_one_step(self, open_store: Open) -> None:
        store = await open_store()
        pending = replace(OVERLAY, id="agent:pending")
        neighbour = replace(OVERLAY, id="neighbour")
        await store.put_overlay(pending)
        await store.put_overlay(neighbour)
        await store.put_overlay(OVERLAY, instead_of=pending.key)
        assert await overlays_of(store) == {OVERLAY.key: OVERLAY, neighbour.key: neighbour}
        await store.put_overlay(OVERLAY, instead_of=OVERLAY.key)
        await store.put_overlay(OVERLAY, instead_of=("codex", "never there"))
        await store.put_overlay(replace(OVERLAY, group="over"), instead_of=neighbour.key)
        assert await overlays_of(store) == {OVERLAY.key: replace(OVERLAY, group="over")}

    async def test_overlays_are_forgotten_with_all_that_is_theirs(self, open_store: Open) -> None:
        store = await open_store()
        many = [replace(OVERLAY, id=f"id-{number}") for number in range(20)]
        for one in many:
            await store.put_overlay(one)
        await store.delete_overlays([one.key for one in many[:19]] + [("codex", "never there")])
        await store.delete_overlays([])
        assert await overlays_of(store) == {many[19].key: many[19]}
        bare = Overlay(*many[0].key)
        await store.put_overlay(bare)
        assert (await overlays_of(store))[bare.key] == bare

    async def test_overlays_and_sessions_know_nothing_of_each_other(self, open_store: Open) -> None:
        store = await open_store()
        await store.put(OVERLAY.session, FULL)
        await store.put_overlay(OVERLAY)
        await store.delete(OVERLAY.session)
        assert await overlays_of(store) == {OVERLAY.key: OVERLAY}
        await store.put(OVERLAY.session, FULL)
        await store.delete_overlays([OVERLAY.key])
        assert await store.all() == {OVERLAY.session: FULL}

    async def test_a_closed_store_has_no_overlays(self, open_store: Open) -> None:
        store = await open_store()
        await store.close()
        with pytest.raises(Unreachable) as caught:
            await store.overlays()
        assert caught.value.code == "database_closed"
