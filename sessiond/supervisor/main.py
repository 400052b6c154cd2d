"""Composition root of the supervisor: parses, wires, serves until told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sessiond
from sessiond import config, process
from sessiond.aio import ServiceManager, Termination
from sessiond.errors import SessiondError, Unreachable
from sessiond.log import setup as setup_log
from sessiond.paths import Paths, private_folder

if TYPE_CHECKING:
    from sessiond.supervisor.mirror import Mirror

log = logging.getLogger(__name__)

_GRACE = 2.0
# A bus that cannot be asked in this time, since it is only being started, say, is not waited for.
_QUESTION = 0.1
# The larger part of the program, in pieces of some ten milliseconds each.
_STEPS = (
    "sessiond.supervisor.registry",
    "grpc",
    "grpc_health.v1.health",
    "sessiond.adapters",
    "sessiond.store.sqlite",
    "sessiond.supervisor.directory",
    "sessiond.supervisor.at_rest",
    "sessiond.supervisor.changes",
    "sessiond.supervisor.discovered.known",
    "sessiond.supervisor.parts",
    "grpc_reflection.v1alpha.reflection",
)


def main(argv: Sequence[str]) -> int:
    """Run the supervisor; returns its exit status."""
    # As the init system starts it there is nothing to parse.
    flags = _flags(argv) if argv else {}
    paths = Paths.from_environment()
    try:
        settings = config.load(paths.config_file, flags=flags)
        setup_log(settings.log.level)
        return asyncio.run(_run(paths, settings))
    except SessiondError as error:
        return _failed(error)
    except ExceptionGroup as group:
        alone = group.exceptions[0] if len(group.exceptions) == 1 else None
        if not isinstance(alone, SessiondError):
            raise
        return _failed(alone)


def _flags(argv: Sequence[str]) -> dict[str, Sequence[str] | None]:
    import argparse

    parser = argparse.ArgumentParser(
        prog="sessiond",
        description="The supervisor of coding sessions. Usually started by the init system: sessionctl up.",
    )
    parser.add_argument("--version", action="version", version=f"sessiond {sessiond.__version__}")
    config.add_flags(parser)
    return config.flags_of(parser.parse_args(argv))


def _failed(error: SessiondError) -> int:
    hint = f" ({error.hint})" if error.hint else ""
    print(f"sessiond: {error.message}{hint}", file=sys.stderr)
    return 1


async def _run(paths: Paths, settings: config.Settings) -> int:
    from sessiond.init.systemd.backend import SystemdInit
    from sessiond.rpc.lock import SocketLock
    from sessiond.supervisor.mirror import Mirror

    termination = Termination(signal.SIGTERM, signal.SIGINT)
    manager = ServiceManager()
    private_folder(paths.runtime)
    private_folder(paths.state)
    async with AsyncExitStack() as stack:
        stack.enter_context(SocketLock(paths.lock, "the supervisor"))
        init = SystemdInit()
        stack.push_async_callback(init.close)
        mirror = Mirror(init)
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(manager.watchdog(), name="watchdog"),
                tasks.create_task(_for_ever("mirror", mirror.run()), name="mirror"),
            ]
            await _load(mirror)
            from sessiond.supervisor.parts import build

            parts = await build(stack, paths, settings, init, mirror)
            await parts.load()
            owned += [tasks.create_task(_for_ever(name, job), name=name) for name, job in parts.jobs()]
            await parts.server.start()
            await parts.set_serving()
            process.settle()
            manager.ready(f"Serving {len(parts.registry.entries)} sessions at {paths.socket}")
            log.info("serving %d sessions at %s", len(parts.registry.entries), paths.socket)
            parts.discovered.background.start(parts.discovered.prepare(), "finder at hand")
            received = await termination.wait()
            manager.stopping(f"Ending on {received.name}; sessions go on")
            for task in owned:
                task.cancel()
            await parts.server.stop(_GRACE, hang_up=_ending())
    return 0


def _ending() -> SessiondError:
    """What those are told who listen when it ends: the next supervisor waits for its end."""
    return Unreachable("supervisor_unreachable", "the supervisor ends; sessions go on", hint="sessionctl up")


async def _load(mirror: Mirror) -> None:
    """Load the larger part of the program while systemd answers, in steps between which it is heard: loading
    in another thread takes longer, where each of the two wants the interpreter all the time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_QUESTION):
            await mirror.asked.wait()
    for name in _STEPS:
        import_module(name)
        await asyncio.sleep(0)


async def _for_ever(name: str, job: Coroutine[Any, Any, None]) -> None:
    """Run a job that must not end: one that does would leave answers that nobody keeps true."""
    await job
    raise SessiondError("job_ended", f"the job {name!r} ended: nothing keeps the answers true any more")
