"""Going on with conversations: typed to where they run in a terminal of ours, started again where they are
stopped, taken over where somebody started them by hand."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from sessiond.errors import Conflict, InvalidArgument, NotFound
from sessiond.model.agent_session import AgentSessionStatus, Key, Wish
from sessiond.model.conversation import AgentSession
from sessiond.rpc._generated.v1 import agents_pb2 as agents
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.discovered.launching import Launched, Launching
from sessiond.supervisor.forwarding import DaemonStatus

# Programs take what comes in one piece with Enter for pasted text: the key comes after they have read.
_ENTER_AFTER_MS = 300


@dataclass(frozen=True, slots=True)
class Wanted:
    """How somebody wants to go on; ``stop_timeout`` in seconds."""

    prompt: str = ""
    model: str = ""
    print: bool = False
    take_over: bool = False
    stop_timeout: float = 10.0


class Resuming:
    """One at a time for each conversation: two who go on with it at once do not both start it."""

    def __init__(
        self, known: Discovered, launching: Launching, calls: AgentCalls, directory: Directory
    ) -> None:
        self._known = known
        self._launching = launching
        self._calls = calls
        self._directory = directory
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    async def resume(
        self, word: str, spawn: agents.SpawnAgentRequest, wanted: Wanted, timeout: float | None
    ) -> Launched:
        """Go on with the one that a word means. Raises what ResumeAgentSession tells of."""
        row = await self._known.find(word)
        lock = self._locks.setdefault(row.key, asyncio.Lock())
        async with lock:
            row = await self._known.anew(row)
            if row.stale:
                raise _cannot_tell(row, "its adapter fails at the moment")
            if row.status is AgentSessionStatus.UNKNOWN:
                raise _cannot_tell(row, row.found.life.reason)
            if not row.status.live:
                return await self._start(row, spawn, wanted, timeout)
            if row.found.life.mark:
                return await self._talk(row, wanted, timeout)
            if not wanted.take_over:
                raise _live(row)
            pid = row.found.life.pid
            if pid is None:
                raise _cannot_tell(row, "the process that has it open is not known")
            # Checked before anything is ended: what cannot be resumed is better left running.
            self._place(row, spawn)
            await self._known.finder.end(row.found.adapter, row.found, wanted.stop_timeout)
            row = await self._known.anew(row)
            if row.status.live:
                raise _live(row)
            launched = await self._start(row, spawn, wanted, timeout)
            return replace(launched, ended_pid=pid)

    # ---- what runs here

    async def _talk(self, row: AgentSession, wanted: Wanted, timeout: float | None) -> Launched:
        """Type the prompt into the terminal of the agent that has it open."""
        agent = await self._agent(row, timeout)
        [row] = await self._known.names.named([row])
        if not wanted.prompt:
            return Launched(agent, row)
        if wanted.print or not agent.tty:
            raise Conflict(
                "agent_session_busy",
                f"{_shown(row)} runs already, as {row.session_name}/{row.agent_name}",
                hint="wait for its end: sessionctl wait, or type into its terminal without --print",
                fields=_fields(row),
            )
        if row.status is not AgentSessionStatus.IDLE:
            raise Conflict(
                "agent_session_busy",
                f"{_shown(row)} is {row.status}" + (f" ({row.activity})" if row.activity else ""),
                hint=f"sessionctl attach {row.session_name}/{row.agent_name}",
                fields=_fields(row),
            )
        request = agents.SendInputRequest(session=row.session, agent=row.agent)
        request.parts.add(paste=wanted.prompt)
        request.parts.add().pause.FromMilliseconds(_ENTER_AFTER_MS)
        request.parts.add(key="Enter")
        await self._call("SendInput", request, timeout)
        return Launched(agent, row, typed=True)

    async def _agent(self, row: AgentSession, timeout: float | None) -> agents.Agent:
        request = agents.GetAgentRequest(session=row.session, agent=row.agent)
        return agents.GetAgentResponse.FromString(await self._call("GetAgent", request, timeout)).agent

    async def _call(
        self, name: str, request: agents.GetAgentRequest | agents.SendInputRequest, timeout: float | None
    ) -> bytes:
        try:
            return await self._calls.unary(name, request.SerializeToString(), timeout)
        except DaemonStatus as status:
            raise status.error() from status

    # ---- what is stopped

    async def _start(
        self, row: AgentSession, spawn: agents.SpawnAgentRequest, wanted: Wanted, timeout: float | None
    ) -> Launched:
        if row.pending:
            raise NotFound(
                "agent_session_not_found",
                "it ended before its program told an id to resume it by",
                hint="sessionctl run --adapter begins a new one",
                fields=_fields(row),
            )
        folder = self._place(row, spawn)
        wish = Wish(folder, wanted.prompt, wanted.model, wanted.print, row.found.id, tuple(spawn.command))
        plan = await self._known.finder.resume(row.found.adapter, row.found.id, wish)
        return await self._launching.start(row.found.adapter, spawn, plan, wish, timeout, before=row)

    def _place(self, row: AgentSession, spawn: agents.SpawnAgentRequest) -> str:
        """Have it run in its own folder, in the session that is meant or is the folder's."""
        folder = row.cwd
        if not spawn.session:
            spawn.session = self._session_of(row)
        session = self._launching.prepare(spawn)
        home = Path(self._directory.get(session).path).resolve()
        if not folder:
            folder = str(home)
        if not Path(folder).is_dir():
            raise NotFound(
                "path_missing",
                f"the folder it works in is gone: {folder}",
                hint="put it back: programs find a conversation by its folder",
                fields=_fields(row) | {"path": folder},
            )
        if not Path(folder).resolve().is_relative_to(home):
            raise InvalidArgument(
                "cwd_outside",
                f"it works in {folder}, which is outside of the session's workspace {home}",
                hint="leave out --session, or name one whose workspace holds that folder",
                fields=_fields(row) | {"path": folder, "workspace": str(home)},
            )
        spawn.cwd = folder
        return folder

    def _session_of(self, row: AgentSession) -> str:
        """Id of the session of its folder, or of the nearest above. Raises Conflict `session_missing`."""
        folder = Path(row.cwd) if row.cwd else None
        for place in [folder, *folder.parents] if folder else []:
            try:
                return self._directory.resolve(str(place))
            except NotFound:
                continue
        raise Conflict(
            "session_missing",
            f"the folder it works in is in no session: {row.cwd or 'it is not known'}",
            hint=f"sessionctl adopt {row.cwd}" if row.cwd else "name a session",
            fields=_fields(row),
        )


def _shown(row: AgentSession) -> str:
    return f"{row.found.adapter}:{row.found.id}"


def _fields(row: AgentSession) -> dict[str, str]:
    return {"adapter": row.found.adapter, "id": row.found.id, "session": row.session, "agent": row.agent}


def _live(row: AgentSession) -> Conflict:
    pid = row.found.life.pid
    return Conflict(
        "agent_session_live",
        f"{_shown(row)} runs elsewhere" + (f", as process {pid}" if pid else ""),
        hint=f"go on there, or end it and resume it here: sessionctl takeover {_shown(row)}",
        fields=_fields(row) | {"pid": str(pid or "")},
    )


def _cannot_tell(row: AgentSession, reason: str) -> Conflict:
    return Conflict(
        "agent_session_unknown",
        f"whether {_shown(row)} runs cannot be told: {reason}",
        hint="end its program if it runs, and try again",
        fields=_fields(row),
    )
