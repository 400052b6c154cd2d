"""All terminals of one session's agents: made, taken back after a restart, read in fair turns, let go of."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import time
from collections import deque
from collections.abc import Collection
from dataclasses import replace

from sessiond.agents.bounds import RecordLimits
from sessiond.agents.checkpoint import MakeScreen
from sessiond.agents.folder import AgentFolder
from sessiond.agents.policy import kept_policy
from sessiond.agents.record import Record
from sessiond.config import Terminal as TerminalSettings
from sessiond.daemon import pty
from sessiond.daemon.descriptors import Descriptors
from sessiond.daemon.leaving import leaving
from sessiond.daemon.terminal import Terminal, TerminalFacts
from sessiond.errors import NotFound
from sessiond.model.agent import Agent, AgentSpec
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import agent_to_wire

log = logging.getLogger(__name__)

_TTY, _PIPE = "tty-", "pipe-"
# So long terminals are served before the loop sees to everything else, in seconds.
_SLICE = 0.004
# An ended agent's last bytes are there already; only a stranger that holds its terminal open delays this.
_DRAIN_TIMEOUT = 5.0
# For drawings of screens, when this daemon ends.
_KEEP_TIMEOUT = 2.0


class Terminals:
    """Needs a running loop. All that a kill may not lose lies in the kernel, in the init system's store,
    or in a record."""

    def __init__(
        self,
        descriptors: Descriptors,
        limits: RecordLimits,
        settings: TerminalSettings,
        make_screen: MakeScreen,
    ) -> None:
        self._descriptors = descriptors
        self._limits = limits
        self._settings = settings
        self._make_screen = make_screen
        self._terminals: dict[str, Terminal] = {}
        # Closed, and somebody still looks at their last screen.
        self._closed: dict[str, Terminal] = {}
        self._by_master: dict[int, Terminal] = {}
        self._ready: deque[Terminal] = deque()
        self._turning = False
        self._poll: select.epoll | None = None

    # ---- making

    async def open(self, spec: AgentSpec, folder: AgentFolder) -> str:
        """Make a terminal, and return the path of its slave once the init system keeps it.

        Raises Exhausted `no_terminals`, `disk_full`, TimedOut `descriptor_store_timeout`; nothing is left.
        """
        pair = pty.open_pair(spec.columns, spec.rows)
        try:
            pipe = pty.open_pipe()
            try:
                terminal = self._take_in(spec, folder, pair.master, pipe)
            except BaseException:
                os.close(pipe)
                raise
        except BaseException:
            os.close(pair.master)
            os.close(pair.slave)
            raise
        terminal.hold(pair.slave)
        try:
            if terminal.record.end:
                terminal.record.restarted()
            terminal.record.resized(spec.columns, spec.rows)
            self._descriptors.store(_PIPE + spec.id, pipe)
            self._descriptors.store(_TTY + spec.id, pair.master)
            await self._descriptors.settled()
        except BaseException:
            self.close(spec.id)
            raise
        return pair.path

    def restore(self, spec: AgentSpec, folder: AgentFolder) -> bool:
        """Take a terminal back from what the init system kept; False where it is gone.

        Raises Exhausted `disk_full`, PermissionDenied `state_denied` where its record cannot be written.
        """
        names = (_TTY + spec.id, _PIPE + spec.id)
        master, pipe = map(self._descriptors.take, names)
        if master is None or pipe is None:
            for name, fd in zip(names, (master, pipe), strict=True):
                # One without the other is of no use. What was not handed to this process is not its to drop.
                if fd is not None:
                    os.close(fd)
                    self._descriptors.drop(name)
            return False
        try:
            terminal = self._take_in(spec, folder, master, pipe)
        except BaseException:
            # The copies in the store stay, for a daemon that can write the record.
            os.close(master)
            os.close(pipe)
            raise
        # Older than anything that the terminal still holds.
        terminal.settle()
        return True

    def _take_in(self, spec: AgentSpec, folder: AgentFolder, master: int, pipe: int) -> Terminal:
        record = Record.open(folder, self._limits)
        try:
            policy = kept_policy(folder) or self._settings.size_policy
            settings = replace(self._settings, size_policy=policy)
            terminal = Terminal(
                spec.id, folder, record, master, pipe, settings, self._make_screen, self._look
            )
            self._watch(terminal)
        except BaseException:
            record.close()
            raise
        self._terminals[spec.id] = terminal
        return terminal

    def sweep(self, spared: Collection[str] = ()) -> None:
        """Let go of kept terminals that nobody took back: their agents are not in the book. Those of agents
        that are spared stay as they are."""
        for name in self._descriptors.names:
            if name.startswith((_TTY, _PIPE)) and name.partition("-")[2] not in spared:
                log.warning("a terminal was kept for nobody: %s", name)
                fd = self._descriptors.take(name)
                if fd is not None:
                    os.close(fd)
                self._descriptors.drop(name)

    # ---- reading, in turns

    def _watch(self, terminal: Terminal) -> None:
        if self._poll is None:
            self._poll = select.epoll()
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._on_output)
        # By edges: a terminal that has hung up would wake the loop for ever, and must wake it once more when
        # somebody opens it again and writes.
        self._poll.register(terminal.master, select.EPOLLIN | select.EPOLLET)
        self._by_master[terminal.master] = terminal

    def _unwatch(self, terminal: Terminal) -> None:
        if self._by_master.pop(terminal.master, None) is not None and self._poll is not None:
            self._poll.unregister(terminal.master)

    def _on_output(self) -> None:
        if self._poll is None:
            return
        for master, _ in self._poll.poll(0):
            terminal = self._by_master.get(master)
            if terminal is not None and terminal not in self._ready:
                self._ready.append(terminal)
        if not self._turning:
            self._turns()

    def _turns(self) -> None:
        """Serve those that have output, one turn each, for a slice of time."""
        self._turning = False
        until = time.monotonic() + _SLICE
        while self._ready:
            terminal = self._ready.popleft()
            try:
                more = terminal.turn()
            except OSError:
                # Its bytes stay where they are, for the daemon's next life if not for this one.
                log.exception("the terminal of agent %s cannot be read", terminal.agent)
                more = False
            if more:
                self._ready.append(terminal)
            if time.monotonic() >= until:
                break
        if self._ready:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turns)

    # ---- what becomes of an agent

    def started(self, agent: str) -> None:
        """The agent's process has the terminal open: nobody else need hold it."""
        if agent in self._terminals:
            self._terminals[agent].let_go()

    def rearm(self, agent: str) -> None:
        """A new run of the same unit began: mark it, and read what it writes."""
        terminal = self._terminals.get(agent)
        if terminal is None:
            return
        terminal.record.restarted()
        terminal.hung = False
        terminal.grew.fire()
        self._look(terminal)

    async def drained(self, agent: str) -> None:
        """Return when the terminal is closed by all and every byte is in the record, or after a deadline."""
        terminal = self._terminals.get(agent)
        if terminal is None:
            return
        terminal.let_go()
        terminal.hung = False
        self._look(terminal)
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                await terminal.grew.until(lambda: terminal.closed or terminal.drained or None)
        except TimeoutError:
            log.warning(
                "the terminal of agent %s is still held open by a process that is not its own: "
                "what that one writes from now on is lost",
                agent,
            )

    def _look(self, terminal: Terminal) -> None:
        """Have it read as if the kernel had said that there is something."""
        if terminal not in self._ready:
            self._ready.append(terminal)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turns)

    def close(self, agent: str) -> None:
        """Let go of an ended agent's terminal; who looks at it is told by ``ended``. Absent is fine."""
        terminal = self._terminals.pop(agent, None)
        if terminal is None:
            return
        self._unwatch(terminal)
        terminal.close(ended=True)
        self._forget(agent)
        self._closed[agent] = terminal
        self._tidy()

    def ended(self, agent: str, message: Agent) -> None:
        """Tell all who look at an agent's terminal how it ended, as the last that they hear."""
        for terminals in (self._closed, self._terminals):
            if agent in terminals:
                terminals[agent].end(pb.AttachAgentResponse(ended=agent_to_wire(message)))
                break

    def _forget(self, agent: str) -> None:
        self._descriptors.drop(_TTY + agent)
        self._descriptors.drop(_PIPE + agent)

    def _tidy(self) -> None:
        """Forget closed terminals that nobody looks at."""
        self._closed = {agent: one for agent, one in self._closed.items() if not one.free}

    # ---- asking

    def get(self, agent: str) -> Terminal | None:
        """The terminal of an agent that has not ended."""
        return self._terminals.get(agent)

    def facts(self, agent: str) -> TerminalFacts:
        """What there is to tell. Raises NotFound `terminal_gone`."""
        terminal = self._terminals.get(agent)
        if terminal is None:
            raise NotFound("terminal_gone", f"agent {agent} has no terminal now", hint="sessionctl ps -a")
        return terminal.facts

    async def stop(self) -> None:
        """Let go of everything, which stays with the init system; who looks is told to come back."""
        gone = leaving("attach again")
        everyone = [*self._terminals.values(), *self._closed.values()]
        for terminal in everyone:
            terminal.end(None, gone)
            if not terminal.closed:
                self._unwatch(terminal)
                terminal.close(ended=False)
        self._terminals.clear()
        self._closed.clear()
        self._ready.clear()
        if self._poll is not None:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        endings = [one.ending for one in everyone if one.ending is not None]
        if endings:
            _, late = await asyncio.wait(endings, timeout=_KEEP_TIMEOUT)
            for ending in late:
                # Screens that are not kept are made anew from their records.
                ending.cancel()
        self._descriptors.close()
