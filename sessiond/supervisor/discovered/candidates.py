"""Folders that agents ran in and that are no session yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sessiond.errors import SessiondError
from sessiond.workspaces.paths import check_workspace_path
from sessiond.workspaces.scan import Candidate

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ran:
    """A folder that could be a session; how many conversations were held in it, by adapter."""

    path: Path
    markers: Sequence[str] = ()
    agent_sessions: Counts = field(default_factory=dict)


def candidates(
    scanned: Sequence[Candidate],
    folders: Mapping[str, Counts],
    workspaces: Collection[Path],
    roots: Sequence[Path] | None,
) -> list[Ran]:
    """What a scan found with what ran in it, and folders that agents ran in besides: none that is a workspace
    or lies in one, that is gone, or that lies outside of the roots (None: anywhere). Blocks.
    """
    ran: dict[Path, dict[str, int]] = {}
    for text, counts in folders.items():
        try:
            path = check_workspace_path(text)
        except SessiondError:
            # It is gone, or can be no workspace; what is wrong with a folder of that sort helps nobody here.
            continue
        known = ran.setdefault(path, {})
        for adapter, count in counts.items():
            known[adapter] = known.get(adapter, 0) + count
    found = {one.path: Ran(one.path, one.markers, ran.pop(one.path, {})) for one in scanned}
    held = frozenset(workspaces)
    for path, counts in ran.items():
        if not held.isdisjoint((path, *path.parents)):
            continue
        if roots is None or any(path.is_relative_to(root) for root in roots):
            found[path] = Ran(path, (), counts)
    return [found[path] for path in sorted(found)]
