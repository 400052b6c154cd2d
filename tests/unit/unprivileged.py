"""Runs a piece of Python as a user whom file modes hold back, also where the tests run as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest


def run(code: str, *arguments: object) -> str:
    """Run the code without any capability (as root, `setpriv` takes them away); returns what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root is held back by no file mode, and setpriv is missing")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
