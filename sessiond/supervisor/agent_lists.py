"""Listings and batches over the agents of many sessions: asked of each, answered as one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.agent import AgentState
from sessiond.model.agent_selection import find
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import selection_from_wire, state_from_wire
from sessiond.supervisor.agents import AgentCalls, addressed, parsed, path
from sessiond.supervisor.at_rest import AtRest
from sessiond.supervisor.directory import Directory, Filter
from sessiond.supervisor.forwarding import DaemonStatus, Reached

log = logging.getLogger(__name__)

# A listing of all sessions answers within this, with what it has.
LISTING = 5.0

SKIPPED = "skipped"


class AgentLists:
    """ListAgents and BatchAgents."""

    def __init__(
        self, directory: Directory, calls: AgentCalls, at_rest: AtRest, *, seconds: float = LISTING
    ) -> None:
        self._directory = directory
        self._calls = calls
        self._at_rest = at_rest
        self._seconds = seconds

    # ---- listing

    async def listing(self, raw: bytes, timeout: float | None) -> pb.ListAgentsResponse:
        """Agents of one session or of all. Raises SessiondError and DaemonStatus for a session named alone;
        of many, those that give no answer are told."""
        request = parsed(pb.ListAgentsRequest, raw)
        selection_from_wire(request.selection)
        if request.session:
            session = self._directory.resolve(request.session)
            asked = pb.ListAgentsRequest()
            asked.CopyFrom(request)
            _keep_words(asked.selection, self._plain_words(session, request.selection.agents))
            return await self._list_one(session, asked, timeout)
        return await self._list_many(request)

    async def _list_one(
        self, session: str, request: pb.ListAgentsRequest, timeout: float | None
    ) -> pb.ListAgentsResponse:
        async def ask(daemon: Reached | None, spent: float, again: bool) -> pb.ListAgentsResponse:
            if daemon is None:
                agents = await self._at_rest.listing(self._directory.get(session), request)
                return pb.ListAgentsResponse(agents=agents)
            left = None if timeout is None else max(0.0, timeout - spent)
            answer = await _asked(daemon, "ListAgents", session, request, timeout=left, effect=False)
            response = pb.ListAgentsResponse.FromString(answer)
            self._name(session, response.agents)
            return response

        response = await self._calls.asked(session, ask)
        self._tell_activities(session, response.agents)
        return response

    async def _list_many(self, request: pb.ListAgentsRequest) -> pb.ListAgentsResponse:
        words = self._words(request.selection.agents)
        sessions = await self._sessions(words)
        asked = pb.ListAgentsRequest()
        asked.CopyFrom(request)
        if words is not None:
            # A word need not mean an agent of each session, which a daemon would call a mistake.
            _keep_words(asked.selection, ())
            asked.selection.include_ended = True

        async def one(session: str) -> Sequence[pb.Agent]:
            response = await self._list_one(session, asked, None)
            rows = list(response.agents)
            return rows if words is None else _meant(words.of(session), rows)

        outcomes = await _all({session: one(session) for session in sessions}, self._seconds)
        response = pb.ListAgentsResponse()
        for session, outcome in outcomes.items():
            if isinstance(outcome, SessiondError):
                response.unanswered.append(self._unanswered(session, outcome))
            else:
                response.agents.extend(outcome)
        response.agents.sort(key=_order)
        return response

    # ---- batches

    async def batch(self, raw: bytes, timeout: float | None) -> pb.BatchAgentsResponse:
        """One thing done to all agents selected. Raises as ``listing``, and InvalidArgument
        `selection_empty`, `action_invalid`, NotFound `agent_not_found`."""
        request = parsed(pb.BatchAgentsRequest, raw)
        selection = selection_from_wire(request.selection)
        if request.session:
            session = self._directory.resolve(request.session)
            asked = pb.BatchAgentsRequest()
            asked.CopyFrom(request)
            _keep_words(asked.selection, self._plain_words(session, request.selection.agents))
            return await self._batch_one(session, asked, timeout)
        if selection.empty:
            raise InvalidArgument(
                "selection_empty",
                "neither a session nor agents are named",
                hint="name agents, a group, a label, states or a session",
            )
        if request.action not in pb.BatchAction.values() or not request.action:
            raise InvalidArgument(
                "action_invalid",
                f"no action has the number {request.action}",
                hint="one of BatchAction, and not BATCH_ACTION_UNSPECIFIED",
            )
        return await self._batch_many(request, timeout)

    async def _batch_one(
        self, session: str, request: pb.BatchAgentsRequest, timeout: float | None
    ) -> pb.BatchAgentsResponse:
        async with self._calls.daemon(session) as daemon:
            if daemon is None:
                return await self._at_rest.batch(self._directory.get(session), request)
            answer = await _asked(daemon, "BatchAgents", session, request, timeout=timeout, effect=True)
        response = pb.BatchAgentsResponse.FromString(answer)
        self._name(session, (result.agent for result in response.results))
        return response

    async def _batch_many(
        self, request: pb.BatchAgentsRequest, timeout: float | None
    ) -> pb.BatchAgentsResponse:
        """Find out which agents are meant, then have each session do it to its own."""
        listing = await self._list_many(pb.ListAgentsRequest(selection=request.selection))
        words = self._words(request.selection.agents)
        if words is not None:
            words.check(listing)
        found: dict[str, list[pb.Agent]] = {}
        for agent in listing.agents:
            found.setdefault(agent.session, []).append(agent)

        async def one(session: str) -> pb.BatchAgentsResponse:
            asked = pb.BatchAgentsRequest()
            asked.CopyFrom(request)
            asked.selection.Clear()
            asked.selection.agents.extend(agent.id for agent in found[session])
            return await self._batch_one(session, asked, timeout)

        response = pb.BatchAgentsResponse(unanswered=listing.unanswered)
        if not request.fail_fast:
            outcomes = await _all({session: one(session) for session in found}, None)
            for session, outcome in outcomes.items():
                response.results.extend(_results(found[session], outcome))
            return response
        failed = bool(listing.unanswered)
        for session, agents in found.items():
            if failed:
                skipped = SessiondError(SKIPPED, "another one failed before")
                response.results.extend(_results(agents, skipped))
                continue
            [outcome] = (await _all({session: one(session)}, None)).values()
            results = _results(agents, outcome)
            response.results.extend(results)
            failed = any(result.code for result in results)
        return response

    # ---- sessions and words

    async def _sessions(self, words: _Words | None) -> list[str]:
        """Sessions that hold agents, running or not; with words only those that one of them may mean."""
        known = dict.fromkeys(row.id for row in self._directory.list(Filter(archived=True)))
        wanted = [session for session in known if words is None or words.of(session)]
        return await self._at_rest.with_agents(wanted)

    def _words(self, words: Sequence[str]) -> _Words | None:
        """Words for agents of any session; None without any."""
        if not words:
            return None
        plain = tuple(word for word in words if "/" not in word)
        named: dict[str, list[str]] = {}
        for word in words:
            if "/" in word:
                session, _, agent = word.rpartition("/")
                named.setdefault(self._directory.resolve(session), []).append(agent)
        return _Words(plain, {session: tuple(agents) for session, agents in named.items()})

    def _plain_words(self, session: str, words: Sequence[str]) -> list[str]:
        """Words for agents of one session, without its own name before them."""
        return [self._plain_word(session, word) for word in words]

    def _plain_word(self, session: str, word: str) -> str:
        if "/" not in word:
            return word
        owner, _, agent = word.rpartition("/")
        if self._directory.resolve(owner) != session:
            raise InvalidArgument(
                "agent_elsewhere",
                f"{word} is no agent of the session named",
                hint="leave out the session, or name agents of it alone",
                fields={"agent": word, "session": session},
            )
        return agent

    def _name(self, session: str, agents: Iterable[pb.Agent]) -> None:
        name = self._directory.get(session).identity.name
        for agent in agents:
            agent.session_name = name

    def _tell_activities(self, session: str, agents: Iterable[pb.Agent]) -> None:
        """Say beside the state what adapters tell that agents do."""
        activities = self._calls.activities(session)
        if activities:
            for agent in agents:
                agent.activity = activities.get(agent.id, agent.activity)

    def _unanswered(self, session: str, error: SessiondError) -> pb.Unanswered:
        name = ""
        try:
            name = self._directory.get(session).identity.name
        except NotFound:
            log.debug("session %s was deleted while it was asked", session)
        return pb.Unanswered(session=session, session_name=name, code=error.code, reason=error.message)


@dataclass(frozen=True, slots=True)
class _Words:
    """Words that mean agents of any session, and such that mean agents of one."""

    plain: tuple[str, ...]
    named: Mapping[str, tuple[str, ...]]

    def of(self, session: str) -> tuple[str, ...]:
        """Words that may mean an agent of this session."""
        return self.plain + self.named.get(session, ())

    def check(self, listing: pb.ListAgentsResponse) -> None:
        """Raise NotFound `agent_not_found` for a word that means none, where all sessions were asked."""
        asked = {one.session for one in listing.unanswered}
        found: dict[str, list[pb.Agent]] = {}
        for agent in listing.agents:
            found.setdefault(agent.session, []).append(agent)
        for word in self.plain:
            if not asked and not any(_meant((word,), rows) for rows in found.values()):
                raise _no_agent(word)
        for session, words in self.named.items():
            for word in words:
                if session not in asked and not _meant((word,), found.get(session, [])):
                    raise _no_agent(word)


def _no_agent(word: str) -> NotFound:
    return NotFound(
        "agent_not_found",
        f"no agent {word[:80]!r}",
        hint="sessionctl ps -a",
        fields={"agent": word[:80]},
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A message as the rule on words sees an agent."""

    message: pb.Agent

    @property
    def id(self) -> str:
        return self.message.id

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def spec(self) -> _Row:
        return self

    @property
    def state(self) -> AgentState:
        return state_from_wire(self.message.state)


