"""sessionctl against a real supervisor: what it prints, what it changes, how it exits."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.unit.cli_case import StandIn, ctl

ALWAYS = [
    "id",
    "name",
    "path",
    "type",
    "owner",
    "labels",
    "annotations",
    "state",
    "frozen",
    "archived",
    "enabled",
    "active",
    "conflict",
    "unit",
    "slice",
    "pid",
    "since",
    "restarts",
    "created_at",
    "last_accessed",
]
DETAILS = ["result", "exit_status", "signal", "endpoint", "limits", "last_log"]


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with StandIn() as supervisor:
        yield supervisor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "w").mkdir()
    return tmp_path / "w"


# ---- new, list, show ------------------------------------------------------------------------


def test_new_prints_one_object_and_list_an_array_of_it(stand_in: StandIn, folder: Path) -> None:
    made = ctl("new", str(folder / "shop"), "--label", "team=web", "--type", "test", "--json")
    assert made.code == 0
    assert made.json["name"] == "shop"
    assert made.json["path"] == str(folder / "shop")
    assert made.json["labels"] == {"team": "web"}
    listed = ctl("list", "--json")
    assert listed.json == [made.json]


def test_a_session_that_was_never_started_has_every_key_and_null_where_nothing_applies(
    stand_in: StandIn, folder: Path
) -> None:
    ctl("new", str(folder / "shop"))
    [one] = ctl("list", "--json").json
    assert set(ALWAYS) <= set(one)
    assert [one[key] for key in ("pid", "since", "restarts", "last_accessed", "conflict")] == [None] * 5
    assert (one["state"], one["frozen"], one["archived"], one["active"]) == ("inactive", False, False, False)


def test_a_session_that_runs_tells_pid_since_and_restarts(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "shop"), "--start")
    [one] = ctl("list", "--json").json
    assert one["state"] == "active"
    assert one["pid"] > 0
    assert one["restarts"] == 0
    for key in ("since", "created_at", "last_accessed"):
        assert one[key].endswith("Z")
        assert datetime.fromisoformat(one[key]).utcoffset() == timedelta(0)


def test_show_has_the_details_besides(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "shop"), "--start")
    one = ctl("show", "shop", "--json").json
    assert set(ALWAYS + DETAILS) <= set(one)
    assert one["endpoint"].endswith(f"{one['id']}.sock")
    assert one["limits"] == {}
    stand_in.do(lambda: setattr(stand_in.init, "journal_readable", False))
    unread = ctl("show", "shop", "--json").json
    assert unread["last_log"] is None
    assert unread["last_log_unknown"]
    page = ctl("show", "shop").out
    assert "active" in page
    assert str(folder / "shop") in page


def test_list_filters(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--label", "x=1", "--label", "y=1", "--start")
    ctl("new", str(folder / "b"), "--label", "x=2", "--type", "persona", "--owner", "ann")
    ctl("new", str(folder / "c"))
    ctl("archive", "c")

    def names(*words: str) -> list[str]:
        return [one["name"] for one in ctl("list", "--json", *words).json]

    assert names() == ["a", "b"]
    assert names("-a") == ["a", "b", "c"]
    assert names("--state", "archived") == ["c"]
    assert names("--state", "active", "--state", "inactive") == ["a", "b"]
    assert names("--label", "x") == ["a", "b"]
    assert names("--label", "x=2") == ["b"]
    assert names("--label", "x", "--label", "y=1") == ["a"]
    assert names("--type", "persona") == ["b"]
    assert names("--owner", "ann") == ["b"]
    assert names("--owner", "nobody") == []


def test_a_row_shows_what_is_wrong_with_it(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "shop"))
    shutil.copytree(folder / "shop", folder / "copy")
    assert ctl("discover", str(folder)).code == 0
    rows = ctl("list", "--json").json
    assert len(rows) == 2
    assert all(row["conflict"] for row in rows)
    assert ctl("list").out.count("  ! conflict: ") == 2
    assert ctl("adopt", str(folder / "copy"), "--new-id").code == 0
    assert "conflict" not in ctl("list").out


def test_a_path_means_the_session_there(
    stand_in: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctl("new", str(folder / "shop"))
    monkeypatch.chdir(folder / "shop")
    monkeypatch.setenv("HOME", str(folder))
    for word in (".", "./", "../shop", "~/shop", str(folder / "shop"), f"{folder}/./shop/"):
        assert ctl("show", word, "--json").json["name"] == "shop", word
    assert ctl("new", "../blog", "--json").json["path"] == str(folder / "blog")


def test_new_without_a_path_is_about_this_folder(
    stand_in: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert ctl("new", "--json").json["path"] == str(folder)


def test_a_prefix_of_the_id_will_do(stand_in: StandIn, folder: Path) -> None:
    made = ctl("new", str(folder / "shop"), "--json").json
    assert ctl("show", made["id"][:8], "--json").json["id"] == made["id"]


# ---- life -----------------------------------------------------------------------------------


def test_each_verb_of_life_prints_an_array_of_what_it_changed(stand_in: StandIn, folder: Path) -> None:
    for name in ("a", "b"):
        ctl("new", str(folder / name))
    for verb, state in (
        ("start", "active"),
        ("restart", "active"),
        ("stop", "inactive"),
        ("end", "archived"),
    ):
        done = ctl(verb, "a", "b", "--json")
        assert done.code == 0, done.err
        assert [(one["name"], one["state"]) for one in done.json] == [("a", state), ("b", state)]


def test_a_session_named_twice_is_done_once(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    assert len(ctl("start", "a", "a", "--json").json) == 1


def test_of_several_each_is_tried_and_the_first_failure_tells_the_exit_code(
    stand_in: StandIn, folder: Path
) -> None:
    ctl("new", str(folder / "a"))
    done = ctl("start", "nobody", "a", "nobody2", "--json")
    assert done.code == 3
    assert [one["name"] for one in done.json] == ["a"]
    assert [error["code"] for error in done.errors] == ["session_not_found", "session_not_found"]
    assert set(done.errors[0]) == {"code", "message", "hint", "fields"}


def test_kill_sends_the_signal_and_the_init_system_has_it_back(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--start")
    assert ctl("kill", "a").out == "a: SIGKILL sent\n"
    assert ctl("kill", "a", "--signal", "nonsense").code == 7
    ctl("stop", "a")
    assert ctl("kill", "a").code == 4


def test_use_activates_shows_and_deactivates(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    assert ctl("use", "--json").errors[0]["code"] == "no_active_session"
    [used] = ctl("use", "a", "--json").json
    assert (used["active"], used["state"]) == (True, "active")
    assert "a *" in ctl("list").out
    assert ctl("use", "--json").json[0]["name"] == "a"
    [left] = ctl("use", "--none", "--json").json
    assert (left["active"], left["state"]) == (False, "inactive")
    assert ctl("use", "--none").code == 3
    assert ctl("use", "a", "--none").code == 2


def test_wait_returns_at_once_or_when_it_comes_true_or_times_out(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    assert ctl("wait", "a", "--state", "inactive").code == 0
    timed_out = ctl("wait", "a", "--timeout", "50ms", "--json")
    assert timed_out.code == 6
    assert timed_out.errors[0]["code"] == "wait_timeout"
    starter = threading.Timer(0.2, lambda: ctl_elsewhere(stand_in, folder))
    starter.start()
    try:
        assert ctl("wait", "a", "--timeout", "60", "--json").json[0]["state"] == "active"
    finally:
        starter.join()


def ctl_elsewhere(stand_in: StandIn, folder: Path) -> None:
    """Start a session from another thread, by the client: standard streams are the test's."""
    from sessiond.client.sync import Supervisor
    from sessiond.rpc._generated.v1 import sessions_pb2 as pb

    socket = Path(os.environ["XDG_RUNTIME_DIR"], "sessiond/sessiond.sock")
    with Supervisor(socket) as supervisor:
        supervisor.call(supervisor.sessions.StartSession, pb.StartSessionRequest(session=str(folder / "a")))


