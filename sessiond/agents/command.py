"""What an agent is started with: its program found, its environment made, both within what a kernel takes."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from sessiond.errors import InvalidArgument, NotFound
from sessiond.model.agent import AgentSpec
from sessiond.model.identity import name_from_folder, numbered

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

# execve takes 128 KiB a string, the closing NUL among them.
_WORD_MAX = 128 * 1024 - 1
_TOTAL_MAX = 6 << 20
_POINTER = 8
# The kernel's own share of the space: the program's name, the auxiliary vector, a page or two.
_MARGIN = 64 << 10

_SHEBANG_MAX = 256

# What tells a program about the terminal, the desktop session or the unit that its parent was started in, or
# that it is a tool of an agent program: what is started here is nobody's.
_NOT_PASSED_ON = frozenset(
    """
    _ OLDPWD SHLVL PWD COLUMNS LINES TERM TERMCAP TERM_PROGRAM TERM_PROGRAM_VERSION TERM_SESSION_ID
    TMUX TMUX_PANE STY WINDOW WINDOWID VTE_VERSION WT_SESSION WT_PROFILE_ID LC_TERMINAL
    LC_TERMINAL_VERSION SSH_TTY SSH_CONNECTION SSH_CLIENT GPG_TTY
    DISPLAY WAYLAND_DISPLAY WAYLAND_SOCKET XAUTHORITY DESKTOP_SESSION DESKTOP_STARTUP_ID
    XDG_ACTIVATION_TOKEN XDG_CURRENT_DESKTOP XDG_MENU_PREFIX XDG_SEAT XDG_SEAT_PATH XDG_VTNR GDMSESSION
    SESSION_MANAGER GIO_LAUNCHED_DESKTOP_FILE GIO_LAUNCHED_DESKTOP_FILE_PID BAMF_DESKTOP_FILE_HINT
    INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET NOTIFY_ACCESS MANAGERPID MAINPID SYSTEMD_EXEC_PID FDSTORE
    LISTEN_FDS LISTEN_PID LISTEN_FDNAMES WATCHDOG_USEC WATCHDOG_PID CREDENTIALS_DIRECTORY
    MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
    SESSIOND_SESSION SESSIOND_AGENT SESSIOND_SOCKET SESSIOND_MARK SESSIOND_AGENT_SESSION
    CLAUDECODE CLAUDE_CODE_ENTRYPOINT CLAUDE_CODE_SESSION_ID CODEX_THREAD_ID CODEX_TOOL_CALL_ID GEMINI_CLI
    OPENCODE OPENCODE_PID PI_CODING_AGENT PI_SESSION_ID
    """.split()  # noqa: SIM905 - a list of a word a line is no easier to read
)
_FAMILIES_NOT_PASSED_ON = (
    "ALACRITTY_",
    "GHOSTTY_",
    "GNOME_DESKTOP_",
    "GNOME_SHELL_",
    "GNOME_TERMINAL_",
    "ITERM_",
    "KDE_",
    "KITTY_",
    "KONSOLE_",
    "TILIX_",
    "VSCODE_",
    "WEZTERM_",
    "XDG_SESSION_",
    "ZELLIJ",
)
# Where the user's manager and its bus are is the daemon's to say: the caller may be in other namespaces.
_OF_THE_DAEMON = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def agent_environment(
    given: Mapping[str, str], chosen: Mapping[str, str], spec: AgentSpec, socket: Path
) -> dict[str, str]:
    """An agent's whole environment.

    ``given`` is the caller's own, of which is left out what belongs to its terminal or desktop session;
    ``chosen`` was asked for by name and is taken as it is; ``socket`` is the supervisor's. Raises
    InvalidArgument `environment_invalid`.
    """
    made = {name: value for name, value in (given or os.environ).items() if not _stays_behind(name)}
    made |= {name: os.environ[name] for name in _OF_THE_DAEMON if name in os.environ}
    if spec.tty:
        made["TERM"] = spec.term
    made["PWD"] = str(spec.cwd)
    made |= chosen
    made |= {
        "SESSIOND_SESSION": spec.session,
        "SESSIOND_AGENT": spec.id,
        "SESSIOND_SOCKET": str(socket),
        "SESSIOND_MARK": f"{spec.session}-{spec.id}",
    }
    for name, value in made.items():
        _check_pair(name, value)
    return made


def _stays_behind(name: str) -> bool:
    return name in _NOT_PASSED_ON or name.startswith(_FAMILIES_NOT_PASSED_ON)


def _check_pair(name: str, value: str) -> None:
    if not name or "=" in name or "\0" in name or "\0" in value:
        raise InvalidArgument(
            "environment_invalid",
            f"{name[:80]!r} cannot be a variable of the environment",
            hint="a name holds no '=' and neither name nor value a NUL",
            fields={"variable": name[:80]},
        )


def check_size(argv: Sequence[str], environment: Mapping[str, str]) -> None:
    """Raise InvalidArgument `command_too_large` or `environment_too_large` for what no kernel executes."""
    words = [len(os.fsencode(word)) for word in argv]
    if max(words) > _WORD_MAX:
        raise InvalidArgument(
            "command_too_large",
            f"a word of the command has {max(words)} bytes, and the kernel takes {_WORD_MAX}",
            hint="pass what is long in a file or on standard input",
        )
    pairs = {name: len(os.fsencode(f"{name}={value}")) for name, value in environment.items()}
    longest = max(pairs, key=lambda name: pairs[name])
    if pairs[longest] > _WORD_MAX:
        raise InvalidArgument(
            "environment_too_large",
            f"the variable {longest} has {pairs[longest]} bytes, and the kernel takes {_WORD_MAX}",
            hint="leave it out: --env, or unset it before",
            fields={"variable": longest},
        )
    allowed = _space()
    command, rest = (sum(sizes) + len(sizes) * (_POINTER + 1) for sizes in (words, list(pairs.values())))
    if command + rest > allowed:
        what = "command" if command > rest else "environment"
        raise InvalidArgument(
            f"{what}_too_large",
            f"command and environment have {command + rest} bytes, and the kernel takes {allowed} here",
            hint="pass what is long in a file or on standard input",
        )


def _space() -> int:
    """Bytes that the kernel takes for command and environment together, execve(2)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    quarter = _TOTAL_MAX if soft == resource.RLIM_INFINITY else soft // 4
    return max(min(quarter, _TOTAL_MAX), 128 << 10) - _MARGIN


