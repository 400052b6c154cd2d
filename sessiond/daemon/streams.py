"""What agents print, whichever way: through a terminal, or into two files."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from sessiond.agents.folder import AgentFolder
from sessiond.model.agent import Agent, AgentSpec


class Facts(Protocol):
    """What is held of an agent's output."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    @property
    def problem(self) -> str: ...


class ScreenFacts(Facts, Protocol):
    """The same of a terminal, and who looks at it."""

    @property
    def clients(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def rows(self) -> int: ...


class TerminalsLike(Protocol):
    """What the life of agents asks of their terminals."""

    async def open(self, spec: AgentSpec, folder: AgentFolder) -> str: ...

    def restore(self, spec: AgentSpec, folder: AgentFolder) -> bool: ...

    def started(self, agent: str) -> None: ...

    def rearm(self, agent: str) -> None: ...

    async def drained(self, agent: str) -> None: ...

    def close(self, agent: str) -> None: ...

    def facts(self, agent: str) -> ScreenFacts | None: ...

    def ended(self, agent: str, message: Agent) -> None: ...

    def sweep(self, spared: Collection[str]) -> None: ...

    async def stop(self) -> None: ...


class OutputsLike(Protocol):
    """What the life of agents asks of the files of those without a terminal."""

    def open(self, spec: AgentSpec, folder: AgentFolder) -> None: ...

    def restarted(self, agent: str) -> None: ...

    def ended(self, agent: str) -> None: ...

    async def drained(self, agent: str) -> None: ...

    def close(self, agent: str) -> None: ...

    def facts(self, agent: str) -> Facts: ...

    async def stop(self) -> None: ...


class Streams:
    """Both kinds behind one door; each is made when the first agent needs it."""

    def __init__(
        self,
        terminals: Callable[[], TerminalsLike],
        outputs: Callable[[], OutputsLike],
        at_rest: Callable[[AgentFolder, bool], Facts],
    ) -> None:
        self._make_terminals = terminals
        self._make_outputs = outputs
        self._at_rest = at_rest
        self._terminals: TerminalsLike | None = None
        self._outputs: OutputsLike | None = None
        self._open: dict[str, bool] = {}
        self._spared: frozenset[str] = frozenset()

    @property
    def terminals(self) -> TerminalsLike:
        """The terminals."""
        if self._terminals is None:
            self._terminals = self._make_terminals()
        return self._terminals

    @property
    def outputs(self) -> OutputsLike:
        """The files."""
        if self._outputs is None:
            self._outputs = self._make_outputs()
        return self._outputs

    @property
    def open_terminals(self) -> int:
        """Terminals held now."""
        return sum(self._open.values())

    async def open(self, spec: AgentSpec, folder: AgentFolder) -> str:
        """Ready to take what a new run of an agent prints; returns its terminal's path, or nothing."""
        path = ""
        if spec.tty:
            path = await self.terminals.open(spec, folder)
        else:
            self.outputs.open(spec, folder)
            if self.outputs.facts(spec.id).end:
                self.outputs.restarted(spec.id)
        self._open[spec.id] = spec.tty
        return path

    def restore(self, spec: AgentSpec, folder: AgentFolder) -> bool:
        """Take up again what an earlier process of this daemon held; False where it is gone."""
        if not spec.tty:
            self.outputs.open(spec, folder)
        elif not self.terminals.restore(spec, folder):
            return False
        self._open[spec.id] = spec.tty
        return True

    def spare(self, agents: Collection[str]) -> None:
        """Nothing is known of these agents, and what is kept for them stays."""
        self._spared = frozenset(agents)

    def sweep(self) -> None:
        """All were restored: let go of what was kept for nobody."""
        self.terminals.sweep(self._spared)

    def started(self, agent: str) -> None:
        """Its program holds its own ends now."""
        if self._open.get(agent):
            self.terminals.started(agent)

    def rearm(self, agent: str) -> None:
        """The init system has started it anew."""
        tty = self._open.get(agent)
        if tty:
            self.terminals.rearm(agent)
        elif tty is not None:
            self.outputs.restarted(agent)

    async def finish(self, agent: str) -> None:
        """All of it has ended: return when every byte is in the record, and let go."""
        tty = self._open.get(agent)
        if tty is None:
            return
        try:
            if tty:
                await self.terminals.drained(agent)
            else:
                await self.outputs.drained(agent)
                self.outputs.ended(agent)
        finally:
            self.close(agent)

    def close(self, agent: str) -> None:
        """Let go; not open is fine."""
        tty = self._open.pop(agent, None)
        if tty is not None:
            (self.terminals if tty else self.outputs).close(agent)

    def tell_ended(self, agent: Agent) -> None:
        """Viewers get their last message."""
        if agent.spec.tty and self._terminals is not None:
            self._terminals.ended(agent.id, agent)

    def facts(self, spec: AgentSpec, folder: AgentFolder) -> Facts:
        """What is held of its output now."""
        tty = self._open.get(spec.id)
        held = self.terminals.facts(spec.id) if tty else None
        if held is not None:
            return held
        return self.outputs.facts(spec.id) if tty is False else self._at_rest(folder, spec.tty)

    def screen(self, agent: str) -> ScreenFacts | None:
        """Who looks at its terminal, and its size; None where none is held."""
        return self.terminals.facts(agent) if self._open.get(agent) else None

    async def stop(self) -> None:
        """The daemon ends: what is stored stays stored."""
        if self._terminals is not None:
            await self._terminals.stop()
        if self._outputs is not None:
            await self._outputs.stop()
