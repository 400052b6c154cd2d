"""Going on with conversations: typed to where they run in a terminal of ours, started again where they are
stopped, taken over where somebody started them by hand."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from weakref import WeakValueDictionary

from sessiond.aio import unbroken
from sessiond.errors import Conflict, InvalidArgument, NotFound
from sessiond.model.agent import AgentState
from sessiond.model.agent_session import PROCESS, AgentSessionStatus, Key, Plan, Wish
from sessiond.model.conversation import AgentSession, split_mark
from sessiond.rpc._generated.v1 import agents_pb2 as agents
from sessiond.rpc.agent_codec import state_from_wire
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.discovered.launching import Launched, Launching, check_prompt, environment_of
from sessiond.supervisor.forwarding import DaemonStatus

# Programs take what comes in one piece with Enter for pasted text: the key comes after they have read.
_ENTER_AFTER_MS = 300
# Seconds that a process may be given to end.
_STOP_TIMEOUT_MAX = 3600.0


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

    async def resume(self, word: str, spawn: agents.SpawnAgentRequest, wanted: Wanted) -> Launched:
        """Go on with the one that a word means. Raises what ResumeAgentSession tells of."""
        check_prompt(wanted.prompt)
        if wanted.stop_timeout > _STOP_TIMEOUT_MAX:
            raise InvalidArgument(
                "duration_invalid",
                f"a stop timeout of {wanted.stop_timeout:g} s",
                hint=f"0 s to {_STOP_TIMEOUT_MAX:g} s",
            )
        async with self._held(word) as known:
            row = await self._known.anew(known)
            if row.found.id.startswith(PROCESS):
                raise _nameless(row)
            if row.found.trouble:
                raise _unreadable(row)
            if row.stale:
                raise _cannot_tell(row, "its adapter fails at the moment")
            if row.status is AgentSessionStatus.UNKNOWN:
                raise _cannot_tell(row, row.found.life.reason, row.found.life.entry)
            if not row.status.live:
                await self._check_starting(row)
                plan, wish = await self._plan(row, spawn, wanted)
                return await self._launching.start(row.found.adapter, spawn, plan, wish, before=row)
            if row.found.life.mark:
                return await self._talk(row, wanted)
            if not wanted.take_over:
                raise _live(row)
            return await self._take_over(row, spawn, wanted)

    @asynccontextmanager
    async def _held(self, word: str) -> AsyncIterator[AgentSession]:
        """The one that a word means, with nobody else going on with it."""
        while True:
            key = (await self._known.find(word)).key
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                row = await self._known.find(word)
                if row.key == key:
                    yield row
                    return
            # Meanwhile its program told its id.

    # ---- what runs here

    async def _check_starting(self, row: AgentSession) -> None:
        """Raise Conflict where an agent was started for it that has not opened it yet."""
        session, agent = split_mark(self._known.launched_as(row))
        if not agent:
            return
        row = replace(row, session=session, agent=agent)
        try:
            state = state_from_wire((await self._agent(row)).state)
        except NotFound:
            return
        if state is AgentState.UNKNOWN:
            raise _cannot_tell(row, "the state of the agent that was last started for it is not known")
        if not state.ended:
            [row] = await self._known.named([row])
            raise _busy(row, f"is just being opened, by {_place(row)}", "try again in a moment")

    async def _talk(self, row: AgentSession, wanted: Wanted) -> Launched:
        """Type the prompt into the terminal of the agent that has it open."""
        session, agent = split_mark(row.found.life.mark)
        told = await self._agent(replace(row, session=session, agent=agent))
        [row] = await self._known.named([row])
        if not wanted.prompt:
            return Launched(told, row)
        if not self._known.front(row):
            raise _busy(
                row,
                f"runs within {_place(row)}, whose terminal is another's",
                f"wait for its end, or see what goes on there: sessionctl attach {_place(row)}",
            )
        if wanted.print or not told.tty:
            raise _busy(
                row,
                f"runs already, as {_place(row)}",
                "wait for its end: sessionctl wait, or type into its terminal without --print",
            )
        if state_from_wire(told.state) is AgentState.PAUSED:
            raise _busy(row, f"is paused, in {_place(row)}", f"sessionctl resume {_place(row)}")
        if row.status is not AgentSessionStatus.IDLE:
            doing = f" ({row.activity})" if row.activity else ""
            raise _busy(row, f"is {row.status}{doing}", f"sessionctl attach {_place(row)}")
        request = agents.SendInputRequest(session=session, agent=agent)
        request.parts.add(paste=wanted.prompt)
        request.parts.add().pause.FromMilliseconds(_ENTER_AFTER_MS)
        request.parts.add(key="Enter")
        await self._type(request)
        return Launched(told, row, typed=True)

    @unbroken
    async def _type(self, request: agents.SendInputRequest) -> None:
        """All of it: a prompt without its Enter would be left in the program's input."""
        await self._call("SendInput", request)

    async def _agent(self, row: AgentSession) -> agents.Agent:
        request = agents.GetAgentRequest(session=row.session, agent=row.agent)
        return agents.GetAgentResponse.FromString(await self._call("GetAgent", request)).agent

    async def _call(self, name: str, request: agents.GetAgentRequest | agents.SendInputRequest) -> bytes:
        try:
            return await self._calls.unary(name, request.SerializeToString(), None)
        except DaemonStatus as status:
            raise status.error() from status

    # ---- what runs elsewhere

    @unbroken
    async def _take_over(
        self, row: AgentSession, spawn: agents.SpawnAgentRequest, wanted: Wanted
    ) -> Launched:
        """End its process and start it here: who asked may hang up in between."""
        adapter, pid = row.found.adapter, row.found.life.pid
        if pid is None:
            raise _cannot_tell(row, "the process that has it open is not known")
        # All is checked before anything is ended: what cannot be resumed is better left running.
        plan, wish = await self._plan(row, spawn, wanted)
        await self._launching.check(adapter, spawn, plan)
        await self._known.transcript(row, 1)
        ended = await self._known.finder.end(adapter, row.found, wanted.stop_timeout)
        row = await self._known.anew(row)
        if row.status.live:
            raise _live(row)
        if row.found.trouble:
            raise _unreadable(row)
        if row.stale or row.status is AgentSessionStatus.UNKNOWN:
            raise _cannot_tell(row, row.found.life.reason or "its adapter fails at the moment")
        launched = await self._launching.start(adapter, spawn, plan, wish, before=row)
        return replace(launched, ended_pid=pid if ended else None)

    # ---- what is stopped

    async def _plan(
        self, row: AgentSession, spawn: agents.SpawnAgentRequest, wanted: Wanted
    ) -> tuple[Plan, Wish]:
        """What starts it again in its own folder, in the session that is meant or is the folder's."""
        if row.pending:
            raise NotFound(
                "agent_session_not_found",
                "it ended before its program told an id to resume it by",
                hint="sessionctl run --adapter begins a new one",
                fields=_fields(row),
            )
        folder = Path(row.cwd) if row.cwd else None
        if not spawn.session:
            spawn.session = await self._session_of(row, folder)
        home = self._directory.get(self._launching.prepare(spawn)).path
        spawn.cwd = await asyncio.to_thread(_checked, row, folder or home, home)
        words, given = tuple(spawn.command), environment_of(spawn)
        wish = Wish(spawn.cwd, wanted.prompt, wanted.model, wanted.print, row.found.id, words, given)
        return await self._known.finder.resume(row.found.adapter, row.found.id, wish), wish

    async def _session_of(self, row: AgentSession, folder: Path | None) -> str:
        """Id of the session of its folder, or of the nearest above. Raises Conflict `session_missing`."""
        if folder is not None:
            real = Path(await asyncio.to_thread(os.path.realpath, folder))
            for place in (folder, *folder.parents, real, *real.parents):
                try:
                    return self._directory.resolve(str(place))
                except NotFound:
                    continue
        raise Conflict(
            "session_missing",
            f"the folder it works in is in no session: {row.cwd or 'it is not known'}",
            # It is there to be pasted into a shell, and anybody may have made up the path.
            hint=f"sessionctl adopt {shlex.quote(row.cwd)}" if row.cwd else "name a session",
            fields=_fields(row),
        )


