"""What a wish puts into a plan, held to what command lines and programs take before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sessiond.errors import InvalidArgument

# Bytes of one word of a command line: the kernel's MAX_ARG_STRLEN without the NUL at its end.
WORD_MAX: Final = 128 * 1024 - 1
MODEL_MAX: Final = 200


def model_words(
    model: str, fits: Callable[[str], object], hint: str, option: str = "--model"
) -> tuple[str, ...]:
    """The option that names a model; no words where none is wished. ``fits`` says whether the program has
    models of such names. Raises InvalidArgument `model_invalid`."""
    if not model:
        return ()
    if not fits(model):
        raise InvalidArgument(
            "model_invalid",
            f"{model[:MODEL_MAX]!r} cannot be the name of a model",
            hint=hint,
            fields={"model": model[:MODEL_MAX]},
        )
    return option, model


def plain(model: str) -> bool:
    """Whether a model can be named so at all: it is no option, and people can read it."""
    return not model.startswith("-") and model.isprintable() and len(model) <= MODEL_MAX


def prompt_input(prompt: str, most: int | None = None) -> bytes:
    """A prompt for standard input, as print mode needs one; ``most`` is how many bytes the program takes.
    Raises InvalidArgument `prompt_missing`, `prompt_too_large`."""
    if not prompt.strip():
        raise InvalidArgument(
            "prompt_missing", "print mode answers a prompt, and there is none", hint="give a prompt"
        )
    data = prompt.encode("utf-8", "replace")
    if most is not None and len(data) > most:
        raise _too_large(len(data), most, "put it into a file and name that in the prompt")
    return data


def prompt_word(prompt: str, before: str = "", most: int = WORD_MAX) -> str:
    """``before`` and a prompt as one word of a command line, of at most so many bytes. Raises InvalidArgument
    `prompt_invalid`, `prompt_too_large`."""
    if "\0" in prompt:
        raise InvalidArgument(
            "prompt_invalid", "the prompt holds a NUL, which no command line can", hint="take it out"
        )
    size, room = len(prompt.encode("utf-8", "replace")), most - len(before)
    if size > room:
        raise _too_large(size, room, "use print mode, or put it into a file and name that in the prompt")
    return before + prompt


def _too_large(size: int, most: int, hint: str) -> InvalidArgument:
    return InvalidArgument(
        "prompt_too_large",
        f"the prompt has {size} bytes, and the program can be given {most}",
        hint=hint,
        fields={"bytes": str(size), "most": str(most)},
    )
