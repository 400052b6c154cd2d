"""Agents of sessions whose daemon does not run: told from their folder, and from units still there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sessiond.agents.book import Book, Kept, boot_id, forget_session, lost_end
from sessiond.agents.folder import AGENTS, AgentFolder
from sessiond.errors import Conflict, InvalidArgument, SessiondError
from sessiond.model.agent import Agent, AgentState, AgentUnit, derive_agent, ended_by, has_ended
from sessiond.model.agent_selection import find, select
from sessiond.model.session import Session
from sessiond.model.state import SessionState
from sessiond.model.unit import agent_of_unit
from sessiond.paths import Paths, private_folder
from sessiond.ports import AgentUnits
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc.agent_codec import agent_states_from_wire, agent_to_wire, selection_from_wire
from sessiond.rpc.lock import SocketLock
from sessiond.supervisor.forwarding import unreachable
from sessiond.supervisor.rest_output import RestOutput

log = logging.getLogger(__name__)

_ENDED = frozenset(state for state in AgentState if state.ended)
# Each question to the init system is a connection of its own; many sessions may be asked for at once.
_ASKED_AT_ONCE = 4

UnitsOf = Callable[[str], AgentUnits]


class AtRest:
    """Reads what is kept; writes nothing but the removal of an agent that has ended."""

    def __init__(self, paths: Paths, units: UnitsOf, output: RestOutput) -> None:
        """``units`` gives the agents' units of a session, to be closed by who asked."""
        self._paths = paths
        self._units = units
        self._output = output
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)

    def _book(self, session: str) -> Book:
        return Book(session, self._paths.session_state(session), self._paths.runtime)

    async def with_agents(self, sessions: Iterable[str]) -> list[str]:
        """Those of the sessions whose folder holds agents, whether their daemon runs or not."""
        asked = list(sessions)
        return await asyncio.to_thread(lambda: [one for one in asked if self._holds_any(one)])

    def _holds_any(self, session: str) -> bool:
        try:
            with os.scandir(self._paths.session_state(session) / AGENTS) as entries:
                return any(True for _ in entries)
        except FileNotFoundError:
            return False
        except OSError:
            # Who reads it all says what is wrong with it.
            return True

    # ---- agents

    async def agents(self, session: Session) -> list[Agent]:
        """All agents of a session, oldest first."""
        kept, skipped = await asyncio.to_thread(self._book(session.id).load)
        for one in skipped:
            log.warning("%s holds no agent that can be read: %s", one.path, one.reason)
        unfinished = [one for one in kept.values() if one.end is None]
        units: Mapping[str, AgentUnit] | None = {}
        manager = ""
        if unfinished:
            units, manager = await self._ask_units(session)
            # An end is written before its unit is let go of: read after, it cannot be missed.
            kept, _ = await asyncio.to_thread(self._book(session.id).load)
        rows = [_joined(one, units, manager, session.identity.name) for one in kept.values()]
        return await asyncio.to_thread(self._with_facts, rows)

    def _with_facts(self, rows: Sequence[Agent]) -> list[Agent]:
        """The same with how much of their output there is."""
        found = []
        for row in rows:
            try:
                facts = self._output.facts(row.spec, self._folder(row))
            except SessiondError as error:
                # Files that cannot be read must take nobody out of the list.
                log.warning("what %s printed is not told: %s", row.spec.name, error.message)
                found.append(row)
                continue
            problem = "" if row.state.ended else facts.problem
            found.append(
                replace(row, record_start=facts.start, record_bytes=facts.end, recording_problem=problem)
            )
        return found

    async def _ask_units(self, session: Session) -> tuple[Mapping[str, AgentUnit] | None, str]:
        """Units that are loaded, by agent, and this run of the manager; None where nobody tells."""
        if session.state is SessionState.UNKNOWN:
            return None, ""
        async with self._asking:
            units = self._units(session.id)
            try:
                listed = await units.list()
                manager = await units.manager()
            except SessiondError as error:
                log.warning("what agents of %s do is not known: %s", session.identity.name, error.message)
                return None, ""
            finally:
                await units.close()
        found = {}
        for unit in listed:
            owner = agent_of_unit(unit.name)
            if owner is not None:
                found[owner[1]] = unit
        return found, manager

    async def listing(self, session: Session, request: pb.ListAgentsRequest) -> Sequence[pb.Agent]:
        """Those that a listing asks for."""
        found = select(selection_from_wire(request.selection), await self.agents(session))
        return [agent_to_wire(one) for one in found]

    # ---- the end of a session

    async def leave(self, session: Session, deed: str) -> None:
        """Have the init system hold nothing of a stopped session's agents: what has ended is let go of.

        Raises Conflict `agents_running`, and Unreachable `init_unavailable` where nobody can tell.
        """
        if not await self.with_agents([session.id]):
            return
        async with self._asking:
            units = self._units(session.id)
            try:
                listed = await units.list()
                running = [unit for unit in listed if not has_ended(unit)]
                if running:
                    raise _still_running(session, deed, len(running))
                for unit in listed:
                    owner = agent_of_unit(unit.name)
                    if owner is not None:
                        await units.release(owner[1])
            finally:
                await units.close()

    async def forget(self, session: str) -> None:
        """Remove what lies of its agents outside its own folder."""
        await asyncio.to_thread(forget_session, session, self._paths.runtime)

    # ---- one question, one answer

    async def answer(self, session: Session, request: Any) -> Any:
        """The answer to a call about one agent that needs no daemon."""
        match request:
            case pb.GetAgentRequest():
                return pb.GetAgentResponse(agent=agent_to_wire(await self._find(session, request.agent)))
            case pb.RemoveAgentRequest():
                agent = await self._find(session, request.agent)
                await self._remove(session, agent)
                return pb.RemoveAgentResponse(agent=agent_to_wire(agent))
            case pb.WaitAgentRequest():
                states = agent_states_from_wire(request.states) or _ENDED
                agent = self._reached(session, await self._find(session, request.agent), states)
                return pb.WaitAgentResponse(agent=agent_to_wire(agent))
            case pb.GetScreenRequest():
                agent = await self._find(session, request.agent)
                return await self._output.screen(agent.spec, self._folder(agent), request)
            case pb.ReadOutputRequest():
                agent = await self._find(session, request.agent)
                return await self._output.lines(agent.spec, self._folder(agent), request)
        raise not_running(session)

    async def record(
        self, session: Session, request: pb.StreamRecordRequest
    ) -> AsyncGenerator[pb.StreamRecordResponse, None]:
        """An agent's output as it was recorded; one that may still grow cannot be followed from here."""
        agent = await self._find(session, request.agent)
        if request.follow and not agent.state.ended:
            raise not_running(session)
        async with aclosing(self._output.pieces(agent.spec, self._folder(agent), request)) as pieces:
            async for piece in pieces:
                yield piece
        if agent.state.ended:
            yield pb.StreamRecordResponse(ended=agent_to_wire(agent))

    def _folder(self, agent: Agent) -> AgentFolder:
        return self._book(agent.spec.session).folder(agent.id)

    async def _find(self, session: Session, word: str) -> Agent:
        return find(word, await self.agents(session))

    def _reached(self, session: Session, agent: Agent, states: frozenset[AgentState]) -> Agent:
        """The agent, where waiting for one of the states is over."""
        if agent.state in states:
            return agent
        if agent.state.ended:
            raise Conflict(
                "agent_ended",
                f"{agent.spec.name} is {agent.state} and its session does not run",
                hint=f"sessionctl restart {session.identity.name}/{agent.spec.name}",
                fields={"session": session.id, "agent": agent.id, "state": agent.state},
            )
        raise not_running(session)

    async def _remove(self, session: Session, agent: Agent) -> None:
        if not agent.state.ended:
            raise not_running(session)
        if agent.unit is not None:
            await self._release(session.id, agent.id)
        await asyncio.to_thread(self._remove_files, session, agent.id)

    async def _release(self, session: str, agent: str) -> None:
        units = self._units(session)
        try:
            await units.release(agent)
        finally:
            await units.close()

    def _remove_files(self, session: Session, agent: str) -> None:
        # A daemon that comes up meanwhile would keep an agent that is gone.
        socket = self._paths.session_socket(session.id)
        private_folder(self._paths.runtime)
        private_folder(socket.parent)
        with SocketLock(socket.with_suffix(".lock"), f"session {session.id}"):
            self._book(session.id).remove(agent)

    # ---- batches

    async def batch(self, session: Session, request: pb.BatchAgentsRequest) -> pb.BatchAgentsResponse:
        """A batch: what has ended can be removed and waited for, and needs no stopping."""
        if request.action not in pb.BatchAction.values() or not request.action:
            raise InvalidArgument(
                "action_invalid",
                f"no action has the number {request.action}",
                hint="one of BatchAction, and not BATCH_ACTION_UNSPECIFIED",
            )
        response = pb.BatchAgentsResponse()
        failed = False
        for agent in select(selection_from_wire(request.selection), await self.agents(session)):
            result = response.results.add(agent=agent_to_wire(agent))
            if failed and request.fail_fast:
                result.code, result.message = "skipped", "another one failed before"
                continue
            try:
                await self._act(session, agent, request.action)
            except SessiondError as error:
                result.code, result.message = error.code, error.message
                failed = True
        return response

    async def _act(self, session: Session, agent: Agent, action: int) -> None:
        if not agent.state.ended or action == pb.BATCH_ACTION_RESTART:
            raise not_running(session)
        if action == pb.BATCH_ACTION_REMOVE:
            await self._remove(session, agent)
        elif action in (pb.BATCH_ACTION_SIGNAL, pb.BATCH_ACTION_PAUSE, pb.BATCH_ACTION_RESUME):
            raise Conflict(
                "agent_not_running",
                f"{agent.spec.name} is {agent.state}",
                hint="sessionctl ps -a",
                fields={"agent": agent.id, "state": agent.state},
            )


