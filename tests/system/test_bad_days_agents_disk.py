"""Bad days of agents' disks: full while they print, without power, garbage in place of their files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sessiond.errors import SessiondError
from sessiond.model.unit import daemon_unit
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import HOME, PATIENCE, STATE, Product, until

CONFIG = f"{HOME}/.config/sessiond/config.toml"
FOR_EVER = "while :; do sleep 1000; done"
# Numbered lines, as long as a file lets it go on.
COUNTING = (
    "import os, sys, time\nnumber = 0\nwhile os.path.exists('go'):\n"
    "    number += 1\n    os.write(1, b'%08d %s\\n' % (number, b'x' * 90))\n    time.sleep(0.0005)\n"
    "sys.exit(4)\n"
)


@contextmanager
def small_disk(product: Product, folder: str, size: str) -> Iterator[None]:
    """A file system of its own at a folder of the user's."""
    options = f"size={size},uid={product.host.uid},gid={product.host.uid},mode=700"
    product.host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], user=False)
    try:
        yield
    finally:
        product.host.run(["umount", "--lazy", folder], user=False)


def row(product: Product, agent: pb.Agent) -> dict[str, Any]:
    """What ps --json tells of it."""
    [found] = [one for one in product.json("ps", "-a", agent.session) if one["id"] == agent.id]
    return dict(found)


def pieces(crew: Crew, agent: str) -> list[pb.StreamRecordResponse]:
    """All that is held of what it printed."""
    request = pb.StreamRecordRequest(session=crew.session, agent=agent)
    return list(crew.stub.StreamRecord(request, timeout=PATIENCE))


# ---- no room


@pytest.mark.parametrize("low_disk", ["0", "2M"])
def test_a_disk_that_fills_up_under_a_terminal_stops_its_record_and_nothing_else(
    product: Product, low_disk: str
) -> None:
    product.write(CONFIG, f'[recording]\nlow_disk = "{low_disk}"\n')
    try:
        with crew_of(product, product.started()["id"]) as crew:
            folder = f"{STATE}/sessions/{crew.session}/agents"
            product.host.run(["mkdir", "-p", "-m", "700", folder])
            with small_disk(product, folder, "8m"):
                workspace = product.row(crew.session)["path"]
                product.write(f"{workspace}/go", "")
                agent = crew.run("python3", "-c", COUNTING, tty=True, name="writer")
                until(lambda: crew.get(agent.id).record_bytes > 1 << 16, "its record")
                filler = shlex.quote(f"{folder}/filler")
                fill = f"dd if=/dev/zero of={filler} bs=4k 2>/dev/null; true"
                product.host.run(["sh", "-c", fill])
                problem = until(lambda: row(product, agent)["recording_problem"], "the problem to be told")
                assert problem in ("disk_full", "disk_low")
                # It goes on, and who looks at it sees what it prints now.
                held = crew.get(agent.id).record_bytes

                def seen() -> int:
                    lines = crew.call("GetScreen", agent=agent.id).content.split("\n")
                    return max((int(line[:8]) for line in lines if line[:8].isdigit()), default=0)

                first = seen()
                until(lambda: seen() > first + 100, "it to go on on its screen")
                assert state(crew.get(agent.id)) == "running"
                assert crew.get(agent.id).record_bytes - held < 1 << 20
                # A kill in the middle of it changes nothing.
                crew.kill_daemon()
                crew.wait(agent.id, "running")
                until(lambda: row(product, agent)["recording_problem"], "the problem to be told again")
                product.host.run(["rm", f"{folder}/filler"])
                until(lambda: row(product, agent)["recording_problem"] is None, "no problem any more")
                held = crew.get(agent.id).record_bytes
                until(lambda: crew.get(agent.id).record_bytes > held + 10_000, "it to be recorded again")
                product.host.run(["rm", f"{workspace}/go"])
                ended = crew.wait(agent.id)
                assert (state(ended), ended.exit_status) == ("failed", 4)
                told = pieces(crew, agent.id)
                gaps = sum(one.gap for one in told)
                data = b"".join(one.data for one in told)
                assert gaps > 0
                assert len(data) == ended.record_bytes
                numbers = [int(line[:8]) for line in data.split(b"\r\n") if len(line) == 99]
                assert numbers == sorted(set(numbers))
                # What is held and what is told to be missing is all that it printed: 101 bytes a line.
                assert len(data) + gaps == numbers[-1] * 101
                replayed = product.ctl("replay", "writer", "--speed", "1000")
                assert f"{numbers[-1]:08d}" in replayed
                assert int(product.json("output", "writer", "-n", "1")["lines"][0]["text"][:8]) == numbers[-1]
                product.ctl("stop", crew.session)
    finally:
        product.host.run(["rm", CONFIG])


