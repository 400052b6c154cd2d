"""Agents of one session, over the socket of its daemon; what is said of them is read back from systemd."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.rpc._generated.v1 import agents_pb2_grpc
from sessiond.rpc.channel import CHANNEL_OPTIONS, unix_address
from sessiond.rpc.status import from_rpc_error
from tests.system.product import PATIENCE, STATE, Product, daemon_unit, until

PATH = "/usr/local/bin:/usr/bin:/bin"
# Lines must have been written within so many seconds before and after a kill, or it is no test.
NEAR = 0.05
# A line that tells its number and the monotonic clock in nanoseconds has so many bytes: "%010d %020d\n".
_LINE = 32


class Crew:
    """The agents of one session."""

    def __init__(self, product: Product, session: str, socket: Path | None = None) -> None:
        """``socket`` is whose to ask: by default the session's daemon."""
        self.product = product
        self.session = session
        asked = str(socket or product.daemon_socket(session))
        self._channel = grpc.insecure_channel(unix_address(asked), options=CHANNEL_OPTIONS)
        self.stub: Any = agents_pb2_grpc.AgentsServiceStub(self._channel)

    def close(self) -> None:
        """Let go of the channel."""
        self._channel.close()

    def call(self, method: str, *, within: float = PATIENCE, **fields: Any) -> Any:
        """One call of AgentsService; raises SessiondError."""
        request = getattr(pb, f"{method}Request")(session=self.session, **fields)
        try:
            # A daemon that was just killed is waited for.
            return getattr(self.stub, method)(request, timeout=within, wait_for_ready=True)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def refused(self, code: str, method: str, **fields: Any) -> SessiondError:
        """The error of a call that must fail with this code, with a hint."""
        with pytest.raises(SessiondError) as caught:
            self.call(method, **fields)
        assert caught.value.code == code, f"{caught.value.code}: {caught.value.message}"
        return caught.value

    def run(self, *command: str, **fields: Any) -> pb.Agent:
        """Spawn; without a terminal unless asked for, with an environment as a login gives it."""
        fields.setdefault("environment", {"PATH": PATH, "HOME": "/home/tester"})
        return self.call("SpawnAgent", command=command, **fields).agent  # type: ignore[no-any-return]

    def sh(self, script: str, **fields: Any) -> pb.Agent:
        """Spawn a shell script."""
        return self.run("sh", "-c", script, **fields)

    def get(self, agent: str) -> pb.Agent:
        """One agent now."""
        return self.call("GetAgent", agent=agent).agent  # type: ignore[no-any-return]

    def list(self, **selection: Any) -> Sequence[pb.Agent]:
        """Those selected."""
        return list(self.call("ListAgents", selection=pb.AgentSelection(**selection)).agents)

    def wait(self, agent: str, *states: str) -> pb.Agent:
        """Until it is in one of the states, by default until it has ended."""
        numbers = [pb.AgentState.Value(f"AGENT_STATE_{state.upper()}") for state in states]
        return self.call("WaitAgent", agent=agent, states=numbers).agent  # type: ignore[no-any-return]

    def stop(self, agent: str) -> pb.Agent:
        """Stop it."""
        return self.call("StopAgent", agent=agent).agent  # type: ignore[no-any-return]

    def kill(self, agent: str) -> pb.Agent:
        """Kill it."""
        return self.call("KillAgent", agent=agent).agent  # type: ignore[no-any-return]

    def restart(self, agent: str) -> pb.Agent:
        """Restart it."""
        return self.call("RestartAgent", agent=agent).agent  # type: ignore[no-any-return]

    def batch(self, action: str, *, fail_fast: bool = False, signal: str = "", **selection: Any) -> Any:
        """One thing done to those selected."""
        return list(
            self.call(
                "BatchAgents",
                action=pb.BatchAction.Value(f"BATCH_ACTION_{action.upper()}"),
                fail_fast=fail_fast,
                signal=signal,
                selection=pb.AgentSelection(**selection),
            ).results
        )

    def lines(self, agent: str, *, limit: int = 10_000) -> Sequence[str]:
        """What it printed."""
        return [one.text for one in self.call("ReadOutput", agent=agent, limit=limit).lines]

    def printed(self, agent: str, line: str) -> None:
        """Wait until it has printed a line."""
        until(lambda: line in self.lines(agent), f"{agent} to print {line!r}")

    # ---- systemd and the disk

    def unit(self, agent: pb.Agent) -> Mapping[str, str]:
        """What systemctl says of its unit."""
        return self.product.host.show(agent.unit)

    def loaded(self) -> Sequence[str]:
        """Units of agents that systemd has loaded, ended ones too."""
        shown = self.product.host.systemctl(
            "list-units", "--all", "--plain", "--no-legend", f"sessiond-agent@{self.session}-*"
        ).stdout
        return [line.split()[0] for line in shown.splitlines()]

    def gone(self) -> None:
        """Wait until no unit of an agent is loaded."""
        until(lambda: not self.loaded(), "all units of agents to be released")

    def folder(self, agent: pb.Agent) -> str:
        """Where its files lie."""
        return f"{STATE}/sessions/{self.session}/agents/{agent.id}"

    def unlimited(self) -> None:
        """Have the daemon's starts counted anew: in a minute there may not be as many as a test needs."""
        self.product.host.systemctl("reset-failed", daemon_unit(self.session))

    def kill_daemon(self) -> int:
        """SIGKILL of the session's daemon; returns the pid of the one that systemd had back."""
        pid = self.product.pid(self.session)
        self.product.kill(pid)
        return self.product.new_pid(self.session, besides=pid)

    def pids(self, agent: pb.Agent) -> Sequence[int]:
        """All processes of its cgroup."""
        group = self.product.host.show(agent.unit, "ControlGroup").get("ControlGroup", "")
        if not group:
            return []
        script = f'cat "/sys/fs/cgroup{group}/cgroup.procs" 2>/dev/null || true'
        return sorted(map(int, self.product.host.run(["sh", "-c", script]).stdout.split()))

    def running(self, marker: str) -> Sequence[str]:
        """Processes anywhere in the host whose command line holds the marker."""
        done = self.product.host.run(["pgrep", "-f", "-a", marker], check=False)
        return done.stdout.splitlines()


@contextmanager
def crew_of(product: Product, session: str) -> Iterator[Crew]:
    """The agents of a session."""
    crew = Crew(product, session)
    try:
        yield crew
    finally:
        crew.close()


def flowed(path: Path, moments: Sequence[int]) -> int:
    """How many of the moments lie between two lines that were written close to them, as the lines tell."""
    near = int(NEAR * 1e9)
    with path.open("rb") as file:
        count = os.fstat(file.fileno()).st_size // _LINE

        def written(number: int) -> int:
            return int(os.pread(file.fileno(), _LINE, number * _LINE)[11:31])

        found = 0
        for moment in moments:
            after = bisect_left(range(count), moment, key=written)
            if 0 < after < count:
                found += moment - written(after - 1) <= near and written(after) - moment <= near
        return found


def state(agent: pb.Agent) -> str:
    """Its state in the CLI's word."""
    return pb.AgentState.Name(agent.state).removeprefix("AGENT_STATE_").lower()
