"""Rows of conversations as bytes: what a client reads of them is what the message of each says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sessiond.model.agent_session import Found, Overlay
from sessiond.model.conversation import AgentSession
from sessiond.rpc._generated.v1 import discovery_pb2 as pb
from sessiond.rpc.discovery_codec import Rows, agent_session_to_wire
from tests.unit.discovered_case import AGENT, BEGUN, SESSION, alive, found

NOTHING = Overlay("", "")


def row(one: Found, **fields: Any) -> AgentSession:
    return AgentSession(one, fields.pop("overlay", NOTHING), **fields)


def read(encoded: bytes) -> pb.AgentSession:
    [one] = pb.ListAgentSessionsResponse.FromString(encoded).agent_sessions
    return one


ROWS = {
    "plain": row(found("one")),
    "young": row(found("one"), age=0.0004),
    "old": row(found("one"), age=2.0**45),
    "long": row(found("one", first_prompt="é" * 9_000)),
    "stale": row(found("one"), stale=True),
    "unread": row(found("one", trouble="/w/one.jsonl: no line of it can be read"), stale=True),
    "live": row(found("one", life=alive(activity="thinking"), native={"kind": "cli", "b": "\udcff"})),
    "ours": row(
        found("one", life=alive()), session=SESSION, session_name="work", agent=AGENT, agent_name="claude"
    ),
    "labelled": row(found("one"), overlay=Overlay("claude-code", "one", labels={"a": "b"})),
    "noted": row(found("one"), overlay=Overlay("claude-code", "one", annotations={"a": "b"})),
    "grouped": row(found("one"), overlay=Overlay("claude-code", "one", group="g")),
    "prompted": row(found("one"), overlay=Overlay("claude-code", "one", prompt="p  q")),
    "placed": row(found("one", cwd=""), overlay=Overlay("claude-code", "one", cwd="/work")),
    "launched": row(found("one"), overlay=Overlay("claude-code", "one", launched_at=BEGUN)),
}


@pytest.mark.parametrize("before", ROWS)
@pytest.mark.parametrize("after", ROWS)
def test_a_row_says_what_is_so_whatever_it_said_before(before: str, after: str) -> None:
    rows = Rows()
    for name in (before, before, after, after, before):
        assert read(rows.encode(ROWS[name])) == agent_session_to_wire(ROWS[name])


def test_its_age_is_of_each_answer() -> None:
    rows, one = Rows(), ROWS["plain"]
    ages = [read(rows.encode(replace(one, age=age))).age_ms for age in (0.001, 300.0, 0.0, -1.0)]
    assert ages == [1, 300_000, 0, 0]


def test_what_was_found_anew_is_told_anew() -> None:
    rows, one = Rows(), found("one", title="a")
    assert read(rows.encode(row(one))).title == "a"
    assert read(rows.encode(row(replace(one, title="b")))).title == "b"
    assert read(rows.encode(row(one))).title == "a"


def test_more_rows_than_are_kept() -> None:
    rows, many = Rows(most=2), [row(found(f"c{number}")) for number in range(5)]
    for _ in range(2):
        answer = pb.ListAgentSessionsResponse.FromString(b"".join(map(rows.encode, many)))
        assert [one.id for one in answer.agent_sessions] == [one.found.id for one in many]