# ---- changes --------------------------------------------------------------------------------


def test_labels_and_annotations_are_set_and_removed(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--label", "old=1", "--label", "kept=1")
    [one] = ctl("label", "a", "new=x=y", "old-", "--json").json
    assert one["labels"] == {"kept": "1", "new": "x=y"}
    [one] = ctl("annotate", "a", "note=two words", "--json").json
    assert one["annotations"] == {"note": "two words"}
    [one] = ctl("annotate", "a", "note-", "--json").json
    assert one["annotations"] == {}
    for wrong in (["nothing"], ["=x"], ["-"], ["a=1", "a-"]):
        assert ctl("label", "a", "--", *wrong).code == 2, wrong
    assert ctl("label", "a", "bad key=1").code == 7


def test_rename_archive_enable(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    ctl("new", str(folder / "b"))
    assert ctl("rename", "a", "b").code == 4
    assert ctl("rename", "a", "c", "--json").json[0]["name"] == "c"
    assert ctl("enable", "c", "--json").json[0]["enabled"] is True
    assert ctl("disable", "c", "--json").json[0]["enabled"] is False
    assert ctl("archive", "c", "--json").json[0]["archived"] is True
    assert ctl("unarchive", "c", "--json").json[0]["archived"] is False


def test_limit_sets_and_shows(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--start")
    [one] = ctl("limit", "a", "TasksMax=500", "--json").json
    assert one["limits"] == {"TasksMax": "500"}
    assert "TasksMax=500" in ctl("limit", "a").out
    assert ctl("limit", "a", "Nonsense=1", "--json").errors[0]["code"] == "property_unknown"
    assert ctl("limit", "a", "TasksMax").code == 2


def test_adopt_and_discover(stand_in: StandIn, folder: Path) -> None:
    (folder / "there/.git").mkdir(parents=True)
    found = ctl("discover", str(folder), "--json").json
    assert found["roots"] == [str(folder)]
    assert [one["path"] for one in found["candidates"]] == [str(folder / "there")]
    assert ctl("adopt", str(folder / "there"), "--json").json[0]["name"] == "there"
    assert [one["name"] for one in ctl("discover", str(folder), "--json").json["sessions"]] == ["there"]
    assert ctl("adopt", str(folder / "nowhere")).code == 3
    assert "there" in ctl("discover", str(folder)).out


# ---- delete ---------------------------------------------------------------------------------


def test_delete_keeps_files_and_refuses_what_runs(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--start")
    (folder / "a/file").touch()
    assert ctl("delete", "a").code == 4
    assert ctl("delete", "a", "--stop", "--json").json[0]["name"] == "a"
    assert (folder / "a/file").exists()
    assert not (folder / "a/.sessiond/session.json").exists()


def test_a_purge_needs_a_person_or_yes(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    refused = ctl("delete", "a", "--purge", "--json")
    assert (refused.code, refused.errors[0]["code"]) == (2, "confirmation_needed")
    wrong = ctl("delete", "a", "--purge", terminal=True, typed="b\n")
    assert wrong.code == 2
    assert (folder / "a").exists()
    assert str(folder / "a") in wrong.err
    assert ctl("delete", "a", "--purge", terminal=True, typed="a\n").code == 0
    assert not (folder / "a").exists()
    ctl("new", str(folder / "b"))
    assert ctl("delete", "b", "--purge", "--yes").code == 0
    assert not (folder / "b").exists()


def test_the_end_of_input_at_a_question_deletes_nothing(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"))
    assert ctl("delete", "a", "--purge", terminal=True, typed="").code != 0
    assert (folder / "a").exists()


# ---- events ---------------------------------------------------------------------------------


def test_events_are_one_object_a_line(stand_in: StandIn, folder: Path) -> None:
    ctl("new", str(folder / "a"), "--start")
    ctl("new", str(folder / "b"))
    events = [json.loads(line) for line in ctl("events", "--json").out.splitlines()]
    assert [event["kind"] for event in events if event["session_name"] == "b"] == ["session_created"]
    assert {"cursor", "time", "kind", "session", "session_name", "fields"} == set(events[0])
    assert [event["cursor"]["seq"] for event in events] == list(range(1, len(events) + 1))
    changes = ctl("events", "--json", "--kind", "session_state_changed", "a").out.splitlines()
    assert [json.loads(line)["fields"]["to"] for line in changes] == ["starting", "active"]
    assert len(ctl("events", "-n", "1").out.splitlines()) == 1
    assert ctl("events", "-n", "0").out == ""
    assert ctl("events", "-n", "-1").code == 7
    assert ctl("events", "--kind", "nonsense").code == 7


# ---- version --------------------------------------------------------------------------------


def test_version_tells_both(stand_in: StandIn) -> None:
    told = ctl("version", "--json").json
    assert told["sessionctl"] == told["supervisor"] != ""
    assert ctl("version").out.startswith("sessionctl ")
