"""``python -m tests.benchmarks [NAME…] [--runs N] [--json]``: boot a private systemd, measure, print."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

from sessiond.testing.host import Host, HostUnavailable, sweep
from tests.benchmarks.figures import Figure, table
from tests.benchmarks.inside import GROUPS

_ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure and print; returns the exit status, which tells only whether all was measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition(":")[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(GROUPS)} (default: all)")
    parser.add_argument("--runs", type=int, default=15, help="samples of each (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print samples, medians and verdicts as JSON")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(GROUPS))
    if unknown or options.runs < 3:
        parser.error(
            f"no figure {unknown[0]!r}: {', '.join(GROUPS)}" if unknown else "--runs takes 3 or more"
        )
    began = time.monotonic()
    sweep()
    try:
        with Host() as host:
            figures = _measured(host.boot(), options.names, options.runs)
            systemd = host.run(["systemctl", "--version"]).stdout.split("\n")[0]
    except HostUnavailable as error:
        print(f"the private host cannot boot here: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps([figure.to_object() for figure in figures], indent=2))
        return 0
    print(*table(figures), sep="\n")
    print()
    for figure in figures:
        print(*figure.details(), sep="\n")
    print(f"\n{_machine()}, {systemd}; medians, {time.monotonic() - began:.0f} s in all")
    return 0


def _measured(host: Host, names: list[str], runs: int) -> list[Figure]:
    # Installed packages are compiled, and the user in the host cannot write beside the sources. What a
    # supervisor of root compiled it cannot read either: units have a mask of their own.
    host.run([sys.executable, "-m", "compileall", "-q", _ROOT / "sessiond"], user=False)
    host.run(["chmod", "-R", "go+rX", _ROOT / "sessiond"], user=False)
    words = [sys.executable, "-m", "tests.benchmarks.inside", *names, "--runs", str(runs)]
    process = host.popen(words, cwd=str(_ROOT), stdout=subprocess.PIPE, stderr=sys.stderr.fileno())
    printed, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"the measurements ended with exit status {process.returncode}")
    return [Figure.from_object(one) for one in json.loads(printed)]


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = f"{len(models)} x {models[0]}" if models else platform.machine()
    return f"{cpu}, Linux {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
