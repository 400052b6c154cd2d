"""Pages of a list that changes while it is read: each row that stays is told once, and none is left out."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

import msgspec

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import Key
from sessiond.model.conversation import AgentSession, Choice

LARGEST = 10_000
# Lists that are being read page by page; who comes back later goes on by the place of the last row.
_HELD = 16


class _Token(msgspec.Struct, frozen=True, array_like=True):
    """Where to go on: in a list that is held, or where that is no more after this place in the order."""

    choice: str
    held: str
    index: int
    time: str
    adapter: str
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; ``token`` is empty at its end."""

    rows: Sequence[AgentSession]
    token: str
    total: int


class Pages:
    """Cuts lists. The order of one that is cut is held for the pages that follow."""

    def __init__(self, get: Callable[[Key], AgentSession | None], held: int = _HELD) -> None:
        self._get = get
        self._most = held
        self._lists: OrderedDict[str, list[tuple[datetime, str, str]]] = OrderedDict()

    def first(self, choice: Choice, rows: Sequence[AgentSession], size: int) -> Page:
        """The beginning of a list that is in order, latest first; ``size`` 0 is all."""
        size = min(size or LARGEST, LARGEST)
        if len(rows) <= size:
            return Page(rows, "", len(rows))
        name = token_hex(8)
        self._lists[name] = [row.order for row in rows]
        while len(self._lists) > self._most:
            self._lists.popitem(last=False)
        return Page(rows[:size], self._token(choice, name, size), len(rows))

    def next(self, choice: Choice, rows: Sequence[AgentSession], size: int, text: str) -> Page:
        """The page that a token leads to; ``rows`` are what there is now. Raises InvalidArgument
        `page_token_invalid` for one that is none, or of another list."""
        size = min(size or LARGEST, LARGEST)
        token, last = _read(text)
        if token.choice != _fingerprint(choice):
            raise _invalid("it is of a list with another filter")
        held = self._lists.get(token.held)
        if held is None:
            return self.first(choice, [row for row in rows if row.order < last], size)
        if not 0 <= token.index <= len(held):
            raise _invalid("it leads outside of its list")
        self._lists.move_to_end(token.held)
        page: list[AgentSession] = []
        index = token.index
        while index < len(held) and len(page) < size:
            # As it is now; one that is gone or fits no more is left out.
            row = self._get(held[index][1:])
            index += 1
            if row is not None and choice.takes(row):
                page.append(row)
        if index == len(held):
            return Page(page, "", len(held))
        return Page(page, self._token(choice, token.held, index), len(held))

    def _token(self, choice: Choice, name: str, index: int) -> str:
        when, adapter, session = self._lists[name][index - 1]
        token = _Token(_fingerprint(choice), name, index, when.isoformat(), adapter, _sendable(session))
        return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def _read(text: str) -> tuple[_Token, tuple[datetime, str, str]]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        token = msgspec.json.decode(raw, type=_Token)
        when = datetime.fromisoformat(token.time).astimezone(UTC)
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise _invalid("it was not made here") from error
    return token, (when, token.adapter, token.id)


def _sendable(conversation: str) -> str:
    return conversation.encode("utf-8", "backslashreplace").decode()


def _fingerprint(choice: Choice) -> str:
    """What tells one filter from another, in this process and the next."""
    told: tuple[Any, ...] = (
        sorted(choice.adapters),
        sorted(choice.statuses),
        choice.cwd,
        sorted(choice.labels.items()),
        sorted(choice.label_keys),
        choice.group,
        # A time ago is another time at each call.
        choice.since is not None,
        choice.session,
        choice.stopped,
    )
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def _invalid(reason: str) -> InvalidArgument:
    return InvalidArgument(
        "page_token_invalid",
        f"this page token cannot be used: {reason}",
        hint="begin again without one",
    )
