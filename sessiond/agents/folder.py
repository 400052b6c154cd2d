"""Where the files of one agent lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sessiond.agents.launch import INPUT

AGENTS = "agents"
LAUNCHES = "launches"


@dataclass(frozen=True, slots=True)
class AgentFolder:
    """One agent's folder, `SESSION/agents/AGENT` in the state folder; ``runtime`` is sessiond's own."""

    path: Path
    runtime: Path

    @property
    def agent(self) -> str:
        """The agent's id."""
        return self.path.name

    @property
    def session(self) -> str:
        """The session's id."""
        return self.path.parent.parent.name

    @property
    def spec(self) -> Path:
        """What it was started with."""
        return self.path / "spec.json"

    @property
    def end(self) -> Path:
        """How its last run ended; absent while it runs."""
        return self.path / "end.json"

    @property
    def asked(self) -> Path:
        """There while somebody has asked for its end and it has not come, or sent it the signals it names."""
        return self.path / "asked"

    @property
    def launch_kept(self) -> Path:
        """Command line and environment of an agent that comes back after a reboot."""
        return self.path / "launch"

    @property
    def launch_passing(self) -> Path:
        """Command line and environment of any other agent: gone with the machine's memory."""
        return self.runtime / LAUNCHES / f"{self.session}-{self.agent}"

    @property
    def input(self) -> Path:
        """What its standard input is, where it has any."""
        return self.path / INPUT

    @property
    def record(self) -> Path:
        """What its terminal was sent, as raw bytes."""
        return self.path / "record"

    @property
    def index(self) -> Path:
        """Times, sizes and gaps of its output."""
        return self.path / "index"

    @property
    def stdout(self) -> Path:
        """Standard output of an agent without a terminal."""
        return self.path / "stdout"

    @property
    def stderr(self) -> Path:
        """Standard error of an agent without a terminal."""
        return self.path / "stderr"

    @property
    def screen(self) -> Path:
        """A drawing of the screen at some offset of the record; can be made anew from it."""
        return self.path / "screen"

    @property
    def policy(self) -> Path:
        """Whose size its terminal has where several look at it; absent where the setting says so."""
        return self.path / "size-policy"

    @property
    def emulator(self) -> Path:
        """Where the emulator has ended processes; beside it, what it is at now."""
        return self.path / "emulator"
