"""Which agents are meant: by a word, or by what they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.agent import Agent, AgentState
from sessiond.model.identity import ID_PREFIX_MIN

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """What a listing or a batch asks for; empty means any. ``agents`` are words: ids, names, prefixes."""

    agents: tuple[str, ...] = ()
    states: frozenset[AgentState] = frozenset()
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    label_keys: frozenset[str] = frozenset()
    ended: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing was said of which are meant."""
        return not (self.agents or self.states or self.group or self.labels or self.label_keys or self.ended)

    def takes(self, agent: Agent) -> bool:
        """Whether the agent is asked for, its word aside. One that has ended is where its state, or ended
        ones, or it itself is asked for."""
        if agent.state.ended and not (self.ended or self.agents or agent.state in self.states):
            return False
        spec = agent.spec
        return (
            (not self.states or agent.state in self.states)
            and (not self.group or spec.group == self.group)
            and self.label_keys <= spec.labels.keys()
            and all(spec.labels.get(key) == value for key, value in self.labels.items())
        )


def select(selection: Selection, agents: Sequence[Agent]) -> list[Agent]:
    """Those of one session's agents that are asked for, oldest first.

    Raises NotFound `agent_not_found`, InvalidArgument `agent_ambiguous` for a word that means no one agent.
    """
    named = {find(word, agents).id for word in selection.agents}
    return [one for one in agents if (not selection.agents or one.id in named) and selection.takes(one)]


def find(word: str, agents: Iterable[Agent]) -> Agent:
    """The agent of one session that a word means: the name of one that has not ended, the name of the newest
    that has, an id, or the beginning of one (4 digits or more). ``agents`` are oldest first.

    Raises NotFound `agent_not_found`, InvalidArgument `agent_ambiguous`, `agent_missing`.
    """
    if not word:
        raise InvalidArgument("agent_missing", "no agent is named", hint="give a name or an id")
    known = list(agents)
    named = [one for one in known if one.spec.name == word]
    if named:
        return next((one for one in named if not one.state.ended), named[-1])
    prefix = word.lower()
    found = [one for one in known if one.id == prefix]
    if not found and len(prefix) >= ID_PREFIX_MIN:
        found = [one for one in known if one.id.startswith(prefix)]
    if len(found) > 1:
        shown = ", ".join(f"{one.spec.name} ({one.id})" for one in found[:_SHOWN])
        raise InvalidArgument(
            "agent_ambiguous",
            f"{word} means more than one agent: {shown}",
            hint="give more of the id",
            fields={"agent": word},
        )
    if not found:
        raise NotFound(
            "agent_not_found",
            f"no agent {word[:80]!r} in this session",
            hint="sessionctl ps -a",
            fields={"agent": word[:80]},
        )
    return found[0]
