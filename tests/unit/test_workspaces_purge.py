"""Purging: what must never be removed, and that removal follows no link and leaves no file system."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.errors import PermissionDenied, SessiondError
from sessiond.model.identity import Identity, SessionType, new_id
from sessiond.paths import Paths
from sessiond.workspaces import identity_file, removal
from sessiond.workspaces import purge as purging
from sessiond.workspaces.purge import check_purge, purge
from tests.unit import unprivileged

SESSION = new_id()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make(tmp_path / "projects/work")


def make(path: Path, session: str = SESSION) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    identity_file.create(path, Identity(session, "work", SessionType.TEST, "ada", datetime.now(UTC)))
    return path


def refused(path: Path, *roots: Path, others: tuple[Path, ...] = ()) -> str:
    """The reason given; that nothing was removed is looked at too."""
    reasons = []
    for call in (check_purge, purge):
        with pytest.raises(PermissionDenied) as caught:
            call(path, SESSION, roots, others)
        assert caught.value.code == "purge_refused"
        assert caught.value.hint
        reasons.append(caught.value.message)
    assert reasons[0] == reasons[1]
    return reasons[0]


def test_a_workspace_is_removed_with_all_it_holds(workspace: Path, tmp_path: Path) -> None:
    (workspace / "src/deep/er").mkdir(parents=True)
    (workspace / "src/deep/er/file").write_text("x")
    (workspace / ".hidden").write_text("x")
    os.mkfifo(workspace / "pipe")
    check_purge(workspace, SESSION, [tmp_path / "projects"])
    purge(workspace, SESSION, [tmp_path / "projects"])
    assert os.listdir(tmp_path / "projects") == []


def test_links_are_removed_and_what_they_lead_to_stays(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "precious/deep").mkdir(parents=True)
    (tmp_path / "precious/deep/file").write_text("x")
    (workspace / "folder").symlink_to(tmp_path / "precious")
    (workspace / "up").symlink_to("..")
    (workspace / "file").symlink_to(tmp_path / "precious/deep/file")
    os.link(tmp_path / "precious/deep/file", workspace / "hard")
    purge(workspace, SESSION)
    assert not workspace.exists()
    assert (tmp_path / "precious/deep/file").read_text() == "x"


def test_a_very_deep_tree_needs_few_descriptors(workspace: Path) -> None:
    depth = 3000
    here = os.getcwd()
    try:
        os.chdir(workspace)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        purge(workspace, SESSION)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not workspace.exists()


# ---- guards


def test_the_root_of_the_file_system() -> None:
    assert "the root of the file system" in refused(Path("/"))


def test_home_folders_and_what_holds_them(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(workspace))
    assert "a home folder" in refused(workspace)
    monkeypatch.setenv("HOME", str(workspace / "inner/home"))
    assert "a home folder" in refused(workspace)
    (tmp_path / "link").symlink_to(workspace)
    monkeypatch.setenv("HOME", str(tmp_path / "link"))
    assert "a home folder" in refused(workspace)
    monkeypatch.delenv("HOME")
    for entry in pwd.getpwall():
        home = Path(entry.pw_dir)
        if home.is_dir() and home == home.resolve():
            with pytest.raises(PermissionDenied):
                check_purge(home, SESSION)


def test_a_home_of_another_user(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("eve", "x", 1234, 1234, "", str(workspace / "eve"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwall", lambda: [entry])
    assert "a home folder" in refused(workspace)


def test_roots_of_discovery_and_what_holds_them(workspace: Path, tmp_path: Path) -> None:
    assert "a root of discovery" in refused(workspace, workspace)
    assert "a root of discovery" in refused(workspace, workspace / "inner")
    (tmp_path / "link").symlink_to(workspace)
    assert "a root of discovery" in refused(workspace, tmp_path / "link")


def test_what_holds_another_session_or_our_own_folders(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = make(workspace / "inner", new_id())
    assert "the workspace of another session" in refused(workspace, others=(inner,))
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "state"))
    assert str(Paths.from_environment().state) in refused(workspace)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: shutil.rmtree(path / ".sessiond"),
        lambda path: (path / ".sessiond/session.json").write_text("{"),
        lambda path: identity_file.write(
            path, Identity(new_id(), "x", SessionType.TEST, "ada", datetime.now(UTC))
        ),
    ],
    ids=["none", "broken", "another"],
)
def test_what_is_not_this_sessions_workspace(workspace: Path, spoil: Callable[[Path], None]) -> None:
    (workspace / "file").touch()
    spoil(workspace)
    refused(workspace)
    assert (workspace / "file").exists()


def test_paths_that_are_not_the_folders_own(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(workspace)
    (tmp_path / "above").symlink_to(workspace.parent)
    for path in (tmp_path / "link", tmp_path / "above/work", Path("work"), workspace / ".." / "work"):
        refused(path)
    assert workspace.exists()


def test_mounts_as_the_kernel_writes_them(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = workspace.parent / "mountinfo"
    monkeypatch.setattr(purging, "_MOUNTS", table)
    for mount, said in (
        (str(workspace), "it is a mount point"),
        (f"{workspace}/a b\n\\c", "is mounted in it"),
    ):
        written = mount.replace("\\", "\\134").replace(" ", "\\040").replace("\n", "\\012")
        table.write_text(f"36 35 98:0 / {written} rw,noatime master:1 - ext3 /dev/root rw\n")
        assert said in refused(workspace)
    table.write_text(f"36 35 98:0 / {workspace}-other rw - ext3 /dev/root rw\n")
    check_purge(workspace, SESSION)
    table.unlink()
    assert "cannot be told" in refused(workspace)


_MOUNTED = """
    import sys
    from pathlib import Path
    from sessiond.errors import PermissionDenied
    from sessiond.workspaces import purge as purging
    workspace, session = Path(sys.argv[1]), sys.argv[2]
    (workspace / "mounted/precious").write_text("x")
    def tried():
        try:
            purging.purge(workspace, session)
        except PermissionDenied as error:
            return error.code + ": " + error.message.replace(str(workspace), "W")
    print(tried())
    # Mounted after the checks: the removal itself sees it too.
    purging._mounts = lambda: []
    print(tried())
    print((workspace / "mounted/precious").read_text(), (workspace / ".sessiond/session.json").exists())
