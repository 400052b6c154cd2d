"""Conversations for the tests of sessionctl: a supervisor whose finder is in memory, and what it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sessiond.adapters import ADAPTERS
from sessiond.model.agent_session import STOPPED, Found, Life, Message, ToolUse, Transcript, Turn
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.testing.fake_finder import FakeFinder
from tests.unit.agents_case import Daemons
from tests.unit.cli_case import StandIn

CLAUDE = "3f2a91c0-5d3e-4a53-9c1c-0d8f3c6b7a10"
CODEX = "0198c2ab-1234-7000-8000-0123456789ab"
PI = "5a5a5a5a-0000-4000-8000-000000000001"
SESSIONCTL = [sys.executable, "-m", "sessiond.cli.main"]
PATIENCE = 60
# What every object of `discovered --json` has.
PROMISED = frozenset(
    [
        "id",
        "adapter",
        "status",
        "reason",
        "cwd",
        "model",
        "title",
        "first_prompt",
        "last_prompt",
        "started_at",
        "updated_at",
        "ended_at",
        "pid",
        "tokens_in",
        "tokens_out",
        "cost_usd",
        "parent",
        "native",
        "session",
        "agent",
        "labels",
        "group",
        "age_ms",
        "stale",
    ]
)


def found(conversation: str, adapter: str = "claude-code", *, hours: float = 1, **fields: Any) -> Found:
    """A conversation that its program last wrote of so many hours ago; it is stopped."""
    made: dict[str, Any] = {"cwd": "/home/user/project", "life": STOPPED, **fields}
    return Found(adapter, conversation, updated_at=datetime.now(UTC) - timedelta(hours=hours), **made)


def alive(pid: int | None = 100, mark: str = "", turn: Turn = Turn.WORKING, **fields: Any) -> Life:
    """A process has it open."""
    return Life(alive=True, pid=pid, start_time=1, mark=mark, turn=turn, **fields)


def machine() -> list[Found]:
    """One that works, one that waits, one of which nothing is known, and two that are over."""
    return [
        found(
            CLAUDE,
            hours=0.1,
            life=alive(4242, activity="thinking"),
            title="Mend the basket",
            model="claude-opus",
            first_prompt="Fix the failing test",
            last_prompt="And the other one",
            started_at=datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC),
            tokens_in=1200,
            tokens_out=34,
            cost_usd=0.25,
            native={"version": "2.0"},
        ),
        found(CODEX, "codex", hours=1, cwd="/srv/api", life=alive(77, turn=Turn.WAITING)),
        found(PI, "pi", hours=2, life=Life(alive=None, reason="process 9 may have it open")),
        found("ses_old", "opencode", hours=3, first_prompt="Long ago", parent="ses_older"),
        found("ses_older", "opencode", hours=24 * 40, cwd=""),
    ]


def finder(*rows: Found) -> FakeFinder:
    """A finder that finds these."""
    return FakeFinder(tuple(ADAPTERS), rows={one.key: one for one in rows})


def said(role: str, text: str, *tools: ToolUse, minute: int = 0, cut: bool = False) -> Message:
    """One message."""
    when = datetime(2026, 1, 31, 12, minute, tzinfo=UTC)
    return Message(role, text, tools=tools, time=when, cut=cut)


class Machine:
    """A supervisor with the session `shop`, whose daemon stands in for a real one."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.stand_in = stand_in
        self.finder = stand_in.finder
        self.folder = folder
        self.daemons = Daemons(stand_in, folder)
        self.shop = self.daemons.start("shop")

    def put(self, *rows: Found) -> None:
        """Conversations appear or change."""
        self.stand_in.do(lambda: self.finder.put(*rows))

    def tell(self, key: tuple[str, str], *messages: Message, has_more: bool = False) -> None:
        """What a conversation's transcript holds from now on."""
        self.finder.transcripts[key] = Transcript(messages, has_more=has_more)

    @property
    def spawned(self) -> Any:
        """What was asked of SpawnAgent last."""
        return self.shop.requests("SpawnAgent")[-1]

    def prints(self, out: bytes = b"", err: bytes = b"", *, exit_status: int = 0) -> None:
        """What agents print, and how they end."""
        self.shop.printed = {pb.OUTPUT_STREAM_STDOUT: out, pb.OUTPUT_STREAM_STDERR: err}
        self.shop.exit_status = exit_status


def process(*words: str, **rest: Any) -> subprocess.CompletedProcess[str]:
    """Run sessionctl as a process of its own, for what it writes past sys.stdout."""
    return subprocess.run(
        [*SESSIONCTL, *words], capture_output=True, text=True, timeout=PATIENCE, env=dict(os.environ), **rest
    )
