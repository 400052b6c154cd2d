"""A session daemon as a transient unit: the properties it is registered with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from dbus_fast import Variant

from sessiond.errors import InvalidArgument
from sessiond.log import one_line
from sessiond.model.unit import session_slice, starter_unit
from sessiond.ports import DaemonSpec

RESTART_DELAY = 0.1
START_LIMIT_INTERVAL = 60.0
START_LIMIT_BURST = 30
# Four for each agent with a terminal, and for some hundred of them.
DESCRIPTORS = 2048
# Those, and the daemon's own; systemd takes less where the user may not have so many. With fewer than it
# stored a daemon does not start again (exit status 202).
OPEN_FILES = 16384

# What systemd itself says when it cannot enter the working directory, systemd.exec(5).
EXIT_CHDIR = 200

_DESCRIPTION_MAX = 240
# execve takes 128 KiB a string, NAME= and the closing NUL among them; systemd takes more and fails with 203.
_WORD_MAX = 128 * 1024 - 1
_ENVIRONMENT_MAX = 1024 * 1024

Property = tuple[str, Variant]


def daemon_properties(spec: DaemonSpec, version: int) -> list[Property]:
    """What StartTransientUnit is given; ``version`` is the manager's. Raises InvalidArgument."""
    # A restart must not fail, and drop the stored descriptors, for a workspace that is gone.
    argv, folder = command(spec.argv, os.fspath(spec.folder or spec.workspace), needed=spec.folder is None)
    properties = [
        ("Description", Variant("s", description(spec.name, spec.workspace))),
        ("Slice", Variant("s", session_slice(spec.session))),
        # A stop or restart of the starter, inactive once the session has started, is meant for it.
        ("PartOf", Variant("as", [starter_unit(spec.session)])),
        ("Type", Variant("s", "notify")),
        ("NotifyAccess", Variant("s", "main")),
        # Not ExecStartEx: systemd 252 writes it into the unit's file and does not know it when it reads it.
        ("ExecStart", Variant("a(sasb)", [[argv[0], argv, False]])),
        ("WorkingDirectory", Variant("s", folder)),
        ("SyslogIdentifier", Variant("s", "sessiond-session")),
        ("Environment", Variant("as", _environment(spec.environment.items()))),
        ("Restart", Variant("s", "on-failure")),
        ("RestartUSec", usec(RESTART_DELAY)),
        # `failed` drops the stored descriptors, so it is a long way there.
        ("StartLimitIntervalUSec", usec(START_LIMIT_INTERVAL)),
        ("StartLimitBurst", Variant("u", START_LIMIT_BURST)),
        ("WatchdogUSec", usec(spec.watchdog)),
        ("TimeoutStartUSec", usec(spec.start_timeout)),
        ("TimeoutStopUSec", usec(spec.stop_timeout)),
        ("FileDescriptorStoreMax", Variant("u", DESCRIPTORS)),
        ("LimitNOFILE", Variant("t", OPEN_FILES)),
        ("KillMode", Variant("s", "mixed")),
        # One process killed for memory must not take the daemon with it.
        ("OOMPolicy", Variant("s", "continue")),
    ]
    if version >= 254:
        # Also while it is `failed`: dropping the terminals would hang up on its agents.
        properties.append(("FileDescriptorStorePreserve", Variant("s", "yes")))
    return properties


def command(argv: Sequence[str], folder: str, *, needed: bool = True) -> tuple[list[str], str]:
    """Command line and working directory as a unit can hold them, for any words and any folder.

    A folder that is not ``needed`` may be missing, and the command runs in / then.

    systemd keeps a transient unit as a file and reads it again at each daemon-reload, and not all that
    it writes comes back the same: `$` and `;` in a word gain a backslash, a newline in the folder ends
    the line, a space at its end is lost. Such a command is started by a shell from an encoded script.
    """
    words = [text(word, "a word of the command") for word in argv]
    folder = text(folder, "the workspace's path")
    if all(keeps(word) for word in words) and keeps_as_line(folder):
        return words, folder if needed else f"-{folder}"
    otherwise = f"exit {EXIT_CHDIR}" if needed else "cd /"
    script = f"cd -- {shlex.quote(folder)} || {otherwise}\nexec {shlex.join(words)} #"
    encoded = "".join(_octal(letter) for letter in script)
    return ["/bin/sh", "-c", f"eval \"`printf %b '{encoded}'`\""], "/"


def keeps(word: str) -> bool:
    return word.isprintable() and not set(word) & set("$;'\"\\")


def keeps_as_line(path: str) -> bool:
    return path.isprintable() and path == path.strip() and not path.endswith("\\")


def _octal(letter: str) -> str:
    """The letter, or its bytes as printf's %b reads them."""
    if letter.isascii() and (letter.isalnum() or letter in " /._-=:,+@"):
        return letter
    return "".join(f"\\0{byte:03o}" for byte in letter.encode())


def description(name: str, path: Path) -> str:
    """One printable line of bounded length: the name, and the path in brackets, its end kept."""
    room = _DESCRIPTION_MAX - len(name) - 3
    shown = one_line(os.fspath(path))
    if len(shown) > room:
        shown = "…" + shown[-room + 1 :]
    return f"{one_line(name)} ({shown})"


def text(text: str, what: str) -> str:
    """The text, if it can travel over the bus: UTF-8 without NUL."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            "not_utf8",
            f"{what} is not UTF-8: {text!r}",
            hint="systemd takes only UTF-8: rename the folder",
        ) from error
    if b"\0" in raw or len(raw) > _WORD_MAX:
        raise InvalidArgument("argument_invalid", f"{what} is too long or holds a NUL")
    return text


def _environment(pairs: Iterable[tuple[str, str]]) -> list[str]:
    words = [text(f"{key}={value}", f"the variable {key}") for key, value in pairs]
    if sum(len(word.encode()) for word in words) > _ENVIRONMENT_MAX:
        raise InvalidArgument(
            "environment_too_large",
            f"the environment is larger than {_ENVIRONMENT_MAX} bytes",
            hint="leave out what the daemon does not need",
        )
    return words


def usec(seconds: float) -> Variant:
    return Variant("t", round(seconds * 1e6))
