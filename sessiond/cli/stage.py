"""Where the demo plays: the user's own supervisor, or one of the demo's that leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sessiond.cli import installation
from sessiond.cli.host import SUPERVISOR_UNIT, Host
from sessiond.errors import SessiondError


@dataclass(frozen=True)
class Stage:
    """A supervisor to play on. ``borrowed`` is one that was installed and stays; ``where`` is told."""

    host: Host
    where: str
    borrowed: bool
    own_nest: bool = False


def set_up(
    stack: ExitStack, host: Host, folder: Path, tell: Callable[[str], None], note: Callable[[str], None]
) -> Stage:
    """A supervisor that serves, in the user manager or in a nest; the stack takes away what was brought up.

    ``folder`` holds the state of a supervisor of the demo's own. ``tell`` is called with what is about
    to happen, ``note`` when something could not be taken away.
    """
    if not host.manager and host.nest is None:
        tell(f"No user manager of systemd runs here (PID 1 is {_first_process()}), so the demo boots a nest.")
        host = _own_nest(stack)
        where, own = "in a nest of the demo's own", True
    else:
        where, own = "in the nest that is up" if host.nest else "in your user manager", False
        tell(f"It plays {where}.")
    state = host.properties(SUPERVISOR_UNIT, "LoadState", "ActiveState")
    if state.get("ActiveState") == "active":
        return Stage(host, where, borrowed=True)
    if state.get("LoadState") == "loaded":
        # Installed and down, as the user left it.
        installation.start_unit(host)
        stack.callback(_reported, note, lambda: installation.stop_unit(host))
        return Stage(host, where, borrowed=True)
    if not own:
        stack.callback(_reported, note, lambda: _take_away(host))
    _install(host, folder)
    return Stage(host, where, borrowed=False, own_nest=own)


def _own_nest(stack: ExitStack) -> Host:
    from sessiond import nest as library
    from sessiond.cli.nest import host_of

    living = library.up()
    stack.callback(library.down)
    return host_of(living)


def _install(host: Host, folder: Path) -> None:
    """Bring a supervisor up whose units are gone with the manager, and whose state lies in the folder."""
    variables = {
        "XDG_STATE_HOME": folder / "state",
        "XDG_DATA_HOME": folder / "data",
        "XDG_CONFIG_HOME": folder / "config",
        "SESSIOND_DISCOVERY_ROOTS": folder / "workspaces",
    }
    words = [f"--environment={key}={value}" for key, value in variables.items()]
    installation.sessionctl(host, "install", "--runtime", "--no-linger", *words)
    installation.wait_serving(host)


def _take_away(host: Host) -> None:
    """Undo _install in a user manager that stays, without touching sessions that are not the demo's."""
    installation.stop_unit(host)
    if not host.systemctl("list-units", "--plain", "--no-legend", "sessiond-*").stdout.strip():
        host.systemctl("stop", "sessiond.slice")
    installation.sessionctl(host, "uninstall", "--runtime")
    installation.clear_runtime(Path(host.socket).parent)


def _reported(note: Callable[[str], None], undo: Callable[[], object]) -> None:
    """Undo one thing; what fails is told and does not keep the rest from being undone."""
    try:
        undo()
    except SessiondError as error:
        note(f"could not be taken away: {error.message}")


def _first_process() -> str:
    try:
        return Path("/proc/1/comm").read_text().strip() or "another program"
    except OSError:
        return "another program"


def temporary_folder(stack: ExitStack) -> Path:
    """A folder for all that the demo writes, removed at the end."""
    import tempfile

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sessiond-demo-")))
    os.makedirs(folder / "workspaces")
    return folder
