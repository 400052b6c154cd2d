"""An agent for the contract of agents' units: ends at once, when a FIFO says so, or not by itself."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Behave as the command line says: `exit STATUS`, `runs FIFO`, `stubborn FIFO`, `burns`."""
    behaviour, *rest = sys.argv[1:]
    if behaviour == "exit":
        return int(rest[0])
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while behaviour == "burns":
        pass
    with open(rest[0]) as told:
        word, number = told.readline().split()
    if word == "exit":
        return int(number)
    os.kill(os.getpid(), int(number))
    return 99


if __name__ == "__main__":
    sys.exit(main())
