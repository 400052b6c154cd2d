"""Outputs of agents without a terminal: followed, noted, bounded, and passed on to the journal."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sessiond.agents import bounds
from sessiond.agents.bounds import RecordLimits
from sessiond.agents.folder import AgentFolder
from sessiond.agents.holes import NoPunching
from sessiond.agents.index import Stream
from sessiond.agents.outputs import PART, Outputs
from sessiond.agents.reading import Query, RecordReader
from sessiond.daemon.journal import WARNING, JournalForwarder
from sessiond.errors import NotFound

WIDE = RecordLimits(limit=64 << 20, total=4 << 30, low_disk=0)
Forwarded = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Spec:
    """As much of a spec as outputs need."""

    id: str = "a" * 16


@pytest.fixture
def folder(isolated_home: Path) -> AgentFolder:
    path = isolated_home / "sessions" / ("5" * 32) / "agents" / ("a" * 16)
    path.mkdir(parents=True)
    return AgentFolder(path, isolated_home / "run")


@pytest.fixture
def forwarded() -> Forwarded:
    return []


@pytest.fixture
async def outputs(forwarded: Forwarded) -> AsyncIterator[Outputs]:
    made = make(forwarded)
    yield made
    await made.stop()


def make(forwarded: Forwarded, limits: RecordLimits = WIDE) -> Outputs:
    return Outputs(limits, lambda agent, stream, line: forwarded.append((stream, line)))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def until_grown(outputs: Outputs, size: int) -> None:
    """Return when so much was noticed, waking by the pulse alone."""
    agent = Spec().id
    async with asyncio.timeout(60):
        while outputs.facts(agent).end < size:
            await outputs.listen(agent).wait()


async def test_what_is_written_is_noticed_noted_and_passed_on(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded
) -> None:
    outputs.open(Spec(), folder)
    assert folder.stdout.stat().st_mode & 0o777 == 0o600
    append(folder.stdout, b"one\npart")
    await until_grown(outputs, 8)
    append(folder.stderr, b"oops\n")
    await until_grown(outputs, 13)
    append(folder.stdout, b"ly\n")
    await until_grown(outputs, 16)
    assert forwarded == [("stdout", b"one"), ("stderr", b"oops"), ("stdout", b"partly")]
    found = RecordReader(folder, tty=False).lines(Query()).lines
    assert [(line.text, line.stream) for line in found] == [
        ("one", Stream.STDOUT),
        ("partly", Stream.STDOUT),
        ("oops", Stream.STDERR),
    ]
    assert all(line.time is not None for line in found)


async def test_the_last_line_without_its_end_is_passed_on_when_drained(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded
) -> None:
    outputs.open(Spec(), folder)
    append(folder.stdout, b"whole\nnot whole")
    append(folder.stderr, b"\n")
    await outputs.drained(Spec().id)
    assert forwarded == [("stdout", b"whole"), ("stderr", b""), ("stdout", b"not whole")]
    assert outputs.facts(Spec().id).end == 16
    outputs.ended(Spec().id)
    await outputs.drained(Spec().id)
    assert len(forwarded) == 3


async def test_the_next_daemon_goes_on_where_the_last_one_was_killed(
    folder: AgentFolder, forwarded: Forwarded
) -> None:
    first = make(forwarded)
    first.open(Spec(), folder)
    append(folder.stdout, b"1\n2\nha")
    await until_grown(first, 6)
    # Nothing is said on the way out: a kill would leave the same.
    await first.stop()
    append(folder.stdout, b"lf\n3\n")
    append(folder.stderr, b"e\n")
    second = make(forwarded)
    second.open(Spec(), folder)
    await second.drained(Spec().id)
    await second.stop()
    assert sorted(forwarded) == [
        ("stderr", b"e"),
        ("stdout", b"1"),
        ("stdout", b"2"),
        ("stdout", b"3"),
        ("stdout", b"half"),
    ]
    assert all(line.time is not None for line in RecordReader(folder, tty=False).lines(Query()).lines)


async def test_a_flood_is_bounded_and_lets_the_loop_turn(
    folder: AgentFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded: Forwarded = []
    limits = RecordLimits(limit=1 << 20, total=1 << 40, low_disk=0)
    outputs = make(forwarded, limits)
    outputs.open(Spec(), folder)
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f"yes hello | head -c 20000000 >> {folder.stdout}; echo end >> {folder.stderr}"
    )
    turns, most, before = 0, 0, 0
    ended = asyncio.create_task(process.wait())
    while not ended.done():
        await asyncio.sleep(0)
        turns, most, before = turns + 1, max(most, len(forwarded) - before), len(forwarded)
    await outputs.drained(Spec().id)
    facts = outputs.facts(Spec().id)
    await outputs.stop()
    assert facts.end == 20_000_004
    assert facts.end - facts.start <= limits.limit + 4096
    assert folder.stdout.stat().st_blocks * 512 <= limits.limit + 8192
    assert forwarded.count(("stderr", b"end")) == 1
    # Two files, and one look beside the one that was planned.
    assert most <= 1000
    assert turns > 1


async def test_long_lines_are_passed_on_in_parts(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded
) -> None:
    outputs.open(Spec(), folder)
    append(folder.stdout, b"x" * (10 << 20) + b"\nnext\n")
    await outputs.drained(Spec().id)
    assert forwarded[-1] == ("stdout", b"next")
    assert b"".join(line for _, line in forwarded[:-1]) == b"x" * (10 << 20)
    assert max(len(line) for _, line in forwarded) == PART


async def test_a_program_that_cuts_its_own_output_is_followed_on(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded
) -> None:
    outputs.open(Spec(), folder)
    append(folder.stdout, b"first line\n")
    await until_grown(outputs, 11)
    os.truncate(folder.stdout, 0)
    await outputs.drained(Spec().id)
    append(folder.stdout, b"new\n")
    await outputs.drained(Spec().id)
    assert forwarded == [("stdout", b"first line"), ("stdout", b"new")]


async def test_a_low_disk_takes_what_was_written(folder: AgentFolder, forwarded: Forwarded) -> None:
    outputs = make(forwarded, RecordLimits(limit=64 << 20, total=1 << 40, low_disk=1 << 50))
    outputs.open(Spec(), folder)
    append(folder.stdout, b"0123456\n" * (1 << 16))
    await outputs.drained(Spec().id)
    facts = outputs.facts(Spec().id)
    assert facts.problem == "disk_low"
    assert facts.end == 1 << 19
    assert facts.end - facts.start <= (64 << 10) + 4096
    await outputs.stop()


async def test_without_punching_it_is_followed_all_the_same(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise NoPunching

    monkeypatch.setattr(bounds, "punch", refuse)
    small = make(forwarded, RecordLimits(limit=1 << 16, total=1 << 40, low_disk=0))
    small.open(Spec(), folder)
    append(folder.stdout, b"0123456\n" * (1 << 15))
    await small.drained(Spec().id)
    await small.stop()
    assert len(forwarded) == 1 << 15
    assert RecordReader(folder, tty=False).facts().start == 0


async def test_without_inotify_the_end_is_enough(
    outputs: Outputs, folder: AgentFolder, forwarded: Forwarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sessiond.agents.outputs.Inotify", refuse)
    outputs.open(Spec(), folder)
    append(folder.stdout, b"said\n")
    await outputs.drained(Spec().id)
    assert forwarded == [("stdout", b"said")]


async def test_nothing_stays_open(folder: AgentFolder, forwarded: Forwarded) -> None:
    before = set(os.listdir("/proc/self/fd"))
    outputs = make(forwarded)
    for _ in range(3):
        outputs.open(Spec(), folder)
        pulse = outputs.listen(Spec().id)
        waiting = asyncio.create_task(pulse.wait())
        await asyncio.sleep(0)
        outputs.close(Spec().id)
        await waiting
    with pytest.raises(NotFound) as caught:
        outputs.facts(Spec().id)
    assert caught.value.code == "record_gone"
    await outputs.drained(Spec().id)
    await outputs.stop()
    assert len(set(os.listdir("/proc/self/fd"))) == len(before)


# ---- the journal ----------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(path))
        made.settimeout(60)
        yield made


def test_a_line_becomes_an_entry(journal: socket.socket) -> None:
    forward = JournalForwarder(Path(journal.getsockname()))
    forward("agent.service", "agent", WARNING, b"\x1b[31mred\x1b[0m \xff=\r", session="s", agent="a")
    assert journal.recv(1 << 16).decode() == (
        "MESSAGE=red \ufffd=\nPRIORITY=4\nSYSLOG_IDENTIFIER=agent\nUSER_UNIT=agent.service\n"
        "SESSIOND_SESSION=s\nSESSIOND_AGENT=a\n"
    )
    forward.close()


def test_a_field_with_a_newline_is_one_field(journal: socket.socket) -> None:
    forward = JournalForwarder(Path(journal.getsockname()))
    forward("agent.service", "a\nPRIORITY=0", WARNING, b"text")
    entry = journal.recv(1 << 16)
    assert b"SYSLOG_IDENTIFIER\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nUSER_UNIT" in entry
    forward.close()


def test_what_is_too_long_goes_in_a_file(journal: socket.socket) -> None:
    forward = JournalForwarder(Path(journal.getsockname()))
    forward("agent.service", "agent", WARNING, b"x" * (20 << 20))
    _, fds, _, _ = socket.recv_fds(journal, 100, 1)
    with open(fds[0], "rb") as file:
        file.seek(0)
        assert file.read(20) == b"MESSAGE=xxxxxxxxxxxx"
    forward.close()
    assert forward.dropped == 0


def test_a_full_journal_is_told_and_takes_more_later(journal: socket.socket) -> None:
    forward = JournalForwarder(Path(journal.getsockname()))
    taken = 0
    while forward("agent.service", "agent", WARNING, b"line"):
        taken += 1
    assert forward.dropped == 0
    for _ in range(taken):
        journal.recv(1 << 16)
    assert forward("agent.service", "agent", WARNING, b"line")
    forward.close()


async def test_what_finds_no_room_is_offered_again(folder: AgentFolder) -> None:
    lines = [b"%d" % number for number in range(2000)]
    heard: Forwarded = []
    offers = 0

    def forward(agent: str, stream: str, line: bytes) -> bool:
        nonlocal offers
        offers += 1
        if offers % 100 == 0:
            return False
        heard.append((stream, line))
        return True

    outputs = Outputs(WIDE, forward)
    outputs.open(Spec(), folder)
    append(folder.stdout, b"\n".join(lines))
    await outputs.drained(Spec().id)
    await outputs.stop()
    assert heard == [("stdout", line) for line in lines]


async def test_who_finds_no_room_holds_up_no_other(isolated_home: Path, folder: AgentFolder) -> None:
    path = folder.path.parent / ("b" * 16)
    path.mkdir()
    outputs = Outputs(WIDE, lambda agent, stream, line: agent != "b" * 16)
    outputs.open(Spec(), folder)
    outputs.open(Spec("b" * 16), AgentFolder(path, folder.runtime))
    append(path / "stdout", b"unheard\n")
    for count in range(1, 20):
        append(folder.stdout, b"heard\n")
        await until_grown(outputs, 6 * count)
    await outputs.stop()


async def test_what_never_finds_room_holds_nobody_up(
    folder: AgentFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sessiond.agents.outputs._STUCK", 0.05)
    outputs = Outputs(WIDE, lambda *arguments: False)
    outputs.open(Spec(), folder)
    append(folder.stdout, b"unheard\n")
    await outputs.drained(Spec().id)
    await outputs.stop()
    assert len(caplog.records) == 1


def test_no_journal_is_said_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "socket"
    forward = JournalForwarder(path)
    forward("agent.service", "agent", WARNING, b"lost")
    forward("agent.service", "agent", WARNING, b"lost")
    assert (forward.dropped, len(caplog.records)) == (2, 1)
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
            made.bind(str(path))
            forward("agent.service", "agent", WARNING, b"heard")
            assert made.recv(1 << 16).startswith(b"MESSAGE=heard\n")
        # It is restarted: the same path, another socket.
        path.unlink()
    assert forward.dropped == 2
    forward.close()


def test_few_descriptors_are_told_as_an_error(folder: AgentFolder, forwarded: Forwarded) -> None:
    from sessiond.errors import SessiondError

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Not one more, whatever numbers are free among those that are open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(SessiondError):
            make(forwarded).open(Spec(), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
