"""Terminals as a person uses them: sessionctl on a terminal, agents in units, managers that come and go."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.agents_case import Crew, crew_of
from tests.system.product import HOME, PATIENCE, SUPERVISOR, Product, until
from tests.unit.cli_terminal_case import OnTerminal

SESSIONCTL = str(Path(sys.executable).parent / "sessionctl")
DETACH = b"\x1c"
CLEARED = b"\x1b[H\x1b[2J"
# Tells its size when that changes, and each line that is typed.
TALKER = """
trap 'echo "size $(stty size)"' WINCH
echo "size $(stty size)"
# Where the time is up within a line, its rest comes with the next.
part=
while :; do if read -r -t 1 line; then echo "got $part$line"; part=; else part=$part$line; fi; done
"""


def on_terminal(
    product: Product, *words: str, columns: int = 80, rows: int = 24, cwd: str = HOME
) -> OnTerminal:
    """sessionctl of the host on a terminal out here."""
    program = product.host.argv([SESSIONCTL], cwd=cwd)
    return OnTerminal(*words, columns=columns, rows=rows, program=program)


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    with crew_of(product, product.started()["id"]) as made:
        yield made


def clients(crew: Crew, agent: str, count: int) -> None:
    """Wait until so many are attached."""
    until(lambda: crew.get(agent).clients == count, f"{count} attached to {agent}")


# ---- run ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", ["", "; sleep 1; echo late"])
def test_run_shows_all_that_was_printed_and_where_it_was_printed(product: Product, tail: str) -> None:
    session = product.started()
    with on_terminal(product, "run", "--", "sh", "-c", f"seq 300{tail}; exit 3", cwd=session["path"]) as run:
        assert run.end() == 3
        assert run.mode == run.before
        lines = [line.strip() for line in run.seen.decode().split("\r\n")]
        numbers = [int(line) for line in lines if line.isdigit()]
        # The first follows what cleared the screen.
        assert numbers[-299:] == list(range(2, 301))
        assert b"1\r\n2\r\n" in run.seen
        assert run.seen.endswith(b"[" + session["name"].encode() + b"/sh-1 ended: exit status 3]\r\n")
        if tail:
            assert run.seen.rindex(b"late") > run.seen.rindex(CLEARED)


def test_a_window_that_is_closed_leaves_the_program_running(product: Product, crew: Crew) -> None:
    with on_terminal(
        product, "run", "-s", crew.session, "--name", "it", "--", "bash", "-c", TALKER, columns=91, rows=33
    ) as run:
        run.see(b"size 33 91")
        clients(crew, "it", 1)
        run.hang_up()
    clients(crew, "it", 0)
    with on_terminal(product, "attach", "it", columns=70, rows=20) as again:
        again.see(b"size 20 70")
        again.type(b"still there\r")
        again.see(b"got still there")
        again.type(DETACH)
        assert again.end() == 0
        assert again.mode == again.before
        assert b"/it]\r\n" in again.seen
    # Whoever leaves with the detach key has gone when told so.
    assert crew.get("it").clients == 0
    crew.kill("it")


# ---- several at once ------------------------------------------------------------------------


def test_several_share_a_terminal_and_its_size_follows_the_policy(product: Product, crew: Crew) -> None:
    crew.run("bash", "-c", TALKER, name="it", tty=True)
    with on_terminal(product, "attach", "it", columns=100, rows=30) as one:
        one.see(b"size 30 100")
        with on_terminal(product, "attach", "it", columns=80, rows=20) as two:
            one.see(b"size 20 80")
            two.type(b"hello\r")
            one.see(b"got hello")
            two.see(b"got hello")
            one.type(b"\r")
            two.see(b"size 30 100")
            with on_terminal(
                product, "attach", "it", "--size-policy", "smallest", columns=90, rows=40
            ) as three:
                three.see(b"size 20 80")
                with on_terminal(
                    product, "attach", "it", "--read-only", "--detach-key", "ctrl-a", columns=40, rows=10
                ) as looking:
                    looking.see(b"got hello")
                    looking.type(b"refused\r" + DETACH)
                    three.type(b"taken\r")
                    looking.see(b"got taken")
                    assert crew.get("it").clients == 4
                    looking.type(b"\x01")
                    assert looking.end() == 0
                two.hang_up()
                three.see(b"size 30 90")
                assert b"refused" not in three.seen
                three.resize(60, 50)
                three.see(b"size 30 60")
                three.type(DETACH)
                assert three.end() == 0
        crew.kill("it")
        assert one.end() == 0
        assert one.seen.endswith(b"/it ended: signal SIGKILL]\r\n")
        assert one.mode == one.before
    lines = crew.lines("it")
    assert "got refused" not in lines
    assert not any("40" in line.split() for line in lines)


def test_who_looks_at_an_agent_that_is_removed_is_told_its_name(product: Product, crew: Crew) -> None:
    session = product.row(crew.session)["name"]
    for flags in ([], ["--json"]):
        made = crew.run("bash", "-c", TALKER, name="it", tty=True)
        with on_terminal(product, "attach", "it", *flags) as client:
            client.see(b"size")
            product.ctl("rm", "--force", "it")
            assert client.end() == 0
            if flags:
                told = json.loads(client.seen[client.seen.rindex(b'{\r\n  "detached') :])["agent"]
                assert (told["session_name"], told["id"]) == (session, made.id)
            else:
                assert client.seen.endswith(b"[" + session.encode() + b"/it ended: signal SIGKILL]\r\n")


# ---- managers that go away ------------------------------------------------------------------


def test_managers_that_end_while_attached_are_not_missed(product: Product, crew: Crew) -> None:
    crew.run("bash", "-c", TALKER, name="it", tty=True)
    with on_terminal(product, "attach", "it") as client:
        client.see(b"size")
        supervisor = product.supervisor_pid()
        product.kill(supervisor)
        client.type(b"no supervisor\r")
        client.see(b"got no supervisor")
        product.serving(besides=supervisor)
        assert b"connection lost" not in client.seen
        pid = product.pid(crew.session)
        product.ctl("restart", crew.session)
        client.type(b"another daemon\r")
        client.see(b"got another daemon")
        assert product.pid(crew.session) != pid
        # The agent ends while its daemon is away, the client's is told when the next one is there.
        product.ctl("stop", crew.session)
        assert client.end() == 0
        assert b"/it ended: " in client.seen
        assert client.mode == client.before
    product.host.systemctl("reset-failed", SUPERVISOR, check=False)


def test_a_flood_over_dead_daemons_is_whole_in_the_record_and_seen_to_its_end(
    product: Product, crew: Crew
) -> None:
    count = 60_000
    script = f"import sys\nfor n in range({count}): print('line', n, 'x' * 60)\nsys.stdin.readline()"
    with on_terminal(
        product, "run", "-s", crew.session, "--name", "it", "--", "python3", "-uc", script
    ) as client:
        client.see(b"line")
        for kill in range(1, 4):
            drawn = client.seen.count(CLEARED)
            crew.kill_daemon()
            client.see(CLEARED, besides=drawn)
            assert client.seen.count(b"connection lost") <= kill
        client.see(b"line %d " % (count - 1))
        client.type(b"\r")
        assert client.end() == 0
    shown = product.ctl("output", f"{crew.session}/it")
    assert shown.splitlines()[:count] == [f"line {n} {'x' * 60}" for n in range(count)]


@pytest.mark.parametrize("tty", ["--tty", "--no-tty"])
def test_following_output_tells_each_line_once_over_dead_daemons(
    product: Product, crew: Crew, tty: str
) -> None:
    script = "for n in $(seq 100); do echo line $n; sleep 0.03; done; sleep 1"
    product.ctl("run", "-d", "-s", crew.session, tty, "--name", "it", "--", "bash", "-c", script)
    # With its session: who is asked for a name alone has each session's answer in a few seconds, or none.
    follow = [SESSIONCTL, "output", "-f", "-n", "1000", f"{crew.session}/it"]
    following = product.host.popen(follow, stderr=subprocess.PIPE)
    crew.kill_daemon()
    product.ctl("restart", crew.session)
    out, err = following.communicate(timeout=PATIENCE)
    assert not err, err
    assert following.returncode == 0
    lines = out.splitlines()
    assert lines[-1:] == ["line 100"], f"{crew.get('it')}\n{product.ctl('logs', crew.session)}"
    assert crew.get("it").exit_status == 0
    assert lines == [f"line {n}" for n in range(1, 101)]


# ---- what was recorded ----------------------------------------------------------------------


def test_what_was_recorded_is_replayed_and_exported(product: Product, crew: Crew) -> None:
    script = "for n in 1 2 3; do printf '\\033[3%dmstep %d\\033[0m \\303\\251\\n' $n $n; sleep 0.5; done"
    crew.sh(script, name="it", tty=True, columns=60, rows=10)
    crew.wait("it")
    with on_terminal(product, "replay", "it", "--speed", "8") as client:
        assert client.end() == 0
        assert client.mode == client.before
        assert b"\x1b[31mstep 1\x1b[0m \xc3\xa9\r\n\x1b[32mstep 2" in client.seen
    with on_terminal(product, "replay", "it", "--speed", "0.02", "--search", "step 2") as client:
        client.see(b"step 2")
        client.type(b"q")
        assert client.end() == 0
        assert b"step 3" not in client.seen
    cast, text, page = (f"{HOME}/it.{form}" for form in ("cast", "txt", "html"))
    for file in (cast, text, page):
        product.ctl("export", "it", file)
    assert product.host.path(text).read_text() == "step 1 é\nstep 2 é\nstep 3 é\n"
    assert "step 3" in product.host.path(page).read_text()
    head, *events = map(json.loads, product.host.path(cast).read_text().splitlines())
    assert (head["version"], head["width"], head["height"]) == (2, 60, 10)
    assert events[-1][0] >= 0.4
    assert product.refused(4, "export", "it", cast)["code"] == "file_exists"


def test_asciinema_plays_an_export(product: Product, crew: Crew) -> None:
    if shutil.which("asciinema") is None:
        pytest.skip("asciinema is not installed: packaging/bootstrap installs it")
    crew.sh("printf 'played \\303\\251\\n'; sleep 0.1; echo to the end", name="it", tty=True)
    crew.wait("it")
    line = f"{shlex.quote(SESSIONCTL)} export it - --format cast | asciinema play -s 100 -"
    done = product.host.run(["script", "-qec", line, "/dev/null"])
    assert "played é" in done.stdout
    assert "to the end" in done.stdout
