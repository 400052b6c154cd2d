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
from sessiond.supervisor.discovered.merging import UNTOLD
from sessiond.supervisor.forwarding import DaemonStatus

# A daemon that does not answer by then leaves its agent unknown.
_PATIENCE = 2.0
_AT_ONCE = 8

Ask = Callable[[str], Awaitable[Life]]


class AgentLives:
    """What was last heard of agents, by `SESSION-AGENT`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.known: dict[str, Life] = {}

    async def look(self, marks: Iterable[str]) -> None:
        """Ask about these; what was known of others is forgotten, they are told by adapters now."""
        wanted = list(dict.fromkeys(marks))
        heard = await asyncio.gather(*map(self._one, wanted))
        self.known.clear()
        self.known.update(zip(wanted, heard, strict=True))

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
