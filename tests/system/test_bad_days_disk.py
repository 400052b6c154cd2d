"""Bad days of files: workspaces deleted, moved and copied; a database locked, damaged or out of room."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.system.product import (
    INSIDE_ROOTS,
    OUTSIDE_ROOTS,
    STATE,
    Product,
    until,
)

# ---- workspaces


def test_a_workspace_deleted_while_active_is_shown_and_its_session_can_go(product: Product) -> None:
    made = product.started()
    session, folder = made["id"], made["path"]
    pid = product.pid(session)
    product.host.run(["rm", "-r", folder])
    row = until(lambda: _problem(product, session), "the row tells of the missing workspace")
    # What runs is told as it is.
    assert (row["state"], row["pid"], row["path"]) == ("active", pid, folder)
    assert folder in row["problem"]
    assert product.show(session)["name"] == made["name"]
    assert "active" in product.ctl("status", session)
    assert product.json("stop", session)[0]["state"] == "inactive"
    error = product.refused(4, "start", session)
    assert error["code"] == "workspace_missing"
    assert "delete" in error["hint"]
    product.ctl("delete", session)
    assert product.rows() == []
    assert not product.host.path(folder).exists()


def test_a_deleted_workspace_is_still_known_to_a_new_supervisor_and_comes_back(product: Product) -> None:
    made = product.started()
    session, folder = made["id"], made["path"]
    product.host.run(["mv", folder, f"{OUTSIDE_ROOTS}/.kept"])
    until(lambda: _problem(product, session), "the row tells of the missing workspace")
    product.restart_supervisor()
    [row] = product.agrees()
    assert (row["id"], row["path"], row["state"]) == (session, folder, "active")
    assert row["problem"]
    product.host.run(["mv", f"{OUTSIDE_ROOTS}/.kept", folder])
    until(lambda: not _problem(product, session), "the row is whole again")
    assert product.row(session)["name"] == made["name"]


def test_a_workspace_whose_identity_was_removed_or_spoilt_is_told(product: Product) -> None:
    made = product.started()
    session, folder = made["id"], made["path"]
    file = f"{folder}/.sessiond/session.json"
    whole = product.host.path(file).read_text()
    for spoil in (f"rm {file}", f"echo '{{' > {file}", f"rm {file}; mkfifo {file}"):
        product.host.run(["sh", "-c", spoil])
        row = until(lambda: _problem(product, session), f"the row tells of: {spoil}")
        assert row["state"] == "active"
        product.host.run(["rm", "-f", file])
        product.write(file, whole)
        until(lambda: not _problem(product, session), "the row is whole again")
    assert product.identity(folder) == json.loads(whole)
    product.agrees()


def test_a_workspace_moved_while_active_keeps_its_identity(product: Product) -> None:
    folder = product.folder("before", under=INSIDE_ROOTS)
    made = product.started(folder=folder)
    session, pid = made["id"], product.pid(made["id"])
    product.ctl("label", session, "kept=yes")
    product.ctl("enable", session)
    mark = product.cursor()
    product.host.run(["mv", folder, f"{INSIDE_ROOTS}/after"])
    until(lambda: product.row(session)["path"] == f"{INSIDE_ROOTS}/after", "the row has the new path")
    [row] = product.agrees()
    told = {key: row[key] for key in ("id", "name", "state", "pid", "labels", "enabled", "problem")}
    assert told == {
        "id": session,
        "name": made["name"],
        "state": "active",
        "pid": pid,
        "labels": {"kept": "yes"},
        "enabled": True,
        "problem": None,
    }
    [(_, fields)] = product.events(mark, session, "session_moved")
    assert (fields["from"], fields["to"]) == (folder, f"{INSIDE_ROOTS}/after")
    assert product.links() == {session: f"{INSIDE_ROOTS}/after"}
    assert product.json("restart", f"{INSIDE_ROOTS}/after")[0]["state"] == "active"


def test_a_workspace_moved_while_the_supervisor_was_away_is_found_by_discovery(product: Product) -> None:
    session = product.new(folder=product.folder("here"))["id"]
    there = f"{INSIDE_ROOTS}/deep/there"
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"mkdir -p {INSIDE_ROOTS}/deep && mv {OUTSIDE_ROOTS}/here {there}"])
    product.start_supervisor()
    row = product.row(session)
    assert (row["path"], row["problem"]) == (there, None)
    # And outside the roots, by being asked to look.
    elsewhere = product.folder("far/away")
    product.host.run(["sh", "-c", f"rmdir {elsewhere} && mv {there} {elsewhere}"])
    product.ctl("discover", f"{OUTSIDE_ROOTS}/far")
    row = product.row(session)
    assert (row["path"], row["problem"]) == (elsewhere, None)
    product.ctl("start", elsewhere)


def test_a_copied_workspace_is_a_conflict_on_both_rows_until_it_gets_its_own_id(product: Product) -> None:
    folder = product.folder("original", under=INSIDE_ROOTS)
    copy = f"{INSIDE_ROOTS}/copy"
    session = product.started(folder=folder)["id"]
    pid, mark = product.pid(session), product.cursor()
    product.host.run(["cp", "-r", folder, copy])
    until(lambda: len(product.rows()) == 2, "both rows are listed")
    rows = {row["path"]: row for row in product.rows()}
    assert rows.keys() == {folder, copy}
    assert {row["id"] for row in rows.values()} == {session}
    assert copy in rows[folder]["conflict"]
    assert folder in rows[copy]["conflict"]
    # Nothing of ours runs in the copy.
    assert (rows[folder]["state"], rows[folder]["pid"]) == ("active", pid)
    assert (rows[copy]["state"], rows[copy]["pid"]) == ("inactive", None)
    [(_, fields)] = product.events(mark, session, "session_conflict")
    assert fields["path"] == copy
    for words in (("start", copy), ("adopt", copy)):
        error = product.refused(4, *words)
        assert error["code"] == "session_conflict"
        assert "--new-id" in error["hint"]

    [adopted] = product.json("adopt", copy, "--new-id")
    assert adopted["id"] != session
    assert adopted["path"] == copy
    rows = {row["path"]: row for row in product.agrees()}
    assert [row["conflict"] for row in rows.values()] == [None, None]
    assert rows[folder]["id"] == session
    assert rows[folder]["name"] != rows[copy]["name"]
    assert product.pid(session) == pid
    identity = product.identity(copy)
    assert identity is not None
    assert identity["id"] == adopted["id"]
    assert product.json("start", copy)[0]["state"] == "active"


def test_a_conflict_is_still_one_after_a_restart_and_ends_when_the_copy_goes(product: Product) -> None:
    folder = product.folder("original", under=INSIDE_ROOTS)
    copy = f"{INSIDE_ROOTS}/a-copy-that-sorts-first"
    session = product.started(folder=folder)["id"]
    product.host.run(["cp", "-r", folder, copy])
    until(lambda: len(product.rows()) == 2, "both rows are listed")
    product.restart_supervisor()
    # The one that was the session before is the session now, whatever is found first.
    rows = {row["path"]: row for row in product.rows()}
    assert rows[folder]["state"] == "active"
    assert rows[copy]["state"] == "inactive"
    assert rows[copy]["conflict"]
    product.host.run(["rm", "-r", copy])
    until(lambda: [row["conflict"] for row in product.rows()] == [None], "the conflict is over")
    assert product.row(session)["path"] == folder


# ---- the database

_HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=100, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def _locked(product: Product) -> Iterator[None]:
    """Another process holds the database in an exclusive transaction."""
    holder = product.host.popen(
        ["python3", "-c", _HOLD, f"{STATE}/sessiond.db"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.stdin.close()
        assert holder.wait(120) == 0


def test_a_locked_database_fails_what_must_be_stored_and_nothing_else(product: Product) -> None:
    made = product.new("--label", "before=1")
    session = made["id"]
    with _locked(product):
        assert product.rows()[0]["labels"] == {"before": "1"}
        error = product.refused(5, "label", session, "after=1")
        assert error["code"] == "database_locked"
        assert "fuser" in error["hint"]
        assert product.row(session)["labels"] == {"before": "1"}
        # All or nothing: the name is in the identity, the labels are in the database.
        assert product.json("start", session)[0]["state"] == "active"
        assert product.rows()[0]["state"] == "active"
        product.json("stop", session)
    product.ctl("label", session, "after=1")
    assert product.row(session)["labels"] == {"before": "1", "after": "1"}
    product.agrees()


def test_a_supervisor_starts_on_a_locked_database(product: Product) -> None:
    session = product.started()["id"]
    product.ctl("label", session, "kept=yes")
    pid = product.pid(session)
    with _locked(product):
        product.restart_supervisor()
        assert product.row(session)["labels"] == {"kept": "yes"}
        assert product.unit(session)["MainPID"] == str(pid)
    [row] = product.agrees()
    assert row["pid"] == pid
    product.ctl("label", session, "after=1")


@pytest.mark.parametrize("damage", ["head -c 9000 /dev/urandom >", "printf 'SQLite format 3' >", ":>"])
def test_a_damaged_database_is_kept_aside_said_and_made_anew(product: Product, damage: str) -> None:
    session = product.started()["id"]
    product.ctl("label", session, "lost=yes")
    pid = product.pid(session)
    product.stop_supervisor()
    product.host.run(["sh", "-c", f"cd {STATE} && rm -f sessiond.db-* && {damage} sessiond.db"])
    spoilt = product.host.path(f"{STATE}/sessiond.db").read_bytes()
    product.start_supervisor()
    try:
        [row] = product.agrees()
        assert (row["id"], row["state"], row["pid"]) == (session, "active", pid)
        kept = list(product.host.path(STATE).glob("sessiond.db.corrupt-*"))
        if spoilt:
            [aside] = [one for one in kept if not one.name.endswith(("-wal", "-shm"))]
            assert aside.read_bytes() == spoilt
            assert aside.name in product.info().database_note
            done = product.host.sessionctl("doctor", "--json", check=False)
            assert aside.name in done.stdout
        product.ctl("label", session, "new=yes")
        product.restart_supervisor()
        assert product.row(session)["labels"] == {"new": "yes"}
    finally:
        product.host.run(["sh", "-c", f"rm -f {STATE}/sessiond.db.corrupt-*"])


# ---- no room


@contextmanager
def _small_disk(product: Product, folder: str) -> Iterator[None]:
    """A file system of one MiB at a folder of the user's."""
    options = f"size=1M,uid={product.host.uid},gid={product.host.uid},mode=700"
    product.host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], user=False)
    try:
        yield
    finally:
        product.host.run(["umount", "--lazy", folder], user=False)


