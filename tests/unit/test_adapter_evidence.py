"""What shows that a process has a conversation open, whichever program's it is."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sessiond.adapters.reading.evidence import began_ns, executes, life_of, marked
from sessiond.model.agent_session import MARKER, STOPPED, Found, Life
from sessiond.ports.discovery import Evidence, Possible
from tests.unit.adapter_case import FakeProcess

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
FOUND = Found("pi", "one", cwd="/w/one")


@pytest.mark.parametrize(
    ("mark", "named"),
    [
        ("pi:one", ("pi", "one")),
        ("acp:a:b", ("acp", "a:b")),
        ("pi:", ("", "")),
        ("pi", ("", "")),
        ("", ("", "")),
    ],
)
def test_our_mark_names_both_or_nothing(mark: str, named: tuple[str, str]) -> None:
    assert marked(FakeProcess(7, environment={MARKER: mark})) == named
    assert marked(FakeProcess(7)) == ("", "")


def test_a_process_began_when_it_was_started() -> None:
    before = time.time_ns()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        after = time.time_ns()
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        began = began_ns(FakeProcess(child.pid, start_time=int(stat.rpartition(")")[2].split()[19])))
    assert before - 2 * TICK_NS <= began <= after + TICK_NS


@pytest.mark.parametrize(
    ("cwd", "other", "may"),
    [
        ("/w/one", "/w/one", True),
        ("/w/one", "/w/link", True),
        ("/w/one", "", True),
        ("", "/w/two", True),
        ("/w/one", "/w/two", False),
    ],
)
def test_a_silent_process_may_have_any_of_its_folder(tmp_path: Path, cwd: str, other: str, may: bool) -> None:
    (tmp_path / "w/one").mkdir(parents=True)
    (tmp_path / "w/link").symlink_to("one")
    cwd, other = (f"{tmp_path}{path}" if path else "" for path in (cwd, other))
    evidence = Evidence(possible=[Possible(7, 70, other, "who knows")])
    expected = Life(None, "who knows", 7, 70) if may else STOPPED
    assert life_of(Found("pi", "one", cwd=cwd), evidence) == expected


def test_what_is_known_comes_before_what_may_be() -> None:
    possible = [Possible(7, 70, "/w/one", "who knows")]
    assert life_of(FOUND, Evidence({"one": Life(True, pid=8)}, possible)).pid == 8
    assert life_of(FOUND, Evidence({}, possible, "closed")).reason == "who knows"
    assert life_of(FOUND, Evidence({}, unknown="closed")) == Life(None, "closed")
    assert life_of(FOUND, Evidence()) == STOPPED


@pytest.mark.parametrize(
    "argv",
    [
        ("node", "/usr/lib/node_modules/@openai/codex/bin/codex.js"),
        ("node", "--no-warnings", "/usr/bin/codex", "exec"),
        ("node", "--import", "tsx", "/src/codex.ts"),
        ("python3", "/opt/codex"),
        ("bun", "codex.mjs"),
    ],
)
def test_an_interpreter_runs_the_program_that_its_script_is(argv: tuple[str, ...]) -> None:
    assert executes(FakeProcess(7, 1, argv[0], argv=argv), "codex")


@pytest.mark.parametrize(
    "argv",
    [
        ("python3", "codex.py"),
        ("node", "build.js", "codex"),
        ("node", "server.js", "--for", "codex.js"),
        ("node", "-e", "1", "a", "b", "c", "/usr/bin/codex"),
        ("vim", "/usr/bin/codex"),
        ("node",),
        (),
    ],
)
def test_who_only_names_a_program_does_not_run_it(argv: tuple[str, ...]) -> None:
    assert not executes(FakeProcess(7, 1, argv[0] if argv else "x", argv=argv), "codex")
