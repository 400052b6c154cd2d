"""The one settings table, from which config.toml, variables, flags, help and `sessionctl config` are made.

Each setting is declared once, as a field of its group. Precedence: flag, environment, file, default.
Variables that begin with ``SESSIOND_`` and a group name are settings, so nothing else may be called so.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast

from sessiond.errors import InvalidArgument

if TYPE_CHECKING:
    from argparse import ArgumentParser

FILE_MAX = 1 << 20
_PREFIX = "SESSIOND_"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


# ---- kinds of values ------------------------------------------------------------------------


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


def _texts(value: object, allowed: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(allowed)
    return cast("list[str]", value)


# ---- the table ------------------------------------------------------------------------------


def setting(kind: Kind[T], default: str | Callable[[Mapping[str, str]], str], text: str) -> T:
    """Declare a field as a setting: its kind, its default as a variable would spell it, its help."""
    return cast(T, field(metadata={"kind": kind, "default": default, "help": text}))


def _user_name(environ: Mapping[str, str]) -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return environ.get("USER") or f"uid {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """Where workspaces are looked for."""

    roots: tuple[Path, ...] = setting(
        Folders(), "~/projects:~/src:~/code", "Folders below which workspaces are looked for."
    )
    depth: int = setting(Whole(0, 16), "3", "How many levels below a root are looked at.")
    markers: tuple[str, ...] = setting(
        FileNames(), ".git,.scud,.claude,AGENTS.md", "What makes a folder a candidate for a session."
    )
    watch: bool = setting(Switch(), "true", "Notice workspaces that come, go and move, as it happens.")


@dataclass(frozen=True, slots=True)
class Events:
    """The log of what happened."""

    history: int = setting(Whole(0, 1_000_000), "10000", "How many events are held for those who ask later.")
    reader_buffer: int = setting(
        Whole(1, 1_000_000), "1000", "How many events may wait for one reader before it is let go."
    )


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What new sessions and their daemons get."""

    type: str = setting(
        Choice("development", "production", "test", "persona"), "development", "Type of new sessions."
    )
    owner: str = setting(Text(64), _user_name, "Owner of new sessions (default: the user's name).")
    watchdog: float = setting(
        Seconds(5, 86400), "180", "A session daemon that is silent for so long is restarted."
    )
    start_timeout: float = setting(Seconds(1, 3600), "60", "How long a session daemon may take to serve.")
    stop_timeout: float = setting(
        Seconds(1, 3600), "30", "How long a session daemon may take to end before it is killed."
    )


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The supervisor itself."""

    parallel_starts: int = setting(
        Whole(1, 256), "8", "How many session daemons are started at once at boot."
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What is written to the journal."""

    level: str = setting(
        Choice("debug", "info", "warning", "error"), "info", "The least important lines that are written."
    )


_GROUPS: dict[str, type[Any]] = {
    "discovery": Discovery,
    "events": Events,
    "session": SessionSettings,
    "supervisor": Supervisor,
    "log": Log,
}


@dataclass(frozen=True, slots=True)
class Setting(Generic[T]):
    """One row of the table. ``default`` is spelt as a variable would spell it."""

    group: str
    name: str
    kind: Kind[T]
    default: str | Callable[[Mapping[str, str]], str]
    help: str

    @property
    def key(self) -> str:
        """Its name in the file: `discovery.roots`."""
        return f"{self.group}.{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment: `SESSIOND_DISCOVERY_ROOTS`."""
        return _PREFIX + self.key.replace(".", "_").upper()

    @property
    def flag(self) -> str:
        """Its name on a command line: `--discovery-roots`."""
        return "--" + self.key.replace(".", "-").replace("_", "-")

    @property
    def description(self) -> str:
        """Help with the values allowed and the default."""
        default = self.default if isinstance(self.default, str) else ""
        return f"{self.help} {self.kind.allowed.capitalize()}" + (f"; default {default}." if default else ".")

    def default_in(self, environ: Mapping[str, str]) -> str:
        """The default, spelt as a variable would spell it."""
        return self.default if isinstance(self.default, str) else self.default(environ)


def _row(group: str, declared: Field[Any]) -> Setting[Any]:
    meta = declared.metadata
    return Setting(group, declared.name, meta["kind"], meta["default"], meta["help"])


SETTINGS: tuple[Setting[Any], ...] = tuple(
    _row(group, declared) for group, cls in _GROUPS.items() for declared in fields(cls)
)
_BY_KEY = {one.key: one for one in SETTINGS}


@dataclass(frozen=True, slots=True)
class Row:
    """A setting in force. ``value`` is plain (numbers, texts, lists); ``origin`` says who set it:
    `flag --NAME`, `environment NAME`, `file PATH:LINE` or `default`."""

    key: str
    value: object
    origin: str
    help: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings in force, by group, and where each came from."""

    discovery: Discovery
    events: Events
    session: SessionSettings
    supervisor: Supervisor
    log: Log
    origins: Mapping[str, str]

    def rows(self) -> list[Row]:
        """Every setting in the order of the table."""
        return [
            Row(one.key, _plain(getattr(getattr(self, one.group), one.name)), self.origins[one.key], one.help)
            for one in SETTINGS
        ]

    def given(self, key: str) -> bool:
        """Whether somebody set it, as against the default."""
        return self.origins[key] != "default"


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return value


# ---- loading --------------------------------------------------------------------------------


def load(
    path: Path,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str | Sequence[str] | None] | None = None,
) -> Settings:
    """Settings in force: flags by key (None: not given), then variables, the file, defaults.

    Raises InvalidArgument `config_unknown_key`, `config_bad_value`, `config_unreadable`, `config_syntax`.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("HOME") or os.path.expanduser("~"))
    _check_variables(env)
    file = _File.read(path)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for one in SETTINGS:
        raw, origin = _raw(one, flags or {}, env, file)
        try:
            values[one.key] = one.kind.check(raw, home)
        except ValueError as error:
            _bad_value(one.key, raw, origin, str(error))
        origins[one.key] = origin
    groups = {
        group: cls(**{declared.name: values[f"{group}.{declared.name}"] for declared in fields(cls)})
        for group, cls in _GROUPS.items()
    }
    return Settings(**groups, origins=origins)


