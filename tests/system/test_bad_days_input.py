"""Bad input through sessionctl on the real host: a stable code, what is wrong, and all before it whole."""

from __future__ import annotations

import json
import os

import pytest

from sessiond.errors import InvalidArgument
from sessiond.rpc._generated.v1 import sessions_pb2
from tests.system.product import HOME, INSIDE_ROOTS, Product, daemon_unit

# Names of folders that shells, unit files and D-Bus each have their own ideas about.
ODD_NAMES = {
    "space": "two  words ",
    "quotes": 'it\'s "quoted" `so`',
    "newline": "line\nfeed",
    "percent": "100%h %n %%",
    "dollar": "$HOME ${PATH} $$",
    "backslash": "back\\slash\\x20\\n",
    "unicode": "日本語-ümlaut-🙂",
    "option": "--help",
    "semicolon": "a;b&c|d>e#f",
    "glob": "*?[a-z]{1,2}",
    "brackets": "(a) <b> [c]",
    "control": "bell\x07esc\x1b[31m",
    "equals": "KEY=value",
    "dash": "-",
    "at": "user@host.service",
}


def test_paths_with_odd_characters_work_all_the_way(product: Product) -> None:
    folders = {word: f"{HOME}/w/odd/{name}" for word, name in ODD_NAMES.items()}
    product.host.run(["mkdir", "-p", "--", *folders.values()])
    sessions = {word: product.new(folder=folder)["id"] for word, folder in folders.items()}
    # Found by path, started at once.
    started = product.json("start", *folders.values())
    assert [one["path"] for one in started] == list(folders.values())
    assert {one["state"] for one in started} == {"active"}
    pids = _all_run_in_their_workspaces(product, sessions)
    # systemd reads what it wrote, and restarts what it runs.
    product.host.systemctl("daemon-reload")
    for pid in pids.values():
        product.kill(pid)
    for session, pid in pids.items():
        product.back(session, besides=pid)
    _all_run_in_their_workspaces(product, sessions)
    # Shown as one line each, whatever is in them.
    text = product.ctl("list")
    assert len([line for line in text.splitlines() if "active" in line]) == len(ODD_NAMES)
    assert "\x1b" not in text
    product.restart_supervisor()
    assert {row["id"] for row in product.agrees()} == set(sessions.values())


def _all_run_in_their_workspaces(product: Product, sessions: dict[str, str]) -> dict[str, int]:
    """Check it of sessions by the word for their folder; returns pids by session."""
    pids = {session: product.pid(session) for session in sessions.values()}
    for word, session in sessions.items():
        cwd = os.readlink(product.host.path(f"/proc/{pids[session]}/cwd"))
        assert cwd == f"{HOME}/w/odd/{ODD_NAMES[word]}", word
    return pids


def test_a_path_of_4000_characters(product: Product) -> None:
    parts = ["d" * 200] * 19
    folder = f"{HOME}/w/" + "/".join(parts)
    folder += "/" + "e" * (4000 - len(folder) - 1)
    assert len(folder) == 4000
    product.host.run(["mkdir", "-p", folder])
    made = product.json("new", folder, "--name", "long", "--start")
    assert (made["path"], made["state"]) == (folder, "active")
    product.kill(product.pid(made["id"]))
    product.restart_supervisor()
    product.wait(made["id"], "active")
    [row] = product.agrees()
    assert row["path"] == folder
    error = product.refused(7, "new", f"{folder}/{'f' * 200}/g")
    assert error["code"] == "path_invalid"


def test_paths_that_cannot_be_a_workspace(product: Product) -> None:
    folder = product.folder()
    script = "echo text > file; mkfifo pipe; ln -s nowhere dangling; ln -s loop loop"
    product.host.run(["sh", "-c", script], cwd=folder)
    product.host.run(["mkdir", "-m", "700", "/srv/closed"], user=False)
    cases = {
        f"{folder}/no/such/parent": (3, "path_missing"),
        f"{folder}/file": (7, "path_invalid"),
        f"{folder}/file/below": (7, "path_invalid"),
        f"{folder}/pipe": (7, "path_invalid"),
        "/srv/closed/below": (1, "path_denied"),
        "/etc": (1, "path_denied"),
        "/": (1, "path_denied"),
    }
    for path, (exit_code, code) in cases.items():
        for verb in ("new", "adopt"):
            error = product.refused(exit_code, verb, path)
            assert error["code"] == code, (verb, path)
    for name in ("dangling", "loop"):
        done = product.host.sessionctl("new", f"{folder}/{name}", "--json", check=False)
        assert done.returncode in (3, 7), name
    assert product.rows() == []
    assert product.links() == {}
    # A relative one is the caller's; over the API there is no such thing.
    made = json.loads(product.host.sessionctl("new", "below", "--json", cwd=folder).stdout)
    assert made["path"] == f"{folder}/below"
    with product.client() as client, pytest.raises(InvalidArgument) as refused:
        client.call(client.sessions.CreateSession, sessions_pb2.CreateSessionRequest(path="below"))
    assert refused.value.code == "path_invalid"


