"""Identity files: what is written is read, and nothing in a workspace can hang, flood or fool the reader."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessiond.errors import (
    AlreadyExists,
    Exhausted,
    InvalidArgument,
    NotFound,
    SessiondError,
    Unsupported,
)
from sessiond.model.identity import Identity, SessionType, new_id
from sessiond.workspaces import identity_file
from tests.unit import unprivileged

IDENTITY = Identity(
    id="0123456789abcdef0123456789abcdef",
    name="work — ü",
    type=SessionType.PERSONA,
    owner="ada",
    created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)
GOOD: dict[str, Any] = {
    "format": 1,
    "id": IDENTITY.id,
    "name": "work",
    "type": "test",
    "owner": "ada",
    "created": "2026-01-02T03:04:05Z",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


def plant(workspace: Path, content: bytes | dict[str, Any]) -> Path:
    folder = workspace / ".sessiond"
    folder.mkdir(exist_ok=True)
    path = folder / "session.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def fault(workspace: Path) -> SessiondError:
    began = time.process_time()
    with pytest.raises(SessiondError) as caught:
        identity_file.read(workspace)
    assert time.process_time() - began < 1.0
    return caught.value


# ---- what is written


def test_what_is_created_is_read(workspace: Path) -> None:
    assert not identity_file.exists(workspace)
    identity_file.create(workspace, IDENTITY)
    assert identity_file.exists(workspace)
    assert identity_file.read(workspace) == IDENTITY
    path = workspace / ".sessiond/session.json"
    assert json.loads(path.read_text()) == {
        "format": 1,
        "id": IDENTITY.id,
        "name": "work — ü",
        "type": "persona",
        "owner": "ada",
        "created": "2026-01-02T03:04:05Z",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (path.parent / ".gitignore").read_text() == "*\n"
    assert sorted(os.listdir(path.parent)) == [".gitignore", "session.json"]


def test_creating_twice_is_refused_and_changes_nothing(workspace: Path) -> None:
    identity_file.create(workspace, IDENTITY)
    with pytest.raises(AlreadyExists) as caught:
        identity_file.create(workspace, replace(IDENTITY, id=new_id()))
    assert caught.value.code == "session_exists"
    assert identity_file.read(workspace) == IDENTITY
    assert sorted(os.listdir(workspace / ".sessiond")) == [".gitignore", "session.json"]


def _race(barrier: Barrier, workspace: Path, identity: Identity) -> None:
    barrier.wait(60)
    try:
        identity_file.create(workspace, identity)
    except AlreadyExists:
        os._exit(17)
    os._exit(0)


def test_of_many_who_create_at_once_one_wins(workspace: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        path = workspace / str(number)
        path.mkdir()
        racers = [replace(IDENTITY, id=new_id()) for _ in range(8)]
        barrier = context.Barrier(len(racers))
        processes = [context.Process(target=_race, args=(barrier, path, one)) for one in racers]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        codes = [process.exitcode for process in processes]
        assert sorted(code for code in codes if code is not None) == [0] + [17] * 7
        assert identity_file.read(path) == racers[codes.index(0)]
        assert sorted(os.listdir(path / ".sessiond")) == [".gitignore", "session.json"]


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP"])
def test_a_file_system_without_hard_links(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    import errno

    def refuse(*args: object, **more: object) -> None:
        raise OSError(getattr(errno, code), "no links here")

    monkeypatch.setattr(os, "link", refuse)
    identity_file.create(workspace, IDENTITY)
    with pytest.raises(AlreadyExists):
        identity_file.create(workspace, IDENTITY)
    identity_file.write(workspace, replace(IDENTITY, name="new"))
    assert identity_file.read(workspace).name == "new"
    assert sorted(os.listdir(workspace / ".sessiond")) == [".gitignore", "session.json"]


def test_rewriting_keeps_what_others_put_there(workspace: Path) -> None:
    path = plant(workspace, GOOD | {"colour": {"deep": [1, None]}, "note": "\ud800"})
    identity_file.write(workspace, replace(IDENTITY, name="new"))
    content = json.loads(path.read_text())
    assert content["colour"] == {"deep": [1, None]}
    assert content["note"] == "\ud800"
    assert identity_file.read(workspace) == replace(IDENTITY, name="new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_file_as_it_was(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    identity_file.create(workspace, IDENTITY)
    with monkeypatch.context() as patch:

        def full(descriptor: int, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "write", full)
        with pytest.raises(Exhausted) as caught:
            identity_file.write(workspace, replace(IDENTITY, name="new"))
        assert caught.value.code == "disk_full"
        with pytest.raises(Exhausted):
            identity_file.create(workspace, IDENTITY)
    assert identity_file.read(workspace) == IDENTITY
    assert sorted(os.listdir(workspace / ".sessiond")) == [".gitignore", "session.json"]


@pytest.mark.parametrize("content", [b"{", json.dumps(GOOD | {"format": 9}).encode()])
def test_what_cannot_be_read_is_kept_beside_when_it_is_replaced(workspace: Path, content: bytes) -> None:
    plant(workspace, content)
    identity_file.write(workspace, IDENTITY)
    assert identity_file.read(workspace) == IDENTITY
    kept = [one for one in (workspace / ".sessiond").iterdir() if ".replaced-" in one.name]
    assert [one.read_bytes() for one in kept] == [content]


def test_anything_in_the_place_of_the_file_can_be_replaced(workspace: Path) -> None:
    folder = workspace / ".sessiond"
    folder.mkdir()
    (folder / "session.json").mkdir()
    identity_file.write(workspace, IDENTITY)
    assert identity_file.read(workspace) == IDENTITY
    (folder / "session.json").unlink()
    os.mkfifo(folder / "session.json")
    identity_file.write(workspace, IDENTITY)
    assert identity_file.read(workspace) == IDENTITY


def test_removing(workspace: Path) -> None:
    identity_file.create(workspace, IDENTITY)
    (workspace / ".sessiond/.session.json.0123456789abcdef").write_text("of a writer that was killed")
    identity_file.remove(workspace)
    assert os.listdir(workspace) == []
    identity_file.remove(workspace)
    identity_file.remove(workspace / "missing")


def test_removing_leaves_what_is_not_ours(workspace: Path) -> None:
    identity_file.create(workspace, IDENTITY)
    (workspace / ".sessiond/notes").write_text("mine")
    identity_file.remove(workspace)
    assert sorted(os.listdir(workspace / ".sessiond")) == [".gitignore", "notes"]
    assert not identity_file.exists(workspace)


def test_where_nothing_can_be_written(workspace: Path, tmp_path: Path) -> None:
    for call in (identity_file.create, identity_file.write):
        with pytest.raises(NotFound) as missing:
            call(tmp_path / "missing", IDENTITY)
        assert missing.value.code == "path_missing"
        (tmp_path / "file").touch()
        with pytest.raises(InvalidArgument) as wrong:
            call(tmp_path / "file", IDENTITY)
        assert wrong.value.code == "path_invalid"


def test_a_link_in_the_place_of_our_folder_is_never_followed(workspace: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    identity_file.create(elsewhere, IDENTITY)
    (workspace / ".sessiond").symlink_to(elsewhere / ".sessiond")
    for call in (
        lambda: identity_file.read(workspace),
        lambda: identity_file.create(workspace, IDENTITY),
        lambda: identity_file.write(workspace, replace(IDENTITY, name="new")),
        lambda: identity_file.remove(workspace),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.code == "identity_invalid"
        assert "a symbolic link" in caught.value.message
    assert identity_file.read(elsewhere) == IDENTITY


# ---- what is read


def test_none(workspace: Path) -> None:
    assert fault(workspace).code == "identity_missing"
    assert fault(workspace / "missing").code == "path_missing"
    (workspace / ".sessiond").mkdir()
    assert fault(workspace).code == "identity_missing"
    assert isinstance(fault(workspace), NotFound)


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "a folder"),
        (_link_to("/etc/passwd"), "a symbolic link"),
        (_link_to("session.json"), "a symbolic link"),
        (_link_to("/dev/zero"), "a symbolic link"),
        (_huge, "1073741824 bytes"),
        (_socket, "a socket"),
    ],
)
def test_what_is_no_regular_file_of_sane_size(
    workspace: Path, place: Callable[[Path], None], said: str
) -> None:
    path = workspace / ".sessiond/session.json"
    path.parent.mkdir()
    place(path)
    error = fault(workspace)
    assert error.code == "identity_invalid"
    assert str(path) in error.message
    assert said in error.message
    assert identity_file.exists(workspace) or said == "a symbolic link"


def test_our_folder_is_a_file(workspace: Path) -> None:
    (workspace / ".sessiond").touch()
    error = fault(workspace)
    assert error.code == "identity_invalid"
    assert "a file, not a folder" in error.message


def without(key: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != key}).encode()


def with_(**values: Any) -> bytes:
    return json.dumps(GOOD | values).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "not JSON"),
        (json.dumps(GOOD).encode()[:-20], "not JSON"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "not an object"),
        (b'"x"', "not an object"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"format": 1, "id": ' + b"1" * 10_000 + b"}", "a number too long"),
        (b"x" * 70_000, "70000 bytes"),
        (without("format"), "$.format"),
        (with_(format="1"), "$.format"),
        (with_(format=True), "$.format"),
        (with_(format=0), "$.format"),
        (with_(format=1.5), "$.format"),
        (without("id"), "$.id is missing"),
        (with_(id=5), "$.id must be a string"),
        (with_(id="../../etc"), "$.id: "),
        (with_(id="0123"), "$.id: "),
        (without("name"), "$.name is missing"),
        (with_(name=""), "$.name: "),
        (with_(name="a/b"), "$.name: "),
        (with_(name="\ud800"), "$.name: "),
        (with_(name="x" * 65), "$.name: "),
        (with_(type="work"), "$.type: "),
        (with_(type=None), "$.type is missing"),
        (with_(owner="\n"), "$.owner: "),
        (with_(created="yesterday"), "$.created: "),
        (with_(created="2026-01-02"), "$.created: "),
        (with_(created="2026-01-02T03:04:05"), "$.created: "),
        (with_(created="0001-01-01T00:00:00+14:00"), "$.created: "),
        (with_(created=1), "$.created must be a string"),
    ],
)
def test_what_is_wrong_inside_is_named(workspace: Path, content: bytes, said: str) -> None:
    path = plant(workspace, content)
    error = fault(workspace)
    assert isinstance(error, InvalidArgument)
    assert error.code == "identity_invalid"
    assert str(path) in error.message
    assert said in error.message
    assert error.fields["path"] == str(path)


def test_a_newer_format_is_told_from_a_broken_file(workspace: Path) -> None:
    plant(workspace, b'{"format": 2, "everything": "else is different"}')
    error = fault(workspace)
    assert isinstance(error, Unsupported)
    assert error.code == "identity_newer"
    assert "format 2" in error.message


def test_other_notations_of_the_same(workspace: Path) -> None:
    plant(
        workspace,
        GOOD | {"id": "01234567-89AB-CDEF-0123-456789ABCDEF", "created": "2026-01-02T05:04:05+02:00"},
    )
    identity = identity_file.read(workspace)
    assert identity.id == IDENTITY.id
    assert identity.created == IDENTITY.created
    assert identity.created.tzinfo == UTC


def test_a_folder_that_may_be_entered_but_not_listed_is_enough(workspace: Path) -> None:
    identity_file.create(workspace, IDENTITY)
    workspace.chmod(0o311)
    try:
        assert identity_file.read(workspace) == IDENTITY
        identity_file.write(workspace, replace(IDENTITY, name="new"))
    finally:
        workspace.chmod(0o755)


def test_denied(workspace: Path) -> None:
    plant(workspace, GOOD)
    code = """
        import sys
        from pathlib import Path
        from sessiond.errors import PermissionDenied
        from sessiond.workspaces import identity_file
        workspace = Path(sys.argv[1])
        identity = identity_file.read(workspace)
        own = workspace / ".sessiond"

        def denied(call, *arguments):
            try:
                call(*arguments)
            except PermissionDenied as error:
                assert error.code == "path_denied", error.code
                assert error.hint.startswith("look at its owner"), error.hint
                return True
            return False

        (own / "session.json").chmod(0o000)
        assert denied(identity_file.read, workspace)
        # Replacing it needs no right to read it.
        identity_file.write(workspace, identity)
        assert identity_file.read(workspace) == identity
        own.chmod(0o500)
        assert denied(identity_file.write, workspace, identity)
        assert denied(identity_file.remove, workspace)
        assert identity_file.read(workspace) == identity
        own.chmod(0o000)
        assert denied(identity_file.read, workspace)
        assert identity_file.exists(workspace)
        own.chmod(0o700)
        identity_file.remove(workspace)
        print(sorted(name.partition("-")[0] for name in __import__("os").listdir(own)))
    """
    assert unprivileged.run(code, workspace) == "['.gitignore', 'session.json.replaced']\n"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    content=st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes_give_an_answer_or_one_of_our_errors(workspace: Path, content: bytes) -> None:
    plant(workspace, content)
    with pytest.raises(SessiondError):
        identity_file.read(workspace)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    name=st.text(
        st.characters(exclude_categories=("C", "Z"), exclude_characters="/.~-"), min_size=1, max_size=64
    ),
    created=st.datetimes(
        datetime(1971, 1, 1),
        datetime(9000, 1, 1),
        timezones=st.just(timezone(timedelta(hours=5, minutes=30))),
    ),
    kind=st.sampled_from(SessionType),
)
def test_any_identity_comes_back(workspace: Path, name: str, created: datetime, kind: SessionType) -> None:
    identity = Identity(new_id(), name, kind, "ada", created)
    identity_file.write(workspace, identity)
    assert identity_file.read(workspace) == identity
