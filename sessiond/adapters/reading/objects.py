"""JSON of foreign files, decoded to what it is or to nothing: no line of it ends the reading of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
Json = Mapping[str, Any]

# What decoding a foreign text raises; the last where it is nested without end.
BROKEN: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)

_ANY: Final = msgspec.json.Decoder()


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | str | msgspec.Raw) -> T | None:
    """What a decoder makes of it; None where that is nothing."""
    try:
        return decoder.decode(data)
    except BROKEN:
        return None


def decode_object(data: object) -> Json:
    """An object written as JSON; an empty one where it is none."""
    value = decoded(_ANY, data) if isinstance(data, str | bytes) else None
    return value if isinstance(value, dict) else {}


def inner(value: Json, name: str) -> Json:
    """An object inside of one; an empty one where there is none."""
    got = value.get(name)
    return got if isinstance(got, dict) else {}


def encoded(value: object) -> str:
    """A decoded value as JSON again; empty where there is none, or it cannot be written so."""
    if value is None:
        return ""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (*BROKEN, OverflowError):
        return ""