def _raw(
    one: Setting[Any], flags: Mapping[str, str | Sequence[str] | None], env: Mapping[str, str], file: _File
) -> tuple[object, str]:
    """The value in force as TOML would give it, and where it came from."""
    given = flags.get(one.key)
    if given is not None and given != ():
        return one.kind.read([given] if isinstance(given, str) else list(given)), f"flag {one.flag}"
    # An empty variable is one that is not set, as everywhere in the XDG rules.
    if text := env.get(one.variable):
        return one.kind.read([text]), f"environment {one.variable}"
    if one.key in file.values:
        return file.values[one.key], f"file {file.place(one.key)}"
    return one.kind.read([one.default_in(env)]), "default"


def _check_variables(env: Mapping[str, str]) -> None:
    known = {one.variable for one in SETTINGS}
    groups = tuple(f"{_PREFIX}{group.upper()}_" for group in _GROUPS)
    for name in env:
        if name.startswith(groups) and name not in known:
            _unknown("variable", name, f"environment {name}", sorted(known))


@dataclass(frozen=True, slots=True)
class _File:
    """A settings file as read: values by key."""

    path: Path
    text: str
    values: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> _File:
        text = _text(path)
        if not text.strip():
            return cls(path, text, {})
        import tomllib

        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"at line (\d+)", str(error))
            place = f"{path}:{line[1]}" if line else str(path)
            raise InvalidArgument(
                "config_syntax", f"{place}: not TOML: {error}", fields={"path": str(path)}
            ) from error
        values: dict[str, object] = {}
        file = cls(path, text, values)
        for group, table in tables.items():
            if group not in _GROUPS:
                _unknown(
                    "group" if isinstance(table, dict) else "key", group, file.place(group), list(_GROUPS)
                )
            if not isinstance(table, dict):
                _bad_value(group, table, f"file {file.place(group)}", f"a table: [{group}]")
            for name, value in table.items():
                key = f"{group}.{name}"
                if key not in _BY_KEY:
                    _unknown("key", key, file.place(key), list(_BY_KEY))
                values[key] = value
        return file

    def place(self, key: str) -> str:
        """`PATH:LINE` of a key, or the path alone where its line cannot be told."""
        line = _line_of(self.text, key)
        return f"{self.path}:{line}" if line else str(self.path)


def _text(path: Path) -> str:
    """What the file holds; empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError as error:
        _unreadable(path, error.strerror or str(error), error)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            _unreadable(path, "it is not a regular file", None)
        content = os.read(descriptor, FILE_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > FILE_MAX:
        _unreadable(path, f"it is larger than {FILE_MAX} bytes", None)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidArgument(
            "config_syntax", f"{path}:{line}: not UTF-8", fields={"path": str(path)}
        ) from error


def _line_of(text: str, key: str) -> int:
    """Number of the line that sets a key or opens a group; 0 where it is written in an unusual way."""
    group, _, name = key.partition(".")
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            table = _bare(header[1])
            if table == key:
                return number
        elif assigned := re.match(r"\s*([\w\s.\"'-]+?)\s*=", line):
            left = _bare(assigned[1])
            if key == (f"{table}.{left}" if table else left) or (not table and not name and left == group):
                return number
    return 0


def _bare(key: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in key.split("."))


# ---- errors ---------------------------------------------------------------------------------


def _unknown(what: str, name: str, place: str, known: list[str]) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    raise InvalidArgument(
        "config_unknown_key",
        f"{place}: no {what} {_shown(name)}",
        hint=f"did you mean {near[0]}?" if near else "known: " + ", ".join(known),
        fields={"key": name[:100], "place": place},
    )


def _bad_value(key: str, value: object, origin: str, allowed: str) -> NoReturn:
    raise InvalidArgument(
        "config_bad_value",
        f"{origin}: {key} cannot be {_shown(value)}",
        hint=f"allowed: {allowed}",
        fields={"key": key, "place": origin, "allowed": allowed},
    )


def _unreadable(path: Path, reason: str, cause: OSError | None) -> NoReturn:
    raise InvalidArgument(
        "config_unreadable", f"{path} cannot be read: {reason}", fields={"path": str(path)}
    ) from cause


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"


# ---- what else the table makes --------------------------------------------------------------


def add_flags(parser: ArgumentParser) -> None:
    """Give an argument parser one flag for each setting; read them with ``flags_of``."""
    for one in SETTINGS:
        parser.add_argument(
            one.flag,
            dest=one.key,
            action="append",
            metavar=one.name.upper(),
            help=one.description.replace("%", "%%"),
        )


def flags_of(namespace: object) -> dict[str, Sequence[str] | None]:
    """The settings among parsed arguments, for ``load``."""
    return {one.key: getattr(namespace, one.key, None) for one in SETTINGS}


def template() -> str:
    """A settings file that says what can be set, each line commented out."""
    lines: list[str] = []
    for group, cls in _GROUPS.items():
        lines += [f"# {cls.__doc__}", f"[{group}]"]
        for one in SETTINGS:
            if one.group == group:
                raw = one.kind.read([one.default_in({})])
                lines += [f"# {one.description}", f"# {one.name} = {_toml(raw)}"]
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return (
        f"{value:g}" if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)
    )
