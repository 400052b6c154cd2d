"""Wheels of the checkout under other versions, installed side by side on a host without any network."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

from sessiond.testing.host import HOME, Host

_REPOSITORY = Path(__file__).resolve().parents[2]
_SCRIPTS = "[console_scripts]\nsessiond = sessiond.__main__:main\nsessionctl = sessiond.cli.main:main\n"
_WHEEL = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def installation(host: Host, name: str, version: str) -> str:
    """Install the checkout under a version in an environment of its own; returns its sessionctl inside.

    Only the package is installed: what it needs is taken from the environment that runs the tests.
    """
    folder = f"{HOME}/{name}"
    host.run([sys.executable, "-m", "venv", "--without-pip", folder])
    inside = f"{folder}/sessiond-{version}-py3-none-any.whl"
    needs = f"{folder}/lib/python{sysconfig.get_python_version()}/site-packages/needs.pth"
    host.run(["tee", needs], input=sysconfig.get_path("purelib"))

    wheel = host.folder / Path(inside).name
    build(wheel, version)
    host.path(inside).write_bytes(wheel.read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", f"{folder}/bin/python"]
    host.run([*pip, "install", "--no-deps", "--no-index", inside], timeout=120)
    return f"{folder}/bin/sessionctl"


def build(wheel: Path, version: str) -> None:
    """Write a wheel of the checkout as pyproject.toml lays it out, with another version."""
    files = {
        str(path.relative_to(_REPOSITORY)): path.read_bytes()
        for path in sorted((_REPOSITORY / "sessiond").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files |= {f"sessiond/_units/{path.name}": path.read_bytes() for path in (_REPOSITORY / "units").iterdir()}
    text = files["sessiond/__init__.py"].decode()
    changed, count = re.subn(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', text)
    assert count == 1
    files["sessiond/__init__.py"] = changed.encode()
    info = f"sessiond-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: sessiond\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = _WHEEL.encode()
    files[f"{info}/entry_points.txt"] = _SCRIPTS.encode()
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
