"""What agents need: their folders, room and holes for their records, an emulator, descriptors."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sessiond.agents import holes
from sessiond.agents.book import Book
from sessiond.doctor.files import MIB, nearest
from sessiond.doctor.machine import Machine
from sessiond.doctor.manager import needs_manager
from sessiond.doctor.row import CheckRow, failure, ok, unknown, warning
from sessiond.errors import SessiondError
from sessiond.model.identity import is_id

# What a session daemon's unit asks for: four descriptors for each of its agents' terminals, and its own.
OPEN_FILES = 16384
# In a process of its own: the library is native, and large for one that only asks.
_EMULATOR = """
from sessiond.terminal.ghostty import GhosttyScreen
screen = GhosttyScreen(2, 2, 0)
screen.feed(b"x")
screen.drawing()
screen.close()
"""


def agents(machine: Machine) -> Iterator[CheckRow]:
    """Whether the folder of every agent can be read as one."""
    check, root = "agents", machine.paths.sessions_state
    try:
        sessions = sorted(one for one in os.listdir(root) if is_id(one))
    except FileNotFoundError:
        sessions = []
    count, faults = 0, 0
    for session in sessions:
        folder = machine.paths.session_state(session)
        try:
            kept, skipped = Book(session, folder, machine.paths.runtime).load()
        except SessiondError as error:
            faults += 1
            yield failure(check, f"no agent of this session is shown: {error.message}", _look(folder))
            continue
        count += len(kept)
        for one in skipped:
            faults += 1
            yield warning(check, f"{one.path} is not shown as an agent: {one.reason}", _look(one.path))
    if not faults:
        yield ok(check, f"agents that are kept: {count or 'none'}")


def _look(folder: Path) -> str:
    # What lies there may be all that is left of somebody's work, and its program may run.
    return f"ls -la {shlex.quote(str(folder))}"


def terminal_emulator(machine: Machine) -> Iterator[CheckRow]:
    """Whether screens can be drawn."""
    check = "terminal_emulator"
    # Neither the current folder nor a cache of compiled files has a part in it.
    answer = machine.ask(machine.python, "-P", "-B", "-c", _EMULATOR)
    if answer.good:
        yield ok(check, "the terminal emulator can be loaded")
    elif answer.silence:
        yield unknown(check, "whether the terminal emulator can be loaded", "sessionctl doctor")
    else:
        reason = (answer.err.splitlines() or [f"it ended with {answer.status}"])[-1]
        text = f"screens of terminals are the plain end of what was printed: no emulator here: {reason}"
        python = shlex.quote(machine.python)
        yield warning(check, text, f"{python} -m pip install --force-reinstall pyghostty")


def recording_disk(machine: Machine) -> Iterator[CheckRow]:
    """Whether there is so much free disk that what agents print is recorded."""
    check, folder = "recording_disk", machine.paths.state
    if machine.settings is None:
        yield unknown(check, "the settings cannot be read", "sessionctl config")
        return
    low = machine.settings.recording.low_disk
    place = nearest(folder)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    text = f"{free // MIB} MiB free at {folder}, and recording.low_disk is {low // MIB} MiB"
    if free < low:
        quoted = shlex.quote(str(place))
        yield warning(
            check, f"what agents print is not recorded: {text}", f"df -h {quoted}; du -xhd1 {quoted}"
        )
    else:
        yield ok(check, text)


def recording_bounds(machine: Machine) -> Iterator[CheckRow]:
    """Whether the front of a record can be given back to the disk."""
    check, place = "recording_bounds", machine.paths.state
    if not place.is_dir():
        yield ok(check, f"{place} is not there yet")
        return
    with tempfile.TemporaryFile(dir=place, prefix=".sessiond-doctor-") as file:
        file.write(bytes(2 * holes.PAGE))
        file.flush()
        try:
            holes.punch(file.fileno(), 0, holes.PAGE)
        except holes.NoPunching:
            text = (
                f"the file system of {place} cannot free the front of a file: what an agent prints is kept "
                "whole, whatever recording.limit says"
            )
            yield warning(check, text, f"findmnt --target {shlex.quote(str(place))}")
            return
    yield ok(check, f"the file system of {place} can free the front of a file")


def open_files(machine: Machine) -> Iterator[CheckRow]:
    """Whether session daemons may open as many files as they ask for."""
    check = "open_files"
    if row := needs_manager(machine, check):
        yield row
        return
    group = machine.manager.properties().get("ControlGroup", "").strip("/")
    # Units of the manager are given no more than it has itself.
    pids = machine.read(f"/sys/fs/cgroup/{group}/init.scope/cgroup.procs").split()
    limits = machine.read(f"/proc/{pids[0]}/limits") if pids else ""
    for line in limits.splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            break
    else:
        yield unknown(check, "the user manager's limit is not told", "ulimit -Hn")
        return
    if hard != "unlimited" and int(hard) < OPEN_FILES:
        text = (
            f"the user manager may open {hard} files, and a session daemon asks for {OPEN_FILES}: it holds "
            "fewer terminals; a new limit holds from the user manager's next start on"
        )
        folder = "/etc/systemd/system/user@.service.d"
        lines = "[Service]\\nLimitNOFILE=65536\\n"
        command = f"mkdir -p {folder} && printf '{lines}' > {folder}/files.conf && systemctl daemon-reload"
        yield warning(check, text, machine.as_root(command))
    else:
        yield ok(check, f"a process of the user manager may open {hard} files")
