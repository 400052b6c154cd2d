"""The book of agents: what is written is read back, nothing half done is ever read, garbage is skipped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.agents import launch
from sessiond.agents.book import Book, forget_session, lost_end
from sessiond.agents.written import end_from_json, end_to_json, spec_from_json, spec_to_json
from sessiond.errors import AlreadyExists, Exhausted, NotFound
from sessiond.model.agent import AgentEnd, AgentSpec, AgentState, Cause, RestartPolicy

SESSION = "a" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
SPEC = AgentSpec(
    id="0123456789abcdef",
    session=SESSION,
    name="claude-1",
    argv=("claude", "", "a $b %c\n'\"", "é"),
    program=Path("/usr/bin/claude"),
    cwd=Path("/srv/shop"),
    created=NOW,
    tty=True,
    restart=RestartPolicy.ON_FAILURE,
    labels={"team": "web"},
    properties={"MemoryMax": "1G"},
    boot="b",
    manager="m",
)
END = AgentEnd(exit_status=3, result="exit-code", started_at=NOW, ended_at=NOW, restarts=2, cpu_seconds=0.5)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(SESSION, tmp_path / SESSION, tmp_path / "runtime")


@pytest.fixture(autouse=True)
def state(tmp_path: Path) -> Path:
    (tmp_path / SESSION).mkdir(mode=0o700)
    return tmp_path / SESSION


def test_what_is_claimed_is_read_back(book: Book) -> None:
    claimed = book.claim(SPEC, {"A": "1"})
    kept, skipped = book.load()
    assert kept == {SPEC.id: claimed}
    assert not skipped
    assert claimed.spec == SPEC
    assert claimed.end is None
    assert not claimed.asked


def test_all_of_it_is_private(book: Book) -> None:
    folder = book.claim(SPEC, {"SECRET": "s3cret"}).folder
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.spec.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.launch_passing.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.launch_passing.parent.stat().st_mode) == 0o700
    assert b"s3cret" not in folder.spec.read_bytes()


def test_the_environment_outlives_a_boot_only_where_it_must(book: Book) -> None:
    passing = book.claim(SPEC, {"A": "1"}).folder
    assert passing.launch_passing.exists()
    assert not passing.launch_kept.exists()
    kept = book.claim(replace(SPEC, id="f" * 16, resurrect=True), {"A": "1"}).folder
    assert kept.launch_kept.exists()
    assert not kept.launch_passing.exists()


def test_an_end_is_kept_until_a_new_run_begins(book: Book) -> None:
    book.claim(SPEC, {})
    book.note_asked(SPEC.id)
    book.write_end(SPEC.id, END)
    kept = book.read(SPEC.id)
    assert kept.end == END
    assert kept.asked
    book.clear_end(SPEC.id)
    kept = book.read(SPEC.id)
    assert kept.end is None
    assert not kept.asked


def test_signals_that_were_sent_are_kept_until_an_end_is_asked_for(book: Book) -> None:
    folder = book.claim(SPEC, {}).folder
    assert book.read(SPEC.id).sent == frozenset()
    book.note_sent(SPEC.id, frozenset({1, 64}))
    assert (book.read(SPEC.id).asked, book.read(SPEC.id).sent) == (False, frozenset({1, 64}))
    book.note_asked(SPEC.id)
    assert (book.read(SPEC.id).asked, book.read(SPEC.id).sent) == (True, frozenset())
    for garbage in (b"\xff\0", b"1 x", b"-1", b"9" * 10_000):
        folder.asked.write_bytes(garbage)
        assert (book.read(SPEC.id).asked, book.read(SPEC.id).sent) == (True, frozenset())
    book.clear_asked(SPEC.id)
    assert not book.read(SPEC.id).asked


def test_a_second_agent_of_an_id_is_refused_and_the_first_stays(book: Book) -> None:
    first = book.claim(SPEC, {"A": "1"})
    with pytest.raises(AlreadyExists) as caught:
        book.claim(replace(SPEC, name="other"), {})
    assert caught.value.code == "agent_exists"
    assert book.read(SPEC.id) == first
    assert book.has_environment(SPEC.id)


def test_remove_leaves_nothing_and_may_be_repeated(book: Book, tmp_path: Path) -> None:
    folder = book.claim(SPEC, {"A": "1"}).folder
    book.remove(SPEC.id)
    book.remove(SPEC.id)
    assert not folder.path.exists()
    assert not folder.launch_passing.exists()
    assert os.listdir(folder.path.parent) == []
    with pytest.raises(NotFound):
        book.read(SPEC.id)


def test_remove_does_not_follow_a_link(book: Book, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    folder = book.claim(SPEC, {}).folder
    (folder.path / "link").symlink_to(outside)
    book.remove(SPEC.id)
    assert (outside / "precious").exists()


def test_a_disk_that_is_full_leaves_nothing(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exhausted) as caught:
        book.claim(SPEC, {"A": "1"})
    assert caught.value.code == "disk_full"
    folder = book.folder(SPEC.id)
    assert os.listdir(folder.path.parent) == []
    assert not folder.launch_passing.exists()


def test_an_end_that_cannot_be_written_leaves_the_old_one(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = book.claim(SPEC, {}).folder
    book.write_end(SPEC.id, END)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Exhausted):
            book.write_end(SPEC.id, AgentEnd(exit_status=0))
    assert book.read(SPEC.id).end == END
    assert not [name for name in os.listdir(folder.path) if name.startswith(".")]


def test_drafts_of_a_killed_process_are_not_read_and_swept(book: Book, state: Path) -> None:
    book.claim(SPEC, {})
    for name in (".new-" + "1" * 16, ".gone-" + "2" * 16 + "-00"):
        (state / "agents" / name).mkdir()
    assert list(book.load()[0]) == [SPEC.id]
    book.sweep()
    assert os.listdir(state / "agents") == [SPEC.id]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'{"format": 2}', b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "id": 3}'],
)
def test_garbage_is_skipped_with_a_reason(book: Book, content: bytes) -> None:
    folder = book.claim(SPEC, {}).folder
    other = replace(SPEC, id="f" * 16)
    book.claim(other, {})
    folder.spec.write_bytes(content)
    kept, skipped = book.load()
    assert list(kept) == [other.id]
    assert [one.path for one in skipped] == [folder.path]
    assert skipped[0].reason
    folder.end.write_bytes(content)
    folder.spec.write_bytes((book.folder(other.id).spec).read_bytes().replace(b"f" * 16, SPEC.id.encode()))
    kept, skipped = book.load()
    assert not skipped
    end = kept[SPEC.id].end
    assert end is not None
    assert (end.cause, end.state) == (Cause.UNREADABLE, AgentState.FAILED)


def test_a_file_that_would_block_or_never_end_is_skipped(book: Book) -> None:
    folder = book.claim(SPEC, {}).folder
    folder.spec.unlink()
    os.mkfifo(folder.spec)
    assert book.load()[1]
    folder.spec.unlink()
    folder.spec.symlink_to("/dev/zero")
    assert book.load()[1]


def test_the_folder_of_one_agent_cannot_stand_for_another(book: Book) -> None:
    folder = book.claim(SPEC, {}).folder
    folder.path.rename(folder.path.with_name("e" * 16))
    kept, skipped = book.load()
    assert not kept
    assert "of another agent" in skipped[0].reason


def test_agents_are_told_oldest_first(book: Book) -> None:
    for number, second in ((1, 30), (2, 10), (3, 20)):
        book.claim(replace(SPEC, id=f"{number:016x}", created=NOW.replace(second=second)), {})
    assert [int(agent, 16) for agent in book.load()[0]] == [2, 3, 1]


def test_forgetting_a_session_takes_its_launch_files_alone(book: Book, tmp_path: Path) -> None:
    mine = book.claim(SPEC, {}).folder.launch_passing
    other = mine.with_name("b" * 32 + "-" + SPEC.id)
    other.touch()
    forget_session(SESSION, tmp_path / "runtime")
    assert not mine.exists()
    assert other.exists()
    forget_session(SESSION, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("boot", "manager", "cause", "state"),
    [
        ("other", "m", Cause.REBOOT, AgentState.FAILED),
        ("b", "other", Cause.MANAGER, AgentState.FAILED),
        ("b", "m", Cause.UNSEEN, AgentState.TERMINATED),
        ("b", "", Cause.UNSEEN, AgentState.TERMINATED),
    ],
)
def test_an_end_nobody_saw_says_why(boot: str, manager: str, cause: Cause, state: AgentState) -> None:
    end = lost_end(SPEC, boot=boot, manager=manager)
    assert end.cause is cause
    assert end.state is state
    assert end.reason
    assert end.exit_status is None


# ---- the files themselves -------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_specs_and_ends_are_read_back_as_they_were() -> None:
    assert spec_from_json(json.loads(json.dumps(spec_to_json(SPEC)))) == SPEC
    for end in (END, AgentEnd(cause=Cause.REBOOT), AgentEnd(signal="SIGKILL", asked=True, memory_bytes=1)):
        assert end_from_json(json.loads(json.dumps(end_to_json(end)))) == end


@given(st.sampled_from(sorted(spec_to_json(SPEC))), JSON)
def test_a_field_of_any_kind_is_taken_or_refused(field: str, value: Any) -> None:
    with contextlib.suppress(ValueError):
        spec_from_json({**spec_to_json(SPEC), field: value})


@given(
    st.lists(st.binary().map(lambda word: word.replace(b"\0", b"")), min_size=1),
    st.dictionaries(
        st.binary(min_size=1).map(lambda name: name.replace(b"\0", b"_").replace(b"=", b"_")),
        st.binary().map(lambda value: value.replace(b"\0", b"")),
    ),
)
def test_every_command_line_and_environment_comes_through(
    argv: list[bytes], environment: dict[bytes, bytes]
) -> None:
    raw = launch.encode(b"/p", argv, b"/c", 0o027, environment)
    assert launch.decode(raw) == (b"/p", argv, b"/c", 0o027, environment)


@given(st.integers(0, 200))
def test_a_launch_file_that_is_cut_off_is_refused_or_whole(size: int) -> None:
    raw = launch.encode(b"/p", [b"a", b"", b"b"], b"/c", 0o022, {b"N": b"v"})
    if size >= len(raw):
        return
    try:
        _, argv, _, _, _ = launch.decode(raw[:size])
    except ValueError:
        return
    assert argv == [b"a", b"", b"b"]
