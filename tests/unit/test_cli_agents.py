"""sessionctl about agents: how they are named, listed, shown, and what is done to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessiond.cli import render
from sessiond.cli.agents import agent_exit_code
from sessiond.cli.verb import AgentName, names_agent, split_agent
from sessiond.errors import InvalidArgument, SessiondError, TimedOut
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.unit.agents_case import Daemons
from tests.unit.cli_case import StandIn, ctl, programs
from tests.unit.test_cli_screen import completed

PROMISED = """
id name session session_name state activity command cwd pid unit tty started_at ended_at exit_status signal
restarts group labels cpu_seconds memory_bytes
""".split()  # noqa: SIM905 - as the contract lists them


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Daemons]:
    (tmp_path / "w").mkdir()
    with StandIn() as stand_in:
        made = Daemons(stand_in, tmp_path / "w")
        yield made
        made.stop()


# ---- names ----------------------------------------------------------------------------------


def test_words_that_name_agents() -> None:
    assert split_agent("shop/claude") == AgentName("shop", "claude")
    assert split_agent("claude") == AgentName("", "claude")
    assert [names_agent(word) for word in ("shop/a", "shop", "./shop", "/x/y", "~/x")] == [
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("word", ["", "/", "shop/", "a/b/c", "./x", "/shop/claude", "~/shop/claude"])
def test_words_that_name_no_agent(word: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        split_agent(word)
    assert caught.value.code == "agent_invalid"
    assert caught.value.hint


@pytest.mark.parametrize("verb", ["stop", "kill", "restart", "wait", "logs", "status", "show"])
def test_verbs_for_both_say_how_an_agent_is_named(daemons: Daemons, verb: str) -> None:
    shop = daemons.start("shop")
    shop.add("build")
    [error] = ctl(verb, "build", "--json").errors
    assert error["code"] == "session_not_found"
    assert error["hint"].endswith("an agent is named SESSION/NAME here")
    [error] = ctl(verb, "./build", "--json").errors
    assert "SESSION/NAME" not in error["hint"]


def test_a_name_alone_means_the_only_living_agent_of_that_name(daemons: Daemons) -> None:
    shop, blog = daemons.start("shop"), daemons.start("blog")
    shop.add("claude", "completed")
    living = blog.add("claude")
    shop.add("server")
    assert ctl("pause", "claude", "--json").json[0]["id"] == living.id
    assert ctl("pause", "server").out == "shop/server: paused\n"
    assert ctl("pause", living.id[:12]).code == 0, "the beginning of an id is a name too"


def test_a_name_that_two_sessions_have_is_ambiguous_and_both_are_told(daemons: Daemons) -> None:
    daemons.start("shop").add("claude")
    daemons.start("blog").add("claude")
    done = ctl("pause", "claude", "--json")
    assert (done.code, done.errors[0]["code"]) == (7, "agent_ambiguous")
    assert "shop/claude" in done.errors[0]["message"]
    assert "blog/claude" in done.errors[0]["message"]
    assert ctl("pause", "shop/claude").code == 0


def test_of_ended_agents_of_one_name_the_youngest_of_the_only_session_is_meant(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("build", "failed")
    last = shop.add("build", "completed")
    assert ctl("rm", "build", "--json").json[0]["id"] == last.id


def test_a_session_that_is_silent_may_have_it_too(daemons: Daemons) -> None:
    daemons.start("shop").add("claude")
    daemons.start("blog").faults["ListAgents"] = SessiondError("disk_full", "no room")
    done = ctl("pause", "claude", "--json")
    assert (done.code, done.errors[0]["code"]) == (5, "sessions_unanswered")
    assert ctl("pause", "shop/claude").code == 0


def test_a_name_that_nobody_has(daemons: Daemons) -> None:
    daemons.start("shop")
    for words in (["pause", "nobody"], ["rm", "shop/nobody"], ["show", "shop/nobody"], ["stop", "no/body"]):
        done = ctl(*words, "--json")
        assert (done.code, done.errors[0]["hint"] != "") == (3, True), words


# ---- ps -------------------------------------------------------------------------------------


def test_ps_shows_what_has_not_ended_and_with_a_all(daemons: Daemons) -> None:
    shop, blog = daemons.start("shop"), daemons.start("blog")
    shop.add("claude", pid=4711, activity="thinking")
    shop.add("build", "failed", exit_status=3)
    blog.add("server", "paused", group="web", labels={"team": "web"})

    def names(*words: str) -> list[str]:
        return [f"{one['session_name']}/{one['name']}" for one in ctl("ps", "--json", *words).json]

    assert names() == ["blog/server", "shop/claude"]
    assert names("-a") == ["blog/server", "shop/claude", "shop/build"]
    assert names("shop") == ["shop/claude"]
    assert names("--state", "failed") == ["shop/build"]
    assert (
        names("--group", "web") == names("--label", "team") == names("--label", "team=web") == ["blog/server"]
    )
    assert names("--label", "team=other") == []
    assert ctl("ps", "--state", "active").code == 7
    shown = ctl("ps", "-a").out
    assert "running (thinking)" in shown
    assert "4711" in shown
    assert "UPTIME/ENDED" in shown
    assert "EXIT" not in ctl("ps").out


@pytest.mark.parametrize("problem", ["disk_low", "disk_full", "write_failed", "limit_reached"])
def test_why_nothing_is_recorded_is_told_in_words(daemons: Daemons, problem: str) -> None:
    shop = daemons.start("shop")
    shop.add("build", recording_problem=problem)
    for words in (("ps",), ("show", "shop/build")):
        out = ctl(*words).out
        assert "output is not recorded: " in out
        assert problem not in out
    assert ctl("ps", "--json").json[0]["recording_problem"] == problem


def test_ps_objects_have_every_key_and_null_where_nothing_is_known(daemons: Daemons) -> None:
    daemons.start("shop").add("claude")
    [one] = ctl("ps", "--json").json
    assert set(PROMISED) <= set(one)
    assert list(one)[: len(PROMISED)] == PROMISED
    for key in (
        "activity",
        "pid",
        "ended_at",
        "exit_status",
        "signal",
        "group",
        "cpu_seconds",
        "memory_bytes",
    ):
        assert one[key] is None, key
    assert (one["command"], one["labels"], one["restarts"], one["tty"]) == (["sleep", "1"], {}, 0, False)
    assert one["started_at"].endswith("Z")


def test_a_session_that_does_not_answer_is_told_and_makes_ps_fail(daemons: Daemons) -> None:
    daemons.start("shop").add("claude")
    daemons.start("blog").faults["ListAgents"] = SessiondError("disk_full", "no room")
    done = ctl("ps", "--json")
    assert [one["name"] for one in done.json] == ["claude"]
    assert (done.code, done.errors[0]["code"], done.errors[0]["fields"]["reason"]) == (
        1,
        "session_unanswered",
        "disk_full",
    )


def test_the_table_fits_the_terminal(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    shop = daemons.start("shop")
    shop.add(
        "claude", pid=4711, command=["claude", "--resume", "x" * 200], cpu_seconds=3.25, memory_bytes=1 << 30
    )
    shop.add("evil", command=["a\n\x1b[31mb"])
    for columns in (50, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        lines = ctl("ps", terminal=True).out.splitlines()
        assert len(lines) == 3
        assert max(map(render.width, lines)) <= columns
    assert "1.0G" in lines[1]
    assert "\x1b" not in ctl("ps").out
    monkeypatch.setenv("COLUMNS", "50")
    assert "MEM" not in ctl("ps", terminal=True).out


def test_no_agents_is_no_error_and_says_what_to_do(daemons: Daemons) -> None:
    daemons.start("shop")
    done = ctl("ps")
    assert (done.code, done.out) == (0, "")
    assert "sessionctl run" in done.err
    assert ctl("ps", "--json").out == "[]\n"


# ---- life -----------------------------------------------------------------------------------


def test_verbs_that_both_have_take_sessions_and_agents_in_one_call(daemons: Daemons) -> None:
    daemons.start("shop").add("claude")
    daemons.start("blog")
    done = ctl("stop", "blog", "shop/claude", "--json")
    assert [(one["name"], one["state"]) for one in done.json] == [
        ("blog", "inactive"),
        ("claude", "terminated"),
    ]
    assert ctl("restart", "shop/claude").out == "shop/claude: running\n"


def test_of_several_each_is_tried_unless_the_first_failure_ends_it(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    for name in ("a", "b"):
        shop.add(name)
    done = ctl("pause", "shop/none", "shop/a", "--json")
    assert (done.code, [one["name"] for one in done.json]) == (3, ["a"])
    done = ctl("pause", "shop/none", "shop/b", "--fail-fast", "--json")
    assert (done.code, done.json) == (3, [])
    assert [one["code"] for one in done.errors] == ["agent_not_found", "skipped"]
    assert len(shop.requests("PauseAgent")) == 3


def test_a_failure_of_one_of_several_says_of_which(daemons: Daemons) -> None:
    daemons.start("shop").add("a")
    daemons.start("blog")
    done = ctl("pause", "shop/none", "blog/none", "shop/a", "--json")
    assert [one["message"].split(":")[0] for one in done.errors] == ["shop/none", "blog/none"]
    assert not ctl("pause", "shop/none", "--json").errors[0]["message"].startswith("shop/none")
    done = ctl("pause", "shop/none", "shop/a", "--fail-fast", "--json")
    assert [one["message"].split(":")[0] for one in done.errors] == ["shop/none", "shop/a"]


def test_kill_kills_an_agent_or_sends_its_main_process_a_signal(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("a")
    assert ctl("kill", "shop/a", "--signal", "hup").out == "shop/a: HUP sent\n"
    assert shop.requests("SignalAgent")[0].signal == "hup"
    assert ctl("kill", "shop/a").out == "shop/a: terminated\n"
    assert ctl("kill", "shop/a", "-s", "nonsense", "--json").errors[0]["code"] == "signal_invalid"
    assert ctl("signal", "shop/a").code == 2, "which signal?"
    ctl("signal", "a", "-s", "USR1", "--tree")
    assert shop.requests("SignalAgent")[1].all


def test_rm_takes_those_that_run_only_by_force(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("a")
    done = ctl("rm", "shop/a", "--json")
    assert (done.code, done.errors[0]["code"]) == (4, "agent_running")
    assert ctl("rm", "shop/a", "--force").out == "shop/a: removed\n"
    assert shop.agents == []


def test_options_choose_agents_and_each_has_its_result(daemons: Daemons) -> None:
    shop, blog = daemons.start("shop"), daemons.start("blog")
    shop.add("a", group="web")
    shop.add("b", group="web")
    shop.add("old", "failed", group="web")
    blog.add("c", labels={"x": "1"})
    shop.codes["b"] = "agent_not_running"
    done = ctl("pause", "--group", "web", "--json")
    assert done.code == 4
    assert [(one["name"], one["error"] and one["error"]["code"]) for one in done.json] == [
        ("a", None),
        ("b", "agent_not_running"),
    ]
    assert [one["message"] for one in done.errors] == ["shop/b: it is agent_not_running"]
    [request] = shop.requests("BatchAgents")
    assert request.action == pb.BATCH_ACTION_PAUSE
    assert not blog.requests("BatchAgents")
    assert [one["name"] for one in ctl("stop", "--label", "x=1", "--json").json] == ["c"]
    assert [one["name"] for one in ctl("resume", "--session", "blog", "--all", "--json").json] == ["c"]
    assert [one["name"] for one in ctl("restart", "--state", "failed", "--json").json] == ["old"]
    assert [one["name"] for one in ctl("rm", "--all", "--json").json] == ["old"]
    nothing = ctl("kill", "--group", "nobody")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "No agent fits.\n")


def test_what_a_batch_cannot_carry_is_done_to_each(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("a", group="g")
    shop.add("b", "completed", group="g")
    assert ctl("signal", "-s", "USR1", "--tree", "--group", "g", "--json").json[0]["name"] == "a"
    assert [one["name"] for one in ctl("rm", "--group", "g", "--force", "--json").json] == ["a", "b"]
    assert not shop.requests("BatchAgents")


@pytest.mark.parametrize(
    "words",
    [
        ["pause"],
        ["pause", "shop/a", "--all"],
        ["stop"],
        ["stop", "shop", "--group", "g"],
        ["restart", "shop/a", "--no-wait"],
    ],
)
def test_those_meant_are_named_or_chosen(words: list[str]) -> None:
    assert ctl(*words).code == 2


# ---- wait -----------------------------------------------------------------------------------


def test_the_exit_code_of_wait_is_the_agents_and_of_several_the_highest(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("good", "completed", exit_status=0)
    shop.add("bad", "failed", exit_status=3)
    shop.add("killed", "terminated", signal="SIGKILL")
    shop.add("late", "failed", signal="SIGTERM", result="timeout")
    shop.add("all", "failed", exit_status=255)
    for name, code in {"good": 0, "bad": 3, "killed": 137, "late": 124, "all": 255}.items():
        assert ctl("wait", f"shop/{name}").code == code, name
    assert ctl("wait", "shop/bad", "shop/good", "shop/late").code == 124
    assert ctl("wait", "shop", "shop/bad").code == 3, "sessions beside agents count for nothing"
    assert ctl("wait", "shop/none").code == 125
    assert ctl("wait", "shop/").code == 125
    assert ctl("wait", "shop/good", "--timeout", "soon").code == 125


def test_a_wait_for_an_agent_that_runs_out_exits_as_timeout_does(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("a")
    shop.faults["WaitAgent"] = TimedOut("wait_timeout", "not yet")
    assert ctl("wait", "shop/a", "--timeout", "1").code == 124
    assert shop.requests("WaitAgent")[0].timeout.seconds == 1


def test_wait_takes_states_of_what_it_waits_for(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("a", "paused")
    assert ctl("wait", "shop/a", "--state", "paused").code == 0
    assert list(shop.requests("WaitAgent")[0].states) == [pb.AGENT_STATE_PAUSED]
    assert ctl("wait", "shop/a", "--state", "archived").code == 125
    assert ctl("wait", "shop", "--state", "paused", "--json").errors[0]["code"] == "state_invalid"


def test_wait_for_a_group_counts_those_that_ended_before_only_when_asked(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("old", "failed", exit_status=9, group="g")
    shop.add("a", group="g")
    assert ctl("wait", "--group", "g").code == 0
    assert ctl("wait", "--group", "g", "--ended").code == 9
    assert shop.requests("BatchAgents")[0].action == pb.BATCH_ACTION_WAIT


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ({"state": "completed", "exit_status": 0}, 0),
        ({"state": "failed", "signal": "SIGSEGV"}, 139),
        ({"state": "terminated", "signal": "SIGTERM", "result": "timeout"}, 143),
        ({"state": "failed", "signal": "SIG34"}, 162),
        ({"state": "failed"}, 125),
        ({"state": "running", "ended_at": None}, 0),
    ],
)
def test_exit_codes_of_ends(end: dict[str, Any], code: int) -> None:
    known = {"exit_status": None, "signal": None, "result": None, "ended_at": "2023-11-14T22:13:20Z"}
    assert agent_exit_code({**known, **end}) == code


# ---- show, status, logs ---------------------------------------------------------------------


def test_show_tells_all_of_an_agent(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("claude", tty=True, columns=80, rows=24, clients=2, pid=7, record_bytes=3000, record_start=1000)
    told = ctl("show", "shop/claude", "--json").json
    assert set(PROMISED) <= set(told)
    page = ctl("show", "shop/claude").out
    assert "80x24, 2 clients attached" in page
    assert "2.9K, of which 2.0K are held" in page


def test_status_tells_what_systemd_counts_and_the_journal(daemons: Daemons, tmp_path: Path) -> None:
    shop = daemons.start("shop")
    one = shop.add("server", pid=7)
    shop.add("gone", "failed", exit_status=2, reason="its time was up")
    scripts = {
        "systemctl": "echo TasksCurrent=3; echo ControlGroup=/g; echo CPUUsageNSec=1500000000",
        "journalctl": 'echo "journal of $*"',
    }
    from tests.unit.cli_case import have_manager

    have_manager()
    with programs(tmp_path / "bin", **scripts):
        told = ctl("status", "shop/server", "--json").json
        assert (told["tasks"], told["cgroup"], told["cpu_seconds"]) == (3, "/g", 1.5)
        page = ctl("status", "shop/server").out
        assert page.startswith("● shop/server - sleep 1\n")
        assert f"USER_UNIT={one.unit}" in page
        ended = ctl("status", "shop/gone").out
        assert ended.startswith("○ shop/gone")
        assert "failed (exit status 2)" in ended
        assert "its time was up" in ended


def test_logs_of_an_agent_are_those_of_its_unit(daemons: Daemons, tmp_path: Path) -> None:
    import subprocess
    import sys

    shop = daemons.start("shop")
    plain = shop.add("server")
    shop.add("claude", tty=True)
    argv = [sys.executable, "-m", "sessiond.cli.main", "logs"]
    with programs(tmp_path / "bin", journalctl='for word; do echo "$word"; done'):
        done = subprocess.run([*argv, "shop/server"], capture_output=True, text=True, timeout=60)
        assert f"_SYSTEMD_USER_UNIT={plain.unit}" in done.stdout.splitlines()
        assert done.stderr == ""
        done = subprocess.run([*argv, "shop/claude"], capture_output=True, text=True, timeout=60)
        assert "sessionctl output shop/claude" in done.stderr


# ---- completion -----------------------------------------------------------------------------


def test_agents_are_completed(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("claude")
    shop.add("old", "completed")
    odd = shop.add("odd name; rm")
    assert completed("sessionctl pause shop/cl") == ["plain,shop/claude"]
    running = ["plain,shop/claude", f"plain,shop/{odd.id[:8]}"]
    assert completed("sessionctl show sh") == ["plain,shop", *running, "plain,shop/old"]
    assert completed("sessionctl stop shop/claude shop/c") == [""], "it is named already"
    assert completed("sessionctl start shop/") == [""]
    assert completed("sessionctl ps sh") == ["plain,shop"]
    # By name alone where a verb takes that, and one session has it.
    daemons.start("blog").add("old", "completed")
    assert completed("sessionctl pause cl") == ["plain,claude"]
    assert completed("sessionctl output ol") == [""]
    assert completed("sessionctl stop cl") == [""]


def test_agents_are_completed_that_a_verb_can_do_something_with(daemons: Daemons) -> None:
    shop = daemons.start("shop")
    shop.add("claude", group="web")
    shop.add("frozen", "paused", group="web")
    shop.add("old", "completed", group="night shift")
    living = ["plain,shop/claude", "plain,shop/frozen"]
    assert completed("sessionctl stop shop/") == living
    assert completed("sessionctl attach shop/") == living
    assert completed("sessionctl pause shop/") == ["plain,shop/claude"]
    assert completed("sessionctl resume shop/") == ["plain,shop/frozen"]
    assert completed("sessionctl rm shop/") == [*living, "plain,shop/old"]
    # What a shell would have to quote is left for the person to type.
    assert completed("sessionctl stop --group ") == ["plain,web"]


def test_signals_are_completed() -> None:
    assert completed("sessionctl signal -s US") == ["plain,USR1", "plain,USR2"]
    assert completed("sessionctl signal -s sigus") == ["plain,SIGUSR1", "plain,SIGUSR2"]
    assert completed("sessionctl run --stop-signal HU") == ["plain,HUP"]


def test_the_command_of_run_is_completed(tmp_path: Path) -> None:
    with programs(tmp_path / "bin", frobnicate="", frob="exit 1"):
        (tmp_path / "bin/frob-data").touch(mode=0o644)
        assert completed("sessionctl run -d -- fro") == ["plain,frob", "plain,frobnicate"]
        assert completed("sessionctl run frobnicate in") == ["file,in"]
        assert completed("sessionctl run -- ./x") == ["file,./x"]


def test_errors_are_objects_for_programs_also_for_agents(daemons: Daemons) -> None:
    daemons.start("shop")
    done = ctl("show", "shop/none", "--json")
    assert set(json.loads(done.err)["error"]) == {"code", "message", "hint", "fields"}
