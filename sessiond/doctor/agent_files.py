"""What adapters told of the files of agents' programs, as a row. Only a supervisor can tell."""

from __future__ import annotations

from collections.abc import Sequence

from sessiond.doctor.row import CheckRow, ok, warning
from sessiond.model.agent_session import Problem

CHECK = "agent_files"
_SHOWN = 3


def agent_files(problems: Sequence[Problem], *, looked: bool) -> CheckRow:
    """Whether all conversations of agents' programs can be read; ``looked`` is False where nobody has asked
    for them yet."""
    if not looked:
        return ok(CHECK, "nobody has asked for conversations yet, so their files were not looked at")
    if not problems:
        return ok(CHECK, "all files of agents' programs that were looked at can be read")
    failed = [one for one in problems if not one.path]
    files = [one for one in problems if one.path]
    told = []
    if failed:
        reasons = ", ".join(f"{one.adapter} ({one.reason})" for one in failed)
        told.append(f"what these adapters tell is out of date: {reasons}")
    if files:
        shown = ", ".join(f"{one.path} ({one.reason})" for one in files[:_SHOWN])
        rest = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
        told.append(f"files that could not be read: {len(files)}: {shown}{rest}")
    return warning(CHECK, "; ".join(told), "sessionctl discovered --errors")
