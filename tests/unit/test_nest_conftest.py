"""The system tier's own rules: in CI nothing may be skipped silently, elsewhere it says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CONFTEST = Path(__file__).parents[1] / "system" / "conftest.py"
_PASSES = "def test_passes(): pass\n"
_SKIPS = "import pytest\ndef test_skips(): pytest.skip('because')\n"
_EXCUSED = "import pytest\n@pytest.mark.may_skip('no GLib here')\n" + _SKIPS.split("\n", 1)[1]
_NEEDS_HOST = "def test_needs(host): pass\n"


def _run(folder: Path, source: str, *args: str, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(_CONFTEST.read_text())
    (folder / "test_it.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = system\n")
    # No folder there can hold an overlay, so the host cannot boot.
    environment = {**os.environ, "SESSIOND_TEST_DISK": "/proc"}
    environment.pop("CI", None)
    if ci:
        environment["CI"] = "1"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *args, str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize("ci", [True, False])
@pytest.mark.parametrize("source", [_PASSES, _PASSES + _EXCUSED])
def test_what_ran_or_is_excused_passes(tmp_path: Path, source: str, ci: bool) -> None:
    done = _run(tmp_path, source, ci=ci)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("args", [(), ("-k", "passes")])
def test_a_test_that_did_not_run_fails_in_ci_only(tmp_path: Path, args: tuple[str, ...]) -> None:
    in_ci = _run(tmp_path, _PASSES + _SKIPS, *args, ci=True)
    assert in_ci.returncode == 1, in_ci.stdout
    assert "1 of 2 system tests did not run" in in_ci.stdout
    assert "test_it.py::test_skips" in in_ci.stdout
    assert _run(tmp_path, _PASSES + _SKIPS, *args, ci=False).returncode == 0


def test_a_host_that_cannot_boot_fails_in_ci_and_is_skipped_with_its_reason_elsewhere(tmp_path: Path) -> None:
    in_ci = _run(tmp_path, _NEEDS_HOST, ci=True)
    assert in_ci.returncode == 1
    assert "must boot where CI is set" in in_ci.stdout
    elsewhere = _run(tmp_path, _NEEDS_HOST, ci=False)
    assert elsewhere.returncode == 0
    assert "set SESSIOND_TEST_DISK" in elsewhere.stdout