def _joined(kept: Kept, units: Mapping[str, AgentUnit] | None, manager: str, session_name: str) -> Agent:
    """One agent of what is kept and of what its unit says; ``units`` is None where nobody tells."""
    spec, end = kept.spec, kept.end
    unit = units.get(spec.id) if units is not None and end is None else None
    if end is None and units is not None and unit is None:
        # Not written down: its daemon does that when it comes back, and acts upon it.
        end = replace(lost_end(spec, boot=boot_id(), manager=manager), asked=kept.asked)
    asked = kept.asked or (unit is not None and ended_by(unit, kept.sent, spec.stop_signal))
    return Agent(
        spec=spec,
        state=derive_agent(unit, end, reachable=units is not None, asked=asked),
        unit=unit,
        end=end,
        session_name=session_name,
        columns=spec.columns if spec.tty else 0,
        rows=spec.rows if spec.tty else 0,
    )


def _still_running(session: Session, deed: str, count: int) -> Conflict:
    name = session.identity.name
    return Conflict(
        "agents_running",
        f"{name} cannot be {deed}: its daemon does not run, but {count} of its agents do",
        hint=f"sessionctl stop {name}",
        fields={"session": session.id, "name": name},
    )


def not_running(session: Session) -> SessiondError:
    """The error of a call that needs the daemon of a session that has none now."""
    name = session.identity.name
    if session.state is SessionState.UNKNOWN:
        return unreachable(session.id, "the init system does not answer either")
    return Conflict(
        "session_not_running",
        f"{name} is {session.state}, and this needs its daemon",
        hint=f"sessionctl start {name}",
        fields={"session": session.id, "name": name, "state": session.state},
    )
