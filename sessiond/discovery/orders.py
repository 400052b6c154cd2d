"""What the host and the finder itself say to each other: packets of msgpack, descriptors beside them."""

from __future__ import annotations

from typing import Final

import msgspec

# Who makes adapters by name in their processes.
FACTORY: Final = "sessiond.adapters:make_adapter"
PACKET_MAX: Final = 65536


class Fork(msgspec.Struct, frozen=True):
    """What the host asks, with its socket to the adapter's process beside it. ``plain``: one that answers
    questions alone."""

    number: int
    adapter: str
    plain: bool = False


class Forked(msgspec.Struct, tag=True, frozen=True):
    """Done, with a pidfd beside it."""

    number: int
    pid: int


class Refused(msgspec.Struct, tag=True, frozen=True):
    """It cannot be done."""

    number: int
    reason: str


class Ended(msgspec.Struct, tag=True, frozen=True):
    """One of the processes ended; ``status`` as waitpid tells it."""

    number: int
    status: int


Tidings = Forked | Refused | Ended
