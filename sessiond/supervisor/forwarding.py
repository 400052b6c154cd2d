"""Calls handed to session daemons as bytes: one channel to each, anew for each life of a daemon."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio

from sessiond.errors import SessiondError, Unreachable, Unsupported
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from sessiond.rpc.status import DETAILS_KEY, from_rpc_error

log = logging.getLogger(__name__)

# What a daemon says that ends: its next life can be asked.
_LEAVING = "daemon_restarting"
# Channels kept open that nobody uses at the moment.
_IDLE = 32

_Identity = tuple[int, int]


class DaemonStatus(Exception):
    """A daemon ended a call with a status of its own."""

    def __init__(self, failed: grpc.aio.AioRpcError) -> None:
        super().__init__(failed.details())
        self.failed = failed

    def error(self) -> SessiondError:
        """The same as an error of ours, for who does not pass it on."""
        return from_rpc_error(self.failed)

    async def pass_on(self, context: Any) -> NoReturn:
        """End the caller's own call with it: status, message and trailers unchanged."""
        trailers = tuple(self.failed.trailing_metadata() or ())
        await context.abort(self.failed.code(), self.failed.details() or "", trailing_metadata=trailers)
        raise AssertionError("a call that was aborted does not go on")


class _Link:
    """One channel to one life of a daemon, told by its socket's file."""

    def __init__(self, socket: Path, identity: _Identity) -> None:
        self.identity = identity
        self.channel = grpc.aio.insecure_channel(unix_address(str(socket)), options=CHANNEL_OPTIONS)
        self.uses = 0
        self.retired = False
        # Whether it has said that it ends.
        self.leaving = False

    async def connected(self) -> bool:
        """Wait for a connection; False where the attempt failed."""
        while True:
            state = self.channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY:
                return True
            if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
                return False
            await self.channel.wait_for_state_change(state)


class Daemons:
    """The daemons of all sessions, as far as they can be reached on their sockets."""

    def __init__(self, socket: Callable[[str], Path]) -> None:
        self._socket = socket
        self._links: OrderedDict[str, _Link] = OrderedDict()

    def life(self, session: str) -> _Identity | None:
        """What tells one life of a daemon's socket from the next; None where there is no socket."""
        try:
            info = self._socket(session).stat()
        except OSError:
            return None
        return info.st_ino, info.st_ctime_ns

    @asynccontextmanager
    async def reach(self, session: str) -> AsyncIterator[Reached]:
        """A daemon that answers and does not end; raises Unreachable `daemon_unreachable` at once if none."""
        link = await self._link(session)
        if link.leaving:
            raise unreachable(session, "it ends")
        link.uses += 1
        try:
            # A channel that failed once would wait before it tries again: it is never asked twice.
            if not await link.connected():
                await self._retire(session, link)
                raise unreachable(session, "nobody answers on its socket")
            yield Reached(session, link)
        finally:
            link.uses -= 1
            await self._let_go(link)

    async def close(self) -> None:
        """Close all channels; calls under way are cancelled. Idempotent."""
        links = [*self._links.values()]
        self._links.clear()
        for link in links:
            await link.channel.close()

    async def _link(self, session: str) -> _Link:
        identity = self.life(session)
        link = self._links.get(session)
        if link is not None and link.identity != identity:
            await self._retire(session, link)
            link = None
        if identity is None:
            raise unreachable(session, "there is no socket of it")
        # Another caller may have made one while an old one was being closed.
        link = self._links.get(session)
        if link is None:
            link = self._links[session] = _Link(self._socket(session), identity)
        self._links.move_to_end(session)
        return link

    async def _retire(self, session: str, link: _Link) -> None:
        """Give no more calls to a channel; closed once those under way have ended."""
        if self._links.get(session) is link:
            del self._links[session]
        if not link.retired:
            link.retired = True
            if not link.uses:
                await link.channel.close()

    async def _let_go(self, link: _Link) -> None:
        if link.uses:
            return
        if link.retired:
            await link.channel.close()
            return
        idle = [(session, one) for session, one in self._links.items() if not one.uses]
        for session, one in idle[: max(0, len(idle) - _IDLE)]:
            await self._retire(session, one)