def test_a_disk_that_fills_up_under_files_is_told_and_the_agent_goes_on(product: Product) -> None:
    product.write(CONFIG, '[recording]\nlow_disk = "20M"\n')
    try:
        with crew_of(product, product.started()["id"]) as crew:
            folder = f"{STATE}/sessions/{crew.session}/agents"
            product.host.run(["mkdir", "-p", "-m", "700", folder])
            # What is left of it holds all that is written in a minute: the program must not meet a full disk
            # before its output gives way.
            with small_disk(product, folder, "64m"):
                workspace = product.row(crew.session)["path"]
                product.write(f"{workspace}/go", "")
                agent = crew.run("python3", "-c", COUNTING, name="writer")
                until(lambda: crew.get(agent.id).record_bytes > 1 << 18, "its output")
                product.host.run(["sh", "-c", f"head -c 48m /dev/zero > {folder}/filler"])
                until(
                    lambda: row(product, agent)["recording_problem"] == "disk_low", "the problem to be told"
                )
                assert state(crew.get(agent.id)) == "running"
                until(lambda: crew.get(agent.id).record_start > 0, "what it wrote first to give way")
                product.host.run(["rm", f"{folder}/filler"])
                until(lambda: row(product, agent)["recording_problem"] is None, "no problem any more")
                product.host.run(["rm", f"{workspace}/go"])
                ended = crew.wait(agent.id)
                assert (state(ended), ended.exit_status) == ("failed", 4)
                told = pieces(crew, agent.id)
                data = b"".join(one.data for one in told)
                assert sum(one.gap for one in told) == ended.record_start > 0
                assert len(data) + ended.record_start == ended.record_bytes
                page = product.json("output", "writer")
                assert page["start"] == ended.record_start
                numbers = [int(line[:8]) for line in data.split(b"\n") if len(line) == 99]
                assert numbers == list(range(numbers[0], ended.record_bytes // 100 + 1))
                product.ctl("stop", crew.session)
    finally:
        product.host.run(["rm", CONFIG])


# ---- no power


def test_after_a_power_cut_a_session_at_rest_tells_what_ran_and_starts_it_again_when_asked(
    fresh_product: Callable[..., Product],
) -> None:
    product = fresh_product()
    session = product.new("--start")["id"]
    with crew_of(product, session) as crew:
        lost = crew.sh(f"echo before; {FOR_EVER}", name="lost")
        tty = crew.sh(f"printf 'on screen'; {FOR_EVER}", tty=True, name="tty", resurrect=True)
        crew.wait(crew.sh("exit 3", name="done").id)
        flood = crew.run("sh", "-c", "while :; do echo line; done", tty=True, name="flood")
        crew.printed(lost.id, "before")
        until(lambda: crew.get(tty.id).record_bytes, "its screen")
        until(lambda: crew.get(flood.id).record_bytes > 100_000, "the flood")
    product.host.reboot()
    product.serving()
    rows = {one["name"]: one for one in product.json("ps", "-a")}
    assert {name: one["state"] for name, one in rows.items()} == dict.fromkeys(rows, "failed")
    assert set(rows) == {"lost", "tty", "done", "flood"}
    assert rows["done"]["exit_status"] == 3
    for name in ("lost", "tty", "flood"):
        assert "machine went down" in rows[name]["reason"]
        assert (rows[name]["exit_status"], rows[name]["pid"]) == (None, None)
    assert product.json("ps") == []
    assert product.host.sessionctl("wait", f"{session}/lost", check=False).returncode == 125
    assert product.ctl("output", f"{session}/lost") == "before\n"
    assert product.ctl("screen", f"{session}/tty").startswith("on screen")
    assert set(product.ctl("output", f"{session}/flood").split()) == {"line"}
    product.ctl("start", session)
    with crew_of(product, session) as crew:
        now = crew.wait(tty.id, "running")
        assert (now.id, now.name) == (tty.id, "tty")
        assert {one.name: state(one) for one in crew.list(include_ended=True)} == {
            "lost": "failed",
            "tty": "running",
            "done": "failed",
            "flood": "failed",
        }
        crew.kill(tty.id)


# ---- garbage


_DAMAGE = {
    "truncated": "head -c 20 {0} > {0}.x; mv {0}.x {0}",
    "empty": ": > {0}",
    "noise": "head -c 5000 /dev/urandom > {0}",
    "folder": "rm -f {0}; mkdir {0}; touch {0}/kept",
    "fifo": "rm -f {0}; mkfifo {0}",
    "dangling": "rm -f {0}; ln -s /nowhere/at/all {0}",
    "link": "rm -f {0}; ln -s /etc/passwd {0}",
    "device": "rm -f {0}; ln -s /dev/zero {0}",
    "closed": "chmod 000 {0}",
    "deep": "python3 -c \"print('[' * 200000)\" > {0}",
    "huge": "truncate -s 64M {0}",
}


@pytest.mark.parametrize(
    "file", ["spec.json", "end.json", "index", "output", "screen", "asked", "unreleased"]
)
def test_garbage_in_agents_folders_spoils_no_other_agent_and_is_told(product: Product, file: str) -> None:
    session = product.started()["id"]
    with crew_of(product, session) as crew:
        good = crew.sh(f"echo good; {FOR_EVER}", tty=True, name="good")
        fine = crew.wait(crew.sh("echo fine; exit 5", name="fine").id)
        crew.printed(good.id, "good")
        pid = product.pid(session)
        victims, script = {}, []
        for number, damage in enumerate(_DAMAGE):
            for tty, runs in ((bool(number % 2), True), (not number % 2, False)):
                name = f"{damage}-{'runs' if runs else 'ended'}"
                victim = crew.sh(f"echo {damage}; {FOR_EVER if runs else 'exit 6'}", tty=tty, name=name)
                crew.printed(victim.id, damage) if runs else crew.wait(victim.id)
                victims[name] = victim
                base = ("record" if tty else "stdout") if file == "output" else file
                path = f"{crew.folder(victim)}/{base}"
                script.append(f"[ -e {path} ] || : > {path}; {_DAMAGE[damage].format(path)}")
        agents = f"{STATE}/sessions/{session}/agents"
        script.append(f"mkfifo {agents}/{'a' * 16}; echo x > {agents}/{'b' * 16}; mkdir {agents}/{'c' * 16}")
        script.append(f"ln -s /etc {agents}/{'d' * 16}; mkdir {agents}/other; echo y > {agents}/file")
        product.host.run(["sh", "-c", "\n".join(script)])
        product.kill(pid)
        product.back(session, besides=pid)
        assert crew.wait(good.id, "running").pid == good.pid
        assert crew.get(fine.id).exit_status == 5
        assert crew.lines(fine.id) == ["fine"]
        known = {one.name for one in crew.list(include_ended=True)}
        assert {"good", "fine"} <= known
        log = product.journal("--user-unit", daemon_unit(session))
        for name, victim in victims.items():
            if name not in known:
                # What runs is left alone, and can still be ended by hand.
                assert victim.id in log, name
                crew.refused("agent_not_found", "GetAgent", agent=victim.id)
                if name.endswith("-runs"):
                    assert product.host.show(victim.unit, "MainPID")["MainPID"] == str(victim.pid)
                    product.host.systemctl("stop", victim.unit)
                continue
            # Whatever is asked of it has an answer, if only that it cannot be told.
            answered(crew, "GetAgent", victim.id)
            answered(crew, "ReadOutput", victim.id)
            answered(crew, "ReadOutput", victim.id, grep="x", last=5)
            answered(crew, "GetScreen", victim.id)
            if name.endswith("-runs") and file != "end.json":
                assert crew.wait(victim.id, "running").pid == victim.pid, name
                assert (state(crew.kill(victim.id))) == "terminated", name
        if file in ("spec.json", "end.json"):
            assert "a" * 16 in log
            assert "b" * 16 in log
        left = product.host.run(["sh", "-c", f"ls -A {agents}"]).stdout.split()
        assert {victim.id for victim in victims.values()} < set(left)
        assert {"a" * 16, "b" * 16, "c" * 16, "d" * 16, "other", "file"} < set(left)
        # A new one starts, and the session ends and begins as ever; at rest the same is told.
        assert state(crew.wait(crew.sh("exit 0").id)) == "completed"
        crew.kill(good.id)
        product.ctl("stop", session)
        rest = {one["name"] for one in product.json("ps", "-a")}
        assert rest - {"sh-1"} == known
        product.ctl("start", session)
        product.host.run(["sh", "-c", f"chmod -R u+rwX {agents}"])


def answered(crew: Crew, method: str, agent: str, **fields: Any) -> None:
    """Ask; an error must be one of ours, with a code that says what is wrong."""
    try:
        crew.call(method, agent=agent, **fields)
        code = ""
    except SessiondError as error:
        code = error.code
    assert code in ("", "record_gone", "state_denied", "state_failed", "agent_no_terminal"), method
