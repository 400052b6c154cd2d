"""`sessiond start-session ID`: asks the supervisor to start a session; run by units/sessiond@.service."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sessiond.errors import SessiondError, Unreachable

USAGE = 2
# The supervisor is told to start before this; a machine that boots is slow.
PATIENCE = 60.0


def main(argv: Sequence[str]) -> int:
    """Start one session and return when it serves; the exit status tells the init system how it went."""
    from sessiond.log import last_word
    from sessiond.model.identity import parse_id
    from sessiond.model.unit import starter_unit

    if len(argv) != 1:
        print("usage: sessiond start-session ID", file=sys.stderr)
        return USAGE
    try:
        start(parse_id(argv[0]))
    except SessiondError as error:
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        # The unit has its name from the same word.
        if not last_word(text, unit=starter_unit(argv[0])):
            print(text, file=sys.stderr)
        return 1
    return 0


def start(session: str) -> None:
    """Have the supervisor start a session; waits for a supervisor that is on its way up."""
    from sessiond.client.sync import JOB_TIMEOUT, Supervisor
    from sessiond.paths import Paths
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    socket = Paths.from_environment().socket

    def attempt() -> Any:
        with Supervisor(socket) as supervisor:
            request = pb.StartSessionRequest(session=session)
            return supervisor.call(supervisor.sessions.StartSession, request, timeout=JOB_TIMEOUT)

    patiently(attempt, socket, time.monotonic() + PATIENCE)


def patiently(attempt: Callable[[], Any], socket: Path, deadline: float) -> Any:
    """Attempt until a supervisor answers, each time one may have come up; Unreachable at the deadline."""
    while True:
        try:
            return attempt()
        except Unreachable as error:
            left = deadline - time.monotonic()
            if error.code != "supervisor_unreachable" or left <= 0:
                raise
            wait_for_socket(socket, min(left, 5.0))


def wait_for_socket(socket: Path, seconds: float) -> None:
    """Return when somebody listens, when something happens where the socket belongs, or after ``seconds``."""
    import asyncio

    async def watch() -> None:
        from asyncinotify import Inotify, Mask

        folder = next(one for one in socket.parents if one.is_dir())
        with Inotify() as inotify:
            inotify.add_watch(folder, Mask.CREATE | Mask.MOVED_TO | Mask.ATTRIB | Mask.ONLYDIR)
            # What came up before the watch was there is not told by it.
            if not listening(socket):
                async with asyncio.timeout(seconds):
                    await inotify.get()

    try:
        asyncio.run(watch())
    except TimeoutError:
        return


def listening(socket: Path) -> bool:
    """Whether a process listens on a Unix socket."""
    from socket import AF_UNIX
    from socket import socket as Socket

    with Socket(AF_UNIX) as probe:
        try:
            probe.connect(str(socket))
        except OSError:
            return False
    return True
