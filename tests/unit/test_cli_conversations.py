"""Conversations in sessionctl: lists, transcripts, adapters, labels, completion."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sessiond.cli.conversation import short_ids
from sessiond.cli.discovered import moment
from sessiond.cli.host import Host
from sessiond.cli.render import width
from sessiond.errors import InvalidArgument, Unreachable
from sessiond.model.agent_session import STOPPED, Life, Probe, Problem, ToolUse, Transcript
from tests.unit.cli_case import StandIn, ctl
from tests.unit.cli_conversations_case import (
    CLAUDE,
    CODEX,
    PATIENCE,
    PI,
    PROMISED,
    SESSIONCTL,
    Machine,
    alive,
    finder,
    found,
    machine,
    said,
)

HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\nrm -rf\u202e\x9b31m"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn(finder(*machine())) as made:
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Machine]:
    with StandIn(finder(*machine())) as stand_in:
        made = Machine(stand_in, tmp_path)
        yield made
        made.daemons.stop()


def ids(*words: str) -> list[str]:
    done = ctl("discovered", "--json", *words)
    assert done.code == 0, done.err
    return [one["id"] for one in done.json]


# ---- the list -------------------------------------------------------------------------------


def test_every_object_has_all_that_is_promised(stand_in: StandIn) -> None:
    rows = ctl("discovered", "-a", "--json").json
    assert [one["id"] for one in rows] == [CLAUDE, CODEX, PI, "ses_old", "ses_older"]
    assert all(one.keys() >= PROMISED for one in rows)
    assert len({tuple(one) for one in rows}) == 1, "the same keys in the same order"
    first, last = rows[0], rows[-1]
    assert first | {"age_ms": 0, "updated_at": ""} == {
        "id": CLAUDE,
        "adapter": "claude-code",
        "status": "running",
        "reason": None,
        "activity": "thinking",
        "cwd": "/home/user/project",
        "model": "claude-opus",
        "title": "Mend the basket",
        "first_prompt": "Fix the failing test",
        "last_prompt": "And the other one",
        "started_at": "2026-01-31T12:00:30Z",
        "updated_at": "",
        "ended_at": None,
        "pid": 4242,
        "tokens_in": 1200,
        "tokens_out": 34,
        "cost_usd": 0.25,
        "parent": None,
        "native": {"version": "2.0"},
        "session": None,
        "session_name": None,
        "agent": None,
        "agent_name": None,
        "labels": {},
        "annotations": {},
        "group": None,
        "launched_at": None,
        "age_ms": 0,
        "stale": False,
    }
    assert (last["cwd"], last["pid"], last["tokens_in"], last["status"]) == (None, None, None, "stopped")
    assert rows[2]["reason"] == "process 9 may have it open"
    assert rows[3]["parent"] == "ses_older"


def test_what_a_nest_calls_a_process_is_told_beside_what_it_is_called_here(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = found("named", life=Life(None, "process 42 runs as codex", 42, 7))
    other = found("other", life=Life(None, "process 421 runs as codex", 42, 7))
    stand_in.do(lambda: stand_in.finder.put(named, other))
    rows = {one["id"]: one for one in ctl("discovered", "--json").json}
    assert (rows["named"]["reason"], rows["named"]["pid"]) == ("process 42 runs as codex", 42)
    monkeypatch.setattr(Host, "pid", lambda host, inner: inner + 90_000)
    rows = {one["id"]: one for one in ctl("discovered", "--json").json}
    told = "process 42 runs as codex (process 42 of the nest is 90042 here)"
    assert (rows["named"]["reason"], rows["named"]["pid"]) == (told, 90042)
    assert rows["other"]["reason"] == "process 421 runs as codex"
    assert "90042 here" in ctl("discovered").out


def test_without_a_stopped_ones_are_left_out(stand_in: StandIn) -> None:
    assert ids() == [CLAUDE, CODEX, PI]
    assert ids("--status", "stopped") == ["ses_old", "ses_older"]


def test_filters(stand_in: StandIn) -> None:
    assert ids("--adapter", "codex", "--adapter", "pi") == [CODEX, PI]
    assert ids("--status", "waiting") == [CODEX]
    assert ids("--status", "waiting", "--status", "unknown") == [CODEX, PI]
    assert ids("--cwd", "/srv") == [CODEX]
    assert ids("--cwd", "/sr") == []
    assert ids("-a", "--since", "90min") == [CLAUDE, CODEX]
    assert ids("-a", "--since", "7d") == [CLAUDE, CODEX, PI, "ses_old"]
    assert ctl("tag", CODEX, "team=web", "--group", "nightly").code == 0
    for words in (["--label", "team"], ["--label", "team=web"], ["--group", "nightly"]):
        assert ids(*words) == [CODEX]
    assert ids("--label", "team=api") == []


def test_a_folder_is_meant_from_here(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in.do(lambda: stand_in.finder.put(found("here", cwd=str(tmp_path / "deep"), life=alive())))
    assert ids("--cwd", ".") == ["here"]
    assert ids("--cwd", "deep/..") == ["here"]


def test_those_of_a_session(here: Machine) -> None:
    one = here.shop.add("claude")
    here.put(replace(machine()[0], life=alive(mark=f"{here.shop.session}-{one.id}")))
    assert ids("-s", "shop") == [CLAUDE]
    row = ctl("discovered", "--json", "-s", "shop").json[0]
    assert (row["session"], row["session_name"], row["agent"]) == (here.shop.session, "shop", one.id)
    assert ctl("discovered", "-s", "nobody").code == 3


def test_limits_and_pages(stand_in: StandIn) -> None:
    first = ctl("discovered", "-a", "--limit", "2")
    assert len(first.out.splitlines()) == 3
    token = re.search(r"^5 in all; go on with: --page (\S+)$", first.err, re.MULTILINE)
    assert token is not None
    rest = ctl("discovered", "-a", "--json", "--limit", "2", "--page", token[1])
    assert [one["id"] for one in rest.json] == [PI, "ses_old"]
    told = json.loads(rest.err)
    assert told["total"] == 5
    assert ids("-a", "--limit", "2", "--page", told["next_page_token"]) == ["ses_older"]
    assert ctl("discovered", "--limit", "-1", "--json").errors[0]["code"] == "limit_invalid"
    assert ctl("discovered", "--limit", "10001").code == 7
    assert ctl("discovered", "--page", "nonsense", "--json").errors[0]["code"] == "page_token_invalid"


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (["--adapter", "clod"], 7, "adapter_unknown"),
        (["--status", "sleeping"], 7, "status_invalid"),
        (["--since", "yesterday"], 7, "since_invalid"),
        (["--since", ""], 7, "since_invalid"),
        (["--since", "-1h"], 7, "since_invalid"),
        (["--since", "999999d"], 7, "since_invalid"),
        (["--since", "0001-01-01T00:00+14:00"], 7, "since_invalid"),
        (["--since", "2026-13-01"], 7, "since_invalid"),
        (["--label", "=x"], 7, "label_invalid"),
        (["--limit", "many"], 2, "usage"),
        (["--nonsense"], 2, "usage"),
        (["-f", "--limit", "3"], 2, "usage"),
        (["-f", "--errors"], 2, "usage"),
        (["word"], 2, "usage"),
    ],
)
def test_mistakes_are_told_with_a_hint(stand_in: StandIn, words: list[str], code: int, name: str) -> None:
    done = ctl("discovered", "--json", *words)
    assert (done.code, done.out, done.errors[0]["code"]) == (code, "", name)
    assert done.errors[0]["hint"]
    assert "hint:" in ctl("discovered", *words).err


def test_times_that_since_takes() -> None:
    now = datetime.now(UTC)
    for text, ago in {"30min": 1800, "2h": 7200, "7d": 604800, "90": 90, "1.5h": 5400}.items():
        assert abs((now - moment(text)).total_seconds() - ago) < PATIENCE
    local = datetime(2026, 1, 31).astimezone()
    assert moment("2026-01-31") == local
    assert moment("2026-01-31T12:00") == local + timedelta(hours=12)
    assert moment("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(InvalidArgument, match="not a time"):
        moment("\x1b[31m")


def test_nothing_there_is_said_on_stderr(stand_in: StandIn) -> None:
    assert "None fits: sessionctl discovered -a" in ctl("discovered", "--cwd", "/nowhere").err
    assert ctl("discovered", "-a", "--cwd", "/nowhere").err == "None fits.\n"
    stand_in.finder.rows.clear()
    assert ids("--refresh") == []
    assert "None runs: sessionctl discovered -a" in ctl("discovered").err
    assert ctl("discovered", "-a").err == "None was found.\n"


def test_a_refresh_looks_anew(stand_in: StandIn) -> None:
    assert len(ids()) == 3
    one = found("new", life=alive())
    stand_in.finder.rows[one.key] = one
    assert "new" not in ids()
    assert "new" in ids("--refresh")


def test_without_a_supervisor_it_says_how_to_get_one() -> None:
    for words in (["discovered"], ["peek", "x"], ["adapters"], ["tag", "x", "a=1"]):
        done = ctl(*words)
        assert (done.code, done.out) == (5, "")
        assert "hint: " in done.err


# ---- for people -----------------------------------------------------------------------------


def lines(columns: int | None, *words: str) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        if columns is not None:
            patch.setenv("COLUMNS", str(columns))
        patch.setenv("NO_COLOR", "1")
        return ctl("discovered", "-a", *words, terminal=columns is not None).out.splitlines()


def test_a_wide_terminal_shows_all(stand_in: StandIn) -> None:
    header, first, second, third, reason, *_ = lines(160)
    assert header.split() == ["ID", "ADAPTER", "STATUS", "UPDATED", "PID", "FOLDER", "ABOUT", "MODEL"]
    assert re.search(
        r"^3f2a91c0-5d3e +claude-code +running \(thinking\) +\dmin ago +4242 +/home/user/project +"
        r"Mend the basket +claude-opus$",
        first,
    )
    assert "waiting (waiting)" not in second
    assert "waiting" in second
    assert "unknown" in third
    assert reason == "  ! process 9 may have it open"


@pytest.mark.parametrize("columns", [64, 80, 100, 120, 200])
def test_rows_fit_the_terminal(stand_in: StandIn, columns: int) -> None:
    wide = "漢字" * 40
    stand_in.do(lambda: stand_in.finder.put(found("w" * 60, title=wide, cwd="/" + "deep/" * 40)))
    shown = lines(columns)
    assert all(width(line) <= columns for line in shown), shown
    assert shown[0].split()[:3] == ["ID", "ADAPTER", "STATUS"]
    assert ("MODEL" in shown[0]) == (columns >= 100)
    assert ("UPDATED" in shown[0]) == (columns >= 80), shown


def test_ids_are_shown_whole_in_a_pipe_and_as_they_can_be_typed_on_a_terminal(stand_in: StandIn) -> None:
    assert lines(None)[1].split()[0] == CLAUDE
    near = CODEX[:20] + "ffff"
    stand_in.do(lambda: stand_in.finder.put(found(near, "codex")))
    words = [line.split()[0] for line in lines(160)[1:] if not line.startswith(" ")]
    assert CODEX[:21] in words
    assert near[:21] in words
    for word in words:
        assert ctl("peek", word, "--json").errors[0]["code"] == "transcript_missing", word


def test_short_ids_tell_all_apart() -> None:
    def short(*words: str) -> list[str]:
        row = {"agent": None, "session": None}
        return short_ids([row | {"id": word} for word in words])

    assert short() == []
    assert short(CLAUDE, CLAUDE) == ["3f2a91c0-5d3e"] * 2
    assert short("a" * 30, "a" * 20, "b") == ["a" * 21, "a" * 20, "b"]
    many = [f"{number:036d}" for number in range(10_000)]
    assert short(*many) == many


def test_what_runs_in_a_session_is_shown_with_its_agent(here: Machine) -> None:
    here.shop.add("claude")
    agent = here.shop.agents[0]
    # Names come from the agent's own files, which a daemon writes.
    here.put(replace(machine()[0], life=alive(mark=f"{here.shop.session}-{agent.id}")))
    header, first, *_ = lines(200)
    assert header.split()[-1] == "AGENT"
    assert first.split()[-1] == f"shop/{agent.id}"


def test_texts_of_others_do_nothing_to_the_terminal(stand_in: StandIn) -> None:
    hostile = found("evil", life=alive(activity=HOSTILE), title=HOSTILE, model=HOSTILE, cwd="/x/" + HOSTILE)
    stand_in.do(lambda: stand_in.finder.put(hostile))
    tool = ToolUse(id="", name=HOSTILE, content=HOSTILE)
    stand_in.finder.transcripts["claude-code", "evil"] = Transcript(
        (said("user", HOSTILE), said(HOSTILE, HOSTILE, tool))
    )
    for words in (["discovered"], ["peek", "evil"], ["tag", "evil", "a=1"]):
        shown = ctl(*words)
        assert shown.code == 0
        assert not set(shown.out) & set("\x1b\x07\r\x9b\u202e"), words
    assert "\\x1b]0;owned" in ctl("discovered").out
    assert HOSTILE in [one["title"] for one in ctl("discovered", "--json").json]


def test_an_old_answer_is_marked(stand_in: StandIn) -> None:
    assert len(ids()) == 3
    stand_in.do(lambda: stand_in.finder.fail("codex", Unreachable("adapter_failed", "it is broken")))
    stand_in.do(lambda: stand_in.finder.put(replace(stand_in.finder.rows["pi", PI], trouble="/w: odd")))
    rows = {one["id"]: one for one in ctl("discovered", "--json", "--refresh").json}
    assert {key: one["stale"] for key, one in rows.items()} == {CLAUDE: False, CODEX: True, PI: True}
    shown = ctl("discovered")
    assert shown.out.count("! this is an old answer: its file cannot be read, or its adapter fails") == 2
    assert "One file or adapter could not be read: sessionctl discovered --errors" in shown.err
    errors = ctl("discovered", "--errors", "--json").json
    assert errors[0] | {"since": ""} == {
        "adapter": "codex",
        "path": None,
        "code": "adapter_failed",
        "reason": "it is broken",
        "since": "",
    }


def test_errors(stand_in: StandIn) -> None:
    done = ctl("discovered", "--errors")
    assert (done.code, done.out, done.err) == (0, "", "Everything could be read.\n")
    trouble = [
        Problem("pi", "file_malformed", HOSTILE, "/home/user/bad\x1b[2J.jsonl"),
        Problem("pi", "file_unreadable", "permission denied", "/home/user/other"),
    ]
    stand_in.do(lambda: stand_in.finder.tell_problems("pi", *trouble))
    stand_in.wait(stand_in.finder.read())
    shown = ctl("discovered", "--errors").out
    assert "\x1b" not in shown
    assert re.search(r"^pi +file_unreadable +/home/user/other +permission denied$", shown, re.MULTILINE)
    assert len(ctl("discovered", "--errors", "--adapter", "pi", "--json").json) == 2
    assert ctl("discovered", "--errors", "--adapter", "codex", "--json").json == []
    assert "2 files or adapters could not be read" in ctl("discovered").err


# ---- following ------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_changes_are_followed_line_by_line(stand_in: StandIn, as_json: bool) -> None:
    argv = [*SESSIONCTL, "discovered", "-f", *(["--json"] if as_json else [])]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout is not None
        begun = [process.stdout.readline() for _ in range(3)]
        stand_in.do(lambda: stand_in.finder.put(found("new", life=alive(5, activity=HOSTILE))))
        came = process.stdout.readline()
        stand_in.do(lambda: stand_in.finder.set_life("claude-code", "new", STOPPED))
        went = process.stdout.readline()
        trouble = Problem("pi", "file_malformed", "no JSON", "/home/user/x")
        stand_in.do(lambda: stand_in.finder.tell_problems("pi", trouble))
        problem = process.stdout.readline()
        stand_in.do(lambda: stand_in.finder.tell_problems("pi", Problem("pi", "adapter_failed", "gone")))
        others = {process.stdout.readline() for _ in range(2)}
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    if as_json:
        assert {json.loads(line)["agent_session"]["id"] for line in begun} == {CLAUDE, CODEX, PI}
        assert json.loads(came)["agent_session"].keys() >= PROMISED
        assert json.loads(went) == {"removed": {"adapter": "claude-code", "id": "new"}}
        assert json.loads(problem)["problem"]["code"] == "file_malformed"
        told = [json.loads(line)["problem"] for line in others]
        assert {(one["code"], one["path"]) for one in told} == {
            ("adapter_failed", None),
            ("", "/home/user/x"),
        }
    else:
        assert any(line.startswith(f"claude-code {CLAUDE}: running (thinking, pid 4242)") for line in begun)
        assert "\x1b" not in came
        assert came.endswith("pid 5)\n")
        assert went == "claude-code new: gone\n"
        assert problem == "pi: /home/user/x no JSON\n"
        assert others == {"pi: gone\n", "pi: /home/user/x well again\n"}


def test_a_filter_that_is_wrong_ends_following(stand_in: StandIn) -> None:
    assert ctl("discovered", "-f", "--adapter", "clod", "--json").errors[0]["code"] == "adapter_unknown"


# ---- one conversation -----------------------------------------------------------------------


def test_peek(here: Machine) -> None:
    call = ToolUse(id="t1", name="Bash", content='{"command": "ls"}')
    result = ToolUse(id="t1", content="\n".join(map(str, range(30))), result=True, failed=True)
    here.tell(
        ("claude-code", CLAUDE),
        said("user", "Fix it"),
        said("assistant", "I look.\n\tfirst", call, cut=True),
        said("tool", "", result),
    )
    shown = ctl("peek", "3f2a").out.splitlines()
    assert shown[0] == f"claude-code {CLAUDE}: running (thinking, pid 4242)"
    assert shown[1:4] == ["", shown[2], "Fix it"]
    assert re.match(r"user  \w+ 2026-01-31 ", shown[2])
    assert shown[6:10] == ["I look.", "\tfirst", "…", '-> Bash {"command": "ls"}']
    assert shown[12] == "<- 0"
    assert shown[-1] == "   … 18 more lines"
    told = ctl("peek", CLAUDE, "-n", "2", "--json").json
    assert set(told) == {"agent_session", "messages", "has_more", "problems"}
    assert told["agent_session"].keys() >= PROMISED
    assert (len(told["messages"]), told["has_more"]) == (2, True)
    assert told["messages"][0] == {
        "role": "assistant",
        "text": "I look.\n\tfirst",
        "thinking": None,
        "tools": [
            {"id": "t1", "name": "Bash", "content": '{"command": "ls"}', "result": False, "failed": False}
        ],
        "time": "2026-01-31T12:00:00Z",
        "model": None,
        "tokens_in": None,
        "tokens_out": None,
        "cut": True,
    }
    assert ctl("peek", CLAUDE, "-n", "1").out.splitlines()[1] == "…"


def test_peek_at_nothing(here: Machine) -> None:
    here.tell(("codex", CODEX))
    done = ctl("peek", CODEX)
    assert (done.code, done.err) == (0, "Nothing was said yet.\n")


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (["nobody"], 3, "agent_session_not_found"),
        (["0198"], 3, "transcript_missing"),
        (["ses_"], 7, "agent_session_ambiguous"),
        (["3f2"], 3, "agent_session_not_found"),
        (["shop/nobody"], 3, "agent_session_not_found"),
        (["./folder"], 7, "agent_session_invalid"),
        ([""], 7, "agent_session_invalid"),
        ([CLAUDE, "-n", "0"], 7, "count_invalid"),
        ([CLAUDE, "-n", "1001"], 7, "count_invalid"),
        ([], 2, "usage"),
    ],
)
def test_peek_at_what_is_not_there(here: Machine, words: list[str], code: int, name: str) -> None:
    done = ctl("peek", *words, "--json")
    assert (done.code, done.out, done.errors[0]["code"]) == (code, "", name)
    assert done.errors[0]["hint"] or name == "transcript_missing"


def test_labels_and_groups(stand_in: StandIn) -> None:
    done = ctl("tag", "codex:0198", "team=web", "urgent=", "--group", "nightly", "--note", "ticket=1")
    assert (done.code, done.out) == (0, f"codex {CODEX}: team=web urgent=, group nightly\n"), done.err
    told = ctl("tag", CODEX, "urgent-", "--note", "ticket-", "--note", "more=a b", "--json").json
    assert (told["labels"], told["annotations"], told["group"]) == (
        {"team": "web"},
        {"more": "a b"},
        "nightly",
    )
    assert ctl("tag", CODEX, "team-", "--group", "").out == f"codex {CODEX}: no labels\n"


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        ([CODEX], 2, "usage"),
        ([CODEX, "word"], 2, "usage"),
        ([CODEX, "a=1", "a-"], 2, "usage"),
        ([CODEX, "a b=1"], 7, "label_invalid"),
        ([CODEX, "--group", "x" * 300], 7, "group_invalid"),
        ([CODEX, "--note", "=1"], 2, "usage"),
        (["nobody", "a=1"], 3, "agent_session_not_found"),
    ],
)
def test_labels_that_cannot_be(stand_in: StandIn, words: list[str], code: int, name: str) -> None:
    done = ctl("tag", *words, "--json")
    assert (done.code, done.errors[0]["code"]) == (code, name), done.err
    assert ctl("discovered", "--json").json[1]["labels"] == {}


# ---- adapters -------------------------------------------------------------------------------


def test_adapters(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/opt/bin:/usr/bin")
    stand_in.finder.probes["codex"] = Probe(
        "codex",
        "Codex",
        installed=True,
        path="/opt/bin/codex",
        version="0.60",
        verified="0.60",
        abilities=("launch",),
        places=("/home/user/.codex",),
    )
    many = [Problem("pi", "file_malformed", HOSTILE, f"/x{number}") for number in range(5)]
    stand_in.finder.tell_problems("pi", *many)
    stand_in.finder.probes["pi"] = Probe("pi", "Pi", installed=True, path="/opt/bin/pi")
    shown = ctl("adapters")
    header, claude, codex, *rest = shown.out.splitlines()
    assert header.split() == ["NAME", "PROGRAM", "VERSION", "TESTED", "KNOWN", "LIVE", "PATH"]
    assert re.search(r"^claude-code +claude-code +not installed +unverified +\d +\d +-$", claude)
    assert re.search(r"^codex +Codex +0\.60 +0\.60 +\d +\d +/opt/bin/codex$", codex)
    assert re.search(r"^pi +Pi +unknown +unverified", rest[1])
    assert [line.split()[1] for line in rest[2:5]] == ["/x0:", "/x1:", "/x2:"]
    assert rest[5] == "  ! 2 more: sessionctl discovered --errors"
    assert "\x1b" not in shown.out
    assert stand_in.finder.search_paths[-1] == "/opt/bin:/usr/bin"
    ids()
    told = ctl("adapters", "codex", "--json").json
    assert told == [
        {
            "name": "codex",
            "title": "Codex",
            "installed": True,
            "path": "/opt/bin/codex",
            "version": "0.60",
            "verified": "0.60",
            "abilities": ["launch"],
            "places": ["/home/user/.codex"],
            "agent_sessions": 1,
            "live": 1,
            "disabled": False,
            "problems": [],
        }
    ]
    assert ctl("adapters", "clod", "--json").errors[0]["code"] == "adapter_unknown"


def test_of_an_adapter_that_is_switched_off_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSIOND_ADAPTERS_DISABLED", "codex")
    with StandIn():
        assert re.search(r"^codex \(off\) +codex +- +- +0 +0 +-$", ctl("adapters").out, re.MULTILINE)
        [told] = ctl("adapters", "codex", "--json").json
        assert (told["disabled"], told["installed"], told["verified"]) == (True, None, None)


def test_doctor_tells_of_files_that_cannot_be_read(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.doctor.checks", lambda *_: [])
    good = ctl("doctor", "--json")
    assert good.json[0]["check"] == "agent_files"
    assert good.json[0]["status"] == "ok"
    trouble = Problem("pi", "file_malformed", "no JSON", "/home/user/bad.jsonl")
    stand_in.do(lambda: stand_in.finder.tell_problems("pi", trouble))
    stand_in.wait(stand_in.finder.read())
    bad = ctl("doctor", "--json")
    assert (bad.code, bad.json[0]["status"]) == (0, "warning")
    assert "/home/user/bad.jsonl (no JSON)" in bad.json[0]["detail"]
    assert bad.json[0]["fix"] == "sessionctl discovered --errors"


# ---- completion -----------------------------------------------------------------------------


def completed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("_SESSIONCTL_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(("sessionctl", *words)))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    if not words[-1]:
        monkeypatch.setenv("COMP_WORDS", " ".join(("sessionctl", *words[:-1])) + " ")
    done = ctl()
    monkeypatch.delenv("_SESSIONCTL_COMPLETE")
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


def test_ids_are_completed(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    here.put(found("bad id; rm"), found("x" * 8, "pi"))
    for verb in ("peek", "tag", "continue", "takeover"):
        assert completed(monkeypatch, verb, "3f") == [CLAUDE]
    assert completed(monkeypatch, "peek", "codex:0") == [f"codex:{CODEX}"]
    everything = completed(monkeypatch, "peek", "")
    assert set(everything) == {CLAUDE, CODEX, PI, "ses_old", "ses_older", "x" * 8}
    ctl("tag", CODEX, "--group", "nightly")
    assert completed(monkeypatch, "discovered", "--group", "n") == ["nightly"]
    assert completed(monkeypatch, "peek", "nothing") == completed(monkeypatch, "tag", "--group", "x") == []


def test_adapters_and_statuses_are_completed_without_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(monkeypatch, "run", "--adapter", "c") == ["claude-code", "codex"]
    assert completed(monkeypatch, "discovered", "--adapter", "op") == ["opencode", "openclaw"]
    assert completed(monkeypatch, "discovered", "--status", "w") == ["waiting"]
    assert completed(monkeypatch, "adapters", "codex", "c") == ["claude-code"]
    assert completed(monkeypatch, "peek", "3f") == []
