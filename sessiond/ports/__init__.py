"""What the product asks of an init system, a store, a terminal emulator and the agents' programs, as
Protocols.

Backends are named by composition roots alone. What belongs to discovery is in ``ports.discovery``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sessiond.ports.agents import (
        AgentEvent,
        AgentGone,
        AgentsListed,
        AgentTold,
        AgentUnits,
        AgentUnitSpec,
    )
    from sessiond.ports.store import MetadataStore, OverlayStore
    from sessiond.ports.terminal import Screen, ScreenText
    from sessiond.ports.units import (
        Asked,
        Connected,
        DaemonSpec,
        EnablementChanged,
        InitInfo,
        InitSystem,
        Lost,
        UnitAppeared,
        UnitChanged,
        UnitEvent,
        UnitRemoved,
    )

__all__ = [
    "AgentEvent",
    "AgentGone",
    "AgentTold",
    "AgentUnitSpec",
    "AgentUnits",
    "AgentsListed",
    "Asked",
    "Connected",
    "DaemonSpec",
    "EnablementChanged",
    "InitInfo",
    "InitSystem",
    "Lost",
    "MetadataStore",
    "OverlayStore",
    "Screen",
    "ScreenText",
    "UnitAppeared",
    "UnitChanged",
    "UnitEvent",
    "UnitRemoved",
]


def __getattr__(name: str) -> Any:
    # Late: who runs an adapter needs discovery alone, and the rest takes longer to load than that.
    for module in ("units", "agents", "store", "terminal") if name in __all__ else ():
        if (found := getattr(import_module(f"{__name__}.{module}"), name, None)) is not None:
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
