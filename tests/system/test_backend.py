"""The systemd backend on real systemd: the contract, and what only systemd can do to it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sessiond.testing.host import Host
from tests.contract.init_harness import BUS


def run_inside(host: Host, *arguments: str) -> int:
    """Run pytest inside the host as the user; returns how many tests passed, fails when any did not."""
    done = host.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=str(Path(__file__).resolve().parents[2]),
        env={BUS: f"unix:path={host.runtime_dir}/bus", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    summary = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert summary, done.stdout
    return int(summary[1])


def test_the_contract_of_the_init_system(host: Host) -> None:
    assert run_inside(host, "tests/contract/test_init.py") >= 30


def test_odd_words_failures_hands_and_bad_days(host: Host) -> None:
    assert run_inside(host, "tests/system/backend_inside.py") >= 30
