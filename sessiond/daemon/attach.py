"""The hub of one terminal's clients: who sees what, whose size counts, and who answers the program."""

from __future__ import annotations

from collections.abc import Callable

from sessiond.daemon.keyboard import Keyboard
from sessiond.daemon.screens import QUICK, LiveScreen
from sessiond.daemon.viewer import Size, Viewer
from sessiond.errors import SessiondError
from sessiond.rpc._generated.v1 import agents_pb2 as pb


class Hub:
    """All clients of one terminal. ``resize`` changes the size of the terminal itself."""

    def __init__(
        self,
        screen: LiveScreen,
        keyboard: Keyboard,
        size: Size,
        policy: str,
        resize: Callable[[int, int], None],
        end: Callable[[], int],
        emptied: Callable[[], None],
    ) -> None:
        self.screen = screen
        self.keyboard = keyboard
        self.size = size
        self._policy = policy
        self._resize = resize
        self._end = end
        self._emptied = emptied
        # The one that was active last stands last.
        self._viewers: list[Viewer] = []

    @property
    def clients(self) -> int:
        """How many are attached."""
        return len(self._viewers)

    @property
    def _answerer(self) -> Viewer | None:
        return next((one for one in reversed(self._viewers) if not one.read_only), None)

    # ---- output

    def feed(self, data: bytes, before: int, after: int, lost: bytes) -> None:
        """Output came: it begins and ends at these offsets of the record; ``lost`` is in none."""
        seen = data + lost if lost else data
        for viewer in self._viewers:
            viewer.push(seen, after)
        self.screen.feed(data, before, answering=self._answerer is None, lost=lost)

    async def next(self, viewer: Viewer) -> pb.AttachAgentResponse:
        """What to tell a client next, as soon as there is something.

        Raises the error that ended its part.
        """
        while True:
            if viewer.error is not None:
                raise viewer.error
            if viewer.resized is not None:
                columns, rows = viewer.resized
                viewer.resized = None
                return pb.AttachAgentResponse(resized=pb.TerminalSize(columns=columns, rows=rows))
            if viewer.wants_screen:
                return await self._drawing(viewer)
            message = viewer.output()
            if message is not None:
                return message
            if viewer.last is not None:
                return viewer.last
            await viewer.woken()

    async def _drawing(self, viewer: Viewer) -> pb.AttachAgentResponse:
        scrollback = viewer.scrollback
        screen = await self.screen.get()
        # From here on within one turn of the loop: nothing comes between screen and output.
        cut = self.screen.cut()
        offset = self._end()
        columns, rows = self.size
        message = pb.AttachScreen(
            size=pb.TerminalSize(columns=columns, rows=rows), offset=offset - len(cut), behind=viewer.behind
        )
        # What comes while it is drawn follows it.
        viewer.drawn(cut, offset)
        if scrollback <= QUICK:
            message.data = screen.drawing(scrollback)
        else:
            message.data = await self.screen.deep(scrollback, lambda deep: deep.drawing(scrollback))
        return pb.AttachAgentResponse(screen=message)

    # ---- clients

    async def join(self, viewer: Viewer, policy: str) -> None:
        """Let a client in; ``policy`` changes whose size counts, empty leaves it."""
        self.screen.hold()
        try:
            # What came before is the emulator's to answer, what comes after the client's.
            await self.screen.get()
        except BaseException:
            self.screen.release()
            raise
        self._policy = policy or self._policy
        if viewer.read_only:
            self._viewers.insert(0, viewer)
        else:
            self._viewers.append(viewer)
        self._settle(viewer)

    def leave(self, viewer: Viewer) -> None:
        """A client has gone; idempotent."""
        if viewer in self._viewers:
            self._viewers.remove(viewer)
            self._settle(None)
            self.screen.release()
            if not self._viewers:
                self._emptied()

    def active(self, viewer: Viewer) -> None:
        """A client has done something at its terminal."""
        if viewer.read_only or viewer not in self._viewers or self._viewers[-1] is viewer:
            return
        self._viewers.remove(viewer)
        self._viewers.append(viewer)
        self._settle(viewer)

    def resized(self, viewer: Viewer, size: Size) -> None:
        """A client's terminal has a new size."""
        if viewer.read_only:
            return
        viewer.size = size
        self.active(viewer)
        self._settle(viewer)

    def end(self, message: pb.AttachAgentResponse | None, error: SessiondError | None = None) -> None:
        """The terminal is no more: tell all, after what they have not read yet."""
        for viewer in self._viewers:
            viewer.end(message, error)

    def _settle(self, cause: Viewer | None) -> None:
        """Have one client answer, and give the terminal the size that the policy asks for."""
        answerer = self._answerer
        for viewer in self._viewers:
            viewer.answers(viewer is answerer)
        size = self._wanted()
        if size is None or size == self.size:
            return
        self.size = size
        self._resize(*size)
        self.screen.resize(*size)
        for viewer in self._viewers:
            # Whose terminal already has that size has adapted what it shows by itself.
            if viewer is not cause or viewer.size != size:
                viewer.redraw(resized=size)

    def _wanted(self) -> Size | None:
        sizes = [one.size for one in self._viewers if one.size is not None]
        if not sizes or self._policy == "fixed":
            return None
        if self._policy == "smallest":
            return min(columns for columns, _ in sizes), min(rows for _, rows in sizes)
        return sizes[-1]
