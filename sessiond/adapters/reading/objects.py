"""JSON of foreign files, decoded to what it is or to nothing: no line of it ends the reading of others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
Json = Mapping[str, Any]

# What decoding a foreign text raises; the last where it is nested without end.
BROKEN: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)

_ANY: Final = msgspec.json.Decoder()
_FIRST: Final = json.JSONDecoder()


def decoded(decoder: msgspec.json.Decoder[T], data: bytes | memoryview | str | msgspec.Raw) -> T | None:
    """What a decoder makes of it; None where that is nothing."""
    try:
        return decoder.decode(data)
    except BROKEN:
        return None


def decoded_file(decoder: msgspec.json.Decoder[T], data: bytes) -> T | None:
    """The same of a whole file. Programs write over what was there and cut it to its new length after that:
    in between the end of a longer, older text follows, which is left out."""
    value = decoded(decoder, data)
    return decoded(decoder, _first(data)) if value is None else value


def _first(data: bytes) -> bytes:
    """The value that a text begins with, without what follows it; nothing where it begins with none."""
    text = data.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    try:
        _, end = _FIRST.raw_decode(text)
    except (ValueError, RecursionError):
        return b""
    return text[:end].encode("utf-8", "surrogateescape")


def decode_object(data: object) -> Json:
    """An object written as JSON; an empty one where it is none."""
    value = decoded(_ANY, data) if isinstance(data, str | bytes) else None
    return value if isinstance(value, dict) else {}


def file_object(data: bytes) -> Json:
    """An object that a whole file holds, see decoded_file; an empty one where there is none."""
    value = decoded_file(_ANY, data)
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
