"""Times as columns hold them: microseconds since 1970, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT = timedelta(microseconds=1)


def stamp(when: datetime | None) -> int | None:
    """What a column holds of a moment that knows its zone."""
    return None if when is None else (when - _EPOCH) // _UNIT


def moment(value: int | None) -> datetime | None:
    """The moment that a column holds."""
    return None if value is None else _EPOCH + value * _UNIT