def _checked(row: AgentSession, folder: Path, home: Path) -> str:
    """The folder as a process there sees it. Raises NotFound `path_missing`, InvalidArgument
    `cwd_outside`."""
    if not os.path.isdir(folder):
        raise NotFound(
            "path_missing",
            f"the folder it works in is gone: {folder}",
            hint="put it back: programs find a conversation by its folder",
            fields=_fields(row) | {"path": str(folder)},
        )
    real, workspace = folder.resolve(), home.resolve()
    if not real.is_relative_to(workspace):
        raise InvalidArgument(
            "cwd_outside",
            f"it works in {folder}, which is outside of the session's workspace {home}",
            hint="leave out --session, or name one whose workspace holds that folder",
            fields=_fields(row) | {"path": str(folder), "workspace": str(home)},
        )
    return str(real)


def _shown(row: AgentSession) -> str:
    return f"{row.found.adapter}:{row.found.id}"


def _place(row: AgentSession) -> str:
    return f"{row.session_name or row.session}/{row.agent_name or row.agent}"


def _fields(row: AgentSession) -> dict[str, str]:
    return {"adapter": row.found.adapter, "id": row.found.id, "session": row.session, "agent": row.agent}


def _busy(row: AgentSession, how: str, hint: str) -> Conflict:
    return Conflict("agent_session_busy", f"{_shown(row)} {how}", hint=hint, fields=_fields(row))


def _live(row: AgentSession) -> Conflict:
    pid = row.found.life.pid
    return Conflict(
        "agent_session_live",
        f"{_shown(row)} runs elsewhere" + (f", as process {pid}" if pid else ""),
        hint=f"go on there, or end it and resume it here: sessionctl takeover {_shown(row)}",
        fields=_fields(row) | {"pid": str(pid or "")},
    )


def _cannot_tell(row: AgentSession, reason: str, entry: str = "") -> Conflict:
    """``entry`` is the file but for which nobody would take it to run."""
    over = f"; if it is over for certain, remove what it left: rm {shlex.quote(entry)}" if entry else ""
    return Conflict(
        "agent_session_unknown",
        f"whether {_shown(row)} runs cannot be told: {reason}",
        hint=f"end its program if it runs, and try again{over}",
        fields=_fields(row) | ({"entry": entry} if entry else {}),
    )


def _unreadable(row: AgentSession) -> Conflict:
    return Conflict(
        "agent_session_unreadable",
        f"how {_shown(row)} stands is not known, as it cannot be read any more: {row.found.trouble}",
        hint="put right what keeps it from being read, and try again: sessionctl discovered --errors",
        fields=_fields(row),
    )


def _nameless(row: AgentSession) -> Conflict:
    return Conflict(
        "agent_session_unknown",
        f"{_shown(row)} is a process, and which conversation it has open is not known",
        hint="go on where it runs: its conversation is a row of its own once the program tells it",
        fields=_fields(row) | {"pid": str(row.found.life.pid or "")},
    )