def _fill(product: Product, folder: str) -> None:
    file = shlex.quote(f"{folder}/filler")
    write = f"dd if=/dev/zero of={file} bs=4k oflag=append conv=notrunc 2>/dev/null; sync; true"

    def filled() -> bool:
        product.host.run(["sh", "-c", write])
        return product.host.run(["stat", "--file-system", "--format=%a", folder]).stdout.strip() == "0"

    # What runs may give back a block meanwhile.
    until(filled, f"no block left in {folder}")


def test_a_full_state_folder_loses_nothing_and_stops_nothing(product: Product) -> None:
    product.stop_supervisor()
    with _small_disk(product, STATE):
        product.start_supervisor()
        made = product.started()
        session = made["id"]
        product.ctl("label", session, "before=1")
        pid = product.pid(session)
        _fill(product, STATE)
        # Enough to need a page that is not there.
        error = product.refused(1, "annotate", session, f"big={'x' * 40000}")
        assert error["code"] == "disk_full"
        assert "df" in error["hint"]
        row = product.row(session)
        assert (row["labels"], row["annotations"], row["state"]) == ({"before": "1"}, {}, "active")
        done = product.host.sessionctl("doctor", "--json", check=False)
        checks = {one["check"]: one["status"] for one in json.loads(done.stdout)}
        assert "failure" in checks.values() or "warning" in checks.values()
        # The session and the supervisor go on.
        product.json("stop", session)
        assert product.json("start", session)[0]["state"] == "active"
        product.restart_supervisor()
        [row] = product.agrees()
        assert (row["id"], row["state"], row["labels"]) == (session, "active", {"before": "1"})
        assert row["pid"] != pid
        product.host.run(["rm", f"{STATE}/filler"])
        product.restart_supervisor()
        product.ctl("label", session, "after=1")
        assert product.row(session)["labels"] == {"before": "1", "after": "1"}
        product.clean()
        product.stop_supervisor()
    product.start_supervisor()


