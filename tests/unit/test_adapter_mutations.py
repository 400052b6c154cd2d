"""Every adapter on files that were cut, flipped, bloated, or replaced by something that is no file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessiond.adapters import make_adapter
from sessiond.errors import NotFound
from sessiond.model.agent_session import STOPPED, Found
from sessiond.ports.discovery import AgentAdapter, Processes, Told
from tests.unit.adapter_case import (
    NOBODY,
    FakeProcess,
    FakeProcesses,
    check_evidence,
    check_life,
    check_message,
    check_told,
    life_of,
    problems_of,
)
from tests.unit.opencode_case import ASKED, EMBEDDED, lay_lock, lay_openclaw, lay_opencode

# Seconds after which something hangs; nothing here takes a hundredth of it.
HANGS = 60

FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True)
class Case:
    """One adapter and files for it. ``lay`` puts them below a home and returns the environment.

    ``processes`` are those that live; the conversations in ``live`` are then known to, or cannot be told:
    whatever is broken, they are never stopped.
    """

    adapter: str
    lay: Callable[[Path], Mapping[str, str]]
    processes: Callable[[Path], Processes] = field(default=lambda home: NOBODY)
    live: frozenset[str] = frozenset()


# ---- the table: each adapter adds its row -----------------------------------------------------

CASES: list[Case] = []


def _lay_claude_code(home: Path) -> dict[str, str]:
    shutil.copytree(FIXTURES / "claude_code", home / ".claude")
    return {}


def _running_claude_code(home: Path) -> Processes:
    exe = "/opt/claude-code/bin/claude.exe"
    return FakeProcesses(FakeProcess(4242, 1288875, "claude", exe, cwd="/home/user/project"))


CASES.append(
    Case(
        "claude-code",
        _lay_claude_code,
        _running_claude_code,
        frozenset({"5728407d-eabd-48ed-acea-9d5d4f1d1c2a"}),
    )
)


def _lay_pi(home: Path) -> dict[str, str]:
    folder = home / ".pi/agent/sessions/--home-user-project--"
    folder.mkdir(parents=True)
    for name in ("my-id-1", "tool-1", "fork-1"):
        for path in FIXTURES.glob(f"pi/*_{name}.jsonl"):
            shutil.copy(path, folder)
    return {}


def _lay_pi_rust(home: Path) -> dict[str, str]:
    _lay_pi(home)
    for path in home.rglob("*_my-id-1.jsonl"):
        header, rest = path.read_text().split("\n", 1)
        path.write_text(json.dumps({**json.loads(header), "provider": "fake", "modelId": "m1"}) + "\n" + rest)
    return {}


def _marked_pi(home: Path) -> Processes:
    environment = {"HOME": str(home), "SESSIOND_AGENT_SESSION": "pi:my-id-1"}
    return FakeProcesses(FakeProcess(100, comm="pi", exe="/usr/bin/node", environment=environment))


def _lay_acp(home: Path) -> dict[str, str]:
    folder = home / ".local/state/sessiond/acp"
    folder.mkdir(parents=True)
    for path in FIXTURES.glob("acp/*.jsonl"):
        shutil.copy(path, folder)
    return {}


_locked: dict[Path, tuple[int, int]] = {}


def _locking_acp(home: Path) -> Processes:
    # Who holds the lock keeps it, whatever is put in the file's place.
    journal = home / ".local/state/sessiond/acp/talked.jsonl"
    status = journal.lstat()
    if stat.S_ISREG(status.st_mode):
        _locked[home] = status.st_dev, status.st_ino
    return FakeProcesses(
        FakeProcess(100, comm="python3", argv=("python3", "-m", "sessiond", "acp")),
        locks={_locked[home]: 100},
    )


CASES += [
    Case("acp", _lay_acp, _locking_acp, frozenset({"talked"})),
    Case("pi", _lay_pi, _marked_pi, frozenset({"my-id-1"})),
    # Pi's own adapter tells of what is broken in the tree of both.
    Case("pi-rust", _lay_pi_rust),
]


_CODEX = "01a1fee8-754c-75c2-98fd-4435b4b663fd"
_GEMINI = "44444444-2222-4333-8444-555555555555"


def _lay_codex(home: Path) -> dict[str, str]:
    folder = home / ".codex/sessions/2026/11/21"
    folder.mkdir(parents=True)
    names = {"asked": _CODEX, "forked": "01a1fee9-f658-7162-8a36-a253432436ff"}
    for name, id in names.items():
        shutil.copy(FIXTURES / f"codex/{name}.jsonl", folder / f"rollout-2026-11-21T16-20-09-{id}.jsonl")
    with contextlib.closing(sqlite3.connect(home / ".codex/state_5.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE threads (id TEXT, name TEXT, cwd TEXT, archived INTEGER)")
        connection.execute("INSERT INTO threads VALUES (?, 'A name', '/home/user/project', 0)", (_CODEX,))
    (home / ".codex/thread-writer-locks").mkdir()
    (home / f".codex/thread-writer-locks/{_CODEX}.lock").touch()
    return {}


def _locked_codex(home: Path) -> Processes:
    """Who holds the lock also has the rollout open, as Codex does: the lock may be what is broken."""
    path = home / f".codex/sessions/2026/11/21/rollout-2026-11-21T16-20-09-{_CODEX}.jsonl"
    process = FakeProcess(4242, exe="/usr/bin/codex", open_files={str(path)})
    with contextlib.suppress(OSError):
        status = os.stat(home / f".codex/thread-writer-locks/{_CODEX}.lock")
        return FakeProcesses(process, locks={(status.st_dev, status.st_ino): 4242})
    return FakeProcesses(process)


def _lay_gemini(home: Path) -> dict[str, str]:
    folder = home / ".gemini/tmp/project/chats"
    folder.mkdir(parents=True)
    (folder.parent / ".project_root").write_text("/home/user/project")
    for name, id8 in (("killed", "22222222"), ("resumed", "44444444")):
        shutil.copy(FIXTURES / f"gemini/{name}.jsonl", folder / f"session-2026-11-21T16-21-{id8}.jsonl")
    return {}


def _marked_gemini(home: Path) -> Processes:
    return FakeProcesses(
        FakeProcess(
            4242,
            exe="/usr/bin/node",
            argv=("node", "/usr/bin/gemini"),
            environment={"SESSIOND_AGENT_SESSION": f"gemini:{_GEMINI}"},
        )
    )


CASES += [
    Case("codex", _lay_codex, _locked_codex, frozenset({_CODEX})),
    Case("gemini", _lay_gemini, _marked_gemini, frozenset({_GEMINI})),
]


def _lay_opencode(home: Path) -> dict[str, str]:
    lay_opencode(home)
    for place, data in (
        ("session/global/ses_old", {"id": "ses_old", "directory": "/home/user/project", "title": "Old"}),
        ("message/ses_old/msg_1", {"id": "msg_1", "role": "user", "time": {"created": 1}}),
        ("part/msg_1/prt_1", {"type": "text", "text": "hello"}),
    ):
        path = home / f".local/share/opencode/storage/{place}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(data))
    return {}


def _running_opencode(home: Path) -> Processes:
    database = str(home / ".local/share/opencode/opencode.db")
    exe = "/opt/opencode-ai/bin/opencode.exe"
    return FakeProcesses(
        FakeProcess(2**22 + 1, 10**12, "opencode", exe, cwd="/home/user/project", open_files=[database])
    )


def _lay_openclaw(home: Path) -> dict[str, str]:
    lay_openclaw(home)
    lay_lock(home)
    return {"TMPDIR": str(home)}


def _running_openclaw(home: Path) -> Processes:
    return FakeProcesses(FakeProcess(4242, 1295856, "openclaw-agent", "/usr/bin/node"))


CASES += [
    Case("opencode", _lay_opencode, _running_opencode, frozenset({ASKED, "ses_old"})),
    Case("openclaw", _lay_openclaw, _running_openclaw, frozenset({EMBEDDED})),
]


# ---- what is done to a file ---------------------------------------------------------------------

Mutation = Callable[[bytes], bytes]

NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HUGE = b'{"type":"user","x":"' + b"a" * 3_000_000 + b'"}'


def _replace_values(value: object) -> Mutation:
    """Each value of each line in turn becomes something else."""

    def change(data: bytes) -> bytes:
        lines = []
        for line in data.split(b"\n"):
            try:
                decoded = json.loads(line)
            except ValueError:
                lines.append(line)
                continue
            lines.append(json.dumps(_with(decoded, value)).encode())
        return b"\n".join(lines)

    return change


def _with(node: Any, value: object) -> Any:
    """All leaves replaced; the type of line is left, so that it is still taken for one."""
    if isinstance(node, dict):
        return {name: each if name == "type" else _with(each, value) for name, each in node.items()}
    return [_with(each, value) for each in node] if isinstance(node, list) else value


BROKEN: dict[str, Mutation] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data.rstrip()[:-1],
    "without its beginning": lambda data: data[len(data) // 3 :],
    "NULs": lambda data: b"\0" * len(data),
    "NULs at the end, as after a power cut": lambda data: data + b"\0" * 4096,
    "no UTF-8": lambda data: b"\xff\xfe" * 500,
    "no UTF-8 in texts": lambda data: data.replace(b":", b":\xff"),
    "half characters in texts": lambda data: data.replace(b'":"', b'":"\\ud800'),
    "a nested bomb first": lambda data: NESTED + b"\n" + data,
    "a nested bomb last": lambda data: data + b"\n" + NESTED,
    "a huge line first": lambda data: HUGE + b"\n" + data,
    "a huge line last": lambda data: data + b"\n" + HUGE,
    "a line without an end": lambda data: data + b"\n" + HUGE[:-2],
    "blank lines": lambda data: data.replace(b"\n", b"\n\n \r\n"),
    "only braces": lambda data: b'{}\n[]\nnull\n1\n""\n' * 20,
    "numbers for values": _replace_values(-1e300),
    "huge numbers for values": _replace_values(10**40),
    "lists for values": _replace_values([[]]),
    "objects for values": _replace_values({"a": {"b": None}}),
    "null for values": _replace_values(None),
    "controls for values": _replace_values("a\0\x1b[31m\n\t/../\u202e" * 50),
    "true for values": _replace_values(True),
}


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


IN_PLACE: dict[str, Callable[[Path], None]] = {
    "a directory": _directory,
    "a FIFO": _fifo,
    "a link to itself": _loop,
    "a dangling link": _dangling,
    "an endless device": _device,
}


# ---- the runs -----------------------------------------------------------------------------------


@contextlib.contextmanager
def a_home(case: Case) -> Iterator[tuple[Path, Callable[[], AgentAdapter], list[Path]]]:
    """The case's files in a new home, what makes an adapter that knows nothing yet, and all files."""
    home = Path(tempfile.mkdtemp(prefix="sd-"))
    try:
        environment = {"HOME": str(home), **case.lay(home)}
        files = sorted(each for each in home.rglob("*") if each.is_file())
        yield home, lambda: make_adapter(case.adapter, environment), files
    finally:
        shutil.rmtree(home)


