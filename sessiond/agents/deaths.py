"""Emulators that end their process: what of a record did it, so that it does not happen for ever.

The emulator is a native library, and what a program prints may end the process that it works in. While it is
at work, a mark in a file beside the record tells on what, and a lock on that file that somebody is; a mark
without a lock is what a death left. One death may have had any cause, such as a kill by hand. When the same
place of a record is the last thing that two processes did, that place is barred.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Protocol, runtime_checkable

from sessiond.agents.folder import AgentFolder
from sessiond.ports import Screen, ScreenText

log = logging.getLogger(__name__)

# Deaths at one place, and in a row at any, that are taken for the emulator's doing. A unit that fails for
# good would hang up every terminal of its session: systemd allows many times as many.
SAME, ANY = 2, 6
# Barred so often, a record is not tried again: it would end a process for each piece of its output.
OFTEN = 2
# After so many bytes more it is tried from behind the barred place: by then a program has drawn anew.
MOVED_ON = 1 << 20

_AT_WORK = 1
_MARK = struct.Struct("<BQQ")
_PREFIX = "emulator-"
_FILE_MAX = 4096


@runtime_checkable
class Dangerous(Protocol):
    """A maker of screens that may end the process, and that has a plain one to take its place."""

    @property
    def release(self) -> str:
        """Of the emulator: another one may do what this one does not."""
        ...

    def __call__(self, columns: int, rows: int, scrollback: int) -> Screen: ...

    def plain(self, columns: int, rows: int, scrollback: int) -> Screen:
        """A screen that is safe, and shows less."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What deaths have told of one record. ``begin`` and ``end`` are the offsets of the last one's work,
    ``same`` counts those at that place, ``deaths`` all in a row; what comes before ``beyond`` is barred,
    for the ``barred``-th time."""

    release: str = ""
    begin: int = 0
    end: int = 0
    same: int = 0
    deaths: int = 0
    barred: int = 0
    beyond: int = 0

    def after(self, begin: int, end: int) -> Verdict:
        """With one death more."""
        here = self.same and begin <= self.end and self.begin <= end
        one = replace(self, begin=begin, end=end, same=self.same + 1 if here else 1, deaths=self.deaths + 1)
        if one.same < SAME and one.deaths < ANY:
            return one
        return replace(one, same=0, deaths=0, barred=one.barred + 1, beyond=max(one.beyond, end))

    def allows(self, offset: int) -> bool:
        """Whether an emulator may begin at an offset."""
        return not self.barred or (self.barred < OFTEN and offset >= self.beyond)

    def moved_on(self, end: int) -> bool:
        """Whether it may begin behind what is barred, now that the record ends there."""
        return self.barred < OFTEN and end - self.beyond >= MOVED_ON


def verdict_on(folder: AgentFolder, release: str) -> Verdict:
    """What is known of a record, the deaths since the last time among it."""
    before = verdict = _read(folder, release)
    for begin, end in _deaths(folder):
        verdict = verdict.after(begin, end)
    if verdict == before:
        return verdict
    _write(folder, verdict)
    if verdict.barred > before.barred:
        log.warning(
            "the terminal emulator ends its process at what agent %s printed before byte %d: "
            "its screen is plain text %s",
            folder.agent,
            verdict.beyond,
            "from now on" if verdict.barred >= OFTEN else "until it has printed more",
        )
    return verdict


def _read(folder: AgentFolder, release: str) -> Verdict:
    try:
        with folder.emulator.open("rb") as file:
            found = Verdict(**json.loads(file.read(_FILE_MAX)))
        numbers = (found.begin, found.end, found.same, found.deaths, found.barred, found.beyond)
        if found.release == release and all(type(one) is int and one >= 0 for one in numbers):
            return found
    except (OSError, ValueError, TypeError, RecursionError):
        # It is not there, or not whole: what ends processes will tell so again.
        pass
    return Verdict(release)


def _write(folder: AgentFolder, verdict: Verdict) -> None:
    draft = folder.emulator.with_name(".emulator-new")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(verdict), file)
        draft.replace(folder.emulator)
    except OSError as error:
        log.warning("deaths of the emulator are not noted in %s: %s", folder.path, error.strerror)


def _deaths(folder: AgentFolder) -> Iterator[tuple[int, int]]:
    """Where those were at work who did not come to say that they were done; each is told once."""
    try:
        names = sorted(name for name in os.listdir(folder.path) if name.startswith(_PREFIX))
    except OSError:
        return
    for name in names:
        path = folder.path / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = os.pread(fd, _MARK.size, 0)
            path.unlink(missing_ok=True)
        except OSError:
            # Its owner lives, or another looks after it.
            continue
        finally:
            os.close(fd)
        if len(mark) == _MARK.size:
            state, begin, end = _MARK.unpack(mark)
            if state == _AT_WORK and begin <= end:
                yield begin, end


class Watch:
    """Tells in a file what an emulator is at, for whoever comes after a death, until it is let go of."""

    def __init__(self, folder: AgentFolder) -> None:
        self._folder = folder
        self._path = folder.path / f"{_PREFIX}{secrets.token_hex(4)}"
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A full disk must keep nobody from a screen.
            log.debug("no mark of the emulator in %s: %s", folder.path, error.strerror)
            self._fd = -1

    @contextmanager
    def at(self, begin: int, end: int) -> Iterator[None]:
        """While the emulator is at work on these offsets of the record."""
        if self._fd < 0:
            yield
            return
        # Rewritten in place: no disk is too full for that, but those that copy what is written.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, _MARK.pack(_AT_WORK, begin, end), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, b"\0", 0)

    def close(self) -> None:
        """It was let go of in order, so that deaths before were others' doing. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        os.close(fd)

    def survived(self, verdict: Verdict) -> None:
        """All that ended processes before was gone through, and this one lives."""
        if verdict.deaths:
            _write(self._folder, replace(verdict, same=0, deaths=0))


class WatchedScreen:
    """A Screen whose work is marked; ``offset`` is that of the record's next byte."""

    def __init__(self, maker: Dangerous, verdict: Verdict, watch: Watch, offset: int, size: Size) -> None:
        self.offset = offset
        self._verdict = verdict
        self._watch = watch
        try:
            with watch.at(offset, offset):
                self._screen = maker(*size)
        except BaseException:
            watch.close()
            raise

    def feed(self, data: bytes) -> bytes:
        """See the port."""
        end = self.offset + len(data)
        with self._watch.at(self.offset, end):
            replies = self._screen.feed(data)
        self.offset = end
        return replies

    def resize(self, columns: int, rows: int) -> None:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            self._screen.resize(columns, rows)

    def drawing(self, scrollback: int = 0) -> bytes:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            return self._screen.drawing(scrollback)

    def write_down(self, form: str, scrollback: int = 0) -> ScreenText:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            return self._screen.write_down(form, scrollback)

    def encode_key(self, name: str) -> bytes:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            return self._screen.encode_key(name)

    def encode_paste(self, data: bytes) -> bytes:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            return self._screen.encode_paste(data)

    @property
    def size(self) -> tuple[int, int]:
        """See the port."""
        return self._screen.size

    def close(self) -> None:
        """See the port."""
        with self._watch.at(self.offset, self.offset):
            self._screen.close()
        if self.offset > self._verdict.end:
            self._watch.survived(self._verdict)
        self._watch.close()


Size = tuple[int, int, int]
