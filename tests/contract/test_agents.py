"""The contract of agents' units on the fake, and where a bus is named, on the systemd behind it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from sessiond.testing.agents_contract import AgentsContract, AgentsHarness
from tests.contract.agents_harness import FakeAgentsHarness, systemd_agents
from tests.contract.init_harness import BUS


class TestAgents(AgentsContract):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[AgentsHarness]:
        address = os.environ.get(BUS)
        if address:
            async with systemd_agents(address) as real:
                yield real
            return
        fake = FakeAgentsHarness()
        yield fake
        await fake.units.close()
