"""Where each program keeps its files, told without loading its adapter: where none of these folders is there,
nothing can be found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final


def places_of(name: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Absolute folders; all that an adapter of that name watches is in them or is made after them. None at
    all where it cannot be told."""
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        return ()
    tell = _PLACES.get(name)
    places = tell(environment, home) if tell else ()
    return tuple(map(os.path.abspath, places)) if all(one.startswith("/") for one in places) else ()


def _claude(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    return (environment.get("CLAUDE_CONFIG_DIR") or f"{home}/.claude",)


def _codex(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    top = environment.get("CODEX_HOME") or f"{home}/.codex"
    return (top, environment.get("CODEX_SQLITE_HOME") or top)


def _opencode(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    base = environment.get("XDG_DATA_HOME", "")
    top = f"{base if base.startswith('/') else home + '/.local/share'}/opencode"
    given = environment.get("OPENCODE_DB", "")
    return (top, os.path.dirname(os.path.join(top, given))) if given not in ("", ":memory:") else (top,)


def _pi(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    top = _expand(environment.get("PI_CODING_AGENT_DIR", ""), home) or f"{home}/.pi/agent"
    one = _expand(environment.get("PI_CODING_AGENT_SESSION_DIR", ""), home)
    return (top, one) if one else (top,)


def _openclaw(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    given = _expand(environment.get("OPENCLAW_STATE_DIR", ""), environment.get("OPENCLAW_HOME") or home)
    return (given or os.path.join(environment.get("OPENCLAW_HOME") or home, ".openclaw"),)


def _gemini(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    return (os.path.join(environment.get("GEMINI_CLI_HOME") or home, ".gemini"),)


def _acp(environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    base = environment.get("XDG_STATE_HOME", "")
    return (f"{base if base.startswith('/') else home + '/.local/state'}/sessiond/acp",)


def _expand(path: str, home: str) -> str:
    return home + path[1:] if path == "~" or path.startswith("~/") else path


# The program that each is known by, and the variables that say where it keeps its files besides HOME: the
# first is the one that a place is named by.
PROGRAMS: Final[Mapping[str, str]] = {
    "claude-code": "claude",
    "codex": "codex",
    "opencode": "opencode",
    "pi": "pi",
    "pi-rust": "pi-rust",
    "openclaw": "openclaw",
    "gemini": "gemini",
}
VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "claude-code": ("CLAUDE_CONFIG_DIR",),
    "codex": ("CODEX_HOME", "CODEX_SQLITE_HOME"),
    "opencode": ("XDG_DATA_HOME", "OPENCODE_DB"),
    "pi": ("PI_CODING_AGENT_DIR", "PI_CODING_AGENT_SESSION_DIR"),
    "pi-rust": ("PI_CODING_AGENT_DIR", "PI_CODING_AGENT_SESSION_DIR"),
    "openclaw": ("OPENCLAW_STATE_DIR", "OPENCLAW_HOME"),
    "gemini": ("GEMINI_CLI_HOME",),
}

_PLACES: Final[Mapping[str, Callable[[Mapping[str, str], str], tuple[str, ...]]]] = {
    "claude-code": _claude,
    "codex": _codex,
    "opencode": _opencode,
    "pi": _pi,
    "pi-rust": _pi,
    "openclaw": _openclaw,
    "gemini": _gemini,
    "acp": _acp,
}
