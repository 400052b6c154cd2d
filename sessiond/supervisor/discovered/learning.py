"""What is learnt of launches after them: ids that programs print, and what became of those over which a
supervisor or a session's daemon died."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sessiond.errors import InvalidArgument, NotFound, SessiondError
from sessiond.model.agent_session import PENDING, Key, Overlay
from sessiond.model.conversation import pending_mark, split_mark
from sessiond.rpc._generated.v1 import agents_pb2 as agents
from sessiond.supervisor.agents import AgentCalls
from sessiond.supervisor.directory import Directory
from sessiond.supervisor.discovered.known import Discovered
from sessiond.supervisor.forwarding import DaemonStatus

log = logging.getLogger(__name__)

# Ids of launches whose agent is not there yet begin so: they are kept, and shown to nobody.
_LAUNCH = "launch:"
# So much of an agent's output is searched for the id of its conversation.
_LEARN_MAX = 1 << 20
_LINE_MAX = 1 << 18
# So often in a row an adapter may fail at reading what an agent printed.
_FAILURES_MAX = 5
STDOUT = "stdout"


class Learning:
    """Follows each launch once, until its id is known or never will be."""

    def __init__(self, known: Discovered, calls: AgentCalls, directory: Directory) -> None:
        self._known = known
        self._calls = calls
        self._directory = directory
        self._followed: set[Key] = set()
        # Launches that are this process's own to complete.
        self.under_way: set[Key] = set()
        known.when_started(self._take_up)

    def _take_up(self) -> None:
        """Go on with what was not done when this process, or the finder, began."""
        for overlay in self._known.pending:
            self.follow(overlay)
        if self._known.half_launched:
            self._known.background.start(self.complete(), "launches that were broken off")

    # ---- launches that were broken off

    async def complete(self) -> None:
        """Enter the agents of launches that nobody could enter."""
        sessions = dict.fromkeys(one.session for one in self._known.half_launched)
        for session in sessions:
            book = await self._known.names.book(session)
            for overlay in self._known.half_launched:
                if overlay.session != session or overlay.key in self.under_way:
                    continue
                taken, digest = self._known.agents_of(session), _spec(overlay).get("digest", "")
                fitting = [
                    kept.spec.id
                    for kept in book.values()
                    if kept.spec.id not in taken
                    and overlay.launched_at is not None
                    and kept.spec.created >= overlay.launched_at
                    and digest_of(kept.spec.argv) == digest
                ]
                if fitting:
                    log.info("%s was launched as agent %s", overlay.adapter, fitting[0])
                    await self.entered(overlay, session, fitting[0])

    async def complete_later(self, overlay: Overlay) -> None:
        """The same for one over which its session's daemon died: now, or once that is back."""
        await self.complete()
        held = self._known.overlay(overlay.key)
        if held is None or held.agent:
            return
        try:
            async with self._calls.daemon(overlay.session):
                pass
        except SessiondError as error:
            log.info("what became of a launch is looked for in its files: %s", error.message)
        await self.complete()

    async def entered(self, overlay: Overlay, session: str, agent: str) -> Overlay:
        """Keep which agent a launch became, and learn its id where that is not known; what is kept then."""

        def with_agent(held: Overlay) -> Overlay:
            return replace(held, session=session, agent=agent, missing_since=None)

        if not overlay.id.startswith(_LAUNCH):
            return await self._known.change(overlay.key, with_agent)
        launched = replace(with_agent(overlay), id=f"{PENDING}{session}-{agent}")
        await self._known.put_overlay(launched, instead_of=overlay.key)
        self.follow(launched)
        return launched

    # ---- ids that are told later

    def follow(self, overlay: Overlay) -> None:
        """Learn the id of one from what its agent prints, where its program tells it there."""
        if overlay.key in self._followed or _spec(overlay).get("learn") != STDOUT:
            return
        if not pending_mark(overlay.id):
            return
        self._followed.add(overlay.key)
        work = self._learn(overlay)
        self._known.background.start(work, f"id of {overlay.adapter}'s conversation in {overlay.mark}")

    async def _learn(self, overlay: Overlay) -> None:
        """Read what the agent prints until it tells the id; it is read again where that breaks off."""
        failures = 0
        try:
            while self._waits(overlay) and failures < _FAILURES_MAX:
                daemons, adapters = self._directory.changed.next, self._known.changed.next
                try:
                    found, over = await self._told(overlay)
                except (SessiondError, DaemonStatus) as fault:
                    error = fault.error() if isinstance(fault, DaemonStatus) else fault
                    log.info("what %s prints cannot be read: %s", overlay.mark, error.message)
                    if isinstance(error, NotFound | InvalidArgument):
                        return
                    # A daemon that went away has a next life, which the init system tells.
                    if error.code.startswith("adapter_"):
                        failures += 1
                        await adapters.wait()
                    else:
                        await daemons.wait()
                    continue
                if found is not None:
                    await self._name(overlay, found)
                    return
                if over:
                    if self._waits(overlay):
                        log.warning("%s in %s does not tell its id", overlay.adapter, overlay.mark)
                        # It may have ended, which no adapter tells.
                        await self._known.look_at_agents()
                    return
                await daemons.wait()
        finally:
            self._followed.discard(overlay.key)

    def _waits(self, overlay: Overlay) -> bool:
        return self._known.overlay(overlay.key) is not None

    async def _name(self, overlay: Overlay, conversation: str) -> None:
        held = self._known.overlay(overlay.key)
        if held is not None:
            await self._known.put_overlay(replace(held, id=conversation), instead_of=overlay.key)

    async def _told(self, overlay: Overlay) -> tuple[str | None, bool]:
        """The id, and whether nothing more of it can come."""
        session, agent = split_mark(overlay.mark)
        request = agents.StreamRecordRequest(
            session=session, agent=agent, stream=agents.OUTPUT_STREAM_STDOUT, follow=True
        )
        rest, seen = bytearray(), 0
        async with aclosing(self._calls.record(request.SerializeToString(), None)) as messages:
            async for raw in messages:
                message = agents.StreamRecordResponse.FromString(raw)
                seen += len(message.data)
                over = message.HasField("ended") or seen > _LEARN_MAX
                *ends, begin = message.data.split(b"\n")
                lines = []
                for end in ends:
                    lines.append(bytes(rest + end))
                    rest.clear()
                # Of a longer line the beginning counts.
                rest += begin[: _LINE_MAX - len(rest)]
                if over:
                    lines.append(bytes(rest))
                for line in lines:
                    text = line[:_LINE_MAX].decode(errors="replace")
                    if text.strip() and (found := await self._known.finder.identify(overlay.adapter, text)):
                        return found, True
                if over or not self._waits(overlay):
                    return None, True
        # It broke off: an agent's end is told.
        return None, False


def launch_id() -> str:
    """What a launch is kept as whose id is not known, until there is an agent of it."""
    return f"{_LAUNCH}{uuid.uuid4().hex}"


def digest_of(command: Sequence[str]) -> str:
    """What tells a command line from others."""
    return hashlib.sha256("\0".join(command).encode("utf-8", "surrogatepass")).hexdigest()


def _spec(overlay: Overlay) -> Mapping[str, Any]:
    try:
        spec = json.loads(overlay.spec or "{}")
    except ValueError:
        return {}
    return spec if isinstance(spec, dict) else {}