def check_command(argv: Sequence[str]) -> None:
    """Raise InvalidArgument for a command line that no process can have."""
    if not argv:
        raise InvalidArgument("command_missing", "no command is given", hint="sessionctl run -- COMMAND")
    if any("\0" in word for word in argv):
        raise InvalidArgument(
            "argument_invalid", "a word of the command holds a NUL", hint="no program can be given one"
        )


def resolve(argv: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Path:
    """Absolute path of the program that the first word means to the environment's PATH, in a folder.

    Raises NotFound `command_not_found`, InvalidArgument `command_not_executable`.
    """
    check_command(argv)
    word = argv[0]
    if "/" in word:
        candidates = [cwd / word]
    else:
        path = environment.get("PATH", DEFAULT_PATH)
        # An empty entry means the folder itself.
        candidates = [cwd / part / word for part in path.split(":")] if word else []
    refused = ""
    for candidate in candidates:
        reason = _fault_of(candidate, named="/" in word)
        if reason is None:
            return candidate
        refused = refused or reason
    if refused:
        raise InvalidArgument(
            "command_not_executable",
            refused,
            hint="chmod +x, or name its interpreter",
            fields={"command": word[:200]},
        )
    if "/" in word:
        hint = f"a relative path begins at the folder that it runs in: {cwd}"
    else:
        hint = "the PATH searched is the caller's; give the whole path, or --env PATH=…"
    raise NotFound(
        "command_not_found",
        f"no program {word[:200]!r} is found",
        hint=hint,
        fields={"command": word[:200]},
    )


def _fault_of(candidate: Path, *, named: bool) -> str | None:
    """Why a path cannot be executed: None where it can, empty where nothing is there. ``named``: it was given
    as a path, and not found in the PATH."""
    try:
        mode = candidate.stat().st_mode
    except PermissionError:
        # A folder of the PATH that may not be entered has nothing in it; a path says what is meant.
        return f"{candidate} cannot be reached: a folder that leads to it is closed to you" if named else ""
    except OSError:
        return ""
    if not stat.S_ISREG(mode):
        return f"{candidate} is not a file" if stat.S_ISDIR(mode) else f"{candidate} is not a regular file"
    if not os.access(candidate, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return f"{candidate} is not executable"
    interpreter = _interpreter(candidate)
    if interpreter and not os.access(interpreter, os.X_OK):
        return f"{candidate} names an interpreter that cannot be executed: {interpreter}"
    return None


def _interpreter(program: Path) -> str:
    """The interpreter that a script names in its first line, or empty."""
    try:
        with program.open("rb") as file:
            line = file.read(_SHEBANG_MAX).split(b"\n", 1)[0]
    except OSError:
        # What may be executed need not be readable.
        return ""
    words = line[2:].split() if line.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def working_folder(asked: str, workspace: Path) -> Path:
    """Where an agent runs: the folder asked for when it is inside the workspace, the workspace otherwise."""
    home = workspace.resolve()
    if asked.startswith("/"):
        folder = Path(asked).resolve()
        if folder.is_relative_to(home) and folder.is_dir():
            return folder
    return home


def default_name(argv: Sequence[str], taken: frozenset[str] | set[str]) -> str:
    """The command's name with the first number that makes it free: `claude-1`; of a program that our own
    launcher talks to for people, the program's."""
    talks = Path(argv[0]).name == "launcher" and argv[1:2] == ["acp"] and "--" in argv[:-1]
    word = argv[argv.index("--") + 1] if talks else argv[0]
    stem = name_from_folder(Path(word).name, "agent")
    number = 1
    while (name := numbered(stem, number)) in taken:
        number += 1
    return name
