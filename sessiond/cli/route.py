"""The way to a session's daemon: its own socket, or the supervisor; and how one that went away is awaited."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from sessiond.client.streams import Line, Lost
from sessiond.errors import NotFound, SessiondError, Unreachable

if TYPE_CHECKING:
    from types import TracebackType

    from sessiond.cli.app import App

# Longer than a daemon takes to be back after a crash, a restart or an upgrade.
PATIENCE = 30.0
_ASKING = 10.0


def ended(agent: Any) -> bool:
    """Whether an agent of the wire is over."""
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    return agent.state in (
        pb.AGENT_STATE_COMPLETED,
        pb.AGENT_STATE_FAILED,
        pb.AGENT_STATE_TERMINATED,
    )


class Route:
    """How one agent is reached. ``session`` and ``agent`` are ids."""

    def __init__(self, app: App, session: str, agent: str, *, patience: float = PATIENCE) -> None:
        self.session = session
        self.agent = agent
        self.supervisor = app.host.socket
        self._patience = patience
        self._daemon = self._find(app)
        # Where its own socket cannot be reached from here, the supervisor hands on what is said.
        self._indirect = not answers(self._daemon)

    def _find(self, app: App) -> str:
        """The daemon's socket as seen from here: beside the supervisor's, wherever that is mapped to."""
        beside = os.path.join(os.path.dirname(self.supervisor), "sessions", f"{self.session}.sock")
        if answers(beside):
            return beside
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb

        request = pb.GetSessionRequest(session=self.session)
        told: str = app.supervisor.call(app.supervisor.sessions.GetSession, request).session.endpoint
        return told if told and answers(told) else beside

    def open(self) -> Line:
        """A line to who answers for the agent."""
        return Line(self.supervisor if self._indirect else self._daemon)

    async def get(self, line: Line) -> Any:
        """The agent as it is now; raises as ``Line.call``."""
        from sessiond.rpc._generated.v1 import agents_pb2 as pb

        request = pb.GetAgentRequest(session=self.session, agent=self.agent)
        return (await line.call(line.agents.GetAgent, request, timeout=_ASKING)).agent

    async def regain(self) -> tuple[Line, Any]:
        """Wait for the daemon to be back; returns a line to it and the agent, or to the supervisor where the
        agent has ended and its session with it. Raises Unreachable `daemon_unreachable` after a while."""
        sockets = [self._daemon, self.supervisor] if self._indirect else [self._daemon]
        gone = asyncio.create_task(self._ended_with_session(), name="session stopped")
        found: tuple[Line, Any] | None = None
        try:
            # Watched before it is tried: a socket that comes in between is not missed.
            with _Changes(sockets) as changes:
                async with asyncio.timeout(self._patience):
                    while (found := await self._try()) is None:
                        change = asyncio.ensure_future(changes.next())
                        try:
                            await asyncio.wait({change, gone}, return_when=asyncio.FIRST_COMPLETED)
                        finally:
                            change.cancel()
                        if gone.done():
                            found = gone.result()
                            break
                    return found
        except TimeoutError:
            raise Unreachable(
                "daemon_unreachable",
                f"the session's daemon did not come back within {self._patience:g} s",
                hint=f"sessionctl status {self.session[:8]}",
                fields={"session": self.session, "socket": self._daemon},
            ) from None
        finally:
            gone.cancel()
            await asyncio.wait({gone})
            if not gone.cancelled() and gone.exception() is None and gone.result() is not found:
                await gone.result()[0].close()

    async def _try(self) -> tuple[Line, Any] | None:
        for path in [self._daemon, self.supervisor] if self._indirect else [self._daemon]:
            if not answers(path):
                continue
            line = Line(path)
            try:
                if path == self.supervisor:
                    await self._settled(line)
                return line, await self.get(line)
            except Lost:
                await line.close()
            except BaseException:
                await line.close()
                raise
        return None

    async def _settled(self, line: Line) -> None:
        """Wait until the session's daemon is there, or is not to come back: only then the supervisor knows
        whom to hand on to."""
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb
        from sessiond.rpc._generated.v1 import types_pb2 as types

        states = (
            types.SESSION_STATE_ACTIVE,
            types.SESSION_STATE_INACTIVE,
            types.SESSION_STATE_ERROR,
            types.SESSION_STATE_ARCHIVED,
        )
        request = pb.WaitSessionRequest(session=self.session, states=states)
        await line.call(line.sessions.WaitSession, request, timeout=None)

    async def _ended_with_session(self) -> tuple[Line, Any]:
        """Return once the session is known to have stopped, and the agent to have ended; never otherwise."""
        from sessiond.rpc._generated.v1 import sessions_pb2 as pb
        from sessiond.rpc._generated.v1 import types_pb2 as types

        stopped = (types.SESSION_STATE_INACTIVE, types.SESSION_STATE_ERROR, types.SESSION_STATE_ARCHIVED)
        back = (types.SESSION_STATE_STARTING, types.SESSION_STATE_ACTIVE)
        line = Line(self.supervisor)
        try:
            while True:
                for states in (stopped, back):
                    request = pb.WaitSessionRequest(session=self.session, states=states)
                    await line.call(line.sessions.WaitSession, request, timeout=None)
                    if states is stopped and ended(agent := await self.get(line)):
                        return line, agent
        except NotFound:
            await line.close()
            raise
        except (Lost, SessiondError):
            # The supervisor is away too, or cannot tell. The socket tells when the daemon is back.
            await line.close()
            await asyncio.get_running_loop().create_future()
            raise AssertionError("unreachable") from None
        except BaseException:
            await line.close()
            raise


class _Changes:
    """What happens to the sockets' names, as inotify tells it."""

    def __init__(self, sockets: Sequence[str]) -> None:
        self._names = {os.path.basename(path) for path in sockets}
        self._folders = {os.path.dirname(path) for path in sockets}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from asyncinotify import Inotify, Mask

        self._inotify = self._stack.enter_context(Inotify())
        for folder in self._folders:
            try:
                # A socket is bound, then told to listen, then given its mode: each may be what was missing.
                self._inotify.add_watch(folder, Mask.CREATE | Mask.MOVED_TO | Mask.ATTRIB)
            except OSError as error:
                self._stack.close()
                raise Unreachable(
                    "daemon_unreachable",
                    f"the session's daemon went away, and so did the folder of its socket: {folder}",
                    hint="sessionctl doctor",
                    fields={"folder": folder},
                ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def next(self) -> None:
        """Return at the next change that concerns one of the sockets."""
        while True:
            event = await self._inotify.get()
            if event.name is None or str(event.name) in self._names:
                return


def answers(path: str) -> bool:
    """Whether somebody listens on a socket that can be reached from here."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
