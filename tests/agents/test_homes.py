"""Programs led to other folders than the usual ones: several accounts of one person."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sessiond.model.agent_session import Found, Wish
from tests.agents.model_server import ModelServer
from tests.agents.programs import Program
from tests.agents.running import Runner
from tests.agents.seen import Seen

# Adapter, program, variable, the usual folder of its files, what of it leads to its configuration, and how it
# is told to print.
LED = [
    ("claude-code", "claude", "CLAUDE_CONFIG_DIR", ".claude", ("-p",)),
    ("codex", "codex", "CODEX_HOME", ".codex", ("exec", "--skip-git-repo-check")),
    ("opencode", "opencode", "XDG_DATA_HOME", ".local/share", ("run",)),
    ("pi", "pi", "PI_CODING_AGENT_DIR", ".pi/agent", ("-p",)),
]


@pytest.mark.parametrize(("adapter_name", "name", "variable", "usual", "words"), LED)
def test_each_is_found_where_it_is_led_and_gone_on_with_there(
    program: Callable[[str], Program],
    adapter: Callable[[str, Program], Seen],
    running: Runner,
    model: ModelServer,
    home: Path,
    folder: Path,
    adapter_name: str,
    name: str,
    variable: str,
    usual: str,
    words: tuple[str, ...],
) -> None:
    made = program(name)
    work = home.parent / "work account"
    if (home / usual).is_dir():
        shutil.copytree(home / usual, work)
    work.mkdir(exist_ok=True)
    if name == "claude":
        shutil.copy(home / ".claude.json", work / ".claude.json")
    seen = adapter(adapter_name, made)
    assert running(made, *words, "at home").wait() == 0
    [at_home] = seen.rows().values()

    run = running(made, *words, "slow at work", env={variable: str(work)})
    model.wait_held("slow at work")
    if name == "pi":
        # It writes once it is answered, and is led there all the while.
        assert set(seen.rows()) == {at_home.id}
        model.release()

    def both(rows: Mapping[str, Found]) -> Mapping[str, Found] | None:
        there = [one.status for one in rows.values() if one.id != at_home.id]
        # The other two say nothing of what they do before it is done.
        known = "running" in there or name in ("opencode", "pi")
        return rows if len(rows) == 2 and known else None

    rows = seen.until(both, "what runs there")
    if name == "pi":
        assert run.wait() == 0
        rows = seen.rows()
    [at_work] = [one for one in rows.values() if one.id != at_home.id]
    assert at_work.native["home"].startswith(str(work))
    assert rows[at_home.id].status == "stopped", rows
    model.release()
    assert run.wait() == 0
    assert {one.status for one in seen.rows().values()} == {"stopped"}

    # Nobody runs there any more, and another supervisor looks.
    again = adapter(adapter_name, made)
    rows = again.rows()
    assert set(rows) == {at_home.id, at_work.id}
    plan = again.adapter.resume(rows[at_work.id], Wish(str(folder), "more", print=True, environment=made.env))
    assert plan.environment[variable] == str(work)
    reader = None
    if plan.input is not None:
        given = home / "prompt"
        given.write_bytes(plan.input)
        reader = given.open("rb")
    run = running(made, *plan.argv[1:], env=plan.environment, stdin=reader.fileno() if reader else None)
    assert run.wait() == 0, run.text
    if reader:
        reader.close()
    rows = again.rows()
    assert set(rows) == {at_home.id, at_work.id}, rows
    said = again.adapter.transcript(rows[at_work.id], 20).messages
    assert [one.text.strip('"') for one in said if one.role == "user"] == ["slow at work", "more"]
