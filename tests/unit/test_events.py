"""The event log: order, bounds, cursors, and readers that fall behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from sessiond.errors import Exhausted
from sessiond.model.event import Cursor, Event, EventKind
from sessiond.supervisor.events import EventLog, Page

KIND = EventKind.SESSION_UPDATED


def everything(event: Event) -> bool:
    return True


def filled(count: int, history: int = 100, bound: int = 10) -> EventLog:
    log = EventLog(history, bound)
    for number in range(count):
        log.append(KIND, "a" * 32, f"n{number}")
    return log


def seqs(page: Page) -> list[int]:
    return [event.cursor.seq for event in page.events]


def test_tail_is_the_last_ones_oldest_first() -> None:
    page = filled(7).fetch(None, 3, everything)
    assert seqs(page) == [5, 6, 7]
    assert (page.reset, page.gap, page.has_more) == (False, False, False)


def test_pages_after_a_cursor_join_without_skip_or_double() -> None:
    log = filled(25)
    cursor, got = Cursor(log.epoch, 0), []
    while True:
        page = log.fetch(cursor, 10, everything)
        got += seqs(page)
        cursor = page.cursor
        if not page.has_more:
            break
    assert got == list(range(1, 26))


def test_a_filter_moves_the_cursor_past_what_it_drops() -> None:
    log = filled(10)
    page = log.fetch(Cursor(log.epoch, 2), 100, lambda event: event.session_name == "n4")
    assert seqs(page) == [5]
    assert page.cursor == log.head


def test_retention_shows_as_a_gap_and_another_epoch_as_a_reset() -> None:
    log = filled(20, history=5)
    assert log.fetch(Cursor(log.epoch, 3), 100, everything).gap
    assert not log.fetch(Cursor(log.epoch, 15), 100, everything).gap
    page = log.fetch(Cursor("another", 19), 100, everything)
    assert page.reset
    assert seqs(page) == [16, 17, 18, 19, 20]


def test_a_cursor_beyond_the_end_yields_nothing() -> None:
    log = filled(3)
    page = log.fetch(Cursor(log.epoch, 99), 100, everything)
    assert page.events == []
    assert page.cursor == log.head


def test_an_empty_log_has_no_gap() -> None:
    log = filled(0)
    assert not log.fetch(Cursor(log.epoch, 0), 5, everything).gap


async def test_following_from_a_cursor_sees_each_event_once() -> None:
    log = filled(5)
    got: list[int] = []
    async with aclosing(log.follow(Cursor(log.epoch, 2), everything)) as stream:
        async for item in stream:
            if isinstance(item, Page):
                got += seqs(item)
                log.append(KIND, "b" * 32, "later")
                continue
            got.append(item.cursor.seq)
            break
    assert got == [3, 4, 5, 6]


async def test_following_without_a_cursor_begins_with_what_comes_next() -> None:
    log = filled(5)
    async with aclosing(log.follow(None, everything)) as stream:
        first = await anext(stream)
        assert isinstance(first, Page)
        assert first.events == []
        log.append(KIND, "b" * 32, "later")
        second = await anext(stream)
        assert isinstance(second, Event)
        assert second.cursor.seq == 6


async def test_a_slow_reader_is_cut_off_alone() -> None:
    log = EventLog(100, 10)
    async with (
        aclosing(log.follow(None, everything)) as slow,
        aclosing(log.follow(None, everything)) as quick,
    ):
        await anext(slow)
        await anext(quick)
        for number in range(11):
            log.append(KIND, "a" * 32, str(number))
            seen = await anext(quick)
            assert isinstance(seen, Event)
            assert seen.session_name == str(number)
        with pytest.raises(Exhausted) as caught:
            await anext(slow)
        assert caught.value.code == "slow_reader"


async def test_a_reader_that_leaves_is_forgotten() -> None:
    log = EventLog(100, 10)
    stream = log.follow(None, everything)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await stream.aclose()
    for _ in range(50):
        log.append(KIND, "a" * 32, "x")
    assert log.head.seq == 50
