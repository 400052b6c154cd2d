"""Files and disks: whether what must be written can be."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from sessiond.doctor.machine import Machine
from sessiond.doctor.row import CheckRow, failure, ok, warning

MIB = 1 << 20
FULL, LOW = 32 * MIB, 512 * MIB


def folders(machine: Machine) -> Iterator[CheckRow]:
    """Whether the folders that sessiond writes to can be written."""
    for folder in (machine.paths.runtime, machine.paths.state, machine.paths.data, machine.paths.config):
        place = nearest(folder)
        if os.access(place, os.W_OK | os.X_OK):
            yield ok("folders", f"{folder} is writable")
        else:
            yield failure("folders", f"{place} is not writable", f"ls -ld {shlex.quote(str(place))}")


def disk(machine: Machine) -> Iterator[CheckRow]:
    """Whether there is room for what sessiond stores."""
    place = nearest(machine.paths.state)
    room = os.statvfs(place)
    free = room.f_bavail * room.f_frsize
    text = f"{free // MIB} MiB free at {machine.paths.state}"
    fix = f"df -h {shlex.quote(str(place))}"
    if free < FULL:
        yield failure("disk", text, fix)
    elif free < LOW:
        yield warning("disk", text, fix)
    else:
        yield ok("disk", text)


def database(machine: Machine) -> Iterator[CheckRow]:
    """Whether damaged databases were kept aside."""
    aside = sorted(one.name for one in machine.paths.state.glob(f"{machine.paths.database.name}.corrupt-*"))
    if aside:
        yield warning("database", f"kept aside as damaged: {', '.join(aside)}", "")
    else:
        yield ok("database", f"{machine.paths.database}")


def nearest(path: Path) -> Path:
    """The path, or the folder above it that exists."""
    return next(one for one in (path, *path.parents) if os.path.lexists(one))
