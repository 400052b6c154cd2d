"""Agents' units on real systemd: the contract, and what only systemd can do to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from sessiond.testing.host import Host
from tests.system.test_backend import run_inside


def test_the_contract_of_agents_units(host: Host) -> None:
    assert run_inside(host, "tests/contract/test_agents.py") >= 30


def test_ends_terminals_reloads_and_descriptors(host: Host) -> None:
    assert run_inside(host, "tests/system/agent_units_inside.py") >= 20


NAME_OF_MANAGER = """
import asyncio
from sessiond.init.systemd.agents import SystemdAgents
async def main():
    agents = SystemdAgents("0" * 32)
    print(await agents.manager())
    await agents.close()
asyncio.run(main())
"""


def test_each_manager_has_a_name_of_its_own(fresh_host: Callable[..., Host]) -> None:
    host = fresh_host()

    def name() -> str:
        here = str(Path(__file__).resolve().parents[2])
        done = host.run([sys.executable, "-c", NAME_OF_MANAGER], cwd=here)
        return done.stdout.strip()

    first = name()
    assert name() == first
    host.run(["systemctl", "restart", f"user@{host.uid}.service"], user=False)
    second = name()
    host.reboot()
    assert len({first, second, name()}) == 3
