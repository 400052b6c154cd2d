"""New conversations: an adapter's plan becomes an agent of a session, and what was launched is kept."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sessiond.agents import command
from sessiond.aio import unbroken
from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.agent_session import MARKER, STOPPED, Found, Overlay, Plan, Wish
from sessiond.model.conversation import AgentSession
from sessiond.rpc._generated.v1 import agents_pb2 as agents
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.at_rest import not_running
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.asking import life_of
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.discovered.learning import Learning, digest_of, launch_id
from sessiond.supervisor.forwarding import DaemonStatus

log = logging.getLogger(__name__)

# Prompts are kept to be shown; the program has them whole.
_PROMPT_KEPT = 10_000
# In what is kept of a command line, where the prompt stood.
_PROMPT_MARK = "PROMPT"


@dataclass(frozen=True, slots=True)
class Launched:
    """An agent that was started, or typed to, and its conversation."""

    agent: agents.Agent
    row: AgentSession
    typed: bool = False
    ended_pid: int | None = None


class Launching:
    """Starts agents from plans. What is launched is kept before it is started, so that it is known whatever
    dies in between."""

    def __init__(
        self,
        known: Discovered,
        calls: AgentCalls,
        directory: Directory,
        learning: Learning,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._known = known
        self._calls = calls
        self._directory = directory
        self._learning = learning
        self._now = now

    async def launch(self, adapter: str, spawn: agents.SpawnAgentRequest, wish: Wish) -> Launched:
        """Start a new one in the session of ``spawn``. ``wish.cwd`` is made the folder that the agent runs
        in. Raises what LaunchAgentSession tells of."""
        self._known.check_used(adapter)
        check_prompt(wish.prompt)
        session = self.prepare(spawn)
        spawn.cwd = await asyncio.to_thread(_folder, spawn.cwd, self._directory.get(session).path)
        wish = replace(wish, cwd=spawn.cwd, id=str(uuid.uuid4()), environment=environment_of(spawn))
        plan = await self._known.finder.launch(adapter, wish)
        return await self.start(adapter, spawn, plan, wish)

    def prepare(self, spawn: agents.SpawnAgentRequest) -> str:
        """Id of the session that is meant, which is written into ``spawn``. Raises InvalidArgument
        `request_invalid` for what is the adapter's to decide."""
        if spawn.HasField("input"):
            raise InvalidArgument(
                "request_invalid",
                "what the program reads is the adapter's to say",
                hint="put it into the prompt",
                fields={"field": "spawn.input"},
            )
        spawn.session = self._directory.resolve(spawn.session)
        return spawn.session

    async def check(self, adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan) -> None:
        """Raise what ``start`` would, as far as it can be told without starting anything."""
        _check_command(adapter, spawn, plan)
        async with self._calls.daemon(spawn.session) as daemon:
            if daemon is None:
                raise not_running(self._directory.get(spawn.session))
        given = dict(spawn.environment) or dict(os.environ)
        kept = {name: value for name, value in given.items() if name not in plan.without}
        environment = {**kept, **plan.environment, **spawn.set_environment}
        try:
            await asyncio.to_thread(command.resolve, plan.argv, environment, Path(spawn.cwd))
        except NotFound as error:
            raise _not_installed(adapter, plan) from error

    @unbroken
    async def start(
        self,
        adapter: str,
        spawn: agents.SpawnAgentRequest,
        plan: Plan,
        wish: Wish,
        *,
        before: AgentSession | None = None,
    ) -> Launched:
        """Spawn what a plan says, and keep what was launched; ``before`` is the conversation gone on with."""
        _check_command(adapter, spawn, plan)
        _fill(adapter, spawn, plan, wish)
        draft = self._overlay(adapter, spawn, plan, wish, before)
        held = self._known.overlay(draft.key)
        self._learning.under_way.add(draft.key)
        try:
            await self._known.change(draft.key, lambda now: _begun(now, draft))
            try:
                agent = await self._spawn(adapter, spawn, plan)
            except SessiondError as error:
                await self._failed(draft, held, error)
                raise
            mark = f"{agent.session}-{agent.id}"
            self._known.note_agent(mark, life_of(agent, mark))
            return Launched(agent, await self._keep(draft, agent))
        finally:
            self._learning.under_way.discard(draft.key)

    async def _failed(self, draft: Overlay, held: Overlay | None, error: SessiondError) -> None:
        """Keep nothing of a launch of which nothing came."""
        if error.fields.get("effect") == "possible":
            work = self._learning.complete_later(draft)
            self._known.background.start(work, "a launch that gave no answer")
            return
        try:
            await self._known.change(draft.key, lambda now: _undone(now, draft, held))
        except SessiondError as fault:
            # It has no agent: it is shown to nobody, and forgotten in time.
            log.warning("what was kept of a launch that failed is still there: %s", fault.message)

    async def _keep(self, draft: Overlay, agent: agents.Agent) -> AgentSession:
        """Enter the agent that a launch became; its row."""
        launched = replace(draft, session=agent.session, agent=agent.id)
        try:
            launched = await self._learning.entered(draft, agent.session, agent.id)
        except SessiondError as error:
            # The agent runs, and that is said. The rest is completed as if this process had died here.
            log.warning("which agent a launch became was not kept: %s", error.message)
        row = self._known.view(launched.key) or self._known.view_agent(launched.adapter, launched.mark)
        if row is None:
            # It has ended already, and left nothing.
            gone = Found(launched.adapter, launched.id, cwd=launched.cwd, life=STOPPED)
            row = AgentSession(gone, launched, session=launched.session, agent=launched.agent)
        [named] = await self._known.named([row])
        return named

    def _overlay(
        self,
        adapter: str,
        spawn: agents.SpawnAgentRequest,
        plan: Plan,
        wish: Wish,
        before: AgentSession | None,
    ) -> Overlay:
        """What is kept of a launch, the agent aside."""
        words = [_without(word, wish.prompt) for word in plan.argv]
        spec = {
            "model": wish.model,
            "print": wish.print,
            "command": words,
            "learn": plan.learn,
            "digest": digest_of(plan.argv),
        }
        return Overlay(
            adapter,
            before.found.id if before is not None else plan.id or launch_id(),
            session=spawn.session,
            prompt=wish.prompt[:_PROMPT_KEPT],
            labels=dict(spawn.labels),
            group=spawn.group,
            cwd=wish.cwd,
            spec=json.dumps(spec),
            launched_at=self._now(),
        )

    async def _spawn(self, adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan) -> agents.Agent:
        # Without a deadline: who asked may have gone, and the answer is needed all the same.
        try:
            raw = await self._calls.unary("SpawnAgent", spawn.SerializeToString(), None)
        except DaemonStatus as status:
            error = status.error()
            if error.code == "command_not_found":
                raise _not_installed(adapter, plan) from error
            raise error from status
        return agents.SpawnAgentResponse.FromString(raw).agent


