"""Paths of workspaces as people give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.workspaces.paths import PATH_MAX, check_workspace_path
from tests.unit import unprivileged


def fault(text: str, *, create: bool = True) -> SessiondError:
    with pytest.raises(SessiondError) as caught:
        check_workspace_path(text, create=create)
    return caught.value


@pytest.mark.parametrize(
    "name", ["plain", "with space", "'q'\"d\"", "new\nline", "per%cent", "$HOME", "back\\slash", "ünï✓", "-x"]
)
def test_odd_names_are_fine(tmp_path: Path, name: str) -> None:
    assert check_workspace_path(str(tmp_path / name), create=True) == tmp_path / name
    assert (tmp_path / name).is_dir()
    assert check_workspace_path(str(tmp_path / name)) == tmp_path / name


def test_one_folder_has_one_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = tmp_path / "real"
    for text in (f"{real}/", f"{tmp_path}/link", f"{real}/../link/.", f"{tmp_path}//real"):
        assert check_workspace_path(text) == real
    assert check_workspace_path(f"{tmp_path}/link/new", create=True) == real / "new"


@pytest.mark.parametrize(
    "text", ["", "relative", "./x", "~/x", "~", "/a\0b", "/\udcff", "/" + "x" * PATH_MAX]
)
def test_bad_forms(text: str) -> None:
    error = fault(text)
    assert isinstance(error, InvalidArgument)
    assert error.code == "path_invalid"
    error.message.encode()
    assert len(error.message) < 400


def test_a_part_that_no_file_system_takes(tmp_path: Path) -> None:
    assert fault(f"{tmp_path}/{'x' * 300}").code == "path_invalid"


def test_only_the_last_part_is_made(tmp_path: Path) -> None:
    error = fault(f"{tmp_path}/a/b/c")
    assert isinstance(error, NotFound)
    assert error.code == "path_missing"
    assert str(tmp_path / "a/b") in error.message
    assert not (tmp_path / "a").exists()
    assert fault(f"{tmp_path}/a", create=False).code == "path_missing"
    assert not (tmp_path / "a").exists()


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "round").symlink_to("round")
    for name in ("file", "file/below", "dangling", "round", "round/below"):
        error = fault(str(tmp_path / name))
        assert error.code == "path_invalid", name


def test_not_inside_our_own_folder(tmp_path: Path) -> None:
    (tmp_path / "one/.sessiond").mkdir(parents=True)
    assert fault(str(tmp_path / "one/.sessiond")).code == "path_invalid"
    assert fault(str(tmp_path / "one/.sessiond/new")).code == "path_invalid"
    assert list((tmp_path / "one/.sessiond").iterdir()) == []


def test_not_writable(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from sessiond.errors import PermissionDenied
        from sessiond.workspaces.paths import check_workspace_path
        folder = Path(sys.argv[1], "closed")
        folder.mkdir()
        (folder / "inner").mkdir()
        for mode in (0o500, 0o000):
            folder.chmod(mode)
            for path in (folder, folder / "new"):
                try:
                    check_workspace_path(str(path), create=True)
                except PermissionDenied as error:
                    print(error.code)
        folder.chmod(0o700)
    """
    assert unprivileged.run(code, tmp_path) == "path_denied\n" * 4
