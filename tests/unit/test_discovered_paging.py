"""Pages of a list whose order is no longer held: after a restart, or once others are read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sessiond.errors import InvalidArgument
from sessiond.model.agent_session import Found, Overlay
from sessiond.model.conversation import AgentSession, Choice
from sessiond.supervisor.discovered.paging import Pages

EVERYTHING = Choice(stopped=True)


def rows(count: int) -> list[AgentSession]:
    """Some, the latest first; two of each moment."""
    made = [
        AgentSession(
            Found(
                "pi", f"s{number}", updated_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number // 2)
            ),
            Overlay("pi", f"s{number}"),
        )
        for number in range(count)
    ]
    return sorted(made, key=lambda one: one.order, reverse=True)


def pages(of: list[AgentSession], held: int = 16) -> Pages:
    known = {one.found.key: one for one in of}
    return Pages(known.get, held)


def test_each_row_is_told_once_though_each_page_is_asked_of_another_process() -> None:
    there = rows(9)
    page = pages(there).first(EVERYTHING, there, 2)
    told = [*page.rows]
    for _ in range(4):
        page = pages(there).next(EVERYTHING, there, 2, page.token)
        told += page.rows
    assert (told, page.token) == (there, "")


def test_a_list_that_others_took_the_place_of_goes_on_where_it_was() -> None:
    there = rows(6)
    one = pages(there, held=1)
    token = one.first(EVERYTHING, there, 2).token
    assert one.first(EVERYTHING, there, 3).rows == there[:3]
    # What came meanwhile stands before what was told.
    newer = rows(8)
    assert one.next(EVERYTHING, newer, 2, token).rows == there[2:4]


def test_a_token_of_a_list_with_another_filter_is_none() -> None:
    there = rows(6)
    one = pages(there)
    token = one.first(EVERYTHING, there, 2).token
    with pytest.raises(InvalidArgument) as refused:
        one.next(replace(EVERYTHING, group="nightly"), there, 2, token)
    assert (refused.value.code, "another filter" in refused.value.message) == ("page_token_invalid", True)
