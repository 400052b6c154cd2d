"""Calls about agents brought to who can answer them: the session's daemon, or the files of one at rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from sessiond.errors import InvalidArgument, Unreachable
from sessiond.model.state import SessionState
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.supervisor.at_rest import AtRest, not_running
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.forwarding import Daemons, Reached, unreachable

_T = TypeVar("_T")

SERVICE = "sessiond.v1.AgentsService"
# How long a daemon that is on its way up is waited for.
PATIENCE = 10.0
# So often a call that changes nothing is repeated; one that ends its daemon must not end all that follow.
REPEATS = 2


@dataclass(frozen=True, slots=True)
class Method:
    """One call about one agent. ``effect``: it changes something, so it cannot be repeated unseen;
    ``rest``: it can be answered while the daemon does not run; ``names``: its answer holds the agent;
    ``use``: who calls it uses the session."""

    request: type[Any]
    effect: bool = True
    rest: bool = False
    names: bool = True
    use: bool = False


METHODS = {
    "SpawnAgent": Method(pb.SpawnAgentRequest, use=True),
    "GetAgent": Method(pb.GetAgentRequest, effect=False, rest=True),
    "SignalAgent": Method(pb.SignalAgentRequest),
    "StopAgent": Method(pb.StopAgentRequest),
    "KillAgent": Method(pb.KillAgentRequest),
    "PauseAgent": Method(pb.PauseAgentRequest),
    "ResumeAgent": Method(pb.ResumeAgentRequest),
    "RestartAgent": Method(pb.RestartAgentRequest),
    "RemoveAgent": Method(pb.RemoveAgentRequest, rest=True),
    "WaitAgent": Method(pb.WaitAgentRequest, effect=False, rest=True),
    "SendInput": Method(pb.SendInputRequest, names=False),
    "GetScreen": Method(pb.GetScreenRequest, effect=False, rest=True, names=False),
    "ReadOutput": Method(pb.ReadOutputRequest, effect=False, rest=True, names=False),
    "StreamRecord": Method(pb.StreamRecordRequest, effect=False, rest=True),
    "AttachAgent": Method(pb.AttachAgentRequest, use=True),
}
# Where an agent stands in a stream's last message; sent first or not at all in any other.
_ENDED = {
    "StreamRecord": pb.StreamRecordResponse.DESCRIPTOR.fields_by_name["ended"].number,
    "AttachAgent": pb.AttachAgentResponse.DESCRIPTOR.fields_by_name["ended"].number,
}


# What agents of a session do beside their state, by their id, as far as adapters tell.
Activities = Callable[[str], Mapping[str, str]]


def _no_activities(session: str) -> Mapping[str, str]:
    return {}


class AgentCalls:
    """Calls about one agent each, as bytes."""

    def __init__(
        self,
        directory: Directory,
        daemons: Daemons,
        at_rest: AtRest,
        *,
        activities: Activities = _no_activities,
        patience: float = PATIENCE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._directory = directory
        self._daemons = daemons
        self._at_rest = at_rest
        self._patience = patience
        self.activities = activities
        self._now = now

    @asynccontextmanager
    async def daemon(self, session: str) -> AsyncIterator[Reached | None]:
        """A session's daemon once it answers, None where none runs. Waits for one that is on its way up;
        raises Unreachable `daemon_unreachable` where it has not come within the time for it."""
        async with AsyncExitStack() as stack:
            yield await self._enter(stack, session)

    async def _enter(self, stack: AsyncExitStack, session: str) -> Reached | None:
        refused = unreachable(session, f"it does not take calls within {self._patience:g} s")
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    before = self._look(session)
                    if before[0].settled:
                        return None
                    try:
                        return await stack.enter_async_context(self._daemons.reach(session))
                    except Unreachable as error:
                        refused = error
                    if before[0] in (SessionState.STOPPING, SessionState.UNKNOWN):
                        return None
                    # Each life of a daemon is told by the init system after it has begun to serve.
                    await self._directory.changed.until(
                        lambda before=before: self._look(session) != before or None  # type: ignore[misc]
                    )
        except TimeoutError:
            raise refused from None

    def _look(self, session: str) -> tuple[Any, ...]:
        now = self._directory.get(session)
        return now.state, now.unit_status, self._daemons.life(session)

    # ---- one question, one answer

    async def unary(self, name: str, raw: bytes, timeout: float | None) -> bytes:
        """The answer to a call. Raises SessiondError, and DaemonStatus for what the daemon said."""
        method = METHODS[name]
        request = parsed(method.request, raw)
        session = self._directory.resolve(request.session)

        async def ask(daemon: Reached | None, spent: float, again: bool) -> tuple[bytes, bool]:
            if daemon is None:
                return await self._rest(name, session, request), True
            left = None if timeout is None else max(0.0, timeout - spent)
            sent = addressed(_shortened(request, raw, spent) if again else raw, session)
            return await daemon.unary(path(name), sent, timeout=left, effect=method.effect), False

        answer, rested = await self.asked(session, ask, repeats=0 if method.effect else REPEATS)
        if method.use and not rested:
            self._directory.touch(session, self._now())
        if name == "GetAgent":
            answer += self._doing(session, answer)
        return answer + self._named(session) if method.names and not rested else answer

    async def asked(
        self,
        session: str,
        ask: Callable[[Reached | None, float, bool], Awaitable[_T]],
        *,
        repeats: int = REPEATS,
    ) -> _T:
        """What ``ask`` answers, given a session's daemon (or None, see there), the seconds spent until then,
        and whether it was called before: where a daemon went away over a call that changes nothing, its next
        life can be asked as well. Raises as ``daemon`` and ``ask``."""
        began = asyncio.get_running_loop().time()
        for left in range(repeats, -1, -1):
            async with self.daemon(session) as daemon:
                try:
                    return await ask(daemon, asyncio.get_running_loop().time() - began, left < repeats)
                except Unreachable:
                    if daemon is None or not left:
                        raise
        raise AssertionError("the last time returns or raises")

    async def _rest(self, name: str, session: str, request: Any) -> bytes:
        now = self._directory.get(session)
        if not METHODS[name].rest:
            raise not_running(now)
        answer: Message = await self._at_rest.answer(now, request)
        return answer.SerializeToString()

    def _named(self, session: str) -> bytes:
        """What an answer's agent lacks, to be put behind it: an embedded message may come in pieces."""
        agent = pb.Agent(session_name=self._directory.get(session).identity.name)
        return pb.GetAgentResponse(agent=agent).SerializeToString()

    def _doing(self, session: str, answer: bytes) -> bytes:
        """What an adapter tells of the agent in an answer, to be put behind it."""
        # Most agents are no program that an adapter knows: their answers are not read.
        activities = self.activities(session)
        if not activities:
            return b""
        agent = pb.GetAgentResponse.FromString(answer).agent
        doing = pb.Agent(activity=activities.get(agent.id, ""))
        return pb.GetAgentResponse(agent=doing).SerializeToString()

    # ---- streams

    async def record(self, raw: bytes, timeout: float | None) -> AsyncGenerator[bytes, None]:
        """The messages of StreamRecord. Raises as ``unary``."""
        request = parsed(pb.StreamRecordRequest, raw)
        session = self._directory.resolve(request.session)
        async with self.daemon(session) as daemon:
            if daemon is not None:
                responses = daemon.responses(path("StreamRecord"), addressed(raw, session), timeout=timeout)
                async with aclosing(responses):
                    async for response in responses:
                        yield self._with_name("StreamRecord", session, response)
                return
        async with aclosing(self._at_rest.record(self._directory.get(session), request)) as kept:
            async for message in kept:
                yield message.SerializeToString()

    async def attach(
        self, requests: AsyncIterator[bytes], timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        """The messages of AttachAgent. Raises as ``unary``."""
        first = await anext(requests, None)
        if first is None:
            raise InvalidArgument(
                "attach_start_missing",
                "the first message must be a start, and none came",
                hint="send start, with session and agent, before anything else",
            )
        session = self._directory.resolve(parsed(pb.AttachAgentRequest, first).session)
        async with self.daemon(session) as daemon:
            if daemon is None:
                raise not_running(self._directory.get(session))
            self._directory.touch(session, self._now())
            sent = _preceded(addressed(first, session), requests)
            responses = daemon.conversation(path("AttachAgent"), sent, timeout=timeout)
            async with aclosing(responses):
                async for response in responses:
                    yield self._with_name("AttachAgent", session, response)

    def _with_name(self, name: str, session: str, response: bytes) -> bytes:
        """A message of a stream; one that ends it holds the agent."""
        number = _ENDED[name]
        if not has_field(response, number):
            return response
        agent = pb.Agent(session_name=self._directory.get(session).identity.name).SerializeToString()
        return response + _varint(number << 3 | 2) + _varint(len(agent)) + agent


def _shortened(request: Any, raw: bytes, spent: float) -> bytes:
    """A request after some seconds in which nobody answered: a wait has so much less to go."""
    if not isinstance(request, pb.WaitAgentRequest) or not request.HasField("timeout"):
        return raw
    shorter = pb.WaitAgentRequest()
    shorter.CopyFrom(request)
    shorter.timeout.FromNanoseconds(max(0, request.timeout.ToNanoseconds() - round(spent * 1e9)))
    return shorter.SerializeToString()


# ---- messages as bytes ----------------------------------------------------------------------


def path(name: str) -> str:
    """What a method is called by."""
    return f"/{SERVICE}/{name}"


def parsed(kind: type[Any], raw: bytes) -> Any:
    """A request read; raises InvalidArgument `request_invalid`."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(
            "request_invalid",
            f"these bytes are no {kind.DESCRIPTOR.name}",
            hint="client and supervisor must be of the same release",
        ) from error


def addressed(raw: bytes, session: str) -> bytes:
    """A request with the session's id in its first field: of a field that comes twice the last counts."""
    return raw + pb.GetAgentRequest(session=session).SerializeToString()


def has_field(raw: bytes, number: int) -> bool:
    """Whether a message holds a field; looks at the fields' heads alone, and gives up at what is none."""
    position, size = 0, len(raw)
    while position < size:
        tag, position = _read_varint(raw, position)
        if tag >> 3 == number:
            return True
        match tag & 7:
            case 0:
                _, position = _read_varint(raw, position)
            case 1:
                position += 8
            case 2:
                length, position = _read_varint(raw, position)
                position += length
            case 5:
                position += 4
            case _:
                return False
    return False


def _read_varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(position, len(raw)):
        value |= (raw[index] & 0x7F) << shift
        if raw[index] < 0x80:
            return value, index + 1
        shift += 7
    return value, len(raw)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


async def _preceded(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for one in rest:
        yield one
