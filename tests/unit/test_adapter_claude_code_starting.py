"""How Claude Code is started and gone on with, and which version a program is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sessiond.adapters import make_adapter
from sessiond.errors import InvalidArgument, Unsupported
from sessiond.model.agent_session import Wish
from sessiond.ports.discovery import AgentAdapter
from tests.unit.adapter_case import found_by

FIXTURES = Path(__file__).parent.parent / "fixtures/claude_code"
ASKED = "602475a8-03c2-4783-bb21-695163b470d6"
WITH_SUBAGENT = "242e3a83-63fe-450d-b2c5-c1604649c428"
SUBAGENT = "agent-a777abfe2215002c7"
NEW = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def adapter(isolated_home: Path) -> AgentAdapter:
    shutil.copytree(FIXTURES, isolated_home / ".claude")
    return make_adapter("claude-code", {"HOME": str(isolated_home)})


def test_launching_chooses_the_id(adapter: AgentAdapter) -> None:
    plan = adapter.launch(Wish("/w", "--help me", "opus", id=NEW))
    assert plan.argv == ("claude", "--session-id", NEW, "--model", "opus", "--", "--help me")
    assert (plan.id, plan.learn, plan.input) == (NEW, "", None)
    plan = adapter.launch(Wish("/w", "-x\n\u00e4", print=True, id=NEW))
    assert plan.argv == ("claude", "-p", "--output-format", "stream-json", "--verbose", "--session-id", NEW)
    assert (plan.id, plan.input) == (NEW, "-x\n\u00e4".encode())
    assert adapter.launch(Wish("/w", id=NEW)).argv == ("claude", "--session-id", NEW)


def test_without_an_id_it_is_learnt(adapter: AgentAdapter) -> None:
    assert adapter.launch(Wish("/w", "hi")).learn == "files"
    assert adapter.launch(Wish("/w", "hi", print=True)).learn == "stdout"
    assert adapter.identify(json.dumps({"type": "system", "subtype": "init", "session_id": NEW})) == NEW
    for line in ("", "hello", "[]", '{"session_id":7}', '{"session_id":"../x"}', "{" * 100_000, "\udcff"):
        assert adapter.identify(line) is None


def test_going_on(adapter: AgentAdapter) -> None:
    found = found_by(adapter)
    plan = adapter.resume(found[ASKED], Wish("/w", "-more"))
    assert (plan.argv, plan.id) == (("claude", "--resume", ASKED, "--", "-more"), ASKED)
    plan = adapter.resume(found[ASKED], Wish("/w", "more", "opus", print=True))
    assert plan.argv[-4:] == ("--resume", ASKED, "--model", "opus")
    assert plan.input == b"more"
    with pytest.raises(Unsupported) as refused:
        adapter.resume(found[SUBAGENT], Wish("/w", "more"))
    assert refused.value.code == "adapter_cannot"
    assert WITH_SUBAGENT in refused.value.hint


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("/w", " ", print=True), "prompt_missing"),
        (Wish("/w", "x" * 200_000), "prompt_too_large"),
        (Wish("/w", "x" * 11_000_000, print=True), "prompt_too_large"),
        (Wish("/w", "a\0b"), "prompt_invalid"),
        (Wish("/w", "hi", "--dangerous"), "model_invalid"),
        (Wish("/w", "hi", "a b"), "model_invalid"),
        (Wish("/w", "hi", id="no-uuid"), "id_invalid"),
    ],
)
def test_what_cannot_be_started_says_why(adapter: AgentAdapter, wish: Wish, code: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        adapter.launch(wish)
    assert refused.value.code == code
    assert refused.value.hint


def test_the_version_is_told_without_running_it(adapter: AgentAdapter, tmp_path: Path) -> None:
    package = tmp_path / "node_modules/@anthropic-ai/claude-code"
    (package / "bin").mkdir(parents=True)
    (package / "package.json").write_text('{"name":"@anthropic-ai/claude-code","version":"2.1.329"}')
    (package / "bin/claude.exe").write_text("")
    (tmp_path / "claude").symlink_to(package / "bin/claude.exe")
    assert adapter.version(str(tmp_path / "claude")) == "2.1.329"
    native = tmp_path / "share/claude/versions/2.1.12"
    native.parent.mkdir(parents=True)
    native.write_text("")
    assert adapter.version(str(native)) == "2.1.12"
    (package / "package.json").write_text('{"name":"another","version":"1.0.0"}')
    assert adapter.version(str(tmp_path / "claude")) == ""
    assert adapter.version("/nowhere/claude") == ""
    assert adapter.version("") == ""
