"""The last messages of a conversation that is a file of lines, read from its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

from sessiond.adapters.reading.ends import LINES_MAX, malformed, read_back
from sessiond.errors import NotFound
from sessiond.model.agent_session import Found, Message, Transcript

# How much of a file's end is looked at: first so much, then four times as much, up to the most.
FIRST: Final = 256 * 1024
MOST: Final = 16 * 1024 * 1024

Read = Callable[[bytes], Iterable[Message] | None]


def last_messages(found: Found, path: str, tail: int, read: Read) -> Transcript:
    """The last ``tail`` messages; of a file without end those in its last 16 MB. ``read`` makes a line into
    messages, and a broken one into None. Raises NotFound `transcript_missing`."""
    window = FIRST
    while True:
        try:
            size = os.stat(path).st_size
            raw = read_back(path, size, window)
        except OSError as error:
            raise NotFound(
                "transcript_missing",
                f"cannot read {path}: {error.strerror}",
                hint="sessionctl discovered --errors tells more",
                fields={"id": found.id, "path": path},
            ) from error
        whole = len(raw) >= size
        lines = raw.split(b"\n")[0 if whole else 1 :]
        whole = whole and len(lines) <= LINES_MAX
        messages, broken = _messages(lines[-LINES_MAX:], read)
        if whole or len(lines) > LINES_MAX or len(messages) > tail or window >= MOST:
            break
        window *= 4
    problems = (malformed(found.adapter, path, f"{broken} lines of it cannot be read"),) if broken else ()
    last = messages[-tail:] if tail > 0 else []
    return Transcript(tuple(last), len(messages) > len(last) or not whole, problems)


def no_longer(title: str, session: str) -> NotFound:
    """What is raised for a conversation that its program does not have any more."""
    return NotFound(
        "transcript_missing",
        f"{title} has no session {session} any more",
        hint="sessionctl discovered --refresh shows what there is",
        fields={"id": session},
    )


def _messages(lines: list[bytes], read: Read) -> tuple[list[Message], int]:
    messages: list[Message] = []
    broken = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        told = read(line)
        if told is None:
            # The last one may still be being written.
            broken += number < len(lines)
        else:
            messages.extend(told)
    return messages, broken
