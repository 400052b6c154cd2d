"""What values a setting takes: each kind reads texts as TOML would give them, and checks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)


class Kind(Protocol[T_co]):
    """What values a setting takes, for people (``allowed``) and for programs."""

    allowed: str

    def read(self, texts: Sequence[str]) -> object:
        """The value that a variable or a flag (given once or more) spells, as TOML would give it."""
        ...

    def check(self, value: object, home: Path) -> T_co:
        """The value of a setting, or ValueError saying what is allowed."""
        ...


# Plain classes: a dataclass takes a millisecond to make, and every sessionctl pays for it.


class Whole:
    """A whole number within bounds."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.allowed = f"a whole number, {low} to {high}"

    def read(self, texts: Sequence[str]) -> object:
        """The last text as a number."""
        return int(texts[-1]) if re.fullmatch(r"-?[0-9]{1,18}", texts[-1]) else texts[-1]

    def check(self, value: object, home: Path) -> int:
        """A number within the bounds."""
        if not isinstance(value, int) or isinstance(value, bool) or not self._low <= value <= self._high:
            raise ValueError(self.allowed)
        return value


class Seconds:
    """A duration within bounds."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self.allowed = f"seconds, {low:g} to {high:g}"

    def read(self, texts: Sequence[str]) -> object:
        """The last text as a number."""
        try:
            return float(texts[-1])
        except ValueError:
            return texts[-1]

    def check(self, value: object, home: Path) -> float:
        """A number within the bounds."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self._low <= float(cast(float, value)) <= self._high:
            raise ValueError(self.allowed)
        return float(cast(float, value))


_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Size:
    """A number of bytes within bounds, as a number or with K, M, G or T behind it (powers of 1024)."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self.allowed = f"a size such as 64M, {_size(low)} to {_size(high)}"

    def read(self, texts: Sequence[str]) -> object:
        """The last text."""
        return texts[-1]

    def check(self, value: object, home: Path) -> int:
        """A number of bytes within the bounds."""
        if isinstance(value, str) and (
            match := re.fullmatch(r"([0-9]{1,15})([KMGT]?)", value.strip().upper())
        ):
            value = int(match[1]) * _SIZES[match[2]]
        if not isinstance(value, int) or isinstance(value, bool) or not self._low <= value <= self._high:
            raise ValueError(self.allowed)
        return value


def _size(number: int) -> str:
    unit = next((unit for unit in "TGMK" if number and number % _SIZES[unit] == 0), "")
    return f"{number // _SIZES[unit]}{unit}"


class Key:
    """A key held with control: `ctrl-` and a letter or one of `@[\\]^_`."""

    allowed = r"ctrl- and a letter or one of @ [ \ ] ^ _"

    def read(self, texts: Sequence[str]) -> object:
        """The last text."""
        return texts[-1]

    def check(self, value: object, home: Path) -> str:
        """The key in small letters."""
        if not isinstance(value, str) or not re.fullmatch(r"ctrl-[a-z@\[\\\]^_]", value.lower()):
            raise ValueError(self.allowed)
        return value.lower()


_SWITCH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class Switch:
    """On or off."""

    allowed = "true or false"

    def read(self, texts: Sequence[str]) -> object:
        """The last text as a truth value."""
        return _SWITCH.get(texts[-1].lower(), texts[-1])

    def check(self, value: object, home: Path) -> bool:
        """A truth value."""
        if not isinstance(value, bool):
            raise ValueError(self.allowed)  # noqa: TRY004 - one error for every bad value
        return value


class Choice:
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.allowed = "one of " + ", ".join(words)

    def read(self, texts: Sequence[str]) -> object:
        """The last text."""
        return texts[-1]

    def check(self, value: object, home: Path) -> str:
        """One of the words."""
        if value not in self.words:
            raise ValueError(self.allowed)
        return str(value)


class Text:
    """One line of printable characters."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self.allowed = f"1 to {longest} printable characters"

    def read(self, texts: Sequence[str]) -> object:
        """The last text."""
        return texts[-1]

    def check(self, value: object, home: Path) -> str:
        """A text within the bound."""
        fits = isinstance(value, str) and 1 <= len(value) <= self._longest
        if not fits or not str(value).isprintable() or value != str(value).strip():
            raise ValueError(self.allowed)
        return str(value)


class Folders:
    """Absolute paths; `~` is the home folder. In variables and flags a colon stands between them."""

    allowed = "a list of paths that begin with / or ~/"

    def read(self, texts: Sequence[str]) -> object:
        """All parts of all texts."""
        return [part for text in texts for part in text.split(":") if part]

    def check(self, value: object, home: Path) -> tuple[Path, ...]:
        """Absolute paths, each once, in the order given."""
        return tuple(dict.fromkeys(self._path(one, home) for one in _texts(value, self.allowed)))

    def _path(self, text: str, home: Path) -> Path:
        if text == "~" or text.startswith("~/"):
            text = f"{home}{text[1:]}"
        if not text.startswith("/") or "\0" in text:
            raise ValueError(self.allowed)
        return Path(os.path.normpath(text))


class FileNames:
    """Names of files. In variables and flags a comma stands between them."""

    allowed = "a list of names of files, without '/'"

    def read(self, texts: Sequence[str]) -> object:
        """All parts of all texts."""
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]

    def check(self, value: object, home: Path) -> tuple[str, ...]:
        """File names, each once, in the order given."""
        names = _texts(value, self.allowed)
        if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names):
            raise ValueError(self.allowed)
        return tuple(dict.fromkeys(names))


class Several:
    """Some of a few words. In variables and flags a comma stands between them."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.allowed = f"a list of {', '.join(words)}"

    def read(self, texts: Sequence[str]) -> object:
        """All parts of all texts."""
        return [part.strip() for text in texts for part in text.split(",") if part.strip()]

    def check(self, value: object, home: Path) -> tuple[str, ...]:
        """Words that are among them, each once, in the order given."""
        words = _texts(value, self.allowed)
        if not set(words) <= set(self.words):
            raise ValueError(self.allowed)
        return tuple(dict.fromkeys(words))


class Homes:
    """Folders that belong to one of a few words each. In variables and flags a colon stands between them."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.allowed = f"a list of NAME=FOLDER, NAME one of {', '.join(words)}, FOLDER beginning with / or ~/"

    def read(self, texts: Sequence[str]) -> object:
        """All parts of all texts."""
        return [part for text in texts for part in text.split(":") if part]

    def check(self, value: object, home: Path) -> tuple[str, ...]:
        """The same with absolute paths, each once, in the order given."""
        return tuple(dict.fromkeys(self._one(text, home) for text in _texts(value, self.allowed)))

    def _one(self, text: str, home: Path) -> str:
        word, folder = split_home(text)
        if folder == "~" or folder.startswith("~/"):
            folder = f"{home}{folder[1:]}"
        path = os.path.normpath(folder)
        if word not in self.words or not path.startswith("/") or not folder.isprintable():
            raise ValueError(self.allowed)
        if f"{home}/".startswith(f"{path.rstrip('/')}/"):
            raise ValueError(f"{self.allowed}; no folder that your home folder is in")
        return f"{word}={path}"


def split_home(text: str) -> tuple[str, str]:
    """Word and folder of one."""
    word, _, folder = text.partition("=")
    return word, folder


def _texts(value: object, allowed: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(allowed)
    return cast("list[str]", value)
