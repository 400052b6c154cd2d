"""Links from a session's own folder to its workspace."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.errors import InvalidArgument, PermissionDenied
from sessiond.model.identity import SessionType, new_id
from sessiond.paths import Paths
from sessiond.workspaces import links
from tests.unit import unprivileged


@pytest.fixture
def paths() -> Paths:
    return Paths.from_environment()


def test_pointing_and_reading(paths: Paths, tmp_path: Path) -> None:
    assert links.read_all(paths) == {}
    one, two = new_id(), new_id()
    links.point(paths, one, tmp_path / "a b\n%ü")
    links.point(paths, two, tmp_path / "two")
    links.point(paths, two, tmp_path / "moved")
    links.point(paths, two, tmp_path / "moved")
    assert links.read_all(paths) == {one: tmp_path / "a b\n%ü", two: tmp_path / "moved"}
    assert os.listdir(paths.session_state(two)) == ["workspace"]
    for folder in (paths.state, paths.sessions_state, paths.session_state(one)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_is_no_session_is_passed_over(paths: Paths, tmp_path: Path) -> None:
    session = new_id()
    links.point(paths, session, tmp_path)
    (paths.sessions_state / "notes").mkdir()
    (paths.sessions_state / "file").touch()
    (paths.session_state(new_id())).mkdir()
    relative = paths.session_state(new_id())
    relative.mkdir()
    (relative / "workspace").symlink_to("somewhere")
    file = paths.session_state(new_id())
    file.mkdir()
    (file / "workspace").write_text("/somewhere")
    assert links.read_all(paths) == {session: tmp_path}


def test_removing_a_sessions_own_folder(paths: Paths, tmp_path: Path) -> None:
    session, other = new_id(), new_id()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace/precious").touch()
    for one in (session, other):
        links.point(paths, one, tmp_path / "workspace")
    own = paths.session_state(session)
    (own / "agents/one").mkdir(parents=True)
    (own / "agents/one/record").write_text("x")
    (own / "elsewhere").symlink_to(tmp_path / "workspace")
    links.remove_session_state(paths, session)
    assert os.listdir(paths.sessions_state) == [other]
    assert (tmp_path / "workspace/precious").exists()
    links.remove_session_state(paths, session)


def test_a_link_in_the_place_of_a_sessions_folder(paths: Paths, tmp_path: Path) -> None:
    session = new_id()
    (tmp_path / "precious").mkdir(mode=0o700)
    paths.sessions_state.mkdir(parents=True, mode=0o700)
    paths.session_state(session).symlink_to(tmp_path / "precious")
    with pytest.raises(PermissionDenied) as caught:
        links.point(paths, session, tmp_path)
    assert caught.value.code == "folder_unsafe"
    links.remove_session_state(paths, session)
    assert os.listdir(paths.sessions_state) == []
    assert (tmp_path / "precious").is_dir()


def test_nothing_is_removed_through_a_linked_parent(paths: Paths, tmp_path: Path) -> None:
    session = new_id()
    (tmp_path / "elsewhere" / session).mkdir(parents=True)
    paths.state.mkdir(parents=True, mode=0o700)
    paths.sessions_state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument):
        links.remove_session_state(paths, session)
    assert (tmp_path / "elsewhere" / session).is_dir()


@pytest.mark.parametrize("word", ["", ".", "..", "../x", "/", "a/b", "0123"])
def test_only_ids_become_paths(paths: Paths, tmp_path: Path, word: str) -> None:
    for call in (
        lambda: links.remove_session_state(paths, word),
        lambda: links.point(paths, word, tmp_path),
        lambda: links.stand_in(paths, word, tmp_path),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert caught.value.code == "id_invalid"


def test_a_stand_in_for_a_workspace_that_is_gone(paths: Paths, tmp_path: Path) -> None:
    session = new_id()
    before = datetime.now(UTC).replace(microsecond=0)
    links.point(paths, session, tmp_path / ".odd\nname")
    identity = links.stand_in(paths, session, tmp_path / ".odd\nname")
    assert (identity.id, identity.name, identity.type) == (session, "odd_name", SessionType.DEVELOPMENT)
    assert before <= identity.created <= datetime.now(UTC)
    assert links.stand_in(paths, new_id(), tmp_path / "x").created == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_state_folder_that_cannot_be_written(paths: Paths) -> None:
    code = """
        import sys
        from pathlib import Path
        from sessiond.errors import PermissionDenied
        from sessiond.paths import Paths
        from sessiond.workspaces import links
        paths = Paths.from_environment()
        links.point(paths, "0" * 32, Path("/one"))
        paths.session_state("0" * 32).chmod(0o500)
        Path(paths.session_state("0" * 32) / "workspace").readlink()
        paths.sessions_state.chmod(0o500)
        # What is checked first is made right where it is ours: modes of our own folders.
        links.point(paths, "0" * 32, Path("/two"))
        print(links.read_all(paths)["0" * 32])
    """
    assert unprivileged.run(code) == "/two\n"


def test_an_intent_is_settled_by_pointing_or_by_removing(paths: Paths, tmp_path: Path) -> None:
    one, two = new_id(), new_id()
    links.intend(paths, one, tmp_path / "one")
    links.intend(paths, two, tmp_path / "two")
    assert links.read_intents(paths) == {one: tmp_path / "one", two: tmp_path / "two"}
    assert links.read_all(paths) == {}
    links.point(paths, one, tmp_path / "one")
    links.remove_session_state(paths, two)
    assert links.read_intents(paths) == {}
    assert links.read_all(paths) == {one: tmp_path / "one"}


def test_an_intent_beside_a_link_is_settled_already(paths: Paths, tmp_path: Path) -> None:
    made, begun = new_id(), new_id()
    links.point(paths, made, tmp_path / "made")
    links.intend(paths, made, tmp_path / "elsewhere")
    links.intend(paths, begun, tmp_path / "begun")
    assert links.survey(paths) == ({made: tmp_path / "made"}, [begun])
    assert links.read_intents(paths) == {begun: tmp_path / "begun"}
    links.sweep(paths)
    assert links.survey(paths) == ({made: tmp_path / "made"}, [begun])
    links.point(paths, made, tmp_path / "made")
    assert os.listdir(paths.session_state(made)) == [links.LINK]


def test_a_folder_that_holds_nothing_is_swept_and_any_other_stays(paths: Paths, tmp_path: Path) -> None:
    bare, drafted, linked, intended, stored = (new_id() for _ in range(5))
    links.point(paths, linked, tmp_path)
    links.intend(paths, intended, tmp_path)
    for session in (bare, drafted, stored):
        paths.session_state(session).mkdir(mode=0o700)
    (paths.session_state(drafted) / ".workspace-intended.0123456789abcdef").symlink_to(tmp_path)
    (paths.session_state(stored) / "record").write_text("kept")
    links.sweep(paths)
    assert set(os.listdir(paths.sessions_state)) == {linked, intended, stored}
    links.sweep(paths)
    assert (paths.session_state(stored) / "record").read_text() == "kept"


def test_sweeping_where_nothing_was_ever_made_is_fine(paths: Paths) -> None:
    links.sweep(paths)
    assert not paths.state.exists()
