"""A session's daemon for the contract of the init system: READY at once, when a FIFO is opened, or never."""

from __future__ import annotations

import os
import signal
import socket
import sys


def main() -> int:
    """Behave as the command line says: `ready`, `stubborn`, `held FIFO`, `exit STATUS`."""
    behaviour, *rest = sys.argv[1:]
    print(f"stand-in: {behaviour}", flush=True)
    if behaviour == "exit":
        return int(rest[0])
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "held":
        open(rest[0]).close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = os.environ["NOTIFY_SOCKET"]
        notify.sendto(b"READY=1", "\0" + address[1:] if address.startswith("@") else address)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
