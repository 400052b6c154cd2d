"""What the demo takes for a whole record, and what for one that lost or doubled something."""

from __future__ import annotations

import subprocess

import pytest

from sessiond.cli.demo import COUNTED, COUNTER, miscounted

LINES = [*(f"line {number}" for number in range(1, 101)), "100 lines"]


def test_each_line_once_is_whole() -> None:
    assert miscounted(LINES) == ""


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "1: None instead of 'line 1'"),
        (LINES[:50] + LINES[51:], "51: 'line 52' instead of 'line 51'"),
        (LINES[:50] + LINES[49:], "51: 'line 50' instead of 'line 51'"),
        (LINES[:-1], "100: 'line 100' instead of '99 lines'"),
        ([*LINES, "more"], "101: '100 lines' instead of 'line 101'"),
        (LINES[1:], "1: 'line 2' instead of 'line 1'"),
        (["line 1", "1 lines"], "2: '1 lines' instead of 'line 2'"),
    ],
)
def test_what_was_lost_or_doubled_is_told(lines: list[str], told: str) -> None:
    assert miscounted(lines) == told


def test_the_counter_says_how_far_it_came_when_it_is_asked_to_end() -> None:
    process = subprocess.Popen(["sh", "-c", COUNTER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        lines = [process.stdout.readline() for _ in range(2 * COUNTED)]
        process.terminate()
        lines += process.stdout.readlines()
    assert miscounted([line.rstrip("\n") for line in lines]) == ""
    assert process.returncode == 0
