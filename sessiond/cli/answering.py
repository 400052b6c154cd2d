"""What `--print` prints: the answer as text once the agent has ended; where none can be read, its output."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sessiond.cli import render
from sessiond.cli.agents import shown_name, stay_until_end
from sessiond.errors import ErrorKind, SessiondError

if TYPE_CHECKING:
    from sessiond.cli.app import App

# Messages that are read for an answer, and if its prompt is not among them, once more.
_TAILS = (100, 1000)
# As much of one message as adapters tell.
_TEXT_MAX = 20_000
# A program that has ended told its id long ago: what remains is to have read it.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Said:
    """The end of a conversation; ``messages`` begins with its last prompt where that is near enough."""

    conversation: Any
    messages: list[Any]
    prompts: int
    has_more: bool
    whole: bool

    def follows(self, before: Said | None) -> bool:
        """Whether something was asked since."""
        if before is None:
            return True
        if not (before.has_more or self.has_more) and self.prompts != before.prompts:
            return True
        return _stamp(self) != _stamp(before)


def _stamp(said: Said) -> tuple[str, int] | None:
    if not said.whole:
        return None
    return said.messages[0].text, said.messages[0].time.ToNanoseconds()


def said_so_far(app: App, word: str) -> Said | None:
    """How a conversation ends now; None where it has no transcript yet."""
    try:
        return _read(app, word)
    except SessiondError as error:
        # One that has none, or an adapter that cannot read them.
        if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.UNSUPPORTED):
            return None
        raise


def _read(app: App, word: str) -> Said:
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    for tail in _TAILS:
        request = pb.ReadTranscriptRequest(agent_session=word, tail=tail)
        told = app.supervisor.call(app.supervisor.discovery.ReadTranscript, request)
        messages = list(told.messages)
        prompts = [index for index, one in enumerate(messages) if one.role == "user"]
        if prompts or not told.has_more:
            break
    start = prompts[-1] if prompts else 0
    return Said(told.agent_session, messages[start:], len(prompts), told.has_more, whole=bool(prompts))


def stay_for_answer(app: App, made: Any, before: Said | None = None) -> None:
    """Stay with an agent that answers one prompt, print the answer when it has ended, and take its exit code.

    What it prints on stderr is shown as it comes, and with --json everything in one object at the end.
    ``before`` is how a conversation that is gone on with ended: an old answer is not shown for a new one.
    """
    from sessiond.cli.terminal import stream_plain

    one = made.agent
    agent = stay_until_end(app, one, lambda: stream_plain(app, one.session, one.id, stdout=False))
    if agent is None:
        return
    name = shown_name(agent)
    said, trouble = _answer(app, made, before, patient=not app.exit_code)
    if app.json:
        _print_object(app, made, agent, said)
        return
    if said is None:
        app.note(f"No answer of {name} could be read ({render.plain(trouble)}); this is what it printed:")
        asyncio.run(_copy_output(app, made.agent))
    else:
        _print_answer(app, name, said)
    if app.exit_code:
        reason = agent["reason"] or f"it ended with {app.exit_code}"
        app.note(f"{name}: {render.plain(reason)}")


# ---- reading --------------------------------------------------------------------------------


def _answer(app: App, made: Any, before: Said | None, *, patient: bool) -> tuple[Said | None, str]:
    """What was said since the prompt, or why that is not known."""
    try:
        found = _identified(app, made, patient=patient)
        if found is None:
            return None, "its program did not tell which conversation it is"
        said = _read(app, f"{found.adapter}:{found.id}")
    except SessiondError as error:
        return None, error.message
    if not said.follows(before) or not any(map(_is_answer, said.messages)):
        return None, "nothing was answered"
    return said, ""


def _identified(app: App, made: Any, *, patient: bool) -> Any | None:
    """The conversation, once its id is known; None where it is not known by now, or after a while."""
    from sessiond.model.agent_session import PENDING
    from sessiond.rpc._generated.v1 import discovery_pb2 as pb

    told = made.agent_session
    if not told.id.startswith(PENDING):
        return told
    wanted = pb.AgentSessionFilter(adapters=[told.adapter], session=made.agent.session, include_stopped=True)
    request = pb.WatchAgentSessionsRequest(filter=wanted)
    changes = app.supervisor.stream(app.supervisor.discovery.WatchAgentSessions, request, timeout=_PATIENCE)
    try:
        for change in changes:
            one = change.agent_session
            if one.agent == made.agent.id and not one.id.startswith(PENDING):
                return one
            if change.HasField("current") and not patient:
                return None
    except SessiondError as error:
        if error.code != "call_timeout":
            raise
    finally:
        changes.close()  # type: ignore[attr-defined]
    return None


def _is_answer(message: Any) -> bool:
    return bool(message.role == "assistant" and message.text.strip())


async def _pieces(app: App, agent: Any) -> Any:
    """All that is kept of an agent's standard output."""
    from sessiond.cli.route import Route
    from sessiond.cli.stream import Follower
    from sessiond.rpc._generated.v1 import agents_pb2 as pb

    follower = Follower(Route(app, agent.session, agent.id), pb.OUTPUT_STREAM_STDOUT, follow=False)
    async with aclosing(follower.pieces()) as pieces:
        async for piece in pieces:
            if piece.HasField("data"):
                yield piece.data


# ---- telling --------------------------------------------------------------------------------


def _print_answer(app: App, name: str, said: Said) -> None:
    from sessiond.cli.conversation import readable

    texts = [one.text.strip("\n") for one in said.messages if _is_answer(one)]
    text = "\n\n".join(texts)
    if sys.stdout is not None and sys.stdout.isatty():
        # Nothing that a model writes moves the cursor or sets a title here.
        text = readable(text)
    app.print(text)
    if not said.whole:
        app.note(f"The beginning is left out; all of it: sessionctl output {name}")
    if any(one.cut and len(one.text) >= _TEXT_MAX for one in said.messages if _is_answer(one)):
        app.note(f"The answer is longer than what is shown; all of it: sessionctl output {name}")


async def _copy_output(app: App, agent: Any) -> None:
    from sessiond.cli.outlet import Outlet

    app.flush()
    out = Outlet(1)
    try:
        async with aclosing(_pieces(app, agent)) as pieces:
            async for data in pieces:
                await out.write(data)
    finally:
        out.close()


def _print_object(app: App, made: Any, agent: dict[str, Any], said: Said | None) -> None:
    from sessiond.cli.conversation import conversation_object, message_object

    async def output() -> str:
        async with aclosing(_pieces(app, made.agent)) as pieces:
            return b"".join([data async for data in pieces]).decode(errors="replace")

    app.print_json(
        {
            "agent": agent,
            "agent_session": conversation_object(app, said.conversation if said else made.agent_session),
            "messages": [message_object(one) for one in said.messages] if said else [],
            "output": None if said else asyncio.run(output()),
        }
    )
