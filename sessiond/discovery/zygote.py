"""The finder: a small process that stays single-threaded and forks one for each adapter when the host asks.

Nothing of it outlives the host: it ends when the host's socket closes, and the kernel kills the adapters'
processes with it, whatever they do then.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from sessiond.adapters.homes import all_places, runs_elsewhere
from sessiond.discovery import kernel, wire
from sessiond.discovery.absence import wait
from sessiond.discovery.answers import describe
from sessiond.discovery.engine import AdapterBroken, Channel, Engine, HostGone, answer_only
from sessiond.discovery.orders import FACTORY, PACKET_MAX, Ended, Fork, Forked, Refused, Tidings
from sessiond.discovery.processes import LiveProcesses
from sessiond.ports.discovery import AgentAdapter

MakeAdapter = Callable[[str, Mapping[str, str]], AgentAdapter]
Places = Callable[[str, Mapping[str, str]], tuple[str, ...]]

# Bytes that an adapter may hold: that of 100,000 conversations, or of what is read for a long transcript.
MEMORY_MAX: Final = 1 << 30


def main(argv: Sequence[str]) -> int:
    """`finder FD [FACTORY [MODULE…]]`: serve the host at the other end of that socket until it closes. The
    modules are those of adapters that will be asked for: loaded for all of them while nobody asks yet."""
    host = socket.socket(fileno=int(argv[0]))
    kernel.name_process("sessiond-finder")
    factory = argv[1] if len(argv) > 1 else FACTORY
    module, _, function = factory.partition(":")
    make: MakeAdapter = getattr(importlib.import_module(module), function)
    places = all_places if factory == FACTORY else _nowhere
    _load(argv[2:], host)
    # What is loaded until now is shared with all that are forked, as long as nobody counts its references.
    gc.collect()
    gc.freeze()
    _Zygote(host, make, places).run()
    return 0


def _load(modules: Sequence[str], host: socket.socket) -> None:
    """Load modules, unless the host asks for something meanwhile."""
    poll = select.poll()
    poll.register(host, select.POLLIN)
    for module in modules:
        if poll.poll(0):
            return
        # One that cannot be loaded is told of by the process of its own adapter.
        with suppress(Exception):
            importlib.import_module(module)


class _Zygote:
    def __init__(self, host: socket.socket, make: MakeAdapter, places: Places) -> None:
        self._host = host
        self._make = make
        self._places = places
        self._pid = os.getpid()
        self._decoder = msgspec.msgpack.Decoder(Fork)
        # By pidfd: the number that the host gave, and the pid.
        self._children: dict[int, tuple[int, int]] = {}

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd in self._children:
                    poll.unregister(fd)
                    self._reap(fd)
                elif not self._serve(poll):
                    return

    def _serve(self, poll: select.poll) -> bool:
        """Do what the host asks; False where it is gone."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._host, PACKET_MAX, 1)
        except ConnectionResetError:
            return False
        if not packet:
            return False
        asked = self._decoder.decode(packet)
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fds[0])
            return self._tell(Refused(asked.number, f"no process can be started: {error.strerror}"))
        if pid == 0:
            self._become(asked, fds[0])
        os.close(fds[0])
        # It is reaped here alone, so that the pid is still its own.
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (asked.number, pid)
        poll.register(pidfd, select.POLLIN)
        return self._tell(Forked(asked.number, pid), pidfd)

    def _reap(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._tell(Ended(number, status))

    def _tell(self, tidings: Tidings, *fds: int) -> bool:
        try:
            socket.send_fds(self._host, [msgspec.msgpack.encode(tidings)], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _become(self, asked: Fork, fd: int) -> NoReturn:
        """In the new process: run the adapter, and end whatever comes."""
        status = 1
        try:
            kernel.end_with_parent()
            if os.getppid() == self._pid:
                self._host.close()
                for pidfd in self._children:
                    os.close(pidfd)
                kernel.name_process(f"find:{asked.adapter}")
                status = _run(self._make, self._places, asked, Channel(socket.socket(fileno=fd)))
        except BaseException as error:  # noqa: BLE001  (Nothing may return into the finder's own loop.)
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            os._exit(status)


def _nowhere(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    return ()


def _elsewhere(name: str) -> bool:
    """Whether a process of its program keeps its files where nobody looks."""
    return runs_elsewhere(name, os.environ, LiveProcesses())


def _run(make: MakeAdapter, places: Places, asked: Fork, channel: Channel) -> int:
    # A descriptor for each process that has a conversation open.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Whatever somebody wrote into a file: memory is taken from one adapter, and not from the machine.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    room = MEMORY_MAX if most == resource.RLIM_INFINITY else min(MEMORY_MAX, most)
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first: list[wire.Asked] = []
    try:
        if not asked.plain and (folders := places(asked.adapter, os.environ)):
            first = wait(asked.adapter, folders, channel, lambda: _elsewhere(asked.adapter))
        try:
            adapter = make(asked.adapter, os.environ)
        except Exception as error:  # noqa: BLE001  (Another's code is loaded here: whatever it raises is told.)
            channel.send(wire.frame(wire.Failed(describe(error))))
            channel.leave()
            return 1
        if asked.plain:
            answer_only(adapter, channel)
        else:
            Engine(adapter, channel).run(first)
    except HostGone:
        return 0
    except AdapterBroken:
        # The host was told.
        channel.leave()
        return 1
    return 0
