"""The agents of one session as units of the user's systemd: the port `AgentUnits` over D-Bus."""

from sessiond.init.systemd.agents.backend import SystemdAgents

__all__ = ["SystemdAgents"]
