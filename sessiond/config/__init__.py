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
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from sessiond.config.kinds import (
    Choice,
    FileNames,
    Folders,
    Homes,
    Key,
    Kind,
    Seconds,
    Several,
    Size,
    Switch,
    Text,
    Whole,
)
from sessiond.errors import InvalidArgument

if TYPE_CHECKING:
    from argparse import ArgumentParser

FILE_MAX = 1 << 20
_PREFIX = "SESSIOND_"

T = TypeVar("T")


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
class Agents:
    """What runs in sessions."""

    max_per_session: int = setting(Whole(1, 500), "64", "How many agents may run in one session at once.")
    keep_ended: int = setting(
        Whole(0, 100_000), "200", "How many ended agents of a session are kept with their records."
    )
    stop_timeout: float = setting(
        Seconds(0.1, 3600), "10", "How long an agent may take to end before it is killed."
    )
    restart_limit: int = setting(
        Whole(1, 1000), "5", "How many starts within the restart window an agent is given."
    )
    restart_window: float = setting(Seconds(1, 86400), "10", "The time in which restarts are counted.")


@dataclass(frozen=True, slots=True)
class Recording:
    """What agents print."""

    limit: int = setting(Size(1 << 16, 1 << 40), "64M", "How much of one agent's output is held.")
    total: int = setting(Size(1 << 20, 1 << 50), "4G", "How much of all agents' output is held.")
    low_disk: int = setting(
        Size(0, 1 << 50), "256M", "With less free disk nothing is recorded until there is more again."
    )


@dataclass(frozen=True, slots=True)
class Terminal:
    """Terminals of agents, and clients that look at them."""

    scrollback: int = setting(
        Whole(0, 100_000), "10000", "How many lines that left the screen can be scrolled back to."
    )
    size_policy: str = setting(
        Choice("last-active", "smallest", "fixed"),
        "last-active",
        "Which client decides the size of a terminal that several look at.",
    )
    detach_key: str = setting(Key(), "ctrl-\\", "What is typed to leave a terminal.")


@dataclass(frozen=True, slots=True)
class Adapters:
    """What finds the conversations of agent programs."""

    disabled: tuple[str, ...] = setting(
        Several("claude-code", "codex", "opencode", "pi", "pi-rust", "openclaw", "gemini", "acp"),
        "",
        "Adapters that are not used.",
    )
    homes: tuple[str, ...] = setting(
        Homes("claude-code", "codex", "opencode", "pi", "pi-rust", "openclaw", "gemini"),
        "",
        "Further folders that programs keep their files in, as NAME=FOLDER.",
    )
    deadline: float = setting(
        Seconds(0.1, 600), "3", "An adapter that is silent for so long over its work is killed."
    )
    keep_days: int = setting(
        Whole(0, 36500), "30", "How long labels of a conversation are kept that is no longer found."
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
    "agents": Agents,
    "recording": Recording,
    "terminal": Terminal,
    "adapters": Adapters,
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
    agents: Agents
    recording: Recording
    terminal: Terminal
    adapters: Adapters
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
    if isinstance(value, float):
        return f"{value:g}"
    return "'" + value + "'" if isinstance(value, str) and "\\" in value else _quoted(value)


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
