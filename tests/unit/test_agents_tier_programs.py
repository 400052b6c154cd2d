"""Installation of the agent programs: whole or not at all, once, and looked at before each use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agents import programs
from tests.agents.programs import Package, ProgramsUnavailable

ONE = Package("one", "@some/one", "1.2.3", "one")

# Stands for npm: installs what it is asked for, or does as STUB_NPM says.
NPM = """#!/bin/bash
echo "$*" >>"$STUB_LOG"
what=${!#}
package=${what%@*}
version=${what##*@}
mkdir -p "node_modules/$package" node_modules/.bin
[[ $STUB_NPM == die ]] && kill -KILL $PPID && exit
[[ $STUB_NPM == fail ]] && { echo "npm error no network" >&2; exit 1; }
[[ $STUB_NPM == other ]] && version=9.9.9
echo "{\\"version\\": \\"$version\\"}" >"node_modules/$package/package.json"
[[ $STUB_NPM == empty ]] && exit
printf '#!/bin/sh\\n' >"node_modules/$package/program"
chmod +x "node_modules/$package/program"
ln -s "../$package/program" node_modules/.bin/one
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with npm and an empty cache; what the process was started with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("npm", NPM), ("node", "#!/bin/sh\necho v18.1.0\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    given = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "SESSIOND_AGENTS_CACHE": str(tmp_path / "cache"),
        "STUB_LOG": str(tmp_path / "log"),
        "STUB_NPM": "",
    }
    monkeypatch.setattr(programs, "started_with", lambda: given)
    monkeypatch.setattr(programs, "_system_node", lambda: (str(folder / "node"), 99))
    return given


def _calls(machine: dict[str, str]) -> int:
    log = Path(machine["STUB_LOG"])
    return len(log.read_text().splitlines()) if log.exists() else 0


def _drafts(machine: dict[str, str]) -> list[Path]:
    return list(Path(machine["SESSIOND_AGENTS_CACHE"]).glob(".*-draft-*"))


def test_it_is_installed_once(machine: dict[str, str]) -> None:
    assert programs.ensure(ONE) == ONE.folder
    assert os.access(ONE.path, os.X_OK)
    assert programs.ensure(ONE) == ONE.folder
    assert _calls(machine) == 1
    assert not _drafts(machine)


def test_once_installed_it_needs_no_npm(machine: dict[str, str]) -> None:
    programs.ensure(ONE)
    machine["PATH"] = "/nonexistent"
    assert programs.ensure(ONE) == ONE.folder


def test_two_at_once_install_it_once(machine: dict[str, str]) -> None:
    threads = [threading.Thread(target=programs.ensure, args=(ONE,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _calls(machine) == 1


def _without_program() -> None:
    (ONE.folder / "node_modules/@some/one/program").unlink()


def _cut_off() -> None:
    (ONE.folder / "node_modules/@some/one/program").write_text("")


def _of_another_version() -> None:
    (ONE.folder / "node_modules/@some/one/package.json").write_text('{"version": "1.2.4"}')


def _with_garbage() -> None:
    (ONE.folder / "installed.json").write_bytes(b"\xff{")


@pytest.mark.parametrize("damage", [_without_program, _cut_off, _of_another_version, _with_garbage])
def test_what_is_damaged_is_installed_anew(machine: dict[str, str], damage: Callable[[], None]) -> None:
    programs.ensure(ONE)
    damage()
    programs.ensure(ONE)
    assert _calls(machine) == 2
    assert json.loads((ONE.folder / "installed.json").read_bytes())["version"] == "1.2.3"


@pytest.mark.parametrize(
    ("how", "reason"),
    [("fail", "npm could not install @some/one: npm error no network"), ("empty", "cannot be installed")],
)
def test_a_failed_installation_leaves_nothing(machine: dict[str, str], how: str, reason: str) -> None:
    machine["STUB_NPM"] = how
    with pytest.raises(ProgramsUnavailable, match=reason):
        programs.ensure(ONE)
    assert not ONE.folder.exists()
    assert not _drafts(machine)


def test_an_installation_killed_midway_is_cleared_away(machine: dict[str, str]) -> None:
    checkout = Path(__file__).parents[2]
    code = (
        "from tests.agents import programs\n"
        "programs.ensure(programs.Package('one', '@some/one', '1.2.3', 'one'))"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env={**machine, "STUB_NPM": "die"}, timeout=60
    )
    assert killed.returncode == -9
    assert _drafts(machine)
    assert not ONE.folder.exists()
    programs.ensure(ONE)
    assert not _drafts(machine)


def test_another_version_than_asked_for_is_not_used(machine: dict[str, str]) -> None:
    machine["STUB_NPM"] = "other"
    with pytest.raises(ProgramsUnavailable, match=r"npm installed 9.9.9"):
        programs.ensure(ONE)
    assert not ONE.folder.exists()


def test_without_npm_it_says_so(machine: dict[str, str]) -> None:
    machine["PATH"] = "/nonexistent"
    with pytest.raises(ProgramsUnavailable, match="node and npm are not installed"):
        programs.ensure(ONE)


def test_a_cache_that_cannot_be_made_is_told(machine: dict[str, str]) -> None:
    machine["SESSIOND_AGENTS_CACHE"] = "/proc/none"
    with pytest.raises(ProgramsUnavailable, match="the cache cannot be made"):
        programs.ensure(ONE)


def test_a_program_is_configured_for_the_model_server_alone(
    machine: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "ensure", lambda package: package.folder)
    for package in programs.PACKAGES.values():
        home = tmp_path / package.name
        made = programs.configure(package, home, "http://127.0.0.1:1", ["/home/user/project"])
        assert made.env["HOME"] == str(home)
        assert made.command("x") == [str(package.path), "x"]
        texts = [*made.env.values(), *(one.read_text() for one in home.rglob("*") if one.is_file())]
        assert any("http://127.0.0.1:1" in text for text in texts)
        assert not any("https://" in text for text in texts)
