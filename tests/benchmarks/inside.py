"""Run within the test host by ``python -m tests.benchmarks``: measures, and prints the figures as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence

from tests.benchmarks import agents, discovery, footprint, life, listing, terminal
from tests.benchmarks.figures import Figure
from tests.benchmarks.stage import Stage, progress

# In the order they are run: those that leave a thousand units behind come last.
GROUPS: dict[str, Callable[[Stage, int], Awaitable[list[Figure]]]] = {
    "start": life.start,
    "event": life.event,
    "crash": life.crash,
    "footprint": footprint.footprint,
    "run": agents.run,
    "stream": terminal.stream,
    "echo": terminal.echo,
    "attach": terminal.attach,
    "idle": agents.idle,
    "discovery": discovery.discovery,
    "command": listing.command,
    "list": listing.listing,
    "restart": listing.restart,
}


async def measure(names: Sequence[str], runs: int) -> list[Figure]:
    """The figures of the groups named."""
    figures: list[Figure] = []
    async with Stage() as stage:
        for name, group in GROUPS.items():
            if name in names:
                progress(name)
                figures += await group(stage, runs)
    return figures


def main() -> int:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.inside", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GROUPS))
    parser.add_argument("--runs", type=int, required=True)
    options = parser.parse_args()
    figures = asyncio.run(measure(options.names, options.runs))
    json.dump([figure.to_object() for figure in figures], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
