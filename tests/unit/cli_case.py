"""sessionctl in this process, beside the real supervisor on an init system in memory."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from sessiond import config
from sessiond.adapters import ADAPTERS
from sessiond.cli import main
from sessiond.paths import Paths, private_folder
from sessiond.supervisor import parts
from sessiond.supervisor.mirror import Mirror
from sessiond.testing.fake_finder import FakeFinder
from sessiond.testing.fake_init import FakeInit

T = TypeVar("T")
PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a command line ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The errors it printed with --json."""
        return [json.loads(line)["error"] for line in self.err.splitlines()]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def ctl(*words: str, terminal: bool = False, typed: str = "") -> Outcome:
    """Run sessionctl on these words; on a ``terminal`` with ``typed`` as what is typed there."""
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    stdin = Terminal(typed) if terminal else io.StringIO(typed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main.run(list(words))
    return Outcome(code, out.getvalue(), err.getvalue())


class StandIn:
    """A supervisor that serves while entered; its init system is ``init``, its ``finder`` one in memory."""

    def __init__(self, finder: FakeFinder | None = None) -> None:
        self.init = FakeInit()
        self.finder = finder or FakeFinder(tuple(ADAPTERS))
        self.parts: parts.Parts | None = None
        self._thread = threading.Thread(target=self._serve, name="supervisor")
        self._ready = threading.Event()
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()

    def __enter__(self) -> Self:
        # Where the person who runs the tests has a nest up, commands would find that one's supervisor.
        runtime = os.path.join(os.environ["XDG_RUNTIME_DIR"], "sessiond")
        os.environ.setdefault("SESSIOND_RUNTIME_DIR", runtime)
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def do(self, deed: Callable[[], T]) -> T:
        """Do something to the init system where it lives."""

        async def done() -> T:
            return deed()

        return self.wait(done())

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Await something where the supervisor lives."""

        async def awaited() -> T:
            return await awaitable

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(PATIENCE)

    def _serve(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as fault:  # noqa: BLE001 - told to the thread that waits
            self._fault = fault
            self._ready.set()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        paths = Paths.from_environment()
        private_folder(paths.runtime)
        private_folder(paths.state)
        async with AsyncExitStack() as stack:
            mirror = Mirror(self.init)
            following = asyncio.create_task(mirror.run())
            settings = config.load(paths.config_file)
            built = await parts.build(
                stack, paths, settings, self.init, mirror, make_finder=lambda: self.finder
            )
            self.parts = built
            await built.load()
            jobs = [asyncio.create_task(job) for _, job in built.jobs()]
            await built.server.start()
            self._ready.set()
            await self._end.wait()
            await built.server.stop(0)
            for task in (following, *jobs):
                task.cancel()
            await asyncio.gather(following, *jobs, return_exceptions=True)


@contextlib.contextmanager
def programs(folder: Path, **scripts: str) -> Iterator[Path]:
    """Put shell scripts of these names first on PATH."""
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield folder


def have_manager() -> None:
    """Have it look as if a user manager ran."""
    folder = Path(os.environ["XDG_RUNTIME_DIR"], "systemd")
    folder.mkdir(exist_ok=True)
    (folder / "private").touch()
