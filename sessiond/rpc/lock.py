"""The lock on a socket's name, apart from gRPC so that it can be taken before gRPC is loaded."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from sessiond.errors import Conflict


class SocketLock:
    """Holds a socket's name for one process: gRPC would bind over a live socket without a word."""

    def __init__(self, path: Path, holder: str) -> None:
        self._path = path
        self._holder = holder
        self._fd = -1

    def __enter__(self) -> Self:
        """Take it, or raise Conflict `already_running`."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise Conflict(
                "already_running",
                f"{self._holder} is running already: another process holds {self._path}",
                hint="it goes on undisturbed; `sessionctl status` shows it",
                fields={"path": str(self._path)},
            ) from error
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give it back; the file stays, since removing it would let two processes hold one name."""
        os.close(self._fd)
