"""Where programs keep their files is told twice, and must be told the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessiond.adapters import ADAPTERS, make_adapter
from sessiond.adapters.places import places_of

HOME = "/home/user"
ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"XDG_DATA_HOME": "/data", "XDG_STATE_HOME": "/state", "CLAUDE_CONFIG_DIR": "/claude"},
    {"XDG_DATA_HOME": "relative", "XDG_STATE_HOME": "relative", "OPENCODE_DB": "/elsewhere/mine.db"},
    {"CODEX_HOME": "/codex", "CODEX_SQLITE_HOME": "/index", "GEMINI_CLI_HOME": "/gemini"},
    {"OPENCODE_DB": ":memory:", "OPENCLAW_STATE_DIR": "~/claw", "PI_CODING_AGENT_DIR": "~/pi"},
    {"OPENCODE_DB": "mine.db", "OPENCLAW_HOME": "/claw", "PI_CODING_AGENT_SESSION_DIR": "~/flat"},
]


@pytest.mark.parametrize("more", ENVIRONMENTS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_all_that_is_watched_is_in_the_places(name: str, more: dict[str, str]) -> None:
    environment = {"HOME": HOME, "TMPDIR": "/temporary", **more}
    places = places_of(name, environment)
    assert places
    for watched in make_adapter(name, environment).watched():
        folder = Path(watched.folder)
        # Locks beside none of its files are those of a program that has none.
        assert folder.is_relative_to("/temporary") or any(map(folder.is_relative_to, places)), folder


def test_without_a_home_nothing_is_said_to_be_absent() -> None:
    assert all(places_of(name, {}) == () for name in ADAPTERS)
    assert places_of("another", {"HOME": HOME}) == ()
    assert places_of("claude-code", {"HOME": HOME, "CLAUDE_CONFIG_DIR": "relative"}) == ()