def test_an_identity_file_of_any_kind_hangs_floods_and_fools_nobody(product: Product) -> None:
    whole = product.new()
    text = product.host.path(f"{whole['path']}/.sessiond/session.json").read_text()
    newer = json.dumps({**json.loads(text), "format": 99})
    spoils = {
        "malformed": "echo '{' > session.json",
        "empty": ": > session.json",
        "truncated": f"head -c 40 {whole['path']}/.sessiond/session.json > session.json",
        "list": "echo '[]' > session.json",
        "binary": "head -c 4096 /dev/urandom > session.json",
        "newer": f"echo '{newer}' > session.json",
        "pipe": "mkfifo session.json",
        "link": "ln -s /etc/passwd session.json",
        "device": "ln -s /dev/zero session.json",
        "folder": "mkdir session.json",
        "huge": "truncate -s 1G session.json",
        "denied": f"cp {whole['path']}/.sessiond/session.json . && chmod 000 session.json",
    }
    for kind, script in spoils.items():
        own = product.folder(f"{kind}/.sessiond", under=INSIDE_ROOTS)
        product.host.run(["sh", "-c", script], cwd=own)
    found = product.json("discover")
    told = {one["path"].removeprefix(f"{INSIDE_ROOTS}/"): one for one in found["skipped"]}
    assert told.keys() == spoils.keys()
    for kind, one in told.items():
        expected = {"newer": "identity_newer", "denied": "path_denied"}.get(kind, "identity_invalid")
        assert one["code"] == expected, kind
        assert one["reason"], kind
        done = product.host.sessionctl("adopt", "--json", one["path"], check=False)
        assert done.returncode in (1, 7), (kind, done.stderr)
        assert json.loads(done.stderr)["error"]["code"] == expected, kind
    # None of it was changed, and the one that is whole is untouched.
    assert product.host.path(f"{INSIDE_ROOTS}/malformed/.sessiond/session.json").read_text() == "{\n"
    assert product.host.path("/etc/passwd").read_text().startswith("root:")
    assert [row["id"] for row in product.rows()] == [whole["id"]]
    # Asked for, a new identity takes the place of what cannot be read.
    [adopted] = product.json("adopt", f"{INSIDE_ROOTS}/malformed", "--new-id")
    assert product.json("start", adopted["id"])[0]["state"] == "active"
    product.restart_supervisor()
    assert {row["id"] for row in product.rows()} == {whole["id"], adopted["id"]}


def test_words_that_mean_no_session_or_several(product: Product) -> None:
    for verb in ("show", "start", "stop", "restart", "kill", "end", "archive", "rename", "limit", "enable"):
        words = [verb, "no-such-session", *(["new-name"] if verb == "rename" else [])]
        error = product.refused(3, *words)
        assert error["code"] == "session_not_found", verb
    # Two ids that begin alike.
    folders = [product.folder(under=INSIDE_ROOTS) for _ in range(2)]
    for number, folder in enumerate(folders):
        identity = {
            "format": 1,
            "id": "abcd" + f"{number}" * 28,
            "name": f"alike-{number}",
            "type": "development",
            "owner": "tester",
            "created": "2026-01-01T00:00:00Z",
        }
        product.write(f"{folder}/.sessiond/session.json", json.dumps(identity))
    product.ctl("discover")
    error = product.refused(7, "show", "abcd")
    assert error["code"] == "session_ambiguous"
    assert product.show("abcd0")["name"] == "alike-0"
    assert product.refused(3, "show", "abc")["code"] == "session_not_found"


def test_bad_words_change_nothing(product: Product) -> None:
    made = product.new("--label", "kept=yes")
    session, folder = made["id"], product.folder()
    long = "x" * 300
    cases = [
        (("new", folder, "--label", f"key={long}"), 7, "label_invalid"),
        (("new", folder, "--label", "-bad=1"), 7, "label_invalid"),
        (("new", folder, "--type", "nonsense"), 7, "type_invalid"),
        (("new", folder, "--owner", "line\nfeed"), 7, "owner_invalid"),
        (("new", folder, "--name", made["name"]), 4, "name_taken"),
        (("new", made["path"]), 4, "session_exists"),
        (("label", session, "bad key=1"), 7, "label_invalid"),
        (("limit", session, "MemoryMax=minus"), 7, "property_invalid"),
        (("limit", session, "Nonsense=1"), 7, "property_unknown"),
        (("kill", session, "--signal", "NOPE"), 7, "signal_invalid"),
        (("kill", session), 4, "session_not_running"),
        (("wait", session, "--state", "nonsense"), 7, "state_invalid"),
        (("wait", session, "--timeout", "0.2"), 6, "wait_timeout"),
        (("list", "--state", "nonsense"), 7, "state_invalid"),
        (("use",), 3, "no_active_session"),
    ]
    for words, exit_code, code in cases:
        assert product.refused(exit_code, *words)["code"] == code, words
    assert product.rows() == [product.row(session)]
    assert product.row(session)["labels"] == {"kept": "yes"}
    assert product.identity(folder) is None
    assert product.host.show(daemon_unit(session), "ActiveState")["ActiveState"] == "inactive"