def _meant(words: Iterable[str], agents: Sequence[pb.Agent]) -> list[pb.Agent]:
    """Those of one session's agents that the words mean, in their order. A word may mean none here."""
    rows = [_Row(agent) for agent in agents]
    ids = set()
    for word in words:
        try:
            ids.add(find(word, cast("Any", rows)).id)
        except NotFound:
            continue
    return [agent for agent in agents if agent.id in ids]


def _keep_words(selection: pb.AgentSelection, words: Iterable[str]) -> None:
    selection.ClearField("agents")
    selection.agents.extend(words)


def _order(agent: pb.Agent) -> tuple[str, str, int, int, str]:
    created = agent.created_at
    return agent.session_name, agent.session, created.seconds, created.nanos, agent.id


def _results(
    agents: Sequence[pb.Agent], outcome: pb.BatchAgentsResponse | SessiondError
) -> Sequence[pb.BatchResult]:
    """A result for each agent, also where its session failed as a whole."""
    if isinstance(outcome, SessiondError):
        return [pb.BatchResult(agent=one, code=outcome.code, message=outcome.message) for one in agents]
    return outcome.results


async def _asked(
    daemon: Reached, name: str, session: str, request: Any, *, timeout: float | None, effect: bool
) -> bytes:
    raw = addressed(request.SerializeToString(), session)
    return await daemon.unary(path(name), raw, timeout=timeout, effect=effect)


async def _all(
    questions: Mapping[str, Awaitable[Any]], seconds: float | None
) -> dict[str, Any | SessiondError]:
    """The outcome of each question; one that is not answered in time is called so, and broken off."""
    tasks = {key: asyncio.ensure_future(_outcome(one)) for key, one in questions.items()}
    try:
        if tasks:
            await asyncio.wait(tasks.values(), timeout=seconds)
    finally:
        late = [task for task in tasks.values() if not task.done()]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
    return {key: _late(seconds) if task.cancelled() else task.result() for key, task in tasks.items()}


def _late(seconds: float | None) -> SessiondError:
    return SessiondError("call_timeout", f"no answer within {seconds or 0:g} s")


async def _outcome(question: Awaitable[Any]) -> Any | SessiondError:
    try:
        return await question
    except DaemonStatus as status:
        return status.error()
    except SessiondError as error:
        return error
