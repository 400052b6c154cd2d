"""What the boot stage is told: everything is decided outside, the stage only carries it out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A folder, file or link to make in the nest's /run before its PID 1 starts.

    ``kind`` is ``dir``, ``file`` or ``link``; ``content`` is the text or the link's target.
    """

    kind: str
    path: str
    content: str = ""
    mode: int = 0o644
    gid: int = 0


@dataclass(frozen=True)
class Layer:
    """One overlay: the file system at ``mountpoint`` below, ``upper`` above it."""

    mountpoint: str
    upper: str
    work: str


@dataclass(frozen=True)
class GuestUser:
    """An unprivileged user made inside the overlay only."""

    name: str
    uid: int
    linger: bool


@dataclass(frozen=True)
class UserNamespace:
    """Root inside is this user outside; ``subuids`` and ``subgids`` are (first, count) or empty.

    With them the other users of the machine exist inside too; without, only root does.
    """

    uid: int
    gid: int
    subuids: tuple[int, ...] = ()
    subgids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Overlay:
    """A root that can be thrown away: layers over the live file systems, joined at ``merged``.

    ``copies`` are files that are mount points themselves and are copied in; ``empty`` are folders
    that get a tmpfs; ``traversable`` are folders that others may pass, inside only.
    """

    merged: str
    layers: tuple[Layer, ...]
    copies: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    traversable: tuple[str, ...] = ()
    user: GuestUser | None = None
    persistent_journal: bool = False


@dataclass(frozen=True)
class BootPlan:
    """All the stage needs, sent to it as one packet of JSON.

    ``run_kept`` are paths below /run that stay visible, ``devices`` names below /dev,
    ``binds`` folders that are seen inside at their own path, ``lingering`` the users whose
    managers start at boot over the live root. ``outside``: what shows the processes outside, and
    where below /run that is seen inside; empty where nothing is to be seen of them.
    """

    cgroup: str
    scratch: str
    console: str
    machine_id: str
    boot_id: str
    init: tuple[str, ...]
    environment: dict[str, str]
    entries: tuple[Entry, ...]
    binds: tuple[str, ...]
    run_kept: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    lingering: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    private_net: bool = False
    overlay: Overlay | None = None
    user_namespace: UserNamespace | None = None

    def to_json(self) -> bytes:
        """The plan as one packet."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, packet: bytes) -> BootPlan:
        """The plan that to_json wrote."""
        raw: dict[str, Any] = json.loads(packet)
        overlay = raw.pop("overlay")
        namespace = raw.pop("user_namespace")
        entries = tuple(Entry(**entry) for entry in raw.pop("entries"))
        return cls(
            **_tuples(raw),
            entries=entries,
            overlay=_overlay(overlay) if overlay else None,
            user_namespace=UserNamespace(**_tuples(namespace)) if namespace else None,
        )


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}


def _overlay(raw: dict[str, Any]) -> Overlay:
    layers = tuple(Layer(**layer) for layer in raw.pop("layers"))
    user = raw.pop("user")
    return Overlay(
        **_tuples(raw),
        layers=layers,
        user=GuestUser(**user) if user else None,
    )
