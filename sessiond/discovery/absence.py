"""The process of an adapter whose program has no files here: it loads nothing and waits for them to come."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

from sessiond.discovery import wire
from sessiond.discovery.engine import BUSY, IDLE, Channel
from sessiond.discovery.watching import Watching
from sessiond.model.agent_session import Problem
from sessiond.ports.discovery import Watched


def wait(
    adapter: str, places: Sequence[str], channel: Channel, elsewhere: Callable[[], bool]
) -> list[wire.Asked]:
    """Tell that nothing is found; return when there may be something, or something is asked that needs the
    adapter, with the questions that are open. ``elsewhere`` says whether processes have files in further
    places, and is asked when somebody wants to know who lives. Raises HostGone."""
    asked = channel.receive()
    while not asked:
        asked = channel.receive()
    watching = Watching()
    try:
        # Watched before it is looked for: what comes between the two is then heard of.
        watching.watch([Watched(place) for place in places])
        rest = _answer(adapter, asked, places, watching, channel, elsewhere, whole=True)
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
                rest = _answer(adapter, channel.receive(), places, watching, channel, elsewhere)
        return [asked[0], *rest]
    finally:
        watching.close()


def _answer(
    adapter: str,
    asked: list[wire.Asked],
    places: Sequence[str],
    watching: Watching,
    channel: Channel,
    elsewhere: Callable[[], bool],
    *,
    whole: bool = False,
) -> list[wire.Asked] | None:
    """Answer what can be answered without anything being there; otherwise the questions that are left."""
    channel.send(BUSY)
    if whole:
        if _needed(asked[0].question) or _there(places) or elsewhere():
            return asked[1:]
        problems = [Problem(adapter, "watch_limited", why, path) for path, why in watching.problems.items()]
        channel.send(wire.frame(wire.Told(whole=True, problems=problems, checked=True)))
        asked = asked[1:]
    for number, one in enumerate(asked):
        looks = isinstance(one.question, wire.Look | wire.Refresh)
        if _needed(one.question) or _there(places) or (looks and elsewhere()):
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
