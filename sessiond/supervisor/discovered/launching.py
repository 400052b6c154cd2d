"""New conversations: an adapter's plan becomes an agent of a session, and what was launched is kept."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sessiond.agents.command import working_folder
from sessiond.aio import unbroken
from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.agent_session import MARKER, PENDING, STOPPED, Found, Overlay, Plan, Wish
from sessiond.model.conversation import AgentSession, split_mark
from sessiond.rpc._generated.v1 import agents_pb2 as agents
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.forwarding import DaemonStatus

log = logging.getLogger(__name__)

# Prompts are kept to be shown; the program has them whole.
_PROMPT_KEPT = 10_000
# In what is kept of a command line, where the prompt stood.
_PROMPT_MARK = "PROMPT"
# So much of an agent's output is searched for the id of its conversation.
_LEARN_MAX = 1 << 20
_LINE_MAX = 1 << 18
_STDOUT = "stdout"


@dataclass(frozen=True, slots=True)
class Launched:
    """An agent that was started, or typed to, and its conversation."""

    agent: agents.Agent
    row: AgentSession
    typed: bool = False
    ended_pid: int | None = None


class Launching:
    """Starts agents from plans. One whose id is told later is kept as pending, and followed until it is."""

    def __init__(
        self,
        known: Discovered,
        calls: AgentCalls,
        directory: Directory,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._known = known
        self._calls = calls
        self._directory = directory
        self._now = now
        known.when_started(self._take_up)

    async def launch(
        self, adapter: str, spawn: agents.SpawnAgentRequest, wish: Wish, timeout: float | None
    ) -> Launched:
        """Start a new one in the session of ``spawn``, which must have no command and no input of its own.

        ``wish.cwd`` is made the folder that the agent will run in. Raises what the adapter and SpawnAgent do,
        NotFound `adapter_not_installed`.
        """
        self._known.check([adapter])
        session = self.prepare(spawn)
        home = Path(self._directory.get(session).path)
        folder = str(working_folder(spawn.cwd, home))
        wish = replace(wish, cwd=folder, id=str(uuid.uuid4()))
        plan = await self._known.finder.launch(adapter, wish)
        return await self.start(adapter, spawn, plan, wish, timeout)

    @unbroken
    async def start(
        self,
        adapter: str,
        spawn: agents.SpawnAgentRequest,
        plan: Plan,
        wish: Wish,
        timeout: float | None,
        *,
        before: AgentSession | None = None,
    ) -> Launched:
        """Spawn what a plan says, and keep what was launched; ``before`` is the conversation gone on with."""
        _fill(adapter, spawn, plan)
        chosen = plan.id and before is None
        fresh = self._overlay(adapter, spawn, plan, wish)
        if chosen:
            # Kept first: should this process die now, the conversation that is found is known as ours.
            await self._known.put_overlay(fresh)
        try:
            agent = await self._spawn(adapter, spawn, plan, timeout)
        except BaseException:
            if chosen:
                await self._known.drop_overlay(fresh.key)
            raise
        launched = replace(fresh, session=agent.session, agent=agent.id)
        if before is not None:
            row = await self._known.edit(before, lambda held: _relaunched(held, launched))
        else:
            if not plan.id:
                launched = replace(launched, id=f"{PENDING}{launched.mark}")
            await self._known.put_overlay(launched)
            if not plan.id and plan.learn == _STDOUT:
                self._follow(launched)
            row = await self._row(launched)
        return Launched(agent, row)

    async def _row(self, launched: Overlay) -> AgentSession:
        """What was just launched, as it is known by now."""
        await self._known.look_at_agents()
        row = self._known.view(launched.key)
        if row is None:
            try:
                row = await self._known.find(f"{launched.session}/{launched.agent}")
            except NotFound:
                # It has ended already, and left nothing.
                gone = Found(launched.adapter, launched.id, cwd=launched.cwd, life=STOPPED)
                row = AgentSession(gone, launched, session=launched.session, agent=launched.agent)
        [named] = await self._known.names.named([row])
        return named

    def prepare(self, spawn: agents.SpawnAgentRequest) -> str:
        """Id of the session that is meant. Raises InvalidArgument for what an adapter decides."""
        if spawn.HasField("input"):
            raise InvalidArgument(
                "request_invalid",
                "what the program reads is the adapter's to say",
                hint="put it into the prompt",
                fields={"field": "spawn.input"},
            )
        session = self._directory.resolve(spawn.session)
        spawn.session = session
        return session

    def _overlay(self, adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan, wish: Wish) -> Overlay:
        command = [_PROMPT_MARK if wish.prompt and word == wish.prompt else word for word in plan.argv]
        spec = {"model": wish.model, "print": wish.print, "command": command, "learn": plan.learn}
        return Overlay(
            adapter,
            plan.id,
            session=spawn.session,
            prompt=wish.prompt[:_PROMPT_KEPT],
            labels=dict(spawn.labels),
            group=spawn.group,
            cwd=wish.cwd,
            spec=json.dumps(spec),
            launched_at=self._now(),
        )

    async def _spawn(
        self, adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan, timeout: float | None
    ) -> agents.Agent:
        try:
            raw = await self._calls.unary("SpawnAgent", spawn.SerializeToString(), timeout)
        except DaemonStatus as status:
            error = status.error()
            if error.code == "command_not_found":
                raise NotFound(
                    "adapter_not_installed",
                    f"{plan.argv[0]}, the program of {adapter}, is not in the PATH that was given",
                    hint="install it, or name its folder in PATH; sessionctl adapters shows what is found",
                    fields={"adapter": adapter, "command": plan.argv[0]},
                ) from error
            raise
        return agents.SpawnAgentResponse.FromString(raw).agent

    # ---- ids that are told later

    def _take_up(self) -> None:
        """Follow those again whose ids had not been told when this process, or the finder, began."""
        for overlay in self._known.pending:
            if _learns(overlay):
                self._follow(overlay)

    def _follow(self, overlay: Overlay) -> None:
        work = self._learn(overlay)
        self._known.background.start(work, f"id of {overlay.adapter}'s conversation in {overlay.mark}")

    async def _learn(self, overlay: Overlay) -> None:
        """Read what the agent prints until it tells the id; it is read again where that breaks off."""
        session = overlay.session
        while self._known.overlay(overlay.key) is not None:
            before = self._directory.changed.next
            try:
                found = await self._told(overlay)
            except (SessiondError, DaemonStatus) as fault:
                error = fault.error() if isinstance(fault, DaemonStatus) else fault
                log.info("what %s prints cannot be read: %s", overlay.mark, error.message)
                if isinstance(error, NotFound):
                    return
                # Its daemon went away, or its adapter: its next life is told by the init system.
                await before.wait()
                continue
            if found is None:
                log.warning("%s in %s ended without telling its id", overlay.adapter, session)
                return
            held = self._known.overlay(overlay.key)
            if held is not None:
                await self._known.put_overlay(replace(held, id=found), instead_of=overlay.key)
            return

    async def _told(self, overlay: Overlay) -> str | None:
        session, agent = split_mark(overlay.mark)
        request = agents.StreamRecordRequest(
            session=session, agent=agent, stream=agents.OUTPUT_STREAM_STDOUT, follow=True
        )
        rest, seen = b"", 0
        async with aclosing(self._calls.record(request.SerializeToString(), None)) as messages:
            async for raw in messages:
                data = agents.StreamRecordResponse.FromString(raw).data
                seen += len(data)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    text = line[:_LINE_MAX].decode(errors="replace")
                    if found := await self._known.finder.identify(overlay.adapter, text):
                        return found
                rest = rest[:_LINE_MAX]
                if seen > _LEARN_MAX:
                    return None
        return None


def _fill(adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan) -> None:
    """Put a plan into a request; what the caller set by name goes before what the adapter wants."""
    spawn.ClearField("command")
    spawn.command.extend(plan.argv)
    for name, value in plan.environment.items():
        if name not in spawn.set_environment:
            spawn.set_environment[name] = value
    if plan.id:
        spawn.set_environment[MARKER] = f"{adapter}:{plan.id}"
    if plan.input is not None:
        spawn.input = plan.input


def _relaunched(held: Overlay, launched: Overlay) -> Overlay:
    """What is kept of a conversation that was gone on with: its own words stay."""
    return replace(
        held,
        session=launched.session,
        agent=launched.agent,
        prompt=launched.prompt or held.prompt,
        labels={**held.labels, **launched.labels},
        group=launched.group or held.group,
        cwd=launched.cwd,
        spec=launched.spec,
        launched_at=launched.launched_at,
        missing_since=None,
    )


def _learns(overlay: Overlay) -> bool:
    try:
        return bool(json.loads(overlay.spec).get("learn") == _STDOUT)
    except (ValueError, AttributeError):
        return False
