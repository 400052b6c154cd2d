"""The contract of the init system on the fake, and where a bus is named, on the systemd behind it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from sessiond.testing.init_contract import Harness, InitContract
from tests.contract.init_harness import BUS, FakeHarness, systemd


class TestInit(InitContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        address = os.environ.get(BUS)
        if address:
            async with systemd(address) as real:
                yield real
            return
        fake = FakeHarness()
        yield fake
        await fake.init.close()
