"""The environment that `run` sends: the caller's own, and variables chosen by name or read from files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from sessiond.errors import InvalidArgument, NotFound, SessiondError

# More than any kernel passes to a program.
_FILE_MAX = 8 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"\s*(?:export\s+)?([^=\s]*)\s*(=?)[ \t]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "$": "$", "`": "`", "\n": ""}


def own_environment(environ: Mapping[bytes, bytes]) -> tuple[dict[str, str], list[str]]:
    """The caller's environment, and the names of variables that cannot be sent: they are no UTF-8."""
    sent: dict[str, str] = {}
    left: list[str] = []
    for name, value in environ.items():
        try:
            sent[name.decode()] = value.decode()
        except UnicodeDecodeError:
            left.append(name.decode("utf-8", "backslashreplace"))
    return sent, left


def chosen_environment(
    files: Iterable[str], words: Sequence[str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Variables of files in their order, and over them those of `NAME=VALUE` and of `NAME`, the caller's own.

    Raises InvalidArgument `environment_invalid`, naming the file's line where one is wrong.
    """
    chosen: dict[str, str] = {}
    for path in files:
        chosen |= read_file(path)
    for word in words:
        name, separator, value = word.partition("=")
        _check_name(name, word)
        if not separator:
            if name not in environ:
                raise InvalidArgument(
                    "environment_invalid",
                    f"--env {name}: there is no variable of that name here",
                    hint=f"give it a value: --env {name}=VALUE",
                    fields={"variable": name},
                )
            value = environ[name]
        chosen[name] = value
    return chosen


def _check_name(name: str, word: str) -> None:
    # Programs may know other names than a shell does; only what no environment can hold is refused.
    if not name:
        raise InvalidArgument(
            "environment_invalid",
            f"--env {word}: a variable needs a name",
            hint="--env NAME=VALUE, or --env NAME for the one that is set here",
        )


# ---- files ----------------------------------------------------------------------------------


def read_file(path: str) -> dict[str, str]:
    """Variables of an `--env-file`. Raises NotFound `path_missing`, InvalidArgument `environment_invalid`."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        raise NotFound(
            "path_missing", f"there is no {path}", hint="--env-file FILE", fields={"path": path}
        ) from None
    except OSError as error:
        raise SessiondError(
            "path_unreadable",
            f"{path} cannot be read: {error.strerror}",
            hint="--env-file takes a file that you may read",
            fields={"path": path},
        ) from error
    if len(data) > _FILE_MAX:
        raise InvalidArgument(
            "environment_too_large", f"{path} has more than {_FILE_MAX} bytes", hint="no program takes more"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, data.count(b"\n", 0, error.start) + 1, "it is no UTF-8") from error
    return parse(text, path)


def parse(text: str, path: str) -> dict[str, str]:
    """Variables of lines `NAME=VALUE`: `#` begins a line that is a comment; `export` before a name is taken.

    A value is taken as it stands, without the spaces around it; in '…' every character is, in "…" all but
    the escapes of a backslash. Quoted values may hold newlines.
    """
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    at, line = 0, 1
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        content = text[at:end].strip()
        if content and not content.startswith("#"):
            name, value, end = _assignment(text, at, end, path, line)
            found[name] = value
        line += text.count("\n", at, end + 1)
        at = end + 1
    return found


def _assignment(text: str, at: int, end: int, path: str, line: int) -> tuple[str, str, int]:
    """Name and value that begin at a position, and the end of their last line."""
    match = _LINE.match(text, at, end)
    assert match is not None, "it matches the empty text too"
    name = match[1]
    if not match[2]:
        raise _wrong(path, line, "there is no '=': write NAME=VALUE")
    if not _NAME.fullmatch(name):
        raise _wrong(path, line, f"{name!r} cannot be the name of a variable")
    begin = match.end()
    quote = text[begin : begin + 1] if begin < end else ""
    if quote in ("'", '"'):
        value, after = _quoted(text, begin + 1, quote, path, line)
        end = text.find("\n", after)
        end = len(text) if end < 0 else end
        rest = text[after:end].strip()
        if rest and not rest.startswith("#"):
            raise _wrong(path, line + text.count("\n", at, after), "there is text behind the closing quote")
    else:
        value = text[begin:end].strip()
    if "\0" in value:
        raise _wrong(path, line, "the value holds a NUL")
    return name, value, end


def _quoted(text: str, at: int, quote: str, path: str, line: int) -> tuple[str, int]:
    """The value in quotes that begins at a position, and where what follows its closing quote begins."""
    parts: list[str] = []
    while at < len(text):
        char = text[at]
        if char == quote:
            return "".join(parts), at + 1
        if char == "\\" and quote == '"' and at + 1 < len(text):
            following = text[at + 1]
            parts.append(_ESCAPES.get(following, "\\" + following))
            at += 2
            continue
        parts.append(char)
        at += 1
    raise _wrong(path, line, f"the closing {quote} is missing")


def _wrong(path: str, line: int, reason: str) -> InvalidArgument:
    return InvalidArgument(
        "environment_invalid",
        f"{path}:{line}: {reason}",
        hint="lines of NAME=VALUE; # begins a comment; quote values that hold newlines",
        fields={"path": path, "line": str(line)},
    )


def environ_bytes() -> Mapping[bytes, bytes]:
    """This process's environment as it is."""
    return os.environb
