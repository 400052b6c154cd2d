"""Answers to what an adapter is asked: those that need nothing that was found, and how they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sessiond.adapters.reading.texts import shorten
from sessiond.discovery import wire
from sessiond.errors import SessiondError, Unreachable, Unsupported
from sessiond.model.agent_session import Probe, is_proper_id
from sessiond.ports.discovery import AgentAdapter


def describe(error: BaseException) -> str:
    """What was raised, and where, in one line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""
    # What is wrong may be told in the words of a file: they are logged, and shown.
    text = shorten(str(error).split("\n", 1)[0], 300)
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"


def answer(asked: wire.Asked, work: Callable[[wire.Question], Any]) -> bytes:
    """The frame that answers: what the work returns, or the error it raises."""
    try:
        result = work(asked.question)
        return wire.frame(wire.Answer(asked.number, wire.raw(result)))
    except SessiondError as error:
        return wire.frame(wire.refuse(asked.number, error))
    except Exception as error:  # noqa: BLE001  (Whatever an adapter raises is the answer to this one question.)
        return wire.frame(wire.refuse(asked.number, Unreachable("adapter_failed", describe(error))))


def answer_plainly(adapter: AgentAdapter, question: wire.Question) -> Any:
    """Answer what needs nothing that was found."""
    match question:
        case wire.Launch(wish):
            return adapter.launch(wish)
        case wire.Identify(line):
            found = adapter.identify(line)
            return found if found is not None and is_proper_id(found) else None
        case wire.Search(search_path):
            return _search(adapter, search_path)
    raise Unsupported("adapter_cannot", f"{type(question).__name__} needs what was found")


def _search(adapter: AgentAdapter, search_path: str) -> Probe:
    """Look for the program as a shell does."""
    import shutil  # Late: it loads every archive format, for what is seldom asked.

    path = shutil.which(adapter.program, path=search_path or None) if adapter.program else None
    return Probe(
        adapter=adapter.name,
        title=adapter.title,
        installed=bool(path),
        path=path or "",
        version=adapter.version(path) if path else "",
        verified=adapter.verified,
        abilities=tuple(sorted(adapter.abilities)),
        places=tuple(one.folder for one in adapter.watched()),
    )
