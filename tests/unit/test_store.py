"""The database on bad days: damaged, newer, locked, on a full disk, with its writer killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.errors import (
    Exhausted,
    InvalidArgument,
    PermissionDenied,
    SessiondError,
    Unreachable,
    Unsupported,
)
from sessiond.model.identity import new_id
from sessiond.model.session import Metadata
from sessiond.store import schema
from sessiond.store.opening import open_database
from sessiond.store.sqlite import SqliteStore
from sessiond.testing.store_contract import OVERLAY

LABELED = Metadata(labels={"a": "b"}, last_accessed=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state/sessiond.db"


async def fill(path: Path, count: int = 50) -> dict[str, Metadata]:
    """A database with some sessions in it, closed."""
    store = await SqliteStore.open(path)
    sessions = {new_id(): LABELED for _ in range(count)}
    for session, metadata in sessions.items():
        await store.put(session, metadata)
    await store.close()
    return sessions


async def read(path: Path) -> tuple[dict[str, Metadata], str]:
    store = await SqliteStore.open(path)
    try:
        return await store.all(), store.note
    finally:
        await store.close()


# ---- what is in it


async def test_no_state_no_pid_no_unit_in_the_schema(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as database:
        tables = [
            row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type NOT IN ('index')")
        ]
        columns = {
            table: {row[1] for row in database.execute(f"PRAGMA table_info({table})")} for table in tables
        }
    assert columns == {
        "session": {"id", "archived", "last_accessed"},
        "label": {"session", "key", "value"},
        "annotation": {"session", "key", "value"},
        "active_session": {"one", "session"},
        "overlay": {
            "adapter",
            "id",
            # Which session and agent it was launched as; whether these live is asked elsewhere.
            "session",
            "agent",
            "prompt",
            "group",
            "cwd",
            "spec",
            "launched_at",
            "missing_since",
        },
        "overlay_label": {"adapter", "id", "key", "value"},
        "overlay_annotation": {"adapter", "id", "key", "value"},
    }


async def test_durable_settings_and_private_modes(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.put(new_id(), LABELED)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with closing(open_database(path, 1.0)[0]) as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {"sessiond.db": 0o600, "sessiond.db-wal": 0o600, "sessiond.db-shm": 0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await store.close()


async def test_modes_that_are_too_wide_are_narrowed(path: Path) -> None:
    sessions = await fill(path)
    path.chmod(0o644)
    path.parent.chmod(0o755)
    assert await read(path) == (sessions, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["with space", "per%20cent", "quest?ion", "ha#sh", "ünï", "new\nline"])
async def test_folders_with_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "sessiond.db"
    sessions = await fill(path, 1)
    assert path.is_file()
    assert await read(path) == (sessions, "")


# ---- formats


async def test_every_former_format_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = await fill(path)
    step = ("ALTER TABLE session ADD COLUMN colour TEXT", "UPDATE session SET colour = 'red'")
    monkeypatch.setattr("sessiond.store.opening.MIGRATIONS", (*schema.MIGRATIONS, step))
    monkeypatch.setattr("sessiond.store.opening.FORMAT", schema.FORMAT + 1)
    assert await read(path) == (sessions, "")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (schema.FORMAT + 1,)
        assert database.execute("SELECT DISTINCT colour FROM session").fetchall() == [("red",)]


async def test_a_database_of_the_first_format_keeps_all_and_takes_overlays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name, value in (
            ("MIGRATIONS", schema.MIGRATIONS[:1]),
            ("FORMAT", 1),
            ("TABLES", schema.TABLES[:4]),
        ):
            patch.setattr(f"sessiond.store.opening.{name}", value)
        sessions = await fill(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'overlay'").fetchall()
    store = await SqliteStore.open(path)
    assert store.note == ""
    assert await store.all() == sessions
    assert list(await store.overlays()) == []
    await store.put_overlay(OVERLAY)
    await store.close()
    store = await SqliteStore.open(path)
    assert list(await store.overlays()) == [OVERLAY]
    assert await store.all() == sessions
    await store.close()


async def test_a_table_of_overlays_that_is_gone_is_damage(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE overlay_label")
    found, note = await read(path)
    assert found == {}
    assert "a table is missing" in note


async def test_an_overlay_that_cannot_be_written_leaves_the_one_before(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.put_overlay(OVERLAY)
    with pytest.raises(InvalidArgument) as caught:
        await store.put_overlay(replace(OVERLAY, labels={"a": "\udcff"}), instead_of=("codex", "x"))
    assert caught.value.code == "text_invalid"
    assert list(await store.overlays()) == [OVERLAY]
    await store.close()


async def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = await fill(path)
    step = ("DROP TABLE label", "THIS IS NO STATEMENT")
    with monkeypatch.context() as patch:
        patch.setattr("sessiond.store.opening.MIGRATIONS", (*schema.MIGRATIONS, step))
        patch.setattr("sessiond.store.opening.FORMAT", schema.FORMAT + 1)
        with pytest.raises(SessiondError) as caught:
            await read(path)
        assert caught.value.code == "database_failed"
    assert await read(path) == (sessions, "")


async def test_a_newer_format_is_refused_and_left_alone(path: Path) -> None:
    await fill(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {schema.FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(Unsupported) as caught:
        await SqliteStore.open(path)
    assert caught.value.code == "database_newer"
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["sessiond.db"]


# ---- damage


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all " * 500)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : len(content)] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")


def no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE label")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [garbage, cut, scribble, foreign, no_table, folder, pipe])
async def test_what_is_damaged_is_kept_aside_and_begun_anew(
    path: Path, damage: Callable[[Path], None]
) -> None:
    await fill(path, 300)
    damage(path)
    held = path.read_bytes() if path.is_file() else None
    async with asyncio.timeout(60):
        store = await SqliteStore.open(path)
    try:
        assert await store.all() == {}
        await store.put(new_id(), LABELED)
    finally:
        await store.close()
    aside = [one for one in path.parent.iterdir() if ".corrupt-" in one.name]
    assert len(aside) == 1
    assert re.fullmatch(r"sessiond\.db\.corrupt-\d{8}T\d{6}Z", aside[0].name)
    if held is not None:
        assert aside[0].read_bytes() == held
    assert str(path) in store.note
    assert str(aside[0]) in store.note
    # Said once: what was begun anew is fine.
    assert (await read(path))[1] == ""


async def test_the_log_goes_aside_with_its_database(path: Path) -> None:
    path.parent.mkdir()
    garbage(path)
    log = path.with_name("sessiond.db-wal")
    log.write_bytes(b"no log either" * 500)
    note = (await read(path))[1]
    aside = Path(note.split("kept as ")[1].split(", and")[0])
    assert aside.read_bytes().startswith(b"not a database")
    assert Path(f"{aside}-wal").read_bytes() == b"no log either" * 500


async def test_a_log_without_its_database_goes_aside(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("sessiond.db-wal").write_bytes(b"x" * 5000)
    note = (await read(path))[1]
    assert "it is missing" in note
    assert len([one for one in path.parent.iterdir() if one.name.endswith("Z-wal")]) == 1


async def test_a_damaged_file_whose_log_is_whole_is_read_from_the_log(path: Path) -> None:
    store = await SqliteStore.open(path)
    session = new_id()
    await store.put(session, LABELED)
    log = path.with_name("sessiond.db-wal").read_bytes()
    await store.close()
    garbage(path)
    path.with_name("sessiond.db-wal").write_bytes(log)
    assert await read(path) == ({session: LABELED}, "")


async def test_set_aside_twice_in_a_second_keeps_both(path: Path) -> None:
    for _ in range(3):
        path.parent.mkdir(exist_ok=True)
        garbage(path)
        await read(path)
    assert len([one for one in path.parent.iterdir() if ".corrupt-" in one.name]) == 3


async def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    assert await read(path) == ({}, "")


async def test_damage_found_later_is_told_and_repaired_by_a_restart(path: Path) -> None:
    await fill(path, 300)
    store = await SqliteStore.open(path)
    scribble(path)
    with pytest.raises(SessiondError) as caught:
        await store.all()
    assert caught.value.code == "database_damaged"
    assert "restart" in caught.value.hint
    await store.close()
    assert (await read(path))[0] == {}


# ---- others at the same file


@contextlib.contextmanager
def holder(path: Path) -> Iterator[None]:
    """Another process that holds the database for writing."""
    code = """
        import sqlite3, sys
        database = sqlite3.connect(sys.argv[1], isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()


async def test_locked_by_another_process(path: Path) -> None:
    sessions = await fill(path)
    with holder(path):
        store = await SqliteStore.open(path, busy_timeout=4.0)
        # Reading goes on, writing says which file is held, and the loop goes on turning meanwhile.
        assert await store.all() == sessions
        write = asyncio.ensure_future(store.put(new_id(), LABELED))
        turns = 0
        while not write.done():
            await asyncio.sleep(0.01)
            turns += 1
        # One at most if it stood still meanwhile.
        assert turns >= 3
        with pytest.raises(Unreachable) as caught:
            await write
        assert caught.value.code == "database_locked"
        assert str(path) in caught.value.hint
    await store.put(new_id(), LABELED)
    assert len(await store.all()) == len(sessions) + 1
    await store.close()


async def test_a_write_waits_for_another_process_to_let_go(path: Path) -> None:
    await fill(path)
    store = await SqliteStore.open(path, busy_timeout=100)
    with holder(path):
        write = asyncio.ensure_future(store.put(new_id(), LABELED))
        await asyncio.sleep(0.1)
        assert not write.done()
    await write
    await store.close()


@pytest.mark.parametrize("damaged", [False, True])
async def test_many_openers_at_once(path: Path, damaged: bool) -> None:
    path.parent.mkdir()
    if damaged:
        garbage(path)
    stores = await asyncio.gather(*(SqliteStore.open(path) for _ in range(8)))
    sessions = [new_id() for _ in stores]
    await asyncio.gather(
        *(store.put(session, LABELED) for store, session in zip(stores, sessions, strict=True))
    )
    for store in stores:
        assert set(await store.all()) == set(sessions)
        await store.close()
    assert len([store for store in stores if store.note]) == int(damaged)
    assert len([one for one in path.parent.iterdir() if ".corrupt-" in one.name]) == int(damaged)


# ---- the disk and the power


def killed_after(lines: int, code: str, path: Path) -> set[str]:
    """What a writer printed, line by line, before it was killed."""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.readlines()
    return {line.strip() for line in printed if line.endswith("\n")}


async def test_a_writer_that_is_killed_loses_nothing_that_it_acknowledged(path: Path) -> None:
    code = """
        import asyncio, sys
        from pathlib import Path
        from sessiond.model.identity import new_id
        from sessiond.model.session import Metadata
        from sessiond.store.sqlite import SqliteStore

        async def main():
            store = await SqliteStore.open(Path(sys.argv[1]))
            while True:
                session = new_id()
                labels = {f"k{number}": session for number in range(20)}
                await store.put(session, Metadata(labels=labels))
                print(session, flush=True)

        asyncio.run(main())
    """
    acknowledged: set[str] = set()
    for wanted in (20, 21, 22):
        acknowledged |= await asyncio.to_thread(killed_after, wanted, textwrap.dedent(code), path)
    found, note = await read(path)
    assert note == ""
    assert acknowledged <= set(found)
    # Whole or not at all.
    assert all(set(one.labels.values()) == {session} for session, one in found.items())
    assert all(len(one.labels) == 20 for one in found.values())


_FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
from sessiond.errors import Exhausted
from sessiond.model.identity import new_id
from sessiond.model.session import Metadata
from sessiond.store.sqlite import SqliteStore

async def main():
    place = Path(sys.argv[1])
    path = place / "state/sessiond.db"
    store = await SqliteStore.open(path)
    before = {new_id(): Metadata(labels={"a": "b"}) for _ in range(5)}
    for session, metadata in before.items():
        await store.put(session, metadata)
    ballast = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError as error:
        assert error.errno == 28, error
    big = Metadata(annotations={"big": "x" * 60_000})
    failed = 0
    for session in (new_id() for _ in range(40)):
        try:
            await store.put(session, big)
            before[session] = big
        except Exhausted as error:
            assert error.code == "disk_full", error.code
            assert str(place) in error.hint
            failed += 1
    assert failed, "the disk was never full"
    session = next(iter(before))
    try:
        await store.put(session, big)
    except Exhausted:
        pass
    else:
        before[session] = big
    assert await store.all() == before, "the state before did not stay whole"
    await store.close()
    # It opens on the full disk, or says why not; and with room again all is there.
    try:
        store = await SqliteStore.open(path)
    except Exhausted as error:
        assert error.code == "disk_full"
    else:
        assert await store.all() == before
        await store.close()
    os.ftruncate(ballast, 0)
    store = await SqliteStore.open(path)
    assert store.note == "", store.note
    assert await store.all() == before
    await store.put(new_id(), big)
    await store.close()
    print("whole")

asyncio.run(main())
"""

_NO_ROOM = """
import asyncio, os, sys
from pathlib import Path
from sessiond.errors import Exhausted
from sessiond.store.sqlite import SqliteStore

async def main():
    place = Path(sys.argv[1])
    ballast = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(ballast, bytes(4096))
    except OSError as error:
        assert error.errno == 28, error
    try:
        await SqliteStore.open(place / "state/sessiond.db")
    except Exhausted as error:
        assert error.code == "disk_full"
        print("whole")

asyncio.run(main())
"""


_OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")


@pytest.mark.parametrize("script", [_FULL_DISK, _NO_ROOM], ids=["while it is used", "before it is made"])
def test_a_full_disk(tmp_path: Path, script: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a disk of its own is mounted by root alone, in a private mount namespace")
    place = tmp_path / "disk"
    place.mkdir()
    command = 'mount -t tmpfs -o size=1m,mode=700 none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*_OWN_MOUNTS, "sh", "-c", command, "sh", str(place), sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "whole\n"


async def test_a_folder_that_belongs_to_another_or_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(PermissionDenied) as caught:
        await SqliteStore.open(tmp_path / "link/sessiond.db")
    assert caught.value.code == "folder_unsafe"


def test_what_sqlite_says_is_mapped_once(path: Path) -> None:
    from sessiond.store.faults import from_sqlite

    def said(code: int) -> SessiondError:
        error = sqlite3.OperationalError("said")
        error.sqlite_errorcode = code
        return from_sqlite(error, path)

    path.parent.mkdir()
    assert (type(said(sqlite3.SQLITE_FULL)), said(sqlite3.SQLITE_FULL).code) == (Exhausted, "disk_full")
    assert said(sqlite3.SQLITE_BUSY_SNAPSHOT).code == "database_locked"
    assert said(sqlite3.SQLITE_READONLY).code == "database_denied"
    assert said(sqlite3.SQLITE_CORRUPT_INDEX).code == "database_damaged"
    assert said(sqlite3.SQLITE_IOERR_READ).code == "database_failed"
    assert from_sqlite(sqlite3.ProgrammingError("no code"), path).code == "database_failed"


def test_opening_waits_for_another_that_opens(path: Path) -> None:
    import fcntl

    path.parent.mkdir()
    held = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        with pytest.raises(Unreachable) as caught:
            open_database(path, 0.2)
        assert time.monotonic() - began >= 0.2
        assert caught.value.code == "database_locked"
    finally:
        os.close(held)