def check_prompt(prompt: str) -> None:
    """Raise InvalidArgument `prompt_invalid` for one that no program can be given."""
    if "\0" in prompt:
        raise InvalidArgument(
            "prompt_invalid", "the prompt holds a NUL", hint="a prompt is text: take it out"
        )


def environment_of(spawn: agents.SpawnAgentRequest) -> dict[str, str]:
    """What an agent gets from who starts it."""
    return {**(dict(spawn.environment) or os.environ), **spawn.set_environment}


def _folder(asked: str, workspace: Path) -> str:
    """Where SpawnAgent has an agent run."""
    if "\0" in asked:
        raise InvalidArgument(
            "cwd_invalid", "the folder's path holds a NUL", hint="no path holds one: leave it out"
        )
    return str(command.working_folder(asked, workspace))


def _check_command(adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan) -> None:
    if not set(spawn.command) <= set(plan.argv):
        raise InvalidArgument(
            "request_invalid",
            f"{adapter} starts its own program, and takes no other",
            hint="put the folder of that program first in PATH",
            fields={"field": "spawn.command", "adapter": adapter},
        )


def _not_installed(adapter: str, plan: Plan) -> NotFound:
    return NotFound(
        "adapter_not_installed",
        f"{plan.argv[0]}, the program of {adapter}, is not in the PATH that was given",
        hint="install it, or name its folder in PATH; sessionctl adapters shows what is found",
        fields={"adapter": adapter, "command": plan.argv[0]},
    )


def _without(word: str, prompt: str) -> str:
    """A word of a command line with a mark in place of the prompt."""
    if not prompt or not word.endswith(prompt):
        return word
    before = word.removesuffix(prompt)
    return f"{before}{_PROMPT_MARK}" if not before.strip() or before.endswith("=") else word


def _fill(adapter: str, spawn: agents.SpawnAgentRequest, plan: Plan, wish: Wish) -> None:
    """Put a plan into a request; what the caller set by name goes before what the adapter wants."""
    spawn.ClearField("command")
    spawn.command.extend(plan.argv)
    if not spawn.environment and not os.environ.keys().isdisjoint(plan.without):
        # The agent would have ours as a whole.
        spawn.environment.update(os.environ)
    for name in plan.without:
        spawn.environment.pop(name, None)
    for name, value in plan.environment.items():
        if name not in spawn.set_environment:
            spawn.set_environment[name] = value
    spawn.set_environment.pop(MARKER, None)
    if plan.id:
        spawn.set_environment[MARKER] = f"{adapter}:{plan.id}"
    if plan.input is not None:
        spawn.input = plan.input
    if wish.print:
        spawn.tty = False


def _begun(now: Overlay, draft: Overlay) -> Overlay:
    """What is kept while it is not known which agent it becomes: its own words stay."""
    return replace(
        now,
        session=draft.session,
        agent="",
        prompt=draft.prompt or now.prompt,
        labels={**now.labels, **draft.labels},
        group=draft.group or now.group,
        cwd=draft.cwd,
        spec=draft.spec,
        launched_at=draft.launched_at,
        missing_since=None,
    )


def _undone(now: Overlay, draft: Overlay, held: Overlay | None) -> Overlay:
    """What is kept once nothing came of it: what others changed meanwhile stays."""
    old = held or Overlay(*draft.key)
    labels = {
        key: old.labels.get(key, "") if draft.labels.get(key) == value else value
        for key, value in now.labels.items()
        if draft.labels.get(key) != value or key in old.labels
    }
    group = old.group if draft.group and now.group == draft.group else now.group
    return replace(old, labels=labels, group=group, annotations=now.annotations)
