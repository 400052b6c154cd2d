"""A session daemon's room for agents: made when needed, and not again once it was let go of."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessiond.daemon.descriptors import Descriptors
from sessiond.daemon.parts import AgentsRoom, Home
from sessiond.errors import Unreachable
from sessiond.paths import Paths

SESSION = "5e" * 16


async def test_who_calls_a_daemon_that_ends_is_sent_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for opened in (False, True):
        home = Home(SESSION, tmp_path / "store", Paths.from_environment())
        room = AgentsRoom(home, Descriptors({}, ""))
        if opened:
            await room.service()
        await room.stop()
        with pytest.raises(Unreachable) as caught:
            await room.service()
        assert caught.value.code == "daemon_restarting"
        assert room.agents is None
