"""How a conversation is started or gone on with."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

import msgspec

from sessiond.adapters.claude_code.registry import is_id
from sessiond.adapters.reading.objects import decoded
from sessiond.adapters.starting import model_words, prompt_input, prompt_word
from sessiond.errors import InvalidArgument, Unsupported
from sessiond.model.agent_session import Plan, Wish

PROGRAM: Final = "claude"

# The kernel holds one argument to 128 KiB, its end included; some of it is left to who passes it on.
ARGUMENT_MAX: Final = 120 * 1024
# What the program itself takes from its standard input.
INPUT_MAX: Final = 10 * 1024 * 1024

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+\[\]-]{0,199}")
_MODELS: Final = "for example `opus`, `sonnet`, or a full name such as `claude-opus-4-5`"
_PRINT: Final = ("-p", "--output-format", "stream-json", "--verbose")


def plan_launch(wish: Wish) -> Plan:
    """A new one. Raises InvalidArgument `prompt_missing`, `prompt_invalid`, `prompt_too_large`,
    `model_invalid`, `id_invalid`."""
    chosen: tuple[str, ...] = ()
    if wish.id:
        chosen = ("--session-id", _uuid(wish.id))
    return _plan(wish, chosen, wish.id)


def plan_resume(session: str, parent: str, wish: Wish) -> Plan:
    """Go on with one. Raises as ``plan_launch``, and Unsupported `adapter_cannot` for a subagent."""
    if session.startswith("agent-") and parent:
        raise Unsupported(
            "adapter_cannot",
            f"{session} is a subagent: Claude Code goes on with it only through the conversation it is of",
            hint=f"go on with {parent}",
            fields={"agent_session": session, "parent": parent},
        )
    if not is_id(session) or session.startswith("-"):
        raise Unsupported("adapter_cannot", f"{session!r} is no id that Claude Code resumes")
    return _plan(wish, ("--resume", session), session)


def identify(line: str) -> str | None:
    """The id in a line of the output of print mode."""
    told = decoded(_LINE, line)
    return told.session_id if told and told.session_id and is_id(told.session_id) else None


class _Told(msgspec.Struct):
    session_id: str | None = None


_LINE: Final = msgspec.json.Decoder(_Told)


def _plan(wish: Wish, which: tuple[str, ...], id: str) -> Plan:
    program = wish.command or (PROGRAM,)
    options = which + model_words(wish.model, _MODEL.fullmatch, _MODELS)
    prompt = wish.prompt
    if wish.print:
        return Plan(
            (*program, *_PRINT, *options),
            input=prompt_input(prompt, INPUT_MAX),
            id=id,
            learn="" if id else "stdout",
        )
    words = ("--", prompt_word(prompt, most=ARGUMENT_MAX)) if prompt.strip() else ()
    return Plan((*program, *options, *words), id=id, learn="" if id else "files")


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidArgument(
            "id_invalid",
            f"{text[:80]!r} is no UUID, which Claude Code's ids are",
            hint="leave the id to sessiond",
        ) from error