class Reached:
    """A daemon with a connection to it. Messages are bytes; a call goes there once, or not at all."""

    def __init__(self, session: str, link: _Link) -> None:
        self._session = session
        self._link = link
        # Without serializers messages are bytes, which its types do not tell.
        self._channel: Any = link.channel

    async def unary(self, method: str, request: bytes, *, timeout: float | None, effect: bool) -> bytes:
        """The answer. ``effect`` says that the call changes something. Raises DaemonStatus for what the
        daemon answers with, Unreachable `daemon_unreachable` where it does not answer."""
        call: Any = self._channel.unary_unary(method)(request, timeout=timeout)
        try:
            answer: bytes = await call
        except grpc.aio.AioRpcError as failed:
            raise self._told(failed, effect=effect) from failed
        return answer

    async def responses(
        self, method: str, request: bytes, *, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """The messages of a stream, each asked for when the one before was taken. Raises as ``unary``."""
        call: Any = self._channel.unary_stream(method)(request, timeout=timeout)
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                yield message
        except grpc.aio.AioRpcError as failed:
            raise self._told(failed, effect=False) from failed
        finally:
            call.cancel()

    async def conversation(
        self, method: str, requests: AsyncIterator[bytes], *, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Messages in both directions: no request is taken before the one before was sent on, nor a
        response before the one before was taken. Raises as ``unary``."""
        call: Any = self._channel.stream_stream(method)(timeout=timeout)
        sending = asyncio.create_task(_send(call, requests), name=f"to the daemon: {method}")
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                yield message
        except grpc.aio.AioRpcError as failed:
            raise self._told(failed, effect=True) from failed
        finally:
            sending.cancel()
            call.cancel()
            await asyncio.wait([sending])
            if not sending.cancelled() and (fault := sending.exception()) is not None:
                log.error("messages of a client are no longer sent on", exc_info=fault)

    def _told(self, failed: grpc.aio.AioRpcError, *, effect: bool) -> Exception:
        """What a failed call means: the daemon's own word, or that it went away over it."""
        told = _told(failed, self._session, effect=effect)
        if isinstance(told, DaemonStatus) and (error := told.error()).code == _LEAVING:
            self._link.leaving = True
            return unreachable(self._session, f"it went away: {error.message}", lost=effect)
        return told


async def _send(call: Any, requests: AsyncIterator[bytes]) -> None:
    """Send requests on until there are no more, or the call has ended: its reader hears why."""
    try:
        async for request in requests:
            await call.write(request)
        await call.done_writing()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return


def _told(failed: grpc.aio.AioRpcError, session: str, *, effect: bool) -> Exception:
    """What a failed call means: the daemon's own word, or that it went away over it."""
    code = failed.code()
    if any(key == DETAILS_KEY for key, _ in failed.trailing_metadata() or ()):
        return DaemonStatus(failed)
    # Nobody here cancels a call and then listens: CANCELLED is a daemon that ended with it.
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return unreachable(session, f"it went away: {failed.details()}", lost=effect)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return Unsupported(
            "daemon_outdated",
            "the session's daemon is of a release that does not know this call",
            hint=f"sessionctl restart {session}",
            fields={"session": session},
        )
    return DaemonStatus(failed)


def unreachable(session: str, reason: str, *, lost: bool = False) -> Unreachable:
    """The error of a daemon that does not answer. ``lost``: it may have done what was asked."""
    if lost:
        said = f"the session's daemon was asked and gave no answer, so it may have been done: {reason}"
    else:
        said = f"the session's daemon does not answer, nothing was done: {reason}"
    return Unreachable(
        "daemon_unreachable",
        said,
        hint="look at the agent before you repeat it" if lost else f"sessionctl status {session}",
        fields={"session": session, "effect": "possible" if lost else "none"},
    )