def test_a_full_workspace_leaves_no_half_session_and_no_half_identity(product: Product) -> None:
    folder = product.folder("small")
    with _small_disk(product, folder):
        kept = product.new(folder=product.folder("small/kept"))
        before = product.identity(kept["path"])
        empty = product.folder("small/empty")
        _fill(product, folder)
        error = product.refused(1, "new", empty)
        assert error["code"] == "disk_full"
        assert product.identity(empty) is None
        assert product.links() == {kept["id"]: kept["path"]}
        product.refused(1, "rename", kept["id"], "another-name")
        assert product.identity(kept["path"]) == before
        assert product.row(kept["id"])["name"] == kept["name"]
        product.host.run(["rm", f"{folder}/filler"])
        product.new(folder=empty)
        product.ctl("rename", kept["id"], "another-name")
        assert product.row(kept["id"])["name"] == "another-name"
        for session in (kept["id"], product.show(empty)["id"]):
            product.ctl("delete", session)


def test_a_state_folder_that_cannot_be_written_stops_no_session(product: Product) -> None:
    session = product.started()["id"]
    before = product.unit(session)
    folder = product.folder()
    product.host.run(["mount", "--bind", STATE, STATE], user=False)
    try:
        product.host.run(["mount", "-o", "remount,bind,ro", STATE], user=False)
        assert product.row(session)["state"] == "active"
        product.refused(1, "new", folder)
        assert product.identity(folder) is None
        assert product.unit(session) == before
    finally:
        product.host.run(["umount", "--lazy", STATE], user=False)
    product.new(folder=folder)
    product.agrees()


def _problem(product: Product, session: str) -> dict[str, Any] | None:
    row = product.row(session)
    return row if row["problem"] else None
