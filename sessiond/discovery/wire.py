"""What the host and an adapter's process say to each other: frames of msgpack, each after its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from sessiond.errors import BY_KIND, ErrorKind, SessiondError
from sessiond.model.agent_session import Found, Problem, Wish

# The end of a conversation with 1,000 long messages; nothing else comes near.
FRAME_MAX: Final = 64 * 1024 * 1024
LENGTH: Final = struct.Struct(">I")

_LEAST, _MOST = -(2**63), 2**64 - 1


class Message(msgspec.Struct, tag=True, array_like=True, frozen=True):
    """What all are."""


# ---- to the adapter's process ---------------------------------------------------------------


class Own(Message, frozen=True):
    """What our agents have open. The first of them begins everything."""

    agents: dict[str, str]


class Refresh(Message, frozen=True):
    """Look at all anew."""


class Look(Message, frozen=True):
    """Look for processes anew."""


class IsAlive(Message, frozen=True):
    """Answers a Found or None."""

    session: str


class ReadTranscript(Message, frozen=True):
    """Answers a Transcript."""

    session: str
    tail: int


class Launch(Message, frozen=True):
    """Answers a Plan."""

    wish: Wish


class Resume(Message, frozen=True):
    """Answers a Plan."""

    session: str
    wish: Wish


class Identify(Message, frozen=True):
    """Answers an id or None."""

    line: str


class Search(Message, frozen=True):
    """Answers a Probe."""

    search_path: str


Question = Own | Refresh | Look | IsAlive | ReadTranscript | Launch | Resume | Identify | Search


class Asked(msgspec.Struct, array_like=True, frozen=True):
    """A question, and the number its answer is to carry."""

    number: int
    question: Question


# ---- from it --------------------------------------------------------------------------------


class Busy(Message, frozen=True):
    """It works. Told again whenever it gets on."""


class Idle(Message, frozen=True):
    """It sleeps until something happens."""


class Told(Message, frozen=True):
    """Conversations that changed; with ``more`` the next message belongs to the same. ``problems`` None: as
    before."""

    found: Sequence[Found] = ()
    gone: Sequence[str] = ()
    whole: bool = False
    more: bool = False
    problems: Sequence[Problem] | None = None
    checked: bool = False


class Answer(Message, frozen=True):
    """To a question, in the type that this answers."""

    number: int
    result: msgspec.Raw


class Refusal(Message, frozen=True):
    """An error, in place of an answer."""

    number: int
    kind: str
    code: str
    message: str
    hint: str = ""
    fields: dict[str, str] = {}

    def error(self) -> SessiondError:
        """As it was raised."""
        kind = ErrorKind(self.kind) if self.kind in list(ErrorKind) else ErrorKind.FAILED
        return BY_KIND[kind](self.code, self.message, hint=self.hint, fields=self.fields)


class Failed(Message, frozen=True):
    """The adapter raised what it must not: its process ends."""

    reason: str


News = Busy | Idle | Told | Answer | Refusal | Failed


def refuse(number: int, error: SessiondError) -> Refusal:
    """An error on its way."""
    return Refusal(number, error.kind.value, error.code, error.message, error.hint, error.fields)


# ---- frames ---------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()


def encode(message: Any) -> bytes:
    """As msgpack. What msgpack cannot say (names that are no UTF-8, numbers beyond 64 bits) is bent."""
    try:
        return _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError):
        return _encoder.encode(_sayable(msgspec.to_builtins(message)))


def raw(value: Any) -> msgspec.Raw:
    """A value that goes into a message as it is."""
    return msgspec.Raw(encode(value))


def frame(message: Any) -> bytes:
    """A message with its length. Raises SessiondError `frame_too_large`."""
    data = encode(message)
    if len(data) > FRAME_MAX:
        raise BY_KIND[ErrorKind.EXHAUSTED](
            "frame_too_large",
            f"the answer has {len(data)} bytes, more than the {FRAME_MAX} that can be told",
            hint="ask for less at a time",
        )
    return LENGTH.pack(len(data)) + data


def read_length(head: bytes) -> int:
    """How long the frame is. Raises ValueError where that is more than any."""
    (length,) = LENGTH.unpack(head)
    if length > FRAME_MAX:
        raise ValueError(f"a frame of {length} bytes is announced")
    return int(length)


class Frames:
    """Cuts what comes in into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now. Raises ValueError on one that is too long."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + read_length(bytes(self._buffer[: LENGTH.size]))
            if len(self._buffer) < end:
                return
            yield bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, _LEAST), _MOST)
    if isinstance(value, dict):
        return {_sayable(key): _sayable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sayable(one) for one in value]
    return value
