"""An agent as a transient unit: the properties it is registered with."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from sessiond.errors import InvalidArgument
from sessiond.init.systemd import properties as table
from sessiond.init.systemd.units import Property, command, keeps_as_line, text, usec
from sessiond.log import one_line
from sessiond.model.unit import agents_slice, daemon_unit
from sessiond.ports import AgentUnitSpec

# Within it the launcher must be executed; on a terminal it waits for who held it before.
START_TIMEOUT = 30.0
# In the journal, where an agent's own name cannot be kept.
IDENTIFIER = "sessiond-agent"


def agent_properties(spec: AgentUnitSpec, limits: Sequence[Property]) -> list[Property]:
    """What StartTransientUnit is given; ``limits`` are its resource properties. Raises InvalidArgument."""
    argv, folder = command(spec.argv, os.fspath(spec.folder), needed=False)
    properties = [
        ("Description", Variant("s", one_line(text(spec.description, "the description")))),
        ("Slice", Variant("s", agents_slice(spec.session))),
        # At a shutdown the daemon goes last, and records the last words.
        ("After", Variant("as", [daemon_unit(spec.session)])),
        ("Type", Variant("s", "exec")),
        # Not ExecStartEx: systemd 252 writes it into the unit's file and does not know it when it reads it.
        ("ExecStart", Variant("a(sasb)", [[argv[0], argv, False]])),
        ("WorkingDirectory", Variant("s", folder)),
        ("SyslogIdentifier", Variant("s", _identifier(spec.identifier))),
        ("TimeoutStartUSec", usec(START_TIMEOUT)),
        # With it an exit status of 0 stays readable; where every end is followed by a restart it would
        # be in the way of that.
        ("RemainAfterExit", Variant("b", spec.restart != "always")),
        ("Restart", Variant("s", spec.restart)),
        ("RestartUSec", usec(spec.restart_delay)),
        ("StartLimitIntervalUSec", usec(spec.restart_window if spec.restart_limit else 0)),
        ("StartLimitBurst", Variant("u", spec.restart_limit)),
        ("KillMode", Variant("s", "control-group")),
        ("KillSignal", Variant("i", _signal(spec.stop_signal))),
        # With a SIGHUP besides, a program that cleans up when asked to end would die before it is done.
        ("SendSIGHUP", Variant("b", False)),
        ("TimeoutStopUSec", usec(spec.stop_timeout)),
        # One process killed for memory must not take the rest with it.
        ("OOMPolicy", Variant("s", "continue")),
        ("IgnoreSIGPIPE", Variant("b", False)),
        # A failed one stays until its end was written down.
        ("CollectMode", Variant("s", "inactive")),
        *_streams(spec),
        *limits,
    ]
    if spec.timeout:
        properties.append(("RuntimeMaxUSec", usec(spec.timeout)))
    return properties


def _signal(number: int) -> int:
    if not 0 < number < signal.NSIG:
        raise signal_invalid(number)
    return number


def signal_invalid(number: int) -> InvalidArgument:
    """There is no such signal."""
    return InvalidArgument(
        "signal_invalid",
        f"{number} is not the number of a signal",
        hint=f"1 to {signal.NSIG - 1} are; `kill -l` lists them",
        fields={"signal": str(number)},
    )


def _identifier(name: str) -> str:
    """The name, where systemd finds it again in the unit's file."""
    return name if name and keeps_as_line(name) else IDENTIFIER


def _streams(spec: AgentUnitSpec) -> list[Property]:
    if spec.terminal:
        return [
            *((f"Standard{name}", Variant("s", "tty")) for name in ("Input", "Output", "Error")),
            ("TTYPath", Variant("s", _path(spec.terminal, "the terminal"))),
            # It is another program's, with its size and its reader, and stays so from run to run.
            *((name, Variant("b", False)) for name in ("TTYReset", "TTYVHangup", "TTYVTDisallocate")),
        ]
    streams = [("StandardInput", Variant("s", "null"))]
    for name, file in (("Output", spec.stdout), ("Error", spec.stderr)):
        if file is None:
            streams.append((f"Standard{name}", Variant("s", "null")))
        else:
            path = Variant("s", _path(file, f"the file of standard {name.lower()}"))
            streams.append((f"Standard{name}FileToAppend", path))
    return streams


def _path(path: str | Path, what: str) -> str:
    """The path, if systemd finds it again in the unit's file."""
    found = text(os.fspath(path), what)
    if not keeps_as_line(found):
        raise InvalidArgument(
            "path_unfit",
            f"systemd cannot keep the path of {what}: {found!r}",
            hint="set XDG_STATE_HOME to a folder without control characters, backslash or space at an end",
            fields={"path": found},
        )
    return found


def limits(wanted: Mapping[str, str], known: Mapping[str, Any]) -> list[Property]:
    """Resource properties as a unit is given them; ``known`` are those of this systemd, by the bus's names.

    An empty value leaves the default. Raises InvalidArgument `property_unknown` or `property_invalid`.
    """
    for name in wanted:
        table.find(name)
    given = {name: value for name, value in wanted.items() if value.strip()}
    return table.settings(given, known)
