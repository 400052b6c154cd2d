"""What one adapter's process does: sleeps until a file, a process or the host tells it something."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import msgspec

from sessiond.discovery import wire
from sessiond.discovery.answers import answer, answer_plainly, describe
from sessiond.discovery.lastgood import LastGood
from sessiond.discovery.lives import Lives, prove, settle
from sessiond.discovery.processes import LiveProcesses, read_stat
from sessiond.discovery.strangers import strangers
from sessiond.discovery.watching import Watching
from sessiond.errors import NotFound
from sessiond.model.agent_session import PROCESS, STOPPED, Found, Problem, is_proper_id
from sessiond.ports.discovery import AgentAdapter, Evidence, Gone, Processes

# Conversations in a frame: what the host decodes at a time.
_BATCH = 200
# Bounds of what one adapter may tell; beyond them something is wrong with it.
_FOUND_MAX = 100_000
_TOLD_MAX = 1_000_000
_PROBLEMS_MAX = 1_000
# Seconds between two signs that it gets on.
_SIGN = 0.25
# While something is written all the time, a step is followed by a pause so many times as long as itself,
# within these bounds. After a quiet time the first change is looked at immediately.
_REST = 9
_REST_LEAST, _REST_MOST = 0.05, 1.0
_READ = 1 << 18

BUSY = wire.frame(wire.Busy())
IDLE = wire.frame(wire.Idle())


class HostGone(Exception):
    """Nobody listens any more."""


class AdapterBroken(Exception):
    """The adapter raised what it must not; what it keeps is not trusted any more."""


class Channel:
    """The socket to the host, from inside."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames = wire.Frames()
        self._decoder = msgspec.msgpack.Decoder(wire.Asked)

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def send(self, *frames: bytes) -> None:
        """Say it. Raises HostGone."""
        try:
            self._socket.sendall(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError):
            raise HostGone from None

    def leave(self) -> None:
        """Say no more, and stay until the host has heard all: were this to end with questions unread, the
        kernel would take from the host what it was told last."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while self._socket.recv(_READ):
                pass

    def receive(self) -> list[wire.Asked]:
        """Wait for something, and return the questions that are complete. Raises HostGone."""
        try:
            data = self._socket.recv(_READ)
        except ConnectionResetError:
            data = b""
        if not data:
            raise HostGone
        return [self._decoder.decode(one) for one in self._frames.feed(data)]


def answer_only(adapter: AgentAdapter, channel: Channel) -> None:
    """Answer what needs nothing that was found, until the host has enough. Raises HostGone."""
    while True:
        for asked in channel.receive():
            channel.send(BUSY)
            channel.send(answer(asked, lambda question: answer_plainly(adapter, question)), IDLE)


class Engine:
    """Runs one adapter."""

    def __init__(
        self, adapter: AgentAdapter, channel: Channel, look: Callable[[], Processes] = LiveProcesses
    ) -> None:
        self._adapter = adapter
        self._channel = channel
        self._look = look
        self._watching = Watching()
        self._own: dict[str, str] = {}
        self._lives = Lives({})
        # What files tell, and beside it what was last made of it and told.
        self._files: dict[str, Found] = {}
        self._told: dict[str, tuple[Found, Found]] = {}
        self._problems: dict[str, Problem] = {}
        self._problems_told: list[Problem] | None = None
        # What is to be done: files that changed (None: all), and whether processes are to be looked at.
        self._changed: set[str] | None = set()
        self._due = False
        self._rest_until = 0.0
        self._signed = 0.0
        self._pidfds: dict[int, tuple[int, int]] = {}

    def run(self, asked: Sequence[wire.Asked] = ()) -> None:
        """Find, then follow what changes; ``asked`` was received before. Raises HostGone in the end,
        AdapterBroken."""
        while not asked:
            asked = self._channel.receive()
        try:
            self._begin(asked)
            while True:
                self._wait()
                if self._due and monotonic() >= self._rest_until:
                    self._step()
        finally:
            self._watching.close()
            for fd in self._pidfds:
                os.close(fd)
            self._pidfds.clear()

    def _begin(self, asked: Sequence[wire.Asked]) -> None:
        first = asked[0].question
        if isinstance(first, wire.Own):
            self._own = dict(first.agents)
            asked = asked[1:]
        self._step(whole=True)
        for one in asked:
            self._answer(one)

    def _wait(self) -> None:
        """Sleep until there is something, and take it up."""
        poll = select.poll()
        channel, watching = self._channel.fileno(), self._watching.fileno()
        for fd in (channel, watching, *self._pidfds):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        rest = max(0.0, self._rest_until - monotonic()) * 1000 if self._due else None
        ready = {fd for fd, _ in poll.poll(rest)}
        if watching in ready:
            self._drain()
        for fd in ready & self._pidfds.keys():
            self._end_of(fd)
        if channel in ready:
            for asked in self._channel.receive():
                self._answer(asked)

    def _end_of(self, fd: int) -> None:
        del self._pidfds[fd]
        os.close(fd)
        self._due = True

    def _drain(self) -> None:
        """Take up what the files tell, as far as it is there."""
        if self._watching.fileno() < 0:
            return
        changed = self._watching.read()
        if changed is None:
            self._changed = None
        elif self._changed is not None:
            self._changed |= changed
        if changed is None or changed:
            self._due = True

    # ---- steps

    def _step(self, *, whole: bool = False, anew: bool = False) -> None:
        """Look at files that changed (all with ``anew``) and at processes, and tell what is new (all with
        ``whole``)."""
        self._channel.send(BUSY)
        began = monotonic()
        try:
            if whole or anew:
                self._watch()
            changed, self._changed, self._due = self._changed, set(), False
            self._read(None if whole or anew else changed)
            self._settle()
            self._tell(whole=whole)
            self._follow()
        except HostGone:
            raise
        except Exception as error:
            reason = describe(error)
            self._channel.send(wire.frame(wire.Failed(reason)))
            raise AdapterBroken(reason) from error
        self._channel.send(IDLE)
        now = monotonic()
        self._rest_until = now + min(max(_REST * (now - began), _REST_LEAST), _REST_MOST)

    def _watch(self) -> None:
        """Have watched what the adapter reads, before it reads it."""
        watched = tuple(self._adapter.watched())
        if watched != self._watching.watched or self._watching.fileno() < 0 or self._watching.problems:
            self._watching.watch(watched)

    def _read(self, changed: Collection[str] | None) -> None:
        """Have the adapter read what changed; with None all."""
        if changed is None:
            files: dict[str, Found] = {}
            problems: dict[str, Problem] = {}
        elif changed:
            files, problems = self._files, self._problems
            problems.pop("", None)
            for path in changed & problems.keys():
                if not os.path.lexists(path):
                    del problems[path]
        else:
            return
        for count, told in enumerate(self._adapter.discover(changed)):
            self._sign()
            if isinstance(told, Found):
                if is_proper_id(told.id):
                    files[told.id] = told
                else:
                    place = f"id {told.id[:80]!r}"
                    problems[place] = Problem(
                        told.adapter, "file_malformed", "no conversation is so called", place
                    )
            elif isinstance(told, Gone):
                files.pop(told.id, None)
            elif isinstance(told, Problem):
                problems[told.path] = told
            else:
                problems.pop(told.path, None)
            if len(files) > _FOUND_MAX or count > _TOLD_MAX:
                raise OverflowError(f"it tells of more than {_FOUND_MAX} conversations")
        self._files, self._problems = files, problems

    def _settle(self) -> None:
        """Know who lives."""
        evidence, own, processes = self._evidence_everywhere()
        self._lives = settle(self._adapter, evidence, own, processes)
        self._lives.strangers = strangers(self._adapter, self._lives, evidence, self._files, processes)

    def _evidence_everywhere(self) -> tuple[Evidence, dict[str, str], Processes]:
        """The same, after what it shows to be read elsewhere was read."""
        told = self._evidence()
        if told[0].moved:
            self._watch()
            self._read(None)
            told = self._evidence()
        return told

    def _evidence(self) -> tuple[Evidence, dict[str, str], Processes]:
        processes = self._look()
        return self._adapter.evidence(processes), self._own, processes

    def _tell(self, *, whole: bool) -> None:
        """Tell what differs from what was told before."""
        rows = self._files | self._fileless() | self._lives.strangers
        good = LastGood(self._problems.values())
        changed = []
        for session, found in rows.items():
            life, trouble = self._lives.of(found), good.trouble(found.source)
            before = self._told.get(session)
            if (
                before is not None
                and before[0] is found
                and before[1].life == life
                and before[1].trouble == trouble
            ):
                continue
            row = replace(found, life=life, source="", trouble=trouble)
            if before is None or before[1] != row:
                changed.append(row)
            self._told[session] = (found, row)
        gone = [session for session in self._told if session not in rows]
        for session in gone:
            del self._told[session]
        batches = [changed[at : at + _BATCH] for at in range(0, len(changed), _BATCH)] or [[]]
        last = batches.pop()
        for batch in batches:
            self._channel.send(wire.frame(wire.Told(found=batch, more=True)))
        self._channel.send(
            wire.frame(
                wire.Told(found=last, gone=gone, whole=whole, problems=self._new_problems(), checked=True)
            )
        )

    def _fileless(self) -> dict[str, Found]:
        """Those that have written nothing yet, or whose files are gone, but that live."""
        found = {}
        for session, life in self._lives.known.items():
            if life.alive and session not in self._files:
                one = self._lives.fileless(self._adapter.name, session)
                before = self._told.get(session)
                found[session] = before[0] if before is not None and before[0] == one else one
        return found

    def _new_problems(self) -> list[Problem] | None:
        """All there are, or None where they are as before."""
        problems = list(self._problems.values())[:_PROBLEMS_MAX]
        name = self._adapter.name
        problems += [
            Problem(name, "watch_limited", reason, path)
            for path, reason in self._watching.problems.items()
            if path not in self._problems
        ][:_PROBLEMS_MAX]
        if problems == self._problems_told:
            return None
        self._problems_told = problems
        return problems

    def _sign(self) -> None:
        """Show that it gets on, now and then."""
        now = monotonic()
        if now - self._signed >= _SIGN:
            self._signed = now
            self._channel.send(BUSY)

    def _follow(self) -> None:
        """Hear of the end of every process that matters."""
        wanted = self._lives.processes()
        for fd, pair in list(self._pidfds.items()):
            if pair in wanted:
                wanted.discard(pair)
            else:
                del self._pidfds[fd]
                os.close(fd)
        for pid, start_time in wanted:
            try:
                fd = os.pidfd_open(pid)
            except ProcessLookupError:
                self._due = True
                continue
            stat = read_stat(pid)
            if stat is None or stat.start_time != start_time:
                os.close(fd)
                self._due = True
            else:
                self._pidfds[fd] = (pid, start_time)

    # ---- questions

    def _answer(self, asked: wire.Asked) -> None:
        self._channel.send(BUSY)
        question = asked.question
        self._drain()
        if isinstance(question, wire.Own):
            self._own = dict(question.agents)
            self._step()
        elif isinstance(question, wire.Refresh):
            self._step(anew=True)
        elif isinstance(question, wire.Look):
            self._step()
        elif isinstance(question, wire.IsAlive | wire.ReadTranscript | wire.Resume):
            self._catch_up(question.session)
        self._channel.send(answer(asked, self._result), IDLE)

    def _catch_up(self, session: str) -> None:
        """Know what can be known of this one."""
        if self._watching.problems:
            # Changes may have gone unheard.
            self._step(anew=True)
        elif self._due or session not in self._files:
            self._step()

    def _result(self, question: wire.Question) -> Any:
        match question:
            case wire.Own() | wire.Refresh() | wire.Look():
                return None
            case wire.IsAlive(session):
                return self._is_alive(session)
            case wire.ReadTranscript(session, tail):
                return self._adapter.transcript(self._known(session), tail)
            case wire.Resume(session, wish):
                return self._adapter.resume(self._known(session), wish)
        return answer_plainly(self._adapter, question)

    def _known(self, session: str) -> Found:
        if session.startswith(PROCESS):
            raise NotFound(
                "transcript_missing",
                f"{session} is a process, and which conversation of {self._adapter.title} it has open is "
                "not known",
                hint="its conversation is a row of its own once the program tells it",
                fields={"adapter": self._adapter.name, "id": session},
            )
        if session not in self._told:
            raise NotFound(
                "transcript_missing",
                f"{self._adapter.title} has no conversation {session!r}",
                hint="`sessionctl discovered -a` lists those there are",
                fields={"adapter": self._adapter.name, "id": session},
            )
        return self._told[session][1]

    def _is_alive(self, session: str) -> Found | None:
        """One held against files and processes anew."""
        if session not in self._told:
            return None
        found, row = self._told[session]
        if session in self._files:
            processes = self._look()
            life = prove(self._adapter.is_alive(row, processes), processes) or STOPPED
            if not life.alive:
                # Whether another process has it, or that one has another, only a look at all of them tells.
                everything = self._adapter.evidence(processes), self._own, processes
                life = settle(self._adapter, *everything).of(found)
            now = replace(row, life=life)
            if now != row:
                self._told[session] = (found, now)
                self._channel.send(wire.frame(wire.Told(found=[now])))
                if life.alive:
                    self._lives.known[session] = life
                    self._follow()
                row = now
        return row
