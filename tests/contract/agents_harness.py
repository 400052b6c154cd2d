"""What the contract of agents' units needs besides the port: for the fake, and for the user's systemd."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sessiond.init.systemd.agents import SystemdAgents
from sessiond.init.systemd.backend import SystemdInit
from sessiond.model.identity import new_id
from sessiond.ports import AgentUnits, AgentUnitSpec
from sessiond.testing.fake_agents import FakeAgents

STAND_IN = Path(__file__).with_name("agents_stand_in.py")
PYTHON = [sys.executable, "-I", "-S"]


class FakeAgentsHarness:
    """The fake, told what its agents do."""

    def __init__(self) -> None:
        self.session = new_id()
        self.units = FakeAgents(self.session)

    def spec(self, agent: str, behaviour: str = "runs") -> AgentUnitSpec:
        """See the contract."""
        return AgentUnitSpec(self.session, agent, "an agent", ["/bin/true", behaviour], Path("/"))

    async def ready(self, agent: str) -> None:
        """See the contract."""

    async def end(self, agent: str, how: str) -> None:
        """See the contract."""
        word, number = how.split()
        if word == "exit":
            self.units.exit(agent, int(number))
        else:
            self.units.die(agent, int(number))

    def another(self) -> AgentUnits:
        """See the contract."""
        return self.units.another()


class SystemdAgentsHarness:
    """The user's systemd, with stand-ins for agents."""

    def __init__(self, address: str, folder: Path) -> None:
        self.session = new_id()
        self.address = address
        self.folder = folder
        self.units = SystemdAgents(self.session, address)
        self._others: list[SystemdAgents] = []
        self._pipes: dict[str, int] = {}

    def spec(self, agent: str, behaviour: str = "runs") -> AgentUnitSpec:
        """See the contract."""
        words = behaviour.split()
        if words[0] in ("runs", "stubborn"):
            fifo = self.folder / agent
            if not fifo.exists():
                os.mkfifo(fifo)
            words.append(str(fifo))
        argv = ["/nonexistent/program"] if behaviour == "missing" else [*PYTHON, str(STAND_IN), *words]
        return AgentUnitSpec(
            self.session,
            agent,
            "an agent",
            argv,
            self.folder,
            stdout=self.folder / f"{agent}.out",
            stderr=self.folder / f"{agent}.err",
        )

    async def ready(self, agent: str) -> None:
        """See the contract."""
        if agent not in self._pipes:
            self._pipes[agent] = await asyncio.to_thread(os.open, self.folder / agent, os.O_WRONLY)

    async def end(self, agent: str, how: str) -> None:
        """See the contract."""
        await self.ready(agent)
        os.write(pipe := self._pipes.pop(agent), f"{how}\n".encode())
        os.close(pipe)

    def another(self) -> SystemdAgents:
        """See the contract."""
        self._others.append(SystemdAgents(self.session, self.address))
        return self._others[-1]

    async def systemctl(self, *words: str) -> str:
        """Run systemctl as the user; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            "systemctl",
            "--user",
            *words,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        )
        output, _ = await process.communicate()
        return output.decode()

    async def clean(self) -> None:
        """Take away all that the session left."""
        for pipe in self._pipes.values():
            os.close(pipe)
        for units in (self.units, *self._others):
            await units.close()
        last = SystemdInit(self.address)
        try:
            await last.stop(self.session)
        finally:
            await last.close()


@asynccontextmanager
async def systemd_agents(address: str) -> AsyncIterator[SystemdAgentsHarness]:
    """A harness for the user's systemd; leaves nothing of its session."""
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp") as folder:
        harness = SystemdAgentsHarness(address, Path(folder))
        try:
            yield harness
        finally:
            await harness.clean()


def cgroup(unit: str) -> Path:
    """The folder of an agent's unit in the unified hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            found = list(Path(fields.split()[4]).rglob(unit))
            assert len(found) == 1
            return found[0]
    raise AssertionError("no cgroup2 here")


def ticks(pid: int) -> int:
    """CPU time that a process has used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
