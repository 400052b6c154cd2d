"""The process of an adapter whose program has no files here: it loads nothing and waits for them to come."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from sessiond.discovery import wire
from sessiond.discovery.engine import BUSY, IDLE, Channel
from sessiond.discovery.watching import Watching
from sessiond.model.agent_session import Problem
from sessiond.ports.discovery import Watched


def wait(adapter: str, places: Sequence[str], channel: Channel) -> list[wire.Asked]:
    """Tell that nothing is found; return when there may be something, or something is asked that needs the
    adapter, with the questions that are open. Raises HostGone."""
    asked = channel.receive()
    while not asked:
        asked = channel.receive()
    watching = Watching()
    try:
        # Watched before it is looked for: what comes between the two is then heard of.
        watching.watch([Watched(place) for place in places])
        rest = _answer(adapter, asked, places, watching, channel, whole=True)
        while rest is None:
            poll = select.poll()
            for fd in (channel.fileno(), watching.fileno()):
                if fd >= 0:
                    poll.register(fd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll()}
            if watching.fileno() in ready:
                watching.read()
                if _there(places):
                    channel.send(BUSY)
                    rest = []
            if rest is None and channel.fileno() in ready:
                rest = _answer(adapter, channel.receive(), places, watching, channel)
        return [asked[0], *rest]
    finally:
        watching.close()


def _answer(
    adapter: str,
    asked: list[wire.Asked],
    places: Sequence[str],
    watching: Watching,
    channel: Channel,
    *,
    whole: bool = False,
) -> list[wire.Asked] | None:
    """Answer what can be answered without anything being there; otherwise the questions that are left."""
    channel.send(BUSY)
    if whole:
        if _needed(asked[0].question) or _there(places):
            return asked[1:]
        problems = [Problem(adapter, "watch_limited", why, path) for path, why in watching.problems.items()]
        channel.send(wire.frame(wire.Told(whole=True, problems=problems, checked=True)))
        asked = asked[1:]
    for number, one in enumerate(asked):
        if _needed(one.question) or _there(places):
            return asked[number:]
        channel.send(wire.frame(wire.Told(checked=True)), wire.frame(wire.Answer(one.number, wire.raw(None))))
    channel.send(IDLE)
    return None


def _needed(question: wire.Question) -> bool:
    """Whether the adapter is needed for it: where an agent of ours has a conversation open, it is found by
    its process."""
    if isinstance(question, wire.Own):
        return bool(question.agents)
    return not isinstance(question, wire.Refresh | wire.Look | wire.IsAlive)


def _there(places: Sequence[str]) -> bool:
    return any(map(os.path.lexists, places))
