"""A process that hears of one unit or session and prints when: `bus UNIT`, or `client SOCKET SESSION`.

Its first line is empty, once it listens; then one line an event: CLOCK_MONOTONIC in ns, and what was heard.
"""

from __future__ import annotations

import asyncio
import sys
import time


def tell(what: str) -> None:
    """Print one event, stamped now."""
    stamp = time.monotonic_ns()
    print(stamp, what, flush=True)


async def listen_bus(unit: str) -> None:
    """A bare listener on the bus."""
    from tests.benchmarks.bus import Bus

    async with await Bus.connect() as bus:
        await bus.on_change(unit, lambda: tell("changed"))
        print(flush=True)
        await asyncio.get_running_loop().create_future()


async def listen_client(socket: str, session: str) -> None:
    """A client of the supervisor."""
    import grpc.aio

    from sessiond.rpc._generated.v1 import events_pb2, events_pb2_grpc
    from sessiond.rpc.channel import CHANNEL_OPTIONS

    async with grpc.aio.insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS) as channel:
        events = events_pb2_grpc.EventsServiceStub(channel)
        request = events_pb2.WatchEventsRequest(sessions=[session], kinds=["session_state_changed"])
        async for response in events.WatchEvents(request):
            if response.HasField("event"):
                tell(response.event.fields["to"])
            else:
                print(flush=True)


if __name__ == "__main__":
    _, kind, *words = sys.argv
    asyncio.run(listen_bus(*words) if kind == "bus" else listen_client(*words))