class Hangs(BaseException):
    """Not an Exception: nobody may take it for trouble of a file."""


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """A call that waits for ever ends the test."""

    def tell(number: int, frame: FrameType | None) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, tell)
    signal.alarm(HANGS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def look(case: Case, home: Path, adapter: AgentAdapter, changed: set[str] | None) -> list[Told]:
    """All that an adapter can be asked, each answer checked."""
    told = list(adapter.discover(changed))
    check_told(adapter, told)
    for processes in (NOBODY, case.processes(home)):
        check_evidence(adapter.evidence(processes))
        for each in told:
            if isinstance(each, Found):
                check_life(adapter.is_alive(each, processes))
    for each in told:
        if isinstance(each, Found) and "transcript" in adapter.abilities:
            try:
                transcript = adapter.transcript(each, 20)
            except NotFound as error:
                assert error.code == "transcript_missing"  # noqa: PT017
                continue
            assert len(transcript.messages) <= 20
            for message in transcript.messages:
                check_message(message)
    return told


def check_truth(case: Case, home: Path, adapter: AgentAdapter, told: list[Told]) -> None:
    """What lives is not stopped by what is broken; what is not found any more is trouble that is told, or is
    shown to live and to have written nothing yet."""
    evidence = adapter.evidence(case.processes(home))
    rows = {each.id: each for each in told if isinstance(each, Found)}
    for id in case.live:
        if id in rows:
            assert life_of(rows[id], evidence).alive is not False, f"{id} is said to be stopped"
            assert adapter.is_alive(rows[id], case.processes(home)).alive is not False
        else:
            life = evidence.lives.get(id, STOPPED)
            assert problems_of(told) or life.alive, f"{id} is gone, and nobody says why"


def cases() -> list[Any]:
    return [pytest.param(case, id=case.adapter) for case in CASES]


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("case", cases())
def test_a_broken_file_breaks_nothing_else(case: Case, how: str) -> None:
    with a_home(case) as (home, make, files):
        adapter = make()
        whole = look(case, home, adapter, None)
        assert any(isinstance(each, Found) for each in whole)
        assert not problems_of(whole)
        check_truth(case, home, adapter, whole)
        for path in files:
            good = path.read_bytes()
            path.write_bytes(BROKEN[how](good))
            for each, changed in ((adapter, {str(path)}), (adapter, None), (make(), None)):
                told = look(case, home, each, changed)
                if changed is None:
                    check_truth(case, home, each, told)
            path.write_bytes(good)
        again = look(case, home, adapter, None)
        assert ids(again) == ids(whole)
        assert not problems_of(again)


_LINES = frozenset({"claude-code", "codex", "pi", "gemini"})


@pytest.mark.parametrize("case", [case for case in cases() if case.id in _LINES])
def test_a_file_without_a_whole_line_is_about_to_be_written(case: Case) -> None:
    with a_home(case) as (home, make, files):
        everything = ids(look(case, home, make(), None))
        lines = [
            path for path in files if path.suffix == ".jsonl" and len(path.read_bytes().split(b"\n")) > 1
        ]
        assert lines
        for path in lines:
            good = path.read_bytes()
            path.write_bytes(b"")
            adapter = make()
            before = look(case, home, adapter, None)
            assert not problems_of(before)
            for begun in (good[:1], good[: good.index(b"\n") // 3]):
                path.write_bytes(begun)
                for each, changed in ((adapter, {str(path)}), (adapter, None), (make(), None)):
                    told = look(case, home, each, changed)
                    assert not problems_of(told)
                    assert ids(told) <= ids(before)
            path.write_bytes(good)
            assert not problems_of(look(case, home, adapter, {str(path)}))
            assert ids(look(case, home, adapter, None)) == everything
            # It was written: what is left of it now is trouble, and so is what never was a line of it.
            path.write_bytes(b"")
            told = look(case, home, adapter, {str(path)})
            assert [each.path for each in problems_of(told)] == [str(path)]
            assert ids(look(case, home, adapter, None)) == everything, "the last good answer stays"
            path.write_bytes(b"nothing\n")
            assert [each.path for each in problems_of(look(case, home, make(), None))] == [str(path)]
            path.write_bytes(good)


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize("case", cases())
def test_something_else_in_place_of_a_file_breaks_nothing(case: Case, what: str) -> None:
    with a_home(case) as (home, make, files):
        adapter = make()
        whole = look(case, home, adapter, None)
        for path in files:
            good = path.read_bytes()
            IN_PLACE[what](path)
            for each, changed in ((adapter, {str(path)}), (adapter, None), (make(), None)):
                told = look(case, home, each, changed)
                if changed is None:
                    check_truth(case, home, each, told)
            path.rmdir() if stat.S_ISDIR(path.lstat().st_mode) else path.unlink()
            path.write_bytes(good)
        assert ids(look(case, home, adapter, None)) == ids(whole)


@pytest.mark.parametrize("case", cases())
def test_a_file_that_may_not_be_read_is_told(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_home(case) as (home, make, files):
        adapter = make()
        whole = look(case, home, adapter, None)
        really = os.open
        denied = ""

        def refuse(path: str, *rest: Any, **more: Any) -> int:
            if str(path) == denied:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return really(path, *rest, **more)

        monkeypatch.setattr(os, "open", refuse)
        for path in files:
            denied = str(path)
            # Something changes in it, or nobody would open it again.
            path.write_bytes(path.read_bytes() + b"\n")
            for changed in ({str(path)}, None):
                told = look(case, home, adapter, changed)
            check_truth(case, home, adapter, told)
            assert set(case.live) <= ids(told), "the last good answer stays"
        denied = ""
        assert ids(look(case, home, adapter, None)) == ids(whole)


@pytest.mark.parametrize("case", cases())
def test_flipped_and_shuffled_bytes_break_nothing(case: Case) -> None:
    with a_home(case) as (home, make, files):
        adapter = make()

        # The fixture is one home for all examples: each puts back what it changed.
        @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            which=st.integers(0, len(files) - 1),
            flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=12),
            cut=st.floats(0, 1),
            stuffing=st.binary(max_size=40),
            at=st.floats(0, 1),
        )
        def mutate(
            which: int, flips: list[tuple[float, int]], cut: float, stuffing: bytes, at: float
        ) -> None:
            path = files[which]
            good = path.read_bytes()
            data = bytearray(good)
            for place, byte in flips:
                if data:
                    data[int(place * len(data))] = byte
            where = int(at * len(data))
            data[where:where] = stuffing
            path.write_bytes(bytes(data[: max(1, int(cut * len(data) * 2))]))
            try:
                look(case, home, adapter, {str(path)})
                look(case, home, adapter, None)
            finally:
                path.write_bytes(good)

        mutate()


def ids(told: list[Told]) -> set[str]:
    """Of all that was found."""
    return {each.id for each in told if isinstance(each, Found)}
