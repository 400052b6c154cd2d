"""A conversation as it is shown: what its program tells and what is kept beside it, joined; and which are
meant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from sessiond.model.agent_session import PENDING, AgentSessionStatus, Found, Key, Overlay, Problem, Turn

_PENDING = re.compile(re.escape(PENDING) + r"([0-9a-f]{32})-([0-9a-f]{16})")
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


def pending_mark(conversation: str) -> str:
    """`SESSION-AGENT` of an id that was given until the program tells its own; empty for any other id."""
    found = _PENDING.fullmatch(conversation)
    return f"{found[1]}-{found[2]}" if found else ""


def split_mark(mark: str) -> tuple[str, str]:
    """Ids of session and agent in a mark; two empty ones for none."""
    session, _, agent = mark.partition("-")
    return session, agent


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem, and since when it is there."""

    problem: Problem
    since: datetime


@dataclass(frozen=True, slots=True)
class AgentSession:
    """One row. ``overlay`` is empty and of no key where nothing is kept; ``session`` and ``agent`` are ids of
    the agent that it runs, or last ran, as; names are empty where they are not known any more. ``age`` is in
    seconds; ``stale``: its adapter failed since, or its file can be read no more."""

    found: Found
    overlay: Overlay
    session: str = ""
    session_name: str = ""
    agent: str = ""
    agent_name: str = ""
    age: float = field(default=0.0, compare=False)
    stale: bool = False

    @property
    def key(self) -> Key:
        """Adapter and id."""
        return self.found.key

    @property
    def status(self) -> AgentSessionStatus:
        """From evidence."""
        return self.found.status

    @property
    def mark(self) -> str:
        """`SESSION-AGENT` of the agent, or empty."""
        return f"{self.session}-{self.agent}" if self.agent else ""

    @property
    def pending(self) -> bool:
        """Whether its program has not told its id yet."""
        return bool(pending_mark(self.found.id))

    @property
    def activity(self) -> str:
        """What it does beside the status, in the words of its program or of the status; empty where it does
        not live or is simply at work."""
        if not self.status.live:
            return ""
        life, turn = self.found.life, self.found.life.turn or self.found.turn
        # What the process tells goes before the end of its file, which may be of a process before it.
        if said := life.activity or (self.found.activity if turn is self.found.turn else ""):
            return said
        return {Turn.WAITING: "waiting", Turn.DONE: "idle"}.get(turn, "")

    @property
    def cwd(self) -> str:
        """Its folder."""
        return self.found.cwd or self.overlay.cwd

    @property
    def order(self) -> tuple[datetime, str, str]:
        """Where it stands in a list; the latest has the greatest."""
        found = self.found
        when = found.updated_at or found.started_at or self.overlay.launched_at or _NEVER
        return when, *found.key


@dataclass(frozen=True, slots=True)
class Choice:
    """Which conversations are meant; empty means any. ``cwd`` is absolute and in its plain form, ``session``
    an id. Stopped ones are meant where ``stopped`` or ``statuses`` says so."""

    adapters: frozenset[str] = frozenset()
    statuses: frozenset[AgentSessionStatus] = frozenset()
    cwd: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    label_keys: frozenset[str] = frozenset()
    group: str = ""
    since: datetime | None = None
    session: str = ""
    stopped: bool = False

    @property
    def anything(self) -> bool:
        """Whether all of its adapters' are meant."""
        return replace(self, adapters=frozenset()) == _ANYTHING

    def takes(self, one: AgentSession) -> bool:
        """Whether it is meant."""
        status, labels = one.status, one.overlay.labels
        if status is AgentSessionStatus.STOPPED and not (self.stopped or status in self.statuses):
            return False
        return (
            (not self.adapters or one.found.adapter in self.adapters)
            and (not self.statuses or status in self.statuses)
            and (not self.session or one.session == self.session)
            and (not self.group or one.overlay.group == self.group)
            and self.label_keys <= labels.keys()
            and all(labels.get(key) == value for key, value in self.labels.items())
            and (self.since is None or one.order[0] >= self.since)
            and (not self.cwd or PurePosixPath(one.cwd).is_relative_to(self.cwd))
        )


_ANYTHING = Choice(stopped=True)
