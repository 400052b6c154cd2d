"""One client that looks at a terminal: what waits for it, and never more than a bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb
from sessiond.terminal.queries import QueryFilter

# A client that leaves more than this unread, and for so many seconds, is sent the screen instead: a flood
# brings a megabyte within the time in which a client that keeps up is not given a processor, and what is
# shown a tenth of a second late is seen to be late.
BEHIND = 1 << 20
_LAG = 0.1
# What is never exceeded: what a flood brings within that time.
MOST = 16 << 20
# One message; what comes within a turn of the loop is sent together.
MESSAGE = 256 * 1024

Size = tuple[int, int]


class Viewer:
    """What one client is to be told next. The hub fills it, the client's own stream empties it."""

    def __init__(self, *, read_only: bool, size: Size | None, scrollback: int) -> None:
        self.read_only = read_only
        self.size = None if read_only else size
        # Lines before the next screen; asked for once.
        self.scrollback = scrollback
        self.wants_screen = True
        self.behind = False
        self.resized: Size | None = None
        self.last: pb.AttachAgentResponse | None = None
        self.error: SessiondError | None = None
        self.left = False
        self._raw = False
        self._filter: QueryFilter | None = None
        # With the time at which it came.
        self._queue: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._offset = 0
        self._wake = asyncio.Event()

    def push(self, data: bytes, offset: int) -> None:
        """Output that ends at an offset of the record."""
        if self.wants_screen or self.left:
            # The screen will show it, or nobody will look.
            return
        if not self._raw:
            if self._filter is None:
                self._filter = QueryFilter()
            data = self._filter.feed(data)
        self._offset = offset
        if not data:
            return
        size = self._bytes + len(data)
        now = time.monotonic()
        if size > MOST or (size > BEHIND and self._queue and now - self._queue[0][0] > _LAG):
            self.redraw(behind=True)
            return
        self._queue.append((now, data))
        self._bytes = size
        self._wake.set()

    def answers(self, yes: bool) -> None:
        """Whether its own terminal is the one that answers device queries: it alone gets to see them."""
        if yes == self._raw:
            return
        self._raw = yes
        if self._filter is not None:
            held = self._filter.flush()
            self._filter = None
            if held and not self.wants_screen:
                self._queue.append((time.monotonic(), held))
                self._bytes += len(held)
                self._wake.set()

    def redraw(self, *, behind: bool = False, resized: Size | None = None) -> None:
        """Send the screen as it is when the client reads again, instead of what waits."""
        self.wants_screen = True
        self.behind = self.behind or behind
        self.resized = resized or self.resized
        self._queue.clear()
        self._bytes = 0
        self._filter = None
        self._wake.set()

    def drawn(self, cut: bytes, offset: int) -> None:
        """The screen was drawn; what follows it begins with ``cut``, which ends at ``offset``."""
        self.wants_screen = False
        self.behind = False
        self.scrollback = 0
        self._offset = offset
        if cut:
            self.push(cut, offset)

    def end(self, last: pb.AttachAgentResponse | None = None, error: SessiondError | None = None) -> None:
        """Nothing follows but this."""
        self.last = self.last or last
        self.error = self.error or error
        self._wake.set()

    def leave(self) -> None:
        """The client has said its last: it is told no more than a screen that it waits for."""
        if self.last is not None:
            return
        self.left = True
        self._queue.clear()
        self._bytes = 0
        self.end(pb.AttachAgentResponse())

    def output(self) -> pb.AttachAgentResponse | None:
        """The next message of output, None where nothing waits."""
        if not self._queue:
            return None
        data = self._queue.popleft()[1]
        if self._queue and len(data) < MESSAGE:
            parts, size = [data], len(data)
            while self._queue and size + len(self._queue[0][1]) <= MESSAGE:
                parts.append(self._queue.popleft()[1])
                size += len(parts[-1])
            data = b"".join(parts)
        self._bytes -= len(data)
        return pb.AttachAgentResponse(
            output=pb.AttachOutput(data=data, offset=max(0, self._offset - self._bytes))
        )

    async def woken(self) -> None:
        """Return when something waits, or did since the last call."""
        await self._wake.wait()
        self._wake.clear()
