"""Bad days of discovery: its processes killed and stopped, a full disk, files with all that can be wrong."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc.status import from_rpc_error
from tests.system.discovery_case import (
    CLAUDE,
    CODEX,
    HASTY,
    Programs,
    Watch,
    configured,
    doctors_word,
    finder_of,
    finders,
    got,
    listed,
    problems,
    programs,
    rollout_path,
    settings,
    transcript_path,
    transcript_text,
    watching,
    while_away,
)
from tests.system.product import HOME, STATE, Product, until

__all__ = ["programs", "settings"]


def well(product: Product, what: str) -> None:
    """Wait until nothing gives trouble any more."""
    last: dict[tuple[str, str], str] = {}

    def none() -> bool:
        last.clear()
        last.update(problems(product))
        return not last

    try:
        until(none, what)
    except pytest.fail.Exception as error:
        raise AssertionError(f"{error}: {last}") from error


# ---- who finds


@pytest.mark.parametrize("victim", ["sessiond-finder", "find:claude-cod"])
def test_a_finder_that_is_killed_is_back_and_nothing_false_was_told(
    product: Product, programs: Programs, victim: str
) -> None:
    folder = product.folder()
    live, still, other = programs.transcript(folder), programs.transcript(folder), programs.rollout(folder)
    pid, locker = programs.claude(live), programs.codex(other)
    with watching(product) as watch:
        before = finders(product)
        assert before.keys() >= {"sessiond-finder", "find:claude-cod", "find:codex"}
        product.kill(before[victim])
        watch.until(lambda one: one.trouble("claude-code")[-1:] == [""], "it is well again")
        assert watch.trouble("claude-code") == ["adapter_failed", ""]
        assert watch.removed() == set()
        assert watch.statuses(live) == ["running"]
        assert set(watch.statuses(still)) == {"stopped"}
        assert [watch.rows[one].status for one in (live, other)] == ["running", "idle"]
        # What follows is heard again.
        product.kill(pid)
        watch.until(lambda one: one.rows[live].status == "stopped", "the end of the process")
    if victim == "sessiond-finder":
        until(lambda: finders(product).keys() == before.keys(), "all of them again")
        assert not set(before.values()) & set(finders(product).values())
    else:
        after = finders(product)
        assert {name: pid for name, pid in after.items() if name != victim} == {
            name: pid for name, pid in before.items() if name != victim
        }
        assert after[victim] != before[victim]
    row = listed(product)[other]
    assert (row.status, row.pid, row.stale) == ("idle", locker, False)


def test_while_an_adapter_is_away_its_rows_are_stale_and_never_stopped(
    product: Product, programs: Programs
) -> None:
    folder = product.folder()
    live, other = programs.transcript(folder), programs.rollout(folder)
    pid = programs.claude(live)
    with configured(product, HASTY):
        assert got(product, live).status == "running"
        stopped = finder_of(product, "claude-code")
        product.kill(stopped, signal.SIGSTOP)
        # Asked with all others, it is given up after its deadline, and they have answered.
        rows = listed(product, refresh=True)
        assert (rows[live].status, rows[live].pid, rows[live].stale) == ("running", pid, True)
        assert (rows[other].status, rows[other].stale) == ("stopped", False)

        def codes() -> list[str]:
            told = product.json("discovered", "--errors")
            return [one["code"] for one in told if one["adapter"] == "claude-code"]

        def doctors() -> tuple[str, bool]:
            status, detail = doctors_word(product)
            return status, "claude-code" in detail

        answers: tuple[tuple[Callable[[], Any], Any], ...] = (
            (lambda: problems(product, "claude-code").keys(), {("adapter_timeout", "")}),
            (codes, ["adapter_timeout"]),
            (doctors, ("warning", True)),
        )
        for asked, expected in answers:
            while_away(product, asked, expected)
        assert (got(product, live).status, got(product, live).stale) in (
            ("running", True),
            ("running", False),
        )
        finder_of(product, "claude-code", besides=stopped)
        until(lambda: not listed(product)[live].stale, "it is well again")
        assert problems(product, "claude-code") == {}


def test_an_adapter_that_hangs_is_found_out_by_whoever_asks_and_delays_nobody(
    product: Product, programs: Programs
) -> None:
    folder = product.folder()
    live, other = programs.transcript(folder), programs.rollout(folder)
    programs.claude(live)
    with configured(product, HASTY), watching(product) as watch:
        stopped = finder_of(product, "claude-code")
        product.kill(stopped, signal.SIGSTOP)
        assert listed(product, "codex", refresh=True)[other].status == "stopped"
        assert watch.trouble("claude-code") == []
        row = got(product, live)
        assert (row.status, row.stale) == ("running", True)
        watch.until(lambda one: one.trouble("claude-code")[-1:] == [""], "it is well again")
        assert watch.trouble("claude-code") == ["adapter_timeout", ""]
        assert watch.statuses(live) == ["running"]
        assert watch.removed() == set()
        # The same where all that starts them hangs.
        product.kill(finders(product)["sessiond-finder"], signal.SIGSTOP)
        product.kill(finder_of(product, "claude-code"))
        watch.until(lambda one: one.trouble("claude-code")[3:][-1:] == [""], "it is well again")
        assert watch.statuses(live) == ["running"]
        assert watch.removed() == set()


def test_a_supervisor_that_is_killed_tells_the_truth_again_and_leaves_nothing(
    product: Product, programs: Programs
) -> None:
    folder = product.folder()
    live, ended = programs.transcript(folder), programs.transcript(folder)
    pid, doomed = programs.claude(live), programs.claude(ended)
    with watching(product) as watch:
        before = finders(product)
        product.kill(doomed, signal.SIGSTOP)
        product.kill(product.supervisor_pid())
        product.kill(doomed)
        error = watch.ended()
        assert error is not None
        assert watch.statuses(ended) == ["running"]
    product.serving()
    rows = listed(product)
    assert {one: (row.status, row.pid, row.stale) for one, row in rows.items()} == {
        live: ("running", pid, False),
        ended: ("stopped", 0, False),
    }
    assert not set(before.values()) & set(finders(product).values())
    for one in before.values():
        assert not product.host.path(f"/proc/{one}").exists()


# ---- what is kept


@contextmanager
def full_disk(product: Product) -> Iterator[None]:
    """No room in the state folder, while no supervisor runs at the change."""
    product.stop_supervisor()
    aside, uid = f"{HOME}/state-aside", product.host.uid
    product.host.run(["mv", STATE, aside])
    product.host.run(["mkdir", "-p", STATE])
    options = f"size=1m,uid={uid},gid={uid},mode=0700"
    product.host.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", STATE], user=False)
    try:
        product.host.run(["sh", "-c", f"cp -a {aside}/. {STATE}/"])
        product.start_supervisor()
        yield
    finally:
        product.stop_supervisor()
        product.host.run(["sh", "-c", f"rm -f {STATE}/filler && rm -rf {aside} && cp -a {STATE} {aside}"])
        product.host.run(["umount", STATE], user=False)
        product.host.run(["sh", "-c", f"rmdir {STATE} && mv {aside} {STATE}"])
        product.start_supervisor()


def test_labels_on_a_full_disk_are_refused_and_nothing_is_lost(product: Product, programs: Programs) -> None:
    session = programs.transcript(product.folder())
    product.ctl("tag", session, "kept=yes", "--group", "night")
    with full_disk(product):
        product.host.run(["sh", "-c", f"head -c 100m /dev/zero > {STATE}/filler; true"], check=False)
        error = until(lambda: _refused(product, session), "no room")
        assert error.code == "disk_full"
        assert error.hint
        row = got(product, session).message
        assert (dict(row.labels), row.group) == ({"kept": "yes"}, "night")
        product.host.run(["rm", f"{STATE}/filler"])
        until(lambda: _refused(product, session) is None, "room again")
        product.kill_supervisor()
        labels = dict(got(product, session).message.labels)
        assert labels.pop("kept") == "yes"
        assert labels


def _refused(product: Product, session: str) -> SessiondError | None:
    request = pb.LabelAgentSessionRequest(agent_session=session)
    request.set_labels[f"more-{uuid.uuid4().hex[:8]}"] = "x" * 60
    with product.client() as client:
        try:
            client.call(client.discovery.LabelAgentSession, request)
        except SessiondError as error:
            return error
    return None


def test_two_who_label_one_row_at_once_lose_nothing(product: Product, programs: Programs) -> None:
    session = programs.transcript(product.folder())
    each = 25

    def label(who: str) -> None:
        with product.client() as client:
            for number in range(each):
                request = pb.LabelAgentSessionRequest(agent_session=session)
                request.set_annotations[f"{who}-{number}"] = str(number)
                client.call(client.discovery.LabelAgentSession, request)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(label, ("one", "two")))
    expected = {f"{who}-{number}": str(number) for who in ("one", "two") for number in range(each)}
    assert dict(got(product, session).message.annotations) == expected
    product.kill_supervisor()
    assert dict(got(product, session).message.annotations) == expected


# ---- files


def test_each_file_that_cannot_be_read_is_told_and_hides_no_other(
    product: Product, programs: Programs
) -> None:
    folder, closed = product.folder(), product.folder()
    good, bad = programs.transcript(folder), programs.transcript(folder)
    hidden, thread = programs.transcript(closed), programs.rollout(folder)
    assert listed(product, refresh=True).keys() == {good, bad, hidden, thread}
    place = transcript_path(good, folder).rpartition("/")[0]
    shut = transcript_path(hidden, closed).rpartition("/")[0]
    new = [str(uuid.uuid4()) for _ in range(6)]
    script = f"""
    chmod 000 {transcript_path(bad, folder)} {shut} {rollout_path(thread)}
    mkdir {place}/{new[0]}.jsonl
    ln -s {new[1]}.jsonl {place}/{new[1]}.jsonl
    mkfifo {place}/{new[2]}.jsonl
    ln -s . {place}/loop
    ln -s .. {CLAUDE}/projects/up
    ln -s /nowhere {place}/{new[3]}.jsonl
    head -c 3000 /dev/urandom > {place}/{new[4]}.jsonl
    printf '\\377\\376{{"type":"user"\\n\\000\\000' > {place}/{new[5]}.jsonl
    mkdir -p {CLAUDE}/sessions/4194302.json
    """
    product.host.run(["sh", "-c", script])
    rows = listed(product, refresh=True)
    assert rows.keys() >= {good, bad, hidden, thread}
    assert {rows[one].status for one in (good, bad, hidden, thread)} == {"stopped"}
    assert {one: rows[one].stale for one in (good, bad, hidden, thread)} == {
        good: False,
        bad: True,
        hidden: True,
        thread: True,
    }
    told = {path: code for code, path in problems(product)}
    assert told[transcript_path(bad, folder)] == "file_unreadable"
    assert told[shut] == "file_unreadable"
    assert told[rollout_path(thread)] == "file_unreadable"
    for name in new[:3]:
        assert told[f"{place}/{name}.jsonl"] == "file_unreadable"
    for name in new[3:]:
        assert told[f"{place}/{name}.jsonl"] == "file_malformed"
    assert told[f"{CLAUDE}/sessions/4194302.json"] == "file_unreadable"
    assert doctors_word(product)[0] == "warning"
    product.host.run(["sh", "-c", f"chmod -R u+rwX {CLAUDE} {CODEX}"])
    product.host.run(
        ["sh", "-c", f"cd {place} && rm -r loop ../up {' '.join(f'{one}.jsonl' for one in new)}"]
    )
    product.host.run(["rmdir", f"{CLAUDE}/sessions/4194302.json"])
    well(product, "all can be read")
    rows = listed(product)
    assert rows.keys() == {good, bad, hidden, thread}
    assert not any(row.stale for row in rows.values())


@pytest.mark.parametrize("place", ["sessions", "projects", ""])
def test_a_folder_that_is_closed_leaves_what_was_known_unknown_or_as_it_was(
    product: Product, programs: Programs, place: str
) -> None:
    folder = product.folder()
    live, still = programs.transcript(folder), programs.transcript(folder)
    pid = programs.claude(live)
    assert got(product, live).status == "running"
    with watching(product) as watch:
        product.host.run(["chmod", "000", f"{CLAUDE}/{place}"])
        rows = listed(product, refresh=True)
        assert rows[live].status in ("running", "unknown")
        assert rows[still].status in ("stopped", "unknown")
        told = problems(product, "claude-code")
        assert told
        assert all(path.startswith(CLAUDE) or code == "adapter_failed" for code, path in told)
        product.host.run(["chmod", "700", f"{CLAUDE}/{place}"])
        until(lambda: problems(product, "claude-code", refresh=True) == {}, "it is open again")
        assert watch.removed() == set()
        assert "stopped" not in watch.statuses(live)
        product.kill(pid)
        watch.until(lambda one: one.rows[live].status == "stopped", "the end of the process")


def test_a_closed_folder_of_locks_stops_no_conversation_of_codex(
    product: Product, programs: Programs
) -> None:
    session, other = programs.rollout(product.folder()), programs.rollout(product.folder())
    programs.codex(session)
    assert got(product, session, "codex").status == "idle"
    product.host.run(["chmod", "000", f"{CODEX}/thread-writer-locks"])
    product.restart_supervisor()
    rows = listed(product, refresh=True)
    assert rows.keys() == {session, other}, "a lock that cannot be seen hides no history"
    assert (rows[session].status, bool(rows[session].reason)) == ("unknown", True)
    assert problems(product) == {("file_unreadable", f"{CODEX}/thread-writer-locks"): "Permission denied"}
    product.host.run(["chmod", "700", f"{CODEX}/thread-writer-locks"])
    until(lambda: listed(product, refresh=True)[session].status == "idle", "the lock is seen")
    assert listed(product)[other].status == "stopped"


def test_a_closed_folder_hides_nothing_beside_it_of_any_program(product: Product, programs: Programs) -> None:
    folder = product.folder()
    thread, chat, talk = programs.rollout(folder), str(uuid.uuid4()), str(uuid.uuid4())
    gemini, pi = f"{HOME}/.gemini/tmp", f"{HOME}/.pi/agent/sessions"
    said = {"sessionId": chat, "startTime": "2026-01-02T03:04:05.000Z", "kind": "main"}
    began = {"type": "session", "version": 3, "id": talk, "timestamp": "2026-01-02T03:04:05.000Z"}
    try:
        product.write(
            f"{gemini}/one/chats/session-2026-01-02T03-04-{chat[:8]}.jsonl", json.dumps(said) + "\n"
        )
        product.write(f"{gemini}/two/chats/x", "")
        product.write(f"{pi}/--one--/2026_{talk}.jsonl", json.dumps({**began, "cwd": folder}) + "\n")
        product.write(f"{pi}/--two--/x", "")
        product.write(f"{CODEX}/sessions/2026/03/x", "")
        closed = {f"{gemini}/two/chats", f"{pi}/--two--", f"{CODEX}/sessions/2026/03"}
        product.host.run(["chmod", "000", *sorted(closed)])
        product.restart_supervisor()
        assert listed(product).keys() == {thread, chat, talk}
        assert {path: code for code, path in problems(product)} == dict.fromkeys(closed, "file_unreadable")
        product.host.run(["chmod", "700", *sorted(closed)])
        well(product, "all is open")
        # One closed while it is known keeps what was known.
        product.host.run(
            ["chmod", "000", f"{gemini}/one/chats", f"{pi}/--one--", f"{CODEX}/sessions/2026/01"]
        )
        rows = listed(product, refresh=True)
        assert {one: row.status for one, row in rows.items()} == dict.fromkeys(
            (thread, chat, talk), "stopped"
        )
        assert len(problems(product)) == 3
    finally:
        product.host.run(["sh", "-c", "cd; chmod -R u+rwX .gemini .pi .codex; rm -rf .gemini .pi"])
    until(lambda: listed(product).keys() == {thread}, "what is left")
    well(product, "all is well")


def test_sizes_and_shapes_of_transcripts(product: Product, programs: Programs) -> None:
    folder = product.folder()
    huge, long, half, cut = (programs.transcript(folder, prompt=f"prompt {n}") for n in range(4))
    paths = {one: transcript_path(one, folder) for one in (huge, long, half, cut)}
    listed(product)
    product.host.run(["truncate", "--size=2G", paths[huge]])
    last = transcript_text(huge, folder, "the last prompt").replace("\n", "\\n").replace("'", "")
    product.host.run(["sh", "-c", f"printf '\\n%b' '{last}' >> {paths[huge]}"])
    product.host.run(
        ["sh", "-c", f"head -c 10000000 /dev/zero | tr '\\0' x >> {paths[long]}; echo >> {paths[long]}"]
    )
    product.host.run(["sh", "-c", f'printf \'{{"type":"user","uuid":"u\' >> {paths[half]}'])
    product.host.run(["truncate", "--size=0", paths[cut]])
    rows = listed(product, refresh=True)
    told = {one: rows[one].message.first_prompt for one in (huge, long, half)}
    assert told == {huge: "prompt 0", long: "prompt 1", half: "prompt 2"}
    assert rows[huge].message.last_prompt == "the last prompt"
    assert cut in rows
    # Renamed, and written anew in its place: two of the same program's, each known by its id.
    fresh = str(uuid.uuid4())
    moved = transcript_path(fresh, folder)
    product.host.run(["mv", paths[long], moved])
    programs.transcript(folder, prompt="rotated", session=long)
    rows = listed(product, refresh=True)
    assert rows[long].message.first_prompt == "rotated"
    assert rows[fresh].message.first_prompt == "prompt 1"


def test_newer_formats_are_told_and_skipped(product: Product, programs: Programs) -> None:
    session = programs.rollout(product.folder())
    databases = f"{HOME}/.local/share/opencode"
    script = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('CREATE TABLE session(later INT)');"
        "c.commit()"
    )
    product.host.run(["mkdir", "-p", databases])
    product.host.run(["python3", "-c", script, f"{databases}/opencode.db"])
    product.host.run(["python3", "-c", script, f"{CODEX}/state_5.sqlite"])
    product.write(rollout_path(str(uuid.uuid4())), json.dumps({"version": 9, "type": "header"}) + "\n")
    try:
        assert listed(product, refresh=True).keys() == {session}
        told = {path: code for code, path in problems(product)}
        assert told[f"{databases}/opencode.db"] == "format_newer"
        assert told[f"{CODEX}/state_5.sqlite"] in ("format_newer", "file_malformed", "file_unreadable")
        assert "file_malformed" in told.values()
    finally:
        product.host.run(["rm", "-r", databases])


def test_all_of_it_removed_and_restored(product: Product, programs: Programs) -> None:
    folder = product.folder()
    sessions = {programs.transcript(folder) for _ in range(5)}
    live = programs.transcript(folder)
    programs.claude(live)
    product.ctl("tag", live, "kept=yes")
    with watching(product) as watch:
        for _ in range(2):
            before = len(watch.told)
            product.host.run(["mv", CLAUDE, f"{HOME}/away"])
            watch.until(
                lambda one: [id.partition(":")[0] for id in one.rows] == ["process"],
                "all are gone, and whoever lives is a process of which nothing is known",
            )
            product.host.run(["mv", f"{HOME}/away", CLAUDE])
            watch.until(lambda one: one.rows.keys() == sessions | {live}, "all are back")
            watch.until(lambda one: one.rows[live].status == "running", "who lives is known")
            assert len(watch.told) > before
        assert watch.rows[live].message.labels == {"kept": "yes"}
        assert watch.trouble("claude-code") == []


def test_entries_of_other_processes_are_no_life(product: Product, programs: Programs) -> None:
    folder = product.folder()
    recycled, foreign, first, none = (programs.transcript(folder) for _ in range(4))
    mine = programs.start("python3", "-c", "import os,time; print(os.getpid(), flush=True); time.sleep(1000)")
    journald = int(product.host.run(["pidof", "-s", "systemd-journald"]).stdout)
    programs.register(mine, recycled, procStart="1")
    programs.register(journald, foreign, procStart="1")
    programs.register(1, first, procStart="7")
    programs.register(4194301, none, procStart="1")
    rows = listed(product, refresh=True)
    assert {one: rows[one].status for one in (recycled, foreign, first, none)} == dict.fromkeys(
        (recycled, foreign, first, none), "stopped"
    )
    # And without a start time nobody is taken for it who is not the program.
    for pid, session in ((mine, recycled), (journald, foreign), (1, first)):
        programs.register(pid, session)
    rows = listed(product, refresh=True)
    assert {rows[one].status for one in (recycled, foreign, first)} == {"stopped"}
    # Whoever forges an entry of another's process ends nobody by it.
    stat = product.host.run(["cat", "/proc/1/stat"]).stdout
    programs.register(1, first, procStart=stat.rpartition(")")[2].split()[19])
    product.started(folder=folder)
    product.write(f"{HOME}/bin/claude", "#!/bin/sh\n")
    product.host.run(["chmod", "755", f"{HOME}/bin/claude"])
    request = pb.ResumeAgentSessionRequest(agent_session=first, take_over=True, prompt="go on")
    request.spawn.environment["PATH"] = f"{HOME}/bin:/usr/bin:/bin"
    with product.client() as client, pytest.raises(SessiondError) as caught:
        client.call(client.discovery.ResumeAgentSession, request)
    assert caught.value.code == "agent_session_unknown"
    assert "not shown to be Claude Code" in caught.value.message


def test_times_of_files_tell_nothing(product: Product, programs: Programs) -> None:
    folder = product.folder()
    live, still = programs.transcript(folder), programs.transcript(folder)
    thread, locked = programs.rollout(folder), programs.rollout(folder)
    programs.claude(live)
    programs.codex(locked)
    expected = {live: "running", locked: "idle", still: "stopped", thread: "stopped"}
    for moment in ("1970-01-02", "2030-01-01", "2106-01-01"):
        product.host.run(["sh", "-c", f"find {CLAUDE} {CODEX} -exec touch -d {moment} {{}} +"])
        assert {one: row.status for one, row in listed(product, refresh=True).items()} == expected


# ---- many


def prompted(word: str, count: int, watch: Watch) -> bool:
    """Whether so many rows have this for their last prompt."""
    return sum(row.message.last_prompt == word for row in watch.rows.values()) == count


def test_three_thousand_at_once_and_a_reader_who_does_not_read(product: Product, programs: Programs) -> None:
    count, rounds = 3_000, 5
    product.write(f"{HOME}/flood.py", FLOOD)
    assert listed(product, refresh=True) == {}
    request = pb.WatchAgentSessionsRequest()
    request.filter.include_stopped = True
    with product.client() as slow, watching(product, "claude-code") as quick:
        stream = slow.discovery.WatchAgentSessions(request, timeout=600)
        assert next(iter(stream)).WhichOneof("change") == "current"
        for turn in range(rounds):
            product.host.run(["python3", f"{HOME}/flood.py", str(count), str(turn)])
            quick.until(partial(prompted, f"turn {turn}", count), f"all of turn {turn}")
        assert quick.error is None
        quick.close()
        error: SessiondError | None = None
        try:
            for _ in stream:
                pass
        except grpc.RpcError as raised:
            error = from_rpc_error(raised)
        assert error is not None
        assert error.code == "watcher_too_slow"
    assert len(listed(product, "claude-code")) == count


FLOOD = """
import json, os, sys, uuid
count, turn = int(sys.argv[1]), sys.argv[2]
folder = os.path.expanduser("~/.claude/projects/-flood")
os.makedirs(folder, exist_ok=True)
cwd = "/flood/" + "d" * 3000
for number in range(count):
    session = str(uuid.UUID(int=number + 1))
    line = {"type": "user", "sessionId": session, "cwd": cwd, "uuid": "u" + turn,
            "timestamp": "2026-01-02T03:04:0%s.000Z" % turn,
            "message": {"role": "user", "content": "turn " + turn}}
    with open(f"{folder}/{session}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")
