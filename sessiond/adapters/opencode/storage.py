"""The files of OpenCode's releases before its database: one for each session, message and part."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from sessiond.adapters.opencode.rows import (
    ADAPTER,
    is_id,
    message_of,
    model_of,
    prompt_of,
    turn_of,
)
from sessiond.adapters.reading import texts
from sessiond.adapters.reading.ends import malformed, read_ends, unreadable
from sessiond.adapters.reading.objects import Json, file_object, inner
from sessiond.adapters.reading.stamps import Stamps
from sessiond.model.agent_session import Found, Message, Problem, Turn

# Larger ones hold whole files, and are no session.
_MOST: Final = 4 * 1024 * 1024
# Parts of one message that are read, the last ones.
_PARTS_MAX: Final = 200
_ENDING: Final = ".json"


class Storage:
    """`storage/session/PROJECT/ID.json` with `storage/message/ID/` and `storage/part/MESSAGE/` beside it.

    Programs that write so are old: what they write of messages shows when the session's own file is written.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.sessions = os.path.join(folder, "session")
        self._kept: Stamps[Found | Problem] = Stamps()
        self.paths: dict[str, str] = {}

    def all(self) -> Iterator[tuple[str, Found | Problem]]:
        """Every session's file, with what it tells or what is wrong with it."""
        seen: set[str] = set()
        for project in _names(self.sessions):
            folder = os.path.join(self.sessions, project)
            for name in _names(folder):
                if name.endswith(_ENDING):
                    path = os.path.join(folder, name)
                    seen.add(path)
                    told = self.one(path)
                    if told is not None:
                        yield path, told
        self._kept.only(seen)
        self.paths = {id: path for id, path in self.paths.items() if path in seen}

    def one(self, path: str) -> Found | Problem | None:
        """One session's file; None where there is none."""
        try:
            kept = self._kept.get(path)
            if kept is not None:
                return kept
            ends = read_ends(path, head=_MOST, tail=0)
        except FileNotFoundError as error:
            return unreadable(ADAPTER, path, error) if os.path.islink(path) else None
        except OSError as error:
            return unreadable(ADAPTER, path, error)
        told = self._found(path, file_object(ends.head))
        self._kept.put(path, ends.stamp, told)
        if isinstance(told, Found):
            self.paths[told.id] = path
        return told

    def messages(self, session: str, tail: int) -> tuple[list[Message], bool]:
        """The last messages of one conversation, and whether there are more."""
        names = _sorted(os.path.join(self.folder, "message", session))
        messages: list[Message] = []
        for name in names[-tail:]:
            data = _read(os.path.join(self.folder, "message", session, name))
            message = message_of(data, self._parts(name))
            if message is not None:
                messages.append(message)
        return messages, len(names) > tail

    def _found(self, path: str, session: Json) -> Found | Problem:
        id = session.get("id")
        if not isinstance(id, str) or not is_id(id):
            return malformed(ADAPTER, path, "it is no session of OpenCode: it has no id")
        if os.path.basename(path) != id + _ENDING:
            return malformed(ADAPTER, path, f"its name is not that of its session {id}")
        names = _sorted(os.path.join(self.folder, "message", id))
        folder = os.path.join(self.folder, "message", id)
        last = _read(os.path.join(folder, names[-1])) if names else {}
        newest = self._parts(names[-1])[::-1] if names and last.get("role") == "assistant" else []
        turn, activity = turn_of(last, newest) if names else (Turn.DONE, "")
        times = inner(session, "time")
        parent = session.get("parentID")
        return Found(
            adapter=ADAPTER,
            id=id,
            cwd=texts.absolute(session.get("directory")) or texts.absolute(inner(last, "path").get("cwd")),
            model=model_of(last),
            title=texts.shorten(texts.as_text(session.get("title"))),
            first_prompt=self._prompt(id, names),
            last_prompt=self._prompt(id, names[::-1]),
            started_at=texts.from_milliseconds(times.get("created")),
            updated_at=texts.from_milliseconds(times.get("updated")),
            parent=parent if isinstance(parent, str) and is_id(parent) else "",
            turn=turn,
            activity=activity,
            native={"path": path} if len(path) <= 4096 and path.isprintable() else {},
            source=path,
        )

    def _prompt(self, session: str, names: Sequence[str]) -> str:
        """The first prompt in messages of that order; not searched for in more than a few."""
        for name in names[:4]:
            if _read(os.path.join(self.folder, "message", session, name)).get("role") == "user":
                prompts = (prompt_of(part) for part in self._parts(name))
                return next((prompt for prompt in prompts if prompt), "")
        return ""

    def _parts(self, name: str) -> list[Json]:
        folder = os.path.join(self.folder, "part", name.removesuffix(_ENDING))
        return [_read(os.path.join(folder, each)) for each in _sorted(folder)[-_PARTS_MAX:]]


def _read(path: str) -> Json:
    """An object in a file; empty where it cannot be read: the conversation is told without it."""
    try:
        return file_object(read_ends(path, head=_MOST, tail=0).head)
    except OSError:
        return {}


def _sorted(folder: str) -> list[str]:
    """Files of messages or parts: their names are in the order of time. None where they cannot be listed: the
    conversation is told without them."""
    try:
        names = _names(folder)
    except OSError:
        return []
    return sorted(name for name in names if name.endswith(_ENDING))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
