"""Where things lie: the platform's folders, and the names inside them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sessiond.errors import InvalidArgument, PermissionDenied

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL among them.
MAX_SOCKET_PATH = 103 if sys.platform == "darwin" else 107
# Where a nest shows /proc as it is outside of it.
OUTSIDE = "/run/sessiond-outside"


@dataclass(frozen=True, slots=True)
class Paths:
    """sessiond's own folders for one user; all absolute."""

    runtime: Path
    state: Path
    data: Path
    config: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Paths:
        """Read XDG_* and SESSIOND_RUNTIME_DIR; without XDG_RUNTIME_DIR (ssh, cron) /run/user/UID."""
        env = os.environ if environ is None else environ
        home = Path(env.get("HOME") or os.path.expanduser("~"))
        runtime = _absolute(env, "SESSIOND_RUNTIME_DIR")
        if runtime is None:
            base = _absolute(env, "XDG_RUNTIME_DIR") or Path(f"/run/user/{os.getuid()}")
            runtime = base / "sessiond"
        return cls(
            runtime=runtime,
            state=(_absolute(env, "XDG_STATE_HOME") or home / ".local/state") / "sessiond",
            data=(_absolute(env, "XDG_DATA_HOME") or home / ".local/share") / "sessiond",
            config=(_absolute(env, "XDG_CONFIG_HOME") or home / ".config") / "sessiond",
        )

    @property
    def socket(self) -> Path:
        """The supervisor's socket."""
        return self.runtime / "sessiond.sock"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor for as long as it lives."""
        return self.runtime / "sessiond.lock"

    @property
    def database(self) -> Path:
        """Metadata; losing it loses no session."""
        return self.state / "sessiond.db"

    @property
    def sessions_state(self) -> Path:
        """Parent of every session's own folder."""
        return self.state / "sessions"

    @property
    def config_file(self) -> Path:
        """Settings."""
        return self.config / "config.toml"

    @property
    def launcher(self) -> Path:
        """The link that units start through; install and upgrade move it."""
        return self.data / "launcher"

    def session_socket(self, session: str) -> Path:
        """Socket of one session's daemon."""
        return self.runtime / "sessions" / f"{session}.sock"

    def session_state(self, session: str) -> Path:
        """One session's own folder: the link to its workspace, its store and records."""
        return self.sessions_state / session

    def workspace_link(self, session: str) -> Path:
        """The link to one session's workspace, which follows it."""
        return self.session_state(session) / "workspace"


def _absolute(env: Mapping[str, str], name: str) -> Path | None:
    """The folder that a variable names; relative values are ignored, as the XDG rules ask."""
    value = env.get(name, "")
    return Path(value) if value.startswith("/") else None


def check_socket_path(path: Path) -> Path:
    """Return the path, or raise InvalidArgument where the kernel could not bind it."""
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise InvalidArgument(
            "socket_path_too_long",
            f"a socket's path holds {MAX_SOCKET_PATH} bytes, this one has {size}: {path}",
            hint="set SESSIOND_RUNTIME_DIR or XDG_RUNTIME_DIR to a shorter path",
            fields={"path": str(path)},
        )
    return path


def private_folder(path: Path) -> Path:
    """Make a folder only its owner can enter, or check one: ours, a real folder, mode 0700."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode) or not stat.S_ISDIR(info.st_mode):
        raise _unsafe(path, "it is not a real folder")
    if info.st_uid != os.getuid():
        raise _unsafe(path, f"it belongs to uid {info.st_uid}, not to {os.getuid()}")
    if stat.S_IMODE(info.st_mode) != 0o700:
        path.chmod(0o700)
    return path


def _unsafe(path: Path, reason: str) -> PermissionDenied:
    return PermissionDenied(
        "folder_unsafe",
        f"{path} cannot be used: {reason}",
        hint="remove it, or set SESSIOND_RUNTIME_DIR to a folder of your own",
        fields={"path": str(path)},
    )
