"""Ending what runs in a session beside its daemon: asked by a daemon that is told to stop."""

from __future__ import annotations

from sessiond.errors import Conflict, NotFound
from sessiond.init.systemd.bus import Connection, bus_address
from sessiond.init.systemd.jobs import look, run_job
from sessiond.model.unit import agents_slice


async def end_agents(session: str, *, deadline: float) -> None:
    """Stop the agents' slice and return when it is stopped; absent is fine.

    Raises TimedOut `job_timeout` after ``deadline`` seconds, Unreachable `init_unavailable`.
    """
    connection = await Connection.open(bus_address())
    try:
        unit = agents_slice(session)
        now = await look(connection, unit)
        if now is None or now.active == "inactive":
            return

        async def ask() -> str:
            (job,) = await connection.manager("StopUnit", "ss", unit, "replace")
            return str(job)

        await run_job(connection, unit, ask, deadline=deadline)
    except (NotFound, Conflict):
        # It is gone, or all is going down and nothing may be asked for any more.
        return
    finally:
        await connection.close()
