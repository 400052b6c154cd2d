"""The host's side of the finder: has it started, has it fork, and hears which of its processes ended how."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from sessiond.discovery.orders import FACTORY, PACKET_MAX, Ended, Fork, Forked, Refused, Tidings
from sessiond.errors import TimedOut, Unreachable

log = logging.getLogger(__name__)

PROGRAM: Final = (sys.executable, "-m", "sessiond")

_SILENT, _ENDED = "the finder does not answer", "the finder ended"
# Seconds that a finder which was told to end may take, and one that begins on a busy machine.
_END, _BEGIN = 2.0, 30.0


async def readable(fd: int) -> None:
    """Return when a descriptor is: a pidfd is once its process has ended."""
    loop = asyncio.get_running_loop()
    came = loop.create_future()

    def come() -> None:
        loop.remove_reader(fd)
        if not came.done():
            came.set_result(None)

    loop.add_reader(fd, come)
    try:
        await came
    finally:
        loop.remove_reader(fd)


def kill(pidfd: int) -> None:
    """End a process at once; nothing happens where it ended already."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


@dataclass(slots=True)
class Child:
    """One process of the finder. ``status`` is None where nobody is left who could tell it; a finder that
    does not tell it for ``patience`` seconds is ``lost``."""

    pid: int
    pidfd: int
    socket: socket.socket
    status: asyncio.Future[int | None]
    patience: float
    lost: Callable[[], None]

    async def end(self) -> int | None:
        """Kill it if it still runs, and return when it has ended; to be called once."""
        try:
            kill(self.pidfd)
            await readable(self.pidfd)
            told, _ = await asyncio.wait([self.status], timeout=self.patience)
            if not told:
                self.lost()
            return self.status.result()
        finally:
            os.close(self.pidfd)
            self.socket.close()


class Nursery:
    """Starts the finder when it is first needed or before, and anew when it was killed."""

    def __init__(
        self,
        environment: Mapping[str, str],
        deadline: float,
        program: Sequence[str] = PROGRAM,
        factory: str = FACTORY,
    ) -> None:
        self._environment = environment
        self._deadline = deadline
        self._command = (*program, "finder")
        self._factory = factory
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._pidfd = -1
        self._awake = self._closed = False
        self._control: socket.socket | None = None
        self._numbers = 0
        self._asked: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._statuses: dict[int, asyncio.Future[int | None]] = {}
        self._decoder = msgspec.msgpack.Decoder(Tidings)

    @property
    def pid(self) -> int | None:
        """The finder's own."""
        return self._process.pid if self._process else None

    async def fork(self, adapter: str, *, plain: bool = False) -> Child:
        """A process that runs this adapter. Raises Unreachable `adapter_failed`, TimedOut
        `adapter_timeout`."""
        before = self._control
        try:
            return await self._fork(adapter, plain)
        except Unreachable:
            # One that was killed is missed by who asks it first, and that is no fault of the next.
            if before is None or self._control is before or self._closed:
                raise
        return await self._fork(adapter, plain)

    async def _fork(self, adapter: str, plain: bool) -> Child:
        async with self._starting:
            if self._control is None:
                await self._start()
        control = self._control
        assert control is not None  # It was there a moment ago, and nothing was awaited since.
        self._numbers += 1
        number = self._numbers
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        forked = self._asked[number] = loop.create_future()
        status = self._statuses[number] = loop.create_future()
        try:
            with theirs:
                packet = msgspec.msgpack.encode(Fork(number, adapter, plain))
                socket.send_fds(control, [packet], [theirs.fileno()])
            async with asyncio.timeout(self._deadline if self._awake else max(self._deadline, _BEGIN)):
                pid, pidfd = await forked
        except BaseException as error:
            ours.close()
            self._statuses.pop(number, None)
            if forked.done() and not forked.cancelled() and forked.exception() is None:
                # Cancelled in the very moment: the process must not stay.
                _, pidfd = forked.result()
                kill(pidfd)
                os.close(pidfd)
            if isinstance(error, TimeoutError):
                self._lose(_SILENT)
                raise TimedOut("adapter_timeout", "the finder does not answer and was killed") from None
            if isinstance(error, OSError):
                if self._control is control and isinstance(error, ConnectionError):
                    self._lose(_ENDED)
                raise Unreachable("adapter_failed", f"the finder cannot be asked: {error.strerror}") from None
            raise
        finally:
            self._asked.pop(number, None)
        return Child(pid, pidfd, ours, status, self._deadline, lambda: self._silent(control))

    async def prepare(self, modules: Sequence[str]) -> None:
        """Have the finder at hand, with these modules loaded. Raises Unreachable `adapter_failed`."""
        async with self._starting:
            if self._control is None:
                await self._start(modules)

    async def close(self) -> None:
        """End the finder; idempotent. What it forked is to be ended before."""
        self._closed = True
        process, self._process = self._process, None
        self._lose("the finder is closed")
        if process is None:
            return
        try:
            async with asyncio.timeout(_END):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            await self._bury(process)

    async def _start(self, modules: Sequence[str] = ()) -> None:
        if self._process is not None:
            await self._bury(self._process)
            self._process = None
        self._awake = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with theirs:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    str(theirs.fileno()),
                    self._factory,
                    *modules,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    env=self._environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise Unreachable(
                        "adapter_failed", f"the finder cannot be started: {error.strerror}"
                    ) from error
                raise
        self._control = ours
        with suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear)

    async def _bury(self, process: asyncio.subprocess.Process) -> None:
        """One that was lost must be gone before another begins."""
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            kill(pidfd)
            os.close(pidfd)
        await process.wait()

    def _hear(self) -> None:
        """Take what the finder tells."""
        control = self._control
        if control is None:
            return
        try:
            packet, fds, _, _ = socket.recv_fds(control, PACKET_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._lose(_ENDED)
            return
        self._awake = True
        tidings = self._decoder.decode(packet)
        match tidings:
            case Forked(number, pid):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result((pid, fds[0]))
                else:
                    kill(fds[0])
                    os.close(fds[0])
            case Refused(number, reason):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_exception(Unreachable("adapter_failed", reason))
            case Ended(number, status):
                told = self._statuses.pop(number, None)
                if told is not None and not told.done():
                    told.set_result(status)

    def _silent(self, control: socket.socket) -> None:
        """The finder that was at that socket does not tell what it must."""
        if self._control is control:
            self._lose(_SILENT)

    def _lose(self, reason: str) -> None:
        """The finder is gone, or is to go; the kernel kills what it forked."""
        control, self._control = self._control, None
        if control is not None:
            asyncio.get_running_loop().remove_reader(control.fileno())
            control.close()
            if self._process is not None:
                log.warning("%s", reason)
                if self._pidfd >= 0:
                    kill(self._pidfd)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(Unreachable("adapter_failed", reason))
        for status in self._statuses.values():
            if not status.done():
                status.set_result(None)
        self._statuses.clear()
