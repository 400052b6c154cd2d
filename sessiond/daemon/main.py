"""Composition root of a session daemon: parses, wires, serves until told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sessiond import process
from sessiond.aio import ServiceManager, Termination
from sessiond.errors import InvalidArgument, SessiondError
from sessiond.log import setup as setup_log
from sessiond.model.identity import parse_id
from sessiond.paths import Paths, private_folder

if TYPE_CHECKING:
    from sessiond.daemon.parts import AgentsRoom

log = logging.getLogger(__name__)

_GRACE = 2.0
# The part of the time to stop in that agents are waited for; the rest is for ending in order.
_AGENTS_PART = 2 / 3
_SERVICE = "sessiond.v1.SessionDaemonService"
# EX_TEMPFAIL: a signal without a job is no wish to stop, and only a failure is restarted.
EXIT_RESTART_ME = 75


@dataclass(frozen=True, slots=True)
class Options:
    """What the unit's command line says."""

    session: str
    socket: Path
    store: Path
    stop_timeout: float


def main(argv: Sequence[str]) -> int:
    """Run one session's daemon; returns its exit status."""
    setup_log(os.environ.get("SESSIOND_LOG_LEVEL", "info"))
    try:
        return asyncio.run(_run(_parse(argv)))
    except SessiondError as error:
        log.error("%s (%s)", error.message, error.hint or error.code)  # noqa: TRY400 - it is for people
        return 1


def _parse(argv: Sequence[str]) -> Options:
    match argv:
        case [session, "--socket", socket, "--store", store, "--stop-timeout", seconds]:
            # What units are made with; a parser would be a twentieth of the start.
            with suppress(ValueError, InvalidArgument):
                return Options(parse_id(session), Path(socket), Path(store), float(seconds))
    return _explain(argv)


def _explain(argv: Sequence[str]) -> Options:
    """The same for people: help, defaults, and what is wrong."""
    import argparse

    parser = argparse.ArgumentParser(prog="sessiond session", description=__doc__)
    parser.add_argument("session", type=parse_id, help="id of the session, 32 hexadecimal digits")
    parser.add_argument("--socket", type=Path, required=True, help="where to serve")
    parser.add_argument("--store", type=Path, required=True, help="folder of the session's own state")
    parser.add_argument(
        "--stop-timeout", type=float, default=30.0, help="seconds that the init system gives it to stop"
    )
    return Options(**vars(parser.parse_args(argv)))


async def _run(options: Options) -> int:
    # Imported late, so that a wrong command line answers at once.
    from sessiond.daemon.descriptors import Descriptors
    from sessiond.daemon.parts import SERVICE as AGENTS_SERVICE
    from sessiond.daemon.parts import AgentsRoom, Home, register_service
    from sessiond.daemon.services.daemon import DaemonService
    from sessiond.daemon.services.late import LateService
    from sessiond.rpc._generated.v1 import daemon_pb2_grpc
    from sessiond.rpc.health import add_health, set_serving
    from sessiond.rpc.lock import SocketLock
    from sessiond.rpc.server import Server

    termination = Termination(signal.SIGTERM, signal.SIGINT)
    manager = ServiceManager()
    descriptors = Descriptors.from_environment()
    private_folder(options.store)
    private_folder(options.socket.parent)
    with ExitStack() as stack:
        stack.enter_context(SocketLock(options.socket.with_suffix(".lock"), f"session {options.session}"))
        room = AgentsRoom(Home(options.session, options.store, Paths.from_environment()), descriptors)
        server = Server(options.socket)
        service = DaemonService(options.session, options.store, descriptors.names, _stop_unit)
        daemon_pb2_grpc.add_SessionDaemonServiceServicer_to_server(service, server.grpc)
        server.grpc.add_generic_rpc_handlers([LateService(AGENTS_SERVICE, register_service, room.service)])
        health = add_health(server)
        room.open_if_needed()
        await server.start()
        await set_serving(health, [_SERVICE, AGENTS_SERVICE])
        watchdog = asyncio.create_task(manager.watchdog(), name="watchdog")
        process.settle()
        manager.ready(f"Serving {options.socket}")
        try:
            room.begin()
            received = await termination.wait()
            reason = await _reason(options.session)
            manager.stopping(f"{received.name}: {reason or 'no job'}")
            log.info("ending on %s: %s", received.name, reason or "no job of the init system asks for it")
            if reason == "stop":
                await _end_agents(room, options.session, options.stop_timeout * _AGENTS_PART)
        finally:
            watchdog.cancel()
            # Streams that follow agents end with this, so that the server need not wait for them.
            await room.stop()
            await server.stop(_GRACE)
    return 0 if reason is not None else EXIT_RESTART_ME


async def _reason(session: str) -> str | None:
    """Why the signal came, as the init system's job tells: `stop`, `restart`, or None without one."""
    from sessiond.init.systemd.stop_reason import stop_reason
    from sessiond.model.unit import daemon_unit

    try:
        return await stop_reason(daemon_unit(session))
    except SessiondError as error:
        # After a clean end nothing would have it back, so without an answer it is none.
        log.warning("cannot ask why: %s", error.message)
        return None


async def _end_agents(room: AgentsRoom, session: str, deadline: float) -> None:
    """A stop of the daemon ends what runs in its session, whoever asked for it."""
    from sessiond.init.systemd.own_agents import end_agents

    async def end() -> None:
        await end_agents(session, deadline=deadline)

    try:
        async with asyncio.timeout(deadline):
            await (end() if room.agents is None else room.agents.end_all(end))
    except SessiondError as error:
        # The job goes on without us; the init system has its own deadlines.
        log.warning("what runs in the session may go on: %s", error.message)
    except TimeoutError:
        log.warning("not all ends are written down; who starts next makes up for it")


async def _stop_unit(session: str) -> None:
    from sessiond.init.systemd.backend import SystemdInit

    init = SystemdInit()
    try:
        await init.stop(session, wait=False)
    finally:
        await init.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
