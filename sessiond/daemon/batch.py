"""One thing done to many agents at once, with a result for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from sessiond.daemon.agents import Agents
from sessiond.errors import SessiondError
from sessiond.model.agent import Agent
from sessiond.model.agent_selection import Selection, find, select

SKIPPED = "skipped"
# Enough to keep the init system busy, and few enough that the first failure leaves something to skip.
_AT_ONCE = 16

Deed = Callable[[str], Awaitable[Agent]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an agent, None where ``word`` means none; ``code`` is empty if it was done."""

    agent: Agent | None
    code: str = ""
    message: str = ""
    word: str = ""


async def run(
    agents: Agents, selection: Selection, deed: Deed, *, fail_fast: bool = False, all_at_once: bool = False
) -> list[Result]:
    """Do it to each that is selected, some at once; with ``fail_fast`` begin no more after the first failure.

    A word that means no agent, or more than one, has a result of its own and counts as a failure.
    """
    await agents.looked()
    known = agents.roster.all_bare()
    words, unknown = [], []
    for word in selection.agents:
        try:
            words.append(find(word, known).id)
        except SessiondError as error:
            unknown.append(Result(None, error.code, error.message, word))
    chosen = select(replace(selection, agents=tuple(words)), known) if words or not unknown else []
    limit = asyncio.Semaphore(max(1, len(chosen)) if all_at_once else _AT_ONCE)
    failed = bool(unknown)

    async def one(agent: Agent) -> Result:
        nonlocal failed
        async with limit:
            if failed and fail_fast:
                return Result(_now(agents, agent), SKIPPED, "not begun: another one failed before")
            try:
                return Result(await deed(agent.id))
            except SessiondError as error:
                failed = True
                return Result(_now(agents, agent), error.code, error.message)

    return [*await asyncio.gather(*map(one, chosen)), *unknown]


def _now(agents: Agents, agent: Agent) -> Agent:
    """The agent as it is, or as it was where it is gone."""
    try:
        return agents.get(agent.id)
    except SessiondError:
        return agent