"""


@pytest.mark.parametrize("kind", ["-t tmpfs none", "--bind ../elsewhere"])
def test_nothing_mounted_in_it_is_removed(workspace: Path, kind: str) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mounting needs root, in a private mount namespace")
    (workspace / "mounted").mkdir()
    (workspace.parent / "elsewhere").mkdir()
    command = f'cd "$1" && mount {kind} mounted && exec "$2" -c "$3" "$1" "$4"'
    words = ["sh", "-c", command, "sh", str(workspace), sys.executable, textwrap.dedent(_MOUNTED), SESSION]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "purge_refused: W is not removed: W/mounted is mounted in it"
    assert lines[1].startswith("purge_refused: W/mounted is a mount point")
    assert lines[2] == "x True"


# ---- removal


def test_what_cannot_be_removed_leaves_the_identity_for_another_try(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "z"):
        (workspace / name).mkdir()
        (workspace / name / "file").touch()
    real = os.unlink

    def unlink(name: str, *, dir_fd: int | None = None) -> None:
        if name == "file" and Path(f"/proc/self/fd/{dir_fd}").resolve().name == "b":
            raise PermissionError(1, "Operation not permitted")
        real(name, dir_fd=dir_fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(PermissionDenied) as caught:
            purge(workspace, SESSION)
        assert caught.value.code == "path_denied"
    assert identity_file.read(workspace).id == SESSION
    purge(workspace, SESSION)
    assert not workspace.exists()


def test_read_only_folders_of_ours_are_removed(workspace: Path) -> None:
    for name in ("cache/mod/v1", "locked/inner"):
        (workspace / name).mkdir(parents=True)
        (workspace / name / "file").touch()
    code = """
        import sys
        from pathlib import Path
        from sessiond.workspaces.purge import purge
        workspace = Path(sys.argv[1])
        (workspace / "cache/mod/v1").chmod(0o555)
        (workspace / "cache/mod").chmod(0o555)
        (workspace / "cache").chmod(0o555)
        (workspace / "locked/inner").chmod(0o000)
        (workspace / "locked").chmod(0o000)
        purge(workspace, sys.argv[2])
        print(workspace.exists())
    """
    assert unprivileged.run(code, workspace, SESSION) == "False\n"


def test_a_folder_that_is_moved_meanwhile_ends_the_removal(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "a/b").mkdir(parents=True)
    (tmp_path / "elsewhere/precious").mkdir(parents=True)
    real = os.listdir

    def listdir(folder: int) -> list[str]:
        if Path(f"/proc/self/fd/{folder}").resolve().name == "b":
            (workspace / "a/b").rename(tmp_path / "elsewhere/b")
        return real(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        with pytest.raises(SessiondError) as caught:
            purge(workspace, SESSION)
    assert caught.value.code == "path_failed"
    assert "was moved" in caught.value.message
    assert (tmp_path / "elsewhere/precious").is_dir()
    assert identity_file.read(workspace).id == SESSION


def test_entries_that_others_remove_meanwhile_are_fine(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "a").mkdir()
    (workspace / "a/file").touch()
    real = os.listdir

    def listdir(folder: int) -> list[str]:
        return [*real(folder), "gone"]

    monkeypatch.setattr(os, "listdir", listdir)
    purge(workspace, SESSION)
    assert not workspace.exists()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def test_removing_what_is_no_folder(parent: int, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "file").touch()
    for name in ("link", "file", "missing"):
        removal.remove_tree(parent, name, tmp_path / name)
    assert os.listdir(tmp_path) == ["precious"]


def test_no_descriptor_is_leaked(workspace: Path, parent: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (workspace / "a/b/c").mkdir(parents=True)
    purge(workspace, SESSION)
    with pytest.raises(PermissionDenied):
        purge(workspace, SESSION)
    assert len(os.listdir("/proc/self/fd")) == before
