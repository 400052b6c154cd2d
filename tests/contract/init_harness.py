"""What the contract of the init system needs besides the port: for the fake, and for the user's systemd."""

from __future__ import annotations

import asyncio
import os
import pwd
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sessiond.init.systemd.backend import SystemdInit
from sessiond.model.unit import daemon_unit
from sessiond.ports import DaemonSpec
from sessiond.testing.fake_init import Behaviour, FakeInit

# Address of the bus of the systemd to be tried; without it the fake is.
BUS = "SESSIOND_TEST_INIT_BUS"

STAND_IN = Path(__file__).with_name("init_stand_in.py")
_REPOSITORY = Path(__file__).resolve().parents[2]


class FakeHarness:
    """The fake, told what its daemons do."""

    def __init__(self) -> None:
        self.init = FakeInit()

    def spec(self, session: str, behaviour: str = "ready") -> DaemonSpec:
        """See the contract."""
        word, _, rest = behaviour.partition(" ")
        self.init.behaviours[session] = Behaviour(held=word == "held", exit_status=int(rest or 0))
        return DaemonSpec(session, "a session", Path("/"), ["/bin/true"])

    async def release(self, session: str) -> None:
        """See the contract."""
        self.init.ready(session)

    async def leave_failed(self, session: str) -> None:
        """See the contract."""
        await self.init.start(self.spec(session))
        self.init.fail(session, result="timeout")

    async def install_starter(self, installed: bool) -> None:
        """See the contract."""
        self.init.starter_installed = installed


class SystemdHarness:
    """The user's systemd, with stand-ins for daemons."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.init = SystemdInit(address)
        self.folder = folder
        self.sessions: set[str] = set()

    def spec(self, session: str, behaviour: str = "ready") -> DaemonSpec:
        """See the contract."""
        self.sessions.add(session)
        words = behaviour.split()
        if behaviour == "held":
            fifo = self.folder / session
            if not fifo.exists():
                os.mkfifo(fifo)
            words.append(str(fifo))
        return DaemonSpec(
            session,
            "a session",
            self.folder,
            [sys.executable, "-I", "-S", str(STAND_IN), *words],
            start_timeout=60.0,
            stop_timeout=0.3 if behaviour == "stubborn" else 10.0,
        )

    async def release(self, session: str) -> None:
        """See the contract."""
        await asyncio.to_thread((self.folder / session).write_text, "")

    async def leave_failed(self, session: str) -> None:
        """See the contract."""
        await self.init.start(self.spec(session, "stubborn"))
        await self.systemctl("stop", daemon_unit(session))

    async def install_starter(self, installed: bool) -> None:
        """See the contract."""
        target = Path(pwd.getpwuid(os.getuid()).pw_dir, ".config/systemd/user/sessiond@.service")
        target.unlink(missing_ok=True)
        if installed:
            target.parent.mkdir(parents=True, exist_ok=True)
            text = (_REPOSITORY / "units/sessiond@.service").read_text()
            target.write_text(text.replace("@LAUNCHER@", "/bin/echo"))
        await self.systemctl("daemon-reload")

    async def systemctl(self, *words: str) -> str:
        """Run systemctl as the user."""
        return await self.run("systemctl", "--user", *words)

    async def run(self, *words: str) -> str:
        """Run a command in the user's login environment; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            *words,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"},
        )
        output, _ = await process.communicate()
        return output.decode()

    async def clean(self) -> None:
        """Take away all that sessions left."""
        await self.init.close()
        last = SystemdInit(self.address)
        try:
            await asyncio.gather(*(last.stop(session) for session in self.sessions))
        finally:
            await last.close()


@asynccontextmanager
async def systemd(address: str) -> AsyncIterator[SystemdHarness]:
    """A harness for the user's systemd; leaves none of its sessions."""
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp") as folder:
        harness = SystemdHarness(address, Path(folder))
        try:
            yield harness
        finally:
            await harness.clean()
