"""A figure beside its limit, the verdict on it, and the one table that shows all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from statistics import median, quantiles
from typing import Any

HEADER = ("what", "ours", "limit", "held against", "compared", "goal", "verdict")


class Goal(StrEnum):
    """How a figure is held against its limit."""

    TIMES = "times"
    PLUS = "plus"
    BELOW = "below"
    NONE = "none"


class Verdict(StrEnum):
    """What came of it."""

    MET = "met"
    MISSED = "missed"
    TOLD = "-"


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples of one thing and of its limit, in the same unit.

    With Goal.TIMES ours may be ``amount`` times the limit, with PLUS the limit plus ``amount``, with
    BELOW it must be less; NONE only tells. ``parts`` are medians of what ours is made of.
    """

    name: str
    what: str
    against: str
    unit: str
    ours: Sequence[float]
    limit: Sequence[float]
    goal: Goal
    amount: float = 1.0
    parts: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def medians(self) -> tuple[float, float]:
        """Ours and the limit."""
        return median(self.ours), median(self.limit)

    @property
    def ratio(self) -> float:
        """Ours in limits."""
        ours, limit = self.medians
        return ours / limit if limit else float("inf")

    @property
    def compared(self) -> str:
        """The ratio, or where the goal is a difference the difference."""
        ours, limit = self.medians
        if self.goal is Goal.PLUS:
            return f"{'-' if ours < limit else '+'} {amount_text(abs(ours - limit))} {self.unit}"
        return f"{self.ratio:.2f} x"

    @property
    def verdict(self) -> Verdict:
        """Whether the goal is met by the medians."""
        ours, limit = self.medians
        allowed = {
            Goal.TIMES: ours <= limit * self.amount,
            Goal.PLUS: ours <= limit + self.amount,
            Goal.BELOW: ours < limit,
        }
        if self.goal is Goal.NONE:
            return Verdict.TOLD
        return Verdict.MET if allowed[self.goal] else Verdict.MISSED

    @property
    def goal_text(self) -> str:
        """The goal for people."""
        return {
            Goal.TIMES: f"≤ {self.amount:g} x",
            Goal.PLUS: f"+ {self.amount:g} {self.unit}",
            Goal.BELOW: "less",
            Goal.NONE: "-",
        }[self.goal]

    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        ours, limit = self.medians
        return (
            self.what,
            f"{amount_text(ours)} {self.unit}",
            f"{amount_text(limit)} {self.unit}",
            self.against,
            self.compared,
            self.goal_text,
            self.verdict.value,
        )

    def details(self) -> list[str]:
        """Spread, parts and note, for below the table."""
        lines = [f"{self.name}: {len(self.ours)} runs, {_spread(self.ours)} against {_spread(self.limit)}"]
        lines += [f"    {amount_text(value)} {self.unit} {part}" for part, value in self.parts.items()]
        return [*lines, *([f"    {self.note}"] if self.note else [])]

    def to_object(self) -> dict[str, Any]:
        """What --json prints; ``from_object`` reads its samples back."""
        ours, limit = self.medians
        return {
            **asdict(self),
            "medians": {"ours": ours, "limit": limit},
            "ratio": self.ratio,
            "verdict": self.verdict.value,
        }

    @classmethod
    def from_object(cls, value: dict[str, Any]) -> Figure:
        """The figure that ``to_object`` wrote."""
        kept = {key: one for key, one in value.items() if key in cls.__dataclass_fields__}
        return cls(**{**kept, "goal": Goal(value["goal"])})


def amount_text(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _spread(samples: Sequence[float]) -> str:
    if len(samples) < 4:
        return " ".join(map(amount_text, samples))
    low, middle, high = quantiles(samples, n=4)
    return f"{amount_text(middle)} ({amount_text(low)} to {amount_text(high)})"


def table(figures: Sequence[Figure]) -> list[str]:
    """Lines of a Markdown table that is also readable as it is."""
    rows = [HEADER, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [lines[0], rule, *lines[1:]]