"""


# Takes all that the user may have of the kernel's watchers, until it is ended, and what is given back: the
# kernel takes its time over those of processes that have ended.
HOG = """
import ctypes, os, time
libc = ctypes.CDLL(None)
quiet = told = 0
while True:
    if libc.inotify_init1(0) >= 0:
        quiet = 0
        continue
    quiet += 1
    if quiet == 500 and not told:
        told = print(os.getpid(), flush=True) or 1
    time.sleep(0.001)
"""


def test_the_limit_of_watches_is_told_and_what_is_asked_for_is_right(
    product: Product, programs: Programs
) -> None:
    session = programs.transcript(product.folder())
    # It has its own by now, and its adapters begin at the first question.
    product.restart_supervisor()
    hog = programs.start("sh", "-c", 'ulimit -n 100000 2>/dev/null; exec python3 -c "$0"', HOG)
    assert session in listed(product)
    told = {path: code for code, path in problems(product, "claude-code")}
    assert told == dict.fromkeys((f"{CLAUDE}/projects", f"{CLAUDE}/sessions"), "watch_limited")
    assert doctors_word(product)[0] == "warning"
    later = programs.transcript(product.folder())
    assert later in listed(product, refresh=True)
    pid = programs.claude(later)
    assert got(product, later).status == "running"
    with watching(product, "claude-code") as watch:
        # Ends of processes are heard all the same.
        product.kill(pid)
        watch.until(lambda one: one.rows[later].status == "stopped", "the end of the process")
    product.kill(hog)
    until(lambda: problems(product, "claude-code", refresh=True) == {}, "it is watched again")
    with watching(product, "claude-code") as watch:
        after = programs.transcript(product.folder())
        watch.until(lambda one: after in one.rows, "a new conversation")
