"""Programs that speak the Agent Client Protocol: a runner talks to them, its journals are what is found."""

from __future__ import annotations

from sessiond.adapters.acp.adapter import Adapter

__all__ = ["Adapter"]
