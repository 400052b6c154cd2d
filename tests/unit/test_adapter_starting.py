"""What plans may hold: the limits are the kernel's own."""

from __future__ import annotations

import errno
import re
import subprocess

import pytest

from sessiond.adapters.starting import MODEL_MAX, WORD_MAX, model_words, plain, prompt_input, prompt_word
from sessiond.errors import InvalidArgument


def test_the_longest_word_is_the_longest_that_the_kernel_takes() -> None:
    word = prompt_word("x" * (WORD_MAX - len("--prompt=")), "--prompt=")
    assert len(word) == WORD_MAX
    assert subprocess.run(["true", word], check=True).returncode == 0
    with pytest.raises(OSError, match="too long") as refused:
        subprocess.run(["true", word + "x"], check=True)
    assert refused.value.errno == errno.E2BIG
    with pytest.raises(InvalidArgument) as caught:
        prompt_word("x" * (WORD_MAX - len("--prompt=") + 1), "--prompt=")
    assert caught.value.code == "prompt_too_large"


def test_words_are_measured_in_bytes() -> None:
    assert prompt_word("\u00e4" * 5, most=10) == "\u00e4" * 5
    with pytest.raises(InvalidArgument) as caught:
        prompt_word("\u00e4" * 5, "-", most=10)
    assert (caught.value.code, caught.value.fields) == ("prompt_too_large", {"bytes": "10", "most": "9"})


def test_no_word_holds_a_nul() -> None:
    with pytest.raises(InvalidArgument) as caught:
        prompt_word("a\0b")
    assert caught.value.code == "prompt_invalid"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("prompt", "most", "code"),
    [("", None, "prompt_missing"), (" \n", 1, "prompt_missing"), ("\u00e4\u00e4", 3, "prompt_too_large")],
)
def test_what_is_no_input_says_why(prompt: str, most: int | None, code: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        prompt_input(prompt, most)
    assert caught.value.code == code
    assert caught.value.hint


def test_input_may_be_of_any_size_and_sort() -> None:
    assert prompt_input("\u00e4\u00e4", 4) == b"\xc3\xa4\xc3\xa4"
    assert prompt_input("half: \udcc3") == b"half: ?"
    assert len(prompt_input("x" * 1_000_000)) == 1_000_000


def test_models_are_named_by_an_option() -> None:
    named = re.compile("[a-z]+").fullmatch
    assert model_words("", named, "") == ()
    assert model_words("opus", named, "") == ("--model", "opus")
    assert model_words("opus", named, "", option="-m") == ("-m", "opus")
    with pytest.raises(InvalidArgument) as caught:
        model_words("7" * 300, named, "letters alone")
    assert (caught.value.code, caught.value.hint) == ("model_invalid", "letters alone")
    assert caught.value.fields == {"model": "7" * MODEL_MAX}


@pytest.mark.parametrize(
    ("model", "good"),
    [("a/b c", True), ("x" * MODEL_MAX, True), ("x" * 201, False), ("-x", False), ("a\nb", False)],
)
def test_plain_names(model: str, good: bool) -> None:
    assert plain(model) is good
