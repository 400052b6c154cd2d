"""Pi's Rust port: it writes its conversations into Pi's tree, in Pi's format.

Its header names provider and model, which Pi's does not: by that each conversation is told by one of the two.
One that either began and the other went on with stays with who began it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sessiond.adapters.pi import Adapter as Pi
from sessiond.adapters.pi.files import Header
from sessiond.model.agent_session import Problem
from sessiond.ports.discovery import Told


class Adapter(Pi):
    """The conversations in Pi's tree that the port began."""

    name = "pi-rust"
    title = "Pi (Rust)"
    program = "pi-rust"
    verified = ""
    # It takes no id of the caller's choice.
    abilities = frozenset({"launch", "print", "resume", "transcript", "model"})

    def mine(self, header: Header) -> bool:
        """Its header names the model."""
        return header.of_port

    def discover(self, changed: Collection[str] | None) -> Iterator[Told]:
        """Trouble with files of no conversation of its own is Pi's to tell."""
        for told in super().discover(changed):
            if not isinstance(told, Problem) or told.path in self._rows or told.path in self._closed:
                yield told
