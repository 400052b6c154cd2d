"""What the product asks of an init system, a store, a terminal emulator and the agents' programs, as
Protocols.

Backends are named by composition roots alone. What belongs to discovery is in ``ports.discovery``.
"""

from sessiond.ports.agents import AgentEvent, AgentGone, AgentsListed, AgentTold, AgentUnits, AgentUnitSpec
from sessiond.ports.store import MetadataStore, OverlayStore
from sessiond.ports.terminal import Screen, ScreenText
from sessiond.ports.units import (
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
