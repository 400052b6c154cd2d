"""Agent programs inside the private systemd host: as agents of sessions, and started by hand beside them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from sessiond.rpc._generated.v1 import agents_pb2
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc.status import from_rpc_error
from sessiond.testing.host import GUEST, HOME
from tests.agents.model_server import ModelServer
from tests.agents.programs import Package, Program, configure
from tests.system.product import Product, until

# Where the programs keep what they write, in the home.
_KEPT = (
    *(
        ".claude",
        ".claude.json",
        ".codex",
        ".config/opencode",
        ".local/share/opencode",
        ".local/state/opencode",
    ),
    *(".cache/opencode", ".pi", ".gemini", ".openclaw"),
    *("work", "play", "tmp"),
)
# Seconds that one call may take, and that all of one test may be followed.
TIMEOUT = 300.0
FOLLOWED = 900.0


def _removed(place: Path) -> bool:
    """Remove it; whether it is gone: what is still ending may write once more."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
    return not place.exists()


class Guests:
    """The programs of one host's user. Paths are those inside."""

    def __init__(self, product: Product, model: ModelServer, had: Callable[[str], Package]) -> None:
        self.product = product
        self.host = product.host
        self.model = model
        self._had = had

    def clear(self) -> None:
        """Remove all that programs wrote in the home."""
        for name in _KEPT:
            place = self.host.path(f"{HOME}/{name}")
            until(lambda place=place: _removed(place), f"{name} to be removed for good")  # type: ignore[misc]

    def folder(self, name: str = "project") -> str:
        """A folder for programs to work in: a git repository where there is git."""
        path = f"{HOME}/{name}"
        self.host.run(["mkdir", "-p", path])
        if shutil.which("git"):
            self.host.run(["git", "init", "--quiet", path])
        return path

    def program(self, name: str, *folders: str) -> Program:
        """A program that trusts these folders and asks the model server, which is reached as out here."""
        made = configure(self._had(name), self.host.path(HOME), self.model.url, [*folders, HOME], inside=HOME)
        # Written from out here as root.
        self.host.run(["chown", "-R", f"{GUEST}:", HOME], user=False)
        return made

    def account(self, program: Program, name: str) -> Program:
        """The same program led to another folder of settings, for Claude Code and Codex."""
        place = f"{HOME}/{name}"
        usual, variable = {"claude": (".claude", "CLAUDE_CONFIG_DIR"), "codex": (".codex", "CODEX_HOME")}[
            program.name
        ]
        self.host.run(["cp", "-r", f"{HOME}/{usual}", place])
        if program.name == "claude":
            self.host.run(["cp", f"{HOME}/.claude.json", f"{place}/.claude.json"])
        return replace(program, env={**program.env, variable: place})

    def by_hand(self, program: Program, *words: str, cwd: str) -> subprocess.Popen[str]:
        """Start one outside of sessiond, as from a person's shell; print mode."""
        return self.host.popen(program.command(*words), cwd=cwd, env=program.env)

    # ---- DiscoveryService

    def call(self, method: str, **fields: Any) -> Any:
        """One call; raises SessiondError."""
        with self.product.client() as client:
            try:
                request = getattr(pb, f"{method}Request")(**fields)
                return getattr(client.discovery, method)(request, timeout=TIMEOUT)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error

    def launch(
        self,
        adapter: str,
        session: str,
        program: Program,
        prompt: str = "",
        *,
        print_mode: bool = False,
        **spawn: Any,
    ) -> pb.LaunchAgentSessionResponse:
        """A new conversation as an agent of a session; in a terminal unless it is to print."""
        spawn.setdefault("tty", not print_mode)
        spec = agents_pb2.SpawnAgentRequest(session=session, environment=dict(program.env), **spawn)
        return self.call(  # type: ignore[no-any-return]
            "LaunchAgentSession", adapter=adapter, spawn=spec, prompt=prompt, print=print_mode
        )

    def resume(
        self, id: str, session: str, program: Program, prompt: str, *, take_over: bool = False
    ) -> pb.ResumeAgentSessionResponse:
        """Go on with one in a terminal of a session."""
        spec = agents_pb2.SpawnAgentRequest(session=session, environment=dict(program.env), tty=True)
        return self.call(  # type: ignore[no-any-return]
            "ResumeAgentSession", agent_session=id, spawn=spec, prompt=prompt, take_over=take_over
        )

    def transcript(self, id: str) -> list[pb.TranscriptMessage]:
        """The end of one."""
        return list(self.call("ReadTranscript", agent_session=id).messages)

    def rows(self, **filters: Any) -> list[pb.AgentSession]:
        """All conversations, stopped ones too."""
        found = pb.AgentSessionFilter(include_stopped=True, **filters)
        return list(self.call("ListAgentSessions", filter=found).agent_sessions)

    @contextmanager
    def watching(self, **filters: Any) -> Iterator[Watch]:
        """What the supervisor tells of conversations, from now on."""
        found = pb.AgentSessionFilter(include_stopped=True, **filters)
        with self.product.client() as client:
            stream = client.discovery.WatchAgentSessions(
                pb.WatchAgentSessionsRequest(filter=found), timeout=FOLLOWED
            )
            try:
                yield Watch(stream)
            finally:
                stream.cancel()


class Watch:
    """Conversations as they are told; each wait reads the stream on, so that no change is missed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.rows: dict[str, pb.AgentSession] = {}
        self.told: list[str] = []

    def until(self, test: Callable[[Mapping[str, pb.AgentSession]], Any], what: str) -> Any:
        """Wait until a test of the rows gives something."""
        while True:
            if answer := test(self.rows):
                return answer
            try:
                change = next(self._stream)
            except (grpc.RpcError, StopIteration) as error:
                pytest.fail(
                    f"{what}: not told, the watch ended with {error}; told were:\n" + "\n".join(self.told)
                )
            match change.WhichOneof("change"):
                case "agent_session":
                    row = change.agent_session
                    self.rows[row.id] = row
                    self.told.append(f"{row.adapter}:{row.id} {status(row)} {row.activity} {row.reason}")
                case "removed":
                    self.rows.pop(change.removed.id, None)
                    self.told.append(f"removed {change.removed.adapter}:{change.removed.id}")
                case "problem":
                    self.told.append(f"problem {change.problem}")

    def until_status(self, wanted: str, adapter: str, *, id: str = "") -> pb.AgentSession:
        """Wait until a conversation of an adapter (that one, if named) has a status."""

        def found(rows: Mapping[str, pb.AgentSession]) -> pb.AgentSession | None:
            fits = (one for one in rows.values() if one.adapter == adapter and status(one) == wanted)
            return next((one for one in fits if not id or one.id == id), None)

        row: pb.AgentSession = self.until(found, f"{adapter} {id} {wanted}")
        return row


def status(row: pb.AgentSession) -> str:
    """Its word."""
    return pb.AgentSessionStatus.Name(row.status).removeprefix("AGENT_SESSION_STATUS_").lower()
