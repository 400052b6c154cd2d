"""The import contracts can fail: a house of empty rooms keeps them, each forbidden import breaks one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the composition roots and the owners of a foreign library are free to do.
ALLOWED = {
    "supervisor/main.py": ["sessiond.supervisor.parts"],
    "supervisor/parts.py": ["sessiond.init.systemd", "sessiond.store", "sessiond.workspaces", "grpc"],
    "supervisor/serving.py": [
        "sessiond.rpc",
        "sessiond.client",
        "sessiond.ports",
        "sessiond.workspaces",
        "grpc",
    ],
    "daemon/main.py": ["sessiond.init.systemd", "sessiond.store"],
    "daemon/serving.py": ["sessiond.rpc", "sessiond.ports"],
    "client/channel.py": ["sessiond.rpc", "sessiond.model", "grpc"],
    "cli/main.py": ["sessiond.client", "sessiond.nest", "sessiond.model", "click", "rich"],
    "init/systemd/bus.py": ["dbus_fast", "sessiond.ports", "sessiond.errors"],
    "terminal/emulator.py": ["pyghostty", "sessiond.ports"],
    "store/database.py": ["sqlite3", "sessiond.ports", "sessiond.model", "sessiond.aio"],
    "nest/boot.py": ["sessiond.model", "sessiond.errors", "sessiond.log"],
    "testing/fakes.py": ["sessiond.ports", "sessiond.nest", "sessiond.init.systemd"],
}

# importer, imported, and the id of the contract that this breaks.
FORBIDDEN = [
    ("model/a.py", "sessiond.ports", "layers"),
    ("ports.py", "sessiond.store", "layers"),
    ("errors.py", "sessiond.model", "layers"),
    ("config.py", "sessiond.client", "layers"),
    ("rpc/a.py", "sessiond.client", "layers"),
    ("store/a.py", "sessiond.workspaces", "layers"),
    ("init/a.py", "sessiond.store", "layers"),
    ("workspaces/a.py", "sessiond.rpc", "layers"),
    ("supervisor/a.py", "sessiond.daemon", "layers"),
    ("daemon/a.py", "sessiond.cli", "layers"),
    ("client/a.py", "sessiond.testing", "layers"),
    ("cli/a.py", "sessiond.store", "cli"),
    ("cli/b.py", "sessiond.supervisor", "cli"),
    ("client/b.py", "sessiond.workspaces", "client"),
    ("rpc/b.py", "sessiond.ports", "client"),
    ("daemon/b.py", "sessiond.client", "daemon"),
    ("daemon/e.py", "sessiond.workspaces", "daemon"),
    ("daemon/c.py", "sessiond.store", "roots"),
    ("supervisor/b.py", "sessiond.init.systemd", "roots"),
    ("supervisor/c.py", "sessiond.nest", "roots"),
    ("daemon/f.py", "sessiond.terminal.emulator", "roots"),
    ("nest/a.py", "sessiond.ports", "nest"),
    ("store/b.py", "grpc", "wire"),
    ("model/b.py", "google.protobuf", "wire"),
    ("doctor/a.py", "sessiond.client", "layers"),
    ("doctor/b.py", "grpc", "wire"),
    ("supervisor/d.py", "dbus_fast", "bus"),
    ("init/b.py", "dbus_fast.aio", "bus"),
    ("daemon/d.py", "sqlite3", "database"),
    ("daemon/g.py", "pyghostty", "emulator"),
    ("client/c.py", "rich.console", "screen"),
]


def contracts() -> dict[str, str]:
    """Return the name of each contract by its id."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract["name"] for contract in settings["contracts"]}


def rooms() -> set[str]:
    """Return every name in the layers, which is every name that the real package may hold."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in settings["contracts"] if contract["id"] == "layers"]
    return set(re.findall(r"\w+", " ".join(layers)))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with every room of the real one, empty but for imports that are allowed."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "sessiond"
    package.mkdir()
    (package / "__init__.py").touch()
    for room in rooms():
        if (ROOT / "sessiond" / f"{room}.py").exists():
            (package / f"{room}.py").touch()
        else:
            (package / room).mkdir()
            (package / room / "__init__.py").touch()
    (package / "init/systemd").mkdir()
    (package / "init/systemd/__init__.py").touch()
    for place, imported in ALLOWED.items():
        (package / place).write_text("".join(f"import {name}\n" for name in imported))
    return tmp_path


def verdicts(folder: Path) -> tuple[int, str, dict[str, str]]:
    """Check the contracts on folder; return status, all output, and what was said of each broken one."""
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    output = run.stdout + run.stderr
    _, _, details = output.partition("Broken contracts")
    sections = re.split(rf"^({'|'.join(map(re.escape, contracts().values()))})$", details, flags=re.M)
    return run.returncode, output, dict(zip(sections[1::2], sections[2::2], strict=True))


def test_a_house_in_order_keeps_every_contract(house: Path) -> None:
    status, output, _ = verdicts(house)
    assert status == 0, output
    assert f"Contracts: {len(contracts())} kept, 0 broken." in output


def test_each_forbidden_import_breaks_its_contract(house: Path) -> None:
    for place, imported, _ in FORBIDDEN:
        with (house / "sessiond" / place).open("a") as file:
            file.write(f"import {imported}\n")
    status, output, broken = verdicts(house)
    assert status == 1
    missed = []
    for place, imported, contract in FORBIDDEN:
        importer = "sessiond." + place.removesuffix(".py").replace("/", ".")
        # A foreign library is one node, whatever part of it is imported.
        target = imported if imported.startswith("sessiond") else imported.split(".")[0]
        if f"{importer} -> {target}" not in broken.get(contracts()[contract], ""):
            missed.append(f"{contract}: {importer} -> {target}")
    assert not missed, f"{missed}\n{output}"
    assert {contract for _, _, contract in FORBIDDEN} == set(contracts())


def test_a_new_room_must_be_given_a_layer(house: Path) -> None:
    (house / "sessiond/attic.py").touch()
    status, output, _ = verdicts(house)
    assert status == 1
    assert "attic" in output
