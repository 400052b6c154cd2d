"""One row for each conversation: what works within an agent, and what is held through another program."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sessiond.adapters.acp.adapter import Adapter
from sessiond.adapters.acp.journal import folder, path_of
from sessiond.model.agent_session import INNER, STOPPED, AgentSessionStatus, Found, Life, Turn
from sessiond.model.conversation import Choice
from sessiond.ports.discovery import Rows
from sessiond.supervisor.discovered.watching import Current, Removed
from tests.unit.discovered_case import AGENT, BEGUN, MARK, alive, found, knowing, replace

OLDER = Life(alive=True, pid=7, start_time=5, mark=MARK, turn=Turn.DONE)
YOUNGER = Life(alive=True, pid=8, start_time=6, mark=MARK, turn=Turn.WORKING, activity="thinking")
ADAPTERS = ("opencode", "acp")


def outer(life: Life = OLDER, **fields: Any) -> Found:
    return found("o", "acp", life=life, native={INNER: "opencode:ses_1", "path": "/o"}, **fields)


async def test_a_conversation_through_another_program_is_one_row_with_all_that_is_known() -> None:
    inner = found("ses_1", "opencode", title="roof", cost_usd=2.0, minutes=9, native={"path": "/i", "v": "1"})
    async with knowing(outer(model="m", cost_usd=1.0), inner, adapters=ADAPTERS) as known:
        known.finder.adapters = ADAPTERS
        [row] = await known.rows()
        assert row.key == ("acp", "o")
        assert (row.found.model, row.found.title, row.found.cost_usd) == ("m", "roof", 1.0)
        assert row.found.updated_at == inner.updated_at
        assert row.found.native == {INNER: "opencode:ses_1", "path": "/o", "v": "1"}
        assert known.discovered.count("opencode") == (0, 0)
        for word in ("opencode:ses_1", "ses_1", "acp:o"):
            assert (await known.discovered.get(word)).key == ("acp", "o")


async def test_the_program_may_go_on_with_it_by_itself() -> None:
    inner = found("ses_1", "opencode", life=alive(pid=9))
    async with knowing(outer(STOPPED), inner, adapters=ADAPTERS) as known:
        known.finder.adapters = ADAPTERS
        [row] = await known.rows(Choice())
        assert (row.key, row.status, row.found.life.pid) == (("acp", "o"), AgentSessionStatus.RUNNING, 9)
        known.finder.set_life("opencode", "ses_1", STOPPED)
        await known.finder.read()
        assert await known.rows(Choice()) == []
        # While it is held through the other, what that says counts.
        known.finder.set_life("acp", "o", OLDER)
        known.finder.set_life("opencode", "ses_1", Life(alive=None, reason="who knows"))
        await known.finder.read()
        [row] = await known.rows(Choice())
        assert (row.status, row.found.life.pid) == (AgentSessionStatus.IDLE, 7)


async def test_watchers_see_one_row_in_whatever_order_both_come() -> None:
    async with knowing(found("ses_1", "opencode", life=alive(pid=9)), adapters=ADAPTERS) as known:
        known.finder.adapters = ADAPTERS
        changes = known.discovered.follow(Choice())
        assert (await anext(changes)).key == ("opencode", "ses_1")  # type: ignore[union-attr]
        assert await anext(changes) == Current()
        known.finder.put(outer())
        seen = [await anext(changes), await anext(changes)]
        assert Removed(("opencode", "ses_1")) in seen
        [row] = [one for one in seen if not isinstance(one, Removed)]
        assert row.key == ("acp", "o")  # type: ignore[union-attr]
        known.finder.put(replace(known.finder.rows["opencode", "ses_1"], title="roof"))
        told = await anext(changes)
        assert (told.key, told.found.title) == (("acp", "o"), "roof")  # type: ignore[union-attr]
        known.finder.remove("acp", "o")
        seen = [await anext(changes), await anext(changes)]
        assert Removed(("acp", "o")) in seen
        await changes.aclose()
        assert await known.ids() == ["ses_1"]


@pytest.mark.parametrize(
    "named", ["", "opencode", "opencode:", ":ses_1", "acp:o", "nobody:ses_1", "opencode:x"]
)
async def test_what_names_no_other_conversation_hides_none(named: str) -> None:
    one = found("o", "acp", native={INNER: named})
    async with knowing(one, found("ses_1", "opencode"), adapters=ADAPTERS) as known:
        known.finder.adapters = ADAPTERS
        assert sorted(await known.ids()) == ["o", "ses_1"]


async def test_what_a_program_starts_of_its_own_kind_does_not_take_its_place() -> None:
    rows = [found("main", "codex", life=OLDER), found("tool", "codex", minutes=9, life=YOUNGER)]
    async with knowing(*rows) as known:
        # Both are told at once, as after a restart of the supervisor.
        await known.launched(f"agent:{MARK}", "codex", labels={"a": "b"})
        await known.rows()
        await known.until(lambda: ("codex", "main") in known.kept())
        assert list(known.kept()) == [("codex", "main")]
        assert known.discovered.activities(known.overlays.get(("codex", "main")).session) == {AGENT: "idle"}  # type: ignore[union-attr]


async def test_what_is_spawned_through_others_is_no_successor() -> None:
    async with knowing(found("main", life=OLDER)) as known:
        await known.launched("main")
        await known.rows()
        known.finder.put(found("sub", parent="main", life=STOPPED))
        known.finder.put(found("below", parent="sub", minutes=9, life=OLDER))
        await known.finder.read()
        await known.rows()
        assert list(known.kept()) == [("claude-code", "main")]
        assert (await known.discovered.find(f"work/{AGENT}")).found.id == "main"
        # One whose parent does not live is a fork, which took its parent's place.
        known.now += timedelta(minutes=1)
        ended = [found("main", life=STOPPED), found("below", parent="sub", life=STOPPED)]
        known.finder.tell(Rows("claude-code", [*ended, found("fork", parent="main", life=OLDER)]))
        await known.finder.read()
        await known.until(lambda: known.finder.owned == {"claude-code": {MARK: "fork"}})


@pytest.mark.parametrize("ended", [[], [found("main", life=STOPPED)]])
async def test_one_that_took_the_place_of_another_while_nobody_looked_follows_it(ended: list[Found]) -> None:
    async with knowing(*ended, found("next", minutes=1, life=OLDER)) as known:
        known.agents[MARK] = OLDER
        await known.launched("main", labels={"a": "b"}, launched_at=BEGUN)
        await known.rows()
        await known.until(lambda: known.finder.owned == {"claude-code": {MARK: "next"}})
        assert {row.found.id: row.agent for row in await known.rows(Choice())} == {"next": AGENT}
        assert known.kept()["claude-code", "main"].labels == {"a": "b"}


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        (["opencode", "acp"], "opencode:ses_1"),
        (["/opt/bin/gemini", "--acp"], "gemini:ses_1"),
        (["npx", "-y", "@zed-industries/claude-code-acp@0.9.1"], "claude-code:ses_1"),
        (["codex-acp"], "codex:ses_1"),
        (["python3", "agent.py"], None),
        ([], None),
        (["sh", "-c", "cd /x", "--", "opencode"], None),
    ],
)
def test_whom_a_conversation_is_held_through(tmp_path: Path, command: list[str], inner: str | None) -> None:
    environment = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    folder(environment).mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"type": "session", "version": 1, "id": "o", "cwd": "/home/user", "command": command},
        {"type": "opened", "session": "ses_1"},
    ]
    text = "".join(json.dumps({"time": "2026-01-02T03:04:05Z", **line}) + "\n" for line in lines)
    path_of(environment, "o").write_text(text)
    [one] = [told for told in Adapter(environment).discover(None) if isinstance(told, Found)]
    assert one.native.get(INNER) == inner
