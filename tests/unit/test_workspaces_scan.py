"""Scans: what is found below roots, what is offered, what is passed over and why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.identity import Identity, SessionType, new_id
from sessiond.workspaces import identity_file
from sessiond.workspaces.scan import Candidate, Found, scan
from tests.unit import unprivileged

MARKERS = (".git", ".claude", "AGENTS.md")


def make(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    identity_file.create(path, Identity(new_id(), "name", SessionType.TEST, "ada", datetime.now(UTC)))
    return path


def look(*roots: Path, depth: int = 3, markers: Sequence[str] = MARKERS, explicit: bool = False) -> Found:
    return scan(roots, depth=depth, markers=markers, explicit=explicit)


def paths(found: Found) -> list[Path]:
    return [path for path, _ in found.workspaces]


def skipped(found: Found) -> dict[str, str]:
    return {one.path.name: one.code for one in found.skipped}


def test_workspaces_to_the_depth(tmp_path: Path) -> None:
    near, far = make(tmp_path / "one"), make(tmp_path / "a/b/two")
    make(tmp_path / "a/b/c/three")
    found = look(tmp_path)
    assert paths(found) == [far, near]
    assert found.workspaces[1][1] == identity_file.read(near)
    assert found.roots == (tmp_path,)
    assert paths(look(tmp_path, depth=4)) == [tmp_path / "a/b/c/three", far, near]
    assert paths(look(tmp_path, depth=0)) == []


def test_a_workspace_ends_its_branch_but_a_root_does_not(tmp_path: Path) -> None:
    outer = make(tmp_path / "outer")
    make(outer / "inner")
    assert paths(look(tmp_path)) == [outer]
    make(tmp_path)
    assert paths(look(tmp_path)) == [tmp_path, outer]


def test_candidates(tmp_path: Path) -> None:
    (tmp_path / "repo/.git").mkdir(parents=True)
    (tmp_path / "repo/sub").mkdir()
    (tmp_path / "repo/sub/AGENTS.md").touch()
    (tmp_path / "both/.claude").mkdir(parents=True)
    (tmp_path / "both/AGENTS.md").touch()
    (tmp_path / "plain").mkdir()
    session = make(tmp_path / "session")
    (session / ".git").mkdir()
    found = look(tmp_path)
    assert found.candidates == (
        Candidate(tmp_path / "both", (".claude", "AGENTS.md")),
        Candidate(tmp_path / "repo", (".git",)),
        Candidate(tmp_path / "repo/sub", ("AGENTS.md",)),
    )
    assert look(tmp_path, markers=["package.json"]).candidates == ()


def test_what_a_deleted_session_left_is_a_folder_like_others(tmp_path: Path) -> None:
    (tmp_path / "was/.sessiond").mkdir(parents=True)
    (tmp_path / "was/.git").mkdir()
    inner = make(tmp_path / "was/inner")
    found = look(tmp_path)
    assert paths(found) == [inner]
    assert [one.path for one in found.candidates] == [tmp_path / "was"]


def test_dot_folders_links_and_loops_are_not_entered(tmp_path: Path) -> None:
    make(tmp_path / ".hidden/one")
    elsewhere = make(tmp_path / "x/y/z/elsewhere/two")
    (tmp_path / "link").symlink_to(elsewhere.parent)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "round").symlink_to("round")
    found = look(tmp_path)
    assert paths(found) == []
    assert found.skipped == ()


def test_a_root_may_be_a_link_and_paths_come_out_real(tmp_path: Path) -> None:
    path = make(tmp_path / "real/one")
    (tmp_path / "link").symlink_to("real")
    found = look(tmp_path / "link", tmp_path / "real", tmp_path / "link/../real")
    assert paths(found) == [path]
    assert found.roots == (tmp_path / "real",)


def test_a_root_inside_another_reaches_deeper(tmp_path: Path) -> None:
    deep = make(tmp_path / "a/b/one")
    assert paths(look(tmp_path, depth=1)) == []
    assert paths(look(tmp_path, tmp_path / "a/b", depth=1)) == [deep]
    assert paths(look(tmp_path / "a/b", tmp_path, depth=1)) == [deep]


def test_an_unreadable_identity_is_told_and_ends_its_branch(tmp_path: Path) -> None:
    for name, content in (("broken", "{"), ("newer", '{"format": 7}')):
        make(tmp_path / name / "inner")
        (tmp_path / name / ".sessiond").mkdir()
        (tmp_path / name / ".sessiond/session.json").write_text(content)
    (tmp_path / "pipe/.sessiond").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe/.sessiond/session.json")
    good = make(tmp_path / "good")
    found = look(tmp_path)
    assert paths(found) == [good]
    assert skipped(found) == {
        "broken": "identity_invalid",
        "newer": "identity_newer",
        "pipe": "identity_invalid",
    }
    assert all(str(one.path) in one.reason for one in found.skipped)


def test_roots_that_are_not_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    found = look(tmp_path / "missing", file, loop)
    assert found.roots == ()
    assert skipped(found) == {"file": "path_invalid", "loop": "path_invalid"}
    with pytest.raises(NotFound) as missing:
        look(tmp_path / "missing", explicit=True)
    assert missing.value.code == "path_missing"
    for wrong in (file, loop, Path("relative")):
        with pytest.raises(InvalidArgument) as caught:
            look(wrong, explicit=True)
        assert caught.value.code == "path_invalid"


def test_a_huge_folder_is_bounded_and_said(tmp_path: Path) -> None:
    near = make(tmp_path / "near")
    for number in range(200):
        (tmp_path / "zhuge" / f"f{number}").mkdir(parents=True)
    found = scan([tmp_path], depth=3, markers=(), entries_max=100)
    assert paths(found) == [near]
    assert skipped(found) == {"zhuge": "scan_too_large"}
    assert "more than 100 entries" in found.skipped[0].reason


def test_names_that_cannot_be_told_are_passed_over_and_said(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")
    odd = make(tmp_path / "odd\n% $x \\ 'q' \"d\" ü")
    found = look(tmp_path)
    assert paths(found) == [odd]
    assert [one.code for one in found.skipped] == ["path_invalid"]
    str(found.skipped[0].path).encode()
    found.skipped[0].reason.encode()


def test_folders_that_may_not_be_listed(tmp_path: Path) -> None:
    make(tmp_path / "good")
    (tmp_path / "closed").mkdir()
    (tmp_path / "secret").mkdir()
    make(tmp_path / "secret")
    code = """
        import sys
        from pathlib import Path
        from sessiond.workspaces.scan import scan
        root = Path(sys.argv[1])
        (root / "closed").chmod(0o000)
        (root / "secret/.sessiond").chmod(0o000)
        found = scan([root], depth=3, markers=())
        print([path.name for path, _ in found.workspaces])
        print([(one.path.name, one.code) for one in found.skipped])
    """
    assert unprivileged.run(code, tmp_path) == (
        "['good']\n[('closed', 'path_denied'), ('secret', 'path_denied')]\n"
    )


def test_other_file_systems_are_not_entered_but_said(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a file system of its own is mounted by root alone, in a private mount namespace")
    (tmp_path / "mounted").mkdir()
    code = """
        import sys
        from pathlib import Path
        from datetime import UTC, datetime
        from sessiond.model.identity import Identity, SessionType, new_id
        from sessiond.workspaces import identity_file
        from sessiond.workspaces.scan import scan
        root = Path(sys.argv[1])
        path = root / "mounted/one"
        path.mkdir()
        identity_file.create(path, Identity(new_id(), "one", SessionType.TEST, "ada", datetime.now(UTC)))
        found = scan([root], depth=3, markers=())
        print(found.workspaces, [(one.path.name, one.code) for one in found.skipped])
        print([path.name for path, _ in scan([root / "mounted"], depth=3, markers=()).workspaces])
    """
    own_mounts = ("unshare", "--mount", "--propagation", "private")
    command = 'mount -t tmpfs none "$1/mounted" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*own_mounts, "sh", "-c", command, "sh", str(tmp_path), sys.executable, textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "() [('mounted', 'path_other_device')]\n['one']\n"


def test_a_workspace_that_is_known_ends_its_branch_unless_it_is_a_root(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    two, inner = make(one / "two"), make(tmp_path / "three" / "inner")
    known = {path: identity_file.read(path) for path in (one, two, tmp_path / "three" / "inner")}
    assert [path for path, _ in scan([tmp_path], depth=3, markers=(), known=known).workspaces] == [one, inner]
    assert [path for path, _ in scan([one], depth=3, markers=(), known=known).workspaces] == [one, two]


def test_identities_that_are_known_are_not_read_again(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    known = {one: identity_file.read(two)}
    found = scan([tmp_path], depth=3, markers=(), known=known)
    assert dict(found.workspaces) == {one: known[one], two: identity_file.read(two)}
