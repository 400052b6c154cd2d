"""Tells that a unit's processes were frozen or thawed, from the kernel: systemd 252 sends no signal of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from asyncinotify import Inotify, Mask, Watch

from sessiond.model.unit import (
    ROOT_SLICE,
    agent_of_unit,
    agents_slice,
    session_of_daemon,
    session_of_slice,
    session_slice,
)

log = logging.getLogger(__name__)

Listener = Callable[[str, bool], None]


class Freezer:
    """Watches the cgroups of units; ``listener`` is told a unit's name and whether it is frozen now.

    ``root`` is the cgroup of the user's manager; None where it cannot be seen, then nothing is told.
    """

    def __init__(self, root: Path | None, listener: Listener) -> None:
        self._slices = None if root is None else f"{root}/{ROOT_SLICE}"
        self._listener = listener
        self._units: dict[Watch, str] = {}
        self._full = False

    def __enter__(self) -> Freezer:
        self._inotify = Inotify(sync_timeout=0)
        asyncio.get_running_loop().add_reader(self._inotify.fd, self._read)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._inotify.fd)
        self._inotify.close()

    def follow(self, unit: str) -> bool | None:
        """Watch a unit that lives from here on; whether it is frozen now, None where that cannot be seen."""
        file = self._file(unit)
        if file is None:
            return None
        try:
            watch = self._inotify.add_watch(file, Mask.MODIFY)
        except FileNotFoundError:
            # Its processes are gone already, or it lies elsewhere: somebody made a unit of that name.
            return None
        except OSError as error:
            if not self._full:
                self._full = True
                log.warning("not every freeze will be noticed: %s", error)
            return None
        self._units[watch] = unit
        return _frozen(file)

    def _file(self, unit: str) -> str | None:
        if self._slices is None:
            return None
        if (agent := agent_of_unit(unit)) is not None:
            between = f"{session_slice(agent[0])}/{agents_slice(agent[0])}"
            return f"{self._slices}/{between}/{unit}/cgroup.events"
        session = session_of_daemon(unit) or session_of_slice(unit)
        if session is None:
            return None
        return f"{self._slices}/{session_slice(session)}/{unit}/cgroup.events"

    def _read(self) -> None:
        while (event := self._inotify.sync_get()) is not None:
            watch = event.watch
            if watch is None:
                continue
            if Mask.IGNORED in event:
                self._units.pop(watch, None)
                continue
            unit = self._units.get(watch)
            frozen = _frozen(str(watch.path))
            if unit is not None and frozen is not None:
                self._listener(unit, frozen)


def _frozen(file: str) -> bool | None:
    # A thousand of them are read at once when a supervisor starts, so as plainly as can be.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return b"frozen 1" in os.read(descriptor, 256)
    except OSError:
        return None
    finally:
        os.close(descriptor)
