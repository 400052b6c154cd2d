"""The store's contract, on SQLite and on the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sessiond.store.sqlite import SqliteStore
from sessiond.testing.memory_store import Disk, MemoryStore
from sessiond.testing.store_contract import Open, Store, StoreContract


async def _opener(make: Callable[[], Awaitable[Store]]) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_store() -> Store:
            store = await make()
            stack.push_async_callback(store.close)
            return store

        yield open_store


class TestSqliteStore(StoreContract):
    """On a database in a folder of its own."""

    @pytest.fixture
    async def open_store(self, tmp_path: Path) -> AsyncIterator[Open]:
        async for one in _opener(lambda: SqliteStore.open(tmp_path / "state/sessiond.db")):
            yield one


class TestMemoryStore(StoreContract):
    """On the fake, so that tests which use it prove something."""

    @pytest.fixture
    async def open_store(self) -> AsyncIterator[Open]:
        disk = Disk()

        async def make() -> Store:
            return MemoryStore(disk)

        async for one in _opener(make):
            yield one
