"""The small asyncio pieces."""

from __future__ import annotations

import asyncio

import pytest

from sessiond.aio import unbroken


async def test_unbroken_work_ends_before_its_callers_cancellation_is_heard() -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @unbroken
    async def work(word: str) -> str:
        begun.set()
        await may_end.wait()
        ended.set()
        return word

    caller = asyncio.create_task(work("unheard"))
    await begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
    assert await work("heard") == "heard"


async def test_unbroken_work_fails_as_itself() -> None:
    @unbroken
    async def work() -> None:
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        await work()


async def test_a_second_cancellation_breaks_through() -> None:
    begun = asyncio.Event()
    inner: list[BaseException] = []

    @unbroken
    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            inner.append(error)
            raise

    caller = asyncio.create_task(work())
    await begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.sleep(0)
    assert inner
