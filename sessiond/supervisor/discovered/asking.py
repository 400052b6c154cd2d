"""Whether agents live whose conversation no adapter tells of: asked of who answers for the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from sessiond.errors import NotFound, SessiondError
from sessiond.model.agent import AgentState
from sessiond.model.agent_session import STOPPED, Life
from sessiond.model.conversation import split_mark
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import state_from_wire
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.discovered.background import Background
from sessiond.supervisor.discovered.merging import UNTOLD
from sessiond.supervisor.forwarding import DaemonStatus

# A daemon that does not answer by then leaves its agent unknown.
_PATIENCE = 2.0
_AT_ONCE = 8

Ask = Callable[[str], Awaitable[Life]]
Wait = Callable[[str], Awaitable[None]]


class AgentLives:
    """What was last heard of agents, by `SESSION-AGENT`."""

    def __init__(self, ask: Ask, wait: Wait, background: Background, ended: Callable[[], None]) -> None:
        """``wait`` returns when an agent has ended; ``ended`` is called then for those that lived."""
        self._ask = ask
        self._wait = wait
        self._background = background
        self._ended = ended
        self._awaited: set[str] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.known: dict[str, Life] = {}

    async def look(self, marks: Iterable[str]) -> None:
        """Ask about these; what was known of others is forgotten, they are told by adapters now."""
        wanted = list(dict.fromkeys(marks))
        heard = await asyncio.gather(*map(self._one, wanted))
        self.known.clear()
        self.known.update(zip(wanted, heard, strict=True))
        for mark, life in self.known.items():
            if life.alive and mark not in self._awaited:
                self._awaited.add(mark)
                self._background.start(self._await(mark), f"end of agent {mark}")

    async def _await(self, mark: str) -> None:
        """Have its end heard of when it comes: no adapter sees a process of it that could end."""
        try:
            await self._wait(mark)
        finally:
            self._awaited.discard(mark)
        self._ended()

    async def _one(self, mark: str) -> Life:
        async with self._room:
            return await self._ask(mark)


def asking(calls: Callable[[], AgentCalls]) -> Ask:
    """How the supervisor asks: as any client asks about an agent."""

    async def ask(mark: str) -> Life:
        session, agent = split_mark(mark)
        request = pb.GetAgentRequest(session=session, agent=agent).SerializeToString()
        try:
            async with asyncio.timeout(_PATIENCE):
                raw = await calls().unary("GetAgent", request, _PATIENCE)
        except NotFound:
            return STOPPED
        except TimeoutError:
            return Life(alive=None, reason="its session's daemon does not answer", mark=mark)
        except DaemonStatus as status:
            return _failed(status.error(), mark)
        except SessiondError as error:
            return _failed(error, mark)
        return life_of(pb.GetAgentResponse.FromString(raw).agent, mark)

    return ask


def waiting(calls: Callable[[], AgentCalls]) -> Wait:
    """How the supervisor waits: as any client does."""

    async def wait(mark: str) -> None:
        session, agent = split_mark(mark)
        request = pb.WaitAgentRequest(session=session, agent=agent).SerializeToString()
        try:
            await calls().unary("WaitAgent", request, None)
        except DaemonStatus as status:
            raise status.error() from status

    return wait


def life_of(agent: pb.Agent, mark: str) -> Life:
    """What an agent's state says of the conversation that it was launched as."""
    state = state_from_wire(agent.state)
    if state.ended:
        return STOPPED
    if state is AgentState.UNKNOWN:
        return Life(alive=None, reason="the state of its agent is not known", mark=mark)
    return Life(alive=True, reason=UNTOLD, pid=agent.pid or None, mark=mark)


def _failed(error: SessiondError, mark: str) -> Life:
    return STOPPED if isinstance(error, NotFound) else Life(alive=None, reason=error.message, mark=mark)
