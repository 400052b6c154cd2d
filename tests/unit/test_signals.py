"""Signals as people write them."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import InvalidArgument
from sessiond.model.signals import parse_signal


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("9", 9),
        ("TERM", 15),
        ("sigusr1", signal.SIGUSR1),
        ("RTMIN", signal.SIGRTMIN),
        ("rtmin+3", signal.SIGRTMIN + 3),
        ("SIGRTMAX-2", signal.SIGRTMAX - 2),
        (str(signal.SIGRTMIN + 1), signal.SIGRTMIN + 1),
        ("", 9),
    ],
)
def test_a_signal_by_name_or_number(word: str, number: int) -> None:
    assert parse_signal(word) == number


@pytest.mark.parametrize(
    "word",
    ["0", "65", "-9", "9" * 5000, "\u0669", "NONSENSE", "SIG", "RTMIN+", "RTMIN-1", "RTMIN+99", "RTMAX+1",
     "TERM+1", "RTMIN+1+1", "RTMIN+-1", "SIG_DFL", "SIGSIGTERM", " TERM"],
)  # fmt: skip
def test_what_is_no_signal(word: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_signal(word)
    assert caught.value.code == "signal_invalid"
    assert len(caught.value.message) < 80


@given(st.sampled_from(sorted(signal.valid_signals())))
def test_every_number_that_the_kernel_knows_is_one(number: int) -> None:
    assert parse_signal(str(int(number))) == number
