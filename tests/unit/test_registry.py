"""The registry: folders that come, go, move, are copied, break, and carry a name that is taken."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sessiond.errors import AlreadyExists
from sessiond.model.event import EventKind
from sessiond.model.identity import Identity, SessionType, new_id
from sessiond.paths import Paths
from sessiond.supervisor.events import EventLog
from sessiond.supervisor.registry import Registry, ScanRules
from sessiond.workspaces import identity_file, links

RULES = ScanRules(depth=3, markers=(".git",))


def identity(name: str) -> Identity:
    return Identity(new_id(), name, SessionType.TEST, "me", datetime(2026, 1, 2, tzinfo=UTC))


class House:
    """A root with workspaces, and the registry that looks at it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths.from_environment()
        self.log = EventLog(1000, 1000)
        self.registry = self.another()

    def another(self) -> Registry:
        """A registry that knows nothing yet: that of a supervisor started anew."""
        registry = Registry(self.paths, RULES, self.log, found=asyncio.Event())
        registry.announce()
        return registry

    def workspace(self, name: str, who: Identity) -> Path:
        path = self.root / name
        path.mkdir(parents=True)
        identity_file.create(path, who)
        return path

    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.log.fetch(None, 1000, lambda event: True).events]


@pytest.fixture
def house(tmp_path: Path) -> House:
    root = tmp_path.resolve() / "root"
    root.mkdir()
    return House(root)


async def test_what_is_found_is_known_and_linked(house: House) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    assert house.registry.at(path) == who.id
    assert links.read_all(house.paths) == {who.id: path}
    assert house.kinds() == [EventKind.SESSION_CREATED]
    await house.registry.scan([house.root])
    assert house.kinds() == [EventKind.SESSION_CREATED]


async def test_a_moved_workspace_keeps_its_id(house: House) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    moved = path.rename(house.root / "elsewhere")
    await house.registry.look([path, moved])
    assert house.registry.entries[who.id].path == moved
    assert house.registry.at(path) is None
    assert house.registry.entries[who.id].problem == ""
    assert links.read_all(house.paths) == {who.id: moved}
    assert house.kinds()[-1] is EventKind.SESSION_MOVED


async def test_a_copy_is_a_conflict_until_it_goes(house: House) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    copy = house.root / "copy"
    shutil.copytree(path, copy)
    await house.registry.scan([house.root])
    assert house.registry.entries[who.id].copies == {copy}
    assert house.registry.copy_at(copy) == who.id
    shutil.rmtree(copy)
    await house.registry.scan([house.root])
    assert house.registry.entries[who.id].copies == frozenset()


async def test_the_copy_inherits_when_the_original_goes(house: House) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    copy = house.root / "copy"
    shutil.copytree(path, copy)
    await house.registry.scan([house.root])
    shutil.rmtree(path)
    await house.registry.scan([house.root])
    entry = house.registry.entries[who.id]
    assert (entry.path, entry.copies, entry.problem) == (copy, frozenset(), "")


@pytest.mark.parametrize("spoil", ["broken", "gone"])
async def test_a_scan_tells_what_became_of_a_workspace_it_no_longer_finds(house: House, spoil: str) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    if spoil == "broken":
        (path / ".sessiond/session.json").write_text("{")
    else:
        shutil.rmtree(path)
    await house.registry.scan([house.root])
    assert str(path) in house.registry.entries[who.id].problem
    assert house.registry.at(path) == who.id


async def test_a_workspace_elsewhere_is_not_judged_by_a_scan(house: House, tmp_path: Path) -> None:
    who = identity("outside")
    outside = tmp_path.resolve() / "outside"
    outside.mkdir()
    async with house.registry.lock:
        await house.registry.create(outside, who)
    await house.registry.scan([house.root])
    assert house.registry.entries[who.id].problem == ""


async def test_a_lost_workspace_is_shown_by_a_supervisor_that_never_saw_it(house: House) -> None:
    who = identity("shop")
    path = house.workspace("shop", who)
    await house.registry.scan([house.root])
    shutil.rmtree(path)
    fresh = house.another()
    await fresh.load([house.root])
    assert fresh.entries[who.id].problem
    house.workspace("shop", who)
    await fresh.look([path])
    assert fresh.entries[who.id].problem == ""
    assert fresh.entries[who.id].identity == who


async def test_a_folder_that_changes_hands_belongs_to_who_holds_it(house: House) -> None:
    first, second = identity("first"), identity("second")
    path = house.workspace("shop", first)
    await house.registry.scan([house.root])
    identity_file.write(path, second)
    await house.registry.look([path])
    assert house.registry.at(path) == second.id
    assert house.registry.entries[first.id].problem
    async with house.registry.lock:
        await house.registry.remove(first.id)
    assert house.registry.at(path) == second.id
    assert identity_file.read(path) == second


async def test_two_folders_that_come_with_one_name_are_both_told(house: House) -> None:
    one, two = identity("shop"), identity("shop")
    house.workspace("a", one)
    path = house.workspace("b", two)
    heard: list[frozenset[str] | None] = []
    house.registry.listen(heard.append)
    await house.registry.scan([house.root])
    assert house.registry.named("shop") == {one.id, two.id}
    assert frozenset({one.id, two.id}) in heard
    assert EventKind.SESSION_CONFLICT in house.kinds()
    with pytest.raises(AlreadyExists) as caught:
        house.registry.check_free("shop")
    assert caught.value.code == "name_taken"
    async with house.registry.lock:
        await house.registry.rewrite(two.id, Identity(two.id, "till", two.type, two.owner, two.created))
    assert house.registry.named("shop") == {one.id}
    assert house.registry.named("till") == {two.id}
    assert heard[-1] == frozenset({one.id, two.id})
    assert identity_file.read(path).name == "till"


async def test_names_are_free_again_when_their_session_goes(house: House) -> None:
    who = identity("shop")
    house.workspace("shop", who)
    await house.registry.scan([house.root])
    assert house.registry.free_name("shop") == "shop-2"
    async with house.registry.lock:
        await house.registry.remove(who.id)
    assert house.registry.free_name("shop") == "shop"
    house.registry.check_free("shop")
    assert links.read_all(house.paths) == {}
