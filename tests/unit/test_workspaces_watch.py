"""The watch on workspaces, with the kernel's own inotify: what is noticed, and that it then sleeps."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncinotify
import pytest

from sessiond.model.identity import Identity, SessionType, new_id
from sessiond.workspaces import identity_file, watches
from sessiond.workspaces.watch import Rescan, WorkspaceWatch

DEADLINE = 60.0


def make(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    identity = Identity(new_id(), path.name, SessionType.TEST, "ada", datetime.now(UTC))
    identity_file.create(path, identity)
    return path


class Ear:
    """Reads a watch as it comes."""

    def __init__(self, watch: WorkspaceWatch) -> None:
        self.watch = watch

    async def next(self) -> frozenset[Path] | Rescan:
        async with asyncio.timeout(DEADLINE):
            return await anext(self.watch)

    async def until(self, *paths: Path) -> None:
        """Return once all of these were told."""
        missing = set(paths)
        while missing:
            told = await self.next()
            assert isinstance(told, frozenset), told
            missing -= told

    async def rescan(self) -> Rescan:
        """Return the next Rescan."""
        while not isinstance(told := await self.next(), Rescan):
            pass
        return told

    async def nothing(self, seconds: float = 0.4) -> None:
        """Fail if anything is told in this time."""
        try:
            async with asyncio.timeout(seconds):
                told = await anext(self.watch)
        except TimeoutError:
            return
        pytest.fail(f"told {told}")


@asynccontextmanager
async def watching(*roots: Path, depth: int = 3, workspaces: tuple[Path, ...] = ()) -> AsyncIterator[Ear]:
    async with WorkspaceWatch(roots, depth=depth) as watch:
        watch.set_workspaces(workspaces)
        ear = Ear(watch)
        assert await ear.next() == Rescan("watching from now on")
        yield ear
        assert watch.problems == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "projects"
    path.mkdir()
    return path


# ---- below a root


@pytest.mark.parametrize("place", ["a", "a/b", "a/b/c"])
async def test_a_workspace_that_is_made(root: Path, place: str) -> None:
    async with watching(root) as ear:
        await asyncio.to_thread(make, root / place)
        await ear.until(root / place)


async def test_not_deeper_than_the_depth(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    async with watching(root) as ear:
        make(root / "a/b/c/d")
        make(root / "x")
        assert await ear.next() == frozenset({root / "x"})


async def test_a_folder_becomes_a_workspace_long_after_it_was_made(root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    async with watching(root) as ear:
        make(root / "a/b/c")
        await ear.until(root / "a/b/c")


async def test_a_tree_that_is_moved_in_is_looked_at_whole(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "group/one")
    make(tmp_path / "group/two")
    async with watching(root) as ear:
        (tmp_path / "group").rename(root / "group")
        await ear.until(root / "group/one", root / "group/two")
        # And goes on being watched at its new place.
        os.utime(root / "group/one")
        (root / "group/one/.sessiond/session.json").write_text("{}")
        await ear.until(root / "group/one")


async def test_a_workspace_that_moves_is_told_at_both_places(root: Path) -> None:
    make(root / "a/one")
    async with watching(root) as ear:
        (root / "a/one").rename(root / "two")
        await ear.until(root / "a/one", root / "two")
        (root / "two").rename(root / "a/one")
        await ear.until(root / "a/one", root / "two")


async def test_a_folder_of_workspaces_that_moves_away(root: Path, tmp_path: Path) -> None:
    make(root / "group/one")
    async with watching(root) as ear:
        (root / "group").rename(tmp_path / "elsewhere")
        await ear.until(root / "group/one")
        (tmp_path / "elsewhere/one/.sessiond/session.json").write_text("{}")
        await ear.nothing()


async def test_a_workspace_that_is_deleted(root: Path) -> None:
    make(root / "one")
    async with watching(root) as ear:
        await asyncio.to_thread(shutil.rmtree, root / "one")
        await ear.until(root / "one")


async def test_an_identity_that_is_rewritten_or_removed(root: Path) -> None:
    path = make(root / "one")
    async with watching(root) as ear:
        (path / ".sessiond/session.json").write_text("{}")
        await ear.until(path)
        identity = Identity(new_id(), "x", SessionType.TEST, "ada", datetime.now(UTC))
        await asyncio.to_thread(identity_file.write, path, identity)
        await ear.until(path)
        await asyncio.to_thread(identity_file.remove, path)
        await ear.until(path)


async def test_below_a_workspace_nothing_is_watched_until_it_ceases_to_be_one(root: Path) -> None:
    path = make(root / "one")
    async with watching(root) as ear:
        make(path / "inner")
        await ear.nothing()
        await asyncio.to_thread(identity_file.remove, path)
        await ear.until(path, path / "inner")


async def test_a_root_that_is_a_workspace_does_not_hide_others(root: Path) -> None:
    make(root)
    async with watching(root) as ear:
        make(root / "inner")
        await ear.until(root / "inner")


async def test_other_files_and_dot_folders_mean_nothing(root: Path) -> None:
    path = make(root / "one")
    async with watching(root) as ear:
        (root / "file").write_text("x")
        (path / "src").mkdir()
        (path / "src/file").write_text("x")
        (path / ".sessiond/other").write_text("x")
        (root / ".cache/one").mkdir(parents=True)
        make(root / ".hidden")
        await ear.nothing()


async def test_a_burst_is_told_once_or_twice(root: Path) -> None:
    async with watching(root) as ear:
        paths = [root / f"w{number}" for number in range(30)]
        for path in paths:
            make(path)
        told = await ear.next()
        assert isinstance(told, frozenset)
        if told != frozenset(paths):
            await ear.until(*(set(paths) - told))


async def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (root / "loop").symlink_to(root)
    async with watching(root) as ear:
        (root / "link").symlink_to(tmp_path / "elsewhere")
        make(tmp_path / "elsewhere/one")
        await ear.nothing()


# ---- roots


async def test_a_root_that_comes_to_be(tmp_path: Path) -> None:
    root = tmp_path / "home/ada/projects"
    async with watching(root) as ear:
        await ear.nothing(0.2)
        make(root / "one")
        assert "came to be" in (await ear.rescan()).reason
        make(root / "two")
        while not isinstance(told := await ear.next(), frozenset) or root / "two" not in told:
            pass


async def test_a_root_that_is_a_file_at_first(tmp_path: Path) -> None:
    root = tmp_path / "projects"
    root.write_text("not yet")
    async with watching(root) as ear:
        root.unlink()
        make(root / "one")
        assert "came to be" in (await ear.rescan()).reason


@pytest.mark.parametrize("gone", ["projects", "home"])
async def test_a_root_or_what_leads_to_it_is_moved_and_comes_back(tmp_path: Path, gone: str) -> None:
    root = tmp_path / "home/projects"
    make(root / "one")
    moved = root if gone == "projects" else root.parent
    async with watching(root, workspaces=(root / "one",)) as ear:
        moved.rename(tmp_path / "away")
        assert "was moved" in (await ear.rescan()).reason
        (tmp_path / "away").rename(moved)
        assert "came to be" in (await ear.rescan()).reason
        (root / "one/.sessiond/session.json").write_text("{}")
        await ear.until(root / "one")


async def test_a_root_that_is_a_link(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    async with watching(link) as ear:
        make(root / "one")
        await ear.until(root / "one")
        (tmp_path / "noise").mkdir()
        await ear.nothing()


async def test_a_root_inside_another_reaches_deeper(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    async with watching(root, root / "a/b", depth=1) as ear:
        make(root / "a/b/one")
        await ear.until(root / "a/b/one")
        make(root / "a/two")
        make(root / "three")
        assert await ear.next() == frozenset({root / "three"})


# ---- workspaces elsewhere


async def test_a_workspace_outside_the_roots(root: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "elsewhere/one")
    async with watching(root, workspaces=(path,)) as ear:
        (path / ".sessiond/session.json").write_text("{}")
        await ear.until(path)
        (path / "src").mkdir()
        await ear.nothing()
        path.rename(tmp_path / "elsewhere/two")
        await ear.until(path)
        (tmp_path / "elsewhere/two").rename(path)
        assert "came to be" in (await ear.rescan()).reason


async def test_a_workspace_outside_the_roots_whose_parent_moves(root: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "deep/er/one")
    async with watching(root, workspaces=(path,)) as ear:
        (tmp_path / "deep").rename(tmp_path / "away")
        assert "was moved" in (await ear.rescan()).reason


async def test_a_workspace_outside_the_roots_that_is_deleted_while_in_use(root: Path, tmp_path: Path) -> None:
    path = make(tmp_path / "elsewhere/one")
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        async with watching(root, workspaces=(path,)) as ear:
            await asyncio.to_thread(shutil.rmtree, path)
            await ear.until(path)
    finally:
        os.close(held)


async def test_workspaces_named_later_are_told_once_they_are_watched(root: Path, tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    async with watching(root, workspaces=(one,)) as ear:
        ear.watch.set_workspaces([one, two])
        assert await ear.next() == frozenset({two})
        ear.watch.set_workspaces([two])
        await ear.nothing()
        (one / ".sessiond/session.json").write_text("{}")
        await ear.nothing()


async def test_a_workspace_that_is_not_there_yet(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "not/yet/one"
    async with watching(root, workspaces=(path,)) as ear:
        make(path)
        assert "came to be" in (await ear.rescan()).reason


# ---- bad days


async def test_an_overflow_asks_for_a_scan(root: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    folder = make(root / "one")
    async with watching(root) as ear:
        # Two events a turn, never alike twice in a row, which the kernel would merge; the loop is held up
        # meanwhile, as by a busy supervisor.
        for _ in range(limit // 2 + 10):
            (folder / "a").touch()
            (folder / "a").unlink()
        assert "more happened" in (await ear.rescan()).reason
        make(root / "two")
        await ear.until(root / "two")


async def test_the_limit_of_watches_is_a_problem_and_no_crash(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (root / f"d{number}").mkdir()
    known = make(root / "known")
    add = asyncinotify.Inotify.add_watch
    held: set[str] = set()

    def limited(self: asyncinotify.Inotify, path: Any, mask: asyncinotify.Mask) -> asyncinotify.Watch:
        if len(held) >= 12 and str(path) not in held:
            raise OSError(errno.ENOSPC, "No space left on device")
        held.add(str(path))
        return add(self, path, mask)

    monkeypatch.setattr(asyncinotify.Inotify, "add_watch", limited)
    async with WorkspaceWatch([root], depth=3) as watch:
        watch.set_workspaces([known])
        ear = Ear(watch)
        assert isinstance(await ear.next(), Rescan)
        assert len(watch.problems) == 1
        assert "max_user_watches" in watch.problems[0]
        # The workspaces that are known come first.
        (known / ".sessiond/session.json").write_text("{}")
        await ear.until(known)


async def test_more_folders_than_are_watched_is_a_problem(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "FOLDERS_MAX", 3)
    for number in range(5):
        (root / f"d{number}").mkdir()
    async with WorkspaceWatch([root], depth=3) as watch:
        ear = Ear(watch)
        assert isinstance(await ear.next(), Rescan)
        assert len(watch.problems) == 1
        assert "more than 3" in watch.problems[0]
        make(root / "x")


async def test_no_inotify_at_all_is_a_problem_and_no_crash(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("sessiond.workspaces.watch.Inotify", refuse)
    async with WorkspaceWatch([root], depth=3) as watch:
        assert "max_user_instances" in watch.problems[0]
        watch.set_workspaces([root / "x"])
        await Ear(watch).nothing(0.3)


async def test_a_folder_that_may_not_be_read_is_passed_over(root: Path) -> None:
    (root / "closed").mkdir(mode=0o000)
    async with watching(root) as ear:
        make(root / "one")
        await ear.until(root / "one")


async def test_cancelled_while_it_works_it_waits_for_its_thread(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = asyncio.Event(), []
    loop = asyncio.get_running_loop()
    real: Callable[..., set[str]] = watches.Watches.apply

    def slow(self: watches.Watches, *args: Any, **more: Any) -> set[str]:
        loop.call_soon_threadsafe(begun.set)
        while not self._stopped:
            time.sleep(0.01)
        found = real(self, *args, **more)
        done.append(True)
        return found

    monkeypatch.setattr(watches.Watches, "apply", slow)
    async with WorkspaceWatch([root], depth=3) as watch:
        task = asyncio.create_task(anext(watch))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == [True]


async def test_while_nothing_happens_it_sleeps(root: Path) -> None:
    for number in range(50):
        make(root / f"w{number}")
    async with watching(root) as ear:
        task = asyncio.create_task(anext(ear.watch))
        await asyncio.sleep(0.2)
        woken: list[int] = []
        # What wakes by itself does in each of them; a busy machine may in some.
        while len(woken) < 5 and min(woken, default=4) > 3:
            before = resource.getrusage(resource.RUSAGE_SELF)
            await asyncio.sleep(1.0)
            after = resource.getrusage(resource.RUSAGE_SELF)
            woken.append(after.ru_nvcsw - before.ru_nvcsw)
        # The test's own timer is one; nothing else wakes.
        assert min(woken) <= 3, woken
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
