"""The set of inotify watches of one adapter, on real folders."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.discovery import kernel, watching
from sessiond.discovery.watching import Watching
from sessiond.ports.discovery import Watched
from tests.unit import unprivileged


@pytest.fixture
def watch() -> Iterator[Watching]:
    one = Watching()
    yield one
    one.close()


def changes(watch: Watching) -> set[str] | None:
    """What is told of what happened before: events are there when the call that makes them returns."""
    changed: set[str] = set()
    while select.select([watch], [], [], 0)[0]:
        more = watch.read()
        if more is None:
            return None
        changed |= more
    return changed


def test_files_that_change_are_told(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    watch.watch([Watched(str(tmp_path), 2, (".json",))])
    (tmp_path / "one.json").write_text("1")
    (tmp_path / "other.txt").write_text("1")
    (tmp_path / "a/b/two.json").write_text("2")
    assert changes(watch) == {str(tmp_path / "one.json"), str(tmp_path / "a/b/two.json")}
    (tmp_path / "one.json").rename(tmp_path / "a/three.json")
    assert changes(watch) == {str(tmp_path / "one.json"), str(tmp_path / "a/three.json")}
    (tmp_path / "a/three.json").unlink()
    assert changes(watch) == {str(tmp_path / "a/three.json")}
    assert changes(watch) == set()


def test_whole_names_match_at_their_beginning(watch: Watching, tmp_path: Path) -> None:
    watch.watch([Watched(str(tmp_path), 0, ("some.db",))])
    for name in ("some.db", "some.db-wal", "other.db"):
        (tmp_path / name).write_text("1")
    assert changes(watch) == {str(tmp_path / "some.db"), str(tmp_path / "some.db-wal")}


def test_folders_below_the_depth_are_not_looked_at(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    watch.watch([Watched(str(tmp_path), 1)])
    (tmp_path / "a/b/deep").write_text("1")
    (tmp_path / "a/c").mkdir()
    (tmp_path / "a/c/deep").write_text("1")
    assert changes(watch) == set()


def test_a_folder_that_comes_is_told_with_all_that_is_in_it(watch: Watching, tmp_path: Path) -> None:
    """Its files were written before anybody could watch it, and no event tells of them."""
    watch.watch([Watched(str(tmp_path), 3, (".json",))])
    (tmp_path / "new/deep/er").mkdir(parents=True)
    (tmp_path / "new/1.json").write_text("1")
    (tmp_path / "new/deep/2.json").write_text("1")
    (tmp_path / "new/deep/er/3.json").write_text("1")
    (tmp_path / "new/deep/er/4.txt").write_text("1")
    told = changes(watch)
    assert told is not None
    assert {one for one in told if one.endswith((".json", ".txt"))} == {
        str(tmp_path / name) for name in ("new/1.json", "new/deep/2.json", "new/deep/er/3.json")
    }
    (tmp_path / "new/deep/er/5.json").write_text("1")
    assert changes(watch) == {str(tmp_path / "new/deep/er/5.json")}


def test_a_folder_that_goes_is_told(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "root/a/b").mkdir(parents=True)
    watch.watch([Watched(str(tmp_path / "root"), 2, (".json",))])
    (tmp_path / "root/a").rename(tmp_path / "elsewhere")
    assert changes(watch) == {str(tmp_path / "root/a")}
    (tmp_path / "elsewhere/b/x.json").write_text("1")
    assert changes(watch) == set()
    (tmp_path / "elsewhere").rename(tmp_path / "root/a")
    told = changes(watch)
    assert told is not None
    assert str(tmp_path / "root/a/b/x.json") in told
    shutil.rmtree(tmp_path / "root/a")
    told = changes(watch)
    assert told is not None
    assert {str(tmp_path / "root/a"), str(tmp_path / "root/a/b")} <= told


def test_what_is_not_there_yet_is_awaited(watch: Watching, tmp_path: Path) -> None:
    watch.watch([Watched(str(tmp_path / "a/b/c"), 1, (".json",))])
    (tmp_path / "unconcerned").write_text("1")
    assert changes(watch) == set()
    (tmp_path / "a").mkdir()
    assert changes(watch) is None
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    assert changes(watch) is None
    (tmp_path / "a/b/c/d/1.json").write_text("1")
    assert changes(watch) == {str(tmp_path / "a/b/c/d/1.json")}


def test_a_root_that_moves_or_comes_back_has_all_looked_at(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    watch.watch([Watched(str(tmp_path / "a/b"))])
    (tmp_path / "a").rename(tmp_path / "z")
    assert changes(watch) is None
    (tmp_path / "z/b/1").write_text("1")
    assert changes(watch) == set()
    (tmp_path / "z").rename(tmp_path / "a")
    assert changes(watch) is None
    (tmp_path / "a/b/1").write_text("2")
    assert changes(watch) == {str(tmp_path / "a/b/1")}


def test_a_link_on_the_way_that_is_made_anew_is_followed(watch: Watching, tmp_path: Path) -> None:
    for name in ("one/b", "two/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("one")
    watch.watch([Watched(str(tmp_path / "link/b"))])
    (tmp_path / "one/b/1").write_text("1")
    assert changes(watch) == {str(tmp_path / "link/b/1")}
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "link")
    assert changes(watch) is None
    (tmp_path / "two/b/1").write_text("1")
    assert changes(watch) == {str(tmp_path / "link/b/1")}


def test_links_in_a_circle_come_to_an_end(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/up").symlink_to("..")
    watch.watch([Watched(str(tmp_path), 6)])
    (tmp_path / "a/1").write_text("1")
    assert str(tmp_path / "a/1") in (changes(watch) or ())


@pytest.mark.parametrize("target", ["/", "{top}", "{top}/a/.", "{top}/.."])
def test_a_link_that_leads_up_opens_nothing_of_what_is_there(
    watch: Watching, tmp_path: Path, target: str
) -> None:
    top = tmp_path / "top"
    for name in ("top/a", "beside/b"):
        (tmp_path / name).mkdir(parents=True)
    (top / "a/before").symlink_to(target.format(top=top))
    watch.watch([Watched(str(top), 6)])
    (top / "a/later").symlink_to(target.format(top=top))
    changes(watch)
    assert watch.problems == {}
    (tmp_path / "beside/b/1").write_text("1")
    (top / "a/1").write_text("1")
    assert changes(watch) == {str(top / "a/1")}


def test_a_link_to_a_folder_beside_is_followed(watch: Watching, tmp_path: Path) -> None:
    for name in ("top/a", "beside/b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top/a/link").symlink_to(tmp_path / "beside")
    watch.watch([Watched(str(tmp_path / "top"), 6)])
    (tmp_path / "beside/b/1").write_text("1")
    assert changes(watch) == {str(tmp_path / "top/a/link/b/1")}


def test_two_that_share_a_folder_are_both_heard(watch: Watching, tmp_path: Path) -> None:
    watch.watch([Watched(str(tmp_path), 0, (".a",)), Watched(str(tmp_path), 1, (".b",))])
    (tmp_path / "1.a").write_text("1")
    (tmp_path / "1.b").write_text("1")
    (tmp_path / "1.c").write_text("1")
    assert changes(watch) == {str(tmp_path / "1.a"), str(tmp_path / "1.b")}


def test_a_lock_file_that_is_opened_and_closed_is_told(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "x.lock").touch()
    (tmp_path / "y").touch()
    watch.watch([Watched(str(tmp_path), 0, (".lock", "y"))])
    (tmp_path / "y").read_text()
    assert changes(watch) == set()
    with (tmp_path / "x.lock").open() as file:
        assert changes(watch) == {str(tmp_path / "x.lock")}
        fcntl.flock(file, fcntl.LOCK_SH)
    assert changes(watch) == {str(tmp_path / "x.lock")}


def test_reading_files_tells_nothing(watch: Watching, tmp_path: Path) -> None:
    """Else an adapter would wake itself."""
    (tmp_path / "x.json").write_text("1")
    watch.watch([Watched(str(tmp_path), 0, (".json",))])
    (tmp_path / "x.json").read_text()
    list(tmp_path.iterdir())
    assert changes(watch) == set()


def test_a_queue_that_overflows_has_all_looked_at(watch: Watching, tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch.watch([Watched(str(tmp_path))])
    files = [os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY, 0o600) for name in "ab"]
    for number in range(most + 10):
        # The same event twice in a row counts once.
        os.pwrite(files[number % 2], b"x", 0)
    for fd in files:
        os.close(fd)
    assert changes(watch) is None
    (tmp_path / "c").write_text("1")
    assert changes(watch) == {str(tmp_path / "c")}


def test_a_limit_of_watches_is_told(watch: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FOLDERS_MAX", 20)
    for number in range(40):
        (tmp_path / f"{number:02}").mkdir()
    watch.watch([Watched(str(tmp_path), 1)])
    assert "more than 20 folders" in " ".join(watch.problems.values())
    (tmp_path / "here").write_text("1")
    assert changes(watch) == {str(tmp_path / "here")}


def test_no_inotify_at_all_is_told(watch: Watching, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(watching, "Inotify", refuse)
    watch.watch([Watched(str(tmp_path))])
    assert watch.fileno() == -1
    assert list(watch.problems) == [str(tmp_path)]
    assert watch.read() == set()


def test_the_kernels_own_limit_is_an_error_with_its_number(tmp_path: Path) -> None:
    inotify = kernel.Inotify()
    with pytest.raises(FileNotFoundError):
        inotify.add(str(tmp_path / "missing"), kernel.CREATE)
    wd = inotify.add(str(tmp_path), kernel.CREATE)
    inotify.remove(wd)
    inotify.remove(wd)
    assert [event.mask for event in inotify.read()] == [kernel.IGNORED]
    inotify.close()
    inotify.close()


def test_a_folder_in_the_place_of_a_file_is_told(watch: Watching, tmp_path: Path) -> None:
    watch.watch([Watched(str(tmp_path), 0, (".json",))])
    (tmp_path / "one.json").mkdir()
    (tmp_path / "other").mkdir()
    assert changes(watch) == {str(tmp_path / "one.json")}
    (tmp_path / "one.json").rmdir()
    assert changes(watch) == {str(tmp_path / "one.json")}


def test_a_folder_that_is_closed_or_opened_is_told(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    watch.watch([Watched(str(tmp_path), 1, (".json",))])
    for mode in (0, 0o700):
        (tmp_path / "a").chmod(mode)
        assert changes(watch) == {str(tmp_path / "a")}


@pytest.mark.parametrize("closed_first", [True, False])
def test_a_closed_place_is_looked_at_once_it_is_opened(tmp_path: Path, closed_first: bool) -> None:
    (tmp_path / "place").mkdir()
    code = """
        import select, sys
        from pathlib import Path
        from sessiond.discovery.watching import Watching
        from sessiond.ports.discovery import Watched
        place, watch = Path(sys.argv[1]), Watching()
        for mode in (0, 0o700) if sys.argv[2] == "True" else (0o700, 0, 0o700):
            place.chmod(mode)
            if not watch.watched:
                watch.watch([Watched(str(place), 1)])
            else:
                assert select.select([watch], [], [], 60)[0], "nothing was heard"
                assert watch.read() is None
            print(mode, sorted(watch.problems) == [str(place)])
        (place / "one").write_text("1")
        assert select.select([watch], [], [], 60)[0], "nothing was heard"
        print(watch.read() == {str(place / "one")})
        watch.close()
    """
    told = unprivileged.run(code, tmp_path / "place", closed_first).split()
    assert told == [*([] if closed_first else ["448", "False"]), "0", "True", "448", "False", "True"]


def test_a_link_that_leads_to_itself_hides_no_folder_beside_it(watch: Watching, tmp_path: Path) -> None:
    (tmp_path / "round.json").symlink_to("round.json")
    (tmp_path / "a").mkdir()
    watch.watch([Watched(str(tmp_path), 1, (".json",))])
    assert watch.problems == {}
    (tmp_path / "a/one.json").write_text("1")
    assert changes(watch) == {str(tmp_path / "a/one.json")}
