"""A figure's verdict, and what is said of it."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.figures import Figure, Goal, Verdict, table


def figure(ours: float, limit: float, goal: Goal, amount: float = 1.0) -> Figure:
    return Figure("name", "what", "against", "ms", [ours, 1000, 0], [limit, 1000, 0], goal, amount)


@pytest.mark.parametrize(
    ("ours", "goal", "amount", "verdict"),
    [
        (15, Goal.TIMES, 1.5, Verdict.MET),
        (15.1, Goal.TIMES, 1.5, Verdict.MISSED),
        (15, Goal.PLUS, 5, Verdict.MET),
        (15.1, Goal.PLUS, 5, Verdict.MISSED),
        (9.9, Goal.BELOW, 1, Verdict.MET),
        (10, Goal.BELOW, 1, Verdict.MISSED),
        (100, Goal.NONE, 1, Verdict.TOLD),
    ],
)
def test_medians_are_held_against_the_goal(ours: float, goal: Goal, amount: float, verdict: Verdict) -> None:
    assert figure(ours, 10, goal, amount).verdict is verdict


def test_differences_are_compared_as_such() -> None:
    assert figure(14, 10, Goal.PLUS, 5).compared == "+ 4.00 ms"
    assert figure(9, 10, Goal.PLUS, 5).compared == "- 1.00 ms"
    assert figure(15, 10, Goal.TIMES, 1.5).compared == "1.50 x"


def test_comes_back_from_json() -> None:
    one = figure(12, 10, Goal.TIMES, 1.5)
    told = json.loads(json.dumps(one.to_object()))
    assert Figure.from_object(told) == one
    assert (told["ratio"], told["verdict"], told["medians"]) == (1.2, "met", {"ours": 12, "limit": 10})


def test_the_table_is_markdown_of_one_width() -> None:
    lines = table([figure(12, 10, Goal.TIMES, 1.5), figure(12345, 10, Goal.PLUS, 5)])
    assert len({len(line) for line in lines}) == 1
    assert all(line.startswith("|") and line.endswith("|") for line in lines)
