"""Bad days that programs make: forks, floods, bytes that are no text, endless lines, hostile sequences."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from sessiond.rpc._generated.v1 import agents_pb2 as pb
from tests.system.agents_case import Crew, crew_of, state
from tests.system.product import HOME, PATIENCE, Product, until

CONFIG = f"{HOME}/.config/sessiond/config.toml"
FOR_EVER = "while :; do sleep 1000; done"
MIB = 1 << 20
# What agents that are up to no good may make their daemon grow by.
GROWTH = 48 * MIB


@pytest.fixture
def crew(product: Product) -> Iterator[Crew]:
    """The agents of a session that is active."""
    with crew_of(product, product.started()["id"]) as made:
        yield made


def memory(product: Product, pid: int) -> int:
    """Resident bytes of a process of the host."""
    resident: int = psutil.Process(product.host.outer_pid(pid)).memory_info().rss
    return resident


def program(crew: Crew, name: str, text: str) -> str:
    """Write a Python program into the workspace; returns its path."""
    path = f"{crew.product.row(crew.session)['path']}/{name}.py"
    crew.product.write(path, text)
    return path


def printed(product: Product, *words: str) -> bytes:
    """What sessionctl prints, byte for byte."""
    sessionctl = Path(sys.executable).parent / "sessionctl"
    done = subprocess.run(
        product.host.argv([sessionctl, *words]), capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done
    return done.stdout


def screen(crew: Crew, agent: str) -> str:
    """What is on its screen."""
    content: str = crew.call("GetScreen", agent=agent).content
    return content


def harmless(text: str) -> bool:
    """Whether it holds nothing that steers a terminal."""
    return not any((ord(one) < 32 and one not in "\t\n") or 127 <= ord(one) < 160 for one in text)


# ---- children

_CHILDREN = {
    # Still in the program's own process group.
    "background": f"sh -c ': MARK; {FOR_EVER}' &",
    # A session of its own, its parent gone: what daemons do.
    "double fork": f"(setsid sh -c ': MARK; {FOR_EVER}' </dev/null >/dev/null 2>&1 &)",
    # Deaf to all that can be ignored.
    "deaf": f"(setsid sh -c ': MARK; trap \"\" TERM HUP INT QUIT PIPE USR1 USR2; {FOR_EVER}' &)",
    # Stopped: it takes no signal but one.
    "stopped": f"(setsid sh -c ': MARK; kill -STOP $$; {FOR_EVER}' &)",
    # Many at once, each with a child.
    "many": "for i in $(seq 60); do (setsid sh -c ': MARK; sleep 1000 & wait' &); done",
}


_ENDS = {
    "exit 0": ("exit 0", (0, "")),
    "exit 3": ("exit 3", (3, "")),
    "signal": ("kill -SEGV $$", (0, "SIGSEGV")),
    "stop": (FOR_EVER, (0, "SIGTERM")),
    "kill": (FOR_EVER, (0, "SIGKILL")),
}


@pytest.mark.parametrize("tty", [False, True])
def test_whatever_it_forked_its_cgroup_is_empty_when_it_has_ended(crew: Crew, tty: bool) -> None:
    product = crew.product
    marker = f"forked-{int(tty)}"
    made = {}
    for end, (last, _) in _ENDS.items():
        for name, text in _CHILDREN.items():
            script = f"ulimit -c 0; mkfifo $SESSIOND_AGENT\n{text.replace('MARK', marker)}\necho forked\n"
            made[end, name] = crew.sh(
                f"{script} read go < $SESSIOND_AGENT; {last}", tty=tty, stop_timeout={"seconds": 3}, group=end
            )
    groups = {}
    for key, agent in made.items():
        crew.printed(agent.id, "forked")
        groups[key] = product.host.show(agent.unit, "ControlGroup")["ControlGroup"]
        until(lambda agent=agent: len(crew.pids(agent)) > 1, f"the child of {key}")  # type: ignore[misc]
    assert len(crew.running(marker)) >= len(made)
    fifos = " ".join(
        f"{agent.cwd}/{agent.id}" for (end, _), agent in made.items() if end not in ("stop", "kill")
    )
    product.host.run(["sh", "-c", f"for one in {fifos}; do echo > $one; done"])
    for end in ("stop", "kill"):
        product.ctl(end, "--group", end)
    for (end, name), agent in made.items():
        ended = crew.wait(agent.id)
        assert (ended.exit_status, ended.signal) == _ENDS[end][1], (end, name)
        group = product.host.path(f"/sys/fs/cgroup{groups[end, name]}/cgroup.procs")
        # Not even at the moment in which its end is told.
        with suppress(FileNotFoundError, OSError):
            assert group.read_text() == "", (end, name)
    assert crew.running(marker) == []
    crew.gone()

    def left() -> list[tuple[str, str]]:
        return [key for key, group in groups.items() if product.host.path(f"/sys/fs/cgroup{group}").exists()]

    until(lambda: not left(), "no cgroup to be left")


# ---- what is no text

_BYTES = b"".join(
    (
        b"\xff\xfe\xc3( alone \x80\xbf",
        b" surrogate \xed\xa0\x80 overlong \xc0\xaf far \xf4\x90\x80\x80",
        b" nul \x00 del \x7f cut \xe2\x82\n",
        bytes(range(128, 256)),
        b"\nafter\n",
    )
)


@pytest.mark.parametrize("tty", [False, True])
def test_bytes_that_are_no_text_are_kept_as_they_are_and_shown_as_text(crew: Crew, tty: bool) -> None:
    product = crew.product
    path = program(crew, "bytes", f"import os\nos.write(1, {_BYTES!r})\n")
    agent = crew.run("sh", "-c", f"{'stty raw; ' if tty else ''}exec python3 {path}", tty=tty, name="bytes")
    crew.wait(agent.id)
    request = pb.StreamRecordRequest(session=crew.session, agent=agent.id)
    assert b"".join(one.data for one in crew.stub.StreamRecord(request, timeout=PATIENCE)) == _BYTES
    replayed = printed(product, "replay", "bytes", "--speed", "1000")
    assert b"after" in replayed
    assert b"alone" in printed(product, "output", "bytes", "--raw")
    for words in (["output", "bytes"], ["output", "bytes", "-f"]):
        shown = printed(product, *words).decode()
        assert "after" in shown, words
        assert harmless(shown), words
    page = product.json("output", "bytes")
    assert [line["text"] for line in page["lines"]][-1] == "after"
    assert "�" in page["lines"][0]["text"]
    assert page["total"] == len(_BYTES)
    cast = product.host.sessionctl("export", "bytes", "-", "--format", "cast").stdout.splitlines()
    assert json.loads(cast[0])["version"] == 2
    text = "".join(event[2] for event in map(json.loads, cast[1:]) if event[1] == "o")
    assert "after" in text
    assert "after" in product.ctl("export", "bytes", "-", "--format", "txt")
    if tty:
        assert "after" in product.ctl("export", "bytes", "-", "--format", "html")
        assert "after" in product.json("screen", "bytes")["content"]
    else:
        until(lambda: "after" in product.journal("--user-unit", agent.unit), "its lines in the journal")


@pytest.mark.parametrize("tty", [False, True])
def test_lines_of_10_mb_are_told_in_bounded_answers(crew: Crew, tty: bool) -> None:
    product = crew.product
    end = b"\r\n" if tty else b"\n"
    size = 10_000_001 - len(end)
    path = program(
        crew,
        "long",
        "import os\n"
        f"for letter in (b'x', b'y'):\n    left = letter * {size} + {end!r}\n"
        "    while left: left = left[os.write(1, left):]\n"
        "print('needle ' + 'z' * 10, flush=True)\n",
    )
    agent = crew.run("sh", "-c", f"{'stty raw; ' if tty else ''}exec python3 {path}", tty=tty, name="long")
    pid = product.pid(crew.session)
    ended = crew.wait(agent.id)
    assert (ended.exit_status, ended.record_bytes) == (0, 2 * (size + len(end)) + 18)
    page = product.json("output", "long")
    assert [line["text"][:6] for line in page["lines"]] == ["xxxxxx", "yyyyyy", "needle"]
    assert [line["cut"] for line in page["lines"]] == [True, True, False]
    assert all(len(line["text"]) <= 65536 for line in page["lines"])
    assert [line["offset"] for line in page["lines"]] == [0, 10_000_001, 20_000_002]
    found = product.json("output", "long", "--grep", "^needle")
    assert [line["offset"] for line in found["lines"]] == [20_000_002]
    [last] = product.json("output", "long", "-n", "1")["lines"]
    assert last["text"] == "needle zzzzzzzzzz"
    assert len(product.ctl("output", "long", "-f")) < 2 * size + 100
    product.ctl("export", "long", f"{HOME}/long.txt", "--force")
    product.ctl("export", "long", f"{HOME}/long.cast", "--force")
    kept = product.host.path(f"{HOME}/long.cast").read_text().splitlines()
    assert sum(len(event[2]) for event in map(json.loads, kept[1:]) if event[1] == "o") >= 2 * size
    if tty:
        assert "needle" in product.json("screen", "long", "--scrollback", "100")["content"]
        product.ctl("export", "long", f"{HOME}/long.html", "--force")
    product.host.run(["sh", "-c", f"rm {HOME}/long.*"])
    assert product.pid(crew.session) == pid


# ---- hostile terminals

_HOSTILE = {
    # Never closed: what follows must not be kept back, nor held without a bound.
    "osc": "out(b'\\x1b]0;' + b'A' * (8 << 20))",
    "dcs": "out(b'\\x1bPq' + b'#0!999999~' * (1 << 20))",
    "apc": "out(b'\\x1b_Gf=24,s=100000,v=100000;' + b'A' * (8 << 20))",
    # Titles, and a stack of them.
    "titles": "[out(b'\\x1b]2;' + b'T' * 100000 + b'\\x07\\x1b[22;0t') for _ in range(100)]",
    "links": "[out(b'\\x1b]8;id=%d;http://x/%s\\x1b\\\\' % (n, b'y' * 2000) + b'l ') for n in range(3000)]",
    "clipboard": "[out(b'\\x1b]52;c;' + b'QUJD' * 20000 + b'\\x07\\x1b]52;c;?\\x07') for _ in range(50)]",
    # Sizes: its terminal is not the program's to resize.
    "resize": "[out(b'\\x1b[8;%d;%dt\\x1b[?3h\\x1b[?3l' % (n * 100, 9999999)) for n in range(1000)]",
    # Numbers and counts beyond all measure.
    "numbers": "[out(b'\\x1b[' + b'9' * 5000 + f + b'Z' + b'\\x1b[2147483647' + f) for f in"
    " (b'b', b'@', b'L', b'M', b'P', b'X', b'S', b'T', b'A', b'B', b'C', b'D', b'I', b'Z', b'd', b'm')]",
    "parameters": "out(b'\\x1b[' + b'1;' * 500000 + b'm' + b'\\x1b[' + b':' * 500000 + b'm')",
    "modes": "[out(b'\\x1b[?1049h\\x1b[?2004h\\x1b[?1003h\\x1b[>31u\\x1b7\\x1b[!p') for _ in range(100000)]",
    "marks": "out(b'a' + '\\u0301\\u0489'.encode() * 500000)",
    # Nobody reads the answers.
    "queries": "out(b'\\x1b[6n\\x1b[c\\x1b[>c\\x1b[5n\\x1b]10;?\\x07\\x1b]4;1;?\\x07\\x05' * 50000)",
}
_RUN = """import os, sys
def out(data):
    while data: data = data[os.write(1, data):]
{deed}
# Ended in every way that a sequence can be, then a full reset.
out(b'\\x18\\x1b\\\\\\x07\\x1bc\\r\\nfine now\\r\\n')
sys.stdin.read()
"""


def test_hostile_terminals_harm_neither_daemon_nor_who_looks(crew: Crew) -> None:
    product = crew.product
    pid = product.pid(crew.session)
    other = crew.run("cat", tty=True, name="other")
    screen(crew, other.id)
    before = memory(product, pid)
    made = {}
    for name, deed in _HOSTILE.items():
        path = program(crew, name, _RUN.format(deed=deed))
        made[name] = crew.run("sh", "-c", f"stty -echo; exec python3 {path}", tty=True, name=name)
    for name, agent in made.items():
        until(
            lambda name=name: "fine now" in screen(crew, name),  # type: ignore[misc]
            f"{name} to be at its end",
        )
        now = crew.get(agent.id)
        assert (state(now), now.columns, now.rows) == ("running", 80, 24), name
        shown = product.json("screen", name)
        assert (shown["columns"], shown["rows"]) == (80, 24), name
        assert len(json.dumps(shown)) < MIB, name
        # What is shown to people steers no terminal.
        for words in (["screen", name, "--scrollback", "100"], ["output", name, "-n", "20"]):
            said = printed(product, *words).decode()
            assert "fine now" in said, words
            assert harmless(said), words
        html = crew.call("GetScreen", agent=name, format=pb.SCREEN_FORMAT_HTML, scrollback=100).content
        assert "fine now" in html
        assert "<script" not in html
    grown = memory(product, pid) - before
    assert grown < GROWTH, f"{grown} bytes"
    product.ctl("send", "other", "still here", "--key", "Enter")
    until(lambda: screen(crew, "other").count("still here") == 2, "the echo of the other")
    assert product.pid(crew.session) == pid
    assert crew.get(other.id).pid == other.pid
    listed = product.host.sessionctl("ps").stdout
    assert len(listed.splitlines()) == len(made) + 2
    product.ctl("kill", "--session", crew.session, "--all")
    crew.gone()


# ---- floods: last, since they use up what the journal takes of one user for a while


@pytest.mark.parametrize("tty", [False, True])
def test_a_flood_that_nobody_reads_is_bounded_and_holds_up_no_other(product: Product, tty: bool) -> None:
    limit = 4 * MIB
    product.write(CONFIG, '[recording]\nlimit = "4M"\n')
    try:
        with crew_of(product, product.started()["id"]) as crew:
            other = crew.run("cat", tty=True, name="other")
            pid = product.pid(crew.session)
            # Nothing holds up who writes to a file: left to itself it fills any disk while its daemon waits
            # for a processor. This is still more than a daemon reads.
            slower = {} if tty else {"CPUQuota": "20%"}
            floods = [crew.run("yes", "0123456789" * 7, tty=tty, properties=slower) for _ in range(2)]
            for flood in floods:
                until(lambda flood=flood: crew.get(flood.id).record_bytes > 32 * MIB, "the flood")  # type: ignore[misc]
            before = memory(product, pid)
            most = 0
            for number in range(5):
                word = f"word-{number}"
                product.ctl("send", f"{crew.session}/other", word, "--key", "Enter")
                until(lambda word=word: screen(crew, "other").count(word) == 2, "its echo")  # type: ignore[misc]
                for flood in floods:
                    now = crew.get(flood.id)
                    assert state(now) == "running"
                    assert now.record_bytes - now.record_start <= 2 * limit
                most = max(most, memory(product, pid))
            for flood in floods:
                total = crew.get(flood.id).record_bytes
                until(lambda flood=flood, total=total: crew.get(flood.id).record_bytes > total, "it goes on")  # type: ignore[misc]
                # What a program writes in the pauses between two looks comes on top, and those may be long.
                du = ["du", "-s", "-B1", crew.folder(flood)]
                until(
                    lambda du=du: int(product.host.run(du).stdout.split()[0]) < 16 * limit,  # type: ignore[misc]
                    "what is held of it to be bounded",
                )
            assert most - before < GROWTH, f"{most - before} bytes"
            results = crew.batch("stop", agents=[flood.id for flood in floods])
            assert [(state(one.agent), one.code) for one in results] == [("terminated", "")] * len(floods)
            for flood in floods:
                page = product.json("output", flood.name, "-n", "3")
                assert page["lines"][0]["text"] == "0123456789" * 7
                assert page["start"] > 0
            assert product.pid(crew.session) == pid
            assert crew.get(other.id).pid == other.pid
            crew.kill(other.id)
            crew.gone()
    finally:
        product.host.run(["rm", CONFIG])
