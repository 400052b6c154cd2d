"""Follows the files that agents without a terminal print to: notes times, keeps bounds, passes lines on.

The init system opens the files and the programs write them, so nothing is lost while nobody follows; how
far lines were passed on is in the index, and whoever follows next goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Protocol

from asyncinotify import Inotify, Mask, Watch

from sessiond.agents.bounds import GROWTH, LEAST, FreeDisk, RecordLimits, cut_front, over_total, slack
from sessiond.agents.faults import fault, open_file
from sessiond.agents.folder import AgentFolder
from sessiond.agents.holes import NoPunching
from sessiond.agents.index import Entry, IndexWriter, Kind, Reason, Slot, Stream, now
from sessiond.agents.reading import RecordFacts
from sessiond.aio import Pulse
from sessiond.errors import NotFound

log = logging.getLogger(__name__)

# A longer line is passed on in parts: the journal would cut it there.
PART = 48 << 10

# The files are looked at at most every so many seconds, whatever is written.
_PAUSE = 0.01
# Until a line is offered again that there was no room for.
_ROOM = 0.002
# Seconds without room for a single line, and in all, after which what an agent left is no longer offered: the
# journal itself takes no more than some hundred lines a second for long, and its end waits for this.
_STUCK = 5.0
_LONGEST = 10.0
# What may be passed on of one file before the loop turns.
_TURN_BYTES = 256 << 10
_TURN_LINES = 200
_EVENTS = 1024

_START = {Stream.STDOUT: Slot.STDOUT_START, Stream.STDERR: Slot.STDERR_START}
_FORWARDED = {Stream.STDOUT: Slot.STDOUT_FORWARDED, Stream.STDERR: Slot.STDERR_FORWARDED}

Forward = Callable[[str, str, bytes], bool | None]


class _Named(Protocol):
    """What is needed of an agent's spec."""

    @property
    def id(self) -> str: ...


@dataclass(slots=True)
class _File:
    """One of an agent's two files."""

    stream: Stream
    fd: int
    watch: Watch | None
    start: int
    forwarded: int
    # How much was seen, and how much there was at most: a program can cut its own output.
    seen: int = 0
    end: int = 0

    def look(self) -> int:
        """Notice how much there is; returns the growth."""
        size = os.fstat(self.fd).st_size
        if size < self.forwarded:
            self.forwarded = size
        grown, self.seen = size - self.seen, size
        self.end = max(self.end, size)
        return max(0, grown)


@dataclass(slots=True)
class _Followed:
    """One agent that is followed."""

    agent: str
    folder: AgentFolder
    index: IndexWriter
    files: list[_File]
    free: FreeDisk
    stack: ExitStack
    pulse: Pulse = field(default_factory=Pulse)
    problem: Reason = Reason.NONE
    can_punch: bool = True
    # There was no room for a line that was offered.
    blocked: bool = False

    @property
    def behind(self) -> bool:
        """Whether there is something that was not looked at for lines."""
        return any(file.forwarded < file.seen for file in self.files)


