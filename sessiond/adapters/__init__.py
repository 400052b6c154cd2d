"""One agent program each: find its conversations, tell whether they live, launch, resume and read them.

The list below is all there is; nothing is searched for. Modules are named as texts, so that a process
which runs one adapter loads that one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final

from sessiond.adapters.everywhere import Everywhere
from sessiond.adapters.places import VARIABLES
from sessiond.errors import InvalidArgument
from sessiond.ports.discovery import AgentAdapter

# Name of the adapter, and where its class ``Adapter`` is.
ADAPTERS: Final[Mapping[str, str]] = {
    "claude-code": "sessiond.adapters.claude_code",
    "codex": "sessiond.adapters.codex",
    "opencode": "sessiond.adapters.opencode",
    "pi": "sessiond.adapters.pi",
    "pi-rust": "sessiond.adapters.pi_rust",
    "openclaw": "sessiond.adapters.openclaw",
    "gemini": "sessiond.adapters.gemini",
    "acp": "sessiond.adapters.acp",
}


def make_adapter(name: str, environment: Mapping[str, str]) -> AgentAdapter:
    """The adapter of that name, for the files of whose environment this is, and for those of other homes that
    are known or come to be. Raises InvalidArgument
    `adapter_unknown`."""
    if name not in ADAPTERS:
        raise InvalidArgument(
            "adapter_unknown",
            f"there is no adapter {name!r}",
            hint=f"there are {', '.join(ADAPTERS)}",
            fields={"adapter": name},
        )
    make: Callable[[Mapping[str, str]], AgentAdapter] = import_module(ADAPTERS[name]).Adapter
    # What keeps its files where we say, and nowhere else, has one place.
    return Everywhere(name, environment, make) if name in VARIABLES else make(environment)