class Outputs:
    """The files of all agents without a terminal of one session.

    ``forward`` is called with the agent's id, `stdout` or `stderr`, and a line without its newline; where it
    returns False there is no room for it just now, and it is offered again: the file keeps it meanwhile.
    """

    def __init__(self, limits: RecordLimits, forward: Forward) -> None:
        self._limits = limits
        self._forward = forward
        self._followed: dict[str, _Followed] = {}
        self._watched: dict[int, str] = {}
        self._inotify: Inotify | None = None
        self._due: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._listening = False
        self._told = False

    # ---- opening

    def open(self, spec: _Named, folder: AgentFolder) -> None:
        """Create or reopen an agent's files and follow them. Raises Exhausted `disk_full`,
        PermissionDenied `state_denied`."""
        if spec.id in self._followed:
            return
        with ExitStack() as stack:
            try:
                index = IndexWriter(folder.index)
            except OSError as error:
                raise fault(error, folder.index, "opened") from error
            stack.callback(index.close)
            files = [self._open_file(stream, folder, index, stack, spec.id) for stream in _START]
            index.rewind(lambda entry: all(entry.at(one.stream) <= one.end for one in files))
            self._followed[spec.id] = _Followed(
                spec.id, folder, index, files, FreeDisk(self._limits.low_disk), stack.pop_all()
            )
        self._recover(self._followed[spec.id])
        self._plan(spec.id)

    def _open_file(
        self, stream: Stream, folder: AgentFolder, index: IndexWriter, stack: ExitStack, agent: str
    ) -> _File:
        path = folder.path / stream.value
        try:
            # The program's own descriptor appends; ours reads and drops the front.
            fd = open_file(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise fault(error, path, "opened") from error
        stack.callback(os.close, fd)
        size = os.fstat(fd).st_size
        reader = index.reader
        start = min(reader.value(_START[stream]), size)
        forwarded = max(min(reader.value(_FORWARDED[stream]), size), start)
        watch = self._watch(str(path), agent)
        if watch is not None:
            stack.callback(self._unwatch, watch)
        return _File(stream, fd, watch, start, forwarded, size, size)

    def _recover(self, one: _Followed) -> None:
        """Note what came while nobody followed: when the files were last written, oldest first."""
        last = one.index.last
        noted = {file.stream: 0 if last is None else last.at(file.stream) for file in one.files}
        late = [file for file in one.files if file.end > noted[file.stream]]
        for file in sorted(late, key=lambda file: os.fstat(file.fd).st_mtime_ns):
            noted[file.stream] = file.end
            written = os.fstat(file.fd).st_mtime_ns // 1000
            one.index.add(Entry(Kind.DATA, written, noted[Stream.STDOUT], noted[Stream.STDERR]))

    def _watch(self, path: str, agent: str) -> Watch | None:
        try:
            if self._inotify is None:
                self._inotify = Inotify(sync_timeout=0)
            watch = self._inotify.add_watch(path, Mask.MODIFY | Mask.DONT_FOLLOW)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "output of agents is looked at only when they end (%s): "
                    "raise fs.inotify.max_user_instances or max_user_watches",
                    error.strerror,
                )
            return None
        self._watched[watch.wd] = agent
        self._listen(on=True)
        return watch

    def _unwatch(self, watch: Watch) -> None:
        self._watched.pop(watch.wd, None)
        if self._inotify is not None:
            # It is gone by itself where its file was deleted.
            with suppress(OSError, ValueError):
                self._inotify.rm_watch(watch)

    # ---- hearing

    def _listen(self, *, on: bool) -> None:
        if self._inotify is None or on == self._listening:
            return
        self._listening = on
        loop = asyncio.get_running_loop()
        if on:
            loop.add_reader(self._inotify.fd, self._heard)
        else:
            loop.remove_reader(self._inotify.fd)

    def _heard(self) -> None:
        """Look at what was written to, and then for a moment at nothing."""
        self._collect()
        self._work()
        if self._timer is None:
            # What is written meanwhile waits for the pause's end, and is one event then.
            self._listen(on=False)
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._paused)

    def _collect(self) -> None:
        """Take what the kernel tells, a bounded part of it."""
        if self._inotify is None:
            return
        for _ in range(_EVENTS):
            event = self._inotify.sync_get()
            if event is None:
                break
            if event.mask & Mask.Q_OVERFLOW:
                self._due.update(dict.fromkeys(self._followed))
            elif event.watch is not None and (agent := self._watched.get(event.watch.wd)) is not None:
                self._due[agent] = None

    def _paused(self) -> None:
        self._timer = None
        # Also heard while one agent has more to pass on: it holds up no other.
        self._collect()
        self._work()
        if self._timer is None:
            self._listen(on=True)

    def _plan(self, agent: str) -> None:
        """Have an agent looked at in the next turn of the loop, or when there may be room again."""
        self._due[agent] = None
        if self._timer is None:
            self._listen(on=False)
            delay = _ROOM if self._followed[agent].blocked else 0.0
            self._timer = asyncio.get_running_loop().call_later(delay, self._paused)

    def _work(self) -> None:
        """Look once at each agent that is due; who has more waits until the loop has turned."""
        due, self._due = self._due, {}
        behind = [agent for agent in due if agent in self._followed and self._look(self._followed[agent])]
        for agent in behind:
            self._plan(agent)

    # ---- working

    def _look(self, one: _Followed) -> bool:
        """Note, bound and pass on a part of what came; whether there is more."""
        grown = sum(file.look() for file in one.files)
        if grown:
            one.index.note(*(file.end for file in one.files))
            self._bound(one, grown)
            one.pulse.fire()
        return self._pass_on(one)

    def _bound(self, one: _Followed, grown: int) -> None:
        held = sum(file.end - file.start for file in one.files)
        drop = 0
        over = held - self._limits.limit
        if over > 0:
            drop = over + slack(self._limits.limit)
        if GROWTH.add(grown):
            drop = max(drop, min(over_total(one.folder.path, self._limits.total), held - LEAST))
        low = one.free.is_low(one.files[0].fd, grown)
        if low:
            # The program cannot be kept from writing: what it wrote gives way.
            drop = max(drop, held - LEAST)
        if low != (one.problem is Reason.DISK_LOW):
            one.problem = Reason.DISK_LOW if low else Reason.NONE
            log.warning("%s: the disk %s", one.folder.path, "is nearly full" if low else "has room again")
        if drop > 0:
            self._drop(one, drop)

    def _drop(self, one: _Followed, count: int) -> None:
        """Drop so many bytes at the fronts, of the larger file first."""
        if not one.can_punch:
            return
        for file in sorted(one.files, key=lambda file: file.start - file.end):
            before = file.start
            part = min(count, file.end - before)
            try:
                file.start = cut_front(file.fd, one.index, _START[file.stream], before, before + part)
            except (NoPunching, OSError) as error:
                one.can_punch = False
                one.index.put(_START[file.stream], before)
                log.warning(
                    "output of agent %s grows without a bound: the front of %s cannot be dropped (%s)",
                    one.agent,
                    one.folder.path / file.stream,
                    getattr(error, "strerror", None) or "the file system cannot do it",
                )
                return
            GROWTH.add(before - file.start)
            count -= part
        reader = one.index.reader
        one.index.trim(min(reader.after(file.stream, file.start) for file in one.files))

    def _pass_on(self, one: _Followed, *, all_of_it: bool = False) -> bool:
        """Pass on lines; whether whole ones are left. With ``all_of_it`` also a last one without its end."""
        left = one.blocked = False
        for file in one.files:
            before = file.forwarded
            if file.forwarded < file.start:
                log.warning(
                    "agent %s prints faster than the journal takes it: %d bytes of %s were not passed on",
                    one.agent,
                    file.start - file.forwarded,
                    file.stream,
                )
                file.forwarded = file.start
            left = self._pass_file(one, file, all_of_it=all_of_it) or left
            if file.forwarded != before:
                one.index.put(_FORWARDED[file.stream], file.forwarded)
        return left

    def _pass_file(self, one: _Followed, file: _File, *, all_of_it: bool) -> bool:
        """Pass on lines of one file; whether more can be passed on at once."""
        data = os.pread(file.fd, min(_TURN_BYTES, file.seen - file.forwarded), file.forwarded)
        at = count = 0
        while at < len(data) and count < _TURN_LINES:
            newline = data.find(b"\n", at, at + PART)
            if newline >= 0:
                part, following = data[at:newline], newline + 1
            elif len(data) - at >= PART:
                part, following = data[at : at + PART], at + PART
            elif all_of_it and file.forwarded + len(data) == file.seen:
                part, following = data[at:], len(data)
            else:
                break
            if self._forward(one.agent, file.stream.value, part) is False:
                one.blocked = True
                break
            count += 1
            at = following
        whole = at == len(data) or count < _TURN_LINES
        rest = file.seen - file.forwarded - len(data)
        file.forwarded += at
        return one.blocked or not whole or (rest > 0 and len(data) > 0)

    # ---- asking

    async def drained(self, agent: str) -> None:
        """Return when all that is in the files is noted and passed on, a last line without its end too.
        For an agent that no longer writes. What finds no room for long is given up, and told."""
        loop = asyncio.get_running_loop()
        began = moved = loop.time()
        place = -1
        while (one := self._followed.get(agent)) is not None:
            more = self._look(one)
            if not more:
                more = self._pass_on(one, all_of_it=True)
                if not more and not one.behind:
                    return
            now_at = sum(file.forwarded for file in one.files)
            if now_at != place:
                moved, place = loop.time(), now_at
            if loop.time() - moved > _STUCK or loop.time() - began > _LONGEST:
                self._give_up(one)
                return
            await asyncio.sleep(_ROOM if one.blocked else 0)

    def _give_up(self, one: _Followed) -> None:
        for file in one.files:
            if file.forwarded < file.seen:
                log.warning(
                    "%d bytes that agent %s wrote to %s were not passed on: the journal took too long",
                    file.seen - file.forwarded,
                    one.agent,
                    file.stream,
                )
                file.forwarded = file.seen
                one.index.put(_FORWARDED[file.stream], file.forwarded)

    def restarted(self, agent: str) -> None:
        """Mark that the program was started anew."""
        self._mark(agent, Kind.RESTARTED)

    def ended(self, agent: str) -> None:
        """Mark that the program has ended."""
        self._mark(agent, Kind.ENDED)

    def _mark(self, agent: str, kind: Kind) -> None:
        one = self._one(agent)
        self._look(one)
        ends = [file.end for file in one.files]
        one.index.add(Entry(kind, now(), ends[0], ends[1]))
        one.pulse.fire()

    def facts(self, agent: str) -> RecordFacts:
        """How much there is of both files, as far as it was noticed."""
        one = self._one(agent)
        if one.problem is not Reason.NONE and not one.free.is_low(one.files[0].fd, 0):
            one.problem = Reason.NONE
        return RecordFacts(
            sum(file.start for file in one.files), sum(file.end for file in one.files), one.problem.problem
        )

    def listen(self, agent: str) -> Pulse:
        """Fired when there is more, or when it is no longer followed."""
        return self._one(agent).pulse

    def _one(self, agent: str) -> _Followed:
        one = self._followed.get(agent)
        if one is None:
            raise NotFound(
                "record_gone",
                f"the output of agent {agent} is not followed",
                hint="it has ended; its output can be read from its files",
                fields={"agent": agent},
            )
        return one

    # ---- closing

    def close(self, agent: str) -> None:
        """Follow an agent no longer; its files stay. Idempotent."""
        one = self._followed.pop(agent, None)
        if one is not None:
            one.stack.close()
            one.pulse.fire()
        if not self._followed:
            self._quiet()

    async def stop(self) -> None:
        """Follow nothing any more; what was not passed on is when it is opened again. Idempotent."""
        for agent in list(self._followed):
            self.close(agent)
        self._quiet()

    def _quiet(self) -> None:
        """Let go of what listens; nothing wakes a daemon whose agents all have terminals."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._listen(on=False)
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()
        self._watched.clear()
